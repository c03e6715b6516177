//! What was done, and what came of it.

use isle::{Operation, Replica};
use serde_json::{Value, json};

use crate::args::{Args, OpsAction};
use crate::db;
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, printable, time};

pub(crate) fn run(args: &Args, action: &OpsAction, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    match action {
        OpsAction::List { kind, limit } => list(&replica, kind.as_deref(), *limit, out)?,
        OpsAction::Show { id } => show(&replica, *id, out)?,
    }
    Ok(0)
}

fn to_json(operation: &Operation) -> Value {
    json!({
        "id": operation.id,
        "kind": operation.kind,
        "target": operation.target,
        "started": time(operation.started_ms),
        "ended": time(operation.ended_ms),
        "state": state(operation),
        "error": operation.error,
        "times": operation.times,
        "facts": serde_json::from_str::<Value>(&operation.facts).unwrap_or_default(),
    })
}

fn state(operation: &Operation) -> &'static str {
    if operation.error.is_some() { "failed" } else { "completed" }
}

fn list(replica: &Replica, kind: Option<&str>, limit: usize, out: &mut Out) -> anyhow::Result<()> {
    let operations = replica.operations(kind, limit)?;
    if out.json(&operations.iter().map(to_json).collect::<Vec<_>>())? {
        return Ok(());
    }
    if operations.is_empty() {
        return out.note("nothing was done yet: `isle sync`");
    }
    let row = |operation: &Operation| {
        let facts = serde_json::from_str::<Value>(&operation.facts).unwrap_or_default();
        let fact = |name: &str| facts.get(name).and_then(Value::as_u64).unwrap_or(0);
        let what = match &operation.error {
            Some(error) if operation.times > 1 => format!("{} times: {}", operation.times, printable(error)),
            Some(error) => printable(error),
            None if operation.kind != "sync" => {
                match facts.get("comment").or(facts.get("reason")).and_then(Value::as_str) {
                    Some("manual") | None => String::new(),
                    Some(why) => printable(why),
                }
            }
            None => {
                let conflicts = match fact("conflicts") {
                    0 => String::new(),
                    n => format!(", {n} to the journal"),
                };
                format!("{} received, {} sent{conflicts}", fact("pulled_versions"), fact("pushed_versions"))
            }
        };
        vec![
            Cell::number(operation.id),
            Cell::text(time(operation.ended_ms)),
            Cell::text(&operation.kind),
            Cell::text(printable(&operation.target)),
            Cell::text(state(operation)),
            Cell::text(what),
        ]
    };
    out.table(&["ID", "TIME", "KIND", "WITH", "STATE", ""], operations.iter().map(row).collect())
}

fn show(replica: &Replica, id: i64, out: &mut Out) -> anyhow::Result<()> {
    let all = replica.operations(None, usize::MAX)?;
    let Some(operation) = all.into_iter().find(|operation| operation.id == id) else {
        return Err(Failure::new(Kind::Invalid, format!("there is no operation {id}")).hint("`isle ops list`").into());
    };
    let object = to_json(&operation);
    if out.json(&object)? {
        return Ok(());
    }
    let line = |out: &mut Out, name: &str, value: &Value| {
        let value = value.as_str().map_or_else(|| value.to_string(), printable);
        out.line(format!("{name:<20} {value}"))
    };
    for (name, value) in object.as_object().into_iter().flatten().filter(|(name, _)| *name != "facts") {
        line(out, name, value)?;
    }
    for (name, value) in object["facts"].as_object().into_iter().flatten() {
        let nothing = value.is_null() || *value == json!(0) || *value == json!(false) || *value == json!([]);
        if !nothing {
            line(out, name, value)?;
        }
    }
    Ok(())
}
