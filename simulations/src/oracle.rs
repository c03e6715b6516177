//! The oracle: what a model of the merge makes of the changesets that a device has, against what it shows; and what isle keeps beside the rows.

use std::collections::{BTreeMap, HashMap, HashSet};

use isle::Replica;
use isle_changeset::{Header, RowKind, Value, pack_key};
use isle_clock::{SiteId, VersionVector};
use isle_schema::{Affinity, Collation, ColumnId, KeyColumn, Table};
use isle_test_reference::{Model, Sealed, Write, writes};
use rusqlite::Connection;

use crate::device::Device;
use crate::workload::{Shape, quoted};
use crate::world::{Checked, World, chain};

impl World {
    /// A device has taken in of each changeset all or nothing, and never one before those that its author had seen: what shows is what the
    /// model makes of the versions that it says to have, and every concurrent value that lost is in its journal.
    pub(crate) fn check_held(&mut self, n: usize) -> Checked<()> {
        let usable = |device: &Device| !device.damaged && !device.drops_at_once && !device.disk.is_troubled();
        let Some(replica) = self.devices[n].up().cloned().filter(|_| usable(&self.devices[n])) else { return Ok(()) };
        if self.at(n, |_| replica.seal()).is_err() {
            return if self.devices[n].disk.is_down() {
                Ok(())
            } else {
                Err(self.broken("seal", format!("d{n} cannot seal what was written")))
            };
        }
        self.collect(n)?;
        self.remember(n)?;
        let own = self.read_log(n, false)?;
        let (vector, retired) = match (replica.store().vector(), replica.store().retired()) {
            (Ok(vector), Ok(retired)) => (vector, retired),
            _ if self.devices[n].disk.is_down() => return Ok(()),
            (Err(error), _) | (_, Err(error)) => return Err(self.broken("log", format!("d{n}: {}", chain(&error)))),
        };
        // What a retired site wrote beyond its end nobody waits for.
        let ended: Vec<_> = retired.clone();
        let ended = |site: SiteId| ended.iter().find(|(of, _)| *of == site).map_or(u64::MAX, |(_, last)| *last);
        // It goes on under another site id soon, which has what it wrote beyond that end.
        let own_site = self.devices[n].seen.map(|(site, _)| site);
        let retired: Vec<_> = retired.into_iter().filter(|(site, _)| Some(*site) != own_site).collect();
        let cut = |site: SiteId| retired.iter().find(|(of, _)| *of == site).map_or(u64::MAX, |(_, last)| *last);
        let counts = |site: SiteId, version: u64| version <= vector.get(site).min(cut(site));
        let others = self.memory.sealed.iter().filter(|((site, version), _)| counts(*site, *version));
        let own = own.iter().map(|(id, sealed)| (id, sealed));
        let known: BTreeMap<&(SiteId, u64), &Sealed> = others.chain(own).collect();
        let known: Vec<&Sealed> = known.into_values().collect();
        let headers = known.iter().filter_map(|(header, _)| Header::decode(header).ok());
        for header in headers {
            let lacks = |cause: &&isle_changeset::Cause| {
                !vector.contains(cause.site, cause.version) && cause.version <= ended(cause.site)
            };
            if let Some(cause) = header.causes.iter().find(lacks) {
                let (of, by) = (cause.site.short(), header.site.short());
                let text = format!(
                    "d{n} has version {} of {by} and not {} of {of}, which that had seen",
                    header.version, cause.version
                );
                return Err(self.broken("causal order", text));
            }
        }
        let all: u64 = vector.iter().map(|(site, last)| last.min(cut(site))).sum();
        if (known.len() as u64) < all {
            // Some left every log before anybody looked.
            self.coverage.note("model skipped");
            return Ok(());
        }
        let problem = compare(&mut self.devices[n], &replica, &known);
        match problem {
            Ok(None) => self.coverage.note("model compared"),
            Ok(Some((promise, text))) => return Err(self.broken(promise, format!("d{n}: {text}"))),
            Err(_) if self.devices[n].disk.is_down() => {}
            Err(error) => return Err(self.broken("model", format!("d{n}: {error}"))),
        }
        Ok(())
    }

    /// What isle keeps beside the rows, when everybody has everything: a clock for each key that anybody has written and no more, and nothing
    /// left of what waited, was queued or was on its way.
    pub(crate) fn check_upkeep(&mut self, n: usize) -> Checked<()> {
        let replica = self.replica(n)?;
        let vector =
            replica.store().vector().map_err(|error| self.broken("upkeep", format!("d{n}: {}", chain(&error))))?;
        let seen = |site: SiteId, last: u64| self.memory.sealed.range((site, 1)..=(site, last)).count() as u64;
        // What left every log before anybody looked wrote to keys that nobody knows.
        let all_seen = vector.iter().all(|(site, last)| seen(site, last) == last);
        let odd = upkeep(&self.devices[n], &replica, all_seen.then(|| self.memory.sealed.values()));
        match odd.map_err(|error| self.broken("upkeep", format!("d{n}: {error}")))? {
            Some(text) => Err(self.broken("upkeep", format!("d{n}: {text}"))),
            None => Ok(()),
        }
    }
}

fn upkeep<'s>(
    device: &Device,
    replica: &Replica,
    sealed: Option<impl Iterator<Item = &'s Sealed>>,
) -> Result<Option<String>, String> {
    let conn = device.plain().map_err(|error| error.to_string())?;
    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).map_err(|error| format!("{table}: {error}"))
    };
    let waits = !replica.store().pending_operations().map_err(|error| error.to_string())?.is_empty();
    for table in ["isle_queue", "isle_owed", "isle_snapshot", "isle_parked"] {
        let rows = count(table)?;
        if rows > 0 && !(waits && table == "isle_parked") {
            return Ok(Some(format!("{rows} rows are left in {table}")));
        }
    }
    let Some(sealed) = sealed else { return Ok(None) };
    let mut keys: HashMap<[u8; 16], HashSet<Vec<u8>>> = HashMap::new();
    for write in sealed.flat_map(writes) {
        keys.entry(*write.table.as_bytes()).or_default().insert(write.key);
    }
    let mut statement = conn.prepare("SELECT no, id FROM isle_table").map_err(|error| error.to_string())?;
    let tables = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 16]>(1)?)));
    for table in tables.map_err(|error| error.to_string())? {
        let (no, id) = table.map_err(|error| error.to_string())?;
        let (clocks, written) = (count(&format!("isle_c{no}"))?, keys.get(&id).map_or(0, HashSet::len) as i64);
        if clocks > written {
            return Ok(Some(format!("{clocks} row clocks of table {no}, of which {written} keys were ever written")));
        }
    }
    Ok(None)
}

type Problem = Option<(&'static str, String)>;

/// Compares what a file shows with what the model says.
fn compare(device: &mut Device, replica: &Replica, known: &[&Sealed]) -> Result<Problem, String> {
    let mut model = Model::default();
    let all: Vec<Write> = known.iter().flat_map(|sealed| writes(sealed)).collect();
    for write in &all {
        model.take(write.clone());
    }
    let seen = seen(known);
    let (schema, _) = replica.store().schema().map_err(|error| error.to_string())?;
    let conn = device.plain().map_err(|error| error.to_string())?;
    let shapes = device.shapes(&conn)?;
    let journal = journal(replica)?;
    for shape in shapes.iter().filter(|shape| shape.plain) {
        let Some((id, state)) = schema.tables.iter().find(|(_, state)| state.name == shape.name) else { continue };
        let key = state.key.iter().map(|name| KeyColumn {
            name: name.clone(),
            affinity: Affinity::Blob,
            collation: Collation::Binary,
        });
        let table = Table {
            id: *id,
            name: shape.name.clone(),
            key: key.collect(),
            columns: state.columns.clone(),
            rowid_key: false,
        };
        let defaults = defaults(&conn, &table)?;
        let default = |column: ColumnId| defaults.get(&column).cloned().unwrap_or(Value::Null);
        let expected = model.visible_with(&table, default);
        let shown = visible(&conn, &table)?;
        if expected != shown {
            let missing = expected.iter().find(|row| !shown.contains(row));
            let extra = shown.iter().find(|row| !expected.contains(row));
            let text = format!("table {}: should show {missing:?}, shows {extra:?}", shape.name);
            return Ok(Some(("merge", text)));
        }
        if let Some(text) = lost(shape, &table, &all, &seen, &shown, &journal) {
            return Ok(Some(("journal", text)));
        }
    }
    Ok(None)
}

/// The rows of a file as the model shows them.
fn visible(conn: &Connection, table: &Table) -> Result<Vec<String>, String> {
    let names = table.key.iter().map(|column| &column.name).chain(table.columns.iter().map(|column| &column.name));
    let list = names.map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let mut statement =
        conn.prepare(&format!("SELECT {list} FROM {}", quoted(&table.name))).map_err(|error| error.to_string())?;
    let count = statement.column_count();
    let rows = statement.query_map([], |row| {
        let values: Vec<Value> = (0..count).map(|n| row.get_ref(n).map(value)).collect::<Result<_, _>>()?;
        Ok(format!("{values:?}"))
    });
    let rows: Result<Vec<String>, _> = rows.map_err(|error| error.to_string())?.collect();
    let mut rows = rows.map_err(|error| error.to_string())?;
    rows.sort();
    Ok(rows)
}

fn value(value: rusqlite::types::ValueRef<'_>) -> Value {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(v) => Value::Integer(v),
        ValueRef::Real(v) => Value::Real(v),
        ValueRef::Text(v) => Value::Text(v.to_vec()),
        ValueRef::Blob(v) => Value::Blob(v.to_vec()),
    }
}

fn defaults(conn: &Connection, table: &Table) -> Result<HashMap<ColumnId, Value>, String> {
    let mut defaults = HashMap::new();
    for column in &table.columns {
        let sql = "SELECT dflt_value FROM pragma_table_xinfo(?1) WHERE name = ?2";
        let text: Option<String> = conn
            .query_row(sql, [&table.name, &column.name], |row| row.get(0))
            .map_err(|error| format!("{}.{}: {error}", table.name, column.name))?;
        if let Some(text) = text {
            let found = conn.query_row(&format!("SELECT {text}"), [], |row| row.get_ref(0).map(value));
            defaults.insert(column.id, found.map_err(|error| error.to_string())?);
        }
    }
    Ok(defaults)
}

/// Per version what its author had seen, its own versions included.
fn seen(all: &[&Sealed]) -> HashMap<(SiteId, u64), VersionVector> {
    let mut headers: Vec<Header> = all.iter().filter_map(|(header, _)| Header::decode(header).ok()).collect();
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

type Journal = HashSet<(String, Vec<u8>, String, String)>;

/// What the journal has: table, key, column and value.
fn journal(replica: &Replica) -> Result<Journal, String> {
    let entries = replica.store().conflicts(true, usize::MAX).map_err(|error| error.to_string())?;
    let entries = entries.into_iter().filter_map(|entry| {
        let key: Vec<_> = entry.key.iter().map(Value::as_ref).collect();
        Some((entry.table, pack_key(&key), entry.column?, format!("{:?}", entry.value)))
    });
    Ok(entries.collect())
}

/// A value of text that nobody who had seen it overwrote, and that neither shows nor stands in the journal.
fn lost(
    shape: &Shape,
    table: &Table,
    all: &[Write],
    seen: &HashMap<(SiteId, u64), VersionVector>,
    shown: &[String],
    journal: &Journal,
) -> Option<String> {
    let mut rows: BTreeMap<&[u8], Vec<&Write>> = BTreeMap::new();
    for write in all.iter().filter(|write| write.table == table.id) {
        rows.entry(&write.key).or_default().push(write);
    }
    let shown = shown.join("\n");
    for others in rows.values() {
        for write in others {
            for (id, value) in write.cells.iter().filter(|(_, value)| matches!(value, Value::Text(_))) {
                let Some(column) = table.columns.iter().find(|column| column.id == *id) else { continue };
                // A device that goes on under a new site id has written it once more.
                let same =
                    others.iter().filter(|other| other.cells.iter().any(|cell| cell.0 == *id && cell.1 == *value));
                let overwritten = { same }.any(|write| {
                    others.iter().any(|other| {
                        let names = other.kind == RowKind::Delete || other.cells.iter().any(|(of, _)| of == id);
                        let later = (other.site, other.version) != (write.site, write.version);
                        let knew = seen.get(&(other.site, other.version));
                        names && later && knew.is_some_and(|knew| knew.contains(write.site, write.version))
                    })
                });
                let text = format!("{value:?}");
                let kept =
                    || journal.contains(&(shape.name.clone(), write.key.clone(), column.name.clone(), text.clone()));
                if !overwritten && !shown.contains(&text) && !kept() {
                    return Some(format!(
                        "{text} in {}.{}, version {} of {}, neither shows nor stands in the journal",
                        shape.name,
                        column.name,
                        write.version,
                        write.site.short()
                    ));
                }
            }
        }
    }
    None
}
