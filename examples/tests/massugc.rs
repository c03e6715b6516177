//! The video studio, on two devices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod pair;

use isle_examples::massugc::{JobError, JobFilter, Studio};
use pair::{Pair, Way};
use serde_json::{Map, Value, json};

/// 2026-06-01.
const NOW: i64 = 1_780_272_000_000;

fn job(id: &str, name: &str, product: &str) -> Map<String, Value> {
    let job = json!({
        "id": id, "job_name": name, "product": product, "persona": "Friendly", "language": "English", "enabled": true, "hook": "Look at this",
        "avatar_video_path": "/videos/a.mp4", "enhanced_settings": {"text": {"size": 20}, "music": ["calm", "low"]},
    });
    job.as_object().unwrap().clone()
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn pair(way: Way) -> Pair<Studio> {
    Pair::new(
        way,
        Studio::init_db,
        |studio| studio.replica().clone(),
        |a| {
            for (id, name, product) in [("1", "First", "Soap"), ("2", "Second", "Soap"), ("3", "Third", "Tea")] {
                a.add_job(&job(id, name, product), NOW).unwrap();
            }
        },
    )
}

#[test]
fn jobs_come_back_as_they_were_handed_in() {
    let pair = pair(Way::Bucket);
    let mut found = pair.b.get_job("1").unwrap().unwrap().to_dict().clone();
    assert_eq!(found.remove("created_at"), found.remove("updated_at"));
    assert_eq!(found, job("1", "First", "Soap"));
    assert!(pair.b.get_job("none").unwrap().is_none());
}

#[test]
fn what_is_no_job_is_refused_with_the_reason() {
    let pair = pair(Way::Bucket);
    let refused = |job: Value| pair.a.add_job(&object(job), NOW).unwrap_err();
    assert!(matches!(refused(json!({"job_name": "x"})), JobError::Invalid { .. }));
    let nameless = refused(json!({"id": "9"}));
    assert_eq!(nameless.to_string(), "the job is invalid: it has no job_name");
    assert!(matches!(refused(json!({"id": "9", "job_name": ""})), JobError::Invalid { .. }));
    assert!(matches!(refused(json!({"id": "1", "job_name": "again"})), JobError::Duplicate { id } if id == "1"));
    assert!(matches!(pair.a.update_job("1", &object(json!({"job_name": null})), NOW), Err(JobError::Invalid { .. })));
    assert_eq!(pair.a.statistics().unwrap().total_jobs, 3);
    assert_eq!(pair.a.get_job("1").unwrap().unwrap().job_name, "First");
}

/// Would catch: a change that writes what it does not name, and members of one JSON that overwrite each other.
#[test]
fn changes_of_two_devices_meet_in_one_job() {
    for way in [Way::Bucket, Way::Direct] {
        let pair = pair(way);
        let before = pair.a.replica().status().unwrap().version;
        pair.a
            .update_job("1", &object(json!({"enabled": false, "enhanced_settings": {"text": {"size": 30}}})), NOW + 1)
            .unwrap();
        let written = pair.a.versions("1").unwrap().pop().unwrap();
        assert_eq!(written.version, before + 1);
        let columns: Vec<&str> = written.cells.iter().filter_map(|cell| cell.column.as_deref()).collect();
        assert_eq!(columns, ["enabled", "updated_at", "data"]);
        pair.b
            .update_job("1", &object(json!({"product": "Shampoo", "enhanced_settings": {"music": ["loud"]}})), NOW + 2)
            .unwrap();
        pair.b.ran("1").unwrap();
        pair.a.ran("1").unwrap();
        pair.sync();
        let job = pair.a.get_job("1").unwrap().unwrap();
        assert_eq!((job.enabled, job.runs, job.to_dict()["product"].as_str()), (false, 2, Some("Shampoo")));
        assert_eq!(job.to_dict()["enhanced_settings"], json!({"text": {"size": 30}, "music": ["loud"]}));
        assert_eq!(job.to_dict()["avatar_video_path"], "/videos/a.mp4");
        assert!(pair.b.update_job("none", &Map::new(), NOW).unwrap().is_none());
        assert!(pair.b.delete_job("2").unwrap() && !pair.b.delete_job("2").unwrap());
        pair.sync();
        assert!(pair.a.get_job("2").unwrap().is_none());
    }
}

#[test]
fn jobs_are_filtered_searched_and_counted() {
    let pair = pair(Way::Direct);
    pair.b.update_job("2", &object(json!({"enabled": false, "language": "German"})), NOW).unwrap();
    pair.sync();
    let names = |filter: &JobFilter| -> Vec<String> {
        pair.a.list_jobs(filter).unwrap().into_iter().map(|job| job.job_name).collect()
    };
    assert_eq!(names(&JobFilter { enabled: Some(true), ..JobFilter::default() }), ["First", "Third"]);
    let soap = JobFilter {
        product: Some("Soap".to_owned()),
        order_by: Some(("job_name".to_owned(), true)),
        ..JobFilter::default()
    };
    assert_eq!(names(&soap), ["Second", "First"]);
    assert_eq!(names(&JobFilter { limit: Some(1), offset: 1, ..soap }), ["First"]);
    let wrong = JobFilter { order_by: Some(("1; DROP TABLE jobs".to_owned(), false)), ..JobFilter::default() };
    assert!(pair.a.list_jobs(&wrong).is_err());
    let found: Vec<String> = pair.a.search_jobs("SOAP look", 9).unwrap().into_iter().map(|job| job.id).collect();
    assert_eq!(found, ["1", "2"]);
    assert!(
        pair.a.search_jobs("soap nowhere", 9).unwrap().is_empty() && pair.a.search_jobs("  ", 9).unwrap().is_empty()
    );
    pair.b.update_job("3", &object(json!({"hook": "Never cold again"})), NOW).unwrap();
    pair.sync();
    for studio in [&pair.a, &pair.b] {
        let found = studio.search_jobs("third cold", 9).unwrap();
        assert_eq!(found.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["3"]);
    }
    let statistics = pair.a.statistics().unwrap();
    assert_eq!((statistics.total_jobs, statistics.enabled_jobs), (3, 2));
    assert_eq!((statistics.jobs_by_product["Soap"], statistics.jobs_by_language["German"]), (2, 1));
}

#[test]
fn templates_make_jobs_and_a_job_has_its_versions() {
    let pair = pair(Way::Bucket);
    let first = pair.a.get_job("1").unwrap().unwrap();
    pair.a.save_template("soap", "Soap in general", &first).unwrap();
    pair.sync();
    let made = pair.b.from_template("soap", "9", &object(json!({"job_name": "Ninth"})), NOW).unwrap();
    assert_eq!(
        (made.job_name.as_str(), &made.to_dict()["enhanced_settings"]),
        ("Ninth", &first.to_dict()["enhanced_settings"])
    );
    assert!(matches!(pair.b.from_template("none", "10", &Map::new(), NOW), Err(JobError::Invalid { .. })));
    for name in ["Ninth, again", "Ninth, at last"] {
        pair.b.update_job("9", &object(json!({"job_name": name})), NOW + 1).unwrap();
    }
    pair.sync();
    let versions = pair.a.versions("9").unwrap();
    let names: Vec<String> = versions
        .iter()
        .flat_map(|version| &version.cells)
        .filter(|cell| cell.column.as_deref() == Some("job_name"))
        .map(|cell| cell.after.to_string())
        .collect();
    assert_eq!(names, ["Ninth", "Ninth, again", "Ninth, at last"]);
}

#[test]
fn a_yaml_file_moves_in_and_out_and_nothing_is_left_of_the_database() {
    let pair = pair(Way::Bucket);
    let (own, home) = pair::places(pair.folder.path(), "c");
    let yaml = own.join("campaigns.yaml");
    pair.a.export_to_yaml(&yaml).unwrap();
    let written = std::fs::read(&yaml).unwrap();
    let path = own.join("app.db");
    let studio = Studio::init_db(&path, Some(&home)).unwrap();
    assert!(!studio.verify_migration(&yaml).unwrap().is_equal());
    assert_eq!(studio.migrate_from_yaml(&yaml).unwrap().sources[0].inserted, 3);
    assert!(own.join("campaigns.yaml.bak").exists() && !yaml.exists());
    assert_eq!(studio.get_job("1").unwrap().unwrap().to_dict(), pair.a.get_job("1").unwrap().unwrap().to_dict());
    // Back to the file of before.
    studio.export_to_yaml(&yaml).unwrap();
    assert!(studio.verify_migration(&yaml).unwrap().is_equal());
    assert_eq!(std::fs::read(&yaml).unwrap(), written, "the same on another device, to the byte");
    let replica = studio.replica().clone();
    drop(studio);
    replica.detach().unwrap();
    let beside: Vec<String> =
        std::fs::read_dir(&own).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!beside.iter().any(|name| name.starts_with("app.db-")), "{beside:?}");
}

/// The document's own script.
#[test]
fn smoke() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test_campaigns.db");
    let studio = Studio::init_db(&path, Some(&folder.path().join("home"))).unwrap();
    studio
        .add_job(
            &object(json!({"id": "test123", "job_name": "Test Job", "product": "Test Product", "enabled": true})),
            NOW,
        )
        .unwrap();
    assert_eq!(studio.get_job("test123").unwrap().unwrap().job_name, "Test Job");
    assert!(studio.replica().clone().close().is_ok_and(|last| !last));
    drop(studio);
    std::fs::remove_file(&path).unwrap();
    assert!(!path.with_extension("db-wal").exists() && !path.with_extension("db-shm").exists());
}
