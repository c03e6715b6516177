//! A schema operation that cannot be applied stops nobody: what needs it is kept, passed on, and merged once it can be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_clock::Hlc;
use isle_schema::{Column, ColumnId, Migration, MigrationId, Step, Table};
use isle_store::{Hindrance, StoreError, Waiting};
use proptest::prelude::*;
use support::{Device, cases, settle};

const FIRST: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a);";
/// In `b` a table of its own stands in the way of `u`, and so of `c` and `n`.
const SECOND: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, c TEXT, n INT DEFAULT 0); -- @merge counter
    CREATE TABLE u(id INTEGER PRIMARY KEY, x);";
const IN_THE_WAY: &str = "CREATE TABLE u(id TEXT PRIMARY KEY, mine); INSERT INTO u VALUES('k', 'stays')";

fn second() -> String {
    SECOND.replace("DEFAULT 0); -- @merge counter", "DEFAULT 0 -- @merge counter\n);")
}

/// Three devices that share `t`; in the second one, a table stands in the way of what comes.
fn three() -> (Device, Device, Device) {
    let devices = [1, 2, 3].map(|n| Device::untracked(n, ""));
    devices[0].store.apply_schema(FIRST).unwrap();
    settle(&devices.each_ref());
    devices[1].foreign(IN_THE_WAY);
    let [a, b, c] = devices;
    (a, b, c)
}

/// The table as it was born.
fn table_t(device: &Device) -> Table {
    let operations = device.operations();
    let operations = operations.iter().map(|body| Migration::decode(body).unwrap().1);
    let born: Vec<Table> =
        operations.flat_map(|op| op.tables().map(|born| born.table.clone()).collect::<Vec<_>>()).collect();
    born.into_iter().find(|table| table.name == "t").unwrap()
}

fn head(device: &Device) -> MigrationId {
    let heads = device.store.schema_heads().unwrap();
    assert_eq!(heads.len(), 1);
    heads[0]
}

/// The table goes that stands in the way, and the operation is tried again.
fn make_way(device: &Device) {
    device.foreign("ALTER TABLE u RENAME TO my_u");
    device.store.retry_operations().unwrap();
    assert!(device.store.pending_operations().unwrap().is_empty());
    assert!(device.store.parked().unwrap().is_empty());
}

#[test]
fn what_needs_an_operation_that_does_not_fit_waits_and_all_else_is_merged() {
    let (a, mut b, c) = three();
    a.run("INSERT INTO t VALUES(1, 'before'), (2, 'before')");
    settle(&[&a, &b, &c]);
    a.store.apply_schema(&second()).unwrap();
    a.run("UPDATE t SET a = 'after', c = 'new', n = n + 5 WHERE id = 1");
    a.run("INSERT INTO t(id, a, c) VALUES(3, 'third', 'c3')");
    a.run("INSERT INTO u VALUES(1, 'x')");
    a.run("DELETE FROM t WHERE id = 2");
    b.pull_what_fits(&a);
    assert_eq!(
        b.rows("SELECT * FROM t"),
        ["Integer(1)|Text([97, 102, 116, 101, 114])", "Integer(3)|Text([116, 104, 105, 114, 100])"]
    );
    assert_eq!(b.rows("SELECT mine FROM u"), b.rows("SELECT 'stays'"));
    assert_eq!(b.store.vector().unwrap(), a.store.vector().unwrap(), "nothing is fetched again and again");

    let pending = b.store.pending_operations().unwrap();
    assert_eq!(pending.len(), 1);
    assert!(matches!(&pending[0].hindrance, Hindrance::Blocked { reason } if reason.contains("\"u\"")), "{pending:?}");
    assert!(pending[0].steps.iter().any(|step| step.contains('u')), "{pending:?}");
    let mut parked = b.store.parked().unwrap();
    parked.sort_by(|x, y| x.table.cmp(&y.table));
    let told: Vec<_> = parked.iter().map(|p| (p.table.as_deref(), p.columns.join(" "), p.changesets)).collect();
    assert_eq!(told, [(Some("t"), "c n".to_owned(), 2), (Some("u"), String::new(), 1)]);
    assert_eq!(parked[0].needs, [head(&a)]);
    let state = b.store.schema_state().unwrap();
    assert_eq!((state.pending.len(), state.parked, state.operations), (1, 3, 1));

    // What it wrote meanwhile merges everywhere, and all of it has come once nothing stands in the way.
    b.run("UPDATE t SET a = 'by b' WHERE id = 3");
    b.restart();
    b.check();
    for device in [&a, &c] {
        device.pull(&b);
    }
    make_way(&b);
    b.check();
    assert_eq!(b.rows("SELECT * FROM u"), a.rows("SELECT * FROM u"));
    assert_eq!(b.rows("SELECT * FROM t"), a.rows("SELECT * FROM t"));
    assert_eq!(b.rows("SELECT n FROM t WHERE id = 1"), ["Integer(5)"]);
    settle(&[&a, &b, &c]);
    for device in [&a, &b, &c] {
        assert!(device.store.conflicts(true, 10).unwrap().is_empty(), "nobody wrote a cell that another wrote");
    }
}

#[test]
fn a_device_passes_on_what_it_cannot_apply() {
    let (a, b, c) = three();
    a.store.apply_schema(&second()).unwrap();
    a.run("INSERT INTO u VALUES(1, 'x')");
    a.run("INSERT INTO t VALUES(1, 'a', 'c', 2)");
    // A third version that follows it.
    a.store.apply_schema(&format!("{} CREATE INDEX by_c ON t(c);", second())).unwrap();
    b.pull_what_fits(&a);
    let pending = b.store.pending_operations().unwrap();
    assert_eq!(pending.len(), 2);
    assert_eq!(pending[1].hindrance, Hindrance::Follows(pending[0].id));
    assert_eq!(b.store.schema_heads().unwrap(), [pending[1].id], "it is offered to others");
    // The only way from `a` to `c` leads through `b`.
    c.pull(&b);
    assert_eq!(c.hash(), a.hash());
    make_way(&b);
    settle(&[&a, &b, &c]);
}

#[test]
fn an_operation_waits_for_one_that_has_not_come() {
    let (a, b, _) = three();
    b.foreign("DROP TABLE u");
    a.store.apply_schema(&format!("{FIRST} CREATE TABLE more(id INTEGER PRIMARY KEY);")).unwrap();
    let first = head(&a);
    a.store.apply_schema(&format!("{FIRST} CREATE TABLE more(id INTEGER PRIMARY KEY, x);")).unwrap();
    let operations = a.operations();
    let (id, taken) = b.store.take_migration(operations.last().unwrap()).unwrap();
    assert_eq!((id, taken), (head(&a), Some(Hindrance::Follows(first))));
    assert_eq!(b.store.missing_operations().unwrap(), [first]);
    assert_eq!(b.rows("SELECT count(*) FROM pragma_table_info('more')"), ["Integer(0)"]);
    b.store.take_migration(&operations[operations.len() - 2]).unwrap();
    assert!(b.store.missing_operations().unwrap().is_empty() && b.store.pending_operations().unwrap().is_empty());
    assert_eq!(b.rows("SELECT count(*) FROM pragma_table_info('more')"), ["Integer(2)"]);
    settle(&[&a, &b]);
}

#[test]
fn an_operation_of_a_newer_isle_is_kept_and_passed_on_and_its_writers_rows_are_merged_as_far_as_they_can_be() {
    let (a, b, c) = three();
    // A step that nobody knows yet: the last byte is the number of steps.
    let (_, plain) = Migration { app: "test".into(), parents: vec![head(&a)], steps: vec![] }.encode().unwrap();
    let unknown = [&plain[..plain.len() - 1], &[1, 99]].concat();
    let id = MigrationId::of(&unknown);
    assert_eq!(b.store.take_migration(&unknown).unwrap(), (id, Some(Hindrance::NewerIsle)));
    assert_eq!(b.store.take_migration(&unknown).unwrap(), (id, Some(Hindrance::NewerIsle)));
    assert!(b.store.schema_heads().unwrap().contains(&id));
    assert_eq!(b.store.migration(id).unwrap().unwrap(), unknown);
    for (other, body) in b.store.schema_ops_beyond(&Default::default()).unwrap() {
        assert_eq!(c.store.take_migration(&body).unwrap().0, other);
    }
    assert!(c.store.has_migration(id).unwrap());
    let mut forger = support::forger::Forger::new(9, &a);
    let table = table_t(&a);
    let row =
        support::forger::insert(&table, isle_changeset::ValueRef::Integer(7), isle_changeset::ValueRef::Text(b"x"));
    let sealed = forger.seal(table.id, &row, |header| header.heads = vec![id]);
    b.receive(&sealed.0, &sealed.1);
    assert!(b.store.apply().unwrap().waiting.is_empty());
    assert_eq!(b.rows("SELECT a FROM t WHERE id = 7"), b.rows("SELECT 'x'"));
    b.check();
    assert_eq!(b.store.retry_operations().unwrap(), 0);
    // There is an end to what somebody may make up.
    let made_up = |n: u16| [&plain[..plain.len() - 1], &[1, 99], &n.to_be_bytes()[..]].concat();
    for n in 0..300u16 {
        b.store.take_migration(&made_up(n)).unwrap();
    }
    assert_eq!(b.store.pending_operations().unwrap().len(), 256);
    // What somebody has made up can be given up, with what came under it.
    let mut column = table_t(&a);
    column.columns = vec![Column { id: ColumnId::derive(column.id, "nobodys", 0), name: "nobodys".into() }];
    let mut other = support::forger::Forger::new(10, &a);
    let row =
        support::forger::insert(&column, isle_changeset::ValueRef::Integer(8), isle_changeset::ValueRef::Text(b"x"));
    let sealed = other.seal(column.id, &row, |header| header.heads = vec![id]);
    b.receive(&sealed.0, &sealed.1);
    b.store.apply().unwrap();
    assert_eq!(b.store.parked().unwrap().len(), 1);
    assert_eq!(b.store.forget_operation(id).unwrap(), 1);
    assert!(b.store.parked().unwrap().is_empty() && b.store.is_whole().unwrap());
    assert!(b.store.forget_operation(id).is_err());
    b.store.take_migration(&unknown).unwrap();
    assert!(b.store.pending_operations().unwrap().iter().all(|waits| waits.id != id));
    let next = other.seal(column.id, &row, |header| header.heads = vec![id]);
    b.receive(&next.0, &next.1);
    assert!(matches!(b.store.apply().unwrap().waiting[..], [(_, 2, Waiting::Refused(_))]));
}

/// Two devices made tables of one name with other keys before they heard of each other.
#[test]
fn a_name_that_two_tables_have_is_settled_by_one_rename() {
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    let of_a = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT UNIQUE, up INT REFERENCES notes(id));
                CREATE INDEX by_title ON notes(title);";
    let of_b = "CREATE TABLE notes(id TEXT PRIMARY KEY, body TEXT); CREATE TABLE tags(id INTEGER PRIMARY KEY);";
    a.store.apply_schema(of_a).unwrap();
    b.store.apply_schema(of_b).unwrap();
    a.run("INSERT INTO notes VALUES(1, 'Dune', NULL), (2, 'Ubik', 1)");
    b.run("INSERT INTO notes VALUES('k', 'a body'); INSERT INTO tags VALUES(7)");
    for (to, from) in [(&a, &b), (&b, &a)] {
        to.pull_what_fits(from);
        let pending = to.store.pending_operations().unwrap();
        assert!(matches!(&pending[0].hindrance, Hindrance::Blocked { reason } if reason.contains("-- @rename notes")));
        to.check();
    }
    let renamed = of_a.replace("notes", "memos");
    a.store.apply_schema(&format!("{renamed} -- @rename notes -> memos")).unwrap();
    a.run("INSERT INTO memos VALUES(3, 'Solaris', 2)");
    for (to, from) in [(&a, &b), (&b, &a)] {
        to.pull_what_fits(from);
        to.store.retry_operations().unwrap();
        assert_eq!(to.store.pending_operations().unwrap(), []);
    }
    for device in [&a, &b] {
        assert_eq!(
            device.rows("SELECT id, up FROM memos"),
            a.rows("SELECT column1, column2 FROM (VALUES(1, NULL), (2, 1), (3, 2))")
        );
        assert_eq!(device.rows("SELECT body FROM notes"), a.rows("SELECT 'a body'"));
        assert_eq!(device.rows("SELECT id FROM tags"), ["Integer(7)"]);
        assert_eq!(device.rows("SELECT tbl_name FROM sqlite_schema WHERE name = 'by_title'"), a.rows("SELECT 'memos'"));
        assert_eq!(device.rows("SELECT \"table\" FROM pragma_foreign_key_list('memos')"), a.rows("SELECT 'memos'"));
    }
    let late = Device::untracked(3, "");
    late.pull_what_fits(&b);
    late.store.retry_operations().unwrap();
    settle(&[&a, &b, &late]);
    for device in [&a, &b, &late] {
        assert!(device.store.plan_schema(&renamed).unwrap().changes.is_empty());
    }
}

#[test]
fn garbage_is_no_operation_of_a_newer_isle() {
    let (a, b, _) = three();
    let body = a.operations().remove(0);
    for broken in [&b""[..], b"ISLX\x02", &body[..body.len() - 1]] {
        assert!(matches!(b.store.take_migration(broken), Err(StoreError::Migration(_))), "{broken:?}");
    }
    let (_, mut evil) = Migration::decode(&body).unwrap();
    let Step::CreateTable(born) = &mut evil.steps[0] else { panic!("another step") };
    let key = born.table.key.clone();
    born.table = Table::new("test", "isle_mine", key, &["a"], true);
    born.create_sql = "CREATE TABLE isle_mine(id INTEGER PRIMARY KEY, a)".into();
    let refused = b.store.take_migration(&evil.encode().unwrap().1).unwrap_err();
    assert!(matches!(refused, StoreError::OperationRefused { .. }), "{refused}");
    assert!(b.store.pending_operations().unwrap().is_empty());
}

#[test]
fn nothing_that_is_missing_leaves_the_log_or_is_missing_in_a_snapshot() {
    let (a, b, c) = three();
    a.store.apply_schema(&second()).unwrap();
    a.run("INSERT INTO t VALUES(1, 'a', 'c', 2)");
    b.pull_what_fits(&a);
    let parked = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::Parked { count: 1 })), "{result:?}");
    };
    parked(b.store.prune_log(Hlc::MAX).map(drop));
    parked(b.store.export_snapshot(|_| Ok(())).map(drop));
    assert!(!b.store.is_whole().unwrap());
    make_way(&b);
    assert!(b.store.is_whole().unwrap());
    b.store.export_snapshot(|_| Ok::<_, StoreError>(())).unwrap();
    settle(&[&a, &b, &c]);
}

#[test]
fn a_column_that_nobody_here_knows_is_refused_unless_its_author_knew_more() {
    let (a, b, _) = three();
    a.store.apply_schema(&second()).unwrap();
    a.run("INSERT INTO t VALUES(1, 'a', 'c', 2)");
    for operation in a.operations() {
        b.store.take_migration(&operation).unwrap();
    }
    let mut table = table_t(&a);
    table.columns = vec![Column { id: ColumnId::derive(table.id, "c", 0), name: "c".into() }];
    let mut forger = support::forger::Forger::new(9, &b);
    let row =
        support::forger::insert(&table, isle_changeset::ValueRef::Integer(7), isle_changeset::ValueRef::Text(b"x"));
    let known = b.store.schema_state().unwrap().heads;
    let sealed = forger.seal(table.id, &row, |header| header.heads = known);
    b.receive(&sealed.0, &sealed.1);
    assert_eq!(b.store.apply().unwrap().waiting.len(), 1, "it says that it knew no more than what is here");
    assert!(b.store.parked().unwrap().is_empty());
}

#[test]
fn whoever_has_not_applied_an_operation_refuses_what_others_refuse() {
    let (a, b, _) = three();
    a.store.apply_schema(&second()).unwrap();
    b.pull_what_fits(&a);
    let other = Table::new("test", "nobodys", table_t(&a).key, &["a"], true);
    let mut column = table_t(&a);
    column.columns = vec![Column { id: ColumnId::derive(column.id, "nobodys", 0), name: "nobodys".into() }];
    let mut kind = table_t(&a);
    kind.columns = vec![Column { id: kind.columns[0].id.of_kind(isle_schema::Kind::Max), name: "a".into() }];
    for (n, table) in [other, column, kind].iter().enumerate() {
        let mut forger = support::forger::Forger::new(20 + n as u8, &a);
        let value = isle_changeset::ValueRef::Text(b"x");
        let row = support::forger::insert(table, isle_changeset::ValueRef::Integer(7), value);
        let sealed = forger.seal(table.id, &row, |_| {});
        for device in [&a, &b] {
            device.receive(&sealed.0, &sealed.1);
            let waiting = device.store.apply().unwrap().waiting;
            let refused =
                waiting.iter().any(|(site, _, why)| *site == forger.site && matches!(why, Waiting::Refused(_)));
            assert!(refused, "{}: {waiting:?}", table.name);
        }
    }
    assert!(b.store.parked().unwrap().is_empty());
}

#[test]
fn what_is_parked_is_not_for_a_later_life_of_its_row() {
    let (a, b, c) = three();
    a.store.apply_schema(&second()).unwrap();
    a.run("INSERT INTO t VALUES(7, 'a', 'old', 2)");
    a.run("DELETE FROM t");
    b.pull_what_fits(&a);
    c.pull(&a);
    let all = a.store.vector().unwrap();
    a.store.collect(&all).unwrap();
    a.run("INSERT INTO t VALUES(1, 'tells the floor', 'x', 0)");
    b.pull_what_fits(&a);
    assert_eq!(b.store.tombstones().unwrap(), 0);
    b.run("INSERT INTO t(id, a) VALUES(7, 'new life')");
    a.pull(&b);
    make_way(&b);
    settle(&[&a, &b, &c]);
    assert_eq!(b.rows("SELECT c, n FROM t WHERE id = 7"), ["Null|Integer(0)"]);
}

#[test]
fn a_long_chain_behind_a_blocked_operation_comes_with_it() {
    let (a, b, _) = three();
    a.store.apply_schema(&second()).unwrap();
    let mut parent = head(&a);
    let mut bodies = a.operations();
    for n in 0..200u32 {
        let steps = vec![Step::SetVersion(isle_schema::Version::parse(&format!("1.0.{n}")).unwrap())];
        let (id, body) = Migration { app: "test".into(), parents: vec![parent], steps }.encode().unwrap();
        parent = id;
        bodies.push(body);
    }
    for body in &bodies {
        b.store.take_migration(body).unwrap();
    }
    assert_eq!(b.store.pending_operations().unwrap().len(), 201);
    assert_eq!(b.store.retry_operations().unwrap(), 0);
    make_way(&b);
    assert_eq!(b.store.schema_state().unwrap().version.unwrap().to_string(), "1.0.199");
}

#[test]
fn what_lost_while_it_could_not_be_seen_is_in_the_journal_once() {
    let (a, b, c) = three();
    a.store.apply_schema(&second()).unwrap();
    a.run("INSERT INTO t(id, a, c) VALUES(1, 'a', 'first'), (2, 'a', 'kept'), (3, 'a', 'x')");
    c.pull(&a);
    // Two writes of one cell at once, and a row that goes while it is written.
    a.run("UPDATE t SET c = 'of a' WHERE id = 1");
    c.pass(5);
    c.run("UPDATE t SET c = 'of c' WHERE id = 1");
    a.run("UPDATE t SET c = 'gone' WHERE id = 2");
    c.run("DELETE FROM t WHERE id = 2");
    // A row that goes after its author saw all of it: nothing is lost.
    a.run("UPDATE t SET c = 'y' WHERE id = 3");
    b.pull_what_fits(&a);
    b.pull_what_fits(&c);
    c.pull(&a);
    c.run("DELETE FROM t WHERE id = 3");
    b.pull_what_fits(&c);
    assert!(b.rows("SELECT id FROM t WHERE id > 1").is_empty());
    make_way(&b);
    settle(&[&a, &b, &c]);
    let lost = |device: &Device| {
        let mut lost: Vec<String> = device
            .store
            .conflicts(true, 100)
            .unwrap()
            .iter()
            .map(|c| format!("{:?} {:?}", c.column, c.value))
            .collect();
        lost.sort();
        lost
    };
    assert_eq!(lost(&b), lost(&c));
    assert_eq!(lost(&b).len(), 2, "{:?}", lost(&b));
}

#[test]
fn a_row_that_was_collected_meanwhile_stays_away() {
    let (a, b, c) = three();
    a.store.apply_schema(&second()).unwrap();
    a.run("INSERT INTO t VALUES(1, 'a', 'c', 2)");
    b.pull_what_fits(&a);
    a.run("DELETE FROM t");
    b.pull_what_fits(&a);
    c.pull(&a);
    let all = a.store.vector().unwrap();
    a.store.collect(&all).unwrap();
    a.run("INSERT INTO t VALUES(2, 'tells the floor', 'c', 1)");
    b.pull_what_fits(&a);
    assert_eq!(b.store.tombstones().unwrap(), 0);
    make_way(&b);
    assert_eq!(b.rows("SELECT id FROM t"), ["Integer(2)"]);
    settle(&[&a, &b, &c]);
}

#[derive(Debug, Clone)]
enum Action {
    Write { device: usize, sql: &'static str },
    Pull { to: usize, from: usize },
    Pass { device: usize, ms: u64 },
    MakeWay,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let everywhere = [
        "INSERT OR REPLACE INTO t(id, a) VALUES(1, 'r')",
        "INSERT OR IGNORE INTO t(id, a) VALUES(2, 'i')",
        "UPDATE t SET a = 'u' WHERE id = 1",
        "UPDATE t SET a = 'v' WHERE id < 3",
        "DELETE FROM t WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
    ];
    let news = [
        "UPDATE t SET c = 'x' WHERE id = 1",
        "UPDATE t SET c = 'y'",
        "UPDATE t SET n = n + 1",
        "UPDATE t SET n = n - 3, a = 'w' WHERE id = 2",
        "INSERT OR REPLACE INTO t(id, a, c, n) VALUES(1, 'r', 'z', 7)",
        "INSERT OR IGNORE INTO u VALUES(1, 'x')",
        "UPDATE u SET x = 'y'",
        "DELETE FROM u",
    ];
    let device = || 0usize..3;
    prop::collection::vec(
        prop_oneof![
            4 => (device(), prop::sample::select(everywhere.to_vec())).prop_map(|(device, sql)| Action::Write { device, sql }),
            4 => (device(), prop::sample::select(news.to_vec())).prop_map(|(device, sql)| Action::Write { device, sql }),
            5 => (device(), device()).prop_map(|(to, from)| Action::Pull { to, from }),
            2 => (device(), 0u64..3).prop_map(|(device, ms)| Action::Pass { device, ms }),
            1 => Just(Action::MakeWay),
        ],
        1..60,
    )
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn whenever_the_operation_comes_to_be_applied_everybody_ends_in_one_state(actions in actions()) {
        let (a, b, c) = three();
        let devices = [&a, &b, &c];
        // Two authors of one operation.
        a.store.apply_schema(&second()).unwrap();
        c.store.apply_schema(&second()).unwrap();
        let mut stands = true;
        let mut make_way_once = || {
            if std::mem::take(&mut stands) {
                b.foreign("ALTER TABLE u RENAME TO my_u");
                b.store.retry_operations().unwrap();
            }
        };
        for action in &actions {
            match action {
                // What the device has no column for is refused.
                Action::Write { device, sql } => devices[*device].attempt(false, sql),
                Action::Pull { to, from } if to != from => {
                    devices[*to].pull_what_fits(devices[*from]);
                    devices[*to].check();
                }
                Action::Pull { .. } => {}
                Action::Pass { device, ms } => devices[*device].pass(*ms),
                Action::MakeWay => make_way_once(),
            }
        }
        make_way_once();
        for _ in 0..2 {
            for (to, from) in [(1, 0), (1, 2), (0, 1), (2, 1)] {
                devices[to].pull_what_fits(devices[from]);
            }
        }
        prop_assert!(b.store.parked().unwrap().is_empty());
        settle(&devices);
    }
}
