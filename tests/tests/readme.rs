//! Every command in the README is run, in order, as a reader would.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Command;

use isle_tests::{describe, isle_binary, workspace};

fn readme() -> String {
    std::fs::read_to_string(workspace().join("README.md")).unwrap()
}

/// The contents of the fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    let fence = format!("```{language}\n");
    while let Some(start) = rest.find(&fence) {
        let block = &rest[start + fence.len()..];
        let end = block.find("```").expect("the block ends");
        found.push(block[..end].to_owned());
        rest = &block[end + 3..];
    }
    found
}

#[test]
fn the_tour_works_in_an_empty_folder() {
    let folder = tempfile::tempdir().unwrap();
    let laptop = folder.path().join("laptop");
    std::fs::create_dir(&laptop).unwrap();
    let tour: Vec<String> = blocks(&readme(), "sh").into_iter().filter(|block| !block.contains("cargo ")).collect();
    assert_eq!(tour.len(), 4, "laptop, phone, files, any client");
    let script = format!("set -euxo pipefail\n{}", tour.concat());
    let tools = isle_binary().parent().unwrap().to_owned();
    let path = std::env::join_paths(
        std::iter::once(tools).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(&laptop).env("PATH", path.unwrap());
    shell.env("ISLE_HOME", folder.path().join("laptop.home")).env_remove("ISLE_DB");
    let output = shell.output().unwrap();
    let said = describe(&output);
    assert!(output.status.success(), "(sqlite3 is needed: apt-get install sqlite3)\n{said}");
    assert!(said.contains("Solaris"), "the phone shows the laptop's rows\n{said}");
    let plain = Command::new("sqlite3")
        .arg(folder.path().join("phone/notes.db"))
        .arg("SELECT title FROM notes; .schema")
        .output();
    let plain = String::from_utf8(plain.expect("sqlite3 runs; install it: apt-get install sqlite3").stdout).unwrap();
    assert!(plain.contains("Ubik") && !plain.contains("isle_"), "{plain}");
}

#[test]
fn devices_sync_directly_as_the_readme_shows() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;
    let folder = tempfile::tempdir().unwrap();
    let shown = blocks(&readme(), "console");
    assert_eq!(shown.len(), 2, "the device that invites, the one that joins");
    let commands = |block: usize| -> Vec<Vec<String>> {
        let lines = shown[block].lines().map(|line| line.split('#').next().unwrap());
        lines.map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect()).collect()
    };
    let device = |name: &str, args: &[String]| {
        let here = folder.path().join(name);
        std::fs::create_dir_all(&here).unwrap();
        let mut command = Command::new(isle_binary());
        command.args(args).current_dir(&here).env("ISLE_HOME", here.join("home")).env_remove("ISLE_DB");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let ok = |name: &str, args: &[String]| {
        let output = device(name, args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", describe(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    // A command that goes on, up to the first line that holds a word.
    let goes_on = |name: &str, args: &[String], wanted: &str| {
        let mut child = device(name, args).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.find(|line| line.as_ref().unwrap().contains(wanted)).expect("it says so").unwrap();
        (child, lines, line)
    };
    ok("first", &words("init notes.db"));
    ok("first", &[vec!["exec".to_owned()], vec!["CREATE TABLE notes(id INTEGER PRIMARY KEY)".to_owned()]].concat());
    ok("first", &words("track notes"));
    ok("first", &[vec!["exec".to_owned()], vec!["INSERT INTO notes VALUES(7)".to_owned()]].concat());
    let [invite, serve] = &commands(0)[..] else { panic!("two commands") };
    let (mut inviting, rest, line) = goes_on("first", invite, "isle join");
    let ticket = line.trim().rsplit(' ').next().unwrap().to_owned();
    let [join, sync, live, peers] = &commands(1)[..] else { panic!("four commands") };
    let join: Vec<String> = join.iter().map(|word| word.replace("isle1…", &ticket)).collect();
    ok("second", &join);
    assert!(inviting.wait().unwrap().success());
    drop(rest);
    let (mut serving, rest, _) = goes_on("first", serve, "listening");
    ok("second", sync);
    let (mut staying, more, _) = goes_on("second", live, "have the same");
    assert_eq!(ok("second", peers).lines().count(), 3, "a heading and two devices");
    assert!(ok("second", &words("query --csv SELECT*FROM(notes)")).contains('7'));
    for child in [&mut serving, &mut staying] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    drop((rest, more));
}

#[test]
fn definitions_are_such_as_isle_takes() {
    let folder = tempfile::tempdir().unwrap();
    let replica =
        isle::Replica::builder(folder.path().join("notes.db")).home(folder.path().join("home")).init().unwrap();
    let definitions = blocks(&readme().replace("\n  ", "\n"), "sql");
    assert_eq!(definitions.len(), 1);
    let plan = replica.apply_schema(definitions[0].as_str()).unwrap();
    assert_eq!(plan.changes.len(), 6, "a table and its kinds: {plan:?}");
}

/// The programs in `extensions/isle/examples` and the packages' own descriptions are run, and read, by `scripts/test-extension`.
#[test]
fn the_examples_for_other_languages_are_those_of_the_packages_and_the_packages_are_tested() {
    for (language, package) in [("python", "python"), ("js", "npm")] {
        let package = workspace().join("extensions/isle").join(package).join("README.md");
        let described = blocks(&std::fs::read_to_string(package).unwrap(), language);
        let shown = blocks(&readme(), language);
        assert_eq!((shown.len(), described.len()), (1, 1));
        for line in shown[0].lines() {
            assert!(described[0].contains(line), "{line:?} is not in the description of the package");
        }
    }
    let checks = std::fs::read_to_string(workspace().join(".ci/run")).unwrap();
    assert!(checks.lines().any(|line| line == "scripts/test-extension"));
}

/// Would catch: a setting in the README that isle does not know.
#[test]
fn the_settings_are_such_as_isle_takes() {
    let folder = tempfile::tempdir().unwrap();
    let settings = blocks(&readme(), "toml");
    assert_eq!(settings.len(), 1);
    std::fs::write(folder.path().join("isle.toml"), settings[0].replace("~/.isle", "home")).unwrap();
    let mut command = Command::new(isle_binary());
    command.args(["init"]).current_dir(folder.path()).env_remove("ISLE_HOME").env_remove("ISLE_DB");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", describe(&output));
    assert!(folder.path().join("notes.db").exists() && folder.path().join("home/device.key").exists());
}

#[test]
fn commands_that_build_are_run_by_the_checks() {
    let checks = std::fs::read_to_string(workspace().join(".ci/run")).unwrap().replace(" --quiet", "");
    let building: Vec<String> = blocks(&readme(), "sh").into_iter().filter(|block| block.contains("cargo ")).collect();
    for line in building.iter().flat_map(|block| block.lines()) {
        let command = line.split('#').next().unwrap().trim();
        assert!(checks.contains(command), "{command:?} is not run by .ci/run");
    }
}

#[test]
fn the_rust_examples_are_those_that_the_documentation_compiles() {
    let docs = std::fs::read_to_string(workspace().join("crates/replica/src/lib.rs")).unwrap();
    let examples = blocks(&readme(), "rust");
    assert_eq!(examples.len(), 2);
    for line in examples.iter().flat_map(|example| example.lines()).filter(|line| !line.trim().is_empty()) {
        assert!(docs.contains(line.trim()), "{line:?} is not in the documentation of crates/replica");
    }
}
