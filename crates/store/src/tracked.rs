//! A tracked table as it stands in this file: the declared model, where its columns are, and the SQL that touches it.

use std::collections::BTreeSet;

use isle_changeset::{Value, pack_key, unpack_key};
use isle_schema::{Affinity, Collation, ColumnId, KeyColumn, Table, TableDefinition};
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::clocks::ClockSql;
use crate::constraints::{self, ForeignKey, Reference, Unique};
use crate::error::Doing as _;
use crate::kinds::{KindColumn, LocalKind};
use crate::layout::quoted;

/// Changed columns per queue word: 62, so that every mask is a positive SQLite integer and −1 means all.
pub(crate) const WORD_BITS: usize = 62;

/// A column as SQLite reports it.
pub(crate) struct PhysicalColumn {
    pub(crate) name: String,
    pub(crate) declared: String,
    pub(crate) not_null: bool,
    /// The text of its default.
    pub(crate) default: Option<String>,
    pub(crate) key_position: i64,
    /// 0 for an ordinary column, else a generated or hidden one.
    pub(crate) hidden: i64,
    /// The collation that it compares with by itself.
    pub(crate) collation: String,
}

impl PhysicalColumn {
    /// The collation, if every SQLite has it.
    pub(crate) fn known_collation(&self) -> Option<Collation> {
        known_collation(&self.collation)
    }
}

/// A collation that every SQLite has.
pub(crate) fn known_collation(name: &str) -> Option<Collation> {
    match name.to_ascii_uppercase().as_str() {
        "BINARY" => Some(Collation::Binary),
        "NOCASE" => Some(Collation::NoCase),
        "RTRIM" => Some(Collation::RTrim),
        _ => None,
    }
}

/// A tracked table. Cell 0 is the exact key, cell `n + 1` is column `n`.
#[derive(Debug)]
pub(crate) struct Tracked {
    /// The local number, used in the names of isle's own objects.
    pub(crate) no: i64,
    /// The declared model.
    pub(crate) table: Table,
    /// How many cells the table had here in the beginning, and after each migration that added some.
    pub(crate) sets: Vec<usize>,
    /// Affinity of each column.
    pub(crate) affinities: Vec<Affinity>,
    /// The statements on its clock table.
    pub(crate) clock_sql: ClockSql,
    /// Key columns that may hold NULL by the table's definition.
    pub(crate) nullable_key: Vec<bool>,
    /// UNIQUE indexes beside the key.
    pub(crate) unique: Vec<Unique>,
    /// Foreign keys as declared, and those of them whose parents are tracked.
    pub(crate) references: Vec<Reference>,
    pub(crate) foreign: Vec<ForeignKey>,
    /// Why foreign keys to tracked tables cannot be repaired.
    pub(crate) unrepairable: Vec<String>,
    /// All its columns that are no generated ones, replicated or not, with affinity and collation.
    pub(crate) physical: Vec<KeyColumn>,
    /// Whether a merge can break a constraint of the table, or one that refers to it.
    pub(crate) constrained: bool,
    /// Whether foreign keys refer to other columns of it than its key.
    pub(crate) referenced_by_columns: bool,
    /// Local numbers of the tables whose foreign keys refer to it.
    pub(crate) children: Vec<i64>,
    /// Whether it has a shadow, for constraints of today or before.
    pub(crate) has_shadow: bool,
    /// Columns of a kind, rising by cell.
    pub(crate) kinds: Vec<KindColumn>,
    /// See [`LocalTable::shape`].
    pub(crate) shape: Option<String>,
    /// Cells that are written together.
    pub(crate) groups: Vec<Vec<usize>>,
    /// See [`LocalTable::renamed`].
    pub(crate) renamed: BTreeSet<ColumnId>,
    /// Cells that are NOT NULL where other devices may have written NULL, and what they show then (see `required`).
    pub(crate) required: Vec<(usize, Value)>,
    /// Cells that begin with another value than the table's default says.
    pub(crate) defaults: Vec<(usize, Value)>,
    /// The table is a CRR of cr-sqlite as well (see `companion`).
    pub(crate) crr: Option<isle_crsqlite::Crr>,
    /// It has the triggers of both engines.
    pub(crate) is_both: bool,
}

/// A tracked table as `isle_table` has it, in JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LocalTable {
    #[serde(flatten)]
    pub(crate) table: Table,
    /// See [`Tracked::sets`]; empty for a table that has what it was born with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sets: Vec<usize>,
    /// Columns of a kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) kinds: Vec<LocalKind>,
    /// Which definition it has here, if not that of its birth (see `reshape`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<String>,
    /// Columns that are written together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<Vec<ColumnId>>,
    /// Columns whose values get a number where rows clash in a UNIQUE index.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) renamed: BTreeSet<ColumnId>,
    /// Columns that are NOT NULL where other devices may have written NULL, and what they show then, packed like an exact key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) required: Vec<(ColumnId, Vec<u8>)>,
    /// What columns began with whose defaults are others now, packed like an exact key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) defaults: Vec<(ColumnId, Vec<u8>)>,
}

impl LocalTable {
    /// A table that has what it was born with, and nothing more.
    pub(crate) fn of(table: Table) -> LocalTable {
        let (sets, kinds, groups, required, defaults) = Default::default();
        LocalTable { table, sets, kinds, shape: None, groups, renamed: BTreeSet::new(), required, defaults }
    }

    fn values(&self, packed: &[(ColumnId, Vec<u8>)]) -> Vec<(usize, Value)> {
        let cell = |id: &ColumnId| self.table.columns.iter().position(|column| column.id == *id).map(|at| at + 1);
        let value = |packed: &[u8]| unpack_key(packed, 1).ok().and_then(|mut values| values.pop());
        packed.iter().filter_map(|(id, packed)| Some((cell(id)?, value(packed)?))).collect()
    }

    /// The groups as cells; a column that is not here yet belongs to none.
    fn groups(&self) -> Vec<Vec<usize>> {
        let cell = |id: &ColumnId| self.table.columns.iter().position(|column| column.id == *id).map(|at| at + 1);
        self.groups.iter().map(|group| group.iter().filter_map(cell).collect()).collect()
    }

    /// The JSON in `isle_table`.
    pub(crate) fn to_json(&self) -> Result<String, StoreError> {
        let damaged =
            |error: serde_json::Error| StoreError::Internal { table: "isle_table", detail: error.to_string() };
        serde_json::to_string(self).map_err(damaged)
    }

    /// Reads the JSON in `isle_table`.
    pub(crate) fn of_json(json: &str) -> Result<LocalTable, StoreError> {
        let damaged = |detail: String| StoreError::Internal { table: "isle_table", detail };
        let model: LocalTable = serde_json::from_str(json).map_err(|error| damaged(error.to_string()))?;
        let cells = model.table.columns.len() + 1;
        let sound = model.sets.is_sorted() && model.sets.last().is_none_or(|last| *last == cells);
        let sound = sound && crate::kinds::columns(&model.table, &model.kinds).is_some();
        if sound { Ok(model) } else { Err(damaged("column sets".to_owned())) }
    }
}

impl Tracked {
    /// What the model alone says, without a look at the table: enough for its clocks.
    pub(crate) fn of_model(no: i64, model: LocalTable) -> Tracked {
        let (groups, defaults) = (model.groups(), model.values(&model.defaults));
        let required = model.values(&model.required);
        let LocalTable { table, mut sets, kinds, shape, renamed, .. } = model;
        let kinds = crate::kinds::columns(&table, &kinds).unwrap_or_default();
        let clock_sql = ClockSql::new(no, &table);
        if sets.is_empty() {
            sets.push(table.columns.len() + 1);
        }
        Tracked {
            no,
            table,
            sets,
            affinities: Vec::new(),
            clock_sql,
            nullable_key: Vec::new(),
            unique: Vec::new(),
            references: Vec::new(),
            foreign: Vec::new(),
            unrepairable: Vec::new(),
            physical: Vec::new(),
            constrained: false,
            referenced_by_columns: false,
            children: Vec::new(),
            has_shadow: false,
            kinds,
            shape,
            groups,
            renamed,
            required,
            defaults,
            crr: None,
            is_both: false,
        }
    }

    /// What `isle_table` says of the table.
    pub(crate) fn model(&self) -> LocalTable {
        let kind = |column: &KindColumn| LocalKind {
            column: self.table.columns[column.cell - 1].id,
            kind: column.kind,
            default: pack_key(&[column.default.as_ref()]),
        };
        let column = |cell: &usize| self.table.columns[cell - 1].id;
        let packed = |values: &[(usize, Value)]| {
            values.iter().map(|(cell, value)| (column(cell), pack_key(&[value.as_ref()]))).collect()
        };
        LocalTable {
            table: self.table.clone(),
            sets: self.sets.clone(),
            kinds: self.kinds.iter().map(kind).collect(),
            shape: self.shape.clone(),
            groups: self.groups.iter().map(|group| group.iter().map(column).collect()).collect(),
            renamed: self.renamed.clone(),
            required: packed(&self.required),
            defaults: packed(&self.defaults),
        }
    }

    /// The number of cells: the exact key and the columns.
    pub(crate) fn cells(&self) -> usize {
        self.table.columns.len() + 1
    }

    /// Adds to a mask the cells that are written together with those in it.
    pub(crate) fn widen(&self, mask: &mut [u64]) {
        let has = |mask: &[u64], cell: &usize| mask[cell / 64] >> (cell % 64) & 1 == 1;
        // A column of two groups joins them, whichever comes first.
        for _ in &self.groups {
            for group in &self.groups {
                if group.iter().any(|cell| has(mask, cell)) {
                    group.iter().for_each(|cell| mask[cell / 64] |= 1 << (cell % 64));
                }
            }
        }
    }

    /// Queue words that a mask of all cells takes.
    pub(crate) fn queue_words(&self) -> usize {
        self.cells().div_ceil(WORD_BITS)
    }

    /// Whether writes through `Replica` can be taken in passing: their masks must fit one word, an update's values the
    /// arguments of one function, text in the key must have just one form, and nobody else may record them.
    pub(crate) fn hookable(&self) -> bool {
        let one_form = self.table.key.iter().all(|column| column.collation == Collation::Binary);
        one_form && self.cells() + self.table.key.len() <= 60 && self.crr.is_none()
    }

    /// The clock table.
    pub(crate) fn clock(&self) -> String {
        format!("isle_c{}", self.no)
    }

    /// Columns of the clock table's key, and of the queue's.
    pub(crate) fn clock_key(&self) -> Vec<String> {
        (0..self.table.key.len()).map(|n| format!("k{n}")).collect()
    }

    /// `"a", "b"`: the key columns, quoted, each behind `prefix`.
    pub(crate) fn key_list(&self, prefix: &str) -> String {
        join(self.table.key.iter().map(|column| format!("{prefix}{}", quoted(&column.name))), ", ")
    }

    /// `, "c", "d"`: the other columns, each behind a comma and `prefix`.
    pub(crate) fn column_list(&self, prefix: &str) -> String {
        self.table.columns.iter().map(|column| format!(", {prefix}{}", quoted(&column.name))).collect()
    }

    /// `"a" COLLATE BINARY = ?1 AND …`: finds the row of a canonical key bound from parameter `first` on.
    pub(crate) fn key_match(&self, first: usize) -> String {
        let terms = self.table.key.iter().enumerate().map(|(n, column)| {
            let collation = collation_name(column.collation);
            if self.table.rowid_key {
                format!("{} = ?{}", quoted(&column.name), first + n)
            } else {
                format!("{} = ?{} COLLATE {collation}", quoted(&column.name), first + n)
            }
        });
        join(terms, " AND ")
    }

    /// `c.h, c.w, c.x, c.k0 …, d."key" …, d."column" … FROM clocks AS c JOIN rows AS d`: rows beside their clocks.
    ///
    /// Rows that a constraint hides, and merged values that one changed in the table, come from the shadow if there are any.
    pub(crate) fn clocks_and_rows(&self, conn: &Connection, join: &str) -> Result<String, StoreError> {
        let merged = self.has_shadow && crate::shadow::any(conn, self)?;
        let rows = if merged { crate::shadow::merged_rows(self) } else { quoted(&self.table.name) };
        Ok(self.clocks_beside(&rows, join))
    }

    /// The same with rows from anywhere.
    pub(crate) fn clocks_beside(&self, rows: &str, join: &str) -> String {
        let on = self.table.key.iter().enumerate().map(|(n, column)| {
            let name = quoted(&column.name);
            if self.table.rowid_key {
                return format!("d.{name} = c.k{n}");
            }
            format!("d.{name} = c.k{n} COLLATE {}", collation_name(column.collation))
        });
        let on = self::join(on, " AND ");
        let keys: String = self.clock_key().iter().map(|key| format!(", c.{key}")).collect();
        let (exact, columns) = (self.key_list("d."), self.column_list("d."));
        let clock = self.clock();
        let state = if self.kinds.is_empty() { "" } else { ", c.s" };
        format!("c.h, c.w, c.x{keys}, {exact}{columns}{state} FROM {clock} AS c {join} {rows} AS d ON {on}")
    }

    /// `c.k0, c.k1`: the order of canonical keys.
    pub(crate) fn clock_order(&self) -> String {
        join(self.clock_key().iter().map(|key| format!("c.{key}")), ", ")
    }

    /// Creates the clock table.
    pub(crate) fn create_clock_sql(&self) -> String {
        let name = self.clock();
        if self.table.rowid_key {
            return format!("CREATE TABLE {name}(k0 INTEGER PRIMARY KEY, h, w, x)");
        }
        let key = self.clock_key().join(", ");
        format!("CREATE TABLE {name}({key}, h, w, x, PRIMARY KEY({key})) WITHOUT ROWID")
    }
}

/// Joins parts with a separator.
pub(crate) fn join(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

/// The collation's name in SQL.
pub(crate) fn collation_name(collation: Collation) -> &'static str {
    match collation {
        Collation::Binary => "BINARY",
        Collation::NoCase => "NOCASE",
        Collation::RTrim => "RTRIM",
    }
}

/// Loads a tracked table and checks that the file still has what the model says.
pub(crate) fn load(conn: &Connection, no: i64, model: LocalTable) -> Result<Tracked, StoreError> {
    let table = &model.table;
    let drift = |reason: &str| StoreError::Drifted { table: table.name.clone(), reason: reason.to_owned() };
    let physical = columns(conn, &table.name)?;
    if physical.is_empty() {
        return Err(drift("it is gone or renamed"));
    }
    let position = |name: &str| physical.iter().position(|column| column.name.eq_ignore_ascii_case(name));
    let mut nullable_key = Vec::new();
    for column in &table.key {
        let at = position(&column.name).ok_or_else(|| drift(&format!("it has no key column {:?}", column.name)))?;
        nullable_key.push(!table.rowid_key && !physical[at].not_null);
    }
    let strict = is_strict(conn, &table.name)?;
    let mut affinities = Vec::new();
    for column in &table.columns {
        let at = position(&column.name).ok_or_else(|| drift(&format!("it has no column {:?}", column.name)))?;
        affinities.push(Affinity::of_declared_type(&physical[at].declared, strict));
    }
    let mut unique = constraints::unique(conn, table, &physical, strict)?.map_err(|reason| drift(&reason))?;
    let renamed =
        |part: &constraints::Part| part.cell.is_some_and(|cell| model.renamed.contains(&table.columns[cell - 1].id));
    unique.iter_mut().for_each(|index| index.renamed = index.parts.iter().position(renamed));
    let references = constraints::references(conn, &table.name)?;
    let ordinary = physical.iter().filter(|column| column.hidden == 0).map(|column| KeyColumn {
        name: column.name.clone(),
        affinity: Affinity::of_declared_type(&column.declared, strict),
        collation: column.known_collation().unwrap_or(Collation::Binary),
    });
    let ordinary = ordinary.collect();
    let there = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    let has_shadow = crate::clocks::one::<i64>(conn, there, [format!("isle_s{no}")])?.is_some();
    Ok(Tracked {
        affinities,
        nullable_key,
        unique,
        references,
        has_shadow,
        physical: ordinary,
        ..Tracked::of_model(no, model)
    })
}

/// The UNIQUE indexes of a table beside its key, or why one cannot be replicated.
pub(crate) fn unique(conn: &Connection, table: &Table) -> Result<Result<Vec<Unique>, String>, StoreError> {
    constraints::unique(conn, table, &columns(conn, &table.name)?, is_strict(conn, &table.name)?)
}

/// Columns that are in the table and not in the model: they do not travel.
pub(crate) fn surplus(conn: &Connection, table: &Table) -> Result<Vec<String>, StoreError> {
    let declared = |name: &str| {
        let mut names = table.key.iter().map(|key| &key.name).chain(table.columns.iter().map(|column| &column.name));
        names.any(|known| known.eq_ignore_ascii_case(name))
    };
    let physical = columns(conn, &table.name)?.into_iter().filter(|column| column.hidden == 0);
    Ok(physical.map(|column| column.name).filter(|name| !declared(name)).collect())
}

/// Reads a table's definition out of the file, or says why it cannot be replicated.
pub(crate) fn introspect(conn: &Connection, app: &str, name: &str) -> Result<TableDefinition, StoreError> {
    let (name, kind, create_sql) = find(conn, name)?;
    let untrackable = |reason: &str| StoreError::Untrackable { table: name.clone(), reason: reason.to_owned() };
    let Some(create_sql) = create_sql.filter(|_| kind == "table") else {
        return Err(untrackable(
            "only ordinary tables can; views, virtual tables and their shadow tables are rebuilt locally",
        ));
    };
    if name.starts_with("isle_") || name.starts_with("sqlite_") || isle_crsqlite::is_internal(&name) {
        return Err(untrackable("it belongs to isle, to SQLite or to cr-sqlite"));
    }
    if isle_crsqlite::name_of(conn, &name)?.is_some() && crate::companion::of_file(conn)? == crate::TableEngine::Native
    {
        return Err(untrackable(
            "it is a CRR of cr-sqlite: let cr-sqlite keep the file (`isle init --engine cr-sqlite`, or `isle engine cr-sqlite` once it is a replica), or \
             make it a plain table first (`SELECT crsql_as_table(…)`)",
        ));
    }
    if contains_word(&create_sql, "AUTOINCREMENT") {
        return Err(untrackable(
            "AUTOINCREMENT ids of two devices collide; use INTEGER PRIMARY KEY with ids of your own, or a UUID key",
        ));
    }
    if words(&create_sql).windows(2).any(|two| two == ["on", "conflict"]) {
        return Err(untrackable(
            "a constraint of it says ON CONFLICT, which would delete or pass over rows that a merge brings; say it in the statements that \
             write, as INSERT OR REPLACE",
        ));
    }
    let physical = columns(conn, &name)?;
    let strict = is_strict(conn, &name)?;
    let (key, rowid_key) = key_of(conn, &name, &physical, strict)?;
    let is_key = |column: &PhysicalColumn| key.iter().any(|k| k.name.eq_ignore_ascii_case(&column.name));
    let columns: Vec<&str> =
        physical.iter().filter(|c| c.hidden == 0 && !is_key(c)).map(|column| column.name.as_str()).collect();
    let table = Table::new(app, &name, key, &columns, rowid_key);
    constraints::unique(conn, &table, &physical, strict)?.map_err(|reason| untrackable(&reason))?;
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1 AND sql IS NOT NULL ORDER BY name";
    let mut statement = conn.prepare(sql).doing("read the indexes")?;
    let index_sql = statement.query_map([&name], |row| row.get(0)).doing("read the indexes")?;
    let index_sql = index_sql.collect::<Result<_, _>>().doing("read the indexes")?;
    Ok(TableDefinition { table, create_sql, index_sql })
}

/// The words of a statement: without spaces and comments, names without quotes and in lower case, so that two spellings of one statement
/// are equal. For comparing only.
pub(crate) fn words(sql: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let until = |from: usize, end: &str| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
        let length = match first {
            '-' if rest.starts_with("--") => until(2, "\n"),
            '/' if rest.starts_with("/*") => until(2, "*/"),
            '\'' => {
                let end = until(1, "'");
                words.push(rest[..end].to_owned());
                end
            }
            '"' | '`' | '[' => {
                let end = until(1, if first == '[' { "]" } else { &rest[..1] });
                words.push(rest[1..end].trim_end_matches(['"', '`', ']']).to_ascii_lowercase());
                end
            }
            _ if first.is_alphanumeric() || first == '_' => {
                let part = |c: char| !(c.is_alphanumeric() || c == '_' || c == '.');
                let end = rest.find(part).unwrap_or(rest.len());
                words.push(rest[..end].to_ascii_lowercase());
                end
            }
            _ => {
                if !first.is_whitespace() && first != ';' {
                    words.push(first.to_string());
                }
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    if let Some(at) = words.windows(3).position(|three| three == ["if", "not", "exists"]) {
        words.drain(at..at + 3);
    }
    words
}

/// Finds a table without regard to the case of ASCII letters, as SQLite does.
fn find(conn: &Connection, name: &str) -> Result<(String, String, Option<String>), StoreError> {
    let sql = "SELECT l.name, l.type, s.sql FROM pragma_table_list AS l LEFT JOIN sqlite_schema AS s
               ON s.type = 'table' AND s.name = l.name WHERE l.schema = 'main' AND l.name = ?1 COLLATE NOCASE";
    let found = conn.query_row(sql, [name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    found.optional().doing("look for the table")?.ok_or_else(|| StoreError::NoSuchTable { table: name.to_owned() })
}

/// The collation of a column of a scratch database: an index on it tells.
pub(crate) fn collation(scratch: &Connection, table: &str, column: &str) -> Result<String, StoreError> {
    let (table, column) = (quoted(table), quoted(column));
    let sql = format!("CREATE INDEX isle_collation ON {table}({column})");
    scratch.execute_batch(&sql).doing("look for a collation")?;
    let sql = "SELECT coll FROM pragma_index_xinfo('isle_collation') WHERE seqno = 0";
    let found = scratch.query_row(sql, [], |row| row.get(0)).doing("look for a collation");
    scratch.execute_batch("DROP INDEX isle_collation").doing("look for a collation")?;
    found
}

pub(crate) fn is_strict(conn: &Connection, name: &str) -> Result<bool, StoreError> {
    let sql = "SELECT strict FROM pragma_table_list(?1) WHERE schema = 'main'";
    Ok(conn.query_row(sql, [name], |row| row.get(0)).optional().doing("read the table's kind")?.unwrap_or(false))
}

/// The columns of a table as SQLite reports them.
pub(crate) fn columns(conn: &Connection, table: &str) -> Result<Vec<PhysicalColumn>, StoreError> {
    let sql = "SELECT name, type, \"notnull\", pk, hidden, dflt_value FROM pragma_table_xinfo(?1) ORDER BY cid";
    let mut statement = conn.prepare_cached(sql).doing("read the columns")?;
    let rows = statement.query_map([table], |row| {
        let (name, declared, not_null) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (key_position, hidden, default) = (row.get(3)?, row.get(4)?, row.get(5)?);
        Ok(PhysicalColumn { name, declared, not_null, default, key_position, hidden, collation: String::new() })
    });
    let mut columns: Vec<PhysicalColumn> =
        rows.doing("read the columns")?.collect::<Result<_, _>>().doing("read the columns")?;
    for column in &mut columns {
        // Views have none.
        let found = conn.column_metadata(Some("main"), table, &column.name);
        let collation =
            found.ok().and_then(|(_, collation, ..)| collation.map(|name| name.to_string_lossy().into_owned()));
        column.collation = collation.unwrap_or_else(|| "BINARY".to_owned());
    }
    Ok(columns)
}

/// The key columns in index order, and whether the key is the rowid itself.
fn key_of(
    conn: &Connection,
    table: &str,
    physical: &[PhysicalColumn],
    strict: bool,
) -> Result<(Vec<KeyColumn>, bool), StoreError> {
    let untrackable = |reason: String| StoreError::Untrackable { table: table.to_owned(), reason };
    let sql = "SELECT name FROM pragma_index_list(?1) WHERE origin = 'pk'";
    let key_index = crate::clocks::one::<String>(conn, sql, [table])?;
    let Some(index) = key_index else {
        let alias = physical.iter().find(|column| column.key_position == 1);
        let alias =
            alias.ok_or_else(|| untrackable("it has no PRIMARY KEY, so rows have no identity; add one".to_owned()))?;
        let column = KeyColumn { name: alias.name.clone(), affinity: Affinity::Integer, collation: Collation::Binary };
        return Ok((vec![column], true));
    };
    let mut key = Vec::new();
    let sql = "SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key = 1 ORDER BY seqno";
    let mut statement = conn.prepare(sql).doing("read the key")?;
    let mut rows = statement.query([&index]).doing("read the key")?;
    while let Some(row) = rows.next().doing("read the key")? {
        let (name, collation): (String, String) =
            (row.get(0).doing("read the key")?, row.get(1).doing("read the key")?);
        let collation = match collation.to_ascii_uppercase().as_str() {
            "BINARY" => Collation::Binary,
            "NOCASE" => Collation::NoCase,
            "RTRIM" => Collation::RTrim,
            _ => {
                return Err(untrackable(format!(
                    "key column {name:?} has collation {collation}, which other devices may not have; \
                     use BINARY, NOCASE or RTRIM"
                )));
            }
        };
        let declared = physical.iter().find(|column| column.name == name);
        if declared.is_some_and(|column| column.hidden != 0) {
            return Err(untrackable(format!("key column {name:?} is generated; use an ordinary column")));
        }
        let affinity = declared.map_or(Affinity::Blob, |column| Affinity::of_declared_type(&column.declared, strict));
        key.push(KeyColumn { name, affinity, collation });
    }
    Ok((key, false))
}

/// Whether SQL text has the word outside quotes and comments. This is no parser: it only skips what cannot be a keyword.
pub(crate) fn contains_word(sql: &str, word: &str) -> bool {
    let bytes = sql.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let skip_to = |end: &[u8], from: usize| {
            rest[from..].windows(end.len()).position(|w| w == end).map_or(rest.len(), |n| from + n + end.len())
        };
        at += match rest {
            [b'\'', ..] => skip_to(b"'", 1),
            [b'"', ..] => skip_to(b"\"", 1),
            [b'`', ..] => skip_to(b"`", 1),
            [b'[', ..] => skip_to(b"]", 1),
            [b'-', b'-', ..] => skip_to(b"\n", 2),
            [b'/', b'*', ..] => skip_to(b"*/", 2),
            [first, ..] if first.is_ascii_alphabetic() => {
                let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
                if rest[..length].eq_ignore_ascii_case(word.as_bytes()) {
                    return true;
                }
                length
            }
            _ => 1,
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::words;
    use super::*;

    #[test]
    fn a_keyword_is_found_but_not_in_quotes_or_comments() {
        assert!(contains_word("CREATE TABLE t(id INTEGER PRIMARY KEY autoincrement)", "AUTOINCREMENT"));
        for sql in
            ["t(a DEFAULT 'autoincrement')", "t([autoincrement])", "t(a) -- autoincrement", "t(/* autoincrement */ a)"]
        {
            assert!(!contains_word(sql, "AUTOINCREMENT"), "{sql}");
        }
    }

    #[test]
    fn spelling_is_no_difference_and_anything_else_is() {
        let one = "CREATE UNIQUE INDEX IF NOT EXISTS \"by at\" ON notes(\"At\") /* x */ WHERE kind = 'A' -- y\n;";
        let same = "create unique index [by at]\n on Notes (at) where Kind='A'";
        assert_eq!(words(one), words(same));
        for other in ["kind = 'a'", "kind = 'A ' ", "kind <> 'A'", "kind = 'A' AND 1.5"] {
            assert_ne!(words(one), words(&same.replace("Kind='A'", other)), "{other}");
        }
        assert_ne!(words("a b"), words("ab"));
        assert!(words("'open").len() == 1 && words("\"ü").len() == 1 && words("/* ü").is_empty());
    }
}
