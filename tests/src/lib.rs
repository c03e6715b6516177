//! What the scenarios share: the built `isle` command, and devices with folders of their own.
//!
//! The command is built by cargo when it is not there yet, so that `cargo test -p isle-tests` alone is enough.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a missing part must stop the test with its reason"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).expect("the package has a parent folder")
}

/// The built `isle` command.
pub fn isle_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        // The whole workspace: with one package alone features of dependencies differ, and everything below it is built once more.
        build.args(["build", "--workspace", "--bin", "isle", "--message-format=json"]).current_dir(workspace());
        let output = build.output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let artifacts = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut binaries = artifacts.filter_map(|artifact| artifact.get("executable")?.as_str().map(PathBuf::from));
        binaries.next_back().expect("cargo names the binary")
    })
}

/// A device: its own folder of keys, and a working folder.
#[derive(Debug)]
pub struct Device {
    /// Where its databases are.
    pub folder: PathBuf,
    home: PathBuf,
}

impl Device {
    /// A device below `folder`.
    pub fn new(folder: &Path, name: &str) -> Device {
        let (work, home) = (folder.join(name), folder.join(format!("{name}.home")));
        std::fs::create_dir_all(&work).expect("the folder can be made");
        Device { folder: work, home }
    }

    /// An `isle` command on this device.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(isle_binary());
        command.args(args).current_dir(&self.folder).env("ISLE_HOME", &self.home).env_remove("ISLE_DB");
        command
    }

    /// Runs `isle` and gives what it printed.
    pub fn isle(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("isle runs");
        assert!(output.status.success(), "isle {args:?}: {}", describe(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// What a command said, for a failed assertion.
pub fn describe(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}\n{err}", output.status)
}

/// Runs a program that the test needs and that may have to be installed.
pub fn tool(program: &str, args: &[&str], install: &str) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program} does not run ({error}); install it: {install}"));
    assert!(output.status.success(), "{program} {args:?}: {}", describe(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The sizes of all files below a folder.
fn sizes(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    // What goes while one looks was there.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(is) if is.is_dir() => found.extend(sizes(&entry.path())),
            Ok(is) => drop(found.insert(entry.path(), is.len())),
            Err(_) => {}
        }
    }
    found
}

/// Runs a command and kills it when files below the folders have grown and shrunk by so many bytes; gives how many it were until
/// then, or until it ended by itself, and whether it did.
pub fn kill_after(mut command: Command, folders: &[&Path], bytes: u64) -> (u64, bool) {
    let look = || folders.iter().flat_map(|folder| sizes(folder)).collect::<BTreeMap<_, _>>();
    let mut before = look();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let mut seen = 0;
    while seen < bytes {
        if let Some(status) = child.try_wait().expect("it can be looked at") {
            assert!(status.success(), "it failed by itself: {status}");
            return (seen, true);
        }
        let now = look();
        let gone: u64 = before.iter().filter(|(path, _)| !now.contains_key(*path)).map(|(_, size)| size).sum();
        let size = |path: &PathBuf| before.get(path).copied().unwrap_or(0);
        seen += gone + now.iter().map(|(path, now)| now.abs_diff(size(path))).sum::<u64>();
        before = now;
        std::thread::yield_now();
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    (seen, false)
}
