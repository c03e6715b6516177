//! Full-text tables, and what a person types as a search in the words of FTS5.

use rusqlite::Connection;

use crate::error::Doing as _;
use crate::{Store, StoreError, objects, tracked};

/// An FTS5 table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullText {
    /// Its name.
    pub name: String,
    /// The table whose rows it finds; `None` if it keeps its own.
    pub table: Option<String>,
    /// The column of that table by which it names rows.
    pub rowid: String,
    /// Its columns.
    pub columns: Vec<String>,
}

impl Store {
    /// The full-text tables of the file, by name.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn full_text_tables(&self) -> Result<Vec<FullText>, StoreError> {
        self.snapshot(full_text_tables)
    }
}

pub(crate) fn full_text_tables(conn: &Connection) -> Result<Vec<FullText>, StoreError> {
    let sql =
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%' ORDER BY name";
    let mut statement = conn.prepare(sql).doing("look for full-text tables")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    let mut found = Vec::new();
    for row in rows.doing("look for full-text tables")? {
        let (name, sql) = row.doing("look for full-text tables")?;
        if !tracked::contains_word(&sql, "fts5") {
            continue;
        }
        let options = objects::options(&sql);
        let option =
            |name: &str| options.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
        let columns = tracked::columns(conn, &name)?;
        let columns = columns.into_iter().filter(|column| column.hidden == 0).map(|column| column.name).collect();
        let table = option("content").filter(|table| !table.is_empty());
        found.push(FullText {
            table,
            rowid: option("content_rowid").unwrap_or_else(|| "rowid".to_owned()),
            columns,
            name,
        });
    }
    Ok(found)
}

/// What a person typed, as an expression of FTS5: every word has to be there; `"two words"` next to each other, `wor*` as a beginning,
/// `title:word` in that column, `-word` not at all. Whatever else stands there is text to look for, and no operator. `None` where there is
/// nothing to look for.
pub fn match_expression(text: &str, columns: &[String]) -> Option<String> {
    let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (term, after) = term(rest, columns);
        rest = after.trim_start();
        match term {
            Some((true, expression)) => unwanted.push(expression),
            Some((false, expression)) => wanted.push(expression),
            None => {}
        }
    }
    if wanted.is_empty() {
        return None;
    }
    let wanted = wanted.join(" AND ");
    Some(match unwanted.is_empty() {
        true => wanted,
        false => format!("({wanted}) NOT ({})", unwanted.join(" OR ")),
    })
}

/// The first term of a text, whether it is unwanted, and what follows it.
fn term<'t>(text: &'t str, columns: &[String]) -> (Option<(bool, String)>, &'t str) {
    let (unwanted, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let column = text.split_once(':').and_then(|(name, rest)| {
        let known = columns.iter().find(|column| column.eq_ignore_ascii_case(name))?;
        Some((known, rest))
    });
    let (column, text) = column.map_or((None, text), |(column, rest)| (Some(column), rest));
    let (words, after) = match text.strip_prefix('"') {
        // One that is not closed goes on to the end.
        Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
        None => text.split_at(text.find(char::is_whitespace).unwrap_or(text.len())),
    };
    let (words, beginning) = match (words.strip_suffix('*'), after.strip_prefix('*')) {
        (Some(words), _) => (words, (true, after)),
        (None, Some(after)) => (words, (true, after)),
        (None, None) => (words, (false, after)),
    };
    let (is_beginning, after) = beginning;
    // What has no letter or digit is no word to any tokenizer.
    if !words.chars().any(char::is_alphanumeric) {
        return (None, after);
    }
    let star = if is_beginning { "*" } else { "" };
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\"").replace('\0', " "));
    let column = column.map(|column| format!("{} : ", quoted(column))).unwrap_or_default();
    (Some((unwanted, format!("{column}{}{star}", quoted(words)))), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_types_is_text_and_few_signs() {
        let columns = ["title".to_owned(), "body".to_owned()];
        let of = |text: &str| match_expression(text, &columns).unwrap_or_default();
        assert_eq!(of("flux  lora"), r#""flux" AND "lora""#);
        assert_eq!(of(r#""two words" x"#), r#""two words" AND "x""#);
        assert_eq!(
            of(r#"Title:dun* -"not this" -body:that"#),
            r#"("title" : "dun"*) NOT ("not this" OR "body" : "that")"#
        );
        assert_eq!(
            of("http://x a:b NEAR(c d) ^e {f} OR"),
            r#""http://x" AND "a:b" AND "NEAR(c" AND "d)" AND "^e" AND "{f}" AND "OR""#
        );
        assert_eq!(of(r#"say "open"#), r#""say" AND "open""#);
        assert_eq!(of(r#"a"b"c"#), r#""a""b""c""#);
        for nothing in ["", "  ", "-", "***", "\"\"", "-word", "title:", "\" \"*"] {
            assert_eq!(match_expression(nothing, &columns), None, "{nothing:?}");
        }
    }
}
