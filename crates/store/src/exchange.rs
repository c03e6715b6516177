//! What comes from other replicas and what goes to them: frames, schema operations, the log.

use isle_changeset::Hash;
use isle_clock::{SiteId, VersionVector};
use isle_schema::MigrationId;

use crate::engine::Engine;
use crate::{Applied, LogEntry, Logged, Merging, Store, StoreError, own, track};
use crate::{handover, log};

impl Store {
    /// Takes an encoded header into the log, to be merged by [`Store::apply`]; false if it was known.
    ///
    /// # Errors
    /// [`StoreError::ForeignGroup`], [`StoreError::Fork`], [`StoreError::BadHeader`], [`StoreError::TooFarAhead`].
    pub fn put_header(&self, bytes: &[u8]) -> Result<bool, StoreError> {
        self.merge(|engine, _| Ok(log::put_header(&engine.conn, &engine.own()?, bytes, None)?.is_some()))
    }

    /// Takes headers and blocks into the log in one transaction; gives how many were new. A frame without index is a header.
    ///
    /// # Errors
    /// The first refusal; then none of the frames was taken.
    pub fn put_frames<'f>(&self, frames: impl Iterator<Item = Frame<'f>>) -> Result<u64, StoreError> {
        self.merge(|engine, _| put_frames(engine, frames))
    }

    /// Takes frames into the log and merges what is ready, the first of it in the same transaction.
    ///
    /// # Errors
    /// As [`Store::put_frames`] and [`Store::apply`].
    pub fn receive<'f>(&self, frames: impl Iterator<Item = Frame<'f>>) -> Result<Applied, StoreError> {
        self.apply_after(None, |engine| put_frames(engine, frames).map(|_| ()))
    }

    /// As [`Store::receive`]; `tell` is told how far the merge is, on this thread and within its transactions.
    ///
    /// # Errors
    /// As [`Store::receive`].
    pub fn receive_with<'f>(
        &self,
        frames: impl Iterator<Item = Frame<'f>>,
        tell: &mut dyn FnMut(Merging),
    ) -> Result<Applied, StoreError> {
        self.apply_after(Some(tell), |engine| put_frames(engine, frames).map(|_| ()))
    }

    /// Applies a schema operation of another device, or nothing; known ones are passed over. [`Store::take_migration`] keeps what cannot
    /// be applied.
    ///
    /// # Errors
    /// [`StoreError::SchemaConflict`] when a table stands in its way, [`StoreError::Migration`] or [`StoreError::OperationRefused`] when it
    /// is broken.
    pub fn put_migration(&self, body: &[u8]) -> Result<MigrationId, StoreError> {
        self.merge(|engine, now_ms| track::apply_migration(engine, body, now_ms, false))
    }

    /// Whether a schema operation is here, applied or not.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn has_migration(&self, id: MigrationId) -> Result<bool, StoreError> {
        self.read(|conn| Ok(track::standing(conn, id)?.is_some()))
    }

    /// The encoding of a schema operation that is here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn migration(&self, id: MigrationId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|conn| track::migration(conn, id))
    }

    /// The schema operations that no other follows, applied or not: what to offer to others.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema_heads(&self) -> Result<Vec<MigrationId>, StoreError> {
        self.snapshot(|conn| own::heads(conn, false))
    }

    /// Merges every changeset in the log that is ready.
    ///
    /// # Errors
    /// SQLite's reason; what was merged before it stays merged. A broken changeset is no error of the call: it is listed
    /// as waiting.
    pub fn apply(&self) -> Result<Applied, StoreError> {
        self.apply_after(None, |_| Ok(()))
    }

    /// As [`Store::apply`]; `tell` is told how far the merge is, on this thread and within its transactions.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn apply_with(&self, tell: &mut dyn FnMut(Merging)) -> Result<Applied, StoreError> {
        self.apply_after(Some(tell), |_| Ok(()))
    }

    fn apply_after(
        &self,
        tell: Option<&mut dyn FnMut(Merging)>,
        first: impl FnOnce(&mut Engine) -> Result<(), StoreError>,
    ) -> Result<Applied, StoreError> {
        let now_ms = self.now_ms();
        let meter = log::Meter::new(tell);
        let applied =
            self.with_merge_engine(|engine| log::apply_ready(engine, self.options(), now_ms, meter, first))?;
        self.notify(applied.tables.clone(), true);
        Ok(applied)
    }

    /// The encoded header of a logged version.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn header(&self, site: SiteId, version: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|conn| Ok(log::header(conn, site, version)?.map(|(_, header)| header)))
    }

    /// Logged versions of a site after one, in order and in one read: as many as it takes to hold `bytes`, and at least one.
    /// True beside them if there are more.
    ///
    /// # Errors
    /// [`StoreError::LogDamaged`]; SQLite's reason.
    pub fn changesets(&self, site: SiteId, after: u64, bytes: usize) -> Result<(Vec<Logged>, bool), StoreError> {
        self.snapshot(|conn| handover::changesets(conn, site, after, bytes))
    }

    /// A stored block of a logged version.
    ///
    /// # Errors
    /// [`StoreError::LogDamaged`]; SQLite's reason.
    pub fn block(&self, site: SiteId, version: u64, n: usize) -> Result<Option<Vec<u8>>, StoreError> {
        self.snapshot(|conn| handover::block(conn, site, version, n))
    }

    /// What has been applied here, own versions included.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn vector(&self) -> Result<VersionVector, StoreError> {
        self.read(log::vector)
    }

    /// The hash of the last applied header of a site; `None` if nothing of it was applied.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn chain(&self, site: SiteId) -> Result<Option<Hash>, StoreError> {
        self.snapshot(|conn| log::chain(conn, &own::Own::load(conn)?, site))
    }

    /// The newest changesets, newest first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn log(&self, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        self.snapshot(|conn| log::entries(conn, &own::Own::load(conn)?, limit))
    }
}

/// A header or a block on its way into the log.
#[derive(Debug, Clone, Copy)]
pub enum Frame<'a> {
    /// An encoded header.
    Header(&'a [u8]),
    /// A stored block.
    Block {
        /// The author.
        site: SiteId,
        /// The author's version.
        version: u64,
        /// The block's place in the changeset.
        index: usize,
        /// The stored form.
        bytes: &'a [u8],
    },
    /// The signature of a site's device under its versions up to one; it comes before them.
    Proof {
        /// The author.
        site: SiteId,
        /// The version that it is of.
        version: u64,
        /// As [`isle_identity::prove`] makes it.
        bytes: &'a [u8],
    },
}

fn put_frames<'f>(engine: &mut Engine, frames: impl Iterator<Item = Frame<'f>>) -> Result<u64, StoreError> {
    let own = engine.own()?;
    let mut new = 0;
    let mut frames = frames.peekable();
    while let Some(frame) = frames.next() {
        let put = match frame {
            Frame::Header(header) => {
                // Most changesets have one block, which follows: it goes into the log with its header.
                log::put_header(&engine.conn, &own, header, frames.peek())?
            }
            Frame::Block { site, version, index, bytes } => log::put_block(&engine.conn, site, version, index, bytes)?,
            Frame::Proof { site, version, bytes } => crate::proofs::put(&engine.conn, &own, site, version, bytes)?,
        };
        if let Some(no) = put {
            new += 1;
            if let Some(plan) = &mut engine.plan {
                plan.look_at(no);
            }
        }
    }
    Ok(new)
}
