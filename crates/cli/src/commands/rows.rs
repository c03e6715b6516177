//! Rows by what their columns hold, and counts of them.

use isle::{Comparison, Filter, Grouping, Per, Row};
use serde_json::json;

use super::remotes;
use crate::args::{Args, List, PerBy, Stats};
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, Table, count};
use crate::values;

pub(crate) fn list(args: &Args, wanted: &List, out: &mut Out) -> anyhow::Result<u8> {
    let mut filter = filter(&wanted.conditions)?.limit(wanted.limit).offset(wanted.offset);
    for column in &wanted.order {
        filter = filter.order_by(column, wanted.desc);
    }
    let replica = remotes::open_synced(args)?;
    let rows = replica.list(&wanted.table, &filter)?;
    let names = rows.first().map(|row| values::distinct(row.columns())).unwrap_or_default();
    if out.json(&rows.iter().map(|row| values::row_to_json(&names, row)).collect::<Vec<_>>())? {
        return Ok(0);
    }
    show(names, &rows, out)?;
    let all = replica.count(&wanted.table, &filter)?;
    let of = if all > rows.len() as u64 { format!(" of {all}") } else { String::new() };
    out.note(format!("{}{of}", count(rows.len() as u64, "row")))?;
    Ok(0)
}

fn show(names: Vec<String>, rows: &[Row], out: &mut Out) -> anyhow::Result<()> {
    let mut table = Table::new(names);
    for row in rows {
        table.row(out, row.values().iter().map(Cell::value).collect())?;
    }
    table.finish(out)
}

pub(crate) fn stats(args: &Args, wanted: &Stats, out: &mut Out) -> anyhow::Result<u8> {
    let filter = filter(&wanted.conditions)?.limit(wanted.limit);
    let replica = remotes::open_synced(args)?;
    let total = replica.count(&wanted.table, &filter)?;
    let Some(column) = &wanted.by else {
        let facts = replica.column_facts(&wanted.table, &filter)?;
        let object = |fact: &isle::ColumnFacts| {
            let (least, greatest) = (values::to_json(&fact.least), values::to_json(&fact.greatest));
            json!({ "column": fact.name, "filled": fact.filled, "distinct": fact.distinct, "least": least, "greatest": greatest })
        };
        let columns: Vec<_> = facts.iter().map(object).collect();
        if !out.json(&json!({ "table": wanted.table, "rows": total, "columns": columns }))? {
            let row = |fact: &isle::ColumnFacts| {
                let (least, greatest) = (Cell::value(&fact.least), Cell::value(&fact.greatest));
                vec![Cell::text(&fact.name), Cell::number(fact.filled), Cell::number(fact.distinct), least, greatest]
            };
            out.table(&["COLUMN", "FILLED", "DIFFERENT", "LEAST", "GREATEST"], facts.iter().map(row).collect())?;
            out.note(count(total, "row"))?;
        }
        return Ok(0);
    };
    let per = wanted.per.map(|per| match per {
        PerBy::Hour => Per::Hour,
        PerBy::Day => Per::Day,
        PerBy::Month => Per::Month,
        PerBy::Year => Per::Year,
    });
    let grouping = Grouping { column: column.clone(), per, sum: wanted.sum.clone() };
    let groups = replica.groups(&wanted.table, &grouping, &filter)?;
    let object = |group: &isle::Group| {
        let mut object = json!({ "value": values::to_json(&group.value), "rows": group.rows });
        if let (Some(_), Some(fields)) = (&wanted.sum, object.as_object_mut()) {
            fields.insert("sum".to_owned(), values::to_json(&group.sum));
        }
        object
    };
    let list: Vec<_> = groups.iter().map(object).collect();
    if out.json(&json!({ "table": wanted.table, "rows": total, "groups": list }))? {
        return Ok(0);
    }
    let row = |group: &isle::Group| {
        let sum = wanted.sum.as_ref().map(|_| Cell::value(&group.sum));
        [Cell::value(&group.value), Cell::number(group.rows)].into_iter().chain(sum).collect()
    };
    let sum = wanted.sum.as_ref().map(|column| format!("SUM OF {column}"));
    let head: Vec<&str> = [column.as_str(), "ROWS"].into_iter().chain(sum.as_deref()).collect();
    out.table(&head, groups.iter().map(row).collect())?;
    out.note(count(total, "row"))?;
    Ok(0)
}

/// Conditions as they are typed.
fn filter(conditions: &[String]) -> anyhow::Result<Filter> {
    conditions.iter().try_fold(Filter::new(), |filter, text| {
        // The first sign in the text counts, and the longest that stands there.
        let signs = [
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("=", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("~", Comparison::Contains),
        ];
        let first = text.find(['!', '<', '>', '=', '~']).unwrap_or(text.len());
        let (column, rest) = text.split_at(first);
        let sign = signs.iter().find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)));
        match sign {
            Some((comparison, value)) if !column.trim().is_empty() => {
                Ok(filter.with(column.trim(), comparison, values::parse(value.trim())))
            }
            _ => {
                let message =
                    format!("{text:?} is no condition: a column, one of = != < <= > >= ~, and a value, as stars>=4");
                Err(Failure::new(Kind::Invalid, message).into())
            }
        }
    })
}
