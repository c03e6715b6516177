//! Writing a snapshot.

use std::sync::Arc;

use isle_changeset::snapshot::{
    EXCEPTIONS, JOURNAL, LENGTH, SEEN, SITE, SITES, STATE, SnapshotHeader, SnapshotTable, TIME, field,
};
use isle_changeset::{BlockInfo, BodyWriter, RowKind, SealedBlock, ValueRef, canonical_key};
use isle_clock::VersionVector;
use isle_schema::{ColumnId, TableId};
use rusqlite::Connection;

use crate::clocks::{CLOCK_FIELDS, RowClock, from_sql};
use crate::error::Doing as _;
use crate::own::Own;
use crate::settle::Settled;
use crate::tracked::Tracked;
use crate::{Store, StoreError};

/// How often foreign writes are sealed in the hope of a moment without any, before other writers are held off.
const CALM_TRIES: usize = 8;

/// What was written.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The encoded header, to be put behind its blocks.
    pub header: Vec<u8>,
    /// The state that it holds.
    pub vector: VersionVector,
    /// The schema operations that it needs, and so whoever offers it.
    pub heads: Vec<isle_schema::MigrationId>,
    /// Bytes of the blocks.
    pub stored_bytes: u64,
    /// Rows of tables, tombstones included.
    pub rows: u64,
}

impl Store {
    /// Writes the merged state, block by block, as it stands at one moment. Foreign writes are sealed first.
    ///
    /// # Errors
    /// What `sink` gives; [`StoreError::Incomplete`] when a table holds less than was merged into it; SQLite's reason.
    pub fn export_snapshot<E: From<StoreError>>(
        &self,
        mut sink: impl FnMut(SealedBlock) -> Result<(), E>,
    ) -> Result<Snapshot, E> {
        for _ in 0..CALM_TRIES {
            self.settle()?;
            let done = self.snapshot(|conn| {
                if crate::seal::queue_waits(conn)? {
                    return Ok(None);
                }
                let Some(settled) = Settled::look(conn)? else { return Ok(None) };
                Exporter::new(conn, &mut sink, &settled)?.run(&crate::engine::load_tables(conn)?).map(Some)
            })?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
        // Somebody writes all the time: this transaction seals and then keeps writers out.
        self.exclusive(|engine| Exporter::new(&engine.conn, &mut sink, &engine.settle()?)?.run(&engine.tables))
    }
}

struct Exporter<'c, 's, S> {
    conn: &'c Connection,
    writer: BodyWriter,
    infos: Vec<BlockInfo>,
    rows: u64,
    sink: &'s mut S,
}

impl<'c, 's, E: From<StoreError>, S: FnMut(SealedBlock) -> Result<(), E>> Exporter<'c, 's, S> {
    fn new(conn: &'c Connection, sink: &'s mut S, _: &Settled) -> Result<Self, E> {
        Ok(Exporter { conn, writer: BodyWriter::new(), infos: Vec::new(), rows: 0, sink })
    }

    fn run(mut self, tables: &[Arc<Tracked>]) -> Result<Snapshot, E> {
        crate::compact::refuse_away(self.conn, tables)?;
        let own = Own::load(self.conn)?;
        self.sites(&own)?;
        self.seen()?;
        let mut order: Vec<&Arc<Tracked>> = tables.iter().collect();
        order.sort_by_key(|tracked| tracked.table.id);
        let mut listed = Vec::new();
        for tracked in &order {
            self.table(tracked)?;
            let baselines = crate::layout::baselines(self.conn, tracked.no)?;
            let mut baselines: Vec<_> = baselines.into_iter().map(|(no, version)| (no as u64, version)).collect();
            baselines.sort_unstable();
            let columns = tracked.table.columns.iter().map(|column| column.id).collect();
            listed.push(SnapshotTable { id: tracked.table.id, columns, baselines });
        }
        self.journal(tables)?;
        if let Some(block) = std::mem::take(&mut self.writer).finish() {
            self.put(block)?;
        }
        let (group, site, heads) = (own.group, own.site, own.heads);
        let header = SnapshotHeader { group, site, heads: heads.clone(), tables: listed, blocks: self.infos };
        let stored_bytes = header.stored_bytes();
        let vector = crate::log::vector(self.conn)?;
        Ok(Snapshot { header: header.encode(), vector, heads, stored_bytes, rows: self.rows })
    }

    fn put(&mut self, block: SealedBlock) -> Result<(), E> {
        self.infos.push(block.info);
        (self.sink)(block)
    }

    /// Adds a row with the values that are there; NULL counts as absent in sections that are no tables.
    fn row(&mut self, table: &str, mask: &[u64], key: &[ValueRef<'_>], values: &[ValueRef<'_>]) -> Result<(), E> {
        let full = self.writer.row(RowKind::Insert, 1, mask, key, values);
        let full = full.map_err(|source| StoreError::RowTooLarge { table: table.to_owned(), source })?;
        full.map_or(Ok(()), |block| self.put(block))
    }

    /// A section whose rows come from a query: first its key columns, then its fields from 1 on.
    fn section(&mut self, table: TableId, keys: usize, sql: &str) -> Result<(), E> {
        let mut statement = self.conn.prepare(sql).doing("write a snapshot")?;
        let fields = statement.column_count() - keys;
        let columns: Vec<ColumnId> = (1..=fields).map(|n| field(n as u8)).collect();
        self.writer.table(table, &columns, keys);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().doing("write a snapshot")? {
            let value = |at: usize| row.get_ref(at).map(from_sql).doing("write a snapshot");
            let key: Vec<_> = (0..keys).map(value).collect::<Result<_, _>>()?;
            let (mut mask, mut values) = (0u64, Vec::with_capacity(fields));
            for n in 0..fields {
                match value(keys + n)? {
                    ValueRef::Null => {}
                    value => {
                        mask |= 1 << n;
                        values.push(value);
                    }
                }
            }
            self.row("isle", &[mask], &key, &values)?;
        }
        Ok(())
    }

    fn sites(&mut self, own: &Own) -> Result<(), E> {
        let (no, version, hlc) = (
            own.no,
            own.version as i64,
            crate::own::state_at(self.conn, own.no, own.version)?.map_or(0, |(hlc, _)| hlc.bits() as i64),
        );
        let chain: String = own.chain.iter().map(|byte| format!("{byte:02x}")).collect();
        let sql = format!(
            "SELECT s.no, s.id, iif(s.no = {no}, {version}, s.version), iif(s.no = {no}, {hlc}, s.hlc),
               iif(s.no = {no}, x'{chain}', s.chain), f.version, f.hlc
             FROM isle_site AS s LEFT JOIN isle_floor AS f ON f.site = s.no ORDER BY s.no"
        );
        self.section(SITES, 1, &sql)
    }

    fn seen(&mut self) -> Result<(), E> {
        self.section(SEEN, 2, "SELECT author, site, version, hlc FROM isle_seen ORDER BY author, site")
    }

    fn journal(&mut self, tables: &[Arc<Tracked>]) -> Result<(), E> {
        let mut numbers = String::new();
        for tracked in tables {
            let columns = std::iter::once(ColumnId::KEY).chain(tracked.table.columns.iter().map(|column| column.id));
            for (cell, column) in columns.enumerate() {
                let comma = if numbers.is_empty() { "" } else { ", " };
                numbers += &format!("{comma}({}, {cell}, x'{}', x'{column}')", tracked.no, tracked.table.id);
            }
        }
        if numbers.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "WITH cell(t, col, id, cid) AS (VALUES {numbers})
             SELECT c.id, l.id, c.k, l.cid, c.value, c.h, c.s, c.wh, c.ws, c.reason
             FROM isle_conflict AS c JOIN cell AS l ON l.t = c.t AND l.col = c.col WHERE c.state = 'open' ORDER BY c.id"
        );
        self.section(JOURNAL, 1, &sql)
    }

    fn table(&mut self, tracked: &Tracked) -> Result<(), E> {
        let (keys, columns) = (tracked.table.key.len(), tracked.table.columns.len());
        let mut ids = vec![ColumnId::KEY];
        ids.extend(tracked.table.columns.iter().map(|column| column.id));
        ids.extend([LENGTH, TIME, SITE, EXCEPTIONS, STATE]);
        self.writer.table(tracked.table.id, &ids, keys);
        let sql =
            format!("SELECT {} ORDER BY {}", tracked.clocks_and_rows(self.conn, "LEFT JOIN")?, tracked.clock_order());
        let mut statement = self.conn.prepare(&sql).doing("write a snapshot")?;
        let mut rows = statement.raw_query();
        let mut mask = vec![0u64; ids.len().div_ceil(64)];
        while let Some(row) = rows.next().doing("write a snapshot")? {
            let value = |at: usize| row.get_ref(at).map(from_sql).doing("write a snapshot");
            let key: Vec<_> = (0..keys).map(|n| value(CLOCK_FIELDS + n)).collect::<Result<_, _>>()?;
            let exact: Vec<_> = (0..keys).map(|n| value(CLOCK_FIELDS + keys + n)).collect::<Result<_, _>>()?;
            let Some(clock) = RowClock::read(row, 0, tracked)? else { continue };
            let (alive, packed_clock) = (clock.is_alive(), clock.packed());
            if alive && exact.contains(&ValueRef::Null) {
                return Err(StoreError::Incomplete { table: tracked.table.name.clone() }.into());
            }
            mask.fill(0);
            let mut values = Vec::with_capacity(ids.len());
            let mut add = |at: usize, value| {
                mask[at / 64] |= 1 << (at % 64);
                values.push(value);
            };
            let packed = if alive { canonical_key(&exact, &tracked.table.key).1 } else { None };
            if let Some(packed) = &packed {
                add(0, ValueRef::Blob(packed));
            }
            let state = tracked.state_in(row)?;
            let mut bases = tracked.kinds.iter().peekable();
            for column in (0..columns).filter(|_| alive) {
                match bases.next_if(|kind| kind.cell == column + 1) {
                    Some(kind) => add(column + 1, state.base(kind)),
                    None => add(column + 1, value(CLOCK_FIELDS + 2 * keys + column)?),
                }
            }
            let packed_state = state.clone().without_bases().packed();
            // Length and exceptions stand only where they say something.
            if clock.length != 1 {
                add(columns + 1, ValueRef::Integer(clock.length as i64));
            }
            add(columns + 2, ValueRef::Integer(clock.stamp.hlc as i64));
            add(columns + 3, ValueRef::Integer(clock.stamp.site));
            if let Some(packed) = packed_clock.as_ref().filter(|_| alive) {
                add(columns + 4, ValueRef::Blob(packed));
            }
            if let Some(packed) = packed_state.as_ref().filter(|_| alive) {
                add(columns + 5, ValueRef::Blob(packed));
            }
            self.rows += 1;
            self.row(&tracked.table.name, &mask, &key, &values)?;
        }
        Ok(())
    }
}
