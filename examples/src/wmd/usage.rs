//! What is used how often, what else it is called, and what nodes take.

use isle::{Error, Replica, params};
use serde::Deserialize;
use serde_json::Value;

/// How often a model was used, on all devices.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Use {
    /// The file.
    pub filename: String,
    /// How often.
    pub use_count: i64,
    /// When last, as text.
    pub last_used: Option<String>,
    /// When first, as text.
    pub first_used: Option<String>,
}

/// What is used how often.
#[derive(Debug)]
pub struct Usage<'a>(pub(super) &'a Replica);

impl Usage<'_> {
    /// A model was used once more.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn used(&self, filename: &str, directory: Option<&str>, now_ms: i64) -> Result<(), Error> {
        // From 0 on, and in a transaction of its own, so that two devices that both are the first to use it come to two: what one transaction leaves of a new
        // row is the row's beginning, and of two beginnings one counts.
        let first = "INSERT INTO usage_cache(filename, directory) VALUES(?1, ?2) ON CONFLICT DO NOTHING";
        let now = crate::time(2);
        let sql = format!(
            "UPDATE usage_cache SET use_count = use_count + 1, last_used = max(coalesce(last_used, ''), {now}),
             first_used = min(coalesce(first_used, '9'), {now}) WHERE filename = ?1"
        );
        self.0.write(|tx| tx.execute(first, params![filename, directory]))?;
        self.0.write(|tx| tx.execute(&sql, params![filename, now_ms])).map(drop)
    }

    /// How often a model was used.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn of(&self, filename: &str) -> Result<Option<Use>, Error> {
        let sql = "SELECT filename, use_count, last_used, first_used FROM usage_cache WHERE filename = ?1";
        self.0.read(|q| q.one(sql, params![filename]))
    }

    /// The models that are used most.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn most_used(&self, limit: u32) -> Result<Vec<Use>, Error> {
        let sql = "SELECT filename, use_count, last_used, first_used FROM usage_cache ORDER BY use_count DESC, filename LIMIT ?1";
        self.0.read(|q| q.all(sql, params![limit]))
    }
}

/// Other names of models.
#[derive(Debug)]
pub struct Aliases<'a>(pub(super) &'a Replica);

impl Aliases<'_> {
    /// Gives a model another name.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn add(&self, alias: &str, canonical: &str, source: Option<&str>) -> Result<(), Error> {
        let sql = "INSERT INTO model_aliases(alias, canonical_name, source) VALUES(?1, ?2, ?3)
            ON CONFLICT(alias) DO UPDATE SET canonical_name = excluded.canonical_name, source = excluded.source";
        self.0.write(|tx| tx.execute(sql, params![alias, canonical, source])).map(drop)
    }

    /// What a model is called of which this is another name, in whatever case; itself, if it is of none.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn resolve(&self, name: &str) -> Result<String, Error> {
        let sql = "SELECT canonical_name FROM model_aliases WHERE alias = ?1";
        Ok(self.0.read(|q| q.one(sql, params![name]))?.unwrap_or_else(|| name.to_owned()))
    }
}

/// What nodes take and give.
#[derive(Debug)]
pub struct Nodes<'a>(pub(super) &'a Replica);

impl Nodes<'_> {
    /// Keeps what a node takes and gives.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn save(&self, node_type: &str, inputs: &Value, outputs: &Value, category: &str) -> Result<(), Error> {
        let sql = "INSERT INTO node_metadata(node_type, input_fields, output_fields, category) VALUES(?1, ?2, ?3, ?4)
            ON CONFLICT(node_type) DO UPDATE SET input_fields = excluded.input_fields, output_fields = excluded.output_fields,
            category = excluded.category";
        self.0
            .write(|tx| tx.execute(sql, params![node_type, &inputs.to_string(), &outputs.to_string(), category]))
            .map(drop)
    }

    /// What a node takes and gives, and its category.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn get(&self, node_type: &str) -> Result<Option<(Value, Value, String)>, Error> {
        let sql = "SELECT input_fields, output_fields, category FROM node_metadata WHERE node_type = ?1";
        let found: Option<(String, String, String)> = self.0.read(|q| q.one(sql, params![node_type]))?;
        let json = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
        Ok(found.map(|(inputs, outputs, category)| (json(&inputs), json(&outputs), category)))
    }
}
