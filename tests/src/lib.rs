//! What the scenarios share: the built `isle` command, and devices with folders of their own.
//!
//! The command is built by cargo when it is not there yet, so that `cargo test -p isle-tests` alone is enough.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a missing part must stop the test with its reason"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
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
        build.args(["build", "--package", "isle-cli", "--message-format=json"]).current_dir(workspace());
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
