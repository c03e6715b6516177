//! The constraints of a tracked table that a merge can break: UNIQUE beside the key, and foreign keys between tracked tables.
//!
//! They are read from the file, never sent: each device enforces its own. See `repair` for what happens when merged rows break them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use isle_changeset::{Value, ValueRef, canonical_value, pack_key};
use isle_schema::{Affinity, KeyColumn};
use rusqlite::Connection;

use crate::StoreError;
use crate::error::Doing as _;
use crate::layout::quoted;
use crate::tracked::{PhysicalColumn, Tracked, collation_name, join};

/// A column of a constraint: its name, how its values compare, and its cell if it is not part of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) column: KeyColumn,
    pub(crate) cell: Option<usize>,
}

/// A UNIQUE index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unique {
    /// The index's name.
    pub(crate) name: String,
    pub(crate) parts: Vec<Part>,
    /// The condition of a partial index.
    pub(crate) predicate: Option<String>,
    /// The part that gets a number where rows clash.
    pub(crate) renamed: Option<usize>,
}

/// A foreign key to a tracked table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignKey {
    /// What it is called here: `(column, …) -> parent`.
    pub(crate) name: String,
    /// The child's columns, which compare as the parent's do.
    pub(crate) parts: Vec<Part>,
    /// The parent's local number and its columns.
    pub(crate) parent: i64,
    pub(crate) targets: Vec<String>,
    /// Whether the targets are the parent's key.
    pub(crate) to_key: bool,
    /// A child without a parent loses the reference; otherwise the child itself is hidden.
    pub(crate) set_null: bool,
}

/// A foreign key as SQLite reports it, before its parent is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    parent: String,
    columns: Vec<(String, Option<String>)>,
    set_null: bool,
}

impl Reference {
    /// The child's columns.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(column, _)| column.as_str())
    }
}

/// The packed canonical values of a constraint's columns; `None` if one is NULL, which clashes with nothing and refers to nothing.
pub(crate) fn packed(values: &[ValueRef<'_>], parts: &[Part]) -> Option<Vec<u8>> {
    if values.contains(&ValueRef::Null) {
        return None;
    }
    let canonical = values.iter().zip(parts);
    let canonical: Vec<Value> = canonical
        .map(|(value, part)| canonical_value(*value, &part.column).unwrap_or_else(|| value.to_value()))
        .collect();
    Some(pack_key(&canonical.iter().map(Value::as_ref).collect::<Vec<_>>()))
}

/// `"a", "b"`: the columns of a constraint.
pub(crate) fn list(parts: &[Part]) -> String {
    join(parts.iter().map(|part| quoted(&part.column.name)), ", ")
}

/// `"a" = ?1 COLLATE NOCASE AND …`: rows with values bound from 1 on.
pub(crate) fn matches(parts: &[Part]) -> String {
    matches_named(parts, &parts.iter().map(|part| part.column.name.clone()).collect::<Vec<_>>())
}

/// The same of columns with other names that compare alike: those that a foreign key refers to.
pub(crate) fn matches_named(parts: &[Part], names: &[String]) -> String {
    let terms = parts.iter().zip(names).enumerate().map(|(n, (part, name))| {
        format!("{} = ?{} COLLATE {}", quoted(name), n + 1, collation_name(part.column.collation))
    });
    join(terms, " AND ")
}

impl Unique {
    /// ` AND (predicate)` of a partial index.
    pub(crate) fn condition(&self) -> String {
        // The text may end in a comment.
        self.predicate.as_ref().map_or_else(String::new, |predicate| format!(" AND ({predicate}\n)"))
    }
}

/// The UNIQUE indexes of a table beside its key. `Err` says why one cannot be replicated.
pub(crate) fn unique(
    conn: &Connection,
    table: &isle_schema::Table,
    physical: &[PhysicalColumn],
    strict: bool,
) -> Result<Result<Vec<Unique>, String>, StoreError> {
    let sql = "SELECT l.name, s.sql FROM pragma_index_list(?1) AS l LEFT JOIN sqlite_schema AS s
               ON s.type = 'index' AND s.name = l.name WHERE l.\"unique\" AND l.origin <> 'pk' ORDER BY l.name";
    let mut statement = conn.prepare_cached(sql).doing("read the indexes")?;
    let found = statement.query_map([&table.name], |row| Ok((row.get(0)?, row.get(1)?))).doing("read the indexes")?;
    let found: Vec<(String, Option<String>)> = found.collect::<Result<_, _>>().doing("read the indexes")?;
    let mut unique = Vec::new();
    for (name, sql) in found {
        let columns = "SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key = 1 ORDER BY seqno";
        let mut statement = conn.prepare_cached(columns).doing("read an index")?;
        let columns = statement.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?))).doing("read an index")?;
        let columns: Vec<(Option<String>, String)> = columns.collect::<Result<_, _>>().doing("read an index")?;
        let mut parts = Vec::new();
        for (column, collation) in columns {
            let Some(part) = column.and_then(|column| part(table, physical, strict, &column, &collation)) else {
                return Ok(Err(format!(
                    "UNIQUE index {name} is on an expression, a generated column or with a collation of the app's own, \
                     which a merge cannot repair; make it a plain index"
                )));
            };
            parts.push(part);
        }
        let index = Unique { name, parts, predicate: sql.as_deref().and_then(predicate), renamed: None };
        // It is asked of rows in the shadow too, which has the replicated columns and no other name.
        let names = table.key.iter().map(|key| &key.name).chain(table.columns.iter().map(|column| &column.name));
        let columns = join(names.map(|name| format!("NULL AS {}", quoted(name))), ", ");
        let tried = format!("SELECT 1 FROM (SELECT {columns}) WHERE 1{}", index.condition());
        if index.predicate.is_some() && conn.prepare(&tried).is_err() {
            let name = index.name;
            return Ok(Err(format!(
                "the condition of UNIQUE index {name} has to name replicated columns alone, without the table's name or comments"
            )));
        }
        unique.push(index);
    }
    Ok(Ok(unique))
}

fn part(
    table: &isle_schema::Table,
    physical: &[PhysicalColumn],
    strict: bool,
    name: &str,
    collation: &str,
) -> Option<Part> {
    let collation = crate::tracked::known_collation(collation)?;
    let column = physical.iter().find(|column| column.name.eq_ignore_ascii_case(name))?;
    let affinity = Affinity::of_declared_type(&column.declared, strict);
    let cell = table.columns.iter().position(|known| known.name.eq_ignore_ascii_case(name));
    let in_key = table.key.iter().any(|key| key.name.eq_ignore_ascii_case(name));
    let column = KeyColumn { name: column.name.clone(), affinity, collation };
    (in_key || cell.is_some()).then(|| Part { column, cell: cell.map(|at| at + 1) })
}

/// The condition of a partial index, from its text: what stands behind WHERE after the list of columns.
pub(crate) fn predicate(sql: &str) -> Option<String> {
    let bytes = sql.as_bytes();
    let (mut at, mut depth, mut listed) = (0, 0usize, false);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"' | b'`') => at += 1 + bytes[at + 1..].iter().position(|byte| *byte == quote)?,
            b'[' => at += bytes[at..].iter().position(|byte| *byte == b']')?,
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                at += bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at);
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => at += 3 + sql[at + 2..].find("*/")?,
            b'(' => depth += 1,
            b')' => {
                depth = depth.checked_sub(1)?;
                listed |= depth == 0;
            }
            b'w' | b'W' if listed && bytes.get(at..at + 5).is_some_and(|word| word.eq_ignore_ascii_case(b"where")) => {
                return Some(sql.get(at + 5..)?.trim().trim_end_matches(';').to_owned());
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The foreign keys of a table as SQLite reports them.
pub(crate) fn references(conn: &Connection, table: &str) -> Result<Vec<Reference>, StoreError> {
    let sql = "SELECT id, \"table\", \"from\", \"to\", on_delete FROM pragma_foreign_key_list(?1) ORDER BY id, seq";
    let mut statement = conn.prepare_cached(sql).doing("read the foreign keys")?;
    let mut rows = statement.query([table]).doing("read the foreign keys")?;
    let (mut references, mut last): (Vec<Reference>, Option<i64>) = (Vec::new(), None);
    while let Some(row) = rows.next().doing("read the foreign keys")? {
        let get = |at: usize| row.get::<_, Option<String>>(at).doing("read the foreign keys");
        let id: i64 = row.get(0).doing("read the foreign keys")?;
        if last != Some(id) {
            let set_null = get(4)?.is_some_and(|action| action.eq_ignore_ascii_case("SET NULL"));
            references.push(Reference { parent: get(1)?.unwrap_or_default(), columns: Vec::new(), set_null });
            last = Some(id);
        }
        if let Some(reference) = references.last_mut() {
            reference.columns.push((get(2)?.unwrap_or_default(), get(3)?));
        }
    }
    Ok(references)
}

/// Looks up the parents, and which tables have something that a merge can break or repair.
pub(crate) fn connect(mut tables: Vec<Tracked>) -> Vec<Arc<Tracked>> {
    let (mut children, mut by_columns): (HashMap<i64, Vec<i64>>, HashSet<i64>) = Default::default();
    let resolved: Vec<(Vec<ForeignKey>, Vec<String>)> = tables.iter().map(|table| resolve(table, &tables)).collect();
    for (table, (foreign, unrepairable)) in tables.iter_mut().zip(resolved) {
        table.unrepairable = unrepairable;
        for key in &foreign {
            children.entry(key.parent).or_default().push(table.no);
        }
        by_columns.extend(foreign.iter().filter(|key| !key.to_key).map(|key| key.parent));
        table.foreign = foreign;
    }
    for table in &mut tables {
        table.children = children.get(&table.no).cloned().unwrap_or_default();
        table.referenced_by_columns = by_columns.contains(&table.no);
        table.constrained = table.has_shadow
            || !table.required.is_empty()
            || !table.unique.is_empty()
            || !table.foreign.is_empty()
            || children.contains_key(&table.no);
    }
    tables.into_iter().map(Arc::new).collect()
}

/// The foreign keys to tracked tables, and why others to such tables cannot be repaired.
fn resolve(child: &Tracked, tables: &[Tracked]) -> (Vec<ForeignKey>, Vec<String>) {
    let (mut foreign, mut unrepairable) = (Vec::new(), Vec::new());
    for reference in &child.references {
        let named = |table: &&Tracked| table.table.name.eq_ignore_ascii_case(&reference.parent);
        let Some(parent) = tables.iter().find(named) else { continue };
        let key: Vec<KeyColumn> = parent.table.key.clone();
        let targets: Vec<String> = match reference.columns.iter().map(|(_, to)| to.clone()).collect::<Option<Vec<_>>>()
        {
            Some(targets) => targets,
            None => key.iter().map(|column| column.name.clone()).collect(),
        };
        let same = |columns: &[&KeyColumn]| {
            columns.len() == targets.len()
                && targets.iter().all(|target| columns.iter().any(|column| column.name.eq_ignore_ascii_case(target)))
        };
        let to_key = same(&key.iter().collect::<Vec<_>>());
        let declared = |part: &Part| {
            let mut columns = parent.physical.iter();
            columns.any(|c| c.name.eq_ignore_ascii_case(&part.column.name) && c.collation == part.column.collation)
        };
        let index = parent.unique.iter().find(|index| {
            index.predicate.is_none()
                && index.parts.iter().all(declared)
                && same(&index.parts.iter().map(|part| &part.column).collect::<Vec<_>>())
        });
        let columns: Vec<KeyColumn> = match (to_key, index) {
            (true, _) => key,
            (false, Some(index)) => index.parts.iter().map(|part| part.column.clone()).collect(),
            // SQLite calls that a mismatch and refuses every write.
            (false, None) => continue,
        };
        let parts = reference.columns.iter().zip(&targets).map(|((from, _), target)| {
            let like = columns.iter().find(|column| column.name.eq_ignore_ascii_case(target))?;
            let cell = child.table.columns.iter().position(|known| known.name.eq_ignore_ascii_case(from));
            let in_key = child.table.key.iter().any(|column| column.name.eq_ignore_ascii_case(from));
            let column = KeyColumn { name: from.clone(), ..like.clone() };
            (in_key || cell.is_some()).then(|| Part { column, cell: cell.map(|at| at + 1) })
        });
        let parts = parts.collect::<Option<Vec<Part>>>();
        let named = join(reference.columns.iter().map(|(from, _)| from.clone()), ", ");
        let name = format!("({named}) -> {}", parent.table.name);
        let Some(parts) = parts else {
            unrepairable.push(format!("its foreign key {name} is on a generated column, which a merge cannot repair"));
            continue;
        };
        let unlike = parts.iter().any(|part| {
            let own = child.physical.iter().find(|column| column.name.eq_ignore_ascii_case(&part.column.name));
            let (own, like) = (own.map_or(0, |own| class(own.affinity)), class(part.column.affinity));
            own != like && own != 0 && like != 0
        });
        if unlike {
            unrepairable.push(format!("its foreign key {name} compares text with numbers; give both columns one type"));
            continue;
        }
        let set_null = reference.set_null && parts.iter().all(|part| part.cell.is_some());
        foreign.push(ForeignKey { name, parts, parent: parent.no, targets, to_key, set_null });
    }
    (foreign, unrepairable)
}

/// What values of a column become: numbers, text, or what they are.
fn class(affinity: Affinity) -> u8 {
    match affinity {
        Affinity::Blob => 0,
        Affinity::Integer | Affinity::Real | Affinity::Numeric => 1,
        Affinity::Text => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::predicate;

    #[test]
    fn the_condition_of_a_partial_index_is_found_in_its_text() {
        let cases = [
            ("CREATE UNIQUE INDEX i ON t(a, b)", None),
            ("CREATE UNIQUE INDEX i ON t(a) WHERE deleted = 0;", Some("deleted = 0")),
            ("CREATE UNIQUE INDEX \"where (\" ON [a where b](\"x)\" COLLATE NOCASE)\n where a > (1)", Some("a > (1)")),
            ("CREATE UNIQUE INDEX i ON t(a /* ) where */) -- where\nWHERE b = 'where'", Some("b = 'where'")),
            ("CREATE UNIQUE INDEX i ON t(a) WHERE b -- last", Some("b -- last")),
        ];
        for (sql, wanted) in cases {
            assert_eq!(predicate(sql).as_deref(), wanted, "{sql}");
        }
    }
}
