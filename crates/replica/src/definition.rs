//! Declared schemas: one file of SQL, a folder of numbered ones, or a JSON document, all the same in the end.

use std::cmp::Ordering;
use std::path::Path;

use isle_schema::{Document, Version};
use isle_store::Parts;

use crate::Error;

/// What the tables should be. Text becomes one as SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    sql: String,
    /// What each version of a folder of numbered files adds.
    parts: Vec<Part>,
}

/// A version in a folder of numbered files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) version: Version,
    /// What its files and those before it make.
    pub(crate) sql: String,
    /// Statements in its files that change rows.
    pub(crate) data: Vec<String>,
}

impl From<&str> for Definition {
    fn from(sql: &str) -> Definition {
        Definition::from(sql.to_owned())
    }
}

impl From<String> for Definition {
    fn from(sql: String) -> Definition {
        Definition { sql, parts: Vec::new() }
    }
}

impl From<&Document> for Definition {
    fn from(document: &Document) -> Definition {
        Definition::from(document.to_sql())
    }
}

impl Definition {
    /// Reads a JSON document ([`Document`]).
    ///
    /// # Errors
    /// [`Error::Document`] with line and column.
    pub fn from_json(json: &str) -> Result<Definition, Error> {
        let document: Document = serde_json::from_str(json).map_err(|source| Error::Document { source })?;
        if let Some(name) = document.names().find(|name| name.contains(char::is_control)) {
            let source = serde::de::Error::custom(format!("the name {name:?} has a control character"));
            return Err(Error::Document { source });
        }
        Ok(Definition::from(&document))
    }

    /// Reads the `.sql` files of a folder in the order of their versions: `1.9.0__x.sql`, `1.10.0-rc.1__y.sql`, `1.10.0__z.sql`. What they
    /// make one after the other is the schema. Where each name begins with a version, every version that is new to a replica becomes an
    /// operation of its own; statements in them that change rows (INSERT, UPDATE, DELETE) run once, on the device that brings the schema to that version,
    /// behind all that its files change of tables. What they write travels, and counts as written before whatever others have written meanwhile: a new device that
    /// applies the same files before its first sync does not undo what the group has made of those rows. Rows that are inserted want keys that are the same
    /// everywhere.
    ///
    /// # Errors
    /// [`Error::Read`], also for a folder without such files; [`isle_store::StoreError::DefinitionFile`] when SQLite does not take them, and
    /// [`isle_store::StoreError::DefinitionRefused`] for statements that would do something else on each device.
    pub fn from_dir(folder: &Path) -> Result<Definition, Error> {
        let failed = |path: &Path, source| Error::Read { path: path.to_owned(), source };
        let mut files = Vec::new();
        for entry in folder.read_dir().map_err(|source| failed(folder, source))? {
            let path = entry.map_err(|source| failed(folder, source))?.path();
            if path.extension().is_some_and(|extension| extension == "sql") {
                let text = std::fs::read_to_string(&path).map_err(|source| failed(&path, source))?;
                files.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), text));
            }
        }
        if files.is_empty() {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there are no .sql files in it");
            return Err(failed(folder, source));
        }
        Definition::of_numbered(files)
    }

    /// The same for files that an app brings along within itself: name and text of each, as `include_str!` gives it.
    ///
    /// # Errors
    /// As [`Definition::from_dir`].
    pub fn from_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Definition, Error> {
        Definition::of_numbered(files.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
    }

    fn of_numbered(mut files: Vec<(String, String)>) -> Result<Definition, Error> {
        let stem = |name: &str| name.strip_suffix(".sql").unwrap_or(name).to_owned();
        files.sort_by(|(a, _), (b, _)| compare(&stem(a), &stem(b)));
        let split = isle_store::split_definition(&files)?;
        let (mut sql, mut data, mut parts) = (String::new(), Vec::new(), Vec::new());
        for (n, ((file, _), Parts { structure, data: rows })) in files.iter().zip(split).enumerate() {
            sql += &structure;
            data.extend(rows);
            // A file may end without either.
            sql += "\n;\n";
            let next = files.get(n + 1).map(|(next, _)| version_of(&stem(next)));
            match version_of(&stem(file)) {
                // Several files of one version are one part.
                Some(version) if next != Some(Some(version.clone())) => {
                    parts.push(Part { version, sql: sql.clone(), data: std::mem::take(&mut data) });
                }
                Some(_) => {}
                // Nobody could tell when a statement that changes rows has run.
                None => {
                    let texts: Vec<String> = files.into_iter().map(|(_, text)| text).collect();
                    return Ok(Definition::from(texts.join("\n;\n")));
                }
            }
        }
        let version = parts.last().map(|part| format!("-- @version {}\n", part.version)).unwrap_or_default();
        Ok(Definition { sql: sql + &version, parts })
    }

    /// Reads a folder, a `.json` file or a file of SQL.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Document`].
    pub fn from_path(path: &Path) -> Result<Definition, Error> {
        if path.is_dir() {
            return Definition::from_dir(path);
        }
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            true => Definition::from_json(&text),
            false => Ok(Definition::from(text)),
        }
    }

    /// The versions of a folder of numbered files.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The definition as SQL.
    pub fn sql(&self) -> &str {
        &self.sql
    }
}

/// The version that a file's name begins with.
fn version_of(name: &str) -> Option<Version> {
    Version::parse(name.split("__").next().unwrap_or(name)).or_else(|| Version::parse(name.split('_').next()?))
}

/// A file's version: its numbers, and what a pre-release says behind them.
fn version(name: &str) -> (Vec<u64>, Option<&str>) {
    let name = name.strip_prefix(['v', 'V']).unwrap_or(name);
    let end = name.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(name.len());
    let numbers = name[..end].split('.').map(|number| number.parse().unwrap_or(0)).collect();
    let rest = name[end..].strip_prefix('-').map(|rest| rest.split("__").next().unwrap_or(rest));
    (numbers, rest)
}

/// Orders names as semantic versions are ordered: number by number, a pre-release before its release.
fn compare(a: &str, b: &str) -> Ordering {
    let ((numbers, pre), (other_numbers, other_pre)) = (version(a), version(b));
    let pre = match (pre, other_pre) {
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(pre), Some(other)) => {
            let parts = |text: &str| -> Vec<(u64, String)> {
                // Numbers come before words.
                text.split('.').map(|part| (part.parse().unwrap_or(u64::MAX), part.to_owned())).collect()
            };
            parts(pre).cmp(&parts(other))
        }
        (None, None) => Ordering::Equal,
    };
    numbers.cmp(&other_numbers).then(pre).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn files_come_in_the_order_of_their_versions() {
        let sorted =
            ["0001_init", "1.9.0__x", "1.10.0-rc.1__y", "1.10.0-rc.2__a", "1.10.0-rc.10__a", "1.10.0__y", "v2"];
        for (n, a) in sorted.iter().enumerate() {
            for (m, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a, b), n.cmp(&m), "{a} {b}");
            }
        }
    }
}
