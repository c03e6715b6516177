//! The voice assistant: models and wake words lie as files on each device; what is known of them travels, where they lie does not.

use std::path::Path;

use isle::{
    Error, FileFilter, FileInfo, Library, MoveOptions, Param, Replica, ScanOptions, ScanReport, Selection, params,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

const MIGRATIONS: &[(&str, &str)] = &[
    ("1.0.0__start.sql", include_str!("../../migrations/qlippy/1.0.0__start.sql")),
    ("1.1.0__validation.sql", include_str!("../../migrations/qlippy/1.1.0__validation.sql")),
];

/// A model as the app shows it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Model {
    /// Its id: the hash of its content.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it lies on this device; `None` if it does not.
    pub file_path: Option<String>,
    /// Bytes.
    pub file_size: i64,
    /// The same in words.
    pub file_size_display: String,
    /// The architecture.
    pub architecture: Option<String>,
    /// How its weights are stored.
    pub quantization: Option<String>,
    /// The length of its context.
    pub context_length: Option<i64>,
    /// The size of its vocabulary.
    pub vocab_size: Option<i64>,
    /// How many parameters it has.
    pub parameters_count: Option<i64>,
    /// Whether it may be used.
    pub is_active: bool,
}

/// How a model shall behave.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Behavior {
    /// The temperature.
    pub temperature: f64,
    /// Nucleus sampling.
    pub top_p: f64,
    /// How many candidates.
    pub top_k: i64,
    /// How long an answer may be.
    pub max_tokens: i64,
    /// What it is told first.
    pub system_prompt: String,
    /// Whether it is the one that answers.
    pub is_active: bool,
}

/// What there is to know of a model's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// The hash of the content.
    pub content: String,
    /// The name.
    pub name: String,
    /// Bytes.
    pub bytes: i64,
    /// The architecture.
    pub architecture: Option<String>,
    /// How its weights are stored.
    pub quantization: Option<String>,
    /// The length of its context.
    pub context_length: Option<i64>,
    /// The size of its vocabulary.
    pub vocab_size: Option<i64>,
    /// How many parameters it has.
    pub parameters_count: Option<i64>,
    /// All of its metadata, as JSON.
    pub metadata: String,
}

/// The app's data.
#[derive(Debug, Clone)]
pub struct Qlippy {
    replica: Replica,
}

impl Qlippy {
    /// Opens the app's file.
    ///
    /// # Errors
    /// As [`Replica::sync_schema`].
    pub fn open(path: &Path, home: Option<&Path>) -> Result<Qlippy, Error> {
        Ok(Qlippy { replica: crate::open(path, home, "qlippy", MIGRATIONS)? })
    }

    /// What lies below.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The library of files below.
    pub fn library(&self) -> Library {
        self.replica.library()
    }

    /// Adds a model and how it behaves by default, both or neither. The first one answers. One that is known gets nothing new but its place here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn add_model(&self, facts: &ModelFacts, path: Option<&str>, now_ms: i64) -> Result<(), Error> {
        let now = crate::time(10);
        let model = format!(
            "INSERT INTO models(id, name, content_hash, file_size, architecture, quantization, context_length, vocab_size, parameters_count,
               metadata, created_at, updated_at, checksum, last_validated, validation_status)
             VALUES(?1, ?2, ?1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, {now}, {now}, ?1, {now}, 'valid') ON CONFLICT(id) DO NOTHING"
        );
        let behavior = "INSERT INTO model_behavior(model_id, is_active)
            SELECT ?1, NOT EXISTS (SELECT 1 FROM model_behavior WHERE is_active) ON CONFLICT DO NOTHING";
        let place = format!(
            "INSERT INTO model_paths(model_id, file_path, seen_at) VALUES(?1, ?2, {0}) ON CONFLICT DO UPDATE SET seen_at = {0}",
            crate::time(3)
        );
        let ModelFacts { content, name, bytes, architecture, quantization, .. } = facts;
        let values: &[Param<'_>] = params![
            content,
            name,
            *bytes,
            architecture.as_ref(),
            quantization.as_ref(),
            facts.context_length,
            facts.vocab_size,
            facts.parameters_count,
            &facts.metadata,
            now_ms
        ];
        self.replica.write(|tx| {
            tx.execute(&model, values)?;
            tx.execute(behavior, params![content])?;
            if let Some(path) = path {
                tx.execute(&place, params![content, path, now_ms])?;
            }
            Ok(())
        })
    }

    /// Scans the folders of this device, and makes models and wake words of what is new. What is gone from here loses its place here, and stays for the others.
    ///
    /// # Errors
    /// As [`Library::scan_now`].
    pub fn refresh(&self, now_ms: i64) -> Result<ScanReport, Error> {
        let operation = self.begin("model_sync", now_ms)?;
        let result = self.library().scan_now(&ScanOptions::default()).and_then(|report| {
            self.take_up(now_ms)?;
            Ok(report)
        });
        let (status, message) = match &result {
            Ok(report) => ("completed", format!("{} new", report.added)),
            Err(error) => ("failed", error.to_string()),
        };
        let seen = result.as_ref().map_or(0, |report| report.seen as i64);
        let sql = format!(
            "UPDATE sync_status SET status = ?2, message = ?3, progress_percent = 100, files_processed = ?4, files_total = ?4,
             completed_at = {}, error_details = iif(?2 = 'failed', ?3, NULL) WHERE id = ?1",
            crate::time(5)
        );
        self.replica.write(|tx| tx.execute(&sql, params![operation, status, &message, seen, now_ms]))?;
        result
    }

    fn begin(&self, what: &str, now_ms: i64) -> Result<i64, Error> {
        let sql = format!(
            "INSERT INTO sync_status(operation_type, status, started_at) VALUES(?1, 'running', {})",
            crate::time(2)
        );
        self.replica.write(|tx| {
            tx.execute(&sql, params![what, now_ms])?;
            Ok(tx.last_insert_rowid())
        })
    }

    fn take_up(&self, now_ms: i64) -> Result<(), Error> {
        let of_kind =
            |kind: &str| self.library().files(&FileFilter { kind: Some(kind.to_owned()), ..FileFilter::default() });
        let forget = "DELETE FROM model_paths WHERE file_path NOT IN (SELECT value FROM json_each(?1))";
        let models = of_kind("gguf")?;
        let here = |files: &[FileInfo]| -> String {
            let places = files.iter().flat_map(|file| &file.here).map(|path| path.to_string_lossy().into_owned());
            serde_json::json!(places.collect::<Vec<_>>()).to_string()
        };
        for file in models.iter().filter(|file| !file.here.is_empty()) {
            let facts = self.facts_of(file)?;
            for path in &file.here {
                self.add_model(&facts, Some(&path.to_string_lossy()), now_ms)?;
            }
        }
        let voices = of_kind("ppn")?;
        let add = format!(
            "INSERT INTO voice_detection(id, wake_word_name, file_name, content_hash, created_at) VALUES(?1, ?2, ?3, ?1, {}) ON CONFLICT DO NOTHING",
            crate::time(4)
        );
        let place = "INSERT INTO voice_paths(voice_id, file_path) VALUES(?1, ?2) ON CONFLICT DO NOTHING";
        self.replica.write(|tx| {
            tx.execute(forget, params![&here(&models)])?;
            tx.execute(
                "DELETE FROM voice_paths WHERE file_path NOT IN (SELECT value FROM json_each(?1))",
                params![&here(&voices)],
            )?;
            for file in voices.iter().filter(|file| !file.here.is_empty()) {
                let file_name = file.path.rsplit('/').next().unwrap_or(&file.path);
                tx.execute(&add, params![&file.content, &file.name, file_name, now_ms])?;
                for path in &file.here {
                    tx.execute(place, params![&file.content, &path.to_string_lossy().into_owned()])?;
                }
            }
            Ok(())
        })
    }

    /// What the library's validator found in a model.
    fn facts_of(&self, file: &FileInfo) -> Result<ModelFacts, Error> {
        #[derive(Deserialize)]
        struct Found {
            architecture: Option<String>,
            quantization: Option<String>,
            context_length: Option<i64>,
            vocab_size: Option<i64>,
            parameters_count: Option<i64>,
            model_config: Option<String>,
        }
        let sql = "SELECT architecture, quantization, context_length, vocab_size, parameters_count, model_config FROM library_models WHERE id = ?1";
        let found: Option<Found> = self.replica.read(|q| q.one(sql, params![&file.id]))?;
        let mut facts = ModelFacts {
            content: file.content.clone(),
            name: file.name.clone(),
            bytes: file.bytes as i64,
            metadata: "{}".to_owned(),
            ..ModelFacts::default()
        };
        if let Some(found) = found {
            (facts.architecture, facts.quantization, facts.context_length) =
                (found.architecture, found.quantization, found.context_length);
            (facts.vocab_size, facts.parameters_count) = (found.vocab_size, found.parameters_count);
            facts.metadata = found.model_config.unwrap_or(facts.metadata);
        }
        Ok(facts)
    }

    /// The models of the group, by name.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn models(&self) -> Result<Vec<Model>, Error> {
        let sql = "SELECT id, name, file_path, file_size, file_size_display, architecture, quantization, context_length, vocab_size,
            parameters_count, is_active FROM models_here ORDER BY name, id";
        self.replica.read(|q| q.all(sql, &[]))
    }

    /// How a model shall behave.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn behavior(&self, model: &str) -> Result<Option<Behavior>, Error> {
        let sql = "SELECT temperature, top_p, top_k, max_tokens, system_prompt, is_active FROM model_behavior WHERE model_id = ?1";
        self.replica.read(|q| q.one(sql, params![model]))
    }

    /// The wake words of the group, by name: each with whether its file is here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn wake_words(&self) -> Result<Vec<(String, bool)>, Error> {
        let sql = "SELECT wake_word_name, EXISTS (SELECT 1 FROM voice_paths WHERE voice_id = id) FROM voice_detection ORDER BY wake_word_name";
        self.replica.read(|q| q.all(sql, &[]))
    }

    /// Brings a model's file here.
    ///
    /// # Errors
    /// As [`Library::pull`].
    pub async fn fetch(&self, model: &str, now_ms: i64) -> Result<(), Error> {
        let files = self.library().files(&FileFilter::default())?;
        let wanted: Vec<String> = files.into_iter().filter(|file| file.content == model).map(|file| file.id).collect();
        self.library().pull(&Selection::Files(wanted), &MoveOptions::default()).await?;
        self.take_up(now_ms)
    }

    /// A setting with its type and its category.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn setting<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        self.replica.read(|q| q.one("SELECT value, data_type, category FROM settings WHERE key = ?1", params![key]))
    }

    /// Writes a setting.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn set(&self, key: &str, value: &str, data_type: &str, category: &str) -> Result<(), Error> {
        let sql = "INSERT INTO settings(key, value, data_type, category) VALUES(?1, ?2, ?3, ?4)
            ON CONFLICT(key) DO UPDATE SET value = excluded.value, data_type = excluded.data_type, category = excluded.category";
        self.replica.write(|tx| tx.execute(sql, params![key, value, data_type, category])).map(drop)
    }
}
