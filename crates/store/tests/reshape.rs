//! Tables that get another definition while replicas are apart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_store::StoreError;
use proptest::prelude::*;
use support::{Device, settle};

const FIRST: &str = "CREATE TABLE shelves(id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE books(id INTEGER PRIMARY KEY, title TEXT, shelf INT, stars INT DEFAULT 1, note VARCHAR(9));
    CREATE INDEX by_title ON books(title);
    CREATE VIEW shelved AS SELECT b.title, s.name FROM books AS b JOIN shelves AS s ON s.id = b.shelf;
    CREATE VIRTUAL TABLE search USING fts5(title, content='books', content_rowid='id');
    CREATE TRIGGER search_i AFTER INSERT ON books BEGIN INSERT INTO search(rowid, title) VALUES(NEW.id, NEW.title); END;
    CREATE TRIGGER search_d AFTER DELETE ON books BEGIN
      INSERT INTO search(search, rowid, title) VALUES('delete', OLD.id, OLD.title); END;
    CREATE TRIGGER search_u AFTER UPDATE ON books BEGIN
      INSERT INTO search(search, rowid, title) VALUES('delete', OLD.id, OLD.title);
      INSERT INTO search(rowid, title) VALUES(NEW.id, NEW.title); END;";

fn second() -> String {
    FIRST.replace(
        "title TEXT, shelf INT, stars INT DEFAULT 1, note VARCHAR(9))",
        "title TEXT UNIQUE COLLATE NOCASE, note TEXT, stars INT DEFAULT 3 CHECK(stars BETWEEN 1 AND 5),
         shelf INT REFERENCES shelves(id) ON DELETE SET NULL, loud AS (upper(title)))",
    )
}

fn pair() -> (Device, Device) {
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    a.store.apply_schema(FIRST).unwrap();
    a.run("INSERT INTO shelves VALUES(1, 'wood'); INSERT INTO books VALUES(1, 'Dune', 1, 4, 'n'), (2, 'Ubik', NULL, 5, 'm')");
    b.pull(&a);
    (a, b)
}

fn books(device: &Device) -> Vec<String> {
    device.rows("SELECT id, title, shelf, stars, note FROM books ORDER BY id")
}

fn refused(result: Result<isle_store::SchemaPlan, StoreError>, part: &str) {
    match result {
        Err(StoreError::DefinitionRefused { reasons }) => {
            assert!(reasons.iter().any(|reason| reason.contains(part)), "{reasons:?} lacks {part:?}");
        }
        other => panic!("{part}: {other:?}"),
    }
}

#[test]
fn a_table_gets_constraints_and_keeps_rows_clocks_search_and_views() {
    let (a, b) = pair();
    let before = (books(&a), a.hash().0);
    let plan = a.store.apply_schema(&second()).unwrap();
    assert_eq!(plan.changes.iter().map(|change| change.kind).collect::<Vec<_>>(), ["change table"]);
    for part in ["note", "stars", "foreign keys", "UNIQUE", "CHECK", "2 rows"] {
        assert!(plan.changes[0].detail.contains(part), "{part}: {}", plan.changes[0].detail);
    }
    let again = a.store.plan_schema(&second()).unwrap();
    assert!(again.changes.is_empty() && again.refused.is_empty(), "{again:?}");
    assert_eq!((books(&a), a.hash().0), before, "no value and no clock has changed");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(books(device), before.0);
        assert_eq!(device.rows("SELECT loud FROM books WHERE id = 1"), device.rows("SELECT 'DUNE'"));
        assert_eq!(device.rows("SELECT title FROM shelved"), device.rows("SELECT 'Dune'"));
        assert_eq!(device.rows("SELECT rowid FROM search('ubik')"), device.rows("SELECT 2"));
        assert_eq!(device.rows("SELECT name FROM pragma_index_list('books') WHERE name = 'by_title'").len(), 1);
        device.foreign("INSERT INTO search(search) VALUES('integrity-check')");
        let run = |sql: &str| device.store.write(|tx| tx.execute(sql, []));
        assert!(run("INSERT INTO books(id, title) VALUES(9, 'DUNE')").is_err());
        assert!(run("UPDATE books SET stars = 6").is_err());
    }
    // Capture and merge go on.
    a.run("INSERT INTO books(id, title) VALUES(3, 'Solaris')");
    b.foreign("UPDATE books SET stars = 2 WHERE id = 1");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT stars FROM books ORDER BY id"), b.rows("SELECT 2 UNION ALL SELECT 5 UNION ALL SELECT 3"));
    assert_eq!(b.rows("SELECT rowid FROM search('solaris')"), b.rows("SELECT 3"));
}

#[test]
fn rows_that_other_devices_wrote_meanwhile_step_aside() {
    let (a, b) = pair();
    b.run("INSERT INTO books VALUES(5, 'DUNE', 7, 9, 'late'), (6, 'Lem', 8, 1, NULL)");
    b.run("UPDATE books SET title = 'dune' WHERE id = 2");
    a.pass(10);
    a.store.apply_schema(&second()).unwrap();
    a.run("INSERT INTO books(id, title) VALUES(7, 'Lem')");
    settle(&[&a, &b]);
    // The first claim shows; a shelf that nobody has is no reference; a CHECK of the author's binds nobody's merged rows.
    assert_eq!(a.rows("SELECT id FROM books ORDER BY id"), a.rows("SELECT 1 UNION ALL SELECT 6"));
    assert_eq!(books(&a), books(&b));
    assert_eq!(a.store.repaired(10).unwrap().len(), 4, "{:?}", a.store.repaired(10));
    b.run("UPDATE books SET title = 'Dune (1965)' WHERE id = 1");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT count(*) FROM books WHERE title = 'dune'"), a.rows("SELECT 1"));
    // Without the constraint all show again.
    let free = second().replace("UNIQUE ", "").replace("REFERENCES shelves(id) ON DELETE SET NULL", "");
    b.store.apply_schema(&free).unwrap();
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT count(*) FROM books"), a.rows("SELECT 5"));
    assert_eq!(a.rows("SELECT shelf, stars FROM books WHERE id = 5"), a.rows("SELECT 7, 9"));
    assert!(a.store.repaired(10).unwrap().is_empty());
}

#[test]
fn an_author_whose_own_rows_do_not_fit_is_told_and_nothing_is_changed() {
    let (a, _) = pair();
    a.run("INSERT INTO books VALUES(5, 'DUNE', NULL, 3, NULL)");
    let state =
        (a.store.schema_heads().unwrap(), a.hash(), a.rows("SELECT name, sql FROM sqlite_schema ORDER BY name"));
    refused(a.store.apply_schema(&second()), "2 of its rows share values in UNIQUE");
    a.run("DELETE FROM books WHERE id = 5; UPDATE books SET stars = 9 WHERE id = 1");
    let state = (state.0, a.hash(), state.2);
    refused(a.store.apply_schema(&second()), "CHECK");
    a.run("UPDATE books SET stars = 4, shelf = 12 WHERE id = 1");
    let state = (state.0, a.hash(), state.2);
    refused(a.store.apply_schema(&second()), "no parent");
    let now = (a.store.schema_heads().unwrap(), a.hash(), a.rows("SELECT name, sql FROM sqlite_schema ORDER BY name"));
    assert_eq!(now, state);
    a.check();
}

#[test]
fn what_would_convert_or_break_the_key_is_refused() {
    let (a, _) = pair();
    for (from, to, reason) in [
        ("shelf INT", "shelf TEXT", "converts its values otherwise"),
        ("title TEXT", "title TEXT NOT NULL", "becomes NOT NULL"),
        ("books(id INTEGER PRIMARY KEY", "books(id INT PRIMARY KEY", "key"),
        ("note VARCHAR(9))", "note VARCHAR(9)) STRICT", "unknown datatype"),
        ("title TEXT, shelf", "title TEXT UNIQUE ON CONFLICT REPLACE CHECK(nothing > 1), shelf", "nothing"),
    ] {
        let result = a.store.apply_schema(&FIRST.replace(from, to));
        match result {
            Err(StoreError::Definition { source }) => assert!(source.to_string().contains(reason), "{source}"),
            other => refused(other, reason),
        }
    }
}

#[test]
fn two_authors_columns_and_names_survive_a_new_definition() {
    let (a, b) = pair();
    a.store.apply_schema(&second()).unwrap();
    // Meanwhile the other adds a column, renames two and the parent, and hides one.
    let other = FIRST
        .replace("title TEXT", "name TEXT")
        .replace("note VARCHAR(9))", "note VARCHAR(9), pages INT DEFAULT 100)")
        .replace("shelves", "racks")
        .replace("b.title", "b.name AS title")
        .replace("search(title)", "x")
        .replace("stars INT DEFAULT 1, ", "");
    let tables: String =
        other.split(';').filter(|sql| sql.contains("CREATE TABLE")).map(|sql| format!("{sql};")).collect();
    b.store
        .apply_schema(&format!(
            "-- @rename books.title -> name\n-- @drop books.stars\n-- @rename shelves -> racks\n{tables}"
        ))
        .unwrap();
    b.run("INSERT INTO books(id, name, pages) VALUES(8, 'Fiasco', 300)");
    a.run("INSERT INTO books(id, title, stars) VALUES(9, 'Eden', 2)");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(
            device.rows("SELECT name, stars, pages FROM books WHERE id > 7 ORDER BY id"),
            device.rows("SELECT 'Fiasco', 1, 300 UNION ALL SELECT 'Eden', 2, 100")
        );
        let parent = "SELECT \"table\", \"from\" FROM pragma_foreign_key_list('books')";
        assert_eq!(device.rows(parent), device.rows("SELECT 'racks', 'shelf'"));
        assert!(device.store.write(|tx| tx.execute("INSERT INTO books(id, name) VALUES(10, 'EDEN')", [])).is_err());
        device.check();
    }
}

#[test]
fn a_unique_index_comes_to_a_table_that_is_in_use() {
    let (a, b) = pair();
    let indexed = format!("{FIRST} CREATE UNIQUE INDEX one_note ON books(note) WHERE stars > 1;");
    b.run("INSERT INTO books VALUES(5, 'x', NULL, 2, 'n'), (6, 'y', NULL, 1, 'n')");
    a.store.apply_schema(&indexed).unwrap();
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT id FROM books ORDER BY id"), a.rows("SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 6"));
    assert_eq!(a.store.repaired(10).unwrap().len(), 1);
    refused(a.store.apply_schema(&format!("{FIRST} CREATE UNIQUE INDEX all_notes ON books(note);")), "share values");
    a.store.apply_schema(FIRST).unwrap();
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT count(*) FROM books"), b.rows("SELECT 4"));
}

#[test]
fn the_apps_own_triggers_columns_and_implicit_rowids_stay() {
    let a = Device::untracked(1, "CREATE TABLE t(k TEXT PRIMARY KEY, v INT); CREATE TABLE seen(n INT);");
    a.store.track(&["t"]).unwrap();
    a.run("INSERT INTO t VALUES('a', 1), ('b', 2), ('c', 3); DELETE FROM t WHERE k = 'a'");
    a.foreign("ALTER TABLE t ADD COLUMN mine TEXT DEFAULT 'own'; CREATE TRIGGER count AFTER INSERT ON t BEGIN INSERT INTO seen VALUES(NEW.v); END");
    let before = a.rows("SELECT rowid, k, v, mine FROM t");
    let wanted = "CREATE TABLE t(k TEXT PRIMARY KEY, v INT CHECK(v < 9), mine TEXT DEFAULT 'own')";
    let plan = a.store.apply_schema(wanted).unwrap();
    assert!(plan.changes.iter().any(|change| change.kind == "change table"), "{plan:?}");
    assert_eq!(a.rows("SELECT rowid, k, v, mine FROM t"), before);
    a.foreign("INSERT INTO t VALUES('d', 4, 'x')");
    assert_eq!(a.rows("SELECT n FROM seen"), a.rows("SELECT 4"));
    a.check();
}

fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("ISLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn definitions_of_several_authors_end_in_one(
        steps in prop::collection::vec((0..3usize, 0..3usize, 0..8u8, 0..6i64), 4..24)
    ) {
        let devices: Vec<Device> = (1..4).map(|n| Device::untracked(n, "")).collect();
        devices[0].store.apply_schema(FIRST).unwrap();
        devices[1].pull(&devices[0]);
        devices[2].pull(&devices[0]);
        let variants = [
            second(),
            FIRST.replace("stars INT DEFAULT 1", "stars INT DEFAULT 2 CHECK(stars > 0)"),
            FIRST.replace("shelf INT,", "shelf INT REFERENCES shelves(id) ON DELETE CASCADE,"),
            format!("{FIRST} CREATE UNIQUE INDEX one_note ON books(note);"),
            FIRST.replace("note VARCHAR(9))", "note VARCHAR(9), UNIQUE(title, shelf))"),
        ];
        for (device, other, what, n) in steps {
            let device = &devices[device];
            device.pass(7);
            match what {
                // Local constraints may refuse a write, and an author's own rows a definition.
                0 | 1 => drop(device.store.write(|tx| tx.execute(
                    &format!("INSERT OR IGNORE INTO books VALUES({n}{what}, 't{}', {n}, {}, 'n{}')", n % 3, n % 5 + 1, n % 4), []))),
                2 => drop(device.store.write(|tx| tx.execute(&format!("INSERT OR IGNORE INTO shelves VALUES({n}, 's')"), []))),
                3 => drop(device.store.write(|tx| tx.execute(&format!("DELETE FROM shelves WHERE id = {n}"), []))),
                4 => drop(device.store.write(|tx| tx.execute(&format!("UPDATE books SET title = 't{n}' WHERE id % 3 = 0"), []))),
                5 => drop(device.store.apply_schema(&variants[n as usize % variants.len()])),
                _ if !std::ptr::eq(device, &devices[other]) => device.pull(&devices[other]),
                _ => {}
            }
        }
        settle(&devices.iter().collect::<Vec<_>>());
        for device in &devices {
            device.foreign("INSERT INTO search(search) VALUES('integrity-check')");
            prop_assert_eq!(device.rows("SELECT * FROM pragma_foreign_key_check"), Vec::<String>::new());
            let shape = "SELECT sql FROM sqlite_schema WHERE tbl_name IN ('books', 'shelves') AND type IN ('table', 'index') ORDER BY name";
            prop_assert_eq!(device.rows(shape), devices[0].rows(shape));
        }
    }
}

#[test]
fn two_of_five_devices_migrate_at_once_while_the_others_write_the_old_way() {
    let devices: Vec<Device> = (1..6).map(|n| Device::untracked(n, "")).collect();
    let [a, b, old @ ..] = devices.as_slice() else { panic!("five") };
    a.store.apply_schema(FIRST).unwrap();
    a.run("INSERT INTO shelves VALUES(1, 'wood'); INSERT INTO books VALUES(1, 'Dune', 1, 4, 'n'), (2, 'Ubik', NULL, 5, 'm')");
    devices[1..].iter().for_each(|device| device.pull(a));
    // One makes the table anew, counts stars and adds a column; the other renames one, adds another and a local table.
    let one = FIRST.replace("stars INT DEFAULT 1, note VARCHAR(9))", "stars INT DEFAULT 2 CHECK(stars < 100), -- @merge counter\n note TEXT, pages INT DEFAULT 7, UNIQUE(title, shelf))");
    a.store.apply_schema(&one).unwrap();
    let other = FIRST.replace("note VARCHAR(9))", "remark VARCHAR(9), lent TEXT)").replace(
        "CREATE VIEW",
        "CREATE TABLE seen( -- @scope local\n book INT REFERENCES books ON DELETE CASCADE);\n CREATE VIEW",
    );
    b.store.apply_schema(&format!("-- @rename books.note -> remark\n{other}")).unwrap();
    for round in 0..4 {
        a.run("UPDATE books SET stars = stars + 1 WHERE id = 1");
        b.run(&format!(
            "UPDATE books SET remark = 'b{round}', lent = 'to {round}' WHERE id = 2; INSERT INTO seen VALUES(2)"
        ));
        for (n, device) in old.iter().enumerate() {
            device.pass(1);
            // They know the old names until they have heard of others.
            let note = device.rows("SELECT name FROM pragma_table_info('books') WHERE name = 'note'").len();
            let note = if note == 1 { "note" } else { "remark" };
            device.foreign(&format!(
                "INSERT OR IGNORE INTO books(id, title, shelf, {note}) VALUES({}, 'same', 1, 'd{n}'); UPDATE books SET {note} = 'o{n}' WHERE id = 1",
                100 * (n + 1) + round
            ));
        }
        // A ring, so that most hear of a migration from somebody who did not write it.
        for n in 0..devices.len() {
            devices[(n + round) % 5].pull(&devices[(n + round + 1) % 5]);
        }
    }
    settle(&devices.iter().collect::<Vec<_>>());
    let hidden = a.store.repaired(99).unwrap().len();
    assert!(hidden >= 2, "three wrote the title before they knew that it has to be unique");
    for device in &devices {
        assert_eq!(
            device.rows("SELECT stars, pages FROM books WHERE id = 1"),
            device.rows("SELECT 8, 7"),
            "every star that was counted"
        );
        assert_eq!(device.rows("SELECT count(*) FROM books WHERE title = 'same'"), device.rows("SELECT 1"));
        assert_eq!(device.store.repaired(99).unwrap().len(), hidden, "the others of the one title are hidden");
        assert_eq!(device.rows("SELECT remark, lent FROM books WHERE id = 2"), device.rows("SELECT 'b3', 'to 3'"));
        let columns = "SELECT group_concat(name, ' ') FROM (SELECT name FROM pragma_table_info('books') ORDER BY name)";
        assert_eq!(device.rows(columns), device.rows("SELECT 'id lent pages remark shelf stars title'"));
        assert_eq!(device.rows("SELECT rowid FROM search('ubik')"), device.rows("SELECT 2"));
    }
    assert_eq!(b.rows("SELECT count(*) FROM seen"), b.rows("SELECT 4"));
    assert_eq!(a.rows("SELECT count(*) FROM seen"), a.rows("SELECT 0"));
}

/// What an attack found, each as the shortest story that showed it.
mod found {
    use super::*;

    fn apply(device: &Device, sql: &str) {
        device.store.apply_schema(sql).unwrap();
    }

    fn two(sql: &str) -> (Device, Device) {
        let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
        apply(&a, sql);
        b.pull(&a);
        (a, b)
    }

    #[test]
    fn a_row_whose_author_did_not_know_a_column_has_what_the_column_began_with() {
        let (a, b) = two("CREATE TABLE t(id INTEGER PRIMARY KEY);");
        a.run("INSERT INTO t VALUES(1)");
        b.run("INSERT INTO t VALUES(2)");
        apply(&a, "CREATE TABLE t(id INTEGER PRIMARY KEY, z INT DEFAULT 5);");
        apply(&a, "CREATE TABLE t(id INTEGER PRIMARY KEY, z INT DEFAULT 9);");
        a.run("INSERT INTO t(id) VALUES(3)");
        let late = Device::untracked(3, "");
        settle(&[&a, &b, &late]);
        assert_eq!(late.rows("SELECT z FROM t ORDER BY id"), a.rows("SELECT 5 UNION ALL SELECT 5 UNION ALL SELECT 9"));
        let loses = "CREATE TABLE t(id INTEGER PRIMARY KEY, z INT DEFAULT 9, y INT NOT NULL DEFAULT 1);";
        apply(&a, loses);
        refused(a.store.apply_schema(&loses.replace(" DEFAULT 1", "")), "loses its default");
    }

    #[test]
    fn an_index_of_its_own_that_compares_otherwise_hides_elsewhere_and_is_refused_at_home() {
        let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, e TEXT); CREATE UNIQUE INDEX ix ON t(e);";
        let folded = sql.replace("e TEXT", "e TEXT COLLATE NOCASE");
        let (a, b) = two(sql);
        b.run("INSERT INTO t VALUES(2, 'Q'), (3, 'q')");
        apply(&a, &folded);
        refused(b.store.apply_schema(&folded), "share values");
        settle(&[&a, &b]);
        assert_eq!(b.rows("SELECT id FROM t"), b.rows("SELECT 2"));
        assert_eq!(b.rows("SELECT name FROM pragma_index_list('t')"), b.rows("SELECT 'ix'"));
    }

    #[test]
    fn a_constraint_that_deletes_or_passes_over_rows_is_refused() {
        let a = Device::untracked(1, "");
        for rule in ["UNIQUE ON CONFLICT REPLACE", "NOT NULL ON CONFLICT IGNORE"] {
            refused(
                a.store.apply_schema(&format!("CREATE TABLE t(id INTEGER PRIMARY KEY, e TEXT {rule});")),
                "ON CONFLICT",
            );
        }
    }

    #[test]
    fn a_table_that_returns_has_the_definition_of_today() {
        let (a, b) = two("CREATE TABLE t(id INTEGER PRIMARY KEY, e TEXT);");
        b.store.untrack("t").unwrap();
        apply(&a, "CREATE TABLE t(id INTEGER PRIMARY KEY, e TEXT UNIQUE);");
        b.pull(&a);
        b.store.track(&["t"]).unwrap();
        a.run("INSERT INTO t VALUES(1, 'x')");
        b.run("INSERT INTO t VALUES(2, 'x')");
        settle(&[&a, &b]);
        assert_eq!(b.rows("SELECT count(*) FROM t"), b.rows("SELECT 1"));
    }

    #[test]
    fn names_that_change_meanwhile_are_followed_by_definitions_and_indexes() {
        // A table that refers to itself, parents that swap names, a key that is renamed, an index under old names.
        let first = "CREATE TABLE p(id INTEGER PRIMARY KEY, k TEXT UNIQUE); CREATE TABLE q(id INTEGER PRIMARY KEY);
            CREATE TABLE t(id INTEGER PRIMARY KEY, up INT REFERENCES t(id), x TEXT REFERENCES p(k), y INT REFERENCES q, e TEXT);";
        let (a, b) = two(first);
        apply(
            &a,
            "-- @rename q -> r
             -- @rename p.k -> kk
             CREATE TABLE p(id INTEGER PRIMARY KEY, kk TEXT UNIQUE); CREATE TABLE r(id INTEGER PRIMARY KEY);",
        );
        apply(&a, "-- @rename p -> q\nCREATE TABLE q(id INTEGER PRIMARY KEY, kk TEXT UNIQUE);");
        apply(
            &a,
            "-- @rename t -> child\n-- @rename child.e -> f
             CREATE TABLE child(id INTEGER PRIMARY KEY, up INT REFERENCES child(id), x TEXT REFERENCES q(kk), y INT REFERENCES r, f TEXT);",
        );
        apply(&b, &first.replace("e TEXT)", "e TEXT, CHECK(id > 0)); CREATE UNIQUE INDEX one ON t(e) WHERE e <> '';"));
        settle(&[&a, &b]);
        for device in [&a, &b] {
            let keys = "SELECT \"table\" || '.' || ifnull(\"to\", '') FROM pragma_foreign_key_list('child') ORDER BY 1";
            assert_eq!(
                device.rows(keys),
                device.rows("SELECT 'child.id' UNION ALL SELECT 'q.kk' UNION ALL SELECT 'r.'")
            );
            assert_eq!(device.rows("SELECT name FROM pragma_index_info('one')"), device.rows("SELECT 'f'"));
        }
        a.run("INSERT INTO q VALUES(1, 'k'); INSERT INTO child VALUES(1, 1, 'k', NULL, 'f')");
        settle(&[&a, &b]);
    }

    #[test]
    fn two_columns_that_want_one_name_end_alike_everywhere() {
        for round in 0..4 {
            let (a, b) = two(&format!("CREATE TABLE t{round}(id INTEGER PRIMARY KEY, n INT, m INT);"));
            apply(
                &a,
                &format!("-- @rename t{round}.n -> r\nCREATE TABLE t{round}(id INTEGER PRIMARY KEY, r INT, m INT);"),
            );
            apply(
                &b,
                &format!("-- @rename t{round}.m -> r\nCREATE TABLE t{round}(id INTEGER PRIMARY KEY, n INT, r INT);"),
            );
            settle(&[&a, &b]);
            let names = format!("SELECT name FROM pragma_table_info('t{round}') ORDER BY name");
            assert_eq!(a.rows(&names), b.rows(&names));
        }
    }

    #[test]
    fn what_a_foreign_key_stands_on_is_not_taken_away() {
        let sql = "CREATE TABLE p(id INTEGER PRIMARY KEY, k TEXT UNIQUE); CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT REFERENCES p(k));";
        let (a, _) = two(sql);
        refused(a.store.apply_schema(&sql.replace(" UNIQUE", "")), "needs a UNIQUE index that goes");
    }

    #[test]
    fn a_kind_and_a_unique_rule_of_two_authors_both_hold() {
        let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT DEFAULT 0);";
        let (a, b) = two(sql);
        apply(&a, &format!("{sql} -- @merge counter"));
        apply(&b, &sql.replace("DEFAULT 0", "DEFAULT 0 UNIQUE"));
        settle(&[&a, &b]);
        a.run("INSERT INTO t VALUES(1, 5)");
        b.run("INSERT INTO t VALUES(2, 5), (3, 7)");
        settle(&[&a, &b]);
        a.run("UPDATE t SET n = n + 1 WHERE id = 1");
        b.run("UPDATE t SET n = n + 2 WHERE id = 3");
        settle(&[&a, &b]);
    }

    #[test]
    fn a_column_of_a_kind_can_be_renamed_and_dropped_where_files_are_numbered() {
        let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, -- @merge counter\n m INT); -- @merge max\n;";
        let (a, b) = two(sql);
        let later = format!("{sql}\n-- @rename t.n -> cnt\nALTER TABLE t RENAME COLUMN n TO cnt;");
        apply(&a, &later);
        apply(&a, &format!("{later}\n-- @drop t.m\nALTER TABLE t DROP COLUMN m;"));
        settle(&[&a, &b]);
        let dumped = b.store.dump_schema().unwrap();
        let plan = b.store.plan_schema(&dumped).unwrap();
        assert!(plan.changes.is_empty() && plan.refused.is_empty(), "{plan:?}\n{dumped}");
    }
}

#[test]
fn rows_step_aside_also_where_a_trigger_of_the_app_deletes_from_the_table() {
    let plain = "CREATE TABLE t(id INTEGER PRIMARY KEY, e TEXT);";
    for later in [plain.replace("e TEXT", "e TEXT UNIQUE"), format!("{plain} CREATE UNIQUE INDEX ix ON t(e);")] {
        let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
        a.store.apply_schema(plain).unwrap();
        b.pull(&a);
        b.foreign(
            "CREATE TRIGGER gone AFTER UPDATE ON t WHEN NEW.e = 'delete' BEGIN DELETE FROM t WHERE id = NEW.id; END",
        );
        b.run("INSERT INTO t VALUES(1, 'x'), (2, 'x')");
        a.store.apply_schema(&later).unwrap();
        settle(&[&a, &b]);
        assert_eq!(b.rows("SELECT id FROM t"), b.rows("SELECT 1"));
        // A merged update fires the trigger, which deletes nothing of what is replicated.
        a.run("INSERT INTO t VALUES(3, 'y'), (4, 'z')");
        settle(&[&a, &b]);
        a.run("UPDATE t SET e = 'delete' WHERE id = 3");
        settle(&[&a, &b]);
        assert_eq!(b.rows("SELECT count(*) FROM t WHERE id = 3"), b.rows("SELECT 1"));
    }
}
