//! Settings: any JSON under a name. Tokens are kept apart, and travel nowhere.

use std::collections::BTreeMap;

use isle::{Error, Replica, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Names that end so are of secrets.
const SECRET: [&str; 2] = ["_token", "_api_key"];

/// The settings.
#[derive(Debug)]
pub struct Settings<'a>(pub(super) &'a Replica);

fn table(key: &str) -> &'static str {
    if SECRET.iter().any(|end| key.ends_with(end)) { "secrets" } else { "settings" }
}

impl Settings<'_> {
    /// A setting; `None` if there is none, or if it is of another type.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let sql = format!("SELECT value FROM {} WHERE key = ?1", table(key));
        let text: Option<String> = self.0.read(|q| q.one(&sql, params![key]))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// A setting, or what stands for it where there is none.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn get_or<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T, Error> {
        Ok(self.get(key)?.unwrap_or(default))
    }

    /// Writes a setting.
    ///
    /// # Errors
    /// SQLite's reason; [`Error::Document`] for what is no JSON.
    pub fn set(&self, key: &str, value: &impl Serialize, now_ms: i64) -> Result<(), Error> {
        let text = serde_json::to_string(value).map_err(|source| Error::Document { source })?;
        let sql = format!(
            "INSERT INTO {}(key, value, updated_at) VALUES(?1, ?2, {})
             ON CONFLICT(key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
            table(key),
            crate::time(3)
        );
        self.0.write(|tx| tx.execute(&sql, params![key, &text, now_ms])).map(drop)
    }

    /// All of them, secrets among them.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn all(&self) -> Result<BTreeMap<String, Value>, Error> {
        let sql = "SELECT key, value FROM settings UNION ALL SELECT key, value FROM secrets";
        let rows: Vec<(String, String)> = self.0.read(|q| q.all(sql, &[]))?;
        Ok(rows
            .into_iter()
            .map(|(key, text)| (key, serde_json::from_str(&text).unwrap_or(Value::String(text))))
            .collect())
    }

    /// Removes a setting; false if there was none.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn delete(&self, key: &str) -> Result<bool, Error> {
        let sql = format!("DELETE FROM {} WHERE key = ?1", table(key));
        Ok(self.0.write(|tx| tx.execute(&sql, params![key]))? > 0)
    }
}
