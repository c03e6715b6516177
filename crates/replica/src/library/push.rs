//! Contents go to remotes.
//!
//! What a remote lacks of the files that are on this device is put there chunk by chunk; a chunk that stands there already is not sent. A push that was
//! broken off goes on where it was: what was put is noted every few chunks, and listed anew.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use isle_blobs::ChunkName;
use isle_files::{ChunkRef, read_at};
use serde::Serialize;
use tokio::task::JoinSet;

use super::index;
use super::roots::OWN_ROOT;
use super::sources::{CONTENT, Content, Pace, Source, Trust, is_known};
use super::take_up::Book;
use super::work::Work;
use super::{Library, LibraryError, Problem};
use crate::sync::blocking;
use crate::{Error, params};

/// Chunks on their way at once.
const AT_ONCE: usize = 8;
/// Files whose state is written down together, and bytes after which it is in any case.
const FILES_TOGETHER: usize = 64;
const BYTES_TOGETHER: u64 = 64 << 20;
const PROBLEMS_MAX: usize = 100;

/// How to move contents.
#[derive(Clone, Default)]
pub struct MoveOptions {
    /// Only this remote.
    pub remote: Option<String>,
    /// At most so many bytes a second.
    pub bytes_per_s: Option<u64>,
    /// Lists what a remote has, however new the last listing is.
    pub refresh: bool,
    /// Puts every chunk again, whatever stands there: for a remote in which something is damaged.
    pub again: bool,
    /// Is told how many bytes are done, and how many there are to do.
    pub progress: Option<Arc<dyn Fn(u64, u64) + Send + Sync>>,
}

impl std::fmt::Debug for MoveOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let MoveOptions { remote, bytes_per_s, .. } = self;
        f.debug_struct("MoveOptions").field("remote", remote).field("bytes_per_s", bytes_per_s).finish_non_exhaustive()
    }
}

/// What a push did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// The operation's id; 0 if there was nothing to do.
    pub operation: i64,
    /// Files that a remote has whole now and had not.
    pub files: u64,
    /// Chunks sent.
    pub chunks: u64,
    /// Chunks that stood there already.
    pub known_chunks: u64,
    /// Bytes sent, as they were sent.
    pub sent_bytes: u64,
    /// Files that could not be put, and why.
    pub problems: Vec<Problem>,
}

impl Library {
    /// Puts into the remotes what they lack of the contents that are on this device.
    ///
    /// # Errors
    /// [`Error::NoRemote`]; the first remote's that cannot be reached, after the others had theirs; [`LibraryError::Some`] for files that could not be read.
    pub async fn push(&self, options: &MoveOptions) -> Result<Pushed, Error> {
        self.must_exist()?;
        let _alone = self.lock_movements().await?;
        let (sources, mut failed) = self.sources(options.remote.as_deref()).await?;
        if sources.is_empty() && failed.is_empty() {
            return Err(Error::NoRemote);
        }
        let mut pushed = Pushed::default();
        for source in &sources {
            let mut push = Push {
                marked: Arc::default(),
                library: self,
                source,
                options,
                pace: Pace::new(options.bytes_per_s),
                done: (0, 0),
            };
            if let Err(error) = push.run(&mut pushed).await {
                failed.push((source.name.clone(), error));
            }
        }
        match failed.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(pushed),
        }
    }
}

impl Library {
    /// Learns which files the remotes have, if there are some of which that is not known.
    ///
    /// # Errors
    /// The first remote's that cannot be listed, after the others were.
    pub async fn refresh(&self, options: &MoveOptions) -> Result<(), Error> {
        self.must_exist()?;
        let _alone = self.lock_movements().await?;
        let (sources, mut failed) = self.sources(options.remote.as_deref()).await?;
        for source in &sources {
            if options.refresh || self.should_list(&source.name, false)? {
                failed.extend(self.take_stock(source).await.err().map(|error| (source.name.clone(), error)));
            }
        }
        failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }
}

struct Push<'a> {
    /// Chunks that somebody holds for needless.
    marked: Arc<HashSet<ChunkName>>,
    library: &'a Library,
    source: &'a Source,
    options: &'a MoveOptions,
    pace: Pace,
    /// Bytes done, and to be done.
    done: (u64, u64),
}

/// A chunk that is to be put, where it stands in its file, and whether what stands there under its name is damaged.
type Lacking = (ChunkName, ChunkRef, u64, bool);

/// A file that is open, and what of it is to be put.
struct Open {
    content: Content,
    file: Arc<File>,
    lacking: Vec<Lacking>,
    known: u64,
}

/// What came of one chunk.
enum Sent {
    Put(ChunkName, u64),
    /// The file is not what it was.
    Changed,
}

impl Push<'_> {
    async fn run(&mut self, pushed: &mut Pushed) -> Result<(), Error> {
        let (library, name, refresh) = (self.library.clone(), self.source.name.clone(), self.options.refresh);
        let (mut wanted, lists) = blocking(self.library.inner(), move |_| {
            let wanted = library.lacked_by(&name)?;
            let lists = refresh || library.should_list(&name, !wanted.is_empty())?;
            Ok((wanted, lists))
        })
        .await?;
        if lists {
            self.library.take_stock(self.source).await?;
            let (library, name) = (self.library.clone(), self.source.name.clone());
            wanted = blocking(self.library.inner(), move |_| library.lacked_by(&name)).await?;
        }
        if self.options.again {
            let library = self.library.clone();
            wanted = blocking(self.library.inner(), move |_| library.lacked_by("")).await?;
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let marks = self.source.remote.list_marks().await.map_err(|error| self.source.failed(error))?;
        self.marked = Arc::new(marks.into_iter().map(|mark| mark.name).collect());
        self.done = (0, wanted.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes)));
        let (library, name) = (self.library.clone(), self.source.name.clone());
        let work = blocking(self.library.inner(), move |_| Work::begin(&library, "push", &name)).await?;
        pushed.operation = work.id();
        let before = pushed.problems.len();
        let result = self.put_all(&wanted, &work, pushed).await;
        let facts = serde_json::to_string(&pushed).unwrap_or_default();
        let problems = &pushed.problems[before.min(pushed.problems.len())..];
        let result = result.and_then(|()| match problems {
            [] => Ok(()),
            problems => Err(LibraryError::Some { all: wanted.len(), problems: problems.to_vec() }.into()),
        });
        work.end(result.as_ref().map(|()| facts).map_err(Error::to_string));
        result
    }

    async fn put_all(&mut self, wanted: &[(String, u64)], work: &Work, pushed: &mut Pushed) -> Result<(), Error> {
        let mut from = 0;
        while from < wanted.len() {
            let mut bytes = 0;
            let together = wanted[from..].iter().take(FILES_TOGETHER).take_while(|(_, more)| {
                let fits = bytes == 0 || bytes + more <= BYTES_TOGETHER;
                bytes += more;
                fits
            });
            let group: Vec<String> = together.map(|(id, _)| id.clone()).collect();
            from += group.len();
            let (library, source, marked) = (self.library.clone(), self.source.clone(), Arc::clone(&self.marked));
            let again = self.options.again;
            let opened = move |_: &_| library.open_group(&source, &group, &marked, again);
            let opened = blocking(self.library.inner(), opened).await?;
            let mut whole = Vec::new();
            for opened in opened {
                match opened {
                    Ok(open) => {
                        pushed.known_chunks += open.known;
                        if let Some(id) = self.put_file(open, work, pushed).await? {
                            whole.push(id);
                        }
                    }
                    Err(problem) => push_problem(pushed, problem),
                }
            }
            pushed.files += whole.len() as u64;
            let (library, remote) = (self.library.clone(), self.source.name.clone());
            blocking(self.library.inner(), move |_| library.note_whole(&remote, &whole)).await?;
        }
        Ok(())
    }

    /// Puts what a remote lacks of one file; gives its id if it is whole there now.
    async fn put_file(&mut self, open: Open, work: &Work, pushed: &mut Pushed) -> Result<Option<String>, Error> {
        let Open { content, file, lacking, .. } = open;
        let (id, path) = (content.id.clone(), content.path.clone());
        let result = self.put_chunks(&content, &file, lacking, work, pushed).await;
        let (state, error) = match &result {
            Ok(true) => (None, None),
            Ok(false) => (Some("Failed"), Some("the file changed since it was scanned".to_owned())),
            Err(error) => (Some("Failed"), Some(error.to_string())),
        };
        if let Some(state) = state {
            let (library, remote, error, id) =
                (self.library.clone(), self.source.name.clone(), error.clone(), id.clone());
            blocking(self.library.inner(), move |_| {
                library.note_transfer((&id, &remote, "upload"), state, (0, content.bytes), error.as_deref())
            })
            .await?;
        }
        if let (Ok(false), Some(why)) = (&result, error) {
            push_problem(pushed, Problem { path, why });
        }
        Ok(result?.then_some(id))
    }

    /// False if the file is not what it was.
    async fn put_chunks(
        &mut self,
        content: &Content,
        file: &Arc<File>,
        lacking: Vec<Lacking>,
        work: &Work,
        pushed: &mut Pushed,
    ) -> Result<bool, Error> {
        let sizes: u64 = lacking.iter().map(|(_, piece, ..)| u64::from(piece.bytes)).sum();
        self.done.0 += content.bytes - sizes.min(content.bytes);
        let mut flying: JoinSet<Result<(Sent, u64), Error>> = JoinSet::new();
        let (mut put, mut unnoted) = (Vec::new(), 0);
        let mut lacking = lacking.into_iter();
        let mut changed = false;
        loop {
            while flying.len() < AT_ONCE && !changed {
                let Some((name, piece, at, damaged)) = lacking.next() else { break };
                let marked = self.marked.contains(&name);
                self.pace.take(u64::from(piece.bytes)).await;
                let (source, file, library) = (self.source.clone(), Arc::clone(file), self.library.clone());
                flying.spawn(async move {
                    let read = blocking(library.inner(), move |_| Ok(read_piece(&file, &piece, at)));
                    let Some(bytes) = read.await? else { return Ok((Sent::Changed, 0)) };
                    if marked {
                        source.remote.unmark_chunk(&name).await.map_err(|error| source.failed(error))?;
                    }
                    let sent = source.remote.put_chunk(&name, &bytes, damaged).await;
                    let sent = sent.map_err(|error| source.failed(error))?;
                    Ok((Sent::Put(name, sent), u64::from(piece.bytes)))
                });
            }
            let Some(next) = flying.join_next().await else { break };
            match next.map_err(|_| Error::Cancelled)?? {
                (Sent::Changed, _) => changed = true,
                (Sent::Put(name, sent), bytes) => {
                    pushed.chunks += u64::from(sent > 0);
                    pushed.known_chunks += u64::from(sent == 0);
                    pushed.sent_bytes += sent;
                    self.done.0 += bytes;
                    unnoted += bytes;
                    // One that stood there is somebody's word.
                    let trust = if sent > 0 { Trust::Own } else { Trust::Listed };
                    put.push((name, trust));
                }
            }
            if let Some(progress) = &self.options.progress {
                progress(self.done.0, self.done.1);
            }
            work.tell(self.done.0, self.done.1, &content.path).await;
            if unnoted >= BYTES_TOGETHER {
                unnoted = 0;
                self.note(std::mem::take(&mut put)).await?;
            }
        }
        self.note(put).await?;
        Ok(!changed)
    }

    async fn note(&self, put: Vec<(ChunkName, Trust)>) -> Result<(), Error> {
        if put.is_empty() {
            return Ok(());
        }
        let (library, remote) = (self.library.clone(), self.source.name.clone());
        blocking(self.library.inner(), move |_| {
            for trust in [Trust::Own, Trust::Listed] {
                let names: Vec<ChunkName> =
                    put.iter().filter(|(_, of)| *of == trust).map(|(name, _)| name.clone()).collect();
                library.note_chunks(&remote, &names, None, trust)?;
            }
            Ok(())
        })
        .await
    }
}

fn push_problem(pushed: &mut Pushed, problem: Problem) {
    tracing::warn!(path = problem.path, why = problem.why, "a file cannot be put into a remote");
    if pushed.problems.len() < PROBLEMS_MAX {
        pushed.problems.push(problem);
    }
}

/// A chunk of a file, if it is still there.
fn read_piece(file: &File, piece: &ChunkRef, at: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; piece.bytes as usize];
    read_at(file, at, &mut bytes).ok()?;
    (*blake3::hash(&bytes).as_bytes() == piece.hash).then_some(bytes)
}

impl Library {
    /// Opens files of this device, and works out which chunks a remote lacks. Blocks.
    fn open_group(
        &self,
        source: &Source,
        ids: &[String],
        marked: &HashSet<ChunkName>,
        again: bool,
    ) -> Result<Vec<Result<Open, Problem>>, Error> {
        let sql = format!("SELECT {CONTENT} FROM library_sound AS f WHERE f.id = ?1");
        let mut opened = Vec::new();
        for id in ids {
            let Some(content) = self.replica.read(|q| q.one::<Content>(&sql, params![id]))? else { continue };
            let path = content.path.clone();
            opened.push(match self.open_here(id)? {
                Err(why) => Err(Problem { path, why }),
                Ok((file, _)) => match self.lacking(source, &content, marked, again) {
                    Ok((lacking, known)) => Ok(Open { content, file: Arc::new(file), lacking, known }),
                    Err(error) => Err(Problem { path, why: error.to_string() }),
                },
            });
        }
        let now = self.now();
        self.replica.write(|tx| {
            let sql = "INSERT INTO library_transfers(file, remote, what, state, total_bytes, updated_ms) VALUES(?1, ?2, 'upload', 'InProgress', ?3, ?4)
                ON CONFLICT(file, remote, what) DO UPDATE SET state = 'InProgress', error = NULL, updated_ms = excluded.updated_ms";
            for open in opened.iter().flatten() {
                let bytes = i64::try_from(open.content.bytes).unwrap_or(i64::MAX);
                tx.execute(sql, params![&open.content.id, &source.name, bytes, now])?;
            }
            Ok(())
        })?;
        Ok(opened)
    }

    /// Files that are here and that the remote lacks, with their sizes.
    fn lacked_by(&self, remote: &str) -> Result<Vec<(String, u64)>, Error> {
        let sql = "SELECT f.id, f.bytes FROM library_sound AS f WHERE f.trashed_ms IS NULL
            AND EXISTS (SELECT 1 FROM library_scan AS s JOIN library_roots AS o ON o.id = s.root
                WHERE s.file = f.id AND s.state = 'ok' AND o.flag IS NULL)
            AND NOT EXISTS (SELECT 1 FROM library_stored AS t WHERE t.file = f.id AND t.remote = ?1) ORDER BY f.added_ms, f.id";
        self.replica.read(|q| q.all(sql, params![remote]))
    }

    fn lacking(
        &self,
        source: &Source,
        content: &Content,
        marked: &HashSet<ChunkName>,
        again: bool,
    ) -> Result<(Vec<Lacking>, u64), Error> {
        let (mut lacking, mut at, mut known, mut twice) = (Vec::new(), 0, 0, HashSet::new());
        self.replica.read(|q| {
            for piece in content.pieces()? {
                let name = source.remote.chunk_name(&content.kind, &piece.hash);
                let place = at;
                at += u64::from(piece.bytes);
                // One that is marked may go at any moment: it is looked after as if it were not there.
                if !again && !marked.contains(&name) && is_known(q, &source.name, &name)? {
                    known += 1;
                } else if twice.insert(piece.hash) {
                    let damaged = again || self.trust(&source.name, &name)? == Trust::Damaged;
                    lacking.push((name, piece, place, damaged));
                }
            }
            Ok(())
        })?;
        Ok((lacking, known))
    }

    /// A file of the library that is on this device, with its chunks; `None` if it is not, or is none. Blocks.
    pub(crate) fn open_pieces(&self, id: &str) -> Result<Option<(File, Vec<ChunkRef>)>, Error> {
        if !self.exists()? {
            return Ok(None);
        }
        let sql = format!("SELECT {CONTENT} FROM library_sound AS f WHERE f.id = ?1");
        let Some(content) = self.replica.read(|q| q.one::<Content>(&sql, params![id]))? else { return Ok(None) };
        let Ok((file, _)) = self.open_here(id)? else { return Ok(None) };
        Ok(Some((file, content.pieces()?)))
    }

    /// Opens a file of the library where it is on this device; the reason if it is at none of its places. Blocks.
    pub(super) fn open_here(&self, id: &str) -> Result<Result<(File, std::path::PathBuf), String>, Error> {
        let places = self.inner().store.read(|conn| index::places(conn, id))?;
        let roots = self.roots()?;
        let mut why = "it is not on this device".to_owned();
        for (root, entry) in places {
            let Some(root) = roots.iter().find(|known| known.id == root) else { continue };
            let folder = match root.open() {
                Ok(folder) => folder,
                Err(error) => {
                    why = error.to_string();
                    continue;
                }
            };
            match folder.open_file(&entry.path) {
                Ok((file, _)) => return Ok(Ok((file, root.folder.join(&entry.path)))),
                Err(error) => why = error.to_string(),
            }
        }
        Ok(Err(why))
    }

    /// Notes that a file is not at its places any more, where nothing is. Blocks.
    pub(super) fn forget_lost(&self, id: &str) -> Result<(), Error> {
        let _alone = self.lock_scans()?;
        let places = self.inner().store.read(|conn| index::places(conn, id))?;
        if self.roots()?.iter().any(|root| root.name == OWN_ROOT) {
            self.own_root()?;
        }
        let (roots, device) = (self.roots()?, self.device()?);
        for (root, entry) in places {
            let Some(root) = roots.iter().find(|known| known.id == root) else { continue };
            let Ok(folder) = root.open() else { continue };
            if !folder.is_taken(&entry.path) {
                let book = Book { root, folder: &folder, device: &device, op: 0, now_ms: self.now() };
                self.replica.write(|tx| book.lose(tx, &entry))?;
            }
        }
        Ok(())
    }

    fn note_whole(&self, remote: &str, ids: &[String]) -> Result<(), Error> {
        let now = self.now();
        self.replica.write(|tx| {
            for id in ids {
                let sql = "INSERT INTO library_stored(remote, file) VALUES(?1, ?2) ON CONFLICT DO NOTHING";
                tx.execute(sql, params![remote, id])?;
                let sql = "UPDATE library_transfers SET state = 'Completed', done_bytes = total_bytes, error = NULL, updated_ms = ?3
                    WHERE file = ?1 AND remote = ?2 AND what = 'upload'";
                tx.execute(sql, params![id, remote, now])?;
            }
            Ok(())
        })
    }

    /// Notes how a movement stands. Blocks.
    pub(super) fn note_transfer(
        &self,
        (file, remote, what): (&str, &str, &str),
        state: &str,
        (done, total): (u64, u64),
        error: Option<&str>,
    ) -> Result<(), Error> {
        let (now, done, total) = (self.now(), done as i64, total as i64);
        self.replica.write(|tx| {
            let sql = "INSERT INTO library_transfers(file, remote, what, state, done_bytes, total_bytes, error, updated_ms)
                VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT(file, remote, what) DO UPDATE SET state = excluded.state,
                done_bytes = excluded.done_bytes, total_bytes = excluded.total_bytes, error = excluded.error, updated_ms = excluded.updated_ms";
            tx.execute(sql, params![file, remote, what, state, done, total, error, now])
        })?;
        Ok(())
    }
}
