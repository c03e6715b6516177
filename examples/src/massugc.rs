//! The video studio: campaign jobs. What is searched has columns; what else a job has stands in its JSON and merges member by member.

use std::collections::BTreeMap;
use std::path::Path;

use isle::{
    Comparison, Error, ExportOptions, Filter, Grouping, HistoryEntry, ImportOptions, ImportReport, Mapping, Replica,
    Row, Value as Cell, Verification, params,
};
use serde_json::{Map, Value};

const MIGRATIONS: &[(&str, &str)] = &[
    ("1.0.0__start.sql", include_str!("../../migrations/massugc/1.0.0__start.sql")),
    ("1.1.0__search.sql", include_str!("../../migrations/massugc/1.1.0__search.sql")),
];

/// Columns of a job that its JSON does not have.
const COLUMNS: [&str; 10] = [
    "job_name",
    "product",
    "persona",
    "setting",
    "emotion",
    "hook",
    "elevenlabs_voice_id",
    "language",
    "brand_name",
    "enabled",
];

/// Why something cannot be done with a job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// It is no job.
    #[error("the job is invalid: {reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// There is a job of that id.
    #[error("there is a job {id:?} already")]
    Duplicate {
        /// The id.
        id: String,
    },
    /// The database.
    #[error(transparent)]
    Isle(#[from] Error),
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// Its name.
    pub job_name: String,
    /// Whether it runs.
    pub enabled: bool,
    /// How often it ran, on all devices.
    pub runs: i64,
    /// All of it.
    fields: Map<String, Value>,
}

impl Job {
    /// All of it as one object, as it was handed in.
    pub fn to_dict(&self) -> &Map<String, Value> {
        &self.fields
    }

    fn of(row: &Row) -> Job {
        let mut fields = Map::new();
        for (column, value) in row.columns().iter().zip(row.values()) {
            match (column.as_str(), value) {
                (_, Cell::Null) | ("runs", _) => {}
                ("data", Cell::Text(text)) => {
                    fields.extend(serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default())
                }
                ("enabled", Cell::Integer(on)) => drop(fields.insert(column.clone(), (*on != 0).into())),
                _ => drop(fields.insert(column.clone(), value.to_json())),
            }
        }
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let runs = match row.get("runs") {
            Some(Cell::Integer(runs)) => *runs,
            _ => 0,
        };
        Job {
            id: text("id"),
            job_name: text("job_name"),
            enabled: fields.get("enabled") == Some(&Value::Bool(true)),
            runs,
            fields,
        }
    }
}

/// Which jobs, in which order.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Those that run, or those that do not.
    pub enabled: Option<bool>,
    /// Those for a product.
    pub product: Option<String>,
    /// Those with a persona.
    pub persona: Option<String>,
    /// Those in a language.
    pub language: Option<String>,
    /// By a column, and whether the largest come first.
    pub order_by: Option<(String, bool)>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Without the first ones.
    pub offset: usize,
}

impl JobFilter {
    fn rows(&self) -> Filter {
        let mut filter = Filter::new();
        let texts = [("product", &self.product), ("persona", &self.persona), ("language", &self.language)];
        for (column, value) in texts {
            if let Some(value) = value {
                filter = filter.with(column, Comparison::Equal, Cell::Text(value.clone()));
            }
        }
        if let Some(enabled) = self.enabled {
            filter = filter.with("enabled", Comparison::Equal, Cell::Integer(enabled.into()));
        }
        if let Some((column, descending)) = &self.order_by {
            filter = filter.order_by(column, *descending);
        }
        filter.limit(self.limit.unwrap_or(usize::MAX)).offset(self.offset)
    }
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobStatistics {
    /// Jobs.
    pub total_jobs: u64,
    /// Those that run.
    pub enabled_jobs: u64,
    /// Jobs by product.
    pub jobs_by_product: BTreeMap<String, u64>,
    /// Jobs by language.
    pub jobs_by_language: BTreeMap<String, u64>,
}

/// The studio's data.
#[derive(Debug, Clone)]
pub struct Studio {
    replica: Replica,
}

impl Studio {
    /// Opens the studio's file.
    ///
    /// # Errors
    /// As [`Replica::sync_schema`].
    pub fn init_db(path: &Path, home: Option<&Path>) -> Result<Studio, Error> {
        Ok(Studio { replica: crate::open(path, home, "massugc", MIGRATIONS)? })
    }

    /// What lies below.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Adds a job.
    ///
    /// # Errors
    /// [`JobError::Invalid`], [`JobError::Duplicate`].
    pub fn add_job(&self, job: &Map<String, Value>, now_ms: i64) -> Result<Job, JobError> {
        let invalid = |reason: &str| JobError::Invalid { reason: reason.to_owned() };
        let id = job.get("id").and_then(Value::as_str).ok_or_else(|| invalid("it has no id"))?.to_owned();
        if job.get("job_name").and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(invalid("it has no job_name"));
        }
        let sql =
            format!("INSERT INTO jobs(id, job_name, created_at, updated_at) VALUES(?1, '', {0}, {0})", crate::time(2));
        let added = self.replica.write(|tx| {
            tx.execute(&sql, params![&id, now_ms])?;
            write_fields(tx, &id, job)
        });
        match added {
            // The name is there, so it is the key that another one has.
            Err(Error::Store(error)) if error.is_constraint() => Err(JobError::Duplicate { id }),
            Err(error) => Err(error.into()),
            Ok(()) => self.get_job(&id)?.ok_or_else(|| invalid("it is gone again")),
        }
    }

    /// A job.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn get_job(&self, id: &str) -> Result<Option<Job>, Error> {
        let filter = Filter::new().with("id", Comparison::Equal, Cell::Text(id.to_owned()));
        Ok(self.replica.list("jobs", &filter)?.first().map(Job::of))
    }

    /// Changes some members of a job; `None` if there is no such job. A null takes a member away.
    ///
    /// # Errors
    /// [`JobError::Invalid`].
    pub fn update_job(&self, id: &str, changes: &Map<String, Value>, now_ms: i64) -> Result<Option<Job>, JobError> {
        if changes.get("job_name").is_some_and(|name| name.as_str().is_none_or(str::is_empty)) {
            return Err(JobError::Invalid { reason: "its job_name would be no name".to_owned() });
        }
        let sql = format!("UPDATE jobs SET updated_at = {} WHERE id = ?1", crate::time(2));
        self.replica.write(|tx| match tx.execute(&sql, params![id, now_ms])? {
            0 => Ok(()),
            _ => write_fields(tx, id, changes),
        })?;
        Ok(self.get_job(id)?)
    }

    /// Removes a job; false if there was none.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn delete_job(&self, id: &str) -> Result<bool, Error> {
        Ok(self.replica.write(|tx| tx.execute("DELETE FROM jobs WHERE id = ?1", params![id]))? > 0)
    }

    /// A job has run once more.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn ran(&self, id: &str) -> Result<(), Error> {
        self.replica.write(|tx| tx.execute("UPDATE jobs SET runs = runs + 1 WHERE id = ?1", params![id])).map(drop)
    }

    /// Jobs.
    ///
    /// # Errors
    /// [`Error::NoSuchColumn`] for an order by what is no column.
    pub fn list_jobs(&self, filter: &JobFilter) -> Result<Vec<Job>, Error> {
        Ok(self.replica.list("jobs", &filter.rows())?.iter().map(Job::of).collect())
    }

    /// Jobs in whose name, product and hook every word stands, best first; `wor*` for the beginning of one.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn search_jobs(&self, text: &str, limit: usize) -> Result<Vec<Job>, Error> {
        let found = self.replica.search("jobs", text, limit, 0)?;
        Ok(found.iter().map(|hit| Job::of(&hit.row)).collect())
    }

    /// What there is.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn statistics(&self) -> Result<JobStatistics, Error> {
        let enabled = Filter::new().with("enabled", Comparison::Equal, Cell::Integer(1));
        let by = |column: &str| -> Result<BTreeMap<String, u64>, Error> {
            let grouping = Grouping { column: column.to_owned(), per: None, sum: None };
            let groups = self.replica.groups("jobs", &grouping, &Filter::new())?;
            Ok(groups.into_iter().map(|group| (group.value.to_string(), group.rows)).collect())
        };
        Ok(JobStatistics {
            total_jobs: self.replica.count("jobs", &Filter::new())?,
            enabled_jobs: self.replica.count("jobs", &enabled)?,
            jobs_by_product: by("product")?,
            jobs_by_language: by("language")?,
        })
    }

    /// Keeps a job as a template for others.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn save_template(&self, id: &str, name: &str, job: &Job) -> Result<(), Error> {
        let mut fields = job.fields.clone();
        ["id", "created_at", "updated_at"].into_iter().for_each(|own| drop(fields.remove(own)));
        let sql = "INSERT OR REPLACE INTO job_templates(id, name, data) VALUES(?1, ?2, ?3)";
        self.replica.write(|tx| tx.execute(sql, params![id, name, &Value::Object(fields).to_string()])).map(drop)
    }

    /// Makes a job of a template.
    ///
    /// # Errors
    /// [`JobError::Invalid`] where there is no such template, and those of [`Studio::add_job`].
    pub fn from_template(
        &self,
        template: &str,
        id: &str,
        changes: &Map<String, Value>,
        now_ms: i64,
    ) -> Result<Job, JobError> {
        let sql = "SELECT data FROM job_templates WHERE id = ?1";
        let text: Option<String> = self.replica.read(|q| q.one(sql, params![template]))?;
        let missing = || JobError::Invalid { reason: format!("there is no template {template:?}") };
        let mut job: Map<String, Value> = serde_json::from_str(&text.ok_or_else(missing)?).unwrap_or_default();
        job.extend(changes.clone());
        job.insert("id".to_owned(), id.into());
        self.add_job(&job, now_ms)
    }

    /// The versions of a job, oldest first: who wrote what, and when.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn versions(&self, id: &str) -> Result<Vec<HistoryEntry>, Error> {
        self.replica.row_history("jobs", &[Cell::Text(id.to_owned())])
    }

    /// Brings the jobs of a YAML file in, all or none; the file is kept as `.bak`.
    ///
    /// # Errors
    /// As [`Replica::import`].
    pub fn migrate_from_yaml(&self, yaml: &Path) -> Result<ImportReport, Error> {
        self.replica.import(&Studio::mapping()?, yaml, &ImportOptions::default().archive(true))
    }

    /// Writes the jobs into a YAML file.
    ///
    /// # Errors
    /// As [`Replica::export`].
    pub fn export_to_yaml(&self, yaml: &Path) -> Result<(), Error> {
        self.replica.export(&Studio::mapping()?, yaml, &ExportOptions::default()).map(drop)
    }

    /// Compares a YAML file with the jobs, both ways.
    ///
    /// # Errors
    /// As [`Replica::verify_import`].
    pub fn verify_migration(&self, yaml: &Path) -> Result<Verification, Error> {
        self.replica.verify_import(&Studio::mapping()?, yaml)
    }

    fn mapping() -> Result<Mapping, Error> {
        Ok(Mapping::from_toml(include_str!("../../migrations/massugc/import.toml"))
            .map_err(isle::InterchangeError::from)?)
    }
}

/// Writes members of a job: into their columns, or into its JSON.
fn write_fields(tx: &isle::Transaction<'_>, id: &str, fields: &Map<String, Value>) -> Result<(), Error> {
    let own = ["id", "created_at", "updated_at"];
    let rest: Map<String, Value> = fields
        .iter()
        .filter(|(name, _)| !COLUMNS.contains(&name.as_str()) && !own.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, value) in fields.iter().filter(|(name, _)| COLUMNS.contains(&name.as_str())) {
        // One of those above: no text of a user's.
        let sql = format!("UPDATE jobs SET {name} = ?2 WHERE id = ?1");
        match value {
            Value::Null => tx.execute(&sql, params![id, None::<&str>])?,
            Value::Bool(on) => tx.execute(&sql, params![id, i64::from(*on)])?,
            Value::String(text) => tx.execute(&sql, params![id, text])?,
            other => tx.execute(&sql, params![id, &other.to_string()])?,
        };
    }
    if !rest.is_empty() {
        let rest = Value::Object(rest).to_string();
        tx.execute("UPDATE jobs SET data = json_patch(data, ?2) WHERE id = ?1", params![id, &rest])?;
    }
    Ok(())
}
