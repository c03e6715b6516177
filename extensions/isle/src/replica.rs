//! The replica of a connection's file.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use isle::Replica;
use rusqlite::{Connection, TransactionState};

/// An error as SQL shows it.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a connection has open. It goes with the connection, which gives up its functions when it is closed.
#[derive(Default)]
pub(crate) struct Session {
    state: Mutex<State>,
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
        self.open(host, access, |path| builder(path, self.home()).open())
    }

    /// The same, after it was made one if it was none.
    pub(crate) fn init(&self, host: &Connection, app: Option<&str>) -> Result<Replica, Failure> {
        if host.transaction_state(Some("main"))? != TransactionState::None {
            return Err("isle_init switches the file to write-ahead logging, and this connection is reading or writing: end that first".into());
        }
        self.open(host, Access::Write, |path| {
            let builder = builder(path, self.home());
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
        open: impl FnOnce(&Path) -> Result<Replica, isle::Error>,
    ) -> Result<Replica, Failure> {
        if access == Access::Write && host.transaction_state(Some("main"))? == TransactionState::Write {
            return Err("this function writes on a connection of its own, which would wait for the transaction that this connection has open: \
                        COMMIT or ROLLBACK first"
                .into());
        }
        let path = match host.path() {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => return Err("isle needs a database in a file, and this one is in memory or temporary".into()),
        };
        let known = self.state.lock().unwrap_or_else(PoisonError::into_inner).open.clone();
        if let Some((_, replica)) = known.filter(|(of, _)| *of == path) {
            return Ok(replica);
        }
        let replica = open(&path).map_err(|error| match error {
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

fn builder(path: &Path, home: Option<PathBuf>) -> isle::Builder {
    let builder = Replica::builder(path);
    match home {
        Some(home) => builder.home(home),
        None => builder,
    }
}
