//! Remotes as places of contents, and what this device knows of what lies there.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use isle_blobs::{ChunkName, Remote, RemoteError};
use isle_files::ChunkRef;
use isle_store::RemoteRow;
use serde::Deserialize;
use tokio::time::Instant;

use super::Library;
use crate::sync::{self, blocking};
use crate::{Error, params};

/// Files whose chunks are looked up at once.
const LOOKED_UP: usize = 500;
/// How old a listing may be that is relied on before something is put.
const LISTING_MS: u64 = 3_600_000;
/// How often a remote is listed for files that it may have by now, in milliseconds for each page of chunks that it has.
const UNKNOWN_MS: u64 = 1_000;
/// Objects of one page of a listing.
const PAGE: u64 = 1_000;
/// Names that wait to be written while a remote is listed.
const LISTED: usize = 10_000;

/// A remote that is open.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) remote: Remote,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn failed(&self, source: RemoteError) -> Error {
        Error::Remote { name: self.name.clone(), source }
    }
}

/// What moving a file takes of its row.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Content {
    pub(super) id: String,
    pub(super) path: String,
    pub(super) kind: String,
    pub(super) bytes: u64,
    content: String,
    chunks: Option<Vec<u8>>,
}

/// The same without what may be large.
pub(super) const WITHOUT_CHUNKS: &str = "f.id, f.path, f.kind, f.bytes, f.content, NULL AS chunks";
pub(super) const CONTENT: &str = "f.id, f.path, f.kind, f.bytes, f.content, f.chunks";

impl Content {
    /// The BLAKE3 hash of all of it.
    pub(super) fn hash(&self) -> Option<[u8; 32]> {
        blake3::Hash::from_hex(&self.content).ok().map(|hash| *hash.as_bytes())
    }

    pub(super) fn pieces(&self) -> Result<Vec<ChunkRef>, Error> {
        let hash = self.hash().unwrap_or_default();
        let pieces = ChunkRef::decode(self.chunks.as_deref(), hash, self.bytes);
        Ok(pieces.map_err(super::LibraryError::from)?)
    }

    pub(super) fn names(&self, remote: &Remote) -> Result<Vec<ChunkName>, Error> {
        Ok(self.pieces()?.iter().map(|piece| remote.chunk_name(&self.kind, &piece.hash)).collect())
    }
}

/// What is known of a chunk in a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Something stands there under its name.
    Listed,
    /// This device put it there, or has read it.
    Own,
    /// What stands there is another.
    Damaged,
}

impl Trust {
    fn number(self) -> i64 {
        match self {
            Trust::Damaged => -1,
            Trust::Listed => 0,
            Trust::Own => 1,
        }
    }
}

/// Keeps bytes within a rate.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_s: Option<u64>,
    began: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(bytes_per_s: Option<u64>) -> Pace {
        Pace { bytes_per_s: bytes_per_s.filter(|rate| *rate > 0), began: Instant::now(), bytes: 0 }
    }

    /// Waits until so many more bytes may move.
    pub(super) async fn take(&mut self, bytes: u64) {
        let Some(rate) = self.bytes_per_s else { return };
        let due = self.began + Duration::from_secs_f64(self.bytes as f64 / rate as f64);
        self.bytes += bytes;
        tokio::time::sleep_until(due).await;
    }
}

impl Library {
    /// The remotes of this replica that can be opened, and why the others cannot.
    pub(super) async fn sources(&self, only: Option<&str>) -> Result<(Vec<Source>, Vec<(String, Error)>), Error> {
        let only = only.map(str::to_owned);
        let rows: Vec<RemoteRow> = blocking(self.inner(), move |inner| {
            let mut rows = inner.store.remotes()?;
            if let Some(name) = only {
                rows.retain(|row| row.name == name);
                if rows.is_empty() {
                    return Err(Error::NoSuchRemote { name });
                }
            }
            Ok(rows)
        })
        .await?;
        let (mut sources, mut failed) = (Vec::new(), Vec::new());
        for row in rows {
            match sync::open_for_files(self.inner(), &row).await {
                Ok(remote) => sources.push(Source { name: row.name, remote }),
                Err(error) => failed.push((row.name, error)),
            }
        }
        Ok((sources, failed))
    }

    /// When a remote was last listed, in milliseconds since 1970.
    pub(super) fn listed_ms(&self, remote: &str) -> Result<Option<u64>, Error> {
        let sql = "SELECT at_ms FROM library_listings WHERE remote = ?1";
        let at: Option<u64> = self.replica.read(|q| q.one(sql, params![remote]))?;
        // A listing of tomorrow is one by a clock that was wrong.
        Ok(at.filter(|at| *at <= self.inner().runtime.now_ms()))
    }

    /// The number of the last listing of a remote.
    fn listing(&self, remote: &str) -> Result<i64, Error> {
        let sql = "SELECT number FROM library_listings WHERE remote = ?1";
        Ok(self.replica.read(|q| q.one(sql, params![remote]))?.unwrap_or(0))
    }

    /// What is known of a chunk. Blocks.
    pub(super) fn trust(&self, remote: &str, name: &ChunkName) -> Result<Trust, Error> {
        let sql = "SELECT trust FROM library_chunks WHERE remote = ?1 AND name = ?2";
        Ok(match self.replica.read(|q| q.one::<i64>(sql, params![remote, name.as_str()]))? {
            Some(1) => Trust::Own,
            Some(-1) => Trust::Damaged,
            _ => Trust::Listed,
        })
    }

    /// Notes what a chunk turned out to be; nothing, if it is not there. A file that needs one that is not sound is not whole there. Blocks.
    pub(super) fn note_trust(
        &self,
        remote: &str,
        name: &ChunkName,
        file: &str,
        trust: Option<Trust>,
    ) -> Result<(), Error> {
        let listing = self.listing(remote)?;
        self.replica.write(|tx| {
            match trust {
                None => tx.execute(
                    "DELETE FROM library_chunks WHERE remote = ?1 AND name = ?2",
                    params![remote, name.as_str()],
                )?,
                Some(trust) => {
                    let sql = "INSERT INTO library_chunks(remote, name, listing, trust) VALUES(?1, ?2, ?3, ?4)
                        ON CONFLICT(remote, name) DO UPDATE SET trust = excluded.trust";
                    tx.execute(sql, params![remote, name.as_str(), listing, trust.number()])?
                }
            };
            if trust == Some(Trust::Own) {
                return Ok(0);
            }
            tx.execute("DELETE FROM library_stored WHERE remote = ?1 AND file = ?2", params![remote, file])
        })?;
        Ok(())
    }

    /// Notes that a file is whole in a remote, from which all of it came. Blocks.
    pub(super) fn note_fetched(&self, source: &Source, file: &Content) -> Result<(), Error> {
        let names = file.names(&source.remote)?;
        self.note_chunks(&source.name, &names, None, Trust::Own)?;
        let sql = "INSERT INTO library_stored(remote, file) VALUES(?1, ?2) ON CONFLICT DO NOTHING";
        self.replica.write(|tx| tx.execute(sql, params![&source.name, &file.id]))?;
        Ok(())
    }

    /// Forgets what is known of a remote of this name: another one may be called so from now on.
    pub(crate) fn forget_remote(&self, name: &str) -> Result<(), Error> {
        if !self.exists()? {
            return Ok(());
        }
        self.replica.write(|tx| {
            for table in ["library_chunks", "library_listings", "library_stored", "library_transfers"] {
                tx.execute(&format!("DELETE FROM {table} WHERE remote = ?1"), params![name])?;
            }
            Ok(())
        })
    }

    /// Whether a remote is to be listed: before something is put there if that was not done lately, and when it may have files of which that is not known. The
    /// more it has, the less often.
    pub(super) fn should_list(&self, remote: &str, puts: bool) -> Result<bool, Error> {
        let Some(listed) = self.listed_ms(remote)? else { return Ok(puts || self.has_unknown(remote)?) };
        let age = self.inner().runtime.now_ms().saturating_sub(listed);
        if puts && age > LISTING_MS {
            return Ok(true);
        }
        let sql = "SELECT count(*) FROM library_chunks WHERE remote = ?1";
        let chunks: u64 = self.replica.read(|q| q.one(sql, params![remote]))?.unwrap_or(0);
        Ok(age > UNKNOWN_MS * (1 + chunks / PAGE) && self.has_unknown(remote)?)
    }

    /// Whether there is a file that is not here and of which nobody knows whether a remote has it.
    fn has_unknown(&self, remote: &str) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM library_sound AS f WHERE f.trashed_ms IS NULL AND f.replaced_by IS NULL
            AND NOT EXISTS (SELECT 1 FROM library_stored AS t WHERE t.file = f.id AND t.remote = ?1)
            AND NOT EXISTS (SELECT 1 FROM library_scan AS s WHERE s.file = f.id AND s.state = 'ok') LIMIT 1";
        Ok(self.replica.read(|q| q.one::<i64>(sql, params![remote]))?.is_some())
    }

    /// Lists what a remote has, and which files are whole there.
    pub(super) async fn take_stock(&self, source: &Source) -> Result<(), Error> {
        let (library, name) = (self.clone(), source.name.clone());
        let listing = blocking(self.inner(), move |_| Ok(library.listing(&name)? + 1)).await?;
        if self.inner().runtime.blocks_in_place() {
            let mut names = Vec::new();
            let listed = source.remote.list_chunks(|chunk| names.push(chunk.name)).await;
            self.note_chunks(&source.name, &names, Some(listing), Trust::Listed)?;
            listed.map_err(|error| source.failed(error))?;
        } else {
            self.note_listing(source, listing).await?;
        }
        let marks = source.remote.list_marks().await.map_err(|error| source.failed(error))?;
        let (library, source) = (self.clone(), source.clone());
        blocking(self.inner(), move |_| {
            let now = library.now();
            library.replica.write(|tx| {
                let sql = "DELETE FROM library_chunks WHERE remote = ?1 AND listing <> ?2";
                tx.execute(sql, params![&source.name, listing])?;
                let sql = "INSERT INTO library_listings(remote, number, at_ms) VALUES(?1, ?2, ?3)
                    ON CONFLICT(remote) DO UPDATE SET number = excluded.number, at_ms = excluded.at_ms";
                tx.execute(sql, params![&source.name, listing, now])?;
                // What is marked may go at any moment: nobody relies on it before the mark is gone.
                let sql = "UPDATE library_chunks SET trust = -2 WHERE remote = ?1 AND name = ?2 AND trust >= 0";
                let mut mark = tx.prepare(sql)?;
                marks.iter().try_for_each(|of| mark.execute(params![&source.name, of.name.as_str()]).map(|_| ()))
            })?;
            library.note_stored(&source)
        })
        .await
    }

    /// Notes all chunks of a remote while they are listed: there may be millions.
    async fn note_listing(&self, source: &Source, listing: i64) -> Result<(), Error> {
        let (send, receive) = sync_channel::<ChunkName>(LISTED);
        let (library, name) = (self.clone(), source.name.clone());
        let writer = tokio::task::spawn_blocking(move || {
            let mut page = Vec::with_capacity(LISTED);
            loop {
                let next = receive.recv();
                let ended = next.is_err();
                page.extend(next);
                if page.len() >= LISTED || ended {
                    library.note_chunks(&name, &page, Some(listing), Trust::Listed)?;
                    page.clear();
                }
                if ended {
                    return Ok::<(), Error>(());
                }
            }
        });
        // A writer that failed has ended, and tells below.
        let listed = source.remote.list_chunks(move |chunk| _ = send.send(chunk.name)).await;
        writer.await.map_err(|_| Error::Cancelled)??;
        listed.map_err(|error| source.failed(error))
    }

    /// Notes that chunks stand in a remote: by a listing, or because they were put or read. Blocks.
    pub(super) fn note_chunks(
        &self,
        remote: &str,
        names: &[ChunkName],
        listing: Option<i64>,
        trust: Trust,
    ) -> Result<(), Error> {
        let listing = listing.map_or_else(|| self.listing(remote), Ok)?;
        self.replica.write(|tx| {
            let sql = "INSERT INTO library_chunks(remote, name, listing, trust) VALUES(?1, ?2, ?3, ?4)
                ON CONFLICT(remote, name) DO UPDATE SET listing = excluded.listing, trust = CASE WHEN excluded.trust = 0 AND trust <> -2 THEN trust ELSE excluded.trust END";
            let mut insert = tx.prepare(sql)?;
            let trust = trust.number();
            names.iter().try_for_each(|name| insert.execute(params![remote, name.as_str(), listing, trust]).map(|_| ()))
        })
    }

    /// Works out which files a remote has whole. Blocks.
    fn note_stored(&self, source: &Source) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let sql = "SELECT id FROM library_sound WHERE id > ?1 ORDER BY id LIMIT ?2";
            let page: Vec<String> = self.replica.read(|q| q.all(sql, params![&after, LOOKED_UP as i64]))?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(last);
            let mut whole = Vec::new();
            self.replica.read(|q| {
                for id in &page {
                    // One at a time: a list may be large.
                    let sql = format!("SELECT {CONTENT} FROM library_sound AS f WHERE f.id = ?1");
                    let file = q.one::<Content>(&sql, params![id])?;
                    whole.push(file.map_or(Ok(false), |file| self.is_listed(q, source, &file))?);
                }
                Ok(())
            })?;
            self.replica.write(|tx| {
                let put = "INSERT INTO library_stored(remote, file) VALUES(?1, ?2) ON CONFLICT DO NOTHING";
                let take = "DELETE FROM library_stored WHERE remote = ?1 AND file = ?2";
                for (id, whole) in page.iter().zip(&whole) {
                    tx.execute(if *whole { put } else { take }, params![&source.name, id])?;
                }
                Ok(())
            })?;
        }
    }

    /// Whether all chunks of a file are known to stand in a remote.
    pub(super) fn is_listed(&self, q: &crate::Queries<'_>, source: &Source, file: &Content) -> Result<bool, Error> {
        // A list that makes no sense is that of a file that nobody can fetch.
        let Ok(names) = file.names(&source.remote) else { return Ok(false) };
        for name in names {
            if !is_known(q, &source.name, &name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a chunk is known to stand in a remote, and not known to be damaged.
pub(super) fn is_known(q: &crate::Queries<'_>, remote: &str, name: &ChunkName) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM library_chunks WHERE remote = ?1 AND name = ?2 AND trust >= 0";
    Ok(q.one::<i64>(sql, params![remote, name.as_str()])?.is_some())
}
