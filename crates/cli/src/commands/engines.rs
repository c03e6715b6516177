//! What keeps the tables of a file.

use isle::{Replica, TableEngine, TableEngineOf};
use serde_json::json;

use crate::args::{Args, Engine};
use crate::db;
use crate::output::{Cell, Out};
use crate::spinner;

pub(crate) fn run(args: &Args, engine: Option<Engine>, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    if let Some(engine) = engine {
        spinner::beside("handing over the tables", || replica.set_engine(wanted(engine)))?;
    }
    let file = replica.engine()?;
    let tables = replica.table_engines()?;
    let shown = tables.iter().map(|t| json!({ "table": t.table, "engine": name(t.engine), "reason": t.reason }));
    if out.json(&json!({ "engine": name(file), "tables": shown.collect::<Vec<_>>() }))? {
        return Ok(0);
    }
    out.line(format!("engine  {}", name(file)))?;
    let row = |table: &TableEngineOf| {
        let reason = table.reason.clone().unwrap_or_default();
        vec![Cell::text(&table.table), Cell::text(name(table.engine)), Cell::dim(reason)]
    };
    out.table(&["TABLE", "KEPT BY", ""], tables.iter().map(row).collect())?;
    Ok(0)
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

fn name(engine: TableEngine) -> &'static str {
    match engine {
        TableEngine::CrSqlite => "cr-sqlite",
        _ => "native",
    }
}
