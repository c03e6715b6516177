//! Settling: what the row clocks owe to the log.
//!
//! A seal that finds a row alive writes its update into the log and leaves the row's clock as it is: the log is the clock
//! until somebody asks for stamps. The fact `unsettled` names the first own version with such an update. A clock's causal length
//! is always true; its stamps are true once the own versions from there on have been settled: replayed in order, an update
//! stamping its cells if it belongs to the life that the clock counts. Inserts and deletes write their clocks at once, and
//! a new life has another length, so a stamp of a life that is over is passed over.
//!
//! Nothing of others is merged while a stamp is owed. So the order of own versions alone decides, and settling gives exactly the
//! clocks that stamping at once would have given.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use isle_changeset::{Block, DecodeError, Header, Row, RowKind, Section};
use isle_schema::TableId;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::StoreError;
use crate::clocks::{ClockTable, LocalStamp};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::{log_id, version_of};
use crate::own::Own;
use crate::seal::{bits, covers_all_columns, stamp_cells};
use crate::tracked::{LocalTable, Tracked};

const FACT: &str = "unsettled";

/// Proof that the stamps of this transaction's row clocks are true; whoever reads or merges stamps asks for it. It holds until the
/// next seal.
#[derive(Debug)]
pub(crate) struct Settled(());

impl Settled {
    /// The proof for a read transaction, if nothing is owed.
    pub(crate) fn look(conn: &Connection) -> Result<Option<Settled>, StoreError> {
        Ok(unsettled(conn)?.is_none().then_some(Settled(())))
    }
}

impl Engine {
    /// Pays what the clocks are owed; free if that is nothing. In a write transaction of the merging connection only.
    pub(crate) fn settle(&self) -> Result<Settled, StoreError> {
        let missing = || StoreError::Internal { table: "isle_meta", detail: "no transaction".to_owned() };
        let own = self.own.as_ref().ok_or_else(missing)?;
        let Some(from) = own.unsettled.get() else { return Ok(Settled(())) };
        let mut settling = Settling { engine: self, tables: HashMap::new() };
        settling.versions(own, from)?;
        self.conn.execute("DELETE FROM isle_meta WHERE k = ?1", [FACT]).doing("settle row clocks")?;
        own.unsettled.set(None);
        Ok(Settled(()))
    }
}

/// The first own version whose updates the clocks do not show yet.
pub(crate) fn unsettled(conn: &Connection) -> Result<Option<u64>, StoreError> {
    Ok(crate::layout::meta::<i64>(conn, FACT)?.map(|version| version as u64))
}

/// Notes that a version holds updates that the clocks do not show.
pub(crate) fn owe(conn: &Connection, unsettled: &Cell<Option<u64>>, version: u64) -> Result<(), StoreError> {
    if unsettled.get().is_none() {
        crate::layout::set_meta(conn, FACT, version as i64)?;
        unsettled.set(Some(version));
    }
    Ok(())
}

struct Settling<'c> {
    engine: &'c Engine,
    /// The tables met so far; `None` for one that is no longer tracked, and whose clocks are gone.
    tables: HashMap<TableId, Option<(Arc<Tracked>, ClockTable<'c>)>>,
}

impl Settling<'_> {
    fn versions(&mut self, own: &Own, from: u64) -> Result<(), StoreError> {
        let sql = "SELECT id, header FROM isle_log WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
        let conn = &self.engine.conn;
        let mut statement = conn.prepare_cached(sql).doing("settle row clocks")?;
        let range = params![log_id(own.no, from), log_id(own.no, own.version)];
        let mut rows = statement.query(range).doing("settle row clocks")?;
        while let Some(row) = rows.next().doing("settle row clocks")? {
            let (id, encoded): (i64, Vec<u8>) =
                (row.get(0).doing("settle row clocks")?, row.get(1).doing("settle row clocks")?);
            let bad = |source| StoreError::BadChangeset { site: own.site, version: version_of(id), source };
            let header = Header::decode(&encoded).map_err(bad)?;
            if header.baseline {
                continue;
            }
            let stamp = LocalStamp { hlc: header.hlc.bits(), site: own.no };
            for (n, info) in header.blocks.iter().enumerate() {
                let stored = crate::log::block(conn, id, header.blocks.len(), n)?.ok_or_else(|| {
                    StoreError::Internal { table: "isle_block", detail: format!("block {n} of log row {id}") }
                })?;
                let block = Block::open(&stored, info).map_err(bad)?;
                for section in block.sections() {
                    self.section(section.map_err(bad)?, stamp, bad)?;
                }
            }
        }
        Ok(())
    }

    fn section(
        &mut self,
        mut section: Section<'_>,
        stamp: LocalStamp,
        bad: impl Fn(DecodeError) -> StoreError,
    ) -> Result<(), StoreError> {
        let id = section.table();
        if !self.tables.contains_key(&id) {
            let known = table(self.engine, id)?;
            let clocks = known.map(|tracked| (Arc::clone(&tracked), ClockTable::open(&self.engine.conn, &tracked)));
            self.tables.insert(id, clocks);
        }
        let Some(Some((tracked, clocks))) = self.tables.get_mut(&id) else { return Ok(()) };
        let places: Vec<_> = section.columns().iter().map(|column| tracked.cell_of(*column)).collect();
        let mut mask = vec![0u64; tracked.cells().div_ceil(64)];
        let mut row = Row::default();
        while section.next(&mut row).map_err(&bad)? {
            if row.kind != RowKind::Update {
                continue;
            }
            mask.fill(0);
            for cell in bits(&row.mask).filter_map(|column| places.get(column).copied().flatten()) {
                mask[cell / 64] |= 1 << (cell % 64);
            }
            if mask.iter().all(|word| *word == 0) {
                continue;
            }
            let whole = covers_all_columns(tracked, &mask);
            if !whole && row.length == 1 && clocks.except_untouched(&row.key, &mask, stamp)? {
                continue;
            }
            let clock = clocks.get(&row.key)?;
            if let Some(mut clock) = clock.filter(|clock| clock.length == row.length) {
                stamp_cells(tracked, &mut clock, &mask, whole, stamp);
                clocks.update(&row.key, &clock)?;
            }
        }
        Ok(())
    }
}

/// A tracked table, also one that stands still because it was altered past isle: it may return.
fn table(engine: &Engine, id: TableId) -> Result<Option<Arc<Tracked>>, StoreError> {
    if let Some(tracked) = engine.by_id.get(&id) {
        return Ok(Some(Arc::clone(tracked)));
    }
    let sql = "SELECT no, def FROM isle_table WHERE id = ?1";
    let found =
        engine.conn.query_row(sql, [id.as_bytes()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)));
    let Some((no, model)) = found.optional().doing("read the tracked tables")? else { return Ok(None) };
    Ok(Some(Arc::new(Tracked::of_model(no, LocalTable::of_json(&model)?))))
}
