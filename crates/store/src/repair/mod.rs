//! Repair: what constraints show of the merged rows.
//!
//! A merge may bring two rows that one UNIQUE index cannot hold, or a child whose parent is gone. The merged rows stay as they are,
//! and all that is sent, hashed and compared is about them. What the table shows is derived, never sent:
//!
//! 1. **UNIQUE.** Of the merged rows that claim the same values, the first shows: the one whose newest stamp among the index's columns
//!    is the oldest, then the one with the smaller key. The others are hidden. Every live merged row counts, hidden or not.
//! 2. **Foreign keys**, over what UNIQUE leaves. A row whose parent does not show is hidden, and with it those that refer to it; where
//!    the key says ON DELETE SET NULL the row shows without the reference. No more rows are hidden than that takes: rows that refer
//!    to each other in a circle show.
//!
//! So the table is a function of the merged rows: the same on every device with the same constraints, whatever the order of arrival.
//! A hidden row comes back by itself when what stood against it is deleted, changed or has come.
//!
//! # How
//! Rows that differ from what shows are in the shadow (see `shadow`). `isle_claim` has, for each of them, the values that it claims
//! in every UNIQUE index (`u:<index>`) and the parents that it lacks (`f:<key>`), and `behind`: for a UNIQUE index the key of the row
//! that shows instead, for a parent something. Merges write into the table as if nothing could be wrong; a row that an
//! index refuses goes to the shadow. At their end, and after local writes where something is hidden, the rows that were touched are
//! looked at: `isle_owed` has those of other clients and of the app's own transactions until the next merge.
//!
//! Costs: tables without constraints nothing; others one look-up per merged row and foreign key, and more only for rows that clash.
//!
//! # Limits
//! * A foreign key to columns other than the parent's key makes a change of the parent look through all children. Children
//!   that are pointed at another parent cannot be chosen yet.
//! * A hidden row is not there for SQL: a child under a hidden parent is refused, and an automatic key may fall on a hidden row; the
//!   insert is a write of that row then, and what it replaces goes to the journal.
//! * A row that shows without its reference cannot be told to lose it for good: NULL over NULL is no change.
//! * A UNIQUE index that is made, and a REPLACE by it, in one transaction of the app or one touch of another client, leave the row
//!   that was replaced without a trace; [`crate::Store::check`] finds it missing.
//! * Children of a table that stands still wait until they are touched.

mod numbered;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use isle_changeset::{Key, Value, ValueRef, canonical_key, pack_key, unpack_key};
use isle_clock::SiteId;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};

use crate::StoreError;
use crate::clocks::{ClockTable, LocalStamp};
use crate::constraints::{self, ForeignKey, Unique, list, matches, matches_named, packed};
use crate::engine::{Direct, Engine, direct_key};
use crate::error::Doing as _;
use crate::layout::quoted;
use crate::settle::Settled;
use crate::shadow;
use crate::tracked::{Tracked, join};

/// Of more touched rows than these the parents are looked for in one go.
const SCAN_FROM: usize = 500;

/// A row: the table's local number and the packed canonical key.
pub(crate) type RowId = (i64, Vec<u8>);

/// Keys of the rows with a claim, and of those that show instead.
type Claims = HashMap<Vec<u8>, Option<Vec<u8>>>;

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is not alive.
    Gone,
    /// In the table, as it is merged.
    Shown,
    /// In the table, with other values.
    Altered,
    /// In the shadow alone.
    Hidden,
}

/// A row that does not show as it is merged.
#[derive(Debug, Clone, PartialEq)]
pub struct Repaired {
    /// The table.
    pub table: String,
    /// The key of the row: column names and values.
    pub key: Vec<(String, Value)>,
    /// Whether it does not show at all; else it shows without a reference.
    pub hidden: bool,
    /// The constraint: `UNIQUE (columns)`, or `(columns) -> parent` of a foreign key.
    pub constraint: String,
    /// The values that the row has in the constraint's columns.
    pub values: Vec<Value>,
    /// The key of the row that shows instead; `None` where a parent is missing.
    pub instead_of: Option<Vec<Value>>,
}

struct Repair<'e> {
    engine: &'e Engine,
    conn: &'e Connection,
    tables: HashMap<i64, Arc<Tracked>>,
    sites: HashMap<i64, SiteId>,
    direct: (Direct, Vec<i64>),
    /// Foreign keys by the number of their parent.
    children: HashMap<i64, Vec<(i64, usize)>>,
    changed: BTreeSet<i64>,
    /// Numbers that were given.
    names: numbered::Names,
}

/// Repairs what touched rows need, and the rows that are owed; gives the tables that changed. On a merging connection only.
pub(crate) fn run(engine: &Engine, _: &Settled, touched: BTreeSet<RowId>) -> Result<BTreeSet<i64>, StoreError> {
    let tables: HashMap<_, _> = engine.tables.iter().map(|tracked| (tracked.no, Arc::clone(tracked))).collect();
    let mut children: HashMap<i64, Vec<(i64, usize)>> = HashMap::new();
    for tracked in &engine.tables {
        for (n, key) in tracked.foreign.iter().enumerate() {
            children.entry(key.parent).or_default().push((tracked.no, n));
        }
    }
    let (conn, direct) = (&engine.conn, engine.direct());
    let (sites, changed, names) = Default::default();
    let is_crr = |(no, _): &&RowId| tables.get(no).is_some_and(|tracked| tracked.crr.is_some());
    let of_crrs: Vec<RowId> = touched.iter().filter(is_crr).cloned().collect();
    let mut repair = Repair { engine, conn, tables, sites, direct, children, changed, names };
    repair.run(touched)?;
    crate::companion::settle_rows(engine, &of_crrs)?;
    Ok(repair.changed)
}

/// Whether rows wait to be looked at.
pub(crate) fn is_owed(conn: &Connection) -> Result<bool, StoreError> {
    Ok(crate::clocks::one::<i64>(conn, "SELECT 1 FROM isle_owed LIMIT 1", [])?.is_some())
}

/// Notes that the row with a packed key has to be looked at.
pub(crate) fn owe(conn: &Connection, no: i64, key: &[u8]) -> Result<(), StoreError> {
    let sql = "INSERT OR IGNORE INTO isle_owed(t, k) VALUES(?1, ?2)";
    let mut statement = conn.prepare_cached(sql).doing("note a row for repair")?;
    statement.execute(params![no, key]).doing("note a row for repair")?;
    Ok(())
}

/// Stamps moved: whoever shows instead of another is settled anew.
pub(crate) fn owe_claims(conn: &Connection) -> Result<(), StoreError> {
    let sql = "INSERT OR IGNORE INTO isle_owed(t, k) SELECT DISTINCT t, k FROM isle_claim";
    conn.execute(sql, []).doing("note rows for repair").map(|_| ())
}

/// Whether a row of the table, or one that refers to it, does not show as it is merged.
pub(crate) fn concerns(conn: &Connection, tracked: &Tracked) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM isle_claim WHERE t = ?1 LIMIT 1";
    for no in std::iter::once(tracked.no).chain(tracked.children.iter().copied()) {
        if crate::clocks::one::<i64>(conn, sql, [no])?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether any row does not show as it is merged.
pub(crate) fn any(conn: &Connection) -> Result<bool, StoreError> {
    Ok(crate::clocks::one::<i64>(conn, "SELECT 1 FROM isle_claim LIMIT 1", [])?.is_some())
}

/// Takes the rows that are owed.
pub(crate) fn take_owed(conn: &Connection) -> Result<BTreeSet<RowId>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT t, k FROM isle_owed").doing("read rows for repair")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).doing("read rows for repair")?;
    let owed = rows.collect::<Result<_, _>>().doing("read rows for repair")?;
    conn.execute("DELETE FROM isle_owed", []).doing("read rows for repair")?;
    Ok(owed)
}

/// The constraints of a table are others than before: rows in its shadow are looked at again, and rows without a parent.
pub(crate) fn constraints_changed(
    conn: &Connection,
    tracked: &Tracked,
    tables: &[Arc<Tracked>],
) -> Result<(), StoreError> {
    let keys = tracked.key_list("");
    let query = |sql: &str| -> Result<Vec<Key>, StoreError> {
        let mut statement = conn.prepare(sql).doing("look at constraints")?;
        let rows = statement.query_map([], |row| {
            let value = |at: usize| Ok(crate::clocks::from_sql(row.get_ref(at)?).to_value());
            (0..tracked.table.key.len()).map(value).collect::<rusqlite::Result<Key>>()
        });
        rows.doing("look at constraints")?.collect::<Result<_, _>>().doing("look at constraints")
    };
    let mut rows = query(&format!("SELECT {keys} FROM {}", shadow::name(tracked)))?;
    for foreign in &tracked.foreign {
        rows.extend(query(&orphans_sql(tracked, foreign, tables)?)?);
    }
    conn.execute("DELETE FROM isle_claim WHERE t = ?1", [tracked.no]).doing("look at constraints")?;
    for exact in rows {
        let (_, key) = row_id(tracked, &exact);
        owe(conn, tracked.no, &key)?;
    }
    Ok(())
}

/// A query for the keys of rows that show and have no parent.
pub(crate) fn orphans_sql(
    child: &Tracked,
    foreign: &ForeignKey,
    tables: &[Arc<Tracked>],
) -> Result<String, StoreError> {
    let missing = || StoreError::Internal { table: "isle_table", detail: format!("no table {}", foreign.parent) };
    let parent = tables.iter().find(|table| table.no == foreign.parent).ok_or_else(missing)?;
    let set = foreign.parts.iter().map(|part| format!("c.{} IS NOT NULL", quoted(&part.column.name)));
    let same = foreign.parts.iter().zip(&foreign.targets);
    let same = same.map(|(part, target)| format!("p.{} = c.{}", quoted(target), quoted(&part.column.name)));
    Ok(format!(
        "SELECT {} FROM {} AS c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {})",
        child.key_list("c."),
        quoted(&child.table.name),
        join(set, " AND "),
        quoted(&parent.table.name),
        join(same, " AND ")
    ))
}

impl Repair<'_> {
    fn run(&mut self, touched: BTreeSet<RowId>) -> Result<(), StoreError> {
        let mut touched: BTreeSet<RowId> = touched.into_iter().filter(|(no, _)| self.tables.contains_key(no)).collect();
        self.show_kinds(&touched)?;
        touched.retain(|(no, _)| self.tables[no].constrained);
        let mut rows = touched.clone();
        if any(self.conn)? || self.anything_in_shadows(&touched)? {
            rows.extend(self.unique(&touched)?);
            self.show(&mut rows)?;
        }
        self.hide_orphans(&rows)
    }

    /// Shows the merged values of columns of kinds where a local write left others.
    fn show_kinds(&mut self, touched: &BTreeSet<RowId>) -> Result<(), StoreError> {
        for row in touched.iter().filter(|(no, _)| !self.tables[no].kinds.is_empty()) {
            let (tracked, key) = self.key(row)?;
            let key: Vec<_> = key.iter().map(Value::as_ref).collect();
            if crate::kinds::show(self.conn, &tracked, &key)? {
                self.changed.insert(row.0);
            }
        }
        Ok(())
    }

    fn anything_in_shadows(&self, touched: &BTreeSet<RowId>) -> Result<bool, StoreError> {
        let numbers: BTreeSet<i64> = touched.iter().map(|(no, _)| *no).collect();
        for no in numbers {
            if shadow::any(self.conn, &self.tables[&no])? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn table(&self, no: i64) -> Result<Arc<Tracked>, StoreError> {
        let missing = || StoreError::Internal { table: "isle_claim", detail: format!("no table {no}") };
        self.tables.get(&no).cloned().ok_or_else(missing)
    }

    fn key(&self, row: &RowId) -> Result<(Arc<Tracked>, Key), StoreError> {
        let tracked = self.table(row.0)?;
        let key = unpack_key(&row.1, tracked.table.key.len());
        let damaged = |_| StoreError::Internal { table: "isle_claim", detail: "key".to_owned() };
        key.map(|key| (tracked, key)).map_err(damaged)
    }

    fn place(&self, row: &RowId) -> Result<Place, StoreError> {
        let (tracked, key) = self.key(row)?;
        let key: Vec<_> = key.iter().map(Value::as_ref).collect();
        Ok(match shadow::state(self.conn, &tracked, &key)? {
            Some(true) => Place::Hidden,
            Some(false) => Place::Altered,
            None => match shadow::values(self.conn, &tracked, (false, "1", ""), &key)? {
                Some(_) => Place::Shown,
                None => Place::Gone,
            },
        })
    }

    /// The packed values that a merged row has in a constraint; `None` if it has no say there.
    fn merged(
        &self,
        row: &RowId,
        place: Place,
        parts: &[constraints::Part],
        condition: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let (tracked, key) = self.key(row)?;
        let key: Vec<_> = key.iter().map(Value::as_ref).collect();
        let shadowed = matches!(place, Place::Hidden | Place::Altered);
        let found = shadow::values(self.conn, &tracked, (shadowed, &list(parts), condition), &key)?;
        Ok(found.and_then(|values| packed(&values.iter().map(Value::as_ref).collect::<Vec<_>>(), parts)))
    }

    /// Settles who shows in each UNIQUE index that a touched row has to do with; gives the rows concerned.
    fn unique(&mut self, touched: &BTreeSet<RowId>) -> Result<BTreeSet<RowId>, StoreError> {
        let mut groups: BTreeSet<(i64, String, Vec<u8>)> = BTreeSet::new();
        for row in touched {
            let mut statement = self
                .conn
                .prepare_cached(
                    "SELECT c, v FROM isle_claim WHERE t = ?1 AND k = ?2
                     UNION ALL SELECT c, v FROM isle_claim WHERE t = ?1 AND behind = ?2",
                )
                .doing("read claims")?;
            let claims = statement
                .query_map(params![row.0, row.1], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))
                .doing("read claims")?;
            for claim in claims {
                let (constraint, values) = claim.doing("read claims")?;
                groups.insert((row.0, constraint.replacen("n:", "u:", 1), values));
            }
            let sql = "DELETE FROM isle_claim WHERE t = ?1 AND k = ?2";
            self.conn.prepare_cached(sql).and_then(|mut s| s.execute(params![row.0, row.1])).doing("drop claims")?;
            let place = self.place(row)?;
            if place == Place::Gone {
                continue;
            }
            for index in &self.table(row.0)?.unique {
                if let Some(values) = self.merged(row, place, &index.parts, &index.condition())? {
                    groups.extend(self.group_of_number(&*self.table(row.0)?, index, &values));
                    groups.insert((row.0, format!("u:{}", index.name), values));
                }
            }
            if place != Place::Shown {
                self.claim_all(row, place)?;
            }
        }
        let mut concerned = BTreeSet::new();
        for (no, constraint, values) in groups {
            let tracked = self.table(no)?;
            let index = tracked.unique.iter().find(|index| constraint == format!("u:{}", index.name));
            if let Some(index) = index {
                concerned.extend(self.group(&tracked, index, &values)?);
            }
        }
        Ok(concerned)
    }

    /// Claims of a row in the shadow on every UNIQUE index.
    fn claim_all(&self, row: &RowId, place: Place) -> Result<(), StoreError> {
        for index in &self.table(row.0)?.unique {
            if let Some(values) = self.merged(row, place, &index.parts, &index.condition())? {
                self.claim(row, &format!("u:{}", index.name), &values, None)?;
            }
        }
        Ok(())
    }

    fn claim(&self, row: &RowId, constraint: &str, values: &[u8], behind: Option<&[u8]>) -> Result<(), StoreError> {
        let sql = "INSERT INTO isle_claim(t, c, v, k, behind) VALUES(?1, ?2, ?3, ?4, ?5)
                   ON CONFLICT DO UPDATE SET behind = excluded.behind";
        let mut statement = self.conn.prepare_cached(sql).doing("note a claim")?;
        statement.execute(params![row.0, constraint, values, row.1, behind]).doing("note a claim")?;
        Ok(())
    }

    /// Hides all but the first of the merged rows that claim the same values, and finds the numbers under which they may show.
    fn group(&mut self, tracked: &Arc<Tracked>, index: &Unique, values: &[u8]) -> Result<Vec<RowId>, StoreError> {
        let constraint = format!("u:{}", index.name);
        let (order, claims) = self.ordered(tracked, index, values)?;
        let first = order.first().map(|(_, key)| key.clone());
        for row in order.iter().skip(1) {
            self.hide(row)?;
            if claims.get(&row.1) != Some(&first) {
                self.claim(row, &constraint, values, first.as_deref())?;
            }
        }
        if let Some(row) = order.first()
            && self.place(row)? != Place::Shown
        {
            self.claim(row, &constraint, values, None)?;
        }
        self.number(tracked, index, &(tracked.no, constraint, values.to_vec()), &order)?;
        Ok(order)
    }

    /// The merged rows that claim the same values, the first claim first, and what is noted of them.
    fn ordered(
        &mut self,
        tracked: &Arc<Tracked>,
        index: &Unique,
        values: &[u8],
    ) -> Result<(Vec<RowId>, Claims), StoreError> {
        let constraint = format!("u:{}", index.name);
        let sql = "SELECT k, behind FROM isle_claim WHERE t = ?1 AND c = ?2 AND v = ?3";
        let mut statement = self.conn.prepare_cached(sql).doing("read claims")?;
        let claims = statement.query_map(params![tracked.no, constraint, values], |row| Ok((row.get(0)?, row.get(1)?)));
        let claims = claims.doing("read claims")?.collect::<Result<_, _>>().doing("read claims")?;
        let claims: Claims = claims;
        drop(statement);
        let mut members: Vec<RowId> = claims.keys().map(|key| (tracked.no, key.clone())).collect();
        if let Some(holder) = self.holder(tracked, index, values)?
            && !members.contains(&holder)
        {
            members.push(holder);
        }
        let mut order = Vec::new();
        for row in members {
            let (_, key) = self.key(&row)?;
            let key: Vec<_> = key.iter().map(Value::as_ref).collect();
            let clock = ClockTable::open(self.conn, tracked).get(&key)?;
            let Some(clock) = clock.filter(crate::clocks::RowClock::is_alive) else { continue };
            if self.place(&row)? == Place::Gone {
                continue;
            }
            let mut newest = None;
            for cell in index.parts.iter().filter_map(|part| part.cell) {
                newest = newest.max(Some(self.absolute(clock.cell(cell))?));
            }
            order.push((newest, row));
        }
        order.sort();
        Ok((order.into_iter().map(|(_, row)| row).collect(), claims))
    }

    /// The row that stands in the table with these values as merged ones.
    fn holder(&self, tracked: &Arc<Tracked>, index: &Unique, values: &[u8]) -> Result<Option<RowId>, StoreError> {
        let wanted = self.unpacked(values, index.parts.len())?;
        let wanted: Vec<_> = wanted.iter().map(Value::as_ref).collect();
        let (key, table) = (tracked.key_list(""), quoted(&tracked.table.name));
        let sql = format!("SELECT {key} FROM {table} WHERE {}{}", matches(&index.parts), index.condition());
        let Some(exact) = shadow::first(self.conn, &sql, &wanted)? else { return Ok(None) };
        let row = row_id(tracked, &exact);
        Ok((self.place(&row)? == Place::Shown).then_some(row))
    }

    fn unpacked(&self, values: &[u8], count: usize) -> Result<Key, StoreError> {
        let damaged = |_| StoreError::Internal { table: "isle_claim", detail: "values".to_owned() };
        unpack_key(values, count).map_err(damaged)
    }

    /// A stamp as every device orders it.
    fn absolute(&mut self, stamp: LocalStamp) -> Result<(u64, SiteId), StoreError> {
        if stamp == LocalStamp::NEVER {
            return Ok((0, SiteId::from_bytes([0; 16])));
        }
        let site = match self.sites.get(&stamp.site) {
            Some(site) => *site,
            None => *self.sites.entry(stamp.site).or_insert(crate::own::site_id(self.conn, stamp.site)?),
        };
        Ok((stamp.hlc, site))
    }

    /// Shows the hidden rows among these that no UNIQUE index is against, and tentatively those that waited for them as
    /// parents: what should not show after all is hidden again by [`Repair::hide_orphans`].
    fn show(&mut self, rows: &mut BTreeSet<RowId>) -> Result<(), StoreError> {
        let mut ready = Vec::new();
        for row in rows.iter() {
            let place = self.place(row)?;
            if matches!(place, Place::Hidden | Place::Altered) && !self.gives_way(row)? {
                // The values that it shows may be in the way of another's.
                if place == Place::Altered {
                    self.hide(row)?;
                }
                ready.push(row.clone());
            }
        }
        for row in ready {
            self.restore(&row)?;
        }
        let mut parents: VecDeque<RowId> = rows.iter().cloned().collect();
        while let Some(parent) = parents.pop_front() {
            for row in self.waiting_for(&parent)? {
                let place = self.place(&row)?;
                if !rows.insert(row.clone()) && place == Place::Shown {
                    continue;
                }
                if matches!(place, Place::Hidden | Place::Altered) && !self.gives_way(&row)? {
                    if place == Place::Altered {
                        self.hide(&row)?;
                    }
                    self.restore(&row)?;
                    parents.push_back(row);
                }
            }
        }
        Ok(())
    }

    /// Whether another row shows instead of this one, which is not shown under a number.
    fn gives_way(&mut self, row: &RowId) -> Result<bool, StoreError> {
        // The key is the way in, not all that give way to somebody.
        let sql = "SELECT count(*) FROM isle_claim WHERE t = ?1 AND k = ?2 AND +behind IS NOT NULL
                   AND substr(c, 1, 2) = 'u:'";
        let behind = crate::clocks::one::<i64>(self.conn, sql, params![row.0, row.1])?.unwrap_or(0);
        Ok(behind > 0 && self.names_of(row)?.len() as i64 != behind)
    }

    /// Rows that lack a parent which a row that shows is now.
    fn waiting_for(&self, parent: &RowId) -> Result<Vec<RowId>, StoreError> {
        let mut waiting = Vec::new();
        let Some(children) = self.children.get(&parent.0) else { return Ok(waiting) };
        if !matches!(self.place(parent)?, Place::Shown | Place::Altered) {
            return Ok(waiting);
        }
        let (tracked, key) = self.key(parent)?;
        let key: Vec<_> = key.iter().map(Value::as_ref).collect();
        for (no, n) in children {
            let child = self.table(*no)?;
            let foreign = &child.foreign[*n];
            let targets = join(foreign.targets.iter().map(|name| quoted(name)), ", ");
            let Some(values) = shadow::values(self.conn, &tracked, (false, &targets, ""), &key)? else { continue };
            let values: Vec<_> = values.iter().map(Value::as_ref).collect();
            let Some(values) = packed(&values, &foreign.parts) else { continue };
            let sql = "SELECT k FROM isle_claim WHERE t = ?1 AND c = ?2 AND v = ?3";
            let mut statement = self.conn.prepare_cached(sql).doing("read claims")?;
            let constraint = format!("f:{}", foreign.name);
            let keys = statement.query_map(params![no, constraint, values], |row| row.get(0)).doing("read claims")?;
            for key in keys {
                waiting.push((*no, key.doing("read claims")?));
            }
        }
        Ok(waiting)
    }

    /// Hides rows that lack a parent, and those that refer to them, until none does.
    fn hide_orphans(&mut self, rows: &BTreeSet<RowId>) -> Result<(), StoreError> {
        let mut scans = BTreeSet::new();
        let mut suspects: VecDeque<RowId> = VecDeque::new();
        let mut counts: HashMap<i64, usize> = HashMap::new();
        rows.iter().for_each(|(no, _)| *counts.entry(*no).or_default() += 1);
        for (no, count) in &counts {
            let child = self.table(*no)?;
            if *count > SCAN_FROM {
                // One look through the tables costs less than one for each of so many rows.
                scans.extend((0..child.foreign.len()).map(|n| (*no, n)));
                scans.extend(self.children.get(no).into_iter().flatten().copied());
            }
        }
        for row in rows {
            if counts[&row.0] <= SCAN_FROM {
                if !self.table(row.0)?.foreign.is_empty() {
                    suspects.push_back(row.clone());
                }
                suspects.extend(self.orphans_of(row, &mut scans)?);
            }
        }
        loop {
            let Some(row) = suspects.pop_front() else {
                // What is hidden since may have been somebody's parent.
                let Some((no, n)) = scans.pop_first() else { break };
                let child = self.table(no)?;
                let sql = orphans_sql(&child, &child.foreign[n], &self.engine.tables)?;
                suspects.extend(self.rows(&child, &sql, &[])?);
                continue;
            };
            let place = self.place(&row)?;
            if !matches!(place, Place::Shown | Place::Altered) {
                continue;
            }
            let tracked = self.table(row.0)?;
            for foreign in &tracked.foreign {
                let Some(values) = self.merged(&row, self.place(&row)?, &foreign.parts, "")? else { continue };
                if self.has_parent(foreign, &values)? {
                    continue;
                }
                let constraint = format!("f:{}", foreign.name);
                if foreign.set_null && self.alter(&row, foreign)? {
                    self.claim(&row, &constraint, &values, Some(&[]))?;
                    suspects.extend(self.orphans_of(&row, &mut scans)?);
                    continue;
                }
                self.hide(&row)?;
                self.claim(&row, &constraint, &values, Some(&[]))?;
                suspects.extend(self.orphans_of(&row, &mut scans)?);
                break;
            }
        }
        Ok(())
    }

    /// Rows that show and refer to a row that does not. Where they refer to something else than its key, what that was before is
    /// not known here: the foreign key goes to `scans`.
    fn orphans_of(&self, parent: &RowId, scans: &mut BTreeSet<(i64, usize)>) -> Result<Vec<RowId>, StoreError> {
        let mut orphans = Vec::new();
        let Some(children) = self.children.get(&parent.0) else { return Ok(orphans) };
        let place = self.place(parent)?;
        let (parent, key) = self.key(parent)?;
        for (no, n) in children {
            let child = self.table(*no)?;
            let foreign = &child.foreign[*n];
            let (keys, table) = (child.key_list(""), quoted(&child.table.name));
            if foreign.to_key {
                if place != Place::Gone && place != Place::Hidden {
                    continue;
                }
                let values = foreign.targets.iter().map(|target| {
                    let at = parent.table.key.iter().position(|column| column.name.eq_ignore_ascii_case(target));
                    at.and_then(|at| key.get(at)).map_or(ValueRef::Null, Value::as_ref)
                });
                let values: Vec<_> = values.collect();
                let sql = format!("SELECT {keys} FROM {table} WHERE {}", matches(&foreign.parts));
                orphans.extend(self.rows(&child, &sql, &values)?);
            } else {
                scans.insert((*no, *n));
            }
        }
        Ok(orphans)
    }

    /// The rows of a query that gives exact keys.
    fn rows(&self, tracked: &Tracked, sql: &str, values: &[ValueRef<'_>]) -> Result<Vec<RowId>, StoreError> {
        let mut statement = self.conn.prepare_cached(sql).doing("look for children")?;
        crate::clocks::bind(&mut statement, values, 1)?;
        let mut rows = statement.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next().doing("look for children")? {
            let value = |at: usize| Ok(crate::clocks::from_sql(row.get_ref(at).doing("look for children")?).to_value());
            let exact: Vec<Value> = (0..tracked.table.key.len()).map(value).collect::<Result<_, StoreError>>()?;
            found.push(row_id(tracked, &exact));
        }
        Ok(found)
    }

    fn has_parent(&self, foreign: &ForeignKey, values: &[u8]) -> Result<bool, StoreError> {
        let parent = self.table(foreign.parent)?;
        let values = self.unpacked(values, foreign.parts.len())?;
        let values: Vec<_> = values.iter().map(Value::as_ref).collect();
        let matches = matches_named(&foreign.parts, &foreign.targets);
        let sql = format!("SELECT 1 FROM {} WHERE {matches}", quoted(&parent.table.name));
        Ok(shadow::first(self.conn, &sql, &values)?.is_some())
    }

    /// Takes a row out of the table; its merged values are in the shadow.
    fn hide(&mut self, row: &RowId) -> Result<(), StoreError> {
        let place = self.place(row)?;
        if matches!(place, Place::Hidden | Place::Gone) {
            return Ok(());
        }
        let (tracked, key) = self.key(row)?;
        let key: Vec<_> = key.iter().map(Value::as_ref).collect();
        match place {
            Place::Altered => shadow::mark(self.conn, &tracked, &key, true)?,
            _ => {
                shadow::copy(self.conn, &tracked, &key, true)?;
                self.claim_all(row, Place::Hidden)?;
            }
        }
        if self.direct.1.contains(&tracked.no) {
            let columns = tracked.key_list("");
            if let Some(exact) = shadow::values(self.conn, &tracked, (false, &columns, ""), &key)? {
                let exact: Vec<_> = exact.iter().map(Value::as_ref).collect();
                let direct = direct_key(tracked.no, &pack_key(&exact));
                *self.direct.0.lock().unwrap_or_else(PoisonError::into_inner) = direct;
            }
        }
        let sql = format!("DELETE FROM {} WHERE {}", quoted(&tracked.table.name), tracked.key_match(1));
        self.write(&tracked, |conn| shadow::run(conn, &sql, &key))?;
        tracing::debug!(table = tracked.table.name, "a row is hidden by a constraint");
        Ok(())
    }

    /// Puts a hidden row into the table as it is merged.
    fn restore(&mut self, row: &RowId) -> Result<(), StoreError> {
        let (tracked, key) = self.key(row)?;
        let key: Vec<_> = key.iter().map(Value::as_ref).collect();
        let instead = self.instead_of(row)?;
        match self.write(&tracked, |conn| shadow::restore(conn, &tracked, &key, &instead)) {
            Ok(()) if !instead.is_empty() => return shadow::mark(self.conn, &tracked, &key, false),
            Ok(()) => {}
            // Something of this file's own is against it: a constraint that others have not, or a row past isle's knowledge.
            Err(error) if error.is_refusal() => {
                tracing::warn!(%error, table = tracked.table.name, "a merged row cannot be shown");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        shadow::forget(self.conn, &tracked, &key)?;
        // What was noted of the numbers that it stands in the way of stays.
        let sql = "DELETE FROM isle_claim WHERE t = ?1 AND k = ?2 AND substr(c, 1, 2) <> 'n:'";
        self.conn.prepare_cached(sql).and_then(|mut s| s.execute(params![row.0, row.1])).doing("drop claims")?;
        Ok(())
    }

    /// Lets a row show without a reference; false if the table does not allow that.
    fn alter(&mut self, row: &RowId, foreign: &ForeignKey) -> Result<bool, StoreError> {
        let (tracked, key) = self.key(row)?;
        let key: Vec<_> = key.iter().map(Value::as_ref).collect();
        // Without the reference the row could fall under a partial index, where nobody reckons with it.
        let named = |condition: &String| {
            foreign.parts.iter().any(|part| crate::tracked::contains_word(condition, &part.column.name))
        };
        if tracked.unique.iter().any(|index| index.predicate.as_ref().is_some_and(named)) {
            return Ok(false);
        }
        let fresh = self.place(row)? == Place::Shown;
        if fresh {
            shadow::copy(self.conn, &tracked, &key, false)?;
        }
        let sets = join(foreign.parts.iter().map(|part| format!("{} = NULL", quoted(&part.column.name))), ", ");
        let sql = format!("UPDATE {} SET {sets} WHERE {}", quoted(&tracked.table.name), tracked.key_match(1));
        match self.write(&tracked, |conn| shadow::run(conn, &sql, &key)) {
            Ok(()) if fresh => self.claim_all(row, Place::Altered).map(|()| true),
            Ok(()) => Ok(true),
            Err(error) if error.is_refusal() => {
                if fresh {
                    shadow::forget(self.conn, &tracked, &key)?;
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes one row of a table; a trigger of the app that refuses, or does something else instead, is passed over.
    fn write(
        &mut self,
        tracked: &Tracked,
        f: impl Fn(&Connection) -> Result<usize, StoreError>,
    ) -> Result<(), StoreError> {
        self.changed.insert(tracked.no);
        let again = match f(self.conn) {
            Ok(written) => written == 0,
            Err(error) if error.is_refusal() => true,
            Err(error) => return Err(error),
        };
        if !again {
            return Ok(());
        }
        let switch = |on| self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, on);
        switch(false).doing("suspend triggers")?;
        let result = f(self.conn);
        switch(self.engine.triggers_needed).doing("resume triggers")?;
        result.map(|_| ())
    }
}

fn row_id(tracked: &Tracked, exact: &[Value]) -> RowId {
    let exact: Vec<_> = exact.iter().map(Value::as_ref).collect();
    let canonical = canonical_key(&exact, &tracked.table.key).0;
    (tracked.no, pack_key(&canonical.iter().map(Value::as_ref).collect::<Vec<_>>()))
}

/// The rows that do not show as they are merged, by table and key; at most `limit`.
pub(crate) fn list_repaired(
    conn: &Connection,
    tables: &[Arc<Tracked>],
    limit: usize,
) -> Result<Vec<Repaired>, StoreError> {
    let sql = "SELECT t, c, v, k, behind FROM isle_claim WHERE behind IS NOT NULL ORDER BY t, k, c LIMIT ?1";
    let mut statement = conn.prepare(sql).doing("list hidden rows")?;
    let mut rows = statement.query([i64::try_from(limit).unwrap_or(i64::MAX)]).doing("list hidden rows")?;
    let mut repaired = Vec::new();
    while let Some(row) = rows.next().doing("list hidden rows")? {
        let no: i64 = row.get(0).doing("list hidden rows")?;
        let constraint: String = row.get(1).doing("list hidden rows")?;
        let blob = |at: usize| row.get::<_, Vec<u8>>(at).doing("list hidden rows");
        let Some(tracked) = tables.iter().find(|tracked| tracked.no == no) else { continue };
        let damaged = |_| StoreError::Internal { table: "isle_claim", detail: "values".to_owned() };
        let keys = tracked.table.key.len();
        let key = unpack_key(&blob(3)?, keys).map_err(damaged)?;
        let (kind, name) = constraint.split_at(constraint.len().min(2));
        let unique = tracked.unique.iter().find(|index| kind == "u:" && index.name == name);
        let foreign = tracked.foreign.iter().find(|foreign| kind == "f:" && foreign.name == name);
        let parts = unique.map(|index| &index.parts).or(foreign.map(|foreign| &foreign.parts));
        let Some(parts) = parts else { continue };
        let references: Vec<_> = key.iter().map(Value::as_ref).collect();
        let instead_of = unique.map(|_| unpack_key(&blob(4)?, keys).map_err(damaged)).transpose()?;
        repaired.push(Repaired {
            table: tracked.table.name.clone(),
            hidden: shadow::state(conn, tracked, &references)?.unwrap_or(false),
            key: tracked.table.key.iter().map(|column| column.name.clone()).zip(key).collect(),
            constraint: match unique {
                Some(_) => format!("UNIQUE ({})", join(parts.iter().map(|part| part.column.name.clone()), ", ")),
                None => name.to_owned(),
            },
            values: unpack_key(&blob(2)?, parts.len()).map_err(damaged)?,
            instead_of,
        });
    }
    Ok(repaired)
}
