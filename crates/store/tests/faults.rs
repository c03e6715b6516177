//! Hostile, damaged and misplaced input: a typed error or a reason to wait, no change of state, and good data
//! goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_changeset::{Header, RowKind, ValueRef, pack_key};
use isle_clock::{GroupId, Hlc, SiteId};
use isle_schema::{Column, ColumnId, Migration, Step, Table, TableId};
use isle_store::{Frame, Reason, StoreError, Waiting};
use support::forger::{Forger, insert};
use support::reference::{Sealed, tables};
use support::{Device, settle};

const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars)";

fn table(device: &Device, name: &str) -> Table {
    tables(device).into_iter().find(|table| table.name == name).unwrap()
}

/// Two replicas with one common row, and a version of the first that the second lacks.
fn pair() -> (Device, Device, Sealed) {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes VALUES(1, 'common', 1)");
    settle(&[&a, &b]);
    a.run("INSERT INTO notes VALUES(2, 'new', 2)");
    let sealed = a.export(a.site(), 2).unwrap();
    (a, b, sealed)
}

/// Waiting reasons after an apply that changes nothing.
fn waiting(device: &Device) -> Vec<(SiteId, u64, Waiting)> {
    let before = device.hash();
    let applied = device.store.apply().unwrap();
    assert_eq!(device.hash(), before, "something that must wait changed the state: {:?}", applied.waiting);
    applied.waiting
}

/// Whatever happened to `b` before: what `a` and an honest third replica write now reaches it.
fn good_data_goes_on(a: &Device, b: &Device) {
    let c = Device::new(9, NOTES);
    c.run("INSERT INTO notes VALUES(900, 'from a third', 9)");
    a.run("INSERT INTO notes VALUES(100, 'afterwards', 1)");
    b.pull(&c);
    b.pull(a);
    assert_eq!(b.rows("SELECT count(*) FROM notes WHERE id IN (100, 900)"), ["Integer(2)"]);
    a.pull(b);
    assert_eq!(a.hash(), b.hash());
    b.check();
}

#[test]
fn truncated_headers_and_blocks_are_refused() {
    let (a, b, (header, blocks)) = pair();
    let before = b.hash();
    for end in 0..header.len() {
        let error = b.store.put_header(&header[..end]).unwrap_err();
        assert!(matches!(error, StoreError::BadHeader { .. }), "{end}: {error}");
    }
    b.store.put_header(&header).unwrap();
    for end in 0..blocks[0].len() {
        let frame = Frame::Block { site: a.site(), version: 2, index: 0, bytes: &blocks[0][..end] };
        let error = b.store.put_frames(std::iter::once(frame)).unwrap_err();
        assert!(matches!(error, StoreError::BadChangeset { .. }), "{end}: {error}");
    }
    assert_eq!(waiting(&b), [(a.site(), 2, Waiting::Blocks)]);
    assert_eq!(b.hash(), before);
    good_data_goes_on(&a, &b);
}

#[test]
fn flipped_bits_in_a_block_are_refused() {
    let (a, b, (header, blocks)) = pair();
    b.store.put_header(&header).unwrap();
    for bit in 0..blocks[0].len() * 8 {
        let mut bytes = blocks[0].clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let frame = Frame::Block { site: a.site(), version: 2, index: 0, bytes: &bytes };
        let error = b.store.put_frames(std::iter::once(frame)).unwrap_err();
        assert!(matches!(error, StoreError::BadChangeset { .. }), "{bit}: {error}");
    }
    good_data_goes_on(&a, &b);
}

#[test]
fn flipped_bits_in_a_header_never_merge_the_block_and_never_stop_others() {
    let (_a, b, (header, blocks)) = pair();
    let c = Device::new(3, NOTES);
    let before = b.hash();
    // Not the time: nothing in the file can tell it from another time. Each flip gives the forged one room of its own.
    for bit in (0..header.len() * 8).step_by(3).filter(|bit| !(46 * 8..54 * 8).contains(bit)) {
        let mut bytes = header.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(parsed) = Header::decode(&bytes) else { continue };
        let block = Frame::Block { site: parsed.site, version: parsed.version, index: 0, bytes: &blocks[0] };
        match b.store.put_frames([Frame::Header(&bytes), block].into_iter()) {
            Err(
                StoreError::ForeignGroup { .. }
                | StoreError::Fork { .. }
                | StoreError::BadChangeset { .. }
                | StoreError::BadHeader { .. }
                | StoreError::TooFarAhead { .. },
            ) => {}
            Err(error) => panic!("bit {bit}: {error}"),
            Ok(_) => drop(waiting(&b)),
        }
        assert_eq!(b.hash(), before, "bit {bit}");
    }
    c.run("INSERT INTO notes VALUES(7, 'honest', 7)");
    b.pull(&c);
    assert_eq!(b.rows("SELECT count(*) FROM notes WHERE id = 7"), ["Integer(1)"]);
}

#[test]
fn reordered_and_doubled_frames_merge_once() {
    let (a, b, (header, blocks)) = pair();
    let block = || Frame::Block { site: a.site(), version: 2, index: 0, bytes: &blocks[0] };
    assert_eq!(b.store.put_frames([block(), block()].into_iter()).unwrap(), 0, "a block without header is of no use");
    let twice = [Frame::Header(&header), Frame::Header(&header)];
    assert_eq!(b.store.put_frames(twice.into_iter()).unwrap(), 1);
    assert_eq!(waiting(&b), [(a.site(), 2, Waiting::Blocks)]);
    b.store.put_frames([block(), block()].into_iter()).unwrap();
    assert_eq!(b.store.apply().unwrap().versions, 1);
    assert_eq!(b.store.put_frames([Frame::Header(&header), block()].into_iter()).unwrap(), 0);
    assert_eq!(b.store.apply().unwrap().versions, 0);
    good_data_goes_on(&a, &b);
}

#[test]
fn a_large_changeset_shows_nothing_until_its_last_block_is_here() {
    let (a, b, sealed) = pair();
    b.receive(&sealed.0, &sealed.1);
    b.store.apply().unwrap();
    a.run("INSERT INTO notes SELECT 10 + value, 'big', randomblob(400000) FROM (SELECT 1 AS value UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5)");
    let (header, blocks) = a.export(a.site(), 3).unwrap();
    assert!(blocks.len() > 1);
    b.store.put_header(&header).unwrap();
    for (index, bytes) in blocks.iter().enumerate().rev() {
        assert_eq!(waiting(&b), [(a.site(), 3, Waiting::Blocks)]);
        let mut broken = bytes.clone();
        broken[1000] ^= 1;
        let frame = |bytes| Frame::Block { site: a.site(), version: 3, index, bytes };
        assert!(b.store.put_frames(std::iter::once(frame(&broken))).is_err());
        b.store.put_frames(std::iter::once(frame(bytes))).unwrap();
    }
    assert_eq!(b.store.apply().unwrap().versions, 1);
    good_data_goes_on(&a, &b);
}

#[test]
fn a_changeset_of_another_group_is_refused() {
    let (a, b, sealed) = pair();
    let mut header = Header::decode(&sealed.0).unwrap();
    header.group = GroupId::from_bytes([8; 16]);
    let error = b.store.put_header(&header.encode()).unwrap_err();
    assert!(matches!(error, StoreError::ForeignGroup { .. }), "{error}");
    good_data_goes_on(&a, &b);
}

#[test]
fn a_version_from_the_future_waits_for_its_time_and_holds_up_nobody_else() {
    let (a, b, _) = pair();
    b.pull(&a);
    a.pass(3_600_000);
    a.run("INSERT INTO notes VALUES(3, 'of tomorrow', 3)");
    let (header, blocks) = a.export(a.site(), 3).unwrap();
    b.receive(&header, &blocks);
    assert!(matches!(waiting(&b)[..], [(_, 3, Waiting::Future(_))]));
    let c = Device::new(3, NOTES);
    c.run("INSERT INTO notes VALUES(4, 'of today', 4)");
    b.pull(&c);
    assert_eq!(b.rows("SELECT id FROM notes WHERE id > 2"), ["Integer(4)"]);
    b.run("INSERT INTO notes VALUES(5, 'own', 5)");
    let own = Header::decode(&b.export(b.site(), b.store.status().unwrap().version).unwrap().0).unwrap();
    assert!(own.hlc < Header::decode(&header).unwrap().hlc, "a future time that only waits has moved the own clock");
    b.pass(3_600_000);
    assert_eq!(b.store.apply().unwrap().versions, 1);
    good_data_goes_on(&a, &b);
}

#[test]
fn a_version_that_does_not_follow_its_chain_waits_and_the_true_one_still_comes() {
    let (a, b, sealed) = pair();
    let mut header = Header::decode(&sealed.0).unwrap();
    header.previous = [7; 32];
    match b.store.put_header(&header.encode()) {
        Err(error) => assert!(matches!(error, StoreError::BadChangeset { .. }), "{error}"),
        Ok(_) => assert!(matches!(waiting(&b)[..], [(_, 2, Waiting::Refused(_))])),
    }
    good_data_goes_on(&a, &b);
}

#[test]
fn a_second_version_of_one_number_is_a_fork_before_and_after_the_first_is_merged() {
    let (a, b, sealed) = pair();
    let mut other = Header::decode(&sealed.0).unwrap();
    other.hlc = Hlc::from_bits(other.hlc.bits() + 1).unwrap();
    let other = other.encode();
    b.receive(&sealed.0, &sealed.1);
    for _ in 0..2 {
        let error = b.store.put_header(&other).unwrap_err();
        assert!(matches!(error, StoreError::Fork { version: 2, .. }), "{error}");
        b.store.apply().unwrap();
    }
    let error = a.store.put_header(&other).unwrap_err();
    assert!(matches!(error, StoreError::Fork { version: 2, .. }), "{error}");
    let mut own = Header::decode(&other).unwrap();
    own.version = 77;
    let error = a.store.put_header(&own.encode()).unwrap_err();
    assert!(matches!(error, StoreError::Fork { version: 77, .. }), "an own version that was never written: {error}");
    good_data_goes_on(&a, &b);
}

#[test]
fn a_version_under_an_unknown_schema_waits_for_the_operation() {
    let (a, b, _) = pair();
    b.pull(&a);
    a.foreign("CREATE TABLE more(id INTEGER PRIMARY KEY, v)");
    a.store.track(&["more"]).unwrap();
    a.run("INSERT INTO more VALUES(1, 'x')");
    let (header, blocks) = a.export(a.site(), 3).unwrap();
    b.receive(&header, &blocks);
    let head = a.store.schema_heads().unwrap()[0];
    assert_eq!(waiting(&b), [(a.site(), 3, Waiting::Schema(head))]);
    b.store.put_migration(&a.store.migration(head).unwrap().unwrap()).unwrap();
    assert_eq!(b.store.apply().unwrap().versions, 1);
    assert_eq!(b.rows("SELECT id FROM more"), ["Integer(1)"]);
    good_data_goes_on(&a, &b);
}

#[test]
fn a_claimed_cause_that_never_comes_holds_up_its_author_only() {
    let (a, b, _) = pair();
    let notes = table(&b, "notes");
    let mut forger = Forger::new(0xee, &b);
    let ghost = SiteId::from_bytes([0xdd; 16]);
    let row = insert(&notes, ValueRef::Integer(50), ValueRef::Integer(1));
    let (header, blocks) = forger.seal(notes.id, &row, |header| {
        header.causes = vec![isle_changeset::Cause { site: ghost, version: 5, hlc: Hlc::ZERO }];
    });
    b.receive(&header, &blocks);
    assert_eq!(waiting(&b), [(forger.site, 1, Waiting::Cause { site: ghost, version: 5 })]);
    good_data_goes_on(&a, &b);
}

#[test]
fn rows_of_a_table_that_no_operation_declares_hold_their_changeset() {
    let (a, b, _) = pair();
    let notes = table(&b, "notes");
    let mut forger = Forger::new(0xee, &b);
    let row = insert(&notes, ValueRef::Integer(50), ValueRef::Integer(1));
    let (header, blocks) = forger.seal(TableId::from_bytes([9; 16]), &row, |_| {});
    b.receive(&header, &blocks);
    assert!(
        matches!(waiting(&b)[..], [(_, 1, Waiting::Refused(_))]),
        "semantics §8: an unknown id holds the whole changeset"
    );
    good_data_goes_on(&a, &b);
}

#[test]
fn a_column_that_no_operation_declares_and_a_wrong_number_of_keys_are_refused() {
    let (a, b, _) = pair();
    let notes = table(&b, "notes");
    let value = ValueRef::Integer(1);
    let rows = [
        (RowKind::Insert, 1, vec![value], vec![(ColumnId::from_bytes([5; 16]), value)]),
        (RowKind::Insert, 1, vec![value, value], vec![(notes.columns[0].id, value)]),
    ];
    for (n, row) in rows.iter().enumerate() {
        let mut forger = Forger::new(0xe0 + n as u8, &b);
        let (header, blocks) = forger.seal(notes.id, row, |_| {});
        b.receive(&header, &blocks);
        assert!(waiting(&b).iter().any(|w| w.0 == forger.site && matches!(w.2, Waiting::Refused(_))));
    }
    good_data_goes_on(&a, &b);
}

#[test]
fn a_delete_of_a_row_that_was_never_seen_shows_nothing() {
    let (a, b, _) = pair();
    let notes = table(&b, "notes");
    let mut forger = Forger::new(0xee, &b);
    let row = (RowKind::Delete, 2, vec![ValueRef::Integer(50)], vec![]);
    let (header, blocks) = forger.seal(notes.id, &row, |_| {});
    b.receive(&header, &blocks);
    assert!(waiting(&b).is_empty());
    a.receive(&header, &blocks);
    a.store.apply().unwrap();
    good_data_goes_on(&a, &b);
    a.run("INSERT INTO notes VALUES(50, 'a new life', 1)");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT count(*) FROM notes WHERE id = 50"), ["Integer(1)"]);
}

#[test]
fn an_update_of_a_row_that_was_never_seen_goes_to_the_journal() {
    let (a, b, _) = pair();
    let notes = table(&b, "notes");
    let mut forger = Forger::new(0xee, &b);
    let row = (RowKind::Update, 1, vec![ValueRef::Integer(50)], vec![(notes.columns[0].id, ValueRef::Text(b"torn"))]);
    let (header, blocks) = forger.seal(notes.id, &row, |_| {});
    b.receive(&header, &blocks);
    assert!(waiting(&b).is_empty());
    let journal = b.store.conflicts(false, 10).unwrap();
    assert!(matches!(&journal[..], [one] if one.reason == Reason::Unknown && one.site == Some(forger.site)));
    a.receive(&header, &blocks);
    a.store.apply().unwrap();
    good_data_goes_on(&a, &b);
}

/// Sends one forged row to `b`: it must be held or merged into a file that is still sound, and stop nobody.
fn forged_key(schema: &str, name: &str, key: ValueRef<'_>, exact: Option<&[u8]>) {
    let (a, b) = (Device::new(1, schema), Device::new(2, schema));
    a.run(&format!("INSERT INTO {name} VALUES(1, 'one'), (2, 'two')"));
    settle(&[&a, &b]);
    let table = table(&b, name);
    let mut row = insert(&table, key, ValueRef::Text(b"forged"));
    row.3.splice(0..0, exact.map(|exact| (ColumnId::KEY, ValueRef::Blob(exact))));
    let mut forger = Forger::new(0xee, &b);
    let (header, blocks) = forger.seal(table.id, &row, |_| {});
    b.receive(&header, &blocks);
    if let Err(error) = b.store.apply() {
        panic!("key {key:?}: one forged row stops every merge for ever: {error}");
    }
    b.check();
    a.run(&format!("INSERT INTO {name} VALUES(3, 'three')"));
    b.pull(&a);
    assert_eq!(
        b.rows(&format!("SELECT count(*) FROM {name} WHERE v IN ('one', 'two', 'three')")),
        ["Integer(3)"],
        "{key:?}"
    );
    b.check();
}

#[test]
fn a_forged_key_of_a_type_that_the_key_cannot_hold_stops_nobody() {
    for key in [
        ValueRef::Text(b"x"),
        ValueRef::Text(b"7"),
        ValueRef::Blob(b"x"),
        ValueRef::Real(1.5),
        ValueRef::Real(f64::NAN),
    ] {
        forged_key("CREATE TABLE t(id INTEGER PRIMARY KEY, v)", "t", key, None);
    }
}

#[test]
fn a_forged_key_that_is_not_canonical_makes_no_second_clock() {
    forged_key("CREATE TABLE t(id INTEGER PRIMARY KEY, v)", "t", ValueRef::Real(1.0), None);
    let text = "CREATE TABLE t(id TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID";
    for key in [ValueRef::Text(b"ABC"), ValueRef::Integer(1), ValueRef::Real(f64::NAN)] {
        forged_key(text, "t", key, None);
    }
    forged_key("CREATE TABLE t(id NUMERIC PRIMARY KEY, v) WITHOUT ROWID", "t", ValueRef::Text(b"1"), None);
}

#[test]
fn a_forged_exact_key_does_not_write_another_row() {
    let one = pack_key(&[ValueRef::Text(b"1")]);
    forged_key("CREATE TABLE t(id TEXT COLLATE NOCASE PRIMARY KEY, v)", "t", ValueRef::Text(b"9"), Some(&one));
    let one = pack_key(&[ValueRef::Integer(1)]);
    forged_key("CREATE TABLE t(id INTEGER PRIMARY KEY, v)", "t", ValueRef::Integer(9), Some(&one));
}

#[test]
fn a_value_that_a_constraint_of_this_file_refuses_stops_nobody() {
    let loose = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    for tight in [
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v INT NOT NULL)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v INT) STRICT",
    ] {
        let (a, b, c) = (Device::new(1, loose), Device::new(2, tight), Device::new(3, tight));
        b.run("INSERT INTO t VALUES(1, 1)");
        a.pull(&b);
        a.run("UPDATE t SET v = CASE WHEN v = 1 THEN NULL END; INSERT INTO t VALUES(2, NULL), (3, 'text')");
        c.run("INSERT INTO t VALUES(4, 4)");
        b.pull(&c);
        for head in a.store.schema_heads().unwrap() {
            b.store.put_migration(&a.store.migration(head).unwrap().unwrap()).unwrap();
        }
        for version in 1..=a.store.status().unwrap().version {
            let (header, blocks) = a.export(a.site(), version).unwrap();
            b.receive(&header, &blocks);
        }
        if let Err(error) = b.store.apply() {
            panic!("{tight}: one row stops every merge for ever: {error}");
        }
    }
}

#[test]
fn broken_schema_operations_are_refused_and_leave_nothing() {
    let (a, b, _) = pair();
    let (before, tables) = (b.hash(), b.rows("SELECT name FROM sqlite_schema ORDER BY 1"));
    let body = a.store.migration(a.store.schema_heads().unwrap()[0]).unwrap().unwrap();
    assert!(matches!(b.store.put_migration(b""), Err(StoreError::Migration(_))));
    assert!(matches!(b.store.put_migration(&body[..body.len() - 1]), Err(StoreError::Migration(_))));
    let (_, mut evil) = Migration::decode(&body).unwrap();
    for sql in [
        "CREATE TABLE t2(id INTEGER PRIMARY KEY) /* not the table */",
        "DROP TABLE notes",
        "DELETE FROM notes",
        "CREATE TABLE other AS SELECT * FROM notes",
        "CREATE TRIGGER evil AFTER INSERT ON notes BEGIN DELETE FROM notes; END",
        "ATTACH '/tmp/evil.db' AS evil",
        "PRAGMA writable_schema = 1",
        "no sql at all",
    ] {
        let Step::CreateTable(definition) = &mut evil.steps[0] else { panic!("another step") };
        let key = definition.table.key.clone();
        definition.table = Table::new("test", "evil", key, &["title"], true);
        definition.create_sql = sql.into();
        let (_, body) = evil.encode().unwrap();
        assert!(b.store.put_migration(&body).is_err(), "{sql}");
        assert_eq!(b.rows("SELECT name FROM sqlite_schema ORDER BY 1"), tables, "{sql}");
    }
    assert_eq!(b.hash(), before);
    good_data_goes_on(&a, &b);
}

#[test]
fn a_hostile_column_runs_nothing_beside_itself() {
    let (a, b, _) = pair();
    let (before, schema) = (b.hash(), b.rows("SELECT name, sql FROM sqlite_schema ORDER BY 1"));
    let parent = a.store.schema_heads().unwrap()[0];
    let body = a.store.migration(parent).unwrap().unwrap();
    let (_, create) = Migration::decode(&body).unwrap();
    let Step::CreateTable(notes) = &create.steps[0] else { panic!("another step") };
    let table = notes.table.id;
    let column = Column { id: ColumnId::derive(table, "evil", 0), name: "evil".into() };
    let refused = |step: Step, what: &str| {
        let evil = Migration { app: create.app.clone(), parents: vec![parent], steps: vec![step] };
        let refused = b.store.put_migration(&evil.encode().unwrap().1);
        assert!(refused.is_err(), "{what}: {refused:?}");
        assert_eq!(b.rows("SELECT name, sql FROM sqlite_schema ORDER BY 1"), schema, "{what}");
        assert_eq!(b.hash(), before, "{what}");
    };
    for definition in [
        "\"evil\" INT; DROP TABLE notes",
        "\"evil\" INT; DELETE FROM notes",
        "\"evil\" INT CHECK(\"evil\" IS NULL)",
        "\"evil\" INT UNIQUE",
        "\"evil\" INT AS (title)",
        "\"evil\" INT, \"more\" INT",
        "",
    ] {
        let column = column.clone();
        refused(Step::AddColumn { table, column, birth: 0, definition: definition.into() }, definition);
    }
    for sql in [
        "CREATE TABLE notes AS SELECT 1 AS id, 2 AS title, 3 AS evil",
        "CREATE TABLE notes(id INTEGER PRIMARY KEY, title, evil); CREATE TABLE more(id)",
        "PRAGMA writable_schema = 1",
    ] {
        let mut born = notes.clone();
        born.table.columns.push(column.clone());
        born.create_sql = sql.into();
        refused(Step::CreateTable(born), sql);
    }
    good_data_goes_on(&a, &b);
}

#[test]
fn an_operation_whose_table_stands_here_under_another_key_is_refused() {
    let (a, _, _) = pair();
    let b = Device::new(5, "CREATE TABLE notes(id TEXT PRIMARY KEY, title TEXT, stars)");
    let body = a.store.migration(a.store.schema_heads().unwrap()[0]).unwrap().unwrap();
    let error = b.store.put_migration(&body).unwrap_err();
    assert!(matches!(error, StoreError::SchemaConflict { .. }), "{error}");
    b.run("INSERT INTO notes VALUES('x', 'still works', 1)");
    b.check();
}
