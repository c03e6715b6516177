//! What is measured, and which figures come out of it.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::data::Keys;
use crate::engine::{Conflict, Cx, Engine};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Milliseconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// How the unit is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Bytes => "bytes",
        }
    }
}

/// One line of the report.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name, unique in the report.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// What its values count.
    pub unit: Unit,
    /// Which of the workload's figures of plain SQLite it is divided by.
    pub baseline: usize,
}

/// One value per figure of the workload, where the engine has that figure.
pub type Sample = Vec<Option<f64>>;

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// The name `--only` takes.
    pub name: &'static str,
    /// The figures a sample consists of.
    pub figures: &'static [Figure],
    /// Takes one sample, or none if the engine cannot do this.
    pub sample: fn(&mut dyn Engine, &Cx<'_>) -> Result<Option<Sample>>,
}

/// The workloads with these names, all of them if there are no names.
///
/// # Errors
/// When there is no workload of such a name.
pub fn select(names: &[String]) -> Result<Vec<&'static Workload>> {
    if let Some(unknown) = names.iter().find(|name| ALL.iter().all(|workload| workload.name != **name)) {
        let known: Vec<_> = ALL.iter().map(|workload| workload.name).collect();
        bail!("there is no workload {unknown}; there are {}", known.join(", "));
    }
    Ok(ALL.iter().filter(|workload| names.is_empty() || names.iter().any(|name| name == workload.name)).collect())
}

const fn time(name: &'static str, title: &'static str) -> Figure {
    Figure { name, title, unit: Unit::Milliseconds, baseline: 0 }
}

const fn bytes(name: &'static str, title: &'static str) -> Figure {
    Figure { name, title, unit: Unit::Bytes, baseline: 0 }
}

fn text(edit: crate::text::TextEdit) -> Sample {
    [edit.first, edit.next, edit.apply].map(|time| Some(milliseconds(time))).to_vec()
}

/// All workloads, in the order of the report.
pub const ALL: &[Workload] = &[
    Workload {
        name: "insert",
        figures: &[time("insert", "insert all rows")],
        sample: |engine, cx| Ok(single(engine.insert(cx, Keys::Int)?)),
    },
    Workload {
        name: "insert-uuid",
        figures: &[time("insert-uuid", "insert all rows, UUID keys")],
        sample: |engine, cx| Ok(single(engine.insert(cx, Keys::Uuid)?)),
    },
    Workload {
        name: "foreign-insert",
        figures: &[
            time("foreign-insert.write", "insert by a foreign client"),
            time("foreign-insert.capture", "  its capture at next touch (vs. the insert)"),
            time("foreign-insert.both", "  both together"),
        ],
        sample: foreign_insert,
    },
    Workload {
        name: "update-column",
        figures: &[time("update-column", "update a column of each row by key")],
        sample: |engine, cx| Ok(single(engine.update_column(cx)?)),
    },
    Workload {
        name: "counter",
        figures: &[
            time("counter.insert", "insert all rows, one column a counter"),
            Figure { baseline: 1, ..time("counter.update", "  update the counter of each row") },
            Figure { baseline: 2, ..time("counter.apply", "  apply both to an empty replica") },
        ],
        sample: |engine, cx| {
            let sample = engine.counter(cx)?;
            Ok(sample.map(|it| [it.insert, it.update, it.apply].map(|time| Some(milliseconds(time))).to_vec()))
        },
    },
    Workload {
        name: "change-table",
        figures: &[
            time("change-table.add", "add a column to a full table"),
            Figure { baseline: 1, ..time("change-table.rebuild", "  give it a CHECK") },
        ],
        sample: |engine, cx| {
            let sample = engine.change_table(cx)?;
            Ok(sample.map(|it| [it.add, it.rebuild].map(|time| Some(milliseconds(time))).to_vec()))
        },
    },
    Workload {
        name: "text",
        figures: &[
            time("text.first", "edit a text of 100 KB, first after opening"),
            Figure { baseline: 1, ..time("text.next", "  one edit more") },
            Figure { baseline: 2, ..time("text.apply", "  take it in elsewhere") },
        ],
        sample: |engine, cx| Ok(engine.edit_text(cx, 100_000)?.map(text)),
    },
    Workload {
        name: "text-1mb",
        figures: &[
            time("text-1mb.first", "edit a text of 1 MB, first after opening"),
            Figure { baseline: 1, ..time("text-1mb.next", "  one edit more") },
            Figure { baseline: 2, ..time("text-1mb.apply", "  take it in elsewhere") },
        ],
        sample: |engine, cx| Ok(engine.edit_text(cx, 1_000_000)?.map(text)),
    },
    Workload {
        name: "delete-half",
        figures: &[time("delete-half", "delete a random half by key")],
        sample: |engine, cx| Ok(single(engine.delete_half(cx)?)),
    },
    Workload {
        name: "small-transactions",
        figures: &[time("small-transactions", "1,000 transactions of 10 updates")],
        sample: |engine, cx| Ok(single(engine.small_transactions(cx)?)),
    },
    Workload {
        name: "extract",
        figures: &[time("extract", "hand over all changes")],
        sample: |engine, cx| Ok(single(engine.extract(cx, Keys::Int)?)),
    },
    Workload {
        name: "extract-uuid",
        figures: &[time("extract-uuid", "hand over all changes, UUID keys")],
        sample: |engine, cx| Ok(single(engine.extract(cx, Keys::Uuid)?)),
    },
    Workload {
        name: "apply",
        figures: &[time("apply", "apply all to an empty replica")],
        sample: |engine, cx| Ok(single(engine.apply(cx, Keys::Int)?)),
    },
    Workload {
        name: "apply-uuid",
        figures: &[time("apply-uuid", "apply all to an empty replica, UUID keys")],
        sample: |engine, cx| Ok(single(engine.apply(cx, Keys::Uuid)?)),
    },
    Workload {
        name: "conflicting-updates",
        figures: &[time("conflicting-updates", "apply conflicting updates, up to 50,000")],
        sample: |engine, cx| Ok(single(engine.apply_conflicts(cx, Conflict::Update)?)),
    },
    Workload {
        name: "conflicting-deletes",
        figures: &[time("conflicting-deletes", "apply conflicting deletes, up to 50,000")],
        sample: |engine, cx| Ok(single(engine.apply_conflicts(cx, Conflict::Delete)?)),
    },
    Workload {
        name: "bytes-sent",
        figures: &[bytes("bytes-sent", "bytes sent, zstd 3")],
        sample: |engine, cx| Ok(engine.bytes_sent(cx, Keys::Int)?.map(|size| vec![Some(size as f64)])),
    },
    Workload {
        name: "bytes-sent-uuid",
        figures: &[bytes("bytes-sent-uuid", "bytes sent, zstd 3, UUID keys")],
        sample: |engine, cx| Ok(engine.bytes_sent(cx, Keys::Uuid)?.map(|size| vec![Some(size as f64)])),
    },
    Workload {
        name: "file-size",
        figures: &[bytes("file-size", "file size"), bytes("file-size.compacted", "  after compaction (vs. plain)")],
        sample: file_size,
    },
    Workload {
        name: "one-row",
        figures: &[
            time("one-row.write", "one-row transaction: write"),
            Figure { baseline: 1, ..time("one-row.extract", "  extract") },
            Figure { baseline: 2, ..time("one-row.apply", "  apply") },
        ],
        sample: one_row,
    },
    Workload {
        name: "open",
        figures: &[time("open", "open 20 tracked tables, first read")],
        sample: |engine, cx| Ok(single(engine.open(cx)?)),
    },
    Workload {
        name: "point-reads",
        figures: &[time("point-reads", "20,000 random reads by key")],
        sample: |engine, cx| Ok(single(engine.point_reads(cx)?)),
    },
    Workload {
        name: "full-scan",
        figures: &[time("full-scan", "full scan")],
        sample: |engine, cx| Ok(single(engine.full_scan(cx)?)),
    },
];

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn single(time: Option<Duration>) -> Option<Sample> {
    time.map(|time| vec![Some(milliseconds(time))])
}

fn foreign_insert(engine: &mut dyn Engine, cx: &Cx<'_>) -> Result<Option<Sample>> {
    let sample = engine.foreign_insert(cx)?;
    Ok(sample.map(|it| {
        let both = it.write + it.capture.unwrap_or_default();
        vec![Some(milliseconds(it.write)), it.capture.map(milliseconds), Some(milliseconds(both))]
    }))
}

fn file_size(engine: &mut dyn Engine, cx: &Cx<'_>) -> Result<Option<Sample>> {
    let sample = engine.file_size(cx)?;
    Ok(sample.map(|it| vec![Some(it.with_log as f64), it.compacted.map(|size| size as f64)]))
}

fn one_row(engine: &mut dyn Engine, cx: &Cx<'_>) -> Result<Option<Sample>> {
    let sample = engine.one_row(cx)?;
    Ok(sample.map(|it| [it.write, it.extract, it.apply].map(|time| Some(milliseconds(time))).to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_selected_and_checked() -> Result<()> {
        assert_eq!(select(&[])?.len(), ALL.len());
        assert_eq!(select(&["open".to_owned()])?.len(), 1);
        assert!(select(&["nothing".to_owned()]).is_err());
        Ok(())
    }
}
