//! What a definition may do that its author does not expect when several devices write.

use rusqlite::Connection;

use crate::StoreError;
use crate::constraints;
use crate::directives::Directives;
use crate::error::Doing as _;
use crate::tracked;

/// One thing to think about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lint {
    /// A word for the kind of it.
    pub code: &'static str,
    /// The table, and the column if it is about one.
    pub subject: String,
    /// What may happen, and what to do about it.
    pub message: String,
}

/// What a definition may do that its author does not expect, table by table.
///
/// # Errors
/// [`StoreError::Definition`] when SQLite does not take the SQL.
pub fn lint_schema(sql: &str) -> Result<Vec<Lint>, StoreError> {
    let wanted = crate::define::scratch()?;
    wanted.execute_batch(sql).map_err(|source| StoreError::Definition { source })?;
    let directives = Directives::read(sql);
    let names = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
                 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut statement = wanted.prepare(names).doing("read the definition")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0)).doing("read the definition")?;
    let names: Vec<String> = names.collect::<Result<_, _>>().doing("read the definition")?;
    let mut found = Vec::new();
    for name in names {
        if !directives.locals.iter().any(|local| local.eq_ignore_ascii_case(&name)) {
            table(&wanted, &name, &directives, &mut found)?;
        }
    }
    for search in crate::search::full_text_tables(&wanted)? {
        let Some(over) = &search.table else { continue };
        let unkept = unkept(&wanted, over, &search.name)?;
        if !unkept.is_empty() {
            let message = format!(
                "no trigger on {over} writes to it after {}: what is searched stays as it was",
                unkept.join(" and ")
            );
            found.push(Lint { code: "search", subject: search.name, message });
        }
    }
    Ok(found)
}

/// After which statements on a table no trigger names its full-text table.
fn unkept(wanted: &Connection, table: &str, search: &str) -> Result<Vec<&'static str>, StoreError> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE";
    let mut statement = wanted.prepare(sql).doing("read the triggers")?;
    let triggers = statement.query_map([table], |row| row.get::<_, String>(0)).doing("read the triggers")?;
    let mut unkept = vec!["INSERT", "UPDATE", "DELETE"];
    for trigger in triggers {
        let trigger = trigger.doing("read the triggers")?;
        let upper = trigger.to_ascii_uppercase();
        let head = upper.split_once(" ON ").map_or(upper.as_str(), |(head, _)| head);
        if upper.contains(&search.to_ascii_uppercase()) {
            unkept.retain(|event| !tracked::contains_word(head, event));
        }
    }
    Ok(unkept)
}

fn table(wanted: &Connection, name: &str, directives: &Directives, found: &mut Vec<Lint>) -> Result<(), StoreError> {
    let mut add = |code, subject: String, message: String| found.push(Lint { code, subject, message });
    let definition = match tracked::introspect(wanted, "", name) {
        Ok(definition) => definition,
        Err(StoreError::Untrackable { reason, .. }) => {
            add("refused", name.to_owned(), reason);
            return Ok(());
        }
        Err(other) => return Err(other),
    };
    let model = &definition.table;
    if model.rowid_key {
        let key = &model.key[0].name;
        add(
            "integer-key",
            format!("{name}.{key}"),
            "two devices that insert offline may pick the same number, and their rows are merged as one: use \
             `TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16))))` where devices make rows by themselves"
                .to_owned(),
        );
    }
    let said = |of: &str, column: &str| of.eq_ignore_ascii_case(name) && !column.is_empty();
    for index in tracked::unique(wanted, model)?.unwrap_or_default() {
        let columns = index.parts.iter().map(|part| part.column.name.as_str()).collect::<Vec<_>>();
        let renamed = directives
            .duplicates
            .iter()
            .any(|(of, column)| said(of, column) && columns.iter().any(|known| known.eq_ignore_ascii_case(column)));
        if !renamed {
            add(
                "unique",
                format!("{name}({})", columns.join(", ")),
                "of two devices' rows with one value the later claim is hidden: `-- @duplicates rename` on a text column's \
                 line shows it with a number"
                    .to_owned(),
            );
        }
    }
    let mut leading: Vec<String> = vec![model.key[0].name.clone()];
    let sql = "SELECT x.name FROM pragma_index_list(?1) AS l JOIN pragma_index_xinfo(l.name) AS x
               WHERE x.key = 1 AND x.seqno = 0 AND x.name IS NOT NULL";
    let mut statement = wanted.prepare(sql).doing("read the indexes")?;
    let first = statement.query_map([name], |row| row.get::<_, String>(0)).doing("read the indexes")?;
    leading.extend(first.collect::<Result<Vec<_>, _>>().doing("read the indexes")?);
    for reference in constraints::references(wanted, name)? {
        let columns: Vec<&str> = reference.columns().collect();
        if !leading.iter().any(|known| columns.first().is_some_and(|column| known.eq_ignore_ascii_case(column))) {
            add(
                "unindexed-reference",
                format!("{name}({})", columns.join(", ")),
                "no index begins with the column of this foreign key: each delete of a parent reads the whole table"
                    .to_owned(),
            );
        }
    }
    for column in tracked::columns(wanted, name)?.iter().filter(|column| column.hidden == 0) {
        let merged =
            directives.kinds.iter().any(|(of, known, _)| said(of, known) && known.eq_ignore_ascii_case(&column.name));
        let default = column.default.as_deref().unwrap_or_default();
        let json = matches!(default, "'[]'" | "'{}'");
        if json && !merged {
            add(
                "json",
                format!("{name}.{}", column.name),
                "it looks like JSON, of which the later write wins as a whole: `-- @merge json`, or `set` for an array of members"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::lint_schema;

    fn codes(sql: &str) -> Vec<String> {
        lint_schema(sql).unwrap_or_default().into_iter().map(|lint| format!("{} {}", lint.code, lint.subject)).collect()
    }

    #[test]
    fn what_may_surprise_is_named_and_what_is_settled_is_not() {
        let sql = "CREATE TABLE p(id TEXT PRIMARY KEY);
            CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE, slot TEXT UNIQUE, -- @duplicates rename
              tags TEXT DEFAULT '[]', opts TEXT DEFAULT '{}', -- @merge json
              p TEXT REFERENCES p(id), q TEXT REFERENCES p(id));
            CREATE INDEX q ON t(q); CREATE TABLE c(id INTEGER PRIMARY KEY, n TEXT UNIQUE); -- @scope local";
        let expected = ["integer-key t.id", "unique t(name)", "unindexed-reference t(p)", "json t.tags"];
        assert_eq!(codes(sql), expected);
        assert_eq!(codes("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)"), ["refused t"]);
        assert!(lint_schema("CREATE TABEL t").is_err());
    }
}
