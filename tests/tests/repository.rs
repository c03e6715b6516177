//! Checks of the repository itself: what a reviewer should not have to look for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files under the workspace with one of these endings, build output and tools left out.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", ".git", ".tools", "proptest-regressions"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no file with {endings:?}");
    found
}

fn complain(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn no_file_is_longer_than_800_lines() {
    let long = files(&[".rs"]).into_iter().filter_map(|path| {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        (lines > 800).then(|| format!("{}: {lines} lines; split it by meaning", path.display()))
    });
    complain(&long.collect::<Vec<_>>());
}

#[test]
fn no_room_is_a_drawer_for_everything() {
    let drawers = files(&[".rs", "Cargo.toml"]).into_iter().filter(|path| {
        let parts = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        parts
            .map(|part| part.trim_end_matches(".rs").to_owned())
            .any(|part| ["util", "utils", "common", "misc", "helpers", "types"].contains(&part.as_str()))
    });
    complain(&drawers.map(|path| path.display().to_string()).collect::<Vec<_>>());
}

#[test]
fn every_crate_says_what_it_promises() {
    let silent =
        files(&["lib.rs"]).into_iter().filter(|path| path.starts_with(root().join("crates"))).filter_map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let docs = text.lines().take_while(|line| line.starts_with("//!")).count();
            (docs < 8).then(|| format!("{}: {docs} lines of crate docs", path.display()))
        });
    complain(&silent.collect::<Vec<_>>());
}

#[test]
fn pure_rooms_read_no_clock_and_draw_no_random_numbers() {
    let mut impure = Vec::new();
    for room in ["clock", "schema", "changeset"] {
        for path in
            files(&[".rs"]).into_iter().filter(|path| path.starts_with(root().join("crates").join(room).join("src")))
        {
            let text = fs::read_to_string(&path).unwrap();
            for word in ["SystemTime", "Instant::now", "getrandom", "thread_rng", "std::fs", "std::net", "new_v4()"] {
                if text.contains(word) {
                    impure.push(format!("{}: {word}; take it as an argument", path.display()));
                }
            }
        }
    }
    complain(&impure);
}

/// What simulations run has its time, its random numbers and its threads from its `Runtime`: each look past that is listed here, with what
/// makes it harmless. Time of tokio is virtual there.
#[test]
fn what_simulations_run_has_time_chance_and_threads_from_its_runtime() {
    let harmless = [
        ("replica/src/runtime.rs", "SystemTime::now", "the system's own `Runtime`"),
        ("replica/src/runtime.rs", "getrandom", "the system's own `Runtime`"),
        ("replica/src/keystore.rs", "getrandom", "a name for a file that is renamed at once"),
        ("replica/src/auto.rs", "thread::Builder", "asked for by `sync_every`, which simulations do themselves"),
        ("replica/src/sync/mod.rs", "spawn_blocking", "not where `Runtime::blocks_in_place` says so"),
        ("replica/src/direct/live.rs", "Instant::now", "tokio's"),
        ("blobs/src/request.rs", "Instant::now", "tokio's"),
        ("replica/src/library/sources.rs", "Instant::now", "tokio's"),
        ("replica/src/library/sources.rs", "spawn_blocking", "writes beside a listing; simulations have no files yet"),
        ("replica/src/library/watch.rs", "Instant::now", "waits for the system's notices of real folders"),
        ("replica/src/library/watch.rs", "thread::sleep", "waits for the system's notices of real folders"),
        ("store/src/store.rs", "Instant::now", "waits for a lock that another process holds"),
        ("store/src/backup.rs", "Instant::now", "waits for a lock that another process holds"),
        ("store/src/backup.rs", "thread::sleep", "waits for a lock that another process holds"),
    ];
    let words = [
        "SystemTime::now",
        "Instant::now",
        "getrandom",
        "thread_rng",
        "OsRng",
        "rand::",
        "new_v4()",
        "thread::spawn",
        "thread::Builder",
        "thread::sleep",
        "spawn_blocking",
    ];
    let crates = root().join("crates");
    let (mut findings, mut used) = (Vec::new(), BTreeSet::new());
    for room in ["changeset", "clock", "document", "identity", "protocol", "schema", "store", "blobs", "replica"] {
        for path in files(&[".rs"]).into_iter().filter(|path| path.starts_with(crates.join(room).join("src"))) {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let name = path.strip_prefix(&crates).unwrap().to_string_lossy().into_owned();
            for (n, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                for word in words.iter().filter(|word| line.contains(*word)) {
                    match harmless.iter().position(|(file, of, _)| *file == name && of == word) {
                        Some(at) => drop(used.insert(at)),
                        None => findings.push(format!("{name}:{}: {word}; take it from `Runtime`", n + 1)),
                    }
                }
            }
        }
    }
    let unused = harmless.iter().enumerate().filter(|(at, _)| !used.contains(at));
    findings.extend(unused.map(|(_, (file, word, _))| format!("{file} has no {word} any more; take it off this list")));
    complain(&findings);
}

#[test]
fn libraries_neither_print_nor_panic_on_purpose() {
    let mut findings = Vec::new();
    let in_library = |path: &Path| {
        let crates = root().join("crates");
        path.starts_with(&crates)
            && !path.starts_with(crates.join("cli"))
            && path.components().any(|c| c.as_os_str() == "src")
    };
    for path in files(&[".rs"]).into_iter().filter(|path| in_library(path)) {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (n, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for word in
                ["println!", "eprintln!", ".unwrap()", ".expect(\"", "panic!(", "todo!(", "unimplemented!(", "dbg!("]
            {
                if line.contains(word) {
                    findings.push(format!("{}:{}: {word}", path.display(), n + 1));
                }
            }
        }
    }
    findings.retain(|finding| !finding.contains("testing.rs") && !finding.contains("_tests.rs"));
    complain(&findings);
}

#[test]
fn every_test_file_is_a_target() {
    let mut forgotten = Vec::new();
    let manifest = fs::read_to_string(root().join("tests/Cargo.toml")).unwrap();
    for entry in fs::read_dir(root().join("tests/tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_file() && !manifest.contains(&format!("name = \"{name}\"")) {
            forgotten.push(format!("{} is not listed in tests/Cargo.toml", path.display()));
        }
    }
    complain(&forgotten);
}

#[test]
fn tests_wait_for_conditions_and_not_for_the_clock() {
    let sleeping = files(&[".rs"]).into_iter().filter_map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        // This check names what it looks for.
        let is_this = path.ends_with("tests/tests/repository.rs");
        let in_tests = path.components().any(|part| part.as_os_str() == "tests");
        (in_tests && !is_this && text.contains("thread::sleep")).then(|| format!("{} sleeps", path.display()))
    });
    complain(&sleeping.collect::<Vec<_>>());
}

#[test]
fn the_repository_speaks_of_the_project_alone() {
    // Put together here so that this file does not contain them.
    let words = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat(), ["crates-io", ".proxy"].concat()];
    let mut findings = Vec::new();
    for path in files(&[".rs", ".toml", ".md", ".sh", "run", ".yml"]) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for word in words.iter().filter(|word| text.contains(word.as_str())) {
            findings.push(format!("{} names {word}", path.display()));
        }
    }
    complain(&findings);
}

#[test]
fn shared_dependencies_stand_in_the_root() {
    let mut own = Vec::new();
    // fuzz/ and what lies in extensions/ are workspaces of their own, with roots of their own.
    let roots = ["Cargo.toml", "fuzz/Cargo.toml", "extensions/isle/Cargo.toml"].map(|path| root().join(path));
    for path in files(&["Cargo.toml"]).into_iter().filter(|path| !roots.contains(path)) {
        let text = fs::read_to_string(&path).unwrap();
        let mut section = String::new();
        for line in text.lines() {
            if line.starts_with('[') {
                section = line.to_owned();
            }
            let in_dependencies = section.contains("dependencies");
            if in_dependencies && line.contains("version =") && line.contains('{')
                || (in_dependencies && line.contains("= \""))
            {
                own.push(format!("{}: {line}", path.display()));
            }
        }
    }
    complain(&own);
}

/// Would catch: a crate that comes to need an app that is built on it.
#[test]
fn no_crate_knows_the_apps() {
    let crates = files(&["Cargo.toml"]).into_iter().filter(|path| path.starts_with(root().join("crates")));
    let knowing = crates.filter(|path| fs::read_to_string(path).unwrap().contains("isle-examples"));
    complain(&knowing.map(|path| path.display().to_string()).collect::<Vec<_>>());
}

/// A patch that fits no more would show nothing; `scripts/planted-bugs` shows that the simulations find each.
#[test]
fn planted_bugs_fit_the_sources_and_say_what_they_do() {
    let patches = files(&[".patch"]);
    assert!(patches.len() >= 10, "{patches:?}");
    let misfits = patches.into_iter().filter_map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let told = text.lines().next().is_some_and(|line| line.ends_with('.'));
        let mut git = std::process::Command::new("git");
        git.args(["apply", "--check"]).arg(&path).current_dir(root());
        let output = git.output().expect("git: apt-get install git");
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        (!told || !output.status.success()).then(|| format!("{}: {why}", path.display()))
    });
    complain(&misfits.collect::<Vec<_>>());
}

/// Would catch: a test that was renamed and is still named as what shows a requirement, a row that is there twice.
#[test]
fn the_ledger_names_tests_that_exist() {
    let ledger = fs::read_to_string(root().join("tests/ledger.md")).unwrap();
    let rows: Vec<Vec<&str>> = ledger
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ID"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    let mut counts = [0; 3];
    for row in &rows {
        let [id, verdict, tests, note] = row[..] else {
            findings.push(format!("{row:?}: four columns are expected"));
            continue;
        };
        if !seen.insert(id) {
            findings.push(format!("{id} is there twice"));
        }
        match (verdict, tests.is_empty(), note.is_empty()) {
            ("shown", false, _) => counts[0] += 1,
            ("partly", _, false) => counts[1] += 1,
            ("no", _, false) => counts[2] += 1,
            _ => findings.push(format!("{id}: {verdict} needs a test, or a note that says what is missing")),
        }
        for test in tests.split(", ").filter(|test| !test.is_empty()) {
            let Some((file, name)) = test.trim_matches('`').split_once("::") else {
                findings.push(format!("{id}: {test} is no `file::function`"));
                continue;
            };
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            if !text.contains(&format!("fn {name}(")) && !text.contains(&format!("def {name}(")) {
                findings.push(format!("{id}: {file} has no function {name}"));
            }
        }
    }
    let [shown, partly, no] = counts;
    let told = format!("Of {} rows {shown} are shown, {partly} partly, {no} not.", rows.len());
    if !ledger.contains(&told) {
        findings.push(format!("the head of the table should say: {told}"));
    }
    complain(&findings);
    assert_eq!(rows.len(), 302, "each requirement has its row");
}
