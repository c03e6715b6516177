//! Statements and queries.

use std::io::{self, Read as _, Write};

use anyhow::Context as _;
use isle::{Param, Row, StoreError, Value};
use serde_json::json;

use super::remotes;
use crate::args::{Args, Exec, Query};
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, Table, count};
use crate::script;
use crate::values;

pub(crate) fn exec(args: &Args, exec: &Exec, out: &mut Out) -> anyhow::Result<u8> {
    let script = read_script(exec)?;
    let statements: Vec<&str> =
        script::statements(&script).into_iter().filter(|text| !script::is_transaction_frame(text)).collect();
    if statements.is_empty() && exec.sql.as_ref().is_some_and(|sql| sql != "-") {
        return Err(Failure::new(Kind::Invalid, "there is no statement in the text").into());
    }
    if statements.len() > 1 && !exec.params.is_empty() {
        return Err(Failure::new(Kind::Invalid, "--param fits a single statement, there are several").into());
    }
    let values: Vec<Value> = exec.params.iter().map(|text| values::parse(text)).collect();
    let params: Vec<Param<'_>> = values.iter().map(Value::as_param).collect();
    let replica = remotes::open_synced(args)?;
    let (mut changed, mut returned) = (0, Vec::new());
    replica.write(|tx| {
        for statement in &statements {
            let sqlite = tx.as_rusqlite();
            let before = sqlite.total_changes();
            let rows = tx.query(statement, &params)?;
            // What changed nothing leaves the count of the statement before it.
            if sqlite.total_changes() != before {
                changed += sqlite.changes();
            }
            if !rows.is_empty() {
                returned.push(rows);
            }
        }
        Ok(())
    })?;
    let rows: Vec<_> = returned.iter().flatten().map(row_object).collect();
    let mut result = json!({ "statements": statements.len(), "rows_changed": changed });
    if let (false, Some(fields)) = (rows.is_empty(), result.as_object_mut()) {
        fields.insert("rows".to_owned(), rows.into());
    }
    if !out.json(&result)? {
        for rows in returned {
            let mut table = Table::new(rows.first().map(|row| row.columns().to_vec()).unwrap_or_default());
            for row in &rows {
                table.row(out, row.values().iter().map(Cell::value).collect())?;
            }
            table.finish(out)?;
        }
        out.note(format!("{} changed", count(changed, "row")))?;
    }
    Ok(0)
}

fn row_object(row: &Row) -> serde_json::Value {
    values::row_to_json(&values::distinct(row.columns()), row)
}

fn read_script(exec: &Exec) -> anyhow::Result<String> {
    match (&exec.sql, &exec.file) {
        (Some(sql), _) if sql == "-" => {
            let mut script = String::new();
            io::stdin().read_to_string(&mut script).context("cannot read the script from standard input")?;
            Ok(script)
        }
        (Some(sql), _) => Ok(sql.clone()),
        (None, Some(path)) => {
            if !path.exists() {
                return Err(Failure::new(Kind::Invalid, format!("there is no file {}", path.display())).into());
            }
            std::fs::read_to_string(path).with_context(|| format!("cannot read the script {}", path.display()))
        }
        (None, None) => Err(Failure::new(Kind::Invalid, "what? `isle exec SQL`").into()),
    }
}

/// How rows are shown.
enum Format {
    Table(Table),
    Csv,
    /// Whether a row has been written.
    Json(bool),
}

pub(crate) fn query(args: &Args, query: &Query, out: &mut Out) -> anyhow::Result<u8> {
    let values: Vec<Value> = query.params.iter().map(|text| values::parse(text)).collect();
    let params: Vec<Param<'_>> = values.iter().map(Value::as_param).collect();
    let replica = remotes::open_synced(args)?;
    // An error of the output stops the query, and is the one that counts.
    let mut stopped = None;
    let result = replica.read(|q| {
        let columns = q.columns(&query.sql)?;
        let mut format = match (out.json, query.csv) {
            (true, _) => Format::Json(false),
            (false, true) => Format::Csv,
            (false, false) => Format::Table(Table::new(columns.clone())),
        };
        let names = values::distinct(&columns);
        let mut stop = |result: anyhow::Result<()>| {
            result.map_err(|error| {
                stopped = Some(error);
                isle::Error::Row { reason: "it could not be written".to_owned() }
            })
        };
        stop(begin(&format, &columns, out))?;
        q.for_each(&query.sql, &params, |row| stop(show(&mut format, &names, &row, out)))?;
        stop(end(format, &columns, out))
    });
    match (stopped, result) {
        (Some(error), _) => Err(error),
        (None, Err(isle::Error::Store(StoreError::ReadOnly { .. }))) => {
            let failure = Failure::new(Kind::Invalid, "the statement writes, and `isle query` only reads");
            Err(failure.hint("use `isle exec`").into())
        }
        (None, result) => result.map(|()| 0).map_err(Into::into),
    }
}

fn begin(format: &Format, columns: &[String], out: &mut Out) -> anyhow::Result<()> {
    match format {
        Format::Csv if !columns.is_empty() => {
            csv_line(out.writer(), columns.iter().map(|name| Some(name.as_str())))?;
        }
        // The bracket comes with the first row: a query that fails before it prints nothing.
        _ => {}
    }
    Ok(())
}

fn show(format: &mut Format, names: &[String], row: &Row, out: &mut Out) -> anyhow::Result<()> {
    match format {
        Format::Table(table) => table.row(out, row.values().iter().map(Cell::value).collect()),
        Format::Csv => {
            let texts: Vec<Option<String>> = row.values().iter().map(csv_text).collect();
            Ok(csv_line(out.writer(), texts.iter().map(Option::as_deref))?)
        }
        Format::Json(written) => {
            write!(out.writer(), "{}", if *written { ",\n " } else { "[\n " })?;
            *written = true;
            let object = values::row_to_json(names, row);
            Ok(serde_json::to_writer(out.writer(), &object).map_err(io::Error::from)?)
        }
    }
}

fn end(format: Format, columns: &[String], out: &mut Out) -> anyhow::Result<()> {
    match format {
        Format::Table(mut table) if !columns.is_empty() => table.finish(out),
        Format::Json(written) => Ok(writeln!(out.writer(), "{}", if written { "\n]" } else { "[]" })?),
        _ => Ok(()),
    }
}

fn csv_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Blob(bytes) => Some(values::hex(bytes)),
        other => Some(other.to_string()),
    }
}

/// One record after RFC 4180. NULL is nothing at all, the empty text is `""`.
fn csv_line<'t>(writer: &mut impl Write, fields: impl Iterator<Item = Option<&'t str>>) -> io::Result<()> {
    for (n, field) in fields.enumerate() {
        if n > 0 {
            write!(writer, ",")?;
        }
        match field {
            None => {}
            Some(text) if text.is_empty() || text.contains([',', '"', '\n', '\r']) => {
                write!(writer, "\"{}\"", text.replace('"', "\"\""))?;
            }
            Some(text) => write!(writer, "{text}")?,
        }
    }
    writeln!(writer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_keeps_null_and_nothing_apart() {
        let mut text = Vec::new();
        let fields = [None, Some(""), Some("a,b"), Some("say \"hi\""), Some("plain")];
        csv_line(&mut text, fields.into_iter()).expect("memory");
        assert_eq!(String::from_utf8_lossy(&text), ",\"\",\"a,b\",\"say \"\"hi\"\"\",plain\n");
    }
}
