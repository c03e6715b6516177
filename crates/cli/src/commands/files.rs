//! Files become replicas, tables join and leave, and a replica becomes a plain file again.

use std::path::Path;

use isle::{BackedUp, Replica, Status, StoreError, TableEngine, TableEngineOf};
use serde_json::json;

use crate::args::{Args, Engine, Init};
use crate::commands::engines;
use crate::confirm;
use crate::db;
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, count, thousands};
use crate::spinner;

/// A table that was tracked, with its rows, or refused, with the reason.
struct Outcome {
    table: String,
    rows: i64,
    refused: Option<String>,
}

pub(crate) fn init(args: &Args, init: &Init, out: &mut Out) -> anyhow::Result<u8> {
    let path = init.file.as_ref().or(args.db.as_ref());
    let path = path.ok_or_else(|| Failure::new(Kind::Invalid, "which file? `isle init FILE`"))?;
    if path.is_dir() {
        return Err(db::is_folder(path).into());
    }
    let existed = path.is_file();
    if existed {
        db::must_be_sqlite(path)?;
    }
    let known = existed && Replica::open(path).is_ok();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Failure::new(Kind::Invalid, format!("there is no folder {}", folder.display()))
            .hint("make it first, or name another file")
            .into());
    }
    let builder = Replica::builder(path);
    let builder = match &init.app {
        Some(app) => builder.app(app),
        None => builder,
    };
    if init.engine.is_none() && !known {
        engines::ask(path)?;
    }
    let engine = engines::wanted(init.engine.unwrap_or(Engine::Native));
    let replica = spinner::beside("opening", || builder.engine(engine).init())?;
    if engine == TableEngine::CrSqlite && replica.engine()? == TableEngine::Native {
        let message = format!("{} is a replica already, which isle alone keeps", path.display());
        return Err(Failure::new(Kind::Invalid, message).hint("`isle engine cr-sqlite` lets cr-sqlite keep it").into());
    }
    let status = replica.status()?;
    if let Some(app) = init.app.as_ref().filter(|app| **app != status.app) {
        let message = format!("{} is a replica of app {:?} already, not of {app:?}", path.display(), status.app);
        return Err(Failure::new(Kind::Invalid, message).into());
    }
    let outcomes = match init.track_all || !(init.no_track || known) {
        true => track_all(&replica)?,
        false => Vec::new(),
    };
    show_init(path, &status, (existed, known), &outcomes, &engines::lowered(&replica)?, out)?;
    let refused = outcomes.iter().any(|outcome| outcome.refused.is_some());
    Ok(if refused && init.strict { Kind::Blocked.code() } else { 0 })
}

fn track_all(replica: &Replica) -> anyhow::Result<Vec<Outcome>> {
    let (tracked, refused) = spinner::beside("taking in the tables", || replica.track_all())?;
    let mut outcomes = Vec::new();
    for table in tracked {
        outcomes.push(Outcome { rows: db::count_rows(replica, &table)?, table, refused: None });
    }
    for (table, error) in refused {
        let reason = match error {
            isle::Error::Store(StoreError::Untrackable { reason, .. }) => reason,
            other => other.to_string(),
        };
        let rows = db::count_rows(replica, &table)?;
        outcomes.push(Outcome { table, rows, refused: Some(reason) });
    }
    Ok(outcomes)
}

fn show_init(
    path: &Path,
    status: &Status,
    (existed, known): (bool, bool),
    outcomes: &[Outcome],
    lowered: &[TableEngineOf],
    out: &mut Out,
) -> anyhow::Result<()> {
    let state = match (known, existed) {
        (true, _) => "was a replica already",
        (false, true) => "is a replica now; it stays an ordinary SQLite file",
        (false, false) => "is a new replica",
    };
    let (refused, tracked): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.refused.is_some());
    let done = out.json(&json!({
        "file": status.path.to_string_lossy(),
        "app": status.app,
        "site": status.site.to_string(),
        "new": !existed,
        "was_replica": known,
        "tracked": tracked.iter().map(|t| json!({ "table": t.table, "rows": t.rows })).collect::<Vec<_>>(),
        "refused": refused.iter().map(|t| json!({ "table": t.table, "reason": t.refused })).collect::<Vec<_>>(),
        "not_in_cr_sqlite": lowered.iter().map(|t| json!({ "table": t.table, "reason": t.reason })).collect::<Vec<_>>(),
    }))?;
    if done {
        return Ok(());
    }
    let (green, yellow) = (out.style.green("✓"), out.style.yellow("!"));
    out.note(format!("{green} {} {state}", path.display()))?;
    for outcome in tracked {
        out.note(format!("{green} tracks {}, {}", outcome.table, count(outcome.rows.unsigned_abs(), "row")))?;
    }
    for outcome in &refused {
        let reason = outcome.refused.as_deref().unwrap_or_default();
        out.note(format!("{yellow} does not track {}: {reason}", outcome.table))?;
    }
    engines::show_lowered(lowered, out)?;
    if status.tables.is_empty() && outcomes.is_empty() {
        out.note("no table is tracked yet: create some with `isle exec`, then `isle track TABLE…`")?;
    } else if status.remotes.is_empty() {
        out.note("next: `isle remote add NAME URL`, then `isle sync`")?;
    }
    Ok(())
}

pub(crate) fn track(args: &Args, tables: &[String], out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let mut names: Vec<&str> = Vec::new();
    for table in tables {
        if !names.iter().any(|known| known.eq_ignore_ascii_case(table)) {
            names.push(table);
        }
    }
    spinner::beside("taking in the tables", || replica.track(&names))?;
    let mut rows = Vec::new();
    for table in names {
        rows.push((table, db::count_rows(&replica, table)?));
    }
    let tracked: Vec<_> = rows.iter().map(|(table, rows)| json!({ "table": table, "rows": rows })).collect();
    if !out.json(&json!({ "tracked": tracked }))? {
        for (table, rows) in rows {
            let mark = out.style.green("✓");
            out.note(format!("{mark} tracks {table}, {}", count(rows.unsigned_abs(), "row")))?;
        }
        let mut lowered = engines::lowered(&replica)?;
        lowered.retain(|lowered| tables.iter().any(|table| table.eq_ignore_ascii_case(&lowered.table)));
        engines::show_lowered(&lowered, out)?;
    }
    Ok(0)
}

pub(crate) fn untrack(args: &Args, tables: &[String], out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    for table in tables {
        spinner::beside("taking isle off the table", || replica.untrack(table))?;
    }
    if !out.json(&json!({ "untracked": tables }))? {
        let mark = out.style.green("✓");
        for table in tables {
            out.note(format!("{mark} {table} stays on this device from now on; its rows are still there"))?;
        }
    }
    Ok(0)
}

pub(crate) fn detach(args: &Args, yes: bool, out: &mut Out) -> anyhow::Result<u8> {
    let path = db::path(args)?;
    let replica = Replica::open(&path)?;
    let status = replica.status()?;
    let unsynced = status.version.saturating_sub(status.published) + status.queued;
    if !yes {
        confirm(&path, unsynced, status.repaired, out)?;
    }
    // Its history cannot be had again.
    let backup = match spinner::beside("copying", || replica.back_up_before("detach"))? {
        BackedUp::Done(backup) => Some(backup.path),
        BackedUp::SkippedEmpty => None,
    };
    spinner::beside("taking isle off the file", || replica.detach())?;
    if !out.json(&json!({ "detached": path.to_string_lossy(), "unpublished": unsynced, "backup": backup }))? {
        let mark = out.style.green("✓");
        out.note(format!(
            "{mark} {} is a plain SQLite database; its tables and rows are as they were",
            path.display()
        ))?;
        if let Some(backup) = backup {
            out.note(format!("with its history it is {}", backup.display()))?;
            out.note(format!(
                "  and comes back with `isle --db {} backup restore {}`",
                path.display(),
                backup_id(&backup)
            ))?;
        }
    }
    Ok(0)
}

/// The beginning of a backup's id, from the name of its file.
fn backup_id(backup: &Path) -> String {
    let name = backup.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.len().checked_sub(36).and_then(|at| name.get(at..at + 8)).unwrap_or(&name).to_owned()
}

fn confirm(path: &Path, unsynced: u64, hidden: u64, out: &Out) -> anyhow::Result<()> {
    let lost = match unsynced {
        0 => String::new(),
        n => format!(" ({} not synced yet)", thousands(n)),
    };
    let gone = match hidden {
        0 => String::new(),
        n => format!(" but for {} that a constraint keeps from showing as merged", count(n, "row")),
    };
    let question = format!("detach {}: its history and journal are removed{lost}, the rows stay{gone}", path.display());
    confirm::ask(question, out)
}

/// What stands in a list of tables.
pub(crate) fn table_cells(replica: &Replica, tables: &[String]) -> anyhow::Result<Vec<Vec<Cell>>> {
    let mut rows = Vec::new();
    for table in tables {
        rows.push(vec![Cell::text(table), Cell::number(db::count_rows(replica, table)?)]);
    }
    Ok(rows)
}
