//! Random fleets against a second implementation of the merge, and the promises of capture and of the journal.
//! `ISLE_CASES` sets the number of cases of each property.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::{HashMap, HashSet};

use isle_changeset::{Header, RowKind, Value, pack_key};
use isle_clock::{SiteId, VersionVector};
use isle_schema::{ColumnId, Table};
use proptest::prelude::*;
use support::companion::{self, schema};
use support::fleet::{Action, Fleet, Way, actions, write};
use support::random::{Rng, Sql, Style, statements};
use support::reference::{self, Model, Sealed, Write, tables, writes};
use support::{Device, START_MS, oracle};

fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("ISLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Two to five replicas, most of them empty when their tables are adopted.
fn adopted(style: Style) -> impl Strategy<Value = Vec<Vec<Sql>>> {
    prop::collection::vec(prop_oneof![3 => Just(Vec::new()), 1 => statements(style, 1..5)], 2..6)
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn every_replica_shows_what_the_reference_model_says(
        adopted in adopted(Style::All),
        actions in actions(Style::All, 1..40),
        seed in any::<u64>().no_shrink(),
    ) {
        let mut fleet = Fleet::new(&adopted);
        for action in &actions {
            fleet.run(action);
        }
        let mut rng = Rng(seed);
        let mut all = fleet.settle(&mut rng);
        rng.shuffle(&mut all);
        if companion::is_in_use() {
            oracle::assert_agrees(&tables(&fleet.devices[0]), &all, &mut rng);
        }
        let mut model = Model::default();
        for write in all.iter().flat_map(writes) {
            model.take(write);
        }
        for table in tables(&fleet.devices[0]) {
            let expected = model.visible(&table);
            for (n, device) in fleet.devices.iter().enumerate() {
                assert_eq!(reference::visible(device, &table), expected, "table {} of device {n}", table.name);
            }
        }
        assert_times_rise(&all);
        fleet.assert_settled(&all);
    }
}

/// Whoever writes after having seen a value beats it: a version's time is beyond that of all that its author had seen.
fn assert_times_rise(all: &[Sealed]) {
    let headers: Vec<Header> = all.iter().map(|(header, _)| Header::decode(header).unwrap()).collect();
    let seen = seen(all);
    for header in &headers {
        let vector = &seen[&(header.site, header.version)];
        for other in headers.iter().filter(|other| vector.contains(other.site, other.version)) {
            let same = (other.site, other.version) == (header.site, header.version);
            assert!(
                same || other.hlc < header.hlc,
                "{header:?} is not later than {other:?}, which its author had seen"
            );
        }
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn both_ways_of_capture_give_the_same_blocks(
        transactions in prop::collection::vec(statements(Style::NoZeros, 1..7), 1..7)
    ) {
        let (isle, plain) = (Device::new(1, &schema()), Device::new(1, &schema()));
        for (n, statements) in transactions.iter().enumerate() {
            write(&isle, Way::Isle, statements);
            write(&plain, Way::Transaction, statements);
            plain.store.seal().unwrap();
            for table in tables(&isle) {
                assert_eq!(reference::visible(&isle, &table), reference::visible(&plain, &table), "not the same run");
            }
            assert_eq!(changes(&isle), changes(&plain), "transaction {n}");
        }
        assert_eq!(isle.hash().1, plain.hash().1);
        isle.check();
        plain.check();
    }
}

/// The blocks of all own versions, and what they say.
fn changes(device: &Device) -> Vec<(Vec<Vec<u8>>, Vec<String>)> {
    let site = device.site();
    let versions = (1..=device.store.status().unwrap().version).map(|version| device.export(site, version).unwrap());
    let shown = |sealed: &Sealed| {
        writes(sealed).iter().map(|w| format!("{:?} {} {:?} {:?}", w.kind, w.length, w.key, w.cells)).collect()
    };
    versions.map(|sealed| (sealed.1.clone(), shown(&sealed))).collect()
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn no_losing_concurrent_value_is_missing(
        count in 2usize..5,
        actions in actions(Style::Unique, 1..30),
        seed in any::<u64>().no_shrink(),
    ) {
        let mut fleet = Fleet::new(&vec![Vec::new(); count]);
        for action in &actions {
            fleet.run(action);
        }
        let all = fleet.settle(&mut Rng(seed));
        assert_nothing_lost(&fleet, &all);
    }
}

/// Per version what its author had seen, its own versions included.
fn seen(all: &[Sealed]) -> HashMap<(SiteId, u64), VersionVector> {
    let mut headers: Vec<Header> = all.iter().map(|(header, _)| Header::decode(header).unwrap()).collect();
    headers.sort_by_key(|header| (header.site, header.version));
    let mut seen: HashMap<(SiteId, u64), VersionVector> = HashMap::new();
    for header in headers {
        let mut vector = seen.get(&(header.site, header.version - 1)).cloned().unwrap_or_default();
        for cause in &header.causes {
            vector.advance(cause.site, cause.version);
        }
        vector.advance(header.site, header.version);
        seen.insert((header.site, header.version), vector);
    }
    seen
}

fn assert_nothing_lost(fleet: &Fleet, all: &[Sealed]) {
    let seen = seen(all);
    let writes: Vec<Write> = all.iter().flat_map(writes).collect();
    let mut rows: HashMap<_, Vec<&Write>> = HashMap::new();
    for write in &writes {
        rows.entry((write.table, &write.key)).or_default().push(write);
    }
    let tables = tables(&fleet.devices[0]);
    for device in &fleet.devices {
        let kept = journal(device, &tables);
        for table in &tables {
            let shown = reference::visible(device, table).join("\n");
            for write in writes.iter().filter(|write| write.table == table.id) {
                let others = &rows[&(write.table, &write.key)];
                for (column, value) in
                    write.cells.iter().filter(|(id, value)| *id != ColumnId::KEY && *value != Value::Null)
                {
                    let overwritten = others.iter().any(|other| {
                        let names = other.kind == RowKind::Delete || other.cells.iter().any(|(id, _)| id == column);
                        let later = (other.site, other.version) != (write.site, write.version);
                        names && later && seen[&(other.site, other.version)].contains(write.site, write.version)
                    });
                    let lost = !overwritten && !shown.contains(&format!("{value:?}"));
                    assert!(
                        !lost || kept.contains(&(write.key.clone(), *column, format!("{value:?}"))),
                        "{value:?} of table {} by {:?} is neither shown nor journaled on {:?}",
                        table.name,
                        write.site,
                        device.site()
                    );
                }
            }
        }
    }
}

fn journal(device: &Device, tables: &[Table]) -> HashSet<(Vec<u8>, ColumnId, String)> {
    let entries = device.store.conflicts(true, usize::MAX).unwrap().into_iter().filter_map(|conflict| {
        let table = tables.iter().find(|table| table.name == conflict.table)?;
        let column = table.columns.iter().find(|column| Some(&column.name) == conflict.column.as_ref())?;
        let key: Vec<_> = conflict.key.iter().map(Value::as_ref).collect();
        Some((pack_key(&key), column.id, format!("{:?}", conflict.value)))
    });
    entries.collect()
}

/// The shape in which shrunk failures of the properties above are kept.
#[test]
fn a_fleet_that_does_nothing_is_settled() {
    let mut fleet = Fleet::new(&[Vec::new(), Vec::new()]);
    fleet.run(&Action::Clock { device: 0, ms: 1 });
    let all = fleet.settle(&mut Rng(START_MS));
    fleet.assert_settled(&all);
}
