//! The database of code: projects, their datasets and files, what stands in these, and a search over it. A file that is deleted lies in the trash until it is
//! restored or purged.

use std::path::Path;

use isle::{Error, Replica, SearchHit, params};
use serde::Deserialize;

const MIGRATIONS: &[(&str, &str)] = &[("1.0.0__start.sql", include_str!("../../migrations/codedb/1.0.0__start.sql"))];

/// A file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CodeFile {
    /// Its id.
    pub id: String,
    /// Where it lies below its dataset.
    pub path: String,
    /// How many lines it has.
    pub lines: Option<i64>,
    /// Whether it begins with a description.
    pub has_docstring: Option<bool>,
    /// Where it lay before it went into the trash.
    pub original_path: Option<String>,
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity<'a> {
    /// A class, a function …
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its text.
    pub content: &'a str,
    /// What is said of it.
    pub docstring: Option<&'a str>,
}

/// The database.
#[derive(Debug, Clone)]
pub struct CodeDb {
    replica: Replica,
}

const FILES: &str = "SELECT id, path, lines, has_docstring, original_path FROM files";

impl CodeDb {
    /// Opens the database's file.
    ///
    /// # Errors
    /// As [`Replica::sync_schema`].
    pub fn open(path: &Path, home: Option<&Path>) -> Result<CodeDb, Error> {
        Ok(CodeDb { replica: crate::open(path, home, "codedb", MIGRATIONS)? })
    }

    /// What lies below.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Adds a project.
    ///
    /// # Errors
    /// What a constraint has against it: no two have one root.
    pub fn add_project(&self, id: &str, root: &str, name: &str, now_ms: i64) -> Result<(), Error> {
        let sql = "INSERT INTO projects(id, root_path, name, created_at, updated_at)
            VALUES(?1, ?2, ?3, julianday(?4 / 1000.0, 'unixepoch'), julianday(?4 / 1000.0, 'unixepoch'))";
        self.replica.write(|tx| tx.execute(sql, params![id, root, name, now_ms])).map(drop)
    }

    /// Adds a dataset of a project.
    ///
    /// # Errors
    /// What a constraint has against it.
    pub fn add_dataset(&self, id: &str, project: &str, root: &str, now_ms: i64) -> Result<(), Error> {
        let sql = "INSERT INTO datasets(id, project_id, root_path, created_at, updated_at)
            VALUES(?1, ?2, ?3, julianday(?4 / 1000.0, 'unixepoch'), julianday(?4 / 1000.0, 'unixepoch'))";
        self.replica.write(|tx| tx.execute(sql, params![id, project, root, now_ms])).map(drop)
    }

    /// Indexes a file: what was known of it gives way to what stands in it now.
    ///
    /// # Errors
    /// What a constraint has against it.
    pub fn index(
        &self,
        dataset: &str,
        id: &str,
        path: &str,
        text: &str,
        entities: &[Entity<'_>],
        now_ms: i64,
    ) -> Result<(), Error> {
        let file = "INSERT INTO files(id, project_id, dataset_id, path, lines, last_modified, has_docstring, created_at, updated_at)
            SELECT ?1, project_id, id, ?3, ?4, julianday(?6 / 1000.0, 'unixepoch'), ?5, julianday(?6 / 1000.0, 'unixepoch'),
              julianday(?6 / 1000.0, 'unixepoch') FROM datasets WHERE id = ?2
            ON CONFLICT(id) DO UPDATE SET path = excluded.path, lines = excluded.lines, last_modified = excluded.last_modified,
              has_docstring = excluded.has_docstring, updated_at = excluded.updated_at";
        // Numbers that two devices draw at once do not meet.
        let entity = "INSERT INTO code_content(id, file_id, entity_type, entity_name, content, docstring)
            VALUES(abs(random()), ?1, ?2, ?3, ?4, ?5)";
        let (lines, documented) =
            (text.lines().count() as i64, entities.iter().any(|entity| entity.docstring.is_some()));
        self.replica.write(|tx| {
            tx.execute(file, params![id, dataset, path, lines, i64::from(documented), now_ms])?;
            tx.execute("DELETE FROM code_content WHERE file_id = ?1", params![id])?;
            for Entity { kind, name, content, docstring } in entities {
                tx.execute(entity, params![id, *kind, *name, *content, *docstring])?;
            }
            Ok(())
        })
    }

    /// Entities in which every word stands; `docstring:word` looks there alone.
    ///
    /// # Errors
    /// As [`Replica::search`].
    pub fn search(&self, text: &str, limit: usize) -> Result<Vec<SearchHit>, Error> {
        self.replica.search("code_content", text, limit, 0)
    }

    /// The files of a dataset, by path.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn files(&self, dataset: &str) -> Result<Vec<CodeFile>, Error> {
        let sql = format!("{FILES} WHERE dataset_id = ?1 AND NOT deleted ORDER BY path");
        self.replica.read(|q| q.all(&sql, params![dataset]))
    }

    /// What lies in the trash, by where it lay.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn trash(&self) -> Result<Vec<CodeFile>, Error> {
        let sql = format!("{FILES} WHERE deleted = 1 ORDER BY original_path");
        self.replica.read(|q| q.all(&sql, &[]))
    }

    /// Puts a file into the trash; false if it is not there, or is there already.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn delete(&self, id: &str) -> Result<bool, Error> {
        // Its path is free then for another one.
        let sql =
            "UPDATE files SET deleted = 1, original_path = path, path = 'trash/' || id WHERE id = ?1 AND NOT deleted";
        Ok(self.replica.write(|tx| tx.execute(sql, params![id]))? > 0)
    }

    /// Brings a file back to where it lay.
    ///
    /// # Errors
    /// What a constraint has against it: another one lies there now.
    pub fn restore(&self, id: &str) -> Result<bool, Error> {
        let sql =
            "UPDATE files SET deleted = 0, path = original_path, original_path = NULL WHERE id = ?1 AND deleted = 1";
        Ok(self.replica.write(|tx| tx.execute(sql, params![id]))? > 0)
    }

    /// Removes what lies in the trash, with its entities; gives how many files.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn purge(&self) -> Result<usize, Error> {
        self.replica.write(|tx| tx.execute("DELETE FROM files WHERE deleted = 1", &[]))
    }
}
