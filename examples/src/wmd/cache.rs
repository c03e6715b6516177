//! Answers of searches, for a while. The table is local: no answer leaves its device, and none that goes leaves a trace in the log.

use isle::{Error, Replica, params};
use serde_json::Value;

/// The cache.
#[derive(Debug)]
pub struct SearchCache<'a>(pub(super) &'a Replica);

impl SearchCache<'_> {
    /// How long an answer holds unless told otherwise, in seconds.
    pub const TTL_S: i64 = 3600;

    /// The answer of a source to a query, if one holds yet.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn get(&self, query: &str, source: &str, now_ms: i64) -> Result<Option<Value>, Error> {
        let sql = format!(
            "SELECT result FROM search_cache WHERE query = ?1 AND source = ?2 AND (expires_at IS NULL OR expires_at > {})",
            crate::time(3)
        );
        let text: Option<String> = self.0.read(|q| q.one(&sql, params![query, source, now_ms]))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Keeps an answer for so many seconds.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn set(&self, query: &str, source: &str, result: &Value, ttl_s: i64, now_ms: i64) -> Result<(), Error> {
        let sql = format!(
            "INSERT OR REPLACE INTO search_cache(query, source, result, cached_at, expires_at) VALUES(?1, ?2, ?3, {}, {})",
            crate::time(4),
            crate::time(5)
        );
        let expires_ms = now_ms.saturating_add(ttl_s.saturating_mul(1000));
        self.0.write(|tx| tx.execute(&sql, params![query, source, &result.to_string(), now_ms, expires_ms])).map(drop)
    }

    /// Removes answers that hold no longer; gives how many. isle does so by itself with each write.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn clean_up(&self, now_ms: i64) -> Result<usize, Error> {
        let sql = format!("DELETE FROM search_cache WHERE expires_at <= {}", crate::time(1));
        self.0.write(|tx| tx.execute(&sql, params![now_ms]))
    }
}
