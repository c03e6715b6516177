//! The journal of values that lost.

use isle::{Conflict, ConflictBase, Reason, Repaired, Replica, Resolution, SiteId, Value};
use serde_json::{Map, json};

use super::Names;
use crate::args::{Args, Conflicts, ConflictsAction, Listing, Take};
use crate::db;
use crate::output::{Cell, Out, count, thousands, write_time};
use crate::values;

/// How many are listed if nobody says.
const LIMIT: usize = 100;

pub(crate) fn run(args: &Args, conflicts: &Conflicts, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    match &conflicts.action {
        None => list(&replica, &conflicts.listing, out)?,
        Some(ConflictsAction::List(listing)) => {
            // What stands before the word counts as well: `isle conflicts --all list`.
            let (outer, limit) = (&conflicts.listing, listing.limit.or(conflicts.listing.limit));
            list(&replica, &Listing { all: listing.all || outer.all, limit }, out)?;
        }
        Some(ConflictsAction::Hidden { limit }) => hidden(&replica, *limit, out)?,
        Some(ConflictsAction::Show { id }) => show(&replica, *id, out)?,
        Some(ConflictsAction::Resolve(resolve)) => {
            let resolution = match (&resolve.value, resolve.take, resolve.put_back) {
                (Some(value), ..) => Resolution::Value(values::parse(value)),
                (_, Some(Take::Base), _) => Resolution::Base,
                (_, Some(Take::Ours), _) => Resolution::Ours,
                (_, Some(Take::Theirs), _) => Resolution::Theirs,
                (None, None, true) => Resolution::PutBack,
                (None, None, false) => Resolution::Keep,
            };
            match resolve.id {
                Some(id) => apply(&replica, id, &resolution, out)?,
                None => keep_all(&replica, resolve.table.as_deref(), out)?,
            }
        }
    }
    Ok(0)
}

/// Why the value lost, in a few words.
pub(crate) fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::Older => "a later write won",
        Reason::Deleted => "the row was deleted",
        Reason::NotOfKind => "it is no value of the column's kind",
        Reason::Change => "what it changed is gone; this is what it added",
        Reason::Constraint => "a constraint of this table refuses the row",
        _ => "the row is unknown here",
    }
}

/// The row, as `table 7` or `table (1, 2)`, with the column.
pub(crate) fn place(conflict: &Conflict) -> String {
    let keys: Vec<String> = conflict.key.iter().map(|(_, value)| value.to_string()).collect();
    let key = if keys.len() == 1 { keys.join("") } else { format!("({})", keys.join(", ")) };
    let column = conflict.column.as_deref().unwrap_or("key");
    format!("{} {key} · {column}", conflict.table)
}

fn name_of(names: &Names, site: Option<SiteId>) -> String {
    site.map_or_else(|| "unknown".to_owned(), |site| names.of(site))
}

pub(crate) fn to_json(conflict: &Conflict, names: &Names) -> serde_json::Value {
    let key: Map<_, _> = conflict.key.iter().map(|(name, value)| (name.clone(), values::to_json(value))).collect();
    json!({
        "id": conflict.id,
        "table": conflict.table,
        "key": key,
        "column": conflict.column,
        "lost": values::to_json(&conflict.value),
        "lost_device": conflict.site.map(|site| names.of(site)),
        "lost_written": write_time(conflict.hlc),
        "current": conflict.current.as_ref().map(values::to_json),
        "row_exists": conflict.current.is_some(),
        "won_device": conflict.winner.map(|site| names.of(site)),
        "won_written": conflict.winner_hlc.and_then(write_time),
        "reason": conflict.reason.as_str(),
        "resolved": conflict.resolved,
    })
}

fn list(replica: &Replica, listing: &Listing, out: &mut Out) -> anyhow::Result<()> {
    let names = Names::new(&replica.status()?);
    let conflicts = replica.conflicts(listing.all, listing.limit.unwrap_or(LIMIT))?;
    let more = replica.count_conflicts(listing.all)?.saturating_sub(conflicts.len() as u64);
    let objects: Vec<_> = conflicts.iter().map(|conflict| to_json(conflict, &names)).collect();
    if out.json(&json!({ "conflicts": objects, "more": more }))? {
        return Ok(());
    }
    if conflicts.is_empty() && more == 0 {
        return out.note("no value waits in the journal");
    }
    let row = |conflict: &Conflict| {
        let current = conflict.current.as_ref().map_or_else(|| Cell::dim("row gone"), |v| Cell::text(values::quote(v)));
        let state = if conflict.resolved { "resolved" } else { why(conflict.reason) };
        vec![
            Cell::number(conflict.id),
            Cell::text(place(conflict)),
            Cell::text(values::quote(&conflict.value)),
            current,
            Cell::text(name_of(&names, conflict.site)),
            Cell::dim(state),
        ]
    };
    out.table(&["ID", "WHERE", "LOST", "NOW", "LOST BY", "WHY"], conflicts.iter().map(row).collect())?;
    if more > 0 {
        let all = out.style.yellow(format!("and {} more, older: `isle conflicts list -n N`", thousands(more)));
        out.line(all)?;
    }
    out.note(
        "in full: `isle conflicts show ID`; settle: `isle conflicts resolve ID --keep | --put-back | --take base | --value V`,",
    )?;
    out.note("or keep what stands everywhere: `isle conflicts resolve --all [--table TABLE]`")
}

fn hidden(replica: &Replica, limit: usize, out: &mut Out) -> anyhow::Result<()> {
    let rows = replica.repaired(limit)?;
    let more = replica.status()?.repaired.saturating_sub(rows.len() as u64);
    let object = |row: &Repaired| {
        let key: Map<_, _> = row.key.iter().map(|(name, value)| (name.clone(), values::to_json(value))).collect();
        json!({
            "table": row.table,
            "key": key,
            "hidden": row.hidden,
            "constraint": row.constraint,
            "values": row.values.iter().map(values::to_json).collect::<Vec<_>>(),
            "instead": row.instead.as_ref().map(|key| key.iter().map(values::to_json).collect::<Vec<_>>()),
        })
    };
    let objects: Vec<_> = rows.iter().map(object).collect();
    if out.json(&json!({ "rows": objects, "more": more }))? {
        return Ok(());
    }
    if rows.is_empty() {
        return out.note("every row shows as it is merged");
    }
    let listed = |values: &[Value]| {
        let values: Vec<String> = values.iter().map(values::quote).collect();
        if values.len() == 1 { values.join("") } else { format!("({})", values.join(", ")) }
    };
    let cells = |row: &Repaired| {
        let key: Vec<Value> = row.key.iter().map(|(_, value)| value.clone()).collect();
        let why = match (&row.instead, row.hidden) {
            (Some(instead), true) => format!("{} has {}", listed(instead), listed(&row.values)),
            (Some(instead), false) => {
                format!("{} has {}; it shows with a number", listed(instead), listed(&row.values))
            }
            (None, true) => format!("there is no {}", listed(&row.values)),
            (None, false) => format!("there is no {}; it shows without", listed(&row.values)),
        };
        vec![Cell::text(format!("{} {}", row.table, listed(&key))), Cell::text(&row.constraint), Cell::text(why)]
    };
    out.table(&["ROW", "CONSTRAINT", "WHY"], rows.iter().map(cells).collect())?;
    if more > 0 {
        out.line(out.style.yellow(format!("and {} more: `isle conflicts hidden -n N`", thousands(more))))?;
    }
    out.note("such a row shows again once that is changed, deleted, or there")
}

fn keep_all(replica: &Replica, table: Option<&str>, out: &mut Out) -> anyhow::Result<()> {
    let resolved = replica.resolve_conflicts(table)?;
    if !out.json(&json!({ "resolved": resolved, "table": table }))? {
        let of = table.map_or_else(String::new, |table| format!(" of table {table}"));
        match resolved {
            0 => out.note(format!("no open conflict{of}"))?,
            n => {
                let mark = out.style.green("✓");
                out.note(format!("{mark} {}{of} dealt with; the values stay as they stand now", count(n, "conflict")))?;
            }
        }
    }
    Ok(())
}

fn show(replica: &Replica, id: i64, out: &mut Out) -> anyhow::Result<()> {
    let names = Names::new(&replica.status()?);
    let conflict = replica.conflict(id)?;
    let base = replica.conflict_base(id)?;
    let mut object = to_json(&conflict, &names);
    if let Some(fields) = object.as_object_mut() {
        let value = if let ConflictBase::Value(value) = &base { values::to_json(value) } else { json!(null) };
        fields.insert("base".to_owned(), value);
        fields.insert("base_known".to_owned(), json!(base != ConflictBase::Unknown));
    }
    if out.json(&object)? {
        return Ok(());
    }
    let style = out.style;
    let stamp = |site: Option<SiteId>, hlc: Option<isle::Hlc>| match hlc.and_then(write_time) {
        Some(time) => format!("by {} at {time}", name_of(&names, site)),
        None => format!("by {}", name_of(&names, site)),
    };
    let keys = conflict.key.iter().map(|(name, value)| format!("{name} = {}", values::quote(value)));
    let row = format!("{} where {}", conflict.table, keys.collect::<Vec<_>>().join(" and "));
    let current = conflict.current.as_ref().map_or_else(|| style.dim("the row is gone"), values::quote);
    out.line(format!("{} {}", style.bold("conflict"), style.bold(id)))?;
    out.line(format!("row     {row}"))?;
    out.line(format!("column  {}", conflict.column.as_deref().unwrap_or("the exact spelling of the key")))?;
    let base = match base {
        ConflictBase::Value(value) => values::quote(&value),
        ConflictBase::Absent => style.dim("there was no such row"),
        ConflictBase::Unknown => style.dim("the log does not reach back so far"),
    };
    out.line(format!("base    {base}"))?;
    let lost = style.yellow(values::quote(&conflict.value));
    out.line(format!("lost    {lost}  written {}", stamp(conflict.site, Some(conflict.hlc))))?;
    out.line(format!("won     {}, {}", why(conflict.reason), stamp(conflict.winner, conflict.winner_hlc)))?;
    out.line(format!("now     {current}"))?;
    if conflict.resolved {
        return out.line("this conflict was dealt with");
    }
    out.note(format!("keep what stands:    isle conflicts resolve {id} --keep"))?;
    if conflict.current.is_none() && conflict.column.is_some() {
        return out.note("the row is gone: insert it again first if you want the value back");
    }
    if conflict.reason != Reason::Change {
        out.note(format!("put the lost back:   isle conflicts resolve {id} --put-back"))?;
    }
    out.note(format!("write something else: isle conflicts resolve {id} --value V"))
}

fn apply(replica: &Replica, id: i64, resolution: &Resolution, out: &mut Out) -> anyhow::Result<()> {
    replica.resolve(id, resolution)?;
    let conflict = replica.conflict(id)?;
    if out.json(&to_json(&conflict, &Names::new(&replica.status()?)))? {
        return Ok(());
    }
    let mark = out.style.green("✓");
    let now = conflict.current.as_ref().map_or_else(|| "gone".to_owned(), values::quote);
    let travels = if matches!(resolution, Resolution::Keep) { "" } else { "; it travels with the next sync" };
    out.note(format!("{mark} {} is {now}{travels}", place(&conflict)))
}

/// A line of the journal as a sentence.
pub(crate) fn sentence(conflict: &Conflict, names: &Names) -> String {
    let lost = format!("{} of {}", values::quote(&conflict.value), name_of(names, conflict.site));
    match &conflict.current {
        Some(current) => {
            format!(
                "{}: {lost} lost to {} of {}",
                place(conflict),
                values::quote(current),
                name_of(names, conflict.winner)
            )
        }
        None => format!("{}: {lost} lost, {} deleted the row", place(conflict), name_of(names, conflict.winner)),
    }
}
