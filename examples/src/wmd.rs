//! The downloader: what was downloaded, where models come from, what a search found, what is used.

#[cfg(feature = "json-files")]
mod backend;
mod cache;
mod catalog;
mod history;
mod metadata;
mod settings;
mod usage;

use std::path::Path;

use isle::{Error, Mapping, Replica};

#[cfg(feature = "json-files")]
pub use backend::{Backend, JsonFiles};
pub use cache::SearchCache;
pub use catalog::{Catalog, CatalogEntry};
pub use history::{Download, History};
pub use metadata::Metadata;
pub use settings::Settings;
pub use usage::{Aliases, Nodes, Usage, Use};

const MIGRATIONS: &[(&str, &str)] = &[
    ("1.0.0__start.sql", include_str!("../../migrations/wmd/1.0.0__start.sql")),
    ("1.1.0__imports.sql", include_str!("../../migrations/wmd/1.1.0__imports.sql")),
    ("1.2.0__secrets.sql", include_str!("../../migrations/wmd/1.2.0__secrets.sql")),
    ("1.3.0__search.sql", include_str!("../../migrations/wmd/1.3.0__search.sql")),
];

/// The app's data. Clones share it; all methods work from any thread.
#[derive(Debug, Clone)]
pub struct Wmd {
    replica: Replica,
}

impl Wmd {
    /// Opens the app's file.
    ///
    /// # Errors
    /// As [`Replica::sync_schema`].
    pub fn open(path: &Path, home: Option<&Path>) -> Result<Wmd, Error> {
        Ok(Wmd { replica: crate::open(path, home, "wmd", MIGRATIONS)? })
    }

    /// What lies below.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// How the app's JSON files become rows, and rows files.
    ///
    /// # Errors
    /// Never, as long as the mapping in this build is one.
    pub fn mapping() -> Result<Mapping, Error> {
        Ok(Mapping::from_toml(include_str!("../../migrations/wmd/import.toml"))
            .map_err(isle::InterchangeError::from)?)
    }

    /// The settings.
    pub fn settings(&self) -> Settings<'_> {
        Settings(&self.replica)
    }

    /// What was downloaded.
    pub fn history(&self) -> History<'_> {
        History(&self.replica)
    }

    /// What is known of models.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata(&self.replica)
    }

    /// The curated list.
    pub fn catalog(&self) -> Catalog<'_> {
        Catalog(&self.replica)
    }

    /// Answers of searches.
    pub fn cache(&self) -> SearchCache<'_> {
        SearchCache(&self.replica)
    }

    /// What is used how often.
    pub fn usage(&self) -> Usage<'_> {
        Usage(&self.replica)
    }

    /// Other names of models.
    pub fn aliases(&self) -> Aliases<'_> {
        Aliases(&self.replica)
    }

    /// What nodes take and give.
    pub fn nodes(&self) -> Nodes<'_> {
        Nodes(&self.replica)
    }
}
