//! Full-text search.

use serde_json::json;

use super::remotes;
use crate::args::{Args, Search};
use crate::output::{Cell, Out, Table, count};
use crate::values;

pub(crate) fn search(args: &Args, search: &Search, out: &mut Out) -> anyhow::Result<u8> {
    let replica = remotes::open_synced(args)?;
    let hits = replica.search(&search.table, &search.text, search.limit, search.offset)?;
    let names = hits.first().map(|hit| values::distinct(hit.row.columns())).unwrap_or_default();
    let rows: Vec<_> = hits
        .iter()
        .map(|hit| json!({ "rank": hit.rank, "snippet": hit.snippet, "row": values::row_to_json(&names, &hit.row) }))
        .collect();
    if out.json(&rows)? {
        return Ok(0);
    }
    let mut table = Table::new(names.into_iter().chain(["found".to_owned()]).collect());
    for hit in &hits {
        let found = Cell::text(hit.snippet.split_whitespace().collect::<Vec<_>>().join(" "));
        table.row(out, hit.row.values().iter().map(Cell::value).chain([found]).collect())?;
    }
    if !hits.is_empty() {
        table.finish(out)?;
    }
    out.note(format!("{} found", count(hits.len() as u64, "row")))?;
    Ok(0)
}
