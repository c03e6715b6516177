//! The demo as people read it: short lines, marks, times.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use isle::SyncReport;
use serde::Serialize;

use super::devices::{Lost, State, Traffic};
use crate::output::{Out, bytes, count, seconds};

/// What a command prints.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Look {
    pub(crate) command: String,
    pub(crate) answer: Vec<String>,
}

/// Everything that the demo found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Facts {
    folder: String,
    kept: bool,
    rows: u64,
    pub(crate) equal: bool,
    devices: Vec<State>,
    conflicts: Vec<Lost>,
    traffic: Traffic,
    total_ms: u64,
    exchange_ms: u64,
    /// Whether the sqlite3 command wrote to one of the files; null if there is no such command.
    plain_sqlite_wrote: Option<bool>,
    look: Vec<Look>,
}

impl Facts {
    pub(crate) fn new(
        folder: &Path,
        rows: u64,
        devices: Vec<State>,
        conflicts: Vec<Lost>,
        look: Vec<Look>,
        traffic: Traffic,
        (total, exchange, plain): (Duration, Duration, Option<bool>),
    ) -> Facts {
        let equal = devices.windows(2).all(|two| two[0].merged == two[1].merged && two[0].visible == two[1].visible);
        Facts {
            folder: folder.to_string_lossy().into_owned(),
            kept: true,
            rows,
            equal,
            devices,
            conflicts,
            traffic,
            total_ms: ms(total),
            exchange_ms: ms(exchange),
            plain_sqlite_wrote: plain,
            look,
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Tells the story while it happens.
pub(crate) struct Story<'o> {
    out: &'o mut Out,
}

impl<'o> Story<'o> {
    pub(crate) fn new(out: &'o mut Out) -> Story<'o> {
        Story { out }
    }

    pub(crate) fn title(&mut self) -> anyhow::Result<()> {
        let title = self.out.style.bold("isle: ordinary SQLite files that sync. Three devices, one folder, no server.");
        self.out.note(title)
    }

    pub(crate) fn step(&mut self, n: u8, what: &str) -> anyhow::Result<()> {
        let line = self.out.style.bold(format!("{n} {what}"));
        self.out.note(line)?;
        self.out.flush()
    }

    fn done(&mut self, who: &str, what: impl Display, time: Option<u64>) -> anyhow::Result<()> {
        let mark = self.out.style.green("✓");
        let time = time.map_or_else(String::new, |ms| self.out.style.dim(format!("  {}", seconds(ms))));
        self.out.note(format!("  {mark} {who:<6} {what}{time}"))?;
        self.out.flush()
    }

    pub(crate) fn filled(&mut self, rows: u64, time: Duration) -> anyhow::Result<()> {
        self.done("laptop", format!("a music shop: {} in plain SQLite tables", count(rows, "row")), Some(ms(time)))
    }

    pub(crate) fn adopted(&mut self, tables: usize, report: &SyncReport) -> anyhow::Result<()> {
        let sent = bytes(report.uploaded_bytes);
        self.done("laptop", format!("tracks {tables} tables, sends {sent} to the folder"), Some(report.duration_ms))
    }

    pub(crate) fn joined(&mut self, who: &str, report: &SyncReport) -> anyhow::Result<()> {
        let got = format!("{}, {}", count(report.pulled_rows, "row"), bytes(report.downloaded_bytes));
        self.done(who, format!("an empty file becomes the shop: {got}"), Some(report.duration_ms))
    }

    pub(crate) fn edit(&mut self, who: &str, what: &str) -> anyhow::Result<()> {
        self.done(who, what, None)
    }

    pub(crate) fn foreign(&mut self, plain: Option<bool>) -> anyhow::Result<()> {
        match plain {
            Some(true) => self.done("phone", "a new playlist, written by sqlite3, which knows nothing of isle", None),
            Some(false) => self.out.note("  - phone  sqlite3 could not write to the file; that edit is left out"),
            None => self.out.note("  - phone  no sqlite3 command here; the edit by a plain client is left out"),
        }
    }

    pub(crate) fn exchanged(&mut self, who: &str, report: &SyncReport) -> anyhow::Result<()> {
        let journal = match report.conflicts {
            0 => String::new(),
            n => format!(", {} lost into the journal", count(n, "value")),
        };
        let did: Vec<String> = [("pulled", report.pulled_versions), ("pushed", report.pushed_versions)]
            .into_iter()
            .filter(|(_, versions)| *versions > 0)
            .map(|(verb, versions)| format!("{verb} {}", count(versions, "change")))
            .collect();
        let what = format!("{}{journal}", did.join(", "));
        self.done(who, what, Some(report.duration_ms))
    }

    pub(crate) fn ending(&mut self, facts: &Facts) -> anyhow::Result<()> {
        self.step(5, if facts.equal { "the three files hold the same" } else { "the three files DIFFER" })?;
        for state in &facts.devices {
            let hash = state.merged.get(..16).unwrap_or(&state.merged);
            self.done(state.name, format!("state {hash}…, {}", count(state.rows, "row")), None)?;
        }
        self.out.note("  what lost against a concurrent edit is kept, to look at or to put back:")?;
        for lost in &facts.conflicts {
            let line = format!("  ↺ {}", lost.sentence);
            self.out.note(line)?;
        }
        let traffic = facts.traffic;
        self.step(
            6,
            &format!(
                "in all: {}, {}, {} up, {} down, {} (edits exchanged in {})",
                count(traffic.syncs, "sync"),
                count(traffic.requests, "request"),
                bytes(traffic.uploaded_bytes),
                bytes(traffic.downloaded_bytes),
                seconds(facts.total_ms),
                seconds(facts.exchange_ms)
            ),
        )
    }

    /// The last lines, or everything in JSON.
    pub(crate) fn end(&mut self, mut facts: Facts, removed: bool) -> anyhow::Result<()> {
        facts.kept = !removed;
        if removed {
            facts.look.clear();
        }
        if self.out.json(&facts)? {
            return Ok(());
        }
        if removed {
            return self.step(7, "the folder was removed, as asked with --clean");
        }
        self.step(7, "look yourself; each answers the same")?;
        self.out.note(format!("  cd {}", shell_word(&facts.folder)))?;
        for look in &facts.look {
            self.out.note(format!("  {}", look.command))?;
        }
        if let Some(look) = facts.look.first() {
            let answer = self.out.style.dim(format!("  → {}", look.answer.join("  ")));
            self.out.note(answer)?;
        }
        self.out.note(format!("  ISLE_HOME=homes/laptop {} --db laptop.db conflicts", shell_word(&command())))
    }
}

/// How the shell finds this program.
fn command() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join("isle").is_file());
    match std::env::current_exe() {
        Ok(file) if !found => file.to_string_lossy().into_owned(),
        _ => "isle".to_owned(),
    }
}

/// A word that the shell reads as it is.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_with_spaces_are_quoted_for_the_shell() {
        assert_eq!(shell_word("/tmp/isle-demo-1"), "/tmp/isle-demo-1");
        assert_eq!(shell_word("/tmp/it's here"), "'/tmp/it'\\''s here'");
    }
}
