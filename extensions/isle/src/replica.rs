//! The replica of a connection's file.

use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use isle::{Builder, Replica};
use rusqlite::{Connection, TransactionState, ffi};

/// An error as SQL shows it.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a connection has open. It goes with the connection, which gives up its functions when it is closed.
pub(crate) struct Session {
    state: Mutex<State>,
    /// The process that loaded the extension.
    pid: u32,
}

#[derive(Default)]
struct State {
    home: Option<PathBuf>,
    open: Option<(PathBuf, Replica)>,
}

/// What a function is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It looks at what is committed.
    Read,
    /// It writes, on a connection of its own.
    Write,
}

impl Session {
    /// One that has nothing open yet.
    pub(crate) fn new() -> Session {
        Session { state: Mutex::default(), pid: std::process::id() }
    }

    /// The folder that tells devices apart, for replicas that are opened from now on.
    pub(crate) fn set_home(&self, home: &str) -> Result<(), Failure> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.open.is_some() {
            return Err("isle_home comes before everything else: this connection has opened its replica already".into());
        }
        state.home = Some(PathBuf::from(home));
        Ok(())
    }

    /// The home that was set.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).home.clone()
    }

    /// The replica that the connection's file is.
    pub(crate) fn replica(&self, host: &Connection, access: Access) -> Result<Replica, Failure> {
        self.open(host, access, Builder::open)
    }

    /// The same, after it was made one if it was none.
    pub(crate) fn init(&self, host: &Connection, app: Option<&str>) -> Result<Replica, Failure> {
        if host.transaction_state(Some("main"))? != TransactionState::None {
            return Err(
                "isle_init switches the file to write-ahead logging, and this connection is reading or writing: end \
                        that first"
                    .into(),
            );
        }
        self.open(host, Access::Write, |builder| {
            match app {
                Some(app) => builder.app(app),
                None => builder,
            }
            .init()
        })
    }

    /// Lets go of the replica.
    pub(crate) fn close(&self) {
        let open = self.state.lock().unwrap_or_else(PoisonError::into_inner).open.take();
        // Not while the lock is held: it writes the log back.
        drop(open);
    }

    fn open(
        &self,
        host: &Connection,
        access: Access,
        open: impl FnOnce(Builder) -> Result<Replica, isle::Error>,
    ) -> Result<Replica, Failure> {
        let path = file_of(host)?;
        if access == Access::Write {
            may_write(host, &path)?;
        }
        let known = self.state.lock().unwrap_or_else(PoisonError::into_inner).open.clone();
        if let Some((_, replica)) = known.filter(|(of, replica)| *of == path && replica.is_current()) {
            return Ok(replica);
        }
        let builder = Replica::builder(&path).busy_timeout(patience(host));
        let builder = match self.home() {
            Some(home) => builder.home(home),
            None => builder,
        };
        let replica = open(builder).map_err(|error| match error {
            isle::Error::Store(isle::StoreError::NotReplica { path }) => {
                Failure::from(format!("{path} is no replica yet: SELECT isle_init()"))
            }
            other => other.into(),
        })?;
        let before = self.state.lock().unwrap_or_else(PoisonError::into_inner).open.replace((path, replica.clone()));
        drop(before);
        Ok(replica)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // It came by a fork: not even the end of these connections is this process's to bring about.
            let open = self.state.lock().unwrap_or_else(PoisonError::into_inner).open.take();
            std::mem::forget(open);
        }
    }
}

/// The file of a connection's main database, as other connections find it.
fn file_of(host: &Connection) -> Result<PathBuf, Failure> {
    let mut own: *mut ffi::sqlite3_vfs = std::ptr::null_mut();
    let mut moved: c_int = 0;
    // SAFETY: the connection is open, and each answer has the type that its question asks for.
    let usual = unsafe {
        ffi::sqlite3_file_control(
            host.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_VFS_POINTER,
            (&raw mut own).cast(),
        );
        ffi::sqlite3_file_control(
            host.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_HAS_MOVED,
            (&raw mut moved).cast(),
        );
        own == ffi::sqlite3_vfs_find(std::ptr::null())
    };
    let path = match host.path() {
        Some("") => return Err("isle needs a database in a file, and this one is in memory or temporary".into()),
        Some(path) => PathBuf::from(path),
        None => return Err("isle needs a database in a file whose path is UTF-8".into()),
    };
    match (usual, moved) {
        (false, _) => {
            Err("isle opens a database with SQLite's usual VFS, and this one is open with another, or is in memory"
                .into())
        }
        (true, 0) => Ok(path),
        (true, _) => {
            Err(format!("{} was moved or deleted since this connection opened it: open it again", path.display())
                .into())
        }
    }
}

/// Why isle cannot write now, on a connection of its own, as long as this one is as it is.
fn may_write(host: &Connection, path: &Path) -> Result<(), Failure> {
    let flag = |pragma: &str| host.query_row(&format!("PRAGMA main.{pragma}"), [], |row| row.get::<_, String>(0));
    let query_only = host.query_row("PRAGMA query_only", [], |row| row.get::<_, bool>(0))?;
    if query_only || host.is_readonly("main")? {
        return Err("this function writes, and this connection may only read".into());
    }
    if flag("locking_mode")? == "exclusive" {
        return Err(
            "this connection keeps the file for itself: PRAGMA locking_mode = NORMAL, and read something, first".into(),
        );
    }
    let mut databases = host.prepare("SELECT name, file FROM pragma_database_list")?;
    let databases = databases.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)))?;
    for (name, file) in databases.collect::<Result<Vec<_>, _>>()? {
        let same = name == "main" || file.is_some_and(|file| Path::new(&file) == path);
        let state = if same { host.transaction_state(Some(name.as_str()))? } else { TransactionState::None };
        let waits = match state {
            TransactionState::Write => true,
            // Only with a write-ahead log others can write meanwhile.
            TransactionState::Read => flag("journal_mode")? != "wal",
            _ => false,
        };
        if waits {
            return Err(
                "this function writes on a connection of its own, which would wait for the transaction that this \
                        connection has open: COMMIT or ROLLBACK first"
                    .into(),
            );
        }
    }
    Ok(())
}

/// How long isle waits for others: as long as the connection does, or five seconds.
fn patience(host: &Connection) -> Duration {
    let asked = host.query_row("PRAGMA busy_timeout", [], |row| row.get::<_, u32>(0)).unwrap_or(0);
    Duration::from_millis(if asked == 0 { 5_000 } else { asked.into() })
}
