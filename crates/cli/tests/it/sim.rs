//! Simulated fleets from the command line.

use serde_json::Value;

use crate::support::{Device, Place};

fn json(device: &Device, arguments: &[&str]) -> (i32, Value) {
    let gave = device.run([&["--json", "sim"], arguments].concat());
    (gave.code, serde_json::from_str(&gave.out).unwrap_or_else(|_| panic!("no JSON: {gave:?}")))
}

#[test]
fn a_seed_runs_the_same_in_every_process_and_shows_what_happened() {
    let place = Place::new();
    let device = place.bare("here");
    let arguments = ["run", "--seed", "12", "--devices", "3", "--profile", "chaos"];
    let (code, first) = json(&device, &arguments);
    assert_eq!((code, &first["devices"], &first["violation"]), (0, &Value::from(3), &Value::Null), "{first}");
    assert_eq!(json(&device, &arguments).1, first);
    let told = device.run([&["sim"][..], &arguments, &["--timeline"]].concat());
    assert!(told.out.lines().count() > 10 && told.out.contains("d0  ") && told.out.contains("--  quiet"), "{told:?}");
    let (code, several) = json(&device, &["run", "--count", "4", "--profile", "calm"]);
    assert_eq!((code, &several["seeds"]), (0, &Value::from(4)), "{several}");
    let counts = several["counts"].as_array().expect("counts");
    assert!(counts.iter().any(|count| count["what"] == "sync" && count["count"].as_u64() > Some(3)), "{several}");
}

#[test]
fn what_goes_wrong_is_told_and_its_files_can_be_looked_at() {
    let place = Place::new();
    let device = place.bare("here");
    let step = |at_ms: u64, device: u32, what: &str| format!(r#"{{"at_ms": {at_ms}, "device": {device}, {what}}}"#);
    let write = |at_ms, device| step(at_ms, device, &format!(r#""what": "write", "way": "isle", "seed": {at_ms}"#));
    let scenario = |steps: Vec<String>| {
        format!(r#"{{"seed": 1, "schema": "massugc", "devices": 2, "steps": [{}]}}"#, steps.join(",\n"))
    };
    let writes = || (0..6).map(|n| write(1_000 + n, (n % 2) as u32)).collect::<Vec<_>>();
    let quiet = step(9_000, 0, r#""what": "quiet""#);
    let sound = [writes(), vec![quiet.clone()]].concat();
    std::fs::write(device.folder.join("sound.json"), scenario(sound)).expect("written");
    let (code, told) = json(&device, &["replay", "sound.json"]);
    assert_eq!((code, &told["violation"]), (0, &Value::Null), "{told}");
    // Rows go behind isle's back.
    let broken = [writes(), vec![step(5_000, 1, r#""what": "tamper""#), quiet]].concat();
    std::fs::write(device.folder.join("broken.json"), scenario(broken)).expect("written");
    let files = device.folder.join("files");
    std::fs::create_dir(&files).expect("a folder");
    let (code, told) = json(&device, &["replay", "broken.json", "--files", "files", "--timeline"]);
    assert_eq!(code, 1, "{told}");
    assert!(
        told["violation"]["promise"].is_string() && told["events"].as_array().is_some_and(|e| e.len() > 6),
        "{told}"
    );
    let fleet = std::fs::read_dir(&files).expect("readable").next().expect("the fleet's files").expect("readable");
    assert!(fleet.path().join("d1/app.db").is_file(), "the files are left to look at");
}

#[test]
fn a_file_that_is_no_scenario_is_named() {
    let place = Place::new();
    let device = place.bare("here");
    std::fs::write(device.folder.join("odd.json"), r#"{"seed": 1, "steps": 7}"#).expect("written");
    let gave = device.run(["sim", "replay", "odd.json"]);
    assert!(gave.code == 2 && gave.err.contains("odd.json is no scenario"), "{gave:?}");
    let gave = device.run(["sim", "replay", "none.json"]);
    assert!(gave.code == 1 && gave.err.contains("none.json"), "{gave:?}");
    let odd = [
        (r#""schema": "none", "devices": 2"#, 1_000, "kinds"),
        (r#""schema": "kinds", "devices": 4000000000"#, 1_000, "2 to 16"),
        (r#""schema": "kinds", "devices": 2"#, u64::MAX, "ten years"),
    ];
    for (head, at_ms, told) in odd {
        let text = format!(r#"{{"seed": 1, {head}, "steps": [{{"at_ms": {at_ms}, "device": 0, "what": "quiet"}}]}}"#);
        std::fs::write(device.folder.join("odd.json"), text).expect("written");
        let gave = device.run(["sim", "replay", "odd.json"]);
        assert!(gave.code == 2 && gave.err.contains(told), "{told}: {gave:?}");
    }
    for arguments in [["--devices", "1"], ["--count", "0"], ["--within", "0"]] {
        let gave = device.run([&["sim", "run"][..], &arguments].concat());
        assert_eq!(gave.code, 2, "{gave:?}");
    }
    let gave = device.run(["sim", "run", "--keep", "nowhere"]);
    assert!(gave.code == 1 && gave.err.contains("nowhere"), "{gave:?}");
}
