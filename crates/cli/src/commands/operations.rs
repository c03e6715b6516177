//! What was done, and what came of it.

use isle::{Operation, OperationState, Replica};
use serde_json::{Value, json};

use crate::args::{Args, OpsAction};
use crate::db;
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, printable, time};

/// How often an operation that is followed is looked at.
const FOLLOW_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

pub(crate) fn run(args: &Args, action: &OpsAction, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    match action {
        OpsAction::List { kind, limit } => list(&replica, kind.as_deref(), *limit, out)?,
        OpsAction::Show { id } => show(&replica, *id, out)?,
        OpsAction::Watch { id } => return follow(&replica, *id, out),
    }
    Ok(0)
}

fn to_json(operation: &Operation) -> Value {
    json!({
        "id": operation.id,
        "kind": operation.kind,
        "target": operation.target,
        "started": time(operation.started_ms),
        "ended": (operation.state != OperationState::Running).then(|| time(operation.ended_ms)),
        "state": operation.state,
        "percent": operation.percent(),
        "done": operation.done,
        "total": operation.total,
        "message": operation.message,
        "error": operation.error,
        "times": operation.times,
        "facts": serde_json::from_str::<Value>(&operation.facts).unwrap_or_default(),
    })
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
            None if operation.state == OperationState::Running => {
                let far = operation.percent().map_or_else(String::new, |percent| format!("{percent} % "));
                format!("{far}{}", printable(operation.message.as_deref().unwrap_or("")))
            }
            None if operation.kind != "sync" => {
                match facts.get("comment").or(facts.get("reason")).and_then(Value::as_str) {
                    Some("manual") => String::new(),
                    None => counts(&facts),
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
            Cell::text(operation.state.as_str()),
            Cell::text(what),
        ]
    };
    out.table(&["ID", "TIME", "KIND", "WITH", "STATE", ""], operations.iter().map(row).collect())
}

/// What an operation with files did, in numbers.
fn counts(facts: &Value) -> String {
    let shown = ["files", "added", "modified", "moved", "back", "missing", "invalid", "unreadable", "chunks"];
    let of = |name: &&str| facts.get(*name).and_then(Value::as_u64).filter(|n| *n > 0).map(|n| format!("{n} {name}"));
    shown.iter().filter_map(of).collect::<Vec<_>>().join(", ")
}

fn show(replica: &Replica, id: i64, out: &mut Out) -> anyhow::Result<()> {
    let operation = find(replica, id)?;
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

fn find(replica: &Replica, id: i64) -> anyhow::Result<Operation> {
    let failure = || Failure::new(Kind::Invalid, format!("there is no operation {id}")).hint("`isle ops list`");
    Ok(replica.operation(id)?.ok_or_else(failure)?)
}

/// Tells how far an operation is until it has ended; the exit code says how.
fn follow(replica: &Replica, id: Option<i64>, out: &mut Out) -> anyhow::Result<u8> {
    let running = || -> anyhow::Result<i64> {
        let newest = replica.operations(None, 1000)?;
        let running = newest.iter().find(|operation| operation.state == OperationState::Running);
        let failure = || Failure::new(Kind::Invalid, "nothing is being done").hint("`isle ops list`");
        Ok(running.ok_or_else(failure)?.id)
    };
    let id = id.map_or_else(running, Ok)?;
    let mut told: Option<Operation> = None;
    loop {
        let operation = find(replica, id)?;
        if told.as_ref() != Some(&operation) {
            if out.json {
                out.json_line(&to_json(&operation))?;
            } else {
                let far = operation.percent().map_or_else(String::new, |percent| format!("{percent:>3} % "));
                let message = printable(operation.message.as_deref().unwrap_or(""));
                out.line(format!("{far}{} {message}", operation.state.as_str()))?;
            }
            out.flush()?;
        }
        match operation.state {
            OperationState::Running => {}
            OperationState::Completed => return Ok(0),
            OperationState::Failed | OperationState::Interrupted => return Ok(Kind::Failed.code()),
        }
        told = Some(operation);
        std::thread::sleep(FOLLOW_EVERY);
    }
}
