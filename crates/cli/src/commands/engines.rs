//! What keeps the tables of a file.

use std::path::Path;

use isle::{Replica, TableEngine, TableEngineOf};
use serde_json::json;

use crate::args::{Args, Engine};
use crate::db;
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out};
use crate::spinner;

pub(crate) fn run(args: &Args, engine: Option<Engine>, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    if let Some(engine) = engine {
        spinner::beside("handing over the tables", || replica.set_engine(wanted(engine)))?;
    }
    let file = replica.engine()?;
    let tables = replica.table_engines()?;
    let mut left = isle::crrs_of(replica.path());
    left.retain(|name| !tables.iter().any(|table| table.table.eq_ignore_ascii_case(name)));
    let shown = tables.iter().map(|t| json!({ "table": t.table, "engine": name(t.engine), "reason": t.reason }));
    if out.json(&json!({ "engine": name(file), "tables": shown.collect::<Vec<_>>(), "untracked_crrs": left }))? {
        return Ok(0);
    }
    out.line(format!("engine  {}", name(file)))?;
    let row = |table: &TableEngineOf| {
        let reason = table.reason.clone().unwrap_or_default();
        vec![Cell::text(&table.table), Cell::text(name(table.engine)), Cell::dim(reason)]
    };
    out.table(&["TABLE", "KEPT BY", ""], tables.iter().map(row).collect())?;
    if !left.is_empty() {
        out.note(format!("CRRs that stay on this device: `isle track {}` lets them travel", left.join(" ")))?;
    }
    Ok(0)
}

/// Whoever makes a replica of a file of cr-sqlite's has to say what is to keep it.
///
/// # Errors
/// That a decision is needed.
pub(crate) fn ask(path: &Path) -> Result<(), Failure> {
    let crrs = isle::crrs_of(path);
    if crrs.is_empty() {
        return Ok(());
    }
    let message = format!("cr-sqlite keeps tables of {}: {}", path.display(), crrs.join(", "));
    Err(Failure::new(Kind::Decision, message).hint(
        "`isle init --engine cr-sqlite` leaves them so, with their past; `--engine native` tracks the other tables, and these once they are plain ones",
    ))
}

/// Tables that isle keeps although the file is for cr-sqlite.
pub(crate) fn lowered(replica: &Replica) -> anyhow::Result<Vec<TableEngineOf>> {
    let mut tables = replica.table_engines()?;
    tables.retain(|table| table.reason.is_some());
    Ok(tables)
}

pub(crate) fn show_lowered(lowered: &[TableEngineOf], out: &mut Out) -> anyhow::Result<()> {
    let yellow = out.style.yellow("!");
    for table in lowered {
        let reason = table.reason.as_deref().unwrap_or_default();
        out.note(format!("{yellow} isle keeps {}, which cr-sqlite cannot hold: {reason}", table.table))?;
    }
    Ok(())
}

pub(crate) fn wanted(engine: Engine) -> TableEngine {
    match engine {
        Engine::Native => TableEngine::Native,
        Engine::CrSqlite => TableEngine::CrSqlite,
    }
}

pub(crate) fn name(engine: TableEngine) -> &'static str {
    match engine {
        TableEngine::CrSqlite => "cr-sqlite",
        _ => "native",
    }
}
