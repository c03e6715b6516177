//! Taking a snapshot in: its blocks gather in the file, and are joined when all are here.

use isle_changeset::DecodeError;
use isle_changeset::snapshot::SnapshotHeader;
use isle_clock::VersionVector;
use rusqlite::{Connection, params};

use super::join;
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::{Applied, Store, StoreError, layout};

/// What a staged snapshot still lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Blocks that are not here yet, by their place.
    pub missing: Vec<usize>,
    /// How many it has.
    pub blocks: usize,
}

impl Store {
    /// Begins to take a snapshot in, or goes on with the one of this header. The vector says what it holds, by the word of whoever gives it.
    ///
    /// # Errors
    /// [`StoreError::BadSnapshot`], [`StoreError::SnapshotSchema`] when a schema operation is missing here, and
    /// [`StoreError::TablesAway`].
    pub fn stage_snapshot(&self, header: &[u8], vector: &VersionVector) -> Result<Staged, StoreError> {
        let decoded = SnapshotHeader::decode(header).map_err(|source| StoreError::BadSnapshot { source })?;
        self.merge(|engine, _| {
            fits(engine, &decoded)?;
            let conn = &engine.conn;
            if layout::meta::<Vec<u8>>(conn, "snapshot")?.as_deref() != Some(header) {
                discard(conn)?;
                layout::set_meta(conn, "snapshot", header)?;
                let vector = serde_json::to_string(vector).unwrap_or_default();
                layout::set_meta(conn, "snapshot holds", vector)?;
            }
            let mut statement = conn.prepare("SELECT n FROM isle_snapshot ORDER BY n").doing("stage a snapshot")?;
            let here = statement.query_map([], |row| row.get::<_, i64>(0)).doing("stage a snapshot")?;
            let here: Vec<i64> = here.collect::<Result<_, _>>().doing("stage a snapshot")?;
            let blocks = decoded.blocks.len();
            Ok(Staged { missing: (0..blocks).filter(|n| here.binary_search(&(*n as i64)).is_err()).collect(), blocks })
        })
    }

    /// Takes blocks of the staged snapshot, each with its place.
    ///
    /// # Errors
    /// [`StoreError::BadSnapshot`] for a block that is not what the header says; then none of them was taken.
    pub fn stage_blocks<'b>(&self, blocks: impl Iterator<Item = (usize, &'b [u8])>) -> Result<(), StoreError> {
        self.merge(|engine, _| {
            let header = staged(&engine.conn)?.ok_or(StoreError::NoSnapshot)?;
            let sql = "INSERT OR REPLACE INTO isle_snapshot(n, body) VALUES(?1, ?2)";
            let mut statement = engine.conn.prepare_cached(sql).doing("stage a snapshot")?;
            for (n, bytes) in blocks {
                let sound = header.blocks.get(n).is_some_and(|info| *blake3::hash(bytes).as_bytes() == info.hash);
                if !sound {
                    return Err(StoreError::BadSnapshot { source: DecodeError::Hash { what: "block" } });
                }
                statement.execute(params![n as i64, bytes]).doing("stage a snapshot")?;
            }
            Ok(())
        })
    }

    /// Joins the staged snapshot with what is here, in one transaction, and merges what waited for it.
    ///
    /// # Errors
    /// [`StoreError::BadSnapshot`]; [`StoreError::Fork`] when it holds versions of this site that this file never wrote: take a new
    /// site id first; [`StoreError::Clock`] when it is from the future. Nothing of it is here then.
    pub fn join_snapshot(&self) -> Result<Applied, StoreError> {
        let now_ms = self.now_ms();
        let options = self.options();
        let mut joined = self.merge(|engine, _| {
            let header = staged(&engine.conn)?.ok_or(StoreError::NoSnapshot)?;
            fits(engine, &header)?;
            let joined = join::join(engine, &header, options, now_ms)?;
            discard(&engine.conn)?;
            // Whoever waited for what came with it has to be looked at.
            engine.plan = None;
            Ok(joined)
        })?;
        self.notify(joined.tables.clone(), true);
        let applied = self.apply()?;
        joined.versions += applied.versions;
        joined.rows += applied.rows;
        joined.conflicts += applied.conflicts;
        joined.waiting = applied.waiting;
        joined.tables.extend(applied.tables);
        joined.tables.sort_unstable();
        joined.tables.dedup();
        Ok(joined)
    }

    /// Forgets a staged snapshot if all that it could bring has come by other ways: it takes as much room as a copy of the file.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn discard_needless_snapshot(&self) -> Result<(), StoreError> {
        let needless = self.snapshot(|conn| {
            let Some(holds) = layout::meta::<String>(conn, "snapshot holds")? else { return Ok(false) };
            let holds: Option<VersionVector> = serde_json::from_str(&holds).ok();
            Ok::<_, StoreError>(match holds {
                Some(holds) => crate::log::vector(conn)?.includes(&holds),
                None => true,
            })
        })?;
        if needless { self.discard_snapshot() } else { Ok(()) }
    }

    /// Forgets a staged snapshot.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn discard_snapshot(&self) -> Result<(), StoreError> {
        self.internal(discard)
    }
}

fn discard(conn: &Connection) -> Result<(), StoreError> {
    conn.execute_batch("DELETE FROM isle_snapshot; DELETE FROM isle_meta WHERE k IN ('snapshot', 'snapshot holds')")
        .doing("discard a snapshot")
}

fn staged(conn: &Connection) -> Result<Option<SnapshotHeader>, StoreError> {
    let Some(bytes) = layout::meta::<Vec<u8>>(conn, "snapshot")? else { return Ok(None) };
    SnapshotHeader::decode(&bytes).map(Some).map_err(|source| StoreError::BadSnapshot { source })
}

/// Whether the schema here can hold the snapshot.
fn fits(engine: &Engine, header: &SnapshotHeader) -> Result<(), StoreError> {
    let own = engine.own()?;
    let bad = |what| StoreError::BadSnapshot { source: DecodeError::Inconsistent { what } };
    if header.group != own.group {
        return Err(bad("group of a snapshot"));
    }
    if let Some(missing) =
        header.heads.iter().find(|id| !matches!(crate::track::is_applied(&engine.conn, **id), Ok(true)))
    {
        return Err(StoreError::SnapshotSchema { id: missing.to_string() });
    }
    crate::compact::refuse_away(&engine.conn, &engine.tables)?;
    let known = |table: &isle_changeset::snapshot::SnapshotTable| {
        let tracked = engine.by_id.get(&table.id);
        tracked
            .is_some_and(|tracked| table.columns.iter().all(|column| tracked.cell_of(*column).is_some_and(|n| n > 0)))
    };
    if header.tables.iter().all(known) { Ok(()) } else { Err(bad("table of a snapshot")) }
}
