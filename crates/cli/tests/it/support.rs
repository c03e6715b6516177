//! Devices that run the built binary.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder in which the devices of a test live.
pub(crate) struct Place {
    folder: TempDir,
}

/// A device: its own working folder, home and database.
pub(crate) struct Device {
    pub(crate) folder: PathBuf,
    pub(crate) home: PathBuf,
}

/// What a command gave.
#[derive(Debug)]
pub(crate) struct Gave {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// A device without any file.
    pub(crate) fn bare(&self, name: &str) -> Device {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        Device { home: folder.join(".home"), folder }
    }

    /// A device with an empty replica `app.db`.
    pub(crate) fn device(&self, name: &str) -> Device {
        let device = self.bare(name);
        device.ok(["init", "app.db"]);
        device.ok(["devices", "rename", name]);
        device
    }

    /// A device with a tracked table and two rows, which syncs through the folder `hub`.
    pub(crate) fn laptop(&self) -> Device {
        self.laptop_named("laptop")
    }

    /// The same under another name.
    pub(crate) fn laptop_named(&self, name: &str) -> Device {
        let device = self.device(name);
        device.ok(["exec", "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT)"]);
        device.ok(["track", "notes"]);
        device.ok(["exec", "INSERT INTO notes VALUES(1, 'Dune', 5), (2, 'Emma', NULL)"]);
        device.ok(["remote", "add", "hub", &self.text("hub")]);
        device.ok(["key", "create"]);
        device
    }

    /// Two devices that hold the same.
    pub(crate) fn pair(&self) -> (Device, Device) {
        let (laptop, phone) = (self.laptop(), self.device("phone"));
        phone.ok(["remote", "add", "hub", &self.text("hub")]);
        phone.takes_key_of(&laptop);
        laptop.ok(["sync"]);
        phone.ok(["sync"]);
        (laptop, phone)
    }
}

impl Device {
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isle"));
        command
            .args(args)
            .current_dir(&self.folder)
            .env("ISLE_HOME", &self.home)
            .env("XDG_CONFIG_HOME", &self.home)
            .env("TZ", "Europe/Copenhagen");
        for name in ["ISLE_BACKUPS", "ISLE_CONFIG", "ISLE_CR_SQLITE", "ISLE_RETRIES", "ISLE_TIMEOUT"] {
            command.env_remove(name);
        }
        for name in ["ISLE_DB", "ISLE_LOG", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"] {
            command.env_remove(name);
        }
        for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_SESSION_TOKEN"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Gave {
        Gave::of(self.command(args).output().expect("the binary runs"))
    }

    /// Takes over the keys of another device's group.
    pub(crate) fn takes_key_of(&self, other: &Device) {
        let gave = self.feed(["key", "import", "-"], &other.ok(["key", "export"]));
        assert_eq!(gave.code, 0, "{gave:?}");
    }

    /// Runs a command with something to read.
    pub(crate) fn feed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &str) -> Gave {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("the binary runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        Gave::of(child.wait_with_output().expect("it ends"))
    }

    /// Runs a command that works, and gives what it printed.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let gave = self.run(args);
        assert_eq!(gave.code, 0, "{gave:?}");
        assert_eq!(gave.err, "", "{gave:?}");
        gave.out
    }

    /// Runs a command that works with `--json`.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).chain(["--json".into()]).collect();
        let text = self.ok(&args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// Runs a command that fails with a code; gives what it said on stderr.
    pub(crate) fn fails<S: AsRef<OsStr>>(&self, code: i32, args: impl IntoIterator<Item = S>) -> String {
        let gave = self.run(args);
        assert_eq!(gave.code, code, "{gave:?}");
        assert!(!gave.err.is_empty() && !gave.err.contains("panicked"), "{gave:?}");
        gave.err
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.folder.join("app.db")
    }

    /// The rows of a query as CSV, without the header.
    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        self.ok(["query", "--csv", sql]).lines().skip(1).map(str::to_owned).collect()
    }
}

impl Gave {
    pub(crate) fn of(output: Output) -> Gave {
        Gave {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

/// Runs the sqlite3 command on a file, which knows nothing of isle.
pub(crate) fn sqlite3(db: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3").arg("-batch").arg(db).arg(sql).output();
    let output = output.unwrap_or_else(|error| panic!("sqlite3 does not run ({error}): apt-get install sqlite3"));
    let gave = Gave::of(output);
    assert_eq!((gave.code, gave.err.as_str()), (0, ""), "{gave:?}");
    gave.out
}
