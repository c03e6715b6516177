//! Copies of this device go when a remote has the content, whole and sound.

use std::collections::BTreeSet;

use isle_blobs::{ChunkName, RemoteError};
use isle_files::{ChunkRef, Folder, FolderError, read_at};

use super::index::Entry;
use super::push::MoveOptions;
use super::roots::Root;
use super::sources::{CONTENT, Content, Source, Trust};
use super::take_up::Book;
use super::{FileInfo, Library, LibraryError};
use crate::sync::blocking;
use crate::{Error, SyncOptions, params};

impl Library {
    /// Keeps a file on this device, or lets it go again. [`Selection::Pinned`](super::Selection::Pinned) brings what is not here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn pin(&self, id: &str, pinned: bool) -> Result<(), Error> {
        self.must_exist()?;
        let sql = match pinned {
            true => "INSERT INTO library_pins(file) VALUES(?1) ON CONFLICT DO NOTHING",
            false => "DELETE FROM library_pins WHERE file = ?1",
        };
        self.replica.write(|tx| tx.execute(sql, params![id]))?;
        Ok(())
    }

    /// Takes the copies of this device away, after a sync with a remote, which was asked for each chunk: one that this device put there has to stand there, one
    /// of others is fetched and checked. Gives the bytes freed.
    ///
    /// # Errors
    /// Those of the sync; [`LibraryError::OnlyCopy`], [`LibraryError::Pinned`], [`LibraryError::Changed`]; what was changed is where it was then.
    pub async fn evict(&self, file: &FileInfo, options: &MoveOptions) -> Result<u64, Error> {
        if file.pinned {
            return Err(LibraryError::Pinned { path: file.path.clone() }.into());
        }
        let _alone = self.lock_movements().await?;
        let (sources, failed) = self.sources(options.remote.as_deref()).await?;
        let (library, id) = (self.clone(), file.id.clone());
        let content = blocking(self.inner(), move |_| {
            let sql = format!("SELECT {CONTENT} FROM library_sound AS f WHERE f.id = ?1");
            library.replica.read(|q| q.one::<Content>(&sql, params![&id]))
        });
        let content = content.await?.ok_or_else(|| LibraryError::NoSuchFile { wanted: file.id.clone() })?;
        let pieces = content.pieces()?;
        for source in &sources {
            // Nobody prunes what a row needs that is known there: it has to be, before the remote has the only copy.
            let here = SyncOptions { remote: Some(source.name.clone()), ..SyncOptions::default() };
            let known = self.replica.sync_with(&here).await?.iter().all(|report| !report.held_back);
            if known && self.has_all(source, &content, &pieces).await? {
                let library = self.clone();
                return blocking(self.inner(), move |_| library.remove_copies(&content, &pieces)).await;
            }
        }
        // One that cannot be asked may have it, but for one that was never synced with.
        let unasked =
            failed.into_iter().map(|(_, error)| error).find(|error| !matches!(error, Error::NeverSynced { .. }));
        Err(unasked.unwrap_or_else(|| LibraryError::OnlyCopy { path: file.path.clone() }.into()))
    }

    /// Whether every chunk of a file stands in a remote, sound, and is not about to go.
    async fn has_all(&self, source: &Source, content: &Content, pieces: &[ChunkRef]) -> Result<bool, Error> {
        let marks = source.remote.list_marks().await.map_err(|error| source.failed(error))?;
        let going: BTreeSet<ChunkName> = marks.into_iter().map(|mark| mark.name).collect();
        for piece in pieces {
            let name = source.remote.chunk_name(&content.kind, &piece.hash);
            if going.contains(&name) {
                return Ok(false);
            }
            let (library, remote, asked) = (self.clone(), source.name.clone(), name.clone());
            let trust = blocking(self.inner(), move |_| library.trust(&remote, &asked)).await?;
            let stands = match trust {
                Trust::Own => source.remote.has_chunk(&name).await,
                Trust::Listed | Trust::Damaged => {
                    let got = source.remote.get_chunk(&name, &piece.hash, piece.bytes as usize).await;
                    got.map(|_| true)
                }
            };
            let found = match stands {
                Ok(true) => Some(Trust::Own),
                Ok(false) | Err(RemoteError::Missing { .. }) => None,
                Err(RemoteError::Corrupt { .. }) => Some(Trust::Damaged),
                Err(error) => return Err(source.failed(error)),
            };
            let (library, remote, id) = (self.clone(), source.name.clone(), content.id.clone());
            let sound = found == Some(Trust::Own);
            if !sound || trust != Trust::Own {
                blocking(self.inner(), move |_| library.note_trust(&remote, &name, &id, found)).await?;
            }
            if !sound {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Each copy is put aside first, so that nobody writes to it under its name any more, looked at there, and removed if it is what the remote has.
    fn remove_copies(&self, content: &Content, pieces: &[ChunkRef]) -> Result<u64, Error> {
        let _alone = self.lock_scans()?;
        let mut freed = 0;
        for (root, folder, entry) in self.places_of(&content.id)? {
            let Some(name) = self.put_aside(&root, &folder, &entry, "evicted")? else { continue };
            let (file, stat) = folder.open_trashed(&content.id, &name).map_err(LibraryError::from)?;
            if !is_whole(&file, stat.bytes, content, pieces) {
                return self.undo_eviction(&root, &folder, &entry, &name);
            }
            drop(file);
            folder.remove_trashed(&content.id, &name).map_err(LibraryError::from)?;
            self.forget_trashed(&content.id, root.id, &name)?;
            // What comes to this place later is a newer version of it.
            let (device, now) = (self.device()?, self.now());
            let sql = "INSERT INTO library_presence(file, device, root, path, state, since_ms) VALUES(?1, ?2, ?3, ?4, 'evicted', ?5)
                ON CONFLICT(file, device, root, path) DO UPDATE SET state = 'evicted', since_ms = excluded.since_ms";
            self.replica.write(|tx| tx.execute(sql, params![&content.id, &device, &root.name, &entry.path, now]))?;
            freed += content.bytes;
        }
        Ok(freed)
    }

    fn undo_eviction(&self, root: &Root, folder: &Folder, entry: &Entry, name: &str) -> Result<u64, Error> {
        let id = entry.file.as_deref().unwrap_or_default();
        let changed = LibraryError::Changed { path: root.folder.join(&entry.path) };
        match folder.take_back(id, name, &entry.path) {
            Ok(()) => {}
            // Something else came there meanwhile: what was put aside is in the trash, and listed there.
            Err(FolderError::Exists { .. }) => return Err(changed.into()),
            Err(error) => return Err(LibraryError::from(error).into()),
        }
        let mut stat = folder.stat(&entry.path).map_err(LibraryError::from)?.unwrap_or_default();
        stat.modified_ns = -1;
        let device = self.device()?;
        let book = Book { root, folder, device: &device, op: 0, now_ms: self.now() };
        self.replica.write(|tx| book.put_found(tx, id, &entry.path, stat))?;
        self.forget_trashed(id, root.id, name)?;
        Err(changed.into())
    }
}

/// Whether a file is made of exactly these chunks.
fn is_whole(file: &std::fs::File, bytes: u64, content: &Content, pieces: &[ChunkRef]) -> bool {
    let mut at = 0;
    let mut buffer = Vec::new();
    let all = pieces.iter().all(|piece| {
        buffer.resize(piece.bytes as usize, 0);
        let read = read_at(file, at, &mut buffer).is_ok();
        at += u64::from(piece.bytes);
        read && *blake3::hash(&buffer).as_bytes() == piece.hash
    });
    all && at == bytes && bytes == content.bytes
}
