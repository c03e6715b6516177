//! The curated list of models.

use isle::{Error, Replica, params};
use serde::{Deserialize, Serialize};

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogEntry {
    /// The file.
    pub filename: String,
    /// Who lists it.
    pub source: String,
    /// The repository that has it.
    pub repo_id: Option<String>,
    /// What it is.
    pub model_type: Option<String>,
    /// What it is made from.
    pub base_model: Option<String>,
    /// Whether it stays when the list is cleaned up.
    pub protected: bool,
    /// Words for it.
    pub tags: Vec<String>,
}

#[derive(Deserialize)]
struct Entry {
    filename: String,
    source: String,
    repo_id: Option<String>,
    model_type: Option<String>,
    base_model: Option<String>,
    protected: bool,
    tags: String,
}

impl From<Entry> for CatalogEntry {
    fn from(row: Entry) -> CatalogEntry {
        let Entry { filename, source, repo_id, model_type, base_model, protected, tags } = row;
        let tags = serde_json::from_str(&tags).unwrap_or_default();
        CatalogEntry { filename, source, repo_id, model_type, base_model, protected, tags }
    }
}

const SELECT: &str = "SELECT filename, source, repo_id, model_type, base_model, protected, tags FROM model_catalog";

/// The list.
#[derive(Debug)]
pub struct Catalog<'a>(pub(super) &'a Replica);

impl Catalog<'_> {
    /// The entry of a file.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn lookup(&self, filename: &str) -> Result<Option<CatalogEntry>, Error> {
        let sql = format!("{SELECT} WHERE filename = ?1");
        let found: Option<Entry> = self.0.read(|q| q.one(&sql, params![filename]))?;
        Ok(found.map(CatalogEntry::from))
    }

    /// Adds an entry, or writes one anew.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn add(&self, entry: &CatalogEntry) -> Result<(), Error> {
        let sql = "INSERT INTO model_catalog(filename, source, repo_id, model_type, base_model, protected, tags)
            VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(filename) DO UPDATE SET source = excluded.source, repo_id = excluded.repo_id,
            model_type = excluded.model_type, base_model = excluded.base_model, protected = excluded.protected, tags = excluded.tags";
        let tags = serde_json::json!(entry.tags).to_string();
        let CatalogEntry { filename, source, repo_id, model_type, base_model, protected, .. } = entry;
        let (repo_id, model_type, base_model) = (repo_id.as_ref(), model_type.as_ref(), base_model.as_ref());
        let values = params![filename, source, repo_id, model_type, base_model, i64::from(*protected), &tags];
        self.0.write(|tx| tx.execute(sql, values)).map(drop)
    }

    /// Entries of a type, by name.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn by_type(&self, model_type: &str) -> Result<Vec<CatalogEntry>, Error> {
        let sql = format!("{SELECT} WHERE model_type = ?1 ORDER BY filename");
        let found: Vec<Entry> = self.0.read(|q| q.all(&sql, params![model_type]))?;
        Ok(found.into_iter().map(CatalogEntry::from).collect())
    }

    /// All entries, by name.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn all(&self) -> Result<Vec<CatalogEntry>, Error> {
        let sql = format!("{SELECT} ORDER BY filename");
        let found: Vec<Entry> = self.0.read(|q| q.all(&sql, &[]))?;
        Ok(found.into_iter().map(CatalogEntry::from).collect())
    }

    /// Removes what a source does not list any more; protected entries stay. Gives how many went.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn clean_up(&self, source: &str, listed: &[&str]) -> Result<usize, Error> {
        let listed = serde_json::json!(listed).to_string();
        let sql = "DELETE FROM model_catalog WHERE source = ?1 AND NOT protected
            AND filename NOT IN (SELECT value FROM json_each(?2))";
        self.0.write(|tx| tx.execute(sql, params![source, &listed]))
    }
}
