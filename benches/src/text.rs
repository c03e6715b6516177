//! Editing long texts: each edit replaces one word, in a transaction of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use isle_store::{Frame, Options, Store};
use rusqlite::Connection;

use crate::engine::{Scratch, median};
use crate::sql;

/// Edits that are measured one by one; the median counts.
const EDITS: usize = 20;
const SCHEMA: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT NOT NULL DEFAULT '')";

/// What an edit costs.
#[derive(Clone, Copy, Debug)]
pub struct TextEdit {
    /// The first after the file was opened.
    pub first: Duration,
    /// One that follows.
    pub next: Duration,
    /// Taking one in elsewhere.
    pub apply: Duration,
}

/// The text before any edit, of `length` bytes, and after each.
fn texts(length: usize) -> Vec<String> {
    let mut words: Vec<String> = (0..length / 8).map(|n| format!("w{:06}", n * 7919 % 999_983)).collect();
    let mut texts = vec![words.join(" ")];
    for n in 0..=EDITS {
        let at = (n + 1) * 104_729 % words.len();
        words[at] = format!("edited{n}");
        texts.push(words.join(" "));
    }
    texts
}

/// Plain SQLite: an update of the column.
///
/// # Errors
/// What SQLite says.
pub fn plain(scratch: &Scratch, length: usize) -> Result<TextEdit> {
    let conn = sql::open(&scratch.path("plain.db"))?;
    conn.execute_batch(SCHEMA)?;
    let texts = texts(length);
    conn.execute("INSERT INTO notes VALUES(1, ?1)", [&texts[0]])?;
    let mut times = Vec::new();
    for text in &texts[1..] {
        let start = Instant::now();
        conn.execute("UPDATE notes SET body = ?1 WHERE id = 1", [text])?;
        times.push(start.elapsed());
    }
    let next = median(times);
    Ok(TextEdit { first: next, next, apply: next })
}

/// isle: the column is a text that merges.
///
/// # Errors
/// What isle says.
pub fn isle(scratch: &Scratch, length: usize) -> Result<TextEdit> {
    let (path, peer) = (scratch.path("isle.db"), scratch.path("peer.db"));
    let texts = texts(length);
    let replica = isle::Replica::builder(&path).home(crate::isle::home(scratch.path("home"))?).app("bench").init()?;
    replica.apply_schema(format!("{SCHEMA};\n-- @merge notes.body text").as_str())?;
    replica.write(|tx| tx.execute("INSERT INTO notes VALUES(1, ?1)", isle::params![texts[0].as_str()]))?;
    drop(replica);
    let store = |path| Store::open(Options::new(path), Arc::new(isle::SystemRuntime));
    let source = store(&path)?;
    let replica = isle::Replica::builder(&path).open()?;
    replica.write(|_| Ok(()))?;
    let (mut first, mut times) = (Duration::ZERO, Vec::new());
    for (n, text) in texts[1..].iter().enumerate() {
        let start = Instant::now();
        replica.write(|tx| tx.execute("UPDATE notes SET body = ?1 WHERE id = 1", isle::params![text.as_str()]))?;
        match n {
            0 => first = start.elapsed(),
            _ => times.push(start.elapsed()),
        }
    }
    let next = median(times);
    drop(isle::Replica::builder(&peer).home(crate::isle::home(scratch.path("peer"))?).app("bench").init()?);
    let other = store(&peer)?;
    let status = source.status()?;
    other.join_group(status.group, None)?;
    for head in source.schema_heads()? {
        other.put_migration(&source.migration(head)?.context("a schema operation is missing")?)?;
    }
    let mut times = Vec::new();
    let (found, _) = source.changesets(status.site, 0, usize::MAX)?;
    for logged in &found {
        let (site, version) = (status.site, logged.version);
        let bytes = logged.only.as_ref().context("an edit takes one block")?;
        let proof = crate::isle::sign(&source, version)?.remove(&version).context("it is signed")?;
        let proof = Frame::Proof { site, version, bytes: &proof };
        let frames = [proof, Frame::Header(&logged.header), Frame::Block { site, version, index: 0, bytes }];
        let start = Instant::now();
        other.receive(frames.into_iter())?;
        times.push(start.elapsed());
    }
    let read = |path| -> Result<String> {
        Ok(Connection::open(path)?.query_row("SELECT body FROM notes", [], |row| row.get(0))?)
    };
    let last = texts.last().context("no text")?;
    ensure!(read(&path)? == *last && read(&peer)? == *last, "the texts differ");
    Ok(TextEdit { first, next, apply: median(times) })
}
