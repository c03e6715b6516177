//! cr-sqlite by itself as a second opinion on the merge: every cell of every changeset, in any order, through `crsql_changes` alone.

use std::collections::BTreeSet;

use isle_changeset::{RowKind, Value, unpack_key};
use isle_crsqlite::{Cell, Crr, Library, Life};
use isle_schema::{ColumnId, Table};
use rusqlite::Connection;

use super::companion;
use super::random::Rng;
use super::reference::{Model, Sealed, Write, writes};

/// One change as cr-sqlite takes it.
struct Change {
    table: usize,
    key: Vec<Value>,
    life: Life,
    cell: Option<(usize, Value)>,
}

/// Merges everything with cr-sqlite alone and compares with the model, in the tables that cr-sqlite can hold. The exact form of a key is
/// isle's alone.
pub fn assert_agrees(tables: &[Table], all: &[Sealed], rng: &mut Rng) {
    let conn = Connection::open_in_memory().unwrap();
    Library::new(companion::library()).load(&conn).unwrap();
    conn.execute_batch("PRAGMA ignore_check_constraints = ON").unwrap();
    conn.execute_batch(&companion::schema()).unwrap();
    let holds = |table: &&Table| isle_crsqlite::cannot_hold(&conn, &table.name).unwrap().is_none();
    let tables: Vec<&Table> = tables.iter().filter(holds).collect();
    assert!(tables.len() > 2, "cr-sqlite holds next to nothing");
    let crrs: Vec<Crr> = tables.iter().map(|table| crr(&conn, table)).collect();
    let mut all: Vec<Write> = all.iter().flat_map(writes).collect();
    all.iter_mut().for_each(|write| write.cells.retain(|(column, _)| *column != ColumnId::KEY));
    // cr-sqlite settles equal versions by values, isle equal times by sites: as ranks none are equal.
    let stamps: BTreeSet<_> = all.iter().map(|write| (write.hlc, write.site)).collect();
    let rank = |write: &Write| stamps.range(..(write.hlc, write.site)).count() as i64 + 1;
    let mut changes: Vec<Change> = all.iter().flat_map(|write| changes(&tables, write, rank(write))).collect();
    rng.shuffle(&mut changes);
    for change in &changes {
        let key: Vec<_> = change.key.iter().map(Value::as_ref).collect();
        let Life { version, site, .. } = change.life;
        let cell =
            change.cell.iter().map(|(column, value)| Cell { column: *column, value: value.as_ref(), version, site });
        let cells: Vec<Cell<'_>> = cell.collect();
        crrs[change.table].take(&conn, &key, change.life, &cells).unwrap();
    }
    let mut model = Model::default();
    all.into_iter().for_each(|write| model.take(write));
    for table in tables {
        assert_eq!(
            rows(&conn, table),
            model.visible(table),
            "cr-sqlite by itself ends elsewhere in table {}",
            table.name
        );
    }
    isle_crsqlite::release(&conn);
}

fn crr(conn: &Connection, table: &Table) -> Crr {
    isle_crsqlite::make_crr(conn, &table.name).unwrap();
    let key: Vec<&str> = table.key.iter().map(|column| column.name.as_str()).collect();
    let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    Crr::new(&table.name, &key, &columns)
}

fn changes(tables: &[&Table], write: &Write, version: i64) -> Vec<Change> {
    let Some(at) = tables.iter().position(|table| table.id == write.table) else { return Vec::new() };
    let key = unpack_key(&write.key, tables[at].key.len()).unwrap();
    let life = Life { length: write.length, version, site: *write.site.as_bytes() };
    let change = |cell| Change { table: at, key: key.clone(), life, cell };
    if write.kind == RowKind::Delete || write.cells.is_empty() {
        return vec![change(None)];
    }
    let column = |id: &ColumnId| tables[at].columns.iter().position(|column| column.id == *id).unwrap();
    write.cells.iter().map(|(id, value)| change(Some((column(id), value.clone())))).collect()
}

fn rows(conn: &Connection, table: &Table) -> Vec<String> {
    super::reference::visible_in(conn, table)
}
