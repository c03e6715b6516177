//! How things look: colours, tables, times and amounts.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};

use isle::Value;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

/// Rows of a table whose widths decide the layout; the rest is shown as it comes.
const LAYOUT_ROWS: usize = 1_000;
/// A cell on a terminal is cut at this many columns.
const CELL_MAX: usize = 60;

/// Colours, if somebody looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    /// Colours for a stream, unless the user does not want any.
    fn for_terminal(is_terminal: bool) -> Style {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style { on: is_terminal && !unwanted && !dumb }
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(crate) fn dim(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    pub(crate) fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    pub(crate) fn green(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    pub(crate) fn yellow(self, text: impl Display) -> String {
        self.paint("33", text)
    }
}

/// Standard output.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) json: bool,
    quiet: bool,
    pub(crate) style: Style,
    terminal: bool,
    stdout: BufWriter<Stdout>,
}

impl Out {
    pub(crate) fn new(json: bool, quiet: bool) -> Out {
        let terminal = io::stdout().is_terminal();
        Out { json, quiet, style: Style::for_terminal(terminal), terminal, stdout: BufWriter::new(io::stdout()) }
    }

    /// Where rows are written.
    pub(crate) fn writer(&mut self) -> &mut impl Write {
        &mut self.stdout
    }

    /// Something that was asked for.
    pub(crate) fn line(&mut self, text: impl Display) -> anyhow::Result<()> {
        Ok(writeln!(self.stdout, "{text}")?)
    }

    /// What was done, for people: neither with `--quiet` nor with `--json`.
    pub(crate) fn note(&mut self, text: impl Display) -> anyhow::Result<()> {
        if self.quiet || self.json { Ok(()) } else { self.line(text) }
    }

    /// The result in JSON, if that was asked for; true if it was.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<bool> {
        if self.json {
            serde_json::to_writer_pretty(&mut self.stdout, value).map_err(io::Error::from)?;
            writeln!(self.stdout)?;
        }
        Ok(self.json)
    }

    /// One line of JSON in a stream of them.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.stdout, value).map_err(io::Error::from)?;
        writeln!(self.stdout)?;
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.stdout.flush()?)
    }

    /// A small table, all at once.
    pub(crate) fn table(&mut self, columns: &[&str], rows: Vec<Vec<Cell>>) -> anyhow::Result<()> {
        let mut table = Table::new(columns.iter().map(|name| (*name).to_owned()).collect());
        for row in rows {
            table.row(self, row)?;
        }
        table.finish(self)
    }
}

/// What stands in a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    right: bool,
    dim: bool,
}

impl Cell {
    pub(crate) fn text(text: impl Display) -> Cell {
        Cell { text: printable(&text.to_string()), right: false, dim: false }
    }

    pub(crate) fn number(number: impl Display) -> Cell {
        Cell { text: number.to_string(), right: true, dim: false }
    }

    pub(crate) fn dim(text: impl Display) -> Cell {
        Cell { text: printable(&text.to_string()), right: false, dim: true }
    }

    pub(crate) fn value(value: &Value) -> Cell {
        match value {
            Value::Null => Cell::dim("NULL"),
            Value::Integer(_) | Value::Real(_) => Cell::number(value),
            _ => Cell::text(value),
        }
    }
}

/// Control characters would move the cursor, or worse.
pub(crate) fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// A table that is shown while its rows come: the first rows decide the widths.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<String>,
    waiting: Vec<Vec<Cell>>,
    widths: Option<Vec<usize>>,
}

impl Table {
    pub(crate) fn new(columns: Vec<String>) -> Table {
        Table { columns, waiting: Vec::new(), widths: None }
    }

    pub(crate) fn row(&mut self, out: &mut Out, mut cells: Vec<Cell>) -> anyhow::Result<()> {
        if out.terminal {
            cells.iter_mut().for_each(|cell| cell.text = cut(std::mem::take(&mut cell.text)));
        }
        if let Some(widths) = &self.widths {
            return write_row(out, widths, &cells);
        }
        self.waiting.push(cells);
        if self.waiting.len() >= LAYOUT_ROWS { self.finish(out) } else { Ok(()) }
    }

    /// Shows what waits. To be called once at the end.
    pub(crate) fn finish(&mut self, out: &mut Out) -> anyhow::Result<()> {
        if self.widths.is_some() {
            return Ok(());
        }
        let mut widths: Vec<usize> = self.columns.iter().map(|name| name.width()).collect();
        for row in &self.waiting {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let right = |n: usize| self.waiting.first().and_then(|row| row.get(n)).is_some_and(|cell| cell.right);
        let header: Vec<String> = (0..self.columns.len())
            .map(|n| pad(&self.columns[n], widths[n], right(n), n + 1 == self.columns.len()))
            .collect();
        let header = out.style.bold(header.join("  "));
        out.line(header)?;
        for row in std::mem::take(&mut self.waiting) {
            write_row(out, &widths, &row)?;
        }
        self.widths = Some(widths);
        Ok(())
    }
}

fn write_row(out: &mut Out, widths: &[usize], cells: &[Cell]) -> anyhow::Result<()> {
    let mut line = String::new();
    for (n, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if n > 0 {
            line.push_str("  ");
        }
        let padded = pad(&cell.text, *width, cell.right, n + 1 == widths.len());
        line.push_str(&if cell.dim { out.style.dim(padded) } else { padded });
    }
    out.line(line)
}

fn pad(text: &str, width: usize, right: bool, last: bool) -> String {
    let space = " ".repeat(width.saturating_sub(text.width()));
    match (right, last) {
        (true, _) => format!("{space}{text}"),
        (false, true) => text.to_owned(),
        (false, false) => format!("{text}{space}"),
    }
}

fn cut(text: String) -> String {
    if text.width() <= CELL_MAX {
        return text;
    }
    let mut short = String::new();
    for c in text.chars() {
        let before = short.len();
        short.push(c);
        if short.width() >= CELL_MAX {
            short.truncate(before);
            break;
        }
    }
    short.push('…');
    short
}

/// A time in milliseconds since 1970, in local time.
pub(crate) fn time(ms: u64) -> String {
    let stamp = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match stamp {
        Some(stamp) => stamp.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        None => format!("{ms} ms"),
    }
}

/// A length of time for people, in its largest unit.
pub(crate) fn span(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1_000, "second")];
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| ms >= 2 * unit).unwrap_or((1_000, "second"));
    count(ms / unit, name)
}

/// No write of a person has an earlier time: 2000-01-01.
const EARLIEST_MS: u64 = 946_684_800_000;

/// The time of a write; rows that were there before have none.
pub(crate) fn write_time(hlc: isle::Hlc) -> Option<String> {
    // What a program wrote counts as early as can be, which is no time of day.
    (hlc.ms() >= EARLIEST_MS).then(|| time(hlc.ms()))
}

/// An amount of data for people.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let (mut amount, mut unit) = (bytes as f64, 0);
    while amount >= 999.95 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

/// `1 row`, `2 rows`, `5,000 rows`.
pub(crate) fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(n), if n == 1 { "" } else { "s" })
}

/// Digits in groups of three.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration for people.
pub(crate) fn seconds(ms: u64) -> String {
    if ms < 100 { format!("{ms} ms") } else { format!("{:.1} s", ms as f64 / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(4_100), "4.1 KB");
        assert_eq!(bytes(999_960), "1.0 MB");
        assert_eq!(count(1, "row"), "1 row");
        assert_eq!(count(1_234_567, "row"), "1,234,567 rows");
        assert_eq!(thousands(100), "100");
        assert_eq!(seconds(42), "42 ms");
        assert_eq!(seconds(1_260), "1.3 s");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\nb"), "a\\u{1b}[2J\\nb");
    }

    #[test]
    fn long_cells_are_cut_by_columns() {
        let text = cut("漢".repeat(100));
        assert!(text.width() <= CELL_MAX && text.ends_with('…'), "{text}");
    }
}
