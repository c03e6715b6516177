//! The library's kinds: rows that all devices share.

use isle_files::{Kind, Kinds};

use super::{Library, LibraryError};
use crate::{Error, params};

pub(super) fn encode(kind: &Kind) -> String {
    // A struct of texts and numbers has a JSON form.
    serde_json::to_string(kind).unwrap_or_default()
}

impl Library {
    /// The kinds, in the order in which they are tried. What a newer device wrote and this one cannot read is left out.
    ///
    /// # Errors
    /// [`LibraryError::None`], or SQLite's reason.
    pub fn kinds(&self) -> Result<Vec<Kind>, Error> {
        self.must_exist()?;
        let sql =
            "SELECT name, definition FROM library_kinds WHERE typeof(name) = 'text' AND typeof(definition) = 'text'";
        let rows = self.replica.read(|q| q.all::<(String, String)>(sql, &[]))?;
        let mut kinds = Vec::new();
        for (name, definition) in rows {
            let read = serde_json::from_str::<Kind>(&definition).map_err(|error| error.to_string());
            let usable = read.and_then(|kind| match Kinds::new(vec![kind.clone()]) {
                Ok(_) if kind.name == name => Ok(kind),
                Ok(_) => Err("it is called otherwise inside".to_owned()),
                Err(error) => Err(error.to_string()),
            });
            match usable {
                Ok(kind) => kinds.push(kind),
                Err(error) => tracing::warn!(kind = name, error, "a kind of files cannot be read and is left out"),
            }
        }
        kinds.sort_by(|a, b| (a.rank, &a.name).cmp(&(b.rank, &b.name)));
        Ok(kinds)
    }

    /// Adds a kind, or changes it. Files that are in the library stay what they are until they are scanned again with changes.
    ///
    /// # Errors
    /// [`LibraryError::Kind`], [`LibraryError::NoSuchValidator`].
    pub fn put_kind(&self, kind: &Kind) -> Result<(), Error> {
        self.create()?;
        let mut all = self.kinds()?;
        all.retain(|known| known.name != kind.name);
        all.push(kind.clone());
        Kinds::new(all).map_err(LibraryError::from)?;
        self.validator_of(kind)?;
        self.replica.write(|tx| {
            let sql = "INSERT INTO library_kinds(name, definition) VALUES(?1, ?2)
                ON CONFLICT(name) DO UPDATE SET definition = excluded.definition";
            tx.execute(sql, params![&kind.name, &encode(kind)])
        })?;
        Ok(())
    }

    /// Forgets a kind; files of it stay in the library.
    ///
    /// # Errors
    /// [`LibraryError::NoSuchKind`].
    pub fn remove_kind(&self, name: &str) -> Result<(), Error> {
        self.must_exist()?;
        let removed =
            self.replica.write(|tx| tx.execute("DELETE FROM library_kinds WHERE name = ?1", params![name]))?;
        if removed == 0 { Err(LibraryError::NoSuchKind { name: name.to_owned() }.into()) } else { Ok(()) }
    }

    pub(super) fn validator_of(&self, kind: &Kind) -> Result<&std::sync::Arc<dyn isle_files::Validator>, LibraryError> {
        self.validators.get(&kind.validator).ok_or_else(|| LibraryError::NoSuchValidator {
            kind: kind.name.clone(),
            validator: kind.validator.clone(),
            known: self.validators.names().collect::<Vec<_>>().join(", "),
        })
    }
}
