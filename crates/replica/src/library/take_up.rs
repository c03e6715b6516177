//! From a path on the disk to rows: looking at a file, and writing down what was seen.

use std::io::Seek as _;

use isle_files::{
    ChunkRef, Chunker, Digests, Facts, Folder, Identity, IngestError, Ingested, Kind, Kinds, LogicalPath, Stat, ingest,
};

use super::index::{self, Entry, State};
use super::roots::{OWN_ROOT, Root};
use super::{Library, LibraryError};
use crate::{Error, Transaction, params};

/// A path, and what was seen of it.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) path: String,
    pub(super) stat: Stat,
    pub(super) before: Option<Entry>,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// It is one of the library's kind, and whole.
    Taken(Box<Taken>),
    /// It was away, and is what it was.
    Back,
    /// Its validator does not take it.
    Invalid(String),
    /// It cannot be read now.
    Unreadable(String),
    /// It is of no kind.
    Other,
}

/// What makes a row.
#[derive(Debug)]
pub(super) struct Taken {
    kind: String,
    identity: Identity,
    ingested: Ingested,
    facts: Facts,
}

/// What came of writing a look down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Modified,
    Moved,
    Back,
    /// It is in the library as it was, and was only touched.
    Same,
    Invalid,
    Unreadable,
    Other,
}

impl Change {
    pub(super) fn as_str(self) -> Option<&'static str> {
        match self {
            Change::Added => Some("added"),
            Change::Modified => Some("modified"),
            Change::Moved => Some("moved"),
            Change::Back => Some("back"),
            Change::Invalid => Some("invalid"),
            Change::Unreadable => Some("unreadable"),
            Change::Same | Change::Other => None,
        }
    }
}

/// Looks at files of one root.
pub(super) struct Looker<'a> {
    pub(super) library: &'a Library,
    pub(super) folder: &'a Folder,
    pub(super) root: &'a Root,
    pub(super) kinds: &'a Kinds,
    pub(super) chunker: &'a Chunker,
}

impl Looker<'_> {
    /// The kind of a path, if this root looks for it.
    pub(super) fn kind_of(&self, path: &str) -> Option<&Kind> {
        let kind = self.kinds.of(path)?;
        (self.root.kinds.is_empty() || self.root.kinds.contains(&kind.name)).then_some(kind)
    }

    /// Looks at what stands at a path; `more` is told of the bytes read, and ends it by giving false.
    pub(super) fn look(
        &self,
        path: String,
        seen: Stat,
        before: Option<Entry>,
        more: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Look, Error> {
        let is_back = |entry: &Entry| entry.state == State::Missing && entry.stat == seen && entry.known;
        if before.as_ref().is_some_and(is_back) {
            return Ok(Look { path, stat: seen, before, outcome: Outcome::Back });
        }
        let Some(kind) = self.kind_of(&path) else {
            return Ok(Look { path, stat: seen, before, outcome: Outcome::Other });
        };
        if let Some(why) = kind.misfit(seen.bytes) {
            return Ok(Look { path, stat: seen, before, outcome: Outcome::Invalid(why) });
        }
        let validator = match self.library.validator_of(kind) {
            Ok(validator) => validator,
            Err(error) => {
                let outcome = Outcome::Unreadable(error.to_string());
                return Ok(Look { path, stat: seen, before, outcome });
            }
        };
        let (mut file, mut stat) = match self.folder.open_file(&path) {
            Ok(opened) => opened,
            Err(error) => {
                let outcome = Outcome::Unreadable(error.to_string());
                return Ok(Look { path, stat: seen, before, outcome });
            }
        };
        let now_ns = self.library.now().saturating_mul(1_000_000);
        let name = path.rsplit('/').next().unwrap_or(&path);
        let facts = validator.look(name, &mut file, stat.bytes);
        let digests = Digests { sha1: kind.sha1, sha256: kind.sha256 };
        let taken = match facts {
            Err(why) => Err(Outcome::Invalid(why.0)),
            Ok(facts) => match file
                .rewind()
                .map_err(IngestError::from)
                .and_then(|()| ingest(&file, &stat, self.chunker, digests, more))
            {
                Ok(ingested) => Ok(Taken { kind: kind.name.clone(), identity: kind.identity, ingested, facts }),
                Err(IngestError::Stopped) => return Err(Error::Cancelled),
                Err(error @ IngestError::TooLarge(_)) => Err(Outcome::Invalid(error.to_string())),
                Err(error) => Err(Outcome::Unreadable(error.to_string())),
            },
        };
        if stat.is_fresh(now_ns) {
            // A change that comes within the same tick of the clock would not show: it is read again the next time.
            stat.modified_ns = -1;
        }
        let outcome = taken.map_or_else(|outcome| outcome, |taken| Outcome::Taken(Box::new(taken)));
        Ok(Look { path, stat, before, outcome })
    }
}

/// The id of a file: of its content, or of that and its path.
pub(super) fn file_id(content: &[u8; 32], path: Option<&str>) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("isle 2026 file of a library, version 1");
    hasher.update(content);
    if let Some(path) = path {
        hasher.update(b"/").update(path.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// Writes looks of one root down.
pub(super) struct Book<'a> {
    pub(super) root: &'a Root,
    pub(super) folder: &'a Folder,
    pub(super) device: &'a str,
    pub(super) op: i64,
    pub(super) now_ms: i64,
}

/// What a row of the library says.
#[derive(serde::Deserialize)]
struct Known {
    id: String,
    path: String,
    kind: String,
    bytes: i64,
    content: String,
    chunks: Option<Vec<u8>>,
    replaced_by: Option<String>,
    trashed_ms: Option<i64>,
}

impl Known {
    /// Whether it says of a file what was found.
    fn is(&self, taken: &Taken, content: &str, bytes: i64, chunks: Option<&Vec<u8>>) -> bool {
        self.content == content && self.bytes == bytes && self.chunks.as_ref() == chunks && self.kind == taken.kind
    }
}

impl Book<'_> {
    /// Writes one down; gives what it was, and the id of its entry.
    pub(super) fn write(&self, tx: &Transaction<'_>, look: &Look) -> Result<(Change, i64), Error> {
        let old = look.before.as_ref().and_then(|entry| entry.file.as_deref());
        let (change, file, state, why) = match &look.outcome {
            Outcome::Taken(taken) => {
                let (change, file) = self.take(tx, look, taken)?;
                (change, Some(file), State::Ok, None)
            }
            Outcome::Back => {
                let file = old.map(str::to_owned);
                if let Some(file) = &file {
                    self.put_presence(tx, file, &look.path)?;
                }
                (Change::Back, file, State::Ok, None)
            }
            Outcome::Invalid(why) => {
                if let Some(old) = old {
                    self.miss(tx, old, &look.path)?;
                }
                (Change::Invalid, None, State::Invalid, Some(why))
            }
            // It is there: what it was stays until it can be read.
            Outcome::Unreadable(why) => (Change::Unreadable, old.map(str::to_owned), State::Unreadable, Some(why)),
            Outcome::Other => (Change::Other, None, State::Other, None),
        };
        let content = match &look.outcome {
            Outcome::Taken(taken) => Some(hex(&taken.ingested.content)),
            _ => None,
        };
        let id = self.put_entry(tx, look, (file.as_deref(), content.as_deref(), state, why), change)?;
        Ok((change, id))
    }

    /// Makes or finds the row of a file that was taken.
    fn take(&self, tx: &Transaction<'_>, look: &Look, taken: &Taken) -> Result<(Change, String), Error> {
        let content = hex(&taken.ingested.content);
        let old = look.before.as_ref().and_then(|entry| entry.file.as_deref());
        let moved = if old.is_none() { self.moved_from(tx, look, &content)? } else { None };
        let old_row = match old {
            Some(old) => known(tx, old)?,
            None if moved.is_none() && taken.identity == Identity::Path => self.evicted(tx, &look.path)?,
            None => None,
        };
        // Where a file was fetched to may be another place than its path says; what it is called stays.
        let place = LogicalPath::of(&self.root.name, &look.path).map_err(LibraryError::from)?;
        let path = match (&old_row, taken.identity) {
            (Some(row), Identity::Path) => row.path.clone(),
            _ => place.as_str().to_owned(),
        };
        let moved_row = match moved.as_ref().and_then(|entry| entry.file.as_deref()) {
            Some(file) => known(tx, file)?,
            None => None,
        };
        // Under another name it may be of another kind: a download that is complete, say. Then it takes the place of what it was.
        let (moved_row, outgrown) = match moved_row {
            Some(row) if row.kind != taken.kind => (None, Some(row)),
            row => (row, None),
        };
        let row = match (moved_row, taken.identity) {
            (Some(row), _) => Some(row),
            (None, Identity::Content) => known(tx, &file_id(&taken.ingested.content, None))?,
            (None, Identity::Path) => known_at(tx, &content, &path)?,
        };
        // A row under the id of a content that claims another one is somebody's mistake, or malice: what is on the disk is true.
        let chunks = ChunkRef::encode(&taken.ingested.chunks, look.stat.bytes);
        let bytes = i64::try_from(look.stat.bytes).unwrap_or(i64::MAX);
        let id = match row {
            Some(row) if row.is(taken, &content, bytes, chunks.as_ref()) => {
                self.revive(tx, &row, old)?;
                if let (Some(entry), Identity::Path) = (&moved, taken.identity) {
                    self.follow(tx, &row, entry, &place)?;
                }
                row.id
            }
            Some(row) => self.insert(tx, look, taken, &content, &row.path, Some(row.id))?,
            None => self.insert(tx, look, taken, &content, &path, None)?,
        };
        if let Some(entry) = &moved {
            self.forget(tx, entry)?;
        }
        if let Some(row) = outgrown.filter(|row| row.id != id) {
            tx.execute("UPDATE library_files SET replaced_by = ?2 WHERE id = ?1", params![&row.id, &id])?;
        }
        if let Some(old) = old_row.filter(|old| old.id != id) {
            self.replace(tx, &old, &id, &look.path, taken.identity)?;
        }
        self.put_presence(tx, &id, &look.path)?;
        let change = match (moved, old) {
            (Some(_), _) => Change::Moved,
            (None, Some(old)) if old == id => match &look.before {
                Some(entry) if entry.state == State::Missing => Change::Back,
                _ => Change::Same,
            },
            (None, Some(_)) => Change::Modified,
            (None, None) => Change::Added,
        };
        Ok((change, id))
    }

    /// An entry of the same content whose file is not at its place any more.
    fn moved_from(&self, tx: &Transaction<'_>, look: &Look, content: &str) -> Result<Option<Entry>, Error> {
        let same = index::with_content(tx.as_rusqlite(), self.root.id, content)?;
        Ok(same.into_iter().find(|entry| entry.path != look.path && !self.folder.is_taken(&entry.path)))
    }

    fn insert(
        &self,
        tx: &Transaction<'_>,
        look: &Look,
        taken: &Taken,
        content: &str,
        path: &str,
        id: Option<String>,
    ) -> Result<String, Error> {
        let Taken { kind, identity, ingested, facts } = taken;
        let id = match id {
            Some(id) => id,
            None => free_id(tx, &ingested.content, (*identity == Identity::Path).then_some(path))?,
        };
        let bytes = i64::try_from(look.stat.bytes).unwrap_or(i64::MAX);
        let chunks = ChunkRef::encode(&ingested.chunks, look.stat.bytes);
        let (sha1, sha256) = (ingested.sha1.map(|hash| hex(&hash)), ingested.sha256.map(|hash| hex(&hash)));
        let name = facts.name.clone().unwrap_or_else(|| stem(path).to_owned());
        let metadata = facts.metadata.as_ref().map(|facts| serde_json::Value::Object(facts.clone()).to_string());
        let sql = "INSERT INTO library_files(id, path, kind, name, bytes, content, chunks, sha1, sha256, metadata, added_ms)
            VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT(id) DO UPDATE SET path = excluded.path, kind = excluded.kind, name = excluded.name, bytes = excluded.bytes,
            content = excluded.content, chunks = excluded.chunks, sha1 = excluded.sha1, sha256 = excluded.sha256, metadata = excluded.metadata,
            added_ms = excluded.added_ms, trashed_ms = NULL, replaced_by = NULL";
        let row = params![
            &id,
            path,
            kind,
            &name,
            bytes,
            content,
            chunks.as_ref(),
            sha1.as_ref(),
            sha256.as_ref(),
            metadata.as_ref(),
            self.now_ms
        ];
        tx.execute(sql, row)?;
        // One of this id may have been in the library before, and its chunks may be gone since.
        tx.execute("DELETE FROM library_stored WHERE file = ?1", params![&id])?;
        Ok(id)
    }

    /// What this device had at a place and let go.
    fn evicted(&self, tx: &Transaction<'_>, path: &str) -> Result<Option<Known>, Error> {
        let sql = "SELECT f.id, f.path, f.kind, f.bytes, f.content, f.chunks, f.replaced_by, f.trashed_ms FROM library_presence AS p
            CROSS JOIN library_sound AS f ON f.id = p.file
            WHERE p.device = ?1 AND p.root = ?2 AND p.path = ?3 AND p.state = 'evicted' AND f.trashed_ms IS NULL AND f.replaced_by IS NULL
            AND f.path = ?4 LIMIT 1";
        // One that somebody gave another place since is another file.
        let place = if self.root.name == OWN_ROOT { path.to_owned() } else { format!("{}/{path}", self.root.name) };
        tx.one(sql, params![self.device, &self.root.name, path, &place])
    }

    /// What somebody puts at a place again is wanted again, whatever became of it before.
    fn revive(&self, tx: &Transaction<'_>, row: &Known, old: Option<&str>) -> Result<(), Error> {
        if old == Some(&row.id) || (row.trashed_ms.is_none() && row.replaced_by.is_none()) {
            return Ok(());
        }
        let sql = "UPDATE library_files SET trashed_ms = NULL, replaced_by = NULL WHERE id = ?1";
        tx.execute(sql, params![&row.id]).map(|_| ())
    }

    /// A file that is known by its path is called as it is now.
    fn follow(&self, tx: &Transaction<'_>, row: &Known, from: &Entry, to: &LogicalPath) -> Result<(), Error> {
        let was_here = LogicalPath::of(&self.root.name, &from.path).is_ok_and(|path| path.as_str() == row.path);
        if !was_here {
            return Ok(());
        }
        let sql = "UPDATE library_files SET path = ?2, name = CASE WHEN name = ?3 THEN ?4 ELSE name END WHERE id = ?1";
        tx.execute(sql, params![&row.id, to.as_str(), stem(&row.path), stem(to.as_str())]).map(|_| ())
    }

    /// Another content is at the place of this one now.
    fn replace(
        &self,
        tx: &Transaction<'_>,
        old: &Known,
        new: &str,
        path: &str,
        identity: Identity,
    ) -> Result<(), Error> {
        let sql = "DELETE FROM library_presence WHERE file = ?1 AND device = ?2 AND root = ?3 AND path = ?4";
        tx.execute(sql, params![&old.id, self.device, &self.root.name, path])?;
        if identity == Identity::Path && old.trashed_ms.is_none() {
            tx.execute("UPDATE library_files SET replaced_by = ?2 WHERE id = ?1", params![&old.id, new])?;
        }
        Ok(())
    }

    fn put_presence(&self, tx: &Transaction<'_>, file: &str, path: &str) -> Result<(), Error> {
        let sql = "INSERT INTO library_presence(file, device, root, path, state, since_ms) VALUES(?1, ?2, ?3, ?4, 'present', ?5)
            ON CONFLICT(file, device, root, path) DO UPDATE SET state = 'present', since_ms = excluded.since_ms
            WHERE state <> 'present'";
        tx.execute(sql, params![file, self.device, &self.root.name, path, self.now_ms]).map(|_| ())
    }

    /// Says that this device does not have a file there any more.
    fn miss(&self, tx: &Transaction<'_>, file: &str, path: &str) -> Result<(), Error> {
        let sql = "UPDATE library_presence SET state = 'missing', since_ms = ?5
            WHERE file = ?1 AND device = ?2 AND root = ?3 AND path = ?4 AND state = 'present'";
        tx.execute(sql, params![file, self.device, &self.root.name, path, self.now_ms]).map(|_| ())
    }

    /// Notes that nothing is at a path any more.
    pub(super) fn lose(&self, tx: &Transaction<'_>, entry: &Entry) -> Result<(), Error> {
        let Some(file) = &entry.file else { return self.forget(tx, entry) };
        self.miss(tx, file, &entry.path)?;
        let sql = "UPDATE library_scan SET state = 'missing', change = 'missing', op = ?2, why = NULL WHERE id = ?1";
        tx.execute(sql, params![entry.id, self.op]).map(|_| ())
    }

    /// Forgets an entry, and that this device has its file there.
    pub(super) fn forget(&self, tx: &Transaction<'_>, entry: &Entry) -> Result<(), Error> {
        if let Some(file) = &entry.file {
            let sql = "DELETE FROM library_presence WHERE file = ?1 AND device = ?2 AND root = ?3 AND path = ?4";
            tx.execute(sql, params![file, self.device, &self.root.name, &entry.path])?;
        }
        tx.execute("DELETE FROM library_scan WHERE id = ?1", params![entry.id]).map(|_| ())
    }

    /// Notes that a file of the library stands at a path: it was fetched, or taken back.
    pub(super) fn put_found(&self, tx: &Transaction<'_>, file: &str, path: &str, stat: Stat) -> Result<(), Error> {
        let before = index::find(tx.as_rusqlite(), self.root.id, path)?;
        let look = Look { path: path.to_owned(), stat, before, outcome: Outcome::Back };
        let sql = "DELETE FROM library_presence WHERE file = ?1 AND device = ?2 AND state = 'evicted'";
        tx.execute(sql, params![file, self.device])?;
        self.put_presence(tx, file, path)?;
        let content: Option<String> = tx.one("SELECT content FROM library_sound WHERE id = ?1", params![file])?;
        self.put_entry(tx, &look, (Some(file), content.as_deref(), State::Ok, None), Change::Same).map(|_| ())
    }

    fn put_entry(
        &self,
        tx: &Transaction<'_>,
        look: &Look,
        (file, content, state, why): (Option<&str>, Option<&str>, State, Option<&String>),
        change: Change,
    ) -> Result<i64, Error> {
        let Stat { bytes, modified_ns, changed_ns, inode } = look.stat;
        let (bytes, inode, state) = (i64::try_from(bytes).unwrap_or(i64::MAX), inode as i64, state.as_str());
        if let Some(entry) = &look.before {
            let sql = "UPDATE library_scan SET bytes = ?2, modified_ns = ?3, changed_ns = ?4, inode = ?5, file = ?6, state = ?7,
                why = ?8, change = ?9, op = ?10, content = coalesce(?11, content) WHERE id = ?1";
            let change = change.as_str();
            let row =
                params![entry.id, bytes, modified_ns, changed_ns, inode, file, state, why, change, self.op, content];
            tx.execute(sql, row)?;
            return Ok(entry.id);
        }
        let sql = "INSERT INTO library_scan(root, path, bytes, modified_ns, changed_ns, inode, file, state, why, change, op, content)
            VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        let (root, path, change) = (self.root.id, &look.path, change.as_str());
        let row =
            params![root, path, bytes, modified_ns, changed_ns, inode, file, state, why, change, self.op, content];
        tx.execute(sql, row)?;
        Ok(tx.last_insert_rowid())
    }
}

/// An id for a content at a path. One that moved away kept the id that it had here: that is taken then.
fn free_id(tx: &Transaction<'_>, content: &[u8; 32], path: Option<&str>) -> Result<String, Error> {
    let Some(path) = path else { return Ok(file_id(content, None)) };
    let mut salted = path.to_owned();
    loop {
        let id = file_id(content, Some(&salted));
        let elsewhere = "SELECT 1 FROM library_sound WHERE id = ?1 AND path <> ?2";
        if tx.one::<i64>(elsewhere, params![&id, path])?.is_none() {
            return Ok(id);
        }
        salted.push('\0');
    }
}

fn known(tx: &Transaction<'_>, id: &str) -> Result<Option<Known>, Error> {
    tx.one(
        "SELECT id, path, kind, bytes, content, chunks, replaced_by, trashed_ms FROM library_sound WHERE id = ?1",
        params![id],
    )
}

fn known_at(tx: &Transaction<'_>, content: &str, path: &str) -> Result<Option<Known>, Error> {
    let sql = "SELECT id, path, kind, bytes, content, chunks, replaced_by, trashed_ms FROM library_sound WHERE content = ?1 AND path = ?2
        ORDER BY trashed_ms IS NOT NULL, id LIMIT 1";
    tx.one(sql, params![content, path])
}

/// A name without its last ending.
fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rfind('.') {
        Some(dot) if dot > 0 => &name[..dot],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_last_ending_alone() {
        assert_eq!(["a/b.c.gguf", "x", ".hidden", "a.b/c"].map(stem), ["b.c", "x", ".hidden", "c"]);
    }

    #[test]
    fn ids_are_of_content_or_of_content_and_path() {
        let (one, two) = ([1; 32], [2; 32]);
        let ids = [file_id(&one, None), file_id(&two, None), file_id(&one, Some("r/a")), file_id(&one, Some("r/b"))];
        let different: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!(different.len(), 4);
        // It is in files of users: another way of making it would give every file a second row.
        assert_eq!(ids[0], file_id(&one, None));
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
