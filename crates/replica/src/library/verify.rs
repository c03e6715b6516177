//! Whether what is said to be here and there is.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::fetch::hash_of;
use super::index;
use super::push::MoveOptions;
use super::sources::Source;
use super::work::Work;
use super::{Library, Problem};
use crate::sync::blocking;
use crate::{Error, params};

const PROBLEMS_MAX: usize = 100;

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The operation's id.
    pub operation: i64,
    /// Files of this device that were read.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files that are not what they were, although nothing says that they were written: the disk is failing, or somebody set their times.
    pub damaged: Vec<Problem>,
    /// Files that were changed or went since the last scan, or whose root is away.
    pub changed: Vec<Problem>,
    /// Files that a remote was said to have whole and has not: a push puts them again.
    pub lost: Vec<Problem>,
    /// Remotes that could not be asked, and why.
    pub unreachable: Vec<Problem>,
}

impl Library {
    /// Reads every file of the library that is on this device, and lists what the remotes have.
    ///
    /// # Errors
    /// SQLite's reason. Damage is no error, but reported, and so is a remote that cannot be asked.
    pub async fn verify(&self, options: &MoveOptions) -> Result<Verified, Error> {
        self.must_exist()?;
        let _alone = self.lock_movements().await?;
        let (sources, failed) = self.sources(options.remote.as_deref()).await?;
        let library = self.clone();
        let work = blocking(self.inner(), move |_| Work::begin(&library, "verify", "")).await?;
        let mut verified = Verified { operation: work.id(), ..Verified::default() };
        let away = |name: &str, error: &Error| Problem { path: name.to_owned(), why: error.to_string() };
        verified.unreachable = failed.iter().map(|(name, error)| away(name, error)).collect();
        for source in &sources {
            match self.find_lost(source, &mut verified).await {
                Err(error @ Error::Remote { .. }) => verified.unreachable.push(away(&source.name, &error)),
                found => found?,
            }
        }
        let (library, options, found) = (self.clone(), options.clone(), verified.clone());
        let (work, result) = blocking(self.inner(), move |_| {
            let mut found = found;
            let result = library.read_all(&options, &work, &mut found).map(|()| found);
            Ok((work, result))
        })
        .await?;
        work.end(
            result.as_ref().map(|found| serde_json::to_string(found).unwrap_or_default()).map_err(Error::to_string),
        );
        result
    }

    /// Files that a remote was said to have whole and has not.
    async fn find_lost(&self, source: &Source, verified: &mut Verified) -> Result<(), Error> {
        let sql = "SELECT f.path, f.id FROM library_stored AS t JOIN library_sound AS f ON f.id = t.file WHERE t.remote = ?1 ORDER BY f.path";
        let list = async || {
            let (library, name) = (self.clone(), source.name.clone());
            blocking(self.inner(), move |_| library.replica.read(|q| q.all::<(String, String)>(sql, params![&name])))
                .await
        };
        let before = list().await?;
        self.take_stock(source).await?;
        let after = list().await?;
        let after: BTreeSet<String> = after.into_iter().map(|(_, id)| id).collect();
        for (path, id) in before {
            if !after.contains(&id) && verified.lost.len() < PROBLEMS_MAX {
                let why = format!("remote {:?} lacks a part of it", source.name);
                verified.lost.push(Problem { path, why });
            }
        }
        Ok(())
    }

    fn read_all(&self, options: &MoveOptions, work: &Work, verified: &mut Verified) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Here {
            root: i64,
            path: String,
            content: String,
            bytes: u64,
        }
        let sql =
            "SELECT s.root, s.path, f.content, f.bytes FROM library_scan AS s JOIN library_sound AS f ON f.id = s.file
            JOIN library_roots AS r ON r.id = s.root WHERE s.state = 'ok' AND r.flag IS NULL ORDER BY s.root, s.path";
        let here: Vec<Here> = self.replica.read(|q| q.all(sql, &[]))?;
        let total = here.iter().fold(0_u64, |sum, here| sum.saturating_add(here.bytes));
        for root in self.roots()? {
            let folder = match root.open() {
                Ok(folder) => folder,
                Err(error) => {
                    verified.changed.push(Problem { path: root.name.clone(), why: error.to_string() });
                    continue;
                }
            };
            for here in here.iter().filter(|here| here.root == root.id) {
                let entry = self.inner().store.read(|conn| index::find(conn, root.id, &here.path))?;
                let path = format!("{}/{}", root.name, here.path);
                let (file, stat) = match folder.open_file(&here.path) {
                    Ok(opened) => opened,
                    Err(error) => {
                        verified.changed.push(Problem { path, why: error.to_string() });
                        continue;
                    }
                };
                let hash = hash_of(&file);
                verified.files += 1;
                verified.bytes += here.bytes;
                let is_right = matches!(&hash, Ok(hash) if *blake3::Hash::from_bytes(*hash).to_hex() == *here.content);
                let untouched = entry.is_some_and(|entry| entry.stat == stat);
                match (is_right, untouched, hash) {
                    (true, ..) => {}
                    (_, _, Err(error)) => verified.damaged.push(Problem { path, why: error.to_string() }),
                    (_, true, _) => verified
                        .damaged
                        .push(Problem { path, why: "its content is another, and its times are not".to_owned() }),
                    (_, false, _) => {
                        verified.changed.push(Problem { path, why: "it was changed since the last scan".to_owned() })
                    }
                }
                work.advance(verified.bytes, total, &here.path);
                if let Some(progress) = &options.progress {
                    progress(verified.bytes, total);
                }
            }
        }
        Ok(())
    }
}
