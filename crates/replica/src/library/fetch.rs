//! Contents come from remotes, or from devices that have them.
//!
//! A file that is wanted is put together under isle's own folder, chunk by chunk; what stands there from an attempt before is looked at and not fetched again.
//! Once it is whole and its hash is right it gets its place. What stands at its place already stays there: an older version that is as the last scan
//! saw it goes into the trash, anything else keeps its name, and the newcomer gets one beside it.

use std::fs::File;
use std::io::Seek as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use isle_blobs::RemoteError;
use isle_files::{
    ChunkRef, Folder, FolderError, LogicalPath, NamingRules, Partial, Stat, conflict_name, read_at, write_at,
};
use serde::Serialize;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::index::{self, State};
use super::push::MoveOptions;
use super::roots::Root;
use super::sources::{CONTENT, Content, Pace, Source, Trust, WITHOUT_CHUNKS};
use super::take_up::Book;
use super::work::Work;
use super::{Availability, Library, LibraryError, Problem};
use crate::direct::{Holder, Holders};
use crate::sync::blocking;
use crate::{Error, params};

/// Chunks on their way at once.
const AT_ONCE: usize = 8;
/// What a disk keeps free.
const RESERVE_BYTES: u64 = 64 << 20;
/// Older versions that are gone through to find out whether something is one.
const VERSIONS_MAX: usize = 1_000;
const PROBLEMS_MAX: usize = 100;

/// Which files to bring to this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These, by id.
    Files(Vec<String>),
    /// Those of a set.
    Set(String),
    /// Those of a kind.
    Kind(String),
    /// Those that are pinned.
    Pinned,
    /// All.
    All,
}

/// What a pull did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// The operation's id; 0 if there was nothing to do.
    pub operation: i64,
    /// Files that are on this device now and were not.
    pub files: u64,
    /// Bytes of them that were fetched.
    pub fetched_bytes: u64,
    /// Bytes of them that were here already, from an attempt before.
    pub resumed_bytes: u64,
    /// Where files are that could not stand at their place, because something else stands there.
    pub beside: Vec<PathBuf>,
    /// Files that could not be had, and why.
    pub problems: Vec<Problem>,
}

impl Library {
    /// Brings files to this device.
    ///
    /// # Errors
    /// [`LibraryError::NoRoom`] before anything is fetched; [`LibraryError::Some`] if some could not be had, after the others were.
    pub async fn pull(&self, selection: &Selection, options: &MoveOptions) -> Result<Pulled, Error> {
        self.must_exist()?;
        let _alone = self.lock_movements().await?;
        let mut pulled = Pulled::default();
        let (library, selected) = (self.clone(), selection.clone());
        let wanted = blocking(self.inner(), move |_| {
            let wanted = library.absent(&selected)?;
            library.check_room(&wanted)?;
            Ok(wanted)
        })
        .await?;
        if wanted.is_empty() {
            return Ok(pulled);
        }
        let (sources, failed) = self.sources(options.remote.as_deref()).await?;
        if let (Some(_), true, Some((_, error))) = (&options.remote, sources.is_empty(), failed.into_iter().next()) {
            return Err(error);
        }
        let places = Arc::new(Places::new(self, sources, options.remote.is_none()));
        let library = self.clone();
        let work = blocking(self.inner(), move |_| Work::begin(&library, "pull", "")).await?;
        pulled.operation = work.id();
        let total = wanted.iter().fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
        let mut pull = Pull {
            library: self,
            places: &places,
            options,
            pace: Pace::new(options.bytes_per_s),
            done: (0, total),
            work: &work,
        };
        let mut result = Ok(());
        let mut problems = Vec::new();
        for file in &wanted {
            match pull.fetch(file, &mut pulled).await {
                Ok(_) => pulled.files += 1,
                // The next would fail as well.
                Err(error) if is_fatal(&error) => {
                    result = Err(error);
                    break;
                }
                Err(error) => {
                    tracing::warn!(path = file.path, %error, "a file cannot be fetched");
                    problems.push(Problem { path: file.path.clone(), why: error.to_string() });
                }
            }
        }
        if let Some(places) = Arc::into_inner(places) {
            places.close().await;
        }
        pulled.problems = problems.iter().take(PROBLEMS_MAX).cloned().collect();
        if result.is_ok() && !problems.is_empty() {
            result = Err(LibraryError::Some { all: wanted.len(), problems }.into());
        }
        let facts = serde_json::to_string(&pulled).unwrap_or_default();
        work.end(result.as_ref().map(|()| facts).map_err(Error::to_string));
        result.map(|()| pulled)
    }

    /// The path of a file on this device; it is fetched first if it is not here and may be.
    ///
    /// # Errors
    /// [`LibraryError::NeedsDownload`] if it may not; [`LibraryError::NotAvailable`], [`LibraryError::NoRoom`], and whatever keeps it from being fetched.
    pub async fn open(&self, wanted: &str, may_fetch: bool, options: &MoveOptions) -> Result<PathBuf, Error> {
        let file = self.file(wanted)?;
        if file.trashed_ms.is_some() {
            return Err(LibraryError::InTrash { path: file.path }.into());
        }
        let library = self.clone();
        let id = file.id.clone();
        let here = blocking(self.inner(), move |_| {
            let here = library.open_here(&id)?;
            if here.is_err() {
                // Gone since the last scan, if it was here then.
                library.forget_lost(&id)?;
            }
            Ok(here)
        })
        .await?;
        if let Ok((_, path)) = here {
            return Ok(path);
        }
        if !may_fetch {
            return Err(LibraryError::NeedsDownload { id: file.id, path: file.path, bytes: file.bytes }.into());
        }
        match self.pull(&Selection::Files(vec![file.id.clone()]), options).await {
            Err(Error::Library(LibraryError::Some { .. })) if file.availability == Availability::NotAvailable => {
                let devices = self.holders(&file.id)?;
                return Err(LibraryError::NotAvailable { id: file.id, path: file.path, devices }.into());
            }
            pulled => pulled?,
        };
        let library = self.clone();
        let id = file.id.clone();
        let here = blocking(self.inner(), move |_| library.open_here(&id)).await?;
        here.map(|(_, path)| path)
            .map_err(|why| LibraryError::Some { all: 1, problems: vec![Problem { path: file.path, why }] }.into())
    }

    /// Names of devices that say they have a file.
    fn holders(&self, file: &str) -> Result<String, Error> {
        let own = self.device()?;
        let sql = "SELECT DISTINCT device FROM library_presence WHERE file = ?1 AND state = 'present' AND device <> ?2 AND typeof(device) = 'text'";
        let devices: Vec<String> = self.replica.read(|q| q.all(sql, params![file, &own]))?;
        let peers = self.replica.peers()?;
        let name = |device: &String| {
            let peer = peers.iter().find(|peer| isle_identity::device_id(&peer.key).to_string() == *device);
            peer.map_or_else(|| format!("device {}", device.get(..8).unwrap_or(device)), |peer| peer.name.clone())
        };
        Ok(devices.iter().map(name).collect::<Vec<_>>().join(", "))
    }

    /// Files of a selection that are not on this device.
    fn absent(&self, selection: &Selection) -> Result<Vec<Content>, Error> {
        let absent = "NOT EXISTS (SELECT 1 FROM library_scan AS s JOIN library_roots AS o ON o.id = s.root
            WHERE s.file = f.id AND s.state = 'ok' AND o.flag IS NULL)";
        let live = "f.trashed_ms IS NULL AND f.replaced_by IS NULL";
        let list = |clause: &str, value: Option<&str>| {
            let sql = format!(
                "SELECT {WITHOUT_CHUNKS} FROM library_sound AS f WHERE {absent} AND {clause} ORDER BY f.path, f.id"
            );
            self.replica.read(|q| match value {
                Some(value) => q.all::<Content>(&sql, params![value]),
                None => q.all::<Content>(&sql, &[]),
            })
        };
        match selection {
            // An older version may be asked for by its id.
            Selection::Files(ids) => {
                for id in ids {
                    let known = "SELECT 1 FROM library_sound WHERE id = ?1";
                    if self.replica.read(|q| q.one::<i64>(known, params![id]))?.is_none() {
                        return Err(LibraryError::NoSuchFile { wanted: id.clone() }.into());
                    }
                }
                let found = ids.iter().map(|id| list("f.id = ?1", Some(id))).collect::<Result<Vec<_>, _>>()?;
                Ok(found.into_iter().flatten().collect())
            }
            Selection::Set(set) => {
                let known = "SELECT 1 FROM library_sets WHERE name = ?1 LIMIT 1";
                if self.replica.read(|q| q.one::<i64>(known, params![set]))?.is_none() {
                    return Err(LibraryError::NoSuchSet { name: set.clone() }.into());
                }
                list(&format!("{live} AND f.id IN (SELECT file FROM library_sets WHERE name = ?1)"), Some(set))
            }
            Selection::Kind(kind) if self.kinds()?.iter().all(|known| known.name != *kind) => {
                Err(LibraryError::NoSuchKind { name: kind.clone() }.into())
            }
            Selection::Kind(kind) => list(&format!("{live} AND f.kind = ?1"), Some(kind)),
            Selection::Pinned => list(&format!("{live} AND f.id IN (SELECT file FROM library_pins)"), None),
            Selection::All => list(live, None),
        }
    }

    /// Refuses what the disk cannot take.
    fn check_room(&self, wanted: &[Content]) -> Result<(), Error> {
        let mut by_root: std::collections::BTreeMap<PathBuf, u64> = std::collections::BTreeMap::new();
        for file in wanted {
            // One that has no place here is told of when its turn comes.
            let Ok((root, _)) = self.destination(file) else { continue };
            let bytes = by_root.entry(root.folder).or_default();
            *bytes = bytes.saturating_add(file.bytes);
        }
        for (folder, needed) in by_root {
            let free = Folder::open(&folder).and_then(|folder| folder.free_bytes()).map_err(LibraryError::from)?;
            if needed.saturating_add(RESERVE_BYTES) > free {
                return Err(LibraryError::NoRoom { folder, needed, free }.into());
            }
        }
        Ok(())
    }

    /// Where a file goes on this device: its own root if that is here, the library's otherwise.
    fn destination(&self, file: &Content) -> Result<(Root, String), Error> {
        let path = LogicalPath::parse(&file.path).map_err(LibraryError::from)?;
        path.stands_under(NamingRules::here()).map_err(LibraryError::from)?;
        if let Some(root) = self.roots()?.into_iter().find(|root| root.name == path.root()) {
            // What stands at the place of one that is away is not written to.
            root.open()?;
            return Ok((root, path.relative().to_owned()));
        }
        let kinds = self.kinds()?;
        let kind = kinds.iter().find(|kind| kind.name == file.kind);
        let relative = match kind.and_then(|kind| kind.destination.as_ref()) {
            Some(folder) => format!("{folder}/{}", path.name()),
            None => path.as_str().to_owned(),
        };
        Ok((self.own_root()?, relative))
    }
}

/// Whether it is of no use to try the next file.
fn is_fatal(error: &Error) -> bool {
    match error {
        Error::Library(LibraryError::Folder(error)) => error.is_full() || matches!(error, FolderError::Gone { .. }),
        Error::Store(_) | Error::Cancelled | Error::KeyStore { .. } => true,
        _ => false,
    }
}

struct Pull<'a> {
    library: &'a Library,
    places: &'a Arc<Places>,
    options: &'a MoveOptions,
    pace: Pace,
    done: (u64, u64),
    work: &'a Work,
}

impl Pull<'_> {
    async fn fetch(&mut self, file: &Content, pulled: &mut Pulled) -> Result<(), Error> {
        let (library, wanted) = (self.library.clone(), file.clone());
        let (root, relative, folder, partial) = blocking(self.library.inner(), move |_| {
            let (root, relative) = library.destination(&wanted)?;
            let folder = root.open()?;
            let partial = folder.partial(&wanted.id).map_err(LibraryError::from)?;
            library.note_transfer((&wanted.id, "", "download"), "InProgress", (0, wanted.bytes), None)?;
            Ok((root, relative, Arc::new(folder), Arc::new(partial)))
        })
        .await?;
        // Its list of chunks comes now: those of all files at once would be too many.
        let (library, id) = (self.library.clone(), file.id.clone());
        let loaded = blocking(self.library.inner(), move |_| {
            let sql = format!("SELECT {CONTENT} FROM library_sound AS f WHERE f.id = ?1");
            library.replica.read(|q| q.one::<Content>(&sql, params![&id]))
        });
        let file = &loaded.await?.ok_or_else(|| LibraryError::NoSuchFile { wanted: file.id.clone() })?;
        let result = self.bring(file, &partial, pulled).await;
        let (library, wanted) = (self.library.clone(), file.clone());
        let placed = blocking(self.library.inner(), move |_| {
            let placed = result.and_then(|()| library.place(&wanted, &root, &folder, &partial, &relative));
            let (state, done, error) = match &placed {
                Ok(_) => ("Completed", wanted.bytes, None),
                Err(error) => ("Failed", 0, Some(error.to_string())),
            };
            library.note_transfer((&wanted.id, "", "download"), state, (done, wanted.bytes), error.as_deref())?;
            placed
        })
        .await?;
        pulled.beside.extend(placed);
        Ok(())
    }

    /// Fetches what is missing of a file on its way, until all of it is there.
    async fn bring(&mut self, file: &Content, partial: &Arc<Partial>, pulled: &mut Pulled) -> Result<(), Error> {
        let pieces = file.pieces()?;
        let shared = Arc::new(file.clone());
        let (bytes, checked) = (file.bytes, Arc::clone(partial));
        let lacking = blocking(self.library.inner(), move |_| {
            lacking(checked.file(), &pieces, bytes).map_err(|source| partial_failed("read", source))
        });
        let (lacking, here) = lacking.await?;
        pulled.resumed_bytes += here;
        self.done.0 += here;
        let (mut flying, mut lacking, mut failed) = (JoinSet::new(), lacking.into_iter(), None);
        let tried = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        loop {
            // What is on its way when one fails is waited for: the next attempt has it then.
            while flying.len() < AT_ONCE && failed.is_none() {
                let Some((index, piece, at)) = lacking.next() else { break };
                self.pace.take(u64::from(piece.bytes)).await;
                let (places, file, tried) = (Arc::clone(self.places), Arc::clone(&shared), Arc::clone(&tried));
                let partial = Arc::clone(partial);
                flying.spawn(async move {
                    let bytes = places.get(&file, index, &piece, (&tried.0, &tried.1)).await?;
                    let written = blocking(places.library.inner(), move |_| {
                        write_at(partial.file(), at, &bytes).map_err(|source| partial_failed("write", source))
                    });
                    written.await?;
                    Ok::<u64, Error>(u64::from(piece.bytes))
                });
            }
            let Some(next) = flying.join_next().await else { break };
            let bytes = match next.map_err(|_| Error::Cancelled)? {
                Ok(bytes) => bytes,
                Err(error) => {
                    failed.get_or_insert(error);
                    continue;
                }
            };
            pulled.fetched_bytes += bytes;
            self.done.0 += bytes;
            self.work.tell(self.done.0, self.done.1, &file.path).await;
            if let Some(progress) = &self.options.progress {
                progress(self.done.0, self.done.1);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        // All of it came from one remote: that has it whole.
        let from = tried.1.load(Ordering::Relaxed);
        let only =
            self.places.sources.get(from.trailing_zeros() as usize).filter(|_| from.is_power_of_two() && here == 0);
        if let Some(source) = only.cloned() {
            let (library, file) = (self.library.clone(), shared);
            blocking(self.library.inner(), move |_| library.note_fetched(&source, &file)).await?;
        }
        Ok(())
    }
}

fn partial_failed(doing: &'static str, source: std::io::Error) -> Error {
    let path = PathBuf::from("a file that is being fetched");
    LibraryError::Folder(FolderError::Io { doing, path, source }).into()
}

/// A chunk that is to be fetched: which of the file it is, and where it stands in it.
type Wanted = (usize, ChunkRef, u64);

/// The chunks that are not there yet, and how many bytes are.
fn lacking(file: &File, pieces: &[ChunkRef], bytes: u64) -> std::io::Result<(Vec<Wanted>, u64)> {
    let stands = file.metadata()?.len();
    if stands > bytes {
        file.set_len(bytes)?;
    }
    let (mut at, mut here, mut lacking, mut buffer) = (0, 0, Vec::new(), Vec::new());
    for (index, piece) in pieces.iter().enumerate() {
        let length = u64::from(piece.bytes);
        buffer.resize(piece.bytes as usize, 0);
        let is_here = at + length <= stands.min(bytes) && {
            read_at(file, at, &mut buffer)?;
            *blake3::hash(&buffer).as_bytes() == piece.hash
        };
        if is_here {
            here += length;
        } else {
            lacking.push((index, *piece, at));
        }
        at += length;
    }
    Ok((lacking, here))
}

/// Where contents may be had.
struct Places {
    library: Library,
    sources: Vec<Source>,
    /// Whether devices may be asked.
    asks: bool,
    /// They are dialed when no remote has something.
    holders: OnceCell<Holders>,
}

impl Places {
    fn new(library: &Library, sources: Vec<Source>, asks: bool) -> Places {
        Places { library: library.clone(), sources, asks, holders: OnceCell::new() }
    }

    /// A chunk from the first place that has it whole. Places that lack one of a file, or fail, are not asked for its others: they are noted in `without`, those that had one in `from`.
    async fn get(
        &self,
        file: &Content,
        index: usize,
        piece: &ChunkRef,
        (without, from): (&AtomicU64, &AtomicU64),
    ) -> Result<Bytes, Error> {
        let lacks = |place: usize| without.load(Ordering::Relaxed) >> place.min(63) & 1 == 1;
        let note = |place: usize| _ = without.fetch_or(1 << place.min(63), Ordering::Relaxed);
        let mut failure = None;
        for (place, source) in self.sources.iter().enumerate().filter(|(place, _)| !lacks(*place)) {
            let name = source.remote.chunk_name(&file.kind, &piece.hash);
            match source.remote.get_chunk(&name, &piece.hash, piece.bytes as usize).await {
                Ok(bytes) => {
                    from.fetch_or(1 << place.min(63), Ordering::Relaxed);
                    return Ok(bytes);
                }
                Err(error) => {
                    let missing = matches!(error, RemoteError::Missing { .. });
                    let corrupt = matches!(error, RemoteError::Corrupt { .. });
                    note(place);
                    if missing || corrupt {
                        let (library, remote, id) = (self.library.clone(), source.name.clone(), file.id.clone());
                        let trust = corrupt.then_some(Trust::Damaged);
                        let noted = move |_: &_| library.note_trust(&remote, &name, &id, trust);
                        blocking(self.library.inner(), noted).await?;
                    }
                    // That it is not there says less than anything else.
                    if !missing {
                        failure.get_or_insert(source.failed(error));
                    }
                }
            }
        }
        for (place, holder) in self.holders().await?.iter().enumerate() {
            let place = self.sources.len() + place;
            if lacks(place) {
                continue;
            }
            match holder.get(&file.id, index, piece).await {
                Ok(Some(bytes)) => {
                    from.fetch_or(1 << place.min(63), Ordering::Relaxed);
                    return Ok(bytes);
                }
                Ok(None) => note(place),
                Err(error) => {
                    note(place);
                    failure.get_or_insert(error);
                }
            }
        }
        Err(match failure {
            Some(error) => error,
            None => {
                let (id, path, devices) = (file.id.clone(), file.path.clone(), self.library.holders(&file.id)?);
                LibraryError::NotAvailable { id, path, devices }.into()
            }
        })
    }

    async fn holders(&self) -> Result<&[Arc<Holder>], Error> {
        if !self.asks {
            return Ok(&[]);
        }
        let dial = async || {
            let library = self.library.clone();
            let devices = blocking(self.library.inner(), move |_| {
                let own = library.device()?;
                let sql = "SELECT DISTINCT device FROM library_presence WHERE state = 'present' AND device <> ?1 AND typeof(device) = 'text'";
                library.replica.read(|q| q.all::<String>(sql, params![&own]))
            });
            Holders::dial(self.library.inner(), devices.await?).await
        };
        Ok(&self.holders.get_or_try_init(dial).await?.reached)
    }

    async fn close(self) {
        if let Some(holders) = self.holders.into_inner() {
            holders.close().await;
        }
    }
}

impl Library {
    /// Checks a file that is whole and gives it its place; tells which if it is not the one it should have. Blocks.
    fn place(
        &self,
        wanted: &Content,
        root: &Root,
        folder: &Folder,
        partial: &Partial,
        relative: &str,
    ) -> Result<Option<PathBuf>, Error> {
        let io = |source| partial_failed("read", source);
        partial.file().set_len(wanted.bytes).map_err(io)?;
        if wanted.hash() != Some(hash_of(partial.file()).map_err(io)?) {
            folder.discard_partial(&wanted.id).map_err(LibraryError::from)?;
            return Err(LibraryError::WrongContent { path: wanted.path.clone() }.into());
        }
        let _alone = self.lock_scans()?;
        let mut at = relative.to_owned();
        let mut beside = None;
        let stat = match folder.place(partial, &at) {
            Err(FolderError::Exists { .. }) => match self.make_way(wanted, root, folder, &at)? {
                Way::Same(stat) => {
                    folder.discard_partial(&wanted.id).map_err(LibraryError::from)?;
                    Ok(stat)
                }
                Way::Free => folder.place(partial, &at),
                Way::Taken => {
                    at = conflict_name(relative, &wanted.id);
                    beside = Some(root.folder.join(&at));
                    folder.place(partial, &at)
                }
            },
            placed => placed,
        };
        let stat = stat.map_err(LibraryError::from)?;
        let device = self.device()?;
        let book = Book { root, folder, device: &device, op: 0, now_ms: self.now() };
        self.replica.write(|tx| book.put_found(tx, &wanted.id, &at, stat))?;
        Ok(beside)
    }

    /// What to do about something that stands where a file should.
    fn make_way(&self, wanted: &Content, root: &Root, folder: &Folder, at: &str) -> Result<Way, Error> {
        let Ok((file, stat)) = folder.open_file(at) else { return Ok(Way::Taken) };
        let found = hash_of(&file).map_err(|source| partial_failed("read", source))?;
        if wanted.hash() == Some(found) {
            return Ok(Way::Same(stat));
        }
        let entry = self.inner().store.read(|conn| index::find(conn, root.id, at))?;
        let Some(entry) = entry.filter(|entry| entry.state == State::Ok) else { return Ok(Way::Taken) };
        let Some(old) = entry.file.clone() else { return Ok(Way::Taken) };
        let sql = "SELECT content FROM library_sound WHERE id = ?1";
        let content: Option<String> = self.replica.read(|q| q.one(sql, params![&old]))?;
        let is_old_content = content.is_some_and(|content| *blake3::Hash::from_bytes(found).to_hex() == *content);
        if !is_old_content || !self.leads_to(&old, &wanted.id)? {
            return Ok(Way::Taken);
        }
        match self.put_aside(root, folder, &entry, "replaced")? {
            Some(_) => Ok(Way::Free),
            None => Ok(Way::Taken),
        }
    }

    /// Whether a file was replaced, in one step or several, by another.
    fn leads_to(&self, from: &str, to: &str) -> Result<bool, Error> {
        let sql = "SELECT replaced_by FROM library_sound WHERE id = ?1";
        let mut at = from.to_owned();
        for _ in 0..VERSIONS_MAX {
            match self.replica.read(|q| q.one::<Option<String>>(sql, params![&at]))?.flatten() {
                Some(next) if next == to => return Ok(true),
                Some(next) => at = next,
                None => return Ok(false),
            }
        }
        Ok(false)
    }
}

enum Way {
    /// It is the very content.
    Same(Stat),
    /// It is out of the way.
    Free,
    /// It stays.
    Taken,
}

/// The BLAKE3 hash of an open file, from its beginning.
pub(super) fn hash_of(mut file: &File) -> std::io::Result<[u8; 32]> {
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            read => _ = hasher.update(&buffer[..read]),
        }
    }
}
