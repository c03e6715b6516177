//! Statements in a definition that change rows. A definition says what tables are: run on the empty tables of a scratch database such a statement
//! would do nothing, and nobody would be told. In a numbered file it is what the app does to its data when that version is reached.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::hooks::{AuthAction, AuthContext};
use rusqlite::{Batch, Connection};

use super::scratch;
use crate::StoreError;
use crate::error::Doing as _;

/// What a file of a definition says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    /// Its text without the statements that change rows.
    pub structure: String,
    /// Those, in their order.
    pub data: Vec<String>,
}

/// A statement that changes rows.
pub(super) struct DataStatement {
    /// Without what stands before its first word.
    pub(super) text: String,
    pub(super) table: String,
    /// Where it begins in the definition.
    at: usize,
    /// Why its outcome may differ from one device to another.
    differs: Option<String>,
}

/// Tells apart what the files of a definition, each with its name, say of tables, and what they do to rows. They are read one after the other, as each may need the tables of
/// those before it. Comments stay with the tables: some of them are directives.
///
/// # Errors
/// [`StoreError::DefinitionFile`] when SQLite does not take the SQL; [`StoreError::DefinitionRefused`] for a statement whose outcome would differ from one device
/// to another: it has parameters, draws random numbers or asks for the time.
pub fn split_definition(files: &[(String, String)]) -> Result<Vec<Parts>, StoreError> {
    let mut conn = scratch()?;
    let (mut all, mut reasons) = (Vec::new(), Vec::new());
    for (name, file) in files {
        let (mut parts, mut done) = (Parts::default(), 0);
        let statements = run(&mut conn, file).map_err(|error| match error {
            StoreError::Definition { source } => StoreError::DefinitionFile { file: name.clone(), source },
            other => other,
        })?;
        for DataStatement { text, at, differs, .. } in statements {
            reasons.extend(differs.map(|why| {
                format!(
                    "{name}: {}: {why}, and two devices may run this; write constants, or use a step in code",
                    first_line(&text)
                )
            }));
            parts.structure += &file[done..at];
            done = at + text.len();
            parts.data.push(text);
        }
        parts.structure += &file[done..];
        all.push(parts);
    }
    if reasons.is_empty() { Ok(all) } else { Err(StoreError::DefinitionRefused { reasons }) }
}

/// The bytes of blanks, comments and empty statements at the beginning of a text.
fn trivia(text: &str) -> usize {
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == '\u{feff}');
        rest = match () {
            () if trimmed.starts_with("--") => trimmed.find('\n').map_or("", |end| &trimmed[end..]),
            () if trimmed.starts_with("/*") => trimmed[2..].find("*/").map_or("", |end| &trimmed[end + 4..]),
            () => return text.len() - trimmed.len(),
        };
    }
}

/// A statement as it is told to people.
pub(super) fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("--")).unwrap_or_default();
    let line = line.trim_end_matches(';');
    if line.chars().count() <= 80 { line.to_owned() } else { line.chars().take(79).chain(['…']).collect() }
}

/// Runs a definition on a scratch database, but for statements that change rows of ordinary tables: those are given back.
pub(super) fn run(conn: &mut Connection, sql: &str) -> Result<Vec<DataStatement>, StoreError> {
    let failed = |source| StoreError::Definition { source };
    let mut found = Vec::new();
    let seen = Arc::new(Mutex::new(Seen::default()));
    watch(conn, &seen)?;
    let conn = &*conn;
    let (mut batch, mut at) = (Batch::new(conn, sql), 0);
    while let Some(mut statement) = batch.next().map_err(failed)? {
        let seen_now = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        // SQLite's text of a statement is that part of the definition, with what stands before its first word.
        let whole = statement.expanded_sql().unwrap_or_default();
        let text = whole[trivia(&whole)..].to_owned();
        at += trivia(&sql[at..]);
        let as_written = sql[at..].starts_with(&text);
        let (from, parameters) = (at, statement.parameter_count() > 0);
        if as_written {
            at += text.len();
        }
        let Seen { table, random, clock, structure } = seen_now;
        // A CREATE or ALTER writes SQLite's own tables, and whatever else it does is not of rows.
        match table.filter(|table| !structure && !is_virtual(conn, table)) {
            Some(table) => {
                let asks = |function: &String| {
                    let squeezed: String =
                        text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
                    squeezed.contains("'now'") || squeezed.contains(&format!("{function}()"))
                };
                let differs = match () {
                    () if parameters || !as_written => {
                        Some("it has parameters, which nobody would give values".to_owned())
                    }
                    () => random.or(clock.filter(asks)).map(|name| format!("{name}() gives something else each time")),
                };
                found.push(DataStatement {
                    text: if as_written { text } else { String::new() },
                    table,
                    at: from,
                    differs,
                });
            }
            None => {
                let mut rows = statement.query([]).map_err(failed)?;
                while rows.next().map_err(failed)?.is_some() {}
            }
        }
        // What running it compiled is not the next statement's.
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }
    Ok(found)
}

/// Search tables are filled by whoever keeps them.
fn is_virtual(conn: &Connection, table: &str) -> bool {
    let sql = "SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual' AND name = ?1 COLLATE NOCASE";
    crate::clocks::one::<i64>(conn, sql, [table]).is_ok_and(|found| found.is_some())
}

/// What compiling a statement has asked for.
#[derive(Default)]
struct Seen {
    table: Option<String>,
    random: Option<String>,
    /// A function that may ask for the time.
    clock: Option<String>,
    structure: bool,
}

/// Notes what statements ask for, and decides as [`scratch`] does.
fn watch(conn: &mut Connection, seen: &Arc<Mutex<Seen>>) -> Result<(), StoreError> {
    let seen = Arc::clone(seen);
    let decide = move |context: AuthContext<'_>| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        // What a trigger's body does is not the statement's own.
        if context.accessor.is_none() {
            match context.action {
                AuthAction::Insert { table_name }
                | AuthAction::Update { table_name, .. }
                | AuthAction::Delete { table_name }
                    if !table_name.to_ascii_lowercase().starts_with("sqlite_") =>
                {
                    seen.table.get_or_insert_with(|| table_name.to_owned());
                }
                AuthAction::Function { function_name } => {
                    let name = function_name.to_ascii_lowercase();
                    if matches!(
                        name.as_str(),
                        "random" | "randomblob" | "current_timestamp" | "current_date" | "current_time"
                    ) {
                        seen.random.get_or_insert(name);
                    } else if matches!(
                        name.as_str(),
                        "date" | "time" | "datetime" | "julianday" | "strftime" | "unixepoch"
                    ) {
                        seen.clock.get_or_insert(name);
                    }
                }
                AuthAction::CreateTable { .. }
                | AuthAction::CreateIndex { .. }
                | AuthAction::CreateTrigger { .. }
                | AuthAction::CreateView { .. }
                | AuthAction::CreateVtable { .. }
                | AuthAction::AlterTable { .. }
                | AuthAction::DropTable { .. }
                | AuthAction::DropIndex { .. }
                | AuthAction::DropTrigger { .. }
                | AuthAction::DropView { .. }
                | AuthAction::DropVtable { .. } => seen.structure = true,
                _ => {}
            }
        }
        super::decide(context)
    };
    conn.authorizer(Some(decide)).doing("open a scratch database")
}
