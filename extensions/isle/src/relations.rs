//! What stands in the tables.

use std::collections::HashMap;
use std::sync::Arc;

use isle::{HistoryEntry, Hlc, Replica, SiteId, Value};
use rusqlite::{Connection, Result};
use serde_json::{Map, json};

use crate::relation::{self, Relation, Rows};
use crate::replica::{Access, Failure, Session};

/// The most rows of the log that are told at once: the newest.
const CHANGES_MAX: usize = 100_000;

static RELATIONS: [Relation; 6] = [
    Relation {
        name: c"isle_changes",
        declaration: c"CREATE TABLE x(site TEXT, device TEXT, version INTEGER, time_ms INTEGER, baseline INTEGER, change TEXT, \
                       row_key, table_name TEXT, cells TEXT)",
        columns: 9,
        arguments: &[],
        required: 0,
        access: Access::Write,
        rows: changes,
    },
    Relation {
        name: c"isle_history",
        declaration: c"CREATE TABLE x(site TEXT, device TEXT, version INTEGER, time_ms INTEGER, baseline INTEGER, change TEXT, \
                       row_key, column_name TEXT, before, after, kind TEXT, of_table TEXT HIDDEN, of_key HIDDEN)",
        columns: 11,
        arguments: &["the table", "the key"],
        required: 1,
        access: Access::Write,
        rows: history,
    },
    Relation {
        name: c"isle_conflicts",
        declaration: c"CREATE TABLE x(id INTEGER, table_name TEXT, row_key, column_name TEXT, lost, lost_site TEXT, lost_ms INTEGER, \
                       current, won_site TEXT, won_ms INTEGER, reason TEXT, resolved INTEGER)",
        columns: 12,
        arguments: &[],
        required: 0,
        access: Access::Read,
        rows: conflicts,
    },
    Relation {
        name: c"isle_repaired",
        declaration: c"CREATE TABLE x(table_name TEXT, row_key, hidden INTEGER, constrained_by TEXT, instead)",
        columns: 5,
        arguments: &[],
        required: 0,
        access: Access::Read,
        rows: repaired,
    },
    Relation {
        name: c"isle_devices",
        declaration: c"CREATE TABLE x(site TEXT, name TEXT, version INTEGER, last_write_ms INTEGER, this INTEGER, retired INTEGER)",
        columns: 6,
        arguments: &[],
        required: 0,
        access: Access::Read,
        rows: devices,
    },
    Relation {
        name: c"isle_parked",
        declaration: c"CREATE TABLE x(table_name TEXT, table_id TEXT, columns TEXT, changesets INTEGER, needs TEXT)",
        columns: 5,
        arguments: &[],
        required: 0,
        access: Access::Read,
        rows: parked,
    },
];

/// Makes them known to a connection.
pub(crate) fn register(conn: &Connection, session: &Arc<Session>) -> Result<()> {
    RELATIONS.iter().try_for_each(|relation| relation::register(conn, session, relation))
}

fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

fn optional<T: ToString>(value: Option<T>) -> Value {
    value.map_or(Value::Null, text)
}

fn integer(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Milliseconds since 1970; NULL for what has no time.
fn time(hlc: Option<Hlc>) -> Value {
    hlc.filter(|hlc| hlc.ms() > 0).map_or(Value::Null, |hlc| integer(hlc.ms()))
}

/// A key of one column as it is, another as a JSON array.
fn key(values: &[Value]) -> Value {
    match values {
        [value] => value.clone(),
        values => text(json!(values.iter().map(Value::to_json).collect::<Vec<_>>())),
    }
}

fn names(replica: &Replica) -> Result<HashMap<SiteId, String>, Failure> {
    let status = replica.status()?;
    let known = status.sites.into_iter().filter_map(|site| Some((site.id, site.name?)));
    Ok(known.chain([(status.site, status.device.name)]).collect())
}

/// What both tables of changes begin with.
fn common(entry: &HistoryEntry, names: &HashMap<SiteId, String>) -> Vec<Value> {
    vec![
        text(entry.site),
        optional(names.get(&entry.site)),
        integer(entry.version),
        time(Some(entry.hlc)),
        Value::Integer(entry.baseline.into()),
        text(entry.kind.as_str()),
        key(&entry.key),
    ]
}

fn changes(replica: &Replica, _: &[Value]) -> Rows {
    let names = names(replica)?;
    let mut found = Vec::new();
    for table in replica.status()?.tables {
        found.extend(replica.table_history(&table, CHANGES_MAX)?.into_iter().map(|entry| (table.clone(), entry)));
    }
    // Stable: what one table has of one transaction stays in its order.
    found.sort_by_key(|(_, entry)| std::cmp::Reverse((entry.hlc, entry.site, entry.version)));
    found.truncate(CHANGES_MAX);
    let row = |(table, entry): (String, HistoryEntry)| {
        let mut row = common(&entry, &names);
        row.push(text(table));
        let cells = entry.cells.iter().filter_map(|cell| Some((cell.column.clone()?, cell.after.to_json())));
        row.push(text(json!(cells.collect::<Map<_, _>>())));
        row
    };
    Ok(found.into_iter().map(row).collect())
}

fn history(replica: &Replica, arguments: &[Value]) -> Rows {
    let names = names(replica)?;
    let table = arguments[0].to_string();
    let entries = match &arguments[1] {
        Value::Null => replica.table_history(&table, CHANGES_MAX)?,
        wanted => {
            let mut entries = replica.row_history(&table, &key_of(replica, &table, wanted)?)?;
            entries.reverse();
            entries
        }
    };
    let mut rows = Vec::new();
    for entry in entries {
        let common = common(&entry, &names);
        let cells = entry.cells.iter().filter(|cell| cell.column.is_some()).map(|cell| {
            let (before, kind) = (cell.before.clone().unwrap_or(Value::Null), optional(cell.kind));
            [optional(cell.column.as_ref()), before, cell.after.clone(), kind]
        });
        let mut cells: Vec<_> = cells.collect();
        if cells.is_empty() {
            cells.push([Value::Null, Value::Null, Value::Null, Value::Null]);
        }
        rows.extend(cells.into_iter().map(|cells| common.iter().cloned().chain(cells).collect()));
    }
    Ok(rows)
}

/// The key of a table's row: one value, or a JSON array of them.
fn key_of(replica: &Replica, table: &str, given: &Value) -> Result<Vec<Value>, Failure> {
    let schema = replica.schema()?;
    let columns = schema.tables.iter().find(|it| it.name.eq_ignore_ascii_case(table)).map_or(1, |it| it.key.len());
    let (Value::Text(array), true) = (given, columns > 1) else { return Ok(vec![given.clone()]) };
    let wrong = || format!("the key of {table} has {columns} columns: give a JSON array of as many values");
    let values: Vec<serde_json::Value> = serde_json::from_str(array).map_err(|_| wrong())?;
    values.iter().map(|value| from_json(value).ok_or_else(|| wrong().into())).collect()
}

/// The inverse of [`Value::to_json`].
fn from_json(value: &serde_json::Value) -> Option<Value> {
    Some(match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Value::Integer(number),
            None => Value::Real(number.as_f64()?),
        },
        serde_json::Value::String(text) => Value::Text(text.clone()),
        serde_json::Value::Bool(_) | serde_json::Value::Array(_) => return None,
        serde_json::Value::Object(fields) => {
            let digits = fields.get("hex")?.as_str().filter(|digits| digits.is_ascii())?;
            let pairs = (0..digits.len()).step_by(2);
            let bytes = pairs.map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok());
            Value::Blob(bytes.collect::<Option<_>>()?)
        }
    })
}

fn conflicts(replica: &Replica, _: &[Value]) -> Rows {
    let row = |conflict: isle::Conflict| {
        let values: Vec<Value> = conflict.key.into_iter().map(|(_, value)| value).collect();
        vec![
            Value::Integer(conflict.id),
            text(conflict.table),
            key(&values),
            optional(conflict.column),
            conflict.value,
            optional(conflict.site),
            time(Some(conflict.hlc)),
            conflict.current.unwrap_or(Value::Null),
            optional(conflict.winner),
            time(conflict.winner_hlc),
            text(conflict.reason.as_str()),
            Value::Integer(conflict.resolved.into()),
        ]
    };
    Ok(replica.conflicts(true, usize::MAX)?.into_iter().map(row).collect())
}

fn repaired(replica: &Replica, _: &[Value]) -> Rows {
    let row = |row: isle::Repaired| {
        let values: Vec<Value> = row.key.into_iter().map(|(_, value)| value).collect();
        vec![
            text(row.table),
            key(&values),
            Value::Integer(row.hidden.into()),
            text(row.constraint),
            row.instead.as_deref().map_or(Value::Null, key),
        ]
    };
    Ok(replica.repaired(usize::MAX)?.into_iter().map(row).collect())
}

fn devices(replica: &Replica, _: &[Value]) -> Rows {
    let (names, status) = (names(replica)?, replica.status()?);
    let row = |site: &isle::Site| {
        vec![
            text(site.id),
            optional(names.get(&site.id)),
            integer(site.version),
            time(Some(site.hlc)),
            Value::Integer(site.own.into()),
            Value::Integer(site.retired.into()),
        ]
    };
    Ok(status.sites.iter().map(row).collect())
}

fn parked(replica: &Replica, _: &[Value]) -> Rows {
    let row = |parked: isle::Parked| {
        let needs: Vec<String> = parked.needs.iter().map(ToString::to_string).collect();
        vec![
            optional(parked.table),
            text(parked.id),
            text(json!(parked.columns)),
            integer(parked.changesets),
            text(json!(needs)),
        ]
    };
    Ok(replica.parked()?.into_iter().map(row).collect())
}
