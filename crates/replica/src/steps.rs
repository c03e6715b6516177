//! What a new version of an app does to the data itself.

use std::collections::BTreeMap;

use isle_schema::Version;

use crate::{Error, Transaction};

type Step = Box<dyn Fn(&Transaction<'_>) -> Result<(), Error> + Send + Sync>;

/// Code that runs once when a schema reaches a version: on the device that brings it there, between the change of the schema and the note of
/// the version. What it writes are ordinary changes, which travel. So rows that it makes should have keys that any device would give them:
/// two devices may bring the schema to a version at once.
///
/// ```no_run
/// # fn main() -> Result<(), isle::Error> {
/// # let replica = isle::Replica::builder("notes.db").open()?;
/// let steps = isle::Steps::new().at("1.1.0", |tx| {
///     tx.execute("UPDATE notes SET words = length(title) - length(replace(title, ' ', '')) + 1", &[]).map(drop)
/// });
/// let definition = isle::Definition::from_dir("migrations".as_ref())?;
/// replica.migrate(definition, "backups".as_ref(), &steps)?;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Steps {
    steps: BTreeMap<Version, Step>,
    bad: Vec<String>,
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.steps.keys()).finish()
    }
}

impl Steps {
    /// None.
    pub fn new() -> Steps {
        Steps::default()
    }

    /// Runs `f` in one transaction when a version is reached; of two of one version the later counts.
    #[must_use]
    pub fn at(
        mut self,
        version: &str,
        f: impl Fn(&Transaction<'_>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Steps {
        match Version::parse(version) {
            Some(version) => drop(self.steps.insert(version, Box::new(f))),
            None => self.bad.push(version.to_owned()),
        }
        self
    }

    /// Those of the versions after `from` up to `to`, in their order.
    pub(crate) fn between(&self, from: Option<&Version>, to: &Version) -> impl Iterator<Item = (&Version, &Step)> {
        self.steps.iter().filter(move |(version, _)| from.is_none_or(|from| from < version) && *version <= to)
    }

    /// What was given as a version and is none.
    pub(crate) fn bad(&self) -> Option<&str> {
        self.bad.first().map(String::as_str)
    }
}
