//! What was downloaded.

use isle::{Error, Replica, params};
use serde::{Deserialize, Serialize};

/// A download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// Its id; one that all devices can tell apart.
    pub id: String,
    /// The file.
    pub filename: String,
    /// Where it went.
    pub directory: Option<String>,
    /// Where it came from.
    pub url: Option<String>,
    /// The service.
    pub source: Option<String>,
    /// What came of it.
    pub status: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Bytes.
    pub total_size: i64,
    /// When, as text.
    pub downloaded_at: Option<String>,
}

const COLUMNS: &str = "id, filename, directory, url, source, status, error, total_size, downloaded_at";

/// The history.
#[derive(Debug)]
pub struct History<'a>(pub(super) &'a Replica);

impl History<'_> {
    /// Adds a download. One of the same file to the same place takes the place of the one before.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn add(&self, download: &Download) -> Result<(), Error> {
        let Download { id, filename, directory, url, source, status, error, total_size, downloaded_at } = download;
        let again = "DELETE FROM download_history WHERE filename = ?1 AND directory IS ?2 AND id <> ?3";
        let sql =
            format!("INSERT OR REPLACE INTO download_history({COLUMNS}) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
        self.0.write(|tx| {
            tx.execute(again, params![filename, directory.as_ref(), id])?;
            let (directory, url, source) = (directory.as_ref(), url.as_ref(), source.as_ref());
            let (error, downloaded_at) = (error.as_ref(), downloaded_at.as_ref());
            tx.execute(&sql, params![id, filename, directory, url, source, status, error, *total_size, downloaded_at])
        })?;
        Ok(())
    }

    /// The newest download of a file.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn by_filename(&self, filename: &str) -> Result<Option<Download>, Error> {
        let sql =
            format!("SELECT {COLUMNS} FROM download_history WHERE filename = ?1 ORDER BY downloaded_at DESC LIMIT 1");
        self.0.read(|q| q.one(&sql, params![filename]))
    }

    /// The newest downloads, newest first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn recent(&self, limit: u32) -> Result<Vec<Download>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM download_history ORDER BY downloaded_at DESC, id LIMIT ?1");
        self.0.read(|q| q.all(&sql, params![limit]))
    }

    /// Removes all downloads that are here; what other devices add meanwhile stays. Gives how many there were.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn clear(&self) -> Result<usize, Error> {
        self.0.write(|tx| tx.execute("DELETE FROM download_history", &[]))
    }

    /// Removes one; false if there was none.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn delete(&self, id: &str) -> Result<bool, Error> {
        Ok(self.0.write(|tx| tx.execute("DELETE FROM download_history WHERE id = ?1", params![id]))? > 0)
    }
}
