//! Which file a command is about.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context as _;
use clap::builder::{PathBufValueParser, TypedValueParser};
use isle::{Replica, StoreError};

use crate::args::Args;
use crate::failure::{Failure, Kind};
use crate::output::count;

/// How every SQLite file begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const ENDINGS: [&str; 3] = ["db", "sqlite", "sqlite3"];

/// Reads the name of a file or folder. `~/` is the user's home folder where no shell has seen to that, as in `--db=~/notes.db`.
pub(crate) fn named() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(|path| match (path.strip_prefix("~"), etcetera::home_dir()) {
        (Ok(rest), Ok(home)) => home.join(rest),
        _ => path,
    })
}

/// Opens the replica that a command is about.
pub(crate) fn open(args: &Args) -> anyhow::Result<Replica> {
    Ok(Replica::open(path(args)?)?)
}

/// What this process is about. Looked for once: POSIX drops all locks that a process has on a file when it closes any handle of it, so a look into
/// the database while SQLite has it open would let other programs delete its write-ahead log.
static FOUND: OnceLock<PathBuf> = OnceLock::new();

/// The file that a command is about: named, or the only replica in the current folder.
pub(crate) fn path(args: &Args) -> anyhow::Result<PathBuf> {
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let found = match &args.db {
        Some(path) => must_exist(path).map(|()| path.clone()),
        None => find(Path::new(".")),
    }?;
    Ok(FOUND.get_or_init(|| found).clone())
}

/// The same, also where the file that is named is gone or damaged.
pub(crate) fn path_of_lost(args: &Args) -> anyhow::Result<PathBuf> {
    match &args.db {
        Some(named) if named.is_dir() => Err(is_folder(named).into()),
        Some(named) => Ok(named.clone()),
        None => path(args),
    }
}

fn must_exist(path: &Path) -> anyhow::Result<()> {
    if path.is_file() {
        return must_be_sqlite(path);
    }
    let shown = path.display();
    Err(match path.exists() {
        true => is_folder(path),
        false => Failure::new(Kind::Invalid, format!("there is no file {shown}"))
            .hint(format!("`isle init {shown}` makes a replica there")),
    }
    .into())
}

/// What to say when a folder stands where a file is meant.
pub(crate) fn is_folder(path: &Path) -> Failure {
    let shown = path.display();
    Failure::new(Kind::Invalid, format!("{shown} is a folder, not a database"))
        .hint(format!("name a file in it, such as {}", path.join("notes.db").display()))
}

/// Refuses a file of another program; not to be asked of a file that this process has open (see [`FOUND`]). One that cannot be read says why when it is opened. An empty file may become a database.
pub(crate) fn must_be_sqlite(path: &Path) -> anyhow::Result<()> {
    let (mut start, mut file) = ([0; 16], File::open(path).ok());
    let read = file.as_mut().and_then(|file| file.read(&mut start).ok());
    match read {
        None | Some(0) => Ok(()),
        Some(_) if start == *MAGIC => Ok(()),
        Some(_) => {
            let message = format!("{} is not a SQLite database", path.display());
            Err(Failure::new(Kind::Invalid, message).hint("name a database file, or one that is not there yet").into())
        }
    }
}

fn find(folder: &Path) -> anyhow::Result<PathBuf> {
    let (mut replicas, mut others) = (Vec::new(), Vec::new());
    for entry in folder.read_dir().context("cannot read the current folder")? {
        let path = entry.context("cannot read the current folder")?.path();
        let named = path.extension().is_some_and(|found| ENDINGS.iter().any(|ending| found == *ending));
        if !named || !is_sqlite(&path) {
            continue;
        }
        let path = path.strip_prefix(folder).map(Path::to_owned).unwrap_or(path);
        match Replica::open(&path) {
            Err(isle::Error::Store(StoreError::NotReplica { .. })) => others.push(path),
            // A replica that cannot be opened is still the one that is meant.
            _ => replicas.push(path),
        }
    }
    let list = |mut paths: Vec<PathBuf>| {
        paths.sort();
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    };
    let backups = isle::Backup::list(&folder.join("backups"), None).map_or(0, |backups| backups.len());
    let failure = match (replicas.len(), others.len()) {
        (1, _) => return Ok(replicas.remove(0)),
        (0, 0) if backups > 0 => {
            Failure::new(Kind::Invalid, "there is no replica (*.db, *.sqlite) in the current folder any more").hint(
                format!(
                    "`isle backup list` shows {}, and `isle backup restore ID` takes one back",
                    count(backups as u64, "backup")
                ),
            )
        }
        (0, 0) => Failure::new(Kind::Invalid, "there is no replica (*.db, *.sqlite) in the current folder")
            .hint("name the file with --db PATH or ISLE_DB, or make one: `isle init notes.db`"),
        (0, _) => Failure::new(Kind::Invalid, format!("no database here is a replica yet: {}", list(others)))
            .hint("`isle init FILE` makes one a replica; --db PATH or ISLE_DB names a file elsewhere"),
        _ => Failure::new(Kind::Invalid, format!("there are several replicas here: {}", list(replicas)))
            .hint("say which one with --db PATH or ISLE_DB"),
    };
    Err(failure.into())
}

fn is_sqlite(path: &Path) -> bool {
    let mut magic = [0; 16];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *MAGIC
}

/// The number of rows of a table.
pub(crate) fn count_rows(replica: &Replica, table: &str) -> anyhow::Result<i64> {
    // A tracked table may have been dropped by another program; `isle doctor` says so.
    let exists = "SELECT count(*) FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
    if replica.read(|q| q.one::<i64>(exists, isle::params![table]))? == Some(0) {
        return Ok(0);
    }
    let sql = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
    Ok(replica.read(|q| q.one::<i64>(&sql, &[]))?.unwrap_or(0))
}
