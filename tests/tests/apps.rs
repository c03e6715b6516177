//! The schemas of the reference apps: what their migrations make is pinned, and look-ups go by their indexes. `ISLE_BLESS=1` writes `goldens/apps` anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use isle::{Definition, Replica};
use isle_tests::workspace;

const APPS: [&str; 5] = ["qlippy", "wmd", "codedb", "collection", "massugc"];

fn app(folder: &Path, name: &str) -> Replica {
    let builder = Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(format!("{name}.home")));
    let replica = builder.app(name).init().unwrap();
    replica.apply_schema(Definition::from_dir(&workspace().join("migrations").join(name)).unwrap()).unwrap();
    replica
}

fn golden(name: &str) -> PathBuf {
    workspace().join("tests/goldens/apps").join(format!("{name}.sql"))
}

/// Would catch: a column, default, constraint, index or kind of merge that leaves an app's schema, and a migration that was changed after it was
/// made.
#[test]
fn migrations_make_what_is_pinned() {
    let folder = tempfile::tempdir().unwrap();
    for name in APPS {
        let made = app(folder.path(), name).dump_schema().unwrap();
        if std::env::var_os("ISLE_BLESS").is_some() {
            std::fs::create_dir_all(golden(name).parent().unwrap()).unwrap();
            std::fs::write(golden(name), &made).unwrap();
        }
        let pinned = std::fs::read_to_string(golden(name)).unwrap_or_default();
        assert_eq!(made, pinned, "{name}: ISLE_BLESS=1 writes what is there now");
        assert!(
            app(folder.path(), name).plan_schema(definition(name)).unwrap().changes.is_empty(),
            "{name}: a second start changes something"
        );
    }
}

fn definition(name: &str) -> Definition {
    Definition::from_dir(&workspace().join("migrations").join(name)).unwrap()
}

#[test]
fn look_ups_go_by_their_indexes() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("wmd", "SELECT * FROM download_history WHERE filename = 'x'", "download_history"),
        ("wmd", "SELECT * FROM download_history WHERE status = 'x'", "idx_download_history_status"),
        ("wmd", "SELECT * FROM model_metadata WHERE source = 'x'", "idx_model_metadata_source"),
        ("wmd", "SELECT * FROM model_metadata WHERE sha256_hash = 'x'", "idx_model_metadata_hash"),
        ("wmd", "SELECT * FROM model_catalog WHERE source = 'x'", "idx_catalog_source"),
        ("wmd", "SELECT * FROM model_catalog WHERE model_type = 'x'", "idx_catalog_model_type"),
        ("wmd", "SELECT * FROM usage_cache ORDER BY last_used DESC LIMIT 5", "idx_usage_last_used"),
        ("wmd", "SELECT * FROM model_aliases WHERE canonical_name = 'x'", "idx_aliases_canonical"),
        ("wmd", "SELECT * FROM search_cache WHERE query = 'x' AND source = 'y'", "search_cache"),
        ("wmd", "SELECT * FROM search_cache WHERE expires_at < 'x'", "idx_search_cache_expires"),
        ("massugc", "SELECT * FROM jobs WHERE enabled = 1", "idx_jobs_enabled"),
        ("massugc", "SELECT * FROM jobs WHERE product = 'x'", "idx_jobs_product"),
        ("massugc", "SELECT * FROM jobs WHERE persona = 'x'", "idx_jobs_persona"),
        ("massugc", "SELECT * FROM jobs WHERE language = 'x'", "idx_jobs_language"),
        ("massugc", "SELECT * FROM jobs ORDER BY created_at DESC LIMIT 5", "idx_jobs_created_at"),
        ("massugc", "SELECT * FROM jobs WHERE job_name = 'x'", "idx_jobs_job_name"),
        ("massugc", "SELECT * FROM jobs WHERE id = 'x'", "jobs"),
    ];
    for name in ["wmd", "massugc"] {
        let replica = app(folder.path(), name);
        for (_, sql, index) in cases.iter().filter(|(of, ..)| of == &name) {
            let rows = replica.read(|q| q.query(&format!("EXPLAIN QUERY PLAN {sql}"), &[])).unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.values()[3].to_string()).collect();
            let plan = plan.join("; ");
            assert!(plan.contains(index) && plan.contains("USING"), "{sql}\n{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
        }
    }
}

/// Would catch: two sources of a cache that overwrite each other, and a cache that leaves its device.
#[test]
fn a_cache_keeps_the_answers_of_each_source_and_stays_on_its_device() {
    let folder = tempfile::tempdir().unwrap();
    let replica = app(folder.path(), "wmd");
    let before = replica.status().unwrap().version;
    replica
        .write(|tx| {
            for source in ["tavily", "huggingface"] {
                let sql = "INSERT INTO search_cache(query, source, result) VALUES('flux', ?1, '{}')";
                tx.execute(sql, isle::params![source])?;
            }
            Ok(())
        })
        .unwrap();
    let rows: i64 =
        replica.read(|q| q.one("SELECT count(*) FROM search_cache WHERE query = 'flux'", &[])).unwrap().unwrap();
    assert_eq!((rows, replica.status().unwrap().version), (2, before));
}
