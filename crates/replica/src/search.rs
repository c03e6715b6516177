//! Full-text search as a person types it.

use isle_store::{FullText, StoreError, match_expression};

use crate::names::quoted;
use crate::{Error, Param, Replica, Row, Value};

/// A row that a search found.
#[derive(Debug, Clone)]
pub struct SearchHit {
    /// The row of the table whose rows the full-text table finds, or its own.
    pub row: Row,
    /// How well it fits: the smaller the better (FTS5's bm25).
    pub rank: f64,
    /// Where, with the words that were found in brackets; empty if the full-text table keeps no text.
    pub snippet: String,
}

impl Replica {
    /// Searches the rows of a table by its full-text table, or by that one's own name, best first. Every word of the text has to be there; `"two
    /// words"` next to each other, `wor*` as a beginning, `title:word` in that column, `-word` not at all. Whatever else stands in the text is
    /// looked for and is no operator: no text makes this fail. A text without a word finds nothing.
    ///
    /// # Errors
    /// [`Error::NotSearchable`] for a table without a full-text table.
    pub fn search(&self, table: &str, text: &str, limit: usize, offset: usize) -> Result<Vec<SearchHit>, Error> {
        let full_text = self.full_text_of(table)?;
        let Some(expression) = match_expression(text, &full_text.columns) else { return Ok(Vec::new()) };
        let FullText { name, table: content, rowid, .. } = &full_text;
        let name = quoted(name);
        // The rank and the snippet come first: columns of the row may have any name.
        let sql = match content {
            Some(content) => format!(
                "SELECT f.isle_rank, f.isle_snippet, t.* FROM
                   (SELECT rowid AS isle_rowid, rank AS isle_rank, snippet({name}, -1, '[', ']', '…', 12) AS isle_snippet
                    FROM {name} WHERE {name} MATCH ?1 ORDER BY rank, rowid LIMIT ?2 OFFSET ?3) AS f
                 JOIN {} AS t ON t.{} = f.isle_rowid ORDER BY f.isle_rank, f.isle_rowid",
                quoted(content),
                quoted(rowid)
            ),
            None => format!(
                "SELECT rank, snippet({name}, -1, '[', ']', '…', 12), * FROM {name} WHERE {name} MATCH ?1
                 ORDER BY rank, rowid LIMIT ?2 OFFSET ?3"
            ),
        };
        let bound = |n: usize| Param::Integer(i64::try_from(n).unwrap_or(i64::MAX));
        let params = [Param::Text(&expression), bound(limit), bound(offset)];
        let rows = self.read(|queries| queries.query(&sql, &params)).map_err(|error| match error {
            // Not the file: what an index is of is what SQLite means.
            Error::Store(StoreError::Damaged { .. }) => {
                Error::SearchDamaged { name: full_text.name.clone(), quoted: name.clone(), source: Box::new(error) }
            }
            other => other,
        })?;
        Ok(rows.into_iter().filter_map(SearchHit::of).collect())
    }

    fn full_text_of(&self, table: &str) -> Result<FullText, Error> {
        let all = self.inner.store.full_text_tables()?;
        let named = |name: &str| name.eq_ignore_ascii_case(table);
        let over = |full_text: &&FullText| full_text.table.as_deref().is_some_and(named);
        let found = all.iter().find(|full_text| named(&full_text.name)).or_else(|| all.iter().find(over));
        found.cloned().ok_or_else(|| Error::NotSearchable { table: table.to_owned() })
    }
}

impl SearchHit {
    fn of(row: Row) -> Option<SearchHit> {
        let (first, rest) = row.split_at(2)?;
        let mut first = first.into_iter();
        let rank = match first.next()? {
            Value::Real(rank) => rank,
            _ => 0.0,
        };
        let snippet = match first.next()? {
            Value::Text(text) => text,
            _ => String::new(),
        };
        Some(SearchHit { row: rest, rank, snippet })
    }
}
