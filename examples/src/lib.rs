//! The five reference apps, as far as they stand on isle: typed repositories over the public API, each over the schema in `migrations/<app>`. What an
//! app's users see is left out; what its documents ask of its data is here.
//!
//! | module | app | to be seen in it |
//! |---|---|---|
//! | [`qlippy`] | a voice assistant on the desktop | models and wake words that follow their files, each device with paths of its own |
//! | [`wmd`] | a downloader of models | settings of any JSON, secrets that stay, a cache with a time to live, counters of use, the JSON files of before |
//! | [`massugc`] | a video studio | jobs with columns and a rest in JSON, filters, statistics, templates, versions, the YAML file of before |
//! | [`codedb`] | a database of code | cascades, a search over entities, a trash |
//! | [`collection`] | a collection of software | sync by hand in one direction or both, files on demand |
//!
//! `examples/tests` walks each app's workflows on two devices, through a bucket and directly.

pub mod codedb;
pub mod collection;
pub mod massugc;
pub mod qlippy;
pub mod wmd;

use std::path::Path;

use isle::{Builder, Definition, Error, Replica};

/// Opens an app's file, makes it one if there is none, and brings its tables to what this build knows.
fn open(path: &Path, home: Option<&Path>, app: &str, migrations: &[(&str, &str)]) -> Result<Replica, Error> {
    let builder = Replica::builder(path).app(app);
    let builder = home.map_or_else(|| builder.clone(), |home| Builder::home(builder.clone(), home));
    let replica = builder.init()?;
    let backups = replica.backup_folder()?;
    replica.sync_schema(Definition::from_files(migrations.iter().copied())?, &backups)?;
    Ok(replica)
}

/// The text of a time, in milliseconds since 1970, as SQLite's functions write and read it.
const TIME: &str = "strftime('%Y-%m-%d %H:%M:%f', ? / 1000.0, 'unixepoch')";

/// An SQL expression for the time that a numbered parameter holds.
fn time(parameter: usize) -> String {
    TIME.replace('?', &format!("?{parameter}"))
}
