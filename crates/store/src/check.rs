//! Looking for damage, in the file and in isle's own bookkeeping.

use std::collections::BTreeMap;

use isle_changeset::{Block, Header};
use rusqlite::Connection;

use crate::engine::load_each;
use crate::error::Doing as _;
use crate::layout::{quoted, site_no_of, version_of};
use crate::shadow;
use crate::tracked::{Tracked, collation_name, join, surplus};
use crate::triggers;
use crate::{FullText, Store, StoreError};

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Damage; empty when all is well.
    pub findings: Vec<Finding>,
    /// Rows whose clocks were compared.
    pub rows: u64,
    /// Changesets whose chain and blocks were verified.
    pub changesets: u64,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which check found it.
    pub check: &'static str,
    /// What it found, and what to do.
    pub message: String,
}

impl Store {
    /// Looks for damage: see [`Report`]. Full-text tables are compared with their rows under the write lock, where the file can be written to.
    ///
    /// # Errors
    /// SQLite's reason, where the file cannot even be read.
    pub fn check(&self) -> Result<Report, StoreError> {
        let mut report = self.snapshot(run)?;
        if self.engine()? == crate::TableEngine::CrSqlite
            && let Err(error) = crate::try_cr_sqlite(self.options())
        {
            report.add_engine(&error);
        }
        report.add_forks(self.forks()?);
        for name in self.snapshot(crate::objects::gone)? {
            let how = "`isle schema apply` with the definition makes it again";
            report.add(
                "schema",
                format!(
                    "{name}, a view, trigger or full-text table of the group's schema, is gone from this file: {how}"
                ),
            );
        }
        for search in self.snapshot(crate::objects::own_full_text)? {
            match self.merge(|engine, _| full_text(&engine.conn, &search)) {
                Ok(finding) => report.findings.extend(finding),
                Err(error @ StoreError::ReadOnly { .. }) => {
                    tracing::info!(%error, table = search.name, "a full-text table is not compared with its rows");
                }
                Err(error) => report.add(
                    "search",
                    format!("full-text table {} cannot be compared with its rows: {error}", search.name),
                ),
            }
        }
        Ok(report)
    }
}

/// What is wrong with a full-text table that does not find what its table holds.
fn full_text(conn: &Connection, search: &FullText) -> Result<Option<Finding>, StoreError> {
    refresh_full_text(conn)?;
    let FullText { name, table, .. } = search;
    let of = quoted(name);
    match conn.execute(&format!("INSERT INTO {of}({of}, rank) VALUES('integrity-check', 1)"), []) {
        Ok(_) => Ok(None),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            let table = table.as_deref().unwrap_or_default();
            let message = format!(
                "full-text table {name} does not find what {table} holds: INSERT INTO {of}({of}) VALUES('rebuild') fills it again; the triggers \
                 that keep it have to be there, too"
            );
            Ok(Some(Finding { check: "search", message }))
        }
        Err(error) => Err(StoreError::sqlite("compare a full-text table with its rows", error)),
    }
}

/// Runs every check.
pub(crate) fn run(conn: &Connection) -> Result<Report, StoreError> {
    let mut report = Report::default();
    integrity(conn, &mut report)?;
    foreign_keys(conn, &mut report)?;
    for loaded in load_each(conn)? {
        match loaded {
            Ok(tracked) => table(conn, &tracked, &mut report)?,
            Err(error) => report.add("schema", error.to_string()),
        }
    }
    log(conn, &mut report)?;
    Ok(report)
}

impl Report {
    /// Adds that what keeps the file cannot be had.
    pub(crate) fn add_engine(&mut self, error: &StoreError) {
        self.add("cr-sqlite", format!("the file is kept by cr-sqlite, and cannot be written to: {error}"));
    }

    /// Adds sites with two histories.
    pub(crate) fn add_forks(&mut self, forks: Vec<crate::Fork>) {
        for crate::Fork { site, version, told_by, .. } in forks {
            self.add(
                "two histories",
                format!(
                    "site {site} wrote two different versions {version}; one is here, the other at {told_by}. Its file and its device's records were \
                     restored together. `isle devices retire {site}` on both sides ends it at what each has; its device goes on under a new id"
                ),
            );
        }
    }

    fn add(&mut self, check: &'static str, message: String) {
        self.findings.push(Finding { check, message });
    }
}

/// SQLite (3.54.1) checks a full-text index by what this connection last knew of its segments, and calls it corrupt if another
/// connection has merged them since. A query brings that up to date.
fn refresh_full_text(conn: &Connection) -> Result<(), StoreError> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%fts5%'";
    let mut statement = conn.prepare(sql).doing("list full-text tables")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0)).doing("list full-text tables")?;
    for name in names {
        let name = quoted(&name.doing("list full-text tables")?);
        let sql = format!("SELECT rowid FROM {name} WHERE {name} MATCH 'isle' LIMIT 1");
        if let Err(error) = conn.query_row(&sql, [], |_| Ok(())) {
            tracing::debug!(table = name, %error, "a full-text table has no answer");
        }
    }
    Ok(())
}

fn integrity(conn: &Connection, report: &mut Report) -> Result<(), StoreError> {
    refresh_full_text(conn)?;
    let mut statement = conn.prepare("PRAGMA integrity_check(20)").doing("check the file")?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0)).doing("check the file")?;
    for line in lines {
        let line = line.doing("check the file")?;
        if line != "ok" {
            report.add("integrity", format!("{line}; restore a backup or start from the remote"));
        }
    }
    Ok(())
}

fn foreign_keys(conn: &Connection, report: &mut Report) -> Result<(), StoreError> {
    let mut statement = conn.prepare("PRAGMA foreign_key_check").doing("check foreign keys")?;
    let orphans = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(2)?)));
    let mut counts = BTreeMap::<(String, String), u64>::new();
    for orphan in orphans.doing("check foreign keys")? {
        *counts.entry(orphan.doing("check foreign keys")?).or_default() += 1;
    }
    for ((table, parent), rows) in counts {
        let message = format!("{rows} rows of {table} have no parent in {parent}; add the parents or delete the rows");
        report.add("foreign key", message);
    }
    Ok(())
}

fn table(conn: &Connection, tracked: &Tracked, report: &mut Report) -> Result<(), StoreError> {
    let name = &tracked.table.name;
    for column in surplus(conn, &tracked.table)? {
        let how = format!(
            "`isle schema apply` with a definition of {name} that has the column makes it part of the schema everywhere, with its values"
        );
        report.add("schema", format!("column {column} of {name} does not travel: {how}"));
    }
    if let Some(rows) = crate::companion::differing(conn, tracked)?.filter(|rows| *rows > 0) {
        report.add("cr-sqlite", format!("cr-sqlite's clocks of {rows} rows of {name} say something else than isle's; `isle engine native` takes it off"));
    }
    for trigger in crate::companion::lost_triggers(conn, tracked)? {
        report.add("triggers", format!("table {name} has lost {trigger}: what is written is not recorded; `isle engine native`, then `isle engine cr-sqlite` makes it again"));
    }
    let triggers: &[String] = if tracked.crr.is_some() { &[] } else { &triggers::names(tracked.no)[..3] };
    for trigger in triggers {
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = ?1";
        if crate::clocks::one::<i64>(conn, sql, [trigger])?.is_none() {
            report.add("triggers", format!("table {name} has lost {trigger}: writes of other clients are not recorded; untrack and track it again"));
        }
    }
    let on = join(
        tracked.table.key.iter().enumerate().map(|(n, column)| {
            let key = quoted(&column.name);
            let collate = if tracked.table.rowid_key {
                String::new()
            } else {
                format!(" COLLATE {}", collation_name(column.collation))
            };
            format!("d.{key} = c.k{n}{collate}")
        }),
        " AND ",
    );
    let (clock, data, alive) = (tracked.clock(), quoted(name), crate::clocks::alive("c."));
    let first = quoted(&tracked.table.key[0].name);
    let count = |sql: String| conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).doing("compare row clocks");
    let queued = count(format!("SELECT count(*) FROM isle_queue WHERE t = {}", tracked.no))?
        + crate::companion::waits(conn)? as i64;
    report.rows += count(format!("SELECT count(*) FROM {data}"))? as u64;
    if queued > 0 {
        return Ok(());
    }
    let unclocked = count(format!(
        "SELECT count(*) FROM {data} AS d WHERE NOT EXISTS (SELECT 1 FROM {clock} AS c WHERE {on} AND {alive})"
    ))?;
    if unclocked > 0 {
        report.add(
            "row clocks",
            format!("{unclocked} rows of {name} were written past isle; touch them with an UPDATE to record them"),
        );
    }
    let merged = if shadow::any(conn, tracked)? {
        let stale = format!(
            "{} AS d WHERE NOT EXISTS (SELECT 1 FROM {clock} AS c WHERE {on} AND {alive})",
            shadow::name(tracked)
        );
        let stale = count(format!("SELECT count(*) FROM {stale}"))?;
        if stale > 0 {
            report.add("hidden rows", format!("{stale} hidden rows of {name} are dead: track the table anew"));
        }
        shadow::merged_rows(tracked)
    } else {
        data
    };
    let missing = count(format!(
        "SELECT count(*) FROM {clock} AS c LEFT JOIN {merged} AS d ON {on} WHERE {alive} AND d.{first} IS NULL"
    ))?;
    if missing > 0 {
        report.add(
            "row clocks",
            format!("{missing} rows of {name} are missing: a constraint kept them out (see the conflicts), or they vanished past isle; insert them again, and delete them if they should go"),
        );
    }
    Ok(())
}

/// Verifies each site's chain and every block.
fn log(conn: &Connection, report: &mut Report) -> Result<(), StoreError> {
    let mut statement = conn.prepare("SELECT id, header FROM isle_log ORDER BY id").doing("check the log")?;
    let mut rows = statement.query([]).doing("check the log")?;
    let sql = "SELECT no, version, chain FROM isle_site WHERE chain IS NOT NULL";
    let mut sites = conn.prepare(sql).doing("check the log")?;
    let sites = sites.query_map([], |row| Ok((row.get(0)?, (row.get::<_, i64>(1)? as u64, row.get(2)?))));
    let merged: BTreeMap<i64, (u64, isle_changeset::Hash)> =
        sites.and_then(Iterator::collect).doing("check the log")?;
    let mut last: Option<(i64, u64, isle_changeset::Hash)> = None;
    while let Some(row) = rows.next().doing("check the log")? {
        let (id, encoded): (i64, Vec<u8>) = (row.get(0).doing("check the log")?, row.get(1).doing("check the log")?);
        let (no, version) = (site_no_of(id), version_of(id));
        report.changesets += 1;
        let header = match Header::decode(&encoded) {
            Ok(header) => header,
            Err(error) => {
                report.add("log", format!("version {version} of site number {no}: {error}"));
                continue;
            }
        };
        if let Some((last_no, last_version, chain)) = last
            && last_no == no
            && last_version + 1 == version
            && header.previous != chain
        {
            report.add("log", format!("version {version} of site {} does not follow the one before it", header.site));
        }
        let hash = Header::hash(&encoded);
        if merged.get(&no).is_some_and(|(last, chain)| *last == version && *chain != hash) {
            report.add("log", format!("version {version} of site {} is not what was merged", header.site));
        }
        last = Some((no, version, hash));
        for (n, info) in header.blocks.iter().enumerate() {
            let Some(stored) = crate::log::block(conn, id, header.blocks.len(), n)? else { continue };
            if let Err(error) = Block::open(&stored, info).and_then(|block| block.check(info)) {
                report.add("log", format!("block {n} of version {version} of site {}: {error}", header.site));
            }
        }
    }
    Ok(())
}
