//! The extension as a file, in and out of a connection.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _};

use crate::{CrSqliteError, Doing as _, OUTSIDE, VERSION_END, VERSION_MIN};

/// The file with the built extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    path: PathBuf,
}

impl Library {
    /// The extension in this file. It is code that runs in this process: name only a file that is trusted as the program itself is.
    pub fn new(path: impl Into<PathBuf>) -> Library {
        Library { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads the extension into a connection and checks that it knows the file's tables. A file that never had it gets cr-sqlite's tables.
    ///
    /// # Errors
    /// [`CrSqliteError::Load`], [`CrSqliteError::Version`], or SQLite's reason. Before the connection is closed it must be
    /// given to [`release`], also after an error.
    pub fn load(&self, conn: &Connection) -> Result<(), CrSqliteError> {
        let built = ["", ".so", ".dylib", ".dll"].into_iter().map(|ending| {
            let mut path = self.path.clone().into_os_string();
            path.push(ending);
            PathBuf::from(path)
        });
        if !built.into_iter().any(|path| path.is_file()) {
            return Err(CrSqliteError::Missing { path: self.path.clone() });
        }
        // Not after it: it would write its own version over that of older tables.
        check_version(conn)?;
        self.attach(conn)?;
        check_version(conn)
    }

    #[cfg(feature = "load")]
    #[allow(unsafe_code, reason = "an extension is native code")]
    fn attach(&self, conn: &Connection) -> Result<(), CrSqliteError> {
        // SAFETY: whoever named this file trusts its code (see `new`), and no SQL of anybody else runs while loading is enabled.
        let loaded = unsafe {
            rusqlite::LoadExtensionGuard::new(conn)
                .and_then(|_guard| conn.load_extension(&self.path, Some("sqlite3_crsqlite_init")))
        };
        loaded.map_err(|source| CrSqliteError::Load { path: self.path.clone(), source })
    }

    #[cfg(not(feature = "load"))]
    fn attach(&self, _: &Connection) -> Result<(), CrSqliteError> {
        Err(CrSqliteError::NoLoading)
    }
}

/// Lets the extension give up what it holds of a connection that is about to be closed. Nothing happens where it was not loaded.
pub fn release(conn: &Connection) {
    // Its only error is that the function does not exist.
    let _ = conn.query_row("SELECT crsql_finalize()", [], |_| Ok(()));
}

/// Makes cr-sqlite's triggers stand aside on this connection, or fire again.
///
/// # Errors
/// SQLite's reason.
pub fn quiet(conn: &Connection, quiet: bool) -> Result<(), CrSqliteError> {
    let mut statement = conn.prepare_cached("SELECT crsql_internal_sync_bit(?1)").doing("quiet the triggers")?;
    statement.query_row([i64::from(quiet)], |_| Ok(())).doing("quiet the triggers")
}

/// Whether rows of a CRR were written past isle that are not stamped yet. No extension is needed to ask. The name is that of [`crate::name_of`].
///
/// # Errors
/// SQLite's reason.
pub fn is_written(conn: &Connection, table: &str) -> Result<bool, CrSqliteError> {
    let clock = crate::quoted(&format!("{table}__crsql_clock"));
    let sql = format!("SELECT 1 FROM {clock} WHERE site_id IN ({OUTSIDE}) LIMIT 1");
    let mut statement = conn.prepare_cached(&sql).doing("look for writes")?;
    Ok(statement.query_row([], |_| Ok(())).optional().doing("look for writes")?.is_some())
}

/// How many rows those are.
///
/// # Errors
/// SQLite's reason.
pub fn written_rows(conn: &Connection, table: &str) -> Result<u64, CrSqliteError> {
    let clock = crate::quoted(&format!("{table}__crsql_clock"));
    let sql = format!("SELECT count(DISTINCT key) FROM {clock} WHERE site_id IN ({OUTSIDE})");
    conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).doing("look for writes").map(|rows| rows as u64)
}

/// Refuses tables of another version of cr-sqlite. No extension is needed.
///
/// # Errors
/// [`CrSqliteError::Version`], or SQLite's reason.
pub fn check_version(conn: &Connection) -> Result<(), CrSqliteError> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'crsql_master'";
    if conn.query_row(sql, [], |_| Ok(())).optional().doing("look for its version")?.is_none() {
        return Ok(());
    }
    let sql = "SELECT value FROM crsql_master WHERE key = 'crsqlite_version'";
    let found: Option<i64> = conn.query_row(sql, [], |row| row.get(0)).optional().doing("look for its version")?;
    match found {
        Some(found) if !(VERSION_MIN..VERSION_END).contains(&found) => Err(CrSqliteError::Version { found }),
        _ => Ok(()),
    }
}
