//! A disk that can fail: what stands between SQLite and the files of a device.
//!
//! A virtual file system of SQLite ([`install`]) that passes everything on to the system's, for files below the folder of a [`Disk`]. Of each write it
//! remembers what it wrote over until the file is synced, so that a power cut can take back what was not: any of those writes, wholly or
//! torn at sectors of 512 bytes. After a crash ([`Disk::crash_after`]) every handle of that life is dead: nothing that is left of the program reaches the
//! files any more.
//!
//! Files other than SQLite's (the device's keys and records) are written past it and count as durable.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rusqlite::ffi;

use crate::random::Rng;

const SECTOR: usize = 512;

/// How often which fault of disks happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskCount {
    /// Writes, syncs, truncations and deletions.
    pub operations: u64,
    /// Crashes in the middle of one.
    pub crashes: u64,
    /// Writes that a crash tore.
    pub torn: u64,
    /// Writes that a power cut took back.
    pub lost: u64,
    /// Writes that found the disk full.
    pub full: u64,
    /// Reads and writes that failed.
    pub failed: u64,
    /// Reads with a wrong bit.
    pub flipped: u64,
}

impl DiskCount {
    pub(crate) fn add(&mut self, other: &DiskCount) {
        self.operations += other.operations;
        self.crashes += other.crashes;
        self.torn += other.torn;
        self.lost += other.lost;
        self.full += other.full;
        self.failed += other.failed;
        self.flipped += other.flipped;
    }
}

/// The disk of one device.
#[derive(Debug, Clone)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Handles of earlier lives are dead.
    life: u64,
    down: bool,
    /// Operations until the crash.
    crash_after: Option<u64>,
    full: bool,
    /// Of a thousand reads and writes so many fail.
    failing: u32,
    /// Of a thousand reads so many have a bit that is another one.
    flipping: u32,
    rng: Rng,
    unsynced: BTreeMap<PathBuf, Vec<Unsynced>>,
    count: DiskCount,
}

#[derive(Debug)]
enum Unsynced {
    Write { at: u64, old: Vec<u8>, old_size: u64, new: Vec<u8> },
    Truncate { size: u64, tail: Vec<u8> },
}

static DISKS: Mutex<Vec<(PathBuf, Weak<Mutex<State>>)>> = Mutex::new(Vec::new());

impl Disk {
    /// A disk for the files below a folder, which is there.
    ///
    /// # Errors
    /// Where the folder cannot be found, or SQLite does not take the file system.
    pub(crate) fn new(folder: &Path, seed: u64) -> std::io::Result<Disk> {
        install()?;
        let folder = folder.canonicalize()?;
        let state = State {
            life: 0,
            down: false,
            crash_after: None,
            full: false,
            failing: 0,
            flipping: 0,
            rng: Rng(seed),
            unsynced: BTreeMap::new(),
            count: DiskCount::default(),
        };
        let disk = Disk(Arc::new(Mutex::new(state)));
        let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
        disks.retain(|(_, disk)| disk.strong_count() > 0);
        disks.push((folder, Arc::downgrade(&disk.0)));
        Ok(disk)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Crashes in the middle of the operation after so many others, or right now for `None`.
    pub(crate) fn crash_after(&self, operations: Option<u64>) {
        let mut state = self.state();
        match operations {
            Some(_) => state.crash_after = operations,
            None => state.crash(),
        }
    }

    /// Whether it has crashed.
    pub(crate) fn is_down(&self) -> bool {
        self.state().down
    }

    /// Whether anything is wrong with it.
    pub(crate) fn is_troubled(&self) -> bool {
        let state = self.state();
        state.down || state.full || state.failing > 0 || state.flipping > 0
    }

    /// Whether there is no room for anything.
    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Of a thousand reads and writes so many fail from now on.
    pub(crate) fn set_failing(&self, permille: u32) {
        self.state().failing = permille;
    }

    /// Of a thousand reads so many have a wrong bit from now on.
    pub(crate) fn set_flipping(&self, permille: u32) {
        self.state().flipping = permille;
    }

    /// The next life begins. All handles of the last one have to be closed. After a power cut any of the writes that were not synced may be
    /// gone.
    ///
    /// # Errors
    /// What the system says of the files.
    pub(crate) fn restart(&self, power_cut: bool) -> std::io::Result<()> {
        let mut state = self.state();
        let unsynced = std::mem::take(&mut state.unsynced);
        if power_cut {
            for (path, writes) in unsynced {
                state.cut(&path, &writes)?;
            }
        }
        state.life += 1;
        (state.down, state.crash_after, state.full, state.failing) = (false, None, false, 0);
        Ok(())
    }

    /// Forgets what was not synced: everything is durable as it stands.
    pub(crate) fn settle(&self) {
        self.state().unsynced.clear();
    }

    /// How often which fault happened.
    pub(crate) fn count(&self) -> DiskCount {
        self.state().count
    }
}

impl State {
    fn crash(&mut self) {
        (self.down, self.crash_after) = (true, None);
    }

    /// Counts an operation; true if the crash falls into it.
    fn crashes(&mut self) -> bool {
        self.count.operations += 1;
        match &mut self.crash_after {
            Some(0) => {
                self.count.crashes += 1;
                self.crash();
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn fails(&mut self) -> bool {
        let fails = self.failing > 0 && self.rng.below(1000) < u64::from(self.failing);
        self.count.failed += u64::from(fails);
        fails
    }

    /// What a power cut leaves of a file: what was synced, and some of what was not.
    fn cut(&mut self, path: &Path, writes: &[Unsynced]) -> std::io::Result<()> {
        let Ok(mut content) = std::fs::read(path) else { return Ok(()) };
        for write in writes.iter().rev() {
            match write {
                Unsynced::Write { at, old, old_size, .. } => {
                    let at = *at as usize;
                    if content.len() >= at + old.len() {
                        content[at..at + old.len()].copy_from_slice(old);
                    }
                    content.truncate(*old_size as usize);
                }
                Unsynced::Truncate { tail, .. } => content.extend_from_slice(tail),
            }
        }
        // Writes come to the platter in about the order in which they were made, or in any.
        let in_order = self.rng.chance(50);
        let survive = self.rng.below(writes.len() as u64 + 1) as usize;
        for (n, write) in writes.iter().enumerate() {
            let survives = if in_order { n < survive } else { self.rng.chance(50) };
            self.count.lost += u64::from(!survives);
            match write {
                Unsynced::Write { at, new, .. } => {
                    let torn = self.rng.chance(20);
                    for (n, sector) in new.chunks(SECTOR).enumerate() {
                        if if torn { self.rng.chance(50) } else { survives } {
                            let at = *at as usize + n * SECTOR;
                            if content.len() < at + sector.len() {
                                content.resize(at + sector.len(), 0);
                            }
                            content[at..at + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
                Unsynced::Truncate { size, .. } if survives => content.truncate(*size as usize),
                Unsynced::Truncate { .. } => {}
            }
        }
        std::fs::write(path, content)
    }
}

/// The disk on which a file lies.
fn disk_of(path: &Path) -> Option<Arc<Mutex<State>>> {
    let disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = disks.iter().find(|(folder, _)| path.starts_with(folder))?;
    found.1.upgrade()
}

fn path_of(name: *const c_char) -> Option<PathBuf> {
    if name.is_null() {
        return None;
    }
    // SAFETY: SQLite gives names that end with a zero and live as long as the call.
    let name = unsafe { CStr::from_ptr(name) };
    Some(PathBuf::from(name.to_string_lossy().into_owned()))
}

/// A file of SQLite's. The system's own follows behind it.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    handle: *mut Handle,
}

struct Handle {
    disk: Arc<Mutex<State>>,
    life: u64,
    path: PathBuf,
}

impl Handle {
    fn state(&self) -> MutexGuard<'_, State> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, if this handle is not dead.
    fn alive(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.state();
        (!state.down && state.life == self.life).then_some(state)
    }
}

static REAL: OnceLock<usize> = OnceLock::new();

fn real_vfs() -> *mut ffi::sqlite3_vfs {
    REAL.get().copied().unwrap_or(0) as *mut ffi::sqlite3_vfs
}

thread_local! {
    static NOW_MS: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// What SQL takes for the present on this thread, in milliseconds since 1970; the system's time for `None`.
pub(crate) fn set_sql_time(now_ms: Option<u64>) {
    NOW_MS.set(now_ms);
}

/// 1970 in milliseconds since the beginning of the Julian calendar.
const JULIAN_1970_MS: i64 = 210_866_760_000_000;

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, result: *mut ffi::sqlite3_int64) -> c_int {
    if let Some(now) = NOW_MS.get() {
        // SAFETY: SQLite gives a place for the answer.
        unsafe { *result = JULIAN_1970_MS + now as i64 };
        return ffi::SQLITE_OK;
    }
    let vfs = real_vfs();
    // SAFETY: the system's file system is registered.
    match unsafe { (*vfs).xCurrentTimeInt64 } {
        // SAFETY: as above.
        Some(current) => unsafe { current(vfs, result) },
        None => ffi::SQLITE_ERROR,
    }
}

/// Random bytes of SQLite's own, which decide nothing: the same in each process.
unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, count: c_int, to: *mut c_char) -> c_int {
    let mut rng = Rng(count as u64);
    for n in 0..count as usize {
        // SAFETY: SQLite gives room for so many.
        unsafe { *to.add(n) = rng.next() as c_char };
    }
    count
}

/// Makes this the file system of everything that the process opens from now on; files that are not on a [`Disk`] go straight to the system's.
///
/// # Errors
/// Where SQLite does not take it.
pub(crate) fn install() -> std::io::Result<()> {
    static INSTALLED: OnceLock<c_int> = OnceLock::new();
    let code = *INSTALLED.get_or_init(|| {
        // SAFETY: the default file system is there once SQLite is initialised, and lives as long as the process, as does the one registered here.
        unsafe {
            ffi::sqlite3_initialize();
            let real = ffi::sqlite3_vfs_find(std::ptr::null());
            if real.is_null() || REAL.set(real as usize).is_err() {
                return ffi::SQLITE_ERROR;
            }
            let vfs = Box::new(ffi::sqlite3_vfs {
                iVersion: 2,
                szOsFile: size_of::<File>() as c_int + (*real).szOsFile,
                zName: c"isle-simulation".as_ptr(),
                pNext: std::ptr::null_mut(),
                xOpen: Some(open),
                xDelete: Some(delete),
                xRandomness: Some(randomness),
                xCurrentTimeInt64: Some(current_time),
                xSetSystemCall: None,
                xGetSystemCall: None,
                xNextSystemCall: None,
                ..*real
            });
            ffi::sqlite3_vfs_register(Box::leak(vfs), 1)
        }
    });
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(std::io::Error::other(format!("SQLite says {code}"))) }
}

const METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Without xFetch nothing is mapped into memory past this.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
static METHODS_PLACE: ffi::sqlite3_io_methods = METHODS;

/// The system's file behind one of these.
///
/// # Safety
/// `file` was opened by [`open`].
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite allocates szOsFile bytes for it, and `File` is followed by the system's.
    unsafe { file.cast::<File>().add(1).cast() }
}

/// # Safety
/// As [`real`].
unsafe fn handle<'a>(file: *mut ffi::sqlite3_file) -> &'a Handle {
    // SAFETY: set by `open`, freed by `close`, and SQLite calls nothing after that.
    unsafe { &*(*file.cast::<File>()).handle }
}

/// Calls a method of the system's file.
macro_rules! pass {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        // SAFETY: the system's file is open, and its methods are those that it was opened with.
        unsafe {
            let real = real($file);
            match (*(*real).pMethods).$method {
                Some(method) => method(real $(, $argument)*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let vfs = real_vfs();
    // SAFETY: the system's file system is registered.
    let Some(real_open) = (unsafe { (*vfs).xOpen }) else { return ffi::SQLITE_CANTOPEN };
    let on_disk = path_of(name).and_then(|path| Some((disk_of(&path)?, path)));
    let Some((disk, path)) = on_disk else {
        // SAFETY: there is more room than the system's file needs.
        return unsafe { real_open(vfs, name, file, flags, out_flags) };
    };
    let life = {
        let state = disk.lock().unwrap_or_else(PoisonError::into_inner);
        if state.down {
            // SAFETY: SQLite closes no file without methods.
            unsafe { (*file).pMethods = std::ptr::null() };
            return ffi::SQLITE_CANTOPEN;
        }
        state.life
    };
    // SAFETY: the room behind `File` is the system's.
    unsafe {
        let code = real_open(vfs, name, real(file), flags, out_flags);
        if code != ffi::SQLITE_OK {
            (*file).pMethods = std::ptr::null();
            return code;
        }
        (*file.cast::<File>()).handle = Box::into_raw(Box::new(Handle { disk, life, path }));
        (*file).pMethods = &raw const METHODS_PLACE;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync_folder: c_int) -> c_int {
    if let Some(path) = path_of(name)
        && let Some(disk) = disk_of(&path)
    {
        let mut state = disk.lock().unwrap_or_else(PoisonError::into_inner);
        if state.down || state.crashes() {
            return ffi::SQLITE_IOERR_DELETE;
        }
        state.unsynced.remove(&path);
    }
    let vfs = real_vfs();
    // SAFETY: the system's file system is registered.
    match unsafe { (*vfs).xDelete } {
        // SAFETY: as above.
        Some(delete) => unsafe { delete(vfs, name, sync_folder) },
        None => ffi::SQLITE_IOERR_DELETE,
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let code = pass!(file, xClose);
    // SAFETY: made by `open`; SQLite calls nothing after this.
    unsafe { drop(Box::from_raw((*file.cast::<File>()).handle)) };
    code
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, bytes: c_int, at: i64) -> c_int {
    // SAFETY: SQLite's own file.
    if unsafe { handle(file) }.alive().is_none_or(|mut state| state.fails()) {
        return ffi::SQLITE_IOERR_READ;
    }
    let code = pass!(file, xRead, to, bytes, at);
    // SAFETY: SQLite's own file.
    if let Some(mut state) = unsafe { handle(file) }.alive()
        && code == ffi::SQLITE_OK
        && state.flipping > 0
        && state.rng.below(1000) < u64::from(state.flipping)
    {
        let (place, bit) = (state.rng.below(bytes.max(1) as u64) as usize, state.rng.below(8));
        // SAFETY: so many bytes were read.
        unsafe { *to.cast::<u8>().add(place) ^= 1 << bit };
        state.count.flipped += 1;
    }
    code
}

/// Reads what stands in a file between two places.
///
/// # Safety
/// As [`real`].
unsafe fn old_bytes(file: *mut ffi::sqlite3_file, from: u64, to: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; to.saturating_sub(from) as usize];
    if !bytes.is_empty() {
        let code = pass!(file, xRead, bytes.as_mut_ptr().cast(), bytes.len() as c_int, from as i64);
        if code != ffi::SQLITE_OK {
            bytes.clear();
        }
    }
    bytes
}

unsafe fn size_of_file(file: *mut ffi::sqlite3_file) -> u64 {
    let mut size = 0i64;
    let _ = pass!(file, xFileSize, &raw mut size);
    size as u64
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, bytes: c_int, at: i64) -> c_int {
    // SAFETY: SQLite's own file.
    let handle = unsafe { handle(file) };
    let Some(mut state) = handle.alive() else { return ffi::SQLITE_IOERR_WRITE };
    if state.fails() {
        return ffi::SQLITE_IOERR_WRITE;
    }
    // SAFETY: as above, and SQLite gives so many bytes.
    let (old_size, mut new) =
        unsafe { (size_of_file(file), std::slice::from_raw_parts(from.cast::<u8>(), bytes as usize).to_vec()) };
    let (start, end) = (at as u64, at as u64 + new.len() as u64);
    if state.full && end > old_size {
        state.count.full += 1;
        return ffi::SQLITE_FULL;
    }
    let crashes = state.crashes();
    if crashes {
        let sectors = new.len().div_ceil(SECTOR) as u64;
        let kept = (state.rng.below(sectors + 1) as usize * SECTOR).min(new.len());
        state.count.torn += u64::from(kept > 0 && kept < new.len());
        new.truncate(kept);
    }
    // SAFETY: as above.
    let old = unsafe { old_bytes(file, start, end.min(old_size)) };
    let (from, length) = (new.as_ptr(), new.len() as c_int);
    let code = if new.is_empty() { ffi::SQLITE_OK } else { pass!(file, xWrite, from.cast(), length, at) };
    if code == ffi::SQLITE_OK {
        state.unsynced.entry(handle.path.clone()).or_default().push(Unsynced::Write { at: start, old, old_size, new });
    }
    if crashes { ffi::SQLITE_IOERR_WRITE } else { code }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: SQLite's own file.
    let handle = unsafe { handle(file) };
    let Some(mut state) = handle.alive() else { return ffi::SQLITE_IOERR_TRUNCATE };
    if state.crashes() {
        return ffi::SQLITE_IOERR_TRUNCATE;
    }
    // SAFETY: as above.
    let tail = unsafe { old_bytes(file, size as u64, size_of_file(file)) };
    let code = pass!(file, xTruncate, size);
    if code == ffi::SQLITE_OK {
        let cut = Unsynced::Truncate { size: size as u64, tail };
        state.unsynced.entry(handle.path.clone()).or_default().push(cut);
    }
    code
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: SQLite's own file.
    let handle = unsafe { handle(file) };
    let Some(mut state) = handle.alive() else { return ffi::SQLITE_IOERR_FSYNC };
    if state.crashes() || state.fails() {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    // The system outlives the simulation: nothing has to go to the platter in earnest.
    state.unsynced.remove(&handle.path);
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    pass!(file, xFileSize, size)
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, xLock, level)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, xUnlock, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, result: *mut c_int) -> c_int {
    pass!(file, xCheckReservedLock, result)
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    pass!(file, xFileControl, op, argument)
}

// What the file system of this machine would say must not decide anything; nothing of what a careful disk promises is promised.
unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    SECTOR as c_int
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    0
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    place: *mut *mut c_void,
) -> c_int {
    pass!(file, xShmMap, page, size, extend, place)
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    pass!(file, xShmLock, offset, count, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as in `pass!`.
    unsafe {
        let real = real(file);
        if let Some(barrier) = (*(*real).pMethods).xShmBarrier {
            barrier(real);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    pass!(file, xShmUnmap, delete)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn open(path: &Path) -> rusqlite::Result<Connection> {
        let conn = Connection::open(path)?;
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE IF NOT EXISTS t(a)")?;
        Ok(conn)
    }

    fn count(path: &Path) -> i64 {
        open(path).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_kill_keeps_what_was_committed_and_a_power_cut_what_was_synced() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path(), 1).unwrap();
        let path = folder.path().canonicalize().unwrap().join("a.db");
        let (mut lost, mut synced) = (0, 0);
        for n in 0..40 {
            let conn = open(&path).unwrap();
            let before = count(&path);
            conn.execute("INSERT INTO t VALUES(1)", []).unwrap();
            if n % 4 == 3 {
                conn.execute_batch("PRAGMA synchronous = FULL; INSERT INTO t VALUES(2); PRAGMA synchronous = NORMAL")
                    .unwrap();
            }
            disk.crash_after(None);
            assert!(conn.execute("INSERT INTO t VALUES(3)", []).is_err(), "a dead program writes");
            drop(conn);
            let power = n % 2 == 1;
            disk.restart(power).unwrap();
            let after = count(&path);
            match (power, n % 4 == 3) {
                (false, _) => assert_eq!(after, before + 1, "a kill lost a commit"),
                (true, true) => {
                    assert_eq!(after, before + 2, "a power cut lost what was synced");
                    synced += 1;
                }
                (true, false) => lost += before + 1 - after,
            }
        }
        assert!(lost > 0 && synced > 0, "{:?}", disk.count());
    }

    #[test]
    fn a_crash_in_any_operation_leaves_a_database() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path(), 2).unwrap();
        let path = folder.path().canonicalize().unwrap().join("a.db");
        for n in 0..60 {
            disk.crash_after(Some(n));
            let crashed = (|| {
                let conn = open(&path)?;
                for _ in 0..10 {
                    conn.execute("INSERT INTO t VALUES(zeroblob(5000))", [])?;
                }
                conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
            })();
            assert!(crashed.is_err() || !disk.is_down());
            disk.restart(n % 2 == 0).unwrap();
            let conn = open(&path).unwrap();
            let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(sound, "ok", "after {n} operations");
        }
        let count = disk.count();
        assert!(count.crashes > 40 && count.torn > 0 && count.lost > 0, "{count:?}");
    }

    #[test]
    fn a_full_disk_takes_nothing_and_others_files_are_not_touched() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = Disk::new(folder.path(), 3).unwrap();
        let path = folder.path().canonicalize().unwrap().join("a.db");
        let conn = open(&path).unwrap();
        disk.set_full(true);
        let full = conn.execute("INSERT INTO t VALUES(zeroblob(50000))", []).unwrap_err();
        assert_eq!(full.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
        open(&other.path().join("b.db")).unwrap().execute("INSERT INTO t VALUES(zeroblob(50000))", []).unwrap();
        disk.set_full(false);
        conn.execute("INSERT INTO t VALUES(1)", []).unwrap();
        assert_eq!(count(&path), 1);
    }
}
