//! What is known of models: columns for what is looked for, and JSON for all else.

use isle::{Comparison, Error, Filter, Replica, Row, Value as Cell, params};
use serde_json::{Map, Value};

const COLUMNS: [&str; 15] = [
    "url",
    "source",
    "hf_repo",
    "hf_path",
    "civitai_url",
    "civitai_model_id",
    "civitai_version_id",
    "model_name",
    "model_type",
    "base_model",
    "sha256_hash",
    "file_size",
    "user_url",
    "cached_at",
    "updated_at",
];

/// What is known of models.
#[derive(Debug)]
pub struct Metadata<'a>(pub(super) &'a Replica);

impl Metadata<'_> {
    /// All that is known of a file.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn get(&self, filename: &str) -> Result<Option<Map<String, Value>>, Error> {
        Ok(self.found(&[("filename", filename)])?.pop())
    }

    /// Adds to what is known of a file: members that are not among them stay as they are, a null takes one away.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn save(&self, filename: &str, metadata: &Map<String, Value>) -> Result<(), Error> {
        let is_column = |name: &str| COLUMNS.contains(&name);
        let extra: Map<_, _> =
            metadata.iter().filter(|(name, _)| !is_column(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
        let text = Value::Object(extra.clone()).to_string();
        self.0.write(|tx| {
            tx.execute("INSERT INTO model_metadata(filename) VALUES(?1) ON CONFLICT DO NOTHING", params![filename])?;
            for (name, value) in metadata.iter().filter(|(name, _)| is_column(name)) {
                // One of those above: no text of a user's.
                let sql = format!("UPDATE model_metadata SET {name} = ?2 WHERE filename = ?1");
                match value {
                    Value::Null => tx.execute(&sql, params![filename, None::<&str>])?,
                    Value::Number(number) if number.is_i64() => tx.execute(&sql, params![filename, number.as_i64()])?,
                    Value::String(text) => tx.execute(&sql, params![filename, text])?,
                    other => tx.execute(&sql, params![filename, &other.to_string()])?,
                };
            }
            if !extra.is_empty() {
                tx.execute(
                    "UPDATE model_metadata SET extra = json_patch(extra, ?2) WHERE filename = ?1",
                    params![filename, &text],
                )?;
            }
            Ok(())
        })
    }

    /// What is known of the file with these contents.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn by_hash(&self, sha256: &str) -> Result<Option<Map<String, Value>>, Error> {
        Ok(self.found(&[("sha256_hash", sha256)])?.pop())
    }

    /// What is known of the files of which all of this holds, by name.
    ///
    /// # Errors
    /// [`Error::NoSuchColumn`].
    pub fn search(&self, filters: &[(&str, &str)]) -> Result<Vec<Map<String, Value>>, Error> {
        self.found(filters)
    }

    /// What is known of the files in whose names, kinds and facts every word stands, best first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn find(&self, text: &str, limit: usize) -> Result<Vec<Map<String, Value>>, Error> {
        Ok(self.0.search("model_metadata", text, limit, 0)?.iter().map(|hit| whole(&hit.row)).collect())
    }

    fn found(&self, filters: &[(&str, &str)]) -> Result<Vec<Map<String, Value>>, Error> {
        let equal = |filter: Filter, (column, value): &(&str, &str)| {
            filter.with(column, Comparison::Equal, Cell::Text((*value).to_owned()))
        };
        let rows = self.0.list("model_metadata", &filters.iter().fold(Filter::new(), equal))?;
        Ok(rows.iter().map(whole).collect())
    }
}

/// The members that have columns and those that have none, as one object; without nulls, which stand for nothing.
fn whole(row: &Row) -> Map<String, Value> {
    let mut object = Map::new();
    for (column, value) in row.columns().iter().zip(row.values()) {
        match (column.as_str(), value) {
            (_, Cell::Null) => {}
            ("extra", Cell::Text(text)) => {
                if let Ok(Value::Object(extra)) = serde_json::from_str(text) {
                    object.extend(extra);
                }
            }
            _ => drop(object.insert(column.clone(), value.to_json())),
        }
    }
    object
}
