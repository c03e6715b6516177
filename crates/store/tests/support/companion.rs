//! The same tests on files that cr-sqlite keeps: `ISLE_TEST_ENGINE=cr-sqlite` for every device, `mixed` for every second one.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use isle_crsqlite::Library;
use isle_store::Options;
use rusqlite::Connection;

use super::random::SCHEMA;

/// Whether cr-sqlite is to keep the tables of device `n`.
pub fn is_asked_for(n: u64) -> bool {
    match std::env::var("ISLE_TEST_ENGINE").as_deref() {
        Ok("cr-sqlite") => true,
        Ok("mixed") => n % 2 == 1,
        Ok("native") | Err(_) => false,
        Ok(other) => panic!("ISLE_TEST_ENGINE is {other:?}: name native, cr-sqlite or mixed"),
    }
}

/// Whether it is for any.
pub fn is_in_use() -> bool {
    std::env::var_os("ISLE_TEST_ENGINE").is_some_and(|engine| engine != "native")
}

/// The extension that the project's script installs.
pub fn library() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/cr-sqlite/crsqlite.so");
    path.canonicalize().expect("cr-sqlite is not installed: run scripts/fetch-cr-sqlite")
}

/// How a file is opened, whatever keeps it.
pub fn options(path: impl Into<PathBuf>) -> Options {
    let mut options = Options::new(path);
    options.cr_sqlite = is_in_use().then(library);
    options
}

/// The random fleets' tables. cr-sqlite wants keys that say that they are not NULL; which is another definition, so that all devices have it.
pub fn schema() -> String {
    match is_in_use() {
        false => SCHEMA.to_owned(),
        true => SCHEMA
            .replace("INTEGER PRIMARY KEY", "INTEGER PRIMARY KEY NOT NULL")
            .replace("BLOB PRIMARY KEY", "BLOB PRIMARY KEY NOT NULL")
            .replace("x INT, y TEXT", "x INT NOT NULL, y TEXT NOT NULL"),
    }
}

/// A client's connection.
pub struct Foreign {
    conn: Connection,
    companion: bool,
}

impl Foreign {
    pub fn open(path: &Path, companion: bool) -> Foreign {
        let conn = Connection::open(path).unwrap();
        if companion {
            Library::new(library()).load(&conn).unwrap();
        }
        Foreign { conn, companion }
    }
}

impl Deref for Foreign {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.conn
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if self.companion {
            isle_crsqlite::release(&self.conn);
        }
    }
}
