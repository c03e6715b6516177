//! Fleets that run in every run of the tests; CI runs many more by `isle sim run`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use isle_simulations::{Coverage, Profile, Scenario, Step, Way, What, run};

/// What has to happen somewhere in the fleets that every run of the tests has.
const WANTED: [&str; 42] = [
    "acknowledged values checked",
    "app",
    "backup",
    "bucket copied",
    "bucket fault",
    "clock set",
    "compaction",
    "disk failing",
    "disk full",
    "evict",
    "file copied",
    "files changed",
    "files checked",
    "foreign write",
    "kill",
    "lost",
    "new site id",
    "newcomer",
    "parted",
    "power cut",
    "prune",
    "pull of files",
    "push of files",
    "quiet",
    "restore",
    "retired",
    "schema change refused",
    "schema changed",
    "session",
    "session failed",
    "snapshot published",
    "sync failed",
    "write failed",
    "disk: crashed in the middle of one",
    "disk: torn writes",
    "disk: writes lost in a power cut",
    "disk: full",
    "disk: failed reads and writes",
    "network: lost",
    "network: broken connections",
    "bucket: throttled",
    "bucket: offline",
];

fn sound(scenario: &Scenario) -> isle_simulations::Outcome {
    let outcome = run(scenario);
    if let Some(violation) = &outcome.violation {
        let events: Vec<String> = outcome.events.iter().map(ToString::to_string).collect();
        panic!("seed {}: {violation}\n{}", scenario.seed, events.join("\n"));
    }
    outcome
}

#[test]
fn what_was_once_wrong_stays_right() {
    let mut count = 0;
    for entry in std::fs::read_dir("traces").unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let scenario: Scenario =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!scenario.note.is_empty(), "{} does not say what it showed", path.display());
        sound(&scenario);
        count += 1;
    }
    assert!(count >= 5, "traces are not found");
}

#[test]
fn fleets_keep_all_promises_while_everything_goes_wrong() {
    let mut coverage = Coverage::default();
    for (profile, seeds) in [(Profile::Calm, 1..6), (Profile::Default, 1..16), (Profile::Chaos, 1..26)] {
        for seed in seeds {
            coverage.add(&sound(&Scenario::generate(seed, profile, None)).coverage);
        }
    }
    // What never goes wrong shows nothing.
    let counts = coverage.counts();
    let count = |of: &str| counts.iter().find(|(name, _)| name == of).map_or(0, |(_, count)| *count);
    let silent: Vec<&str> = WANTED.into_iter().filter(|name| count(name) == 0).collect();
    assert!(silent.is_empty(), "these never happened: {silent:?}\nof {counts:?}");
    assert!(count("model compared") > 20 * count("model skipped"), "{counts:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 100..106 {
        let scenario = Scenario::generate(seed, Profile::Chaos, None);
        let first = sound(&scenario);
        // On another thread, while the same happens on a third.
        let beside = std::thread::spawn({
            let scenario = scenario.clone();
            move || run(&scenario)
        });
        let second = run(&scenario);
        let third = beside.join().unwrap();
        assert_eq!(first.events, second.events);
        assert_eq!((&first.hash, &first.coverage), (&second.hash, &second.coverage));
        assert_eq!((&first.hash, &first.coverage), (&third.hash, &third.coverage));
        assert!(first.events.len() > 5 && !first.hash.is_empty());
    }
}

/// Checks that cannot fail would say nothing: here the world does what isle cannot make good.
#[test]
fn checkers_notice_what_is_wrong() {
    let write = |at_ms, device, seed| Step { at_ms, device, what: What::Write { way: Way::Isle, seed } };
    let mut steps: Vec<Step> = (0..12).map(|n| write(1_000 + n * 10, (n % 2) as u32, n)).collect();
    steps.push(Step { at_ms: 10_000, device: 0, what: What::Quiet });
    let scenario = |steps: &[Step]| Scenario {
        note: String::new(),
        seed: 5,
        schema: "massugc".to_owned(),
        devices: 2,
        cr_sqlite: 0,
        focus: 0,
        steps: steps.to_vec(),
    };
    sound(&scenario(&steps));
    // Rows that somebody changes behind isle's back, on one device.
    steps.insert(12, Step { at_ms: 5_000, device: 1, what: What::Tamper });
    let found = run(&scenario(&steps)).violation.expect("a changed row is not noticed");
    assert!(["doctor", "merge", "convergence"].contains(&found.promise), "{found}");
}
