//! Three devices edit offline and agree again: isle in one minute, on this machine.

mod data;
mod devices;
mod story;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use isle::params;

use crate::args::Demo;
use crate::commands;
use crate::failure::{Failure, Kind};
use crate::output::Out;
use devices::{Device, Traffic};
use story::{Facts, Look, Story};

/// The devices, in the order in which they appear.
const NAMES: [&str; 3] = ["laptop", "phone", "studio"];
/// The row whose price two devices change, the one whose cells two devices change, and the note that one deletes.
const CONTESTED: i64 = 42;
const SHARED: i64 = 43;
const NOTE: &str = "n7";
/// Edits this far apart have times that differ.
const APART: Duration = Duration::from_millis(3);

pub(crate) fn run(demo: &Demo, out: &mut Out) -> anyhow::Result<u8> {
    let folder = match &demo.dir {
        Some(folder) => named(folder)?,
        None => fresh()?,
    };
    let mut story = Story::new(out);
    let facts = play(&folder, demo.rows, &mut story)?;
    let equal = facts.equal;
    let removed = demo.clean && !demo.keep;
    if removed {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    story.end(facts, removed)?;
    if equal { Ok(0) } else { Err(Failure::new(Kind::Failed, "the three files differ: please report this").into()) }
}

/// The folder asked for: a new or an empty one.
fn named(folder: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let empty = folder.read_dir().map(|mut entries| entries.next().is_none());
    if !empty.with_context(|| format!("cannot read the folder {}", folder.display()))? {
        let message = format!("{} is not empty, and the demo overwrites nothing", folder.display());
        return Err(Failure::new(Kind::Blocked, message).hint("name another folder with --dir").into());
    }
    Ok(folder.canonicalize()?)
}

/// A folder that was not there before.
fn fresh() -> anyhow::Result<PathBuf> {
    let parent = std::env::temp_dir();
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    for n in 1..10_000 {
        let folder = parent.join(format!("isle-demo-{n}"));
        match builder.create(&folder) {
            Ok(()) => return Ok(folder.canonicalize()?),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make the folder {}", folder.display())),
        }
    }
    Err(Failure::new(Kind::Failed, format!("{} is full of old demos: remove some", parent.display())).into())
}

fn play(folder: &Path, rows: u32, story: &mut Story<'_>) -> anyhow::Result<Facts> {
    let begun = Instant::now();
    let runtime = commands::runtime()?;
    story.title()?;

    story.step(1, "laptop has a database, and makes it a replica")?;
    let laptop = Device::make(folder, NAMES[0], None)?;
    let filled = Instant::now();
    let written = laptop.replica.write(|tx| {
        tx.execute_batch(data::SCHEMA)?;
        data::fill(tx, rows)
    })?;
    story.filled(written, filled.elapsed())?;
    let tracked = laptop.adopt()?;
    let mut traffic = Traffic::default();
    let first = laptop.sync(&runtime, &mut traffic)?;
    story.adopted(tracked, &first)?;

    story.step(2, "phone and studio start from nothing but the key")?;
    let key = laptop.replica.export_keys()?;
    let (phone, studio) = (Device::make(folder, NAMES[1], Some(&key))?, Device::make(folder, NAMES[2], Some(&key))?);
    for device in [&phone, &studio] {
        let report = device.sync(&runtime, &mut traffic)?;
        story.joined(device.name, &report)?;
    }

    story.step(3, "all three go offline and edit")?;
    let plain = edit(&laptop, &phone, &studio, story)?;

    story.step(4, "back online: each syncs when it likes")?;
    let exchanged = Instant::now();
    let devices = [laptop, phone, studio];
    // The last of the three has everything at once, the first two with their next sync.
    for at in [0, 1, 2, 0, 1] {
        let report = devices[at].sync(&runtime, &mut traffic)?;
        story.exchanged(devices[at].name, &report)?;
    }
    let exchanged = exchanged.elapsed();

    let states = devices.iter().map(Device::state).collect::<anyhow::Result<Vec<_>>>()?;
    let journal = devices::journal(&devices)?;
    let looks = looks(&devices)?;
    runtime.shutdown_timeout(Duration::from_secs(2));
    let facts = Facts::new(folder, written, states, journal, looks, traffic, (begun.elapsed(), exchanged, plain));
    story.ending(&facts)?;
    Ok(facts)
}

/// What the three do without hearing of each other; gives what a plain SQLite client did, if there is one.
fn edit(laptop: &Device, phone: &Device, studio: &Device, story: &mut Story<'_>) -> anyhow::Result<Option<bool>> {
    let price = "UPDATE tracks SET price = ?1 WHERE id = ?2";
    let note = "INSERT INTO notes VALUES(?1, ?2, ?3, 5)";
    laptop.replica.write(|tx| {
        tx.execute(price, params![1.19, CONTESTED])?;
        tx.execute("UPDATE tracks SET title = 'Silver Harbour (Live)' WHERE id = ?1", params![SHARED])?;
        tx.execute(note, params!["laptop-1", CONTESTED, "on sale from Monday"])
    })?;
    story.edit("laptop", &format!("track {CONTESTED} costs 1.19 · track {SHARED} is now a live take · a new note"))?;
    sleep(APART);
    phone.replica.write(|tx| {
        tx.execute(price, params![0.89, CONTESTED])?;
        tx.execute("UPDATE notes SET body = 'heard it live!' WHERE id = ?1", params![NOTE])?;
        tx.execute(note, params!["phone-1", 12, "who sang this?"])
    })?;
    story.edit("phone", &format!("track {CONTESTED} costs 0.89 · rewords note {NOTE} · a new note"))?;
    sleep(APART);
    studio.replica.write(|tx| {
        tx.execute("DELETE FROM notes WHERE id = ?1", params![NOTE])?;
        tx.execute("UPDATE tracks SET price = 1.99 WHERE id = ?1", params![SHARED])?;
        tx.execute(note, params!["studio-1", SHARED, "remastered"])
    })?;
    story.edit("studio", &format!("deletes note {NOTE} · track {SHARED} costs 1.99 · a new note"))?;
    let plain = foreign(&phone.db)?;
    story.foreign(plain)?;
    Ok(plain)
}

/// Writes with the sqlite3 command, which knows nothing of isle; `None` if this machine has none.
fn foreign(db: &Path) -> anyhow::Result<Option<bool>> {
    let sql = "INSERT INTO playlists VALUES('list-new', 'Made with sqlite3');
               INSERT INTO playlist_tracks VALUES('list-new', 42, '2026-11-20')";
    let mut command = Command::new("sqlite3");
    command.arg("-batch").arg(db).arg(sql).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) => Ok(Some(status.success())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot run sqlite3"),
    }
}

/// Questions for the sqlite3 command, with the answer that each of the three files gives.
fn looks(devices: &[Device]) -> anyhow::Result<Vec<Look>> {
    let sql = format!("SELECT id, title, price FROM tracks WHERE id IN ({CONTESTED}, {SHARED})");
    let mut looks = Vec::new();
    for device in devices {
        let rows = device.replica.read(|q| q.query(&sql, &[]))?;
        let line = |row: &isle::Row| row.values().iter().map(ToString::to_string).collect::<Vec<_>>().join("|");
        let command = format!("sqlite3 {}.db \"{sql}\"", device.name);
        looks.push(Look { command, answer: rows.iter().map(line).collect() });
    }
    Ok(looks)
}
