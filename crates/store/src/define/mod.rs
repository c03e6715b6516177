//! Declared schemas: SQL that says what the tables should be, compared with what they are.
//!
//! SQLite is the parser: the definition runs in a scratch database in memory and is introspected there. The steps that lead from here
//! to there are tried on a second scratch database with the tables as they stand; what still differs then is a change that isle
//! cannot make, and is refused by name. So a plan of equal schemas is empty, and no difference is passed over.

mod altered;
mod data;

pub use data::{Parts, split_definition};

use isle_changeset::Value;
use isle_schema::{AddedColumn, Class, Column, ColumnId, Parent, Schema, Step, TableDefinition, TableState, Version};
use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::directives::Directives;
use crate::error::Doing as _;
use crate::kinds::{Asked, plan_groups};
use crate::layout::quoted;
use crate::required::Fill;
use crate::tracked::{self, PhysicalColumn, Tracked, contains_word};
use crate::{Store, StoreError};

/// One change that a definition asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// `create table`, `rename table`, `change table`, `add column`, `rename column`, `hide column`, `show column`, `set kind`, `set group`, `duplicates`, `version`, `requires`,
    /// `create index` or `drop index`;
    /// `create`, `replace` or `drop` of a view, a trigger or a full-text table.
    pub kind: &'static str,
    /// The table, by its name here, or the name of the view and the like.
    pub table: String,
    /// What of it, for people.
    pub detail: String,
}

/// What a definition asks for.
#[derive(Debug, Clone, Default)]
pub struct SchemaPlan {
    /// The changes, in the order in which they are made.
    pub changes: Vec<SchemaChange>,
    /// What cannot be done, and what to do instead; then nothing is done.
    pub refused: Vec<String>,
    pub(crate) steps: Vec<Step>,
    /// The version of the schema here, and of the definition.
    pub versions: (Option<Version>, Option<Version>),
    /// Columns whose rows get their default before they become NOT NULL.
    pub(crate) fills: Vec<Fill>,
}

impl Store {
    /// What it takes to make the tables what SQL says: `CREATE TABLE` and `CREATE INDEX` statements for all of them, views, triggers
    /// and FTS5 tables with the content of another table, with
    /// `-- @drop table.column` for a column that leaves the definition (its values stay in the file),
    /// `-- @scope local` on the line of a table's name whose rows do not travel, and `-- @expires` on that of its column that says when they go,
    /// `-- @merge counter`, `max`, `min`, `set`, `text` or `json` on the line of a column whose concurrent writes merge so,
    /// `-- @duplicates rename` on that of one in a UNIQUE index whose clashing values get a number,
    /// `-- @partial` for one of several definitions beside each other: views, triggers and full-text tables that it does not name stay,
    /// `-- @rename old -> new` for a table and `-- @rename table.old -> new` for a column that is called otherwise now. Tables that the
    /// definition does not name stay as they are. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Definition`] when SQLite does not take the SQL.
    pub fn plan_schema(&self, sql: &str) -> Result<SchemaPlan, StoreError> {
        self.snapshot(|conn| plan(conn, &crate::layout::require_meta::<String>(conn, "app")?, sql))
    }

    /// As [`Store::plan_schema`], and tries it on the rows that are here: what they do not fit is refused. Takes as long as making the
    /// changes, keeps writers out meanwhile, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::DefinitionRefused`] with what cannot be done, and those of [`Store::apply_schema`].
    pub fn try_schema(&self, sql: &str) -> Result<SchemaPlan, StoreError> {
        let now_ms = self.now_ms();
        self.with_merge_engine(|engine| {
            engine.begin()?;
            let tried = engine.seal_foreign(now_ms).and_then(|_| crate::track::apply_definition(engine, sql, now_ms));
            engine.rollback();
            tried
        })
    }

    /// Makes the tables what SQL says, here at once and on every other replica when it syncs; gives what was done.
    ///
    /// # Errors
    /// [`StoreError::DefinitionRefused`] with every change that cannot be made, and those of [`Store::plan_schema`]; then nothing
    /// was changed.
    pub fn apply_schema(&self, sql: &str) -> Result<SchemaPlan, StoreError> {
        let now_ms = self.now_ms();
        self.merge(|engine, _| crate::track::apply_definition(engine, sql, now_ms))
    }

    /// What of the group's schema is not here, and why: views, triggers and the like that do not compile here, or whose names the app
    /// has taken.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn left_out(&self) -> Result<Vec<String>, StoreError> {
        self.snapshot(crate::objects::left_out)
    }

    /// Views, triggers and full-text tables of the group's schema that were made here and that somebody has dropped; applying the definition makes them again.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn dropped(&self) -> Result<Vec<String>, StoreError> {
        self.snapshot(crate::objects::gone)
    }

    /// The schema of the group, as far as its operations are here, and how many those are.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema(&self) -> Result<(Schema, usize), StoreError> {
        self.snapshot(|conn| {
            let operations = crate::alter::operations(conn)?;
            Ok((Schema::fold(operations.iter().map(|(id, migration)| (*id, migration))), operations.len()))
        })
    }
}

/// What a column's definition says.
#[derive(Debug)]
pub(crate) struct Probed {
    pub(crate) name: String,
}

/// A database in memory in which nothing but tables, indexes and the like can be made.
pub(crate) fn scratch() -> Result<Connection, StoreError> {
    let mut conn = Connection::open_in_memory().doing("open a scratch database")?;
    conn.authorizer(Some(decide)).doing("open a scratch database")?;
    Ok(conn)
}

fn decide(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Attach { .. } | AuthAction::Detach { .. } | AuthAction::Transaction { .. } => Authorization::Deny,
        AuthAction::Function { function_name } if function_name.eq_ignore_ascii_case("load_extension") => {
            Authorization::Deny
        }
        AuthAction::Pragma { pragma_value: Some(_), pragma_name } if !pragma_name.contains('_') => Authorization::Deny,
        _ => Authorization::Allow,
    }
}

/// Tries a column's definition on a table with a row, as SQLite would have it of a table that is in use.
pub(crate) fn probe(definition: &str) -> Result<Probed, String> {
    // A constraint that merged rows may break would stop every later merge.
    if let Some(word) = ["CHECK", "UNIQUE", "PRIMARY"].into_iter().find(|word| contains_word(definition, word)) {
        return Err(format!("a column with {word} cannot be added"));
    }
    let probed = || -> Result<Vec<PhysicalColumn>, StoreError> {
        let conn = scratch()?;
        let sql = "CREATE TABLE isle_probe(isle_key INTEGER PRIMARY KEY); INSERT INTO isle_probe VALUES(1)";
        conn.execute_batch(sql).doing("try a column")?;
        conn.execute(&format!("ALTER TABLE isle_probe ADD COLUMN {definition}"), []).doing("try a column")?;
        tracked::columns(&conn, "isle_probe")
    };
    let mut columns = probed().map_err(|error| error.to_string())?;
    match (columns.pop(), columns.len()) {
        (Some(column), 1) if column.hidden == 0 => Ok(Probed { name: column.name }),
        _ => Err("it does not define one ordinary column".to_owned()),
    }
}

/// The value of a default that is always the same, as a column of the declared type stores it; NULL for any other.
pub(crate) fn constant(declared: &str, default: &str) -> Result<Value, StoreError> {
    let conn = scratch()?;
    // Only a constant can be added to a table with a row.
    let sql = format!(
        "CREATE TABLE isle_probe(isle_key INTEGER PRIMARY KEY); INSERT INTO isle_probe VALUES(1);
         ALTER TABLE isle_probe ADD COLUMN isle_value {declared} DEFAULT {default}"
    );
    if conn.execute_batch(&sql).is_err() {
        let sql = format!("ALTER TABLE isle_probe ADD COLUMN isle_value {declared} DEFAULT ({default}\n)");
        if conn.execute_batch(&sql).is_err() {
            return Ok(Value::Null);
        }
    }
    let value = conn.query_row("SELECT isle_value FROM isle_probe", [], |row| {
        Ok(crate::clocks::from_sql(row.get_ref(0)?).to_value())
    });
    value.doing("read a default")
}

/// Compares a definition with the tables that are here. Changes nothing.
pub(crate) fn plan(conn: &Connection, app: &str, sql: &str) -> Result<SchemaPlan, StoreError> {
    let mut wanted = scratch()?;
    let rows = data::run(&mut wanted, sql)?;
    let schema = crate::alter::schema(conn)?;
    let mut plan = SchemaPlan::default();
    let mut directives = Directives::read(sql);
    let has = |table: &str, column: Option<&str>| {
        let columns = tracked::columns(&wanted, table).unwrap_or_default();
        column.map_or(!columns.is_empty(), |name| columns.iter().any(|known| known.name.eq_ignore_ascii_case(name)))
    };
    directives.follow_renames(has);
    plan.refused.extend(directives.errors.iter().cloned());
    plan.refused.extend(rows.iter().map(|statement| {
        format!(
            "{} changes rows of {}: a definition says what tables are; put it into a numbered file (1.2.0__name.sql), where it runs once, when \
             that version is reached",
            data::first_line(&statement.text),
            statement.table
        )
    }));
    plan.versions = (schema.version().cloned(), directives.version.clone());
    if plan.is_older() {
        return Ok(plan);
    }
    let locals = crate::local::wanted(&wanted, &directives, &mut plan)?;
    let names =
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%'
                 ESCAPE '\\' ORDER BY name";
    let mut statement = wanted.prepare(names).doing("read the definition")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0)).doing("read the definition")?;
    let names: Vec<String> = names.collect::<Result<_, _>>().doing("read the definition")?;
    drop(statement);
    let tables = crate::engine::load_tables(conn)?;
    let planner = Planner { conn, app, wanted: &wanted, schema: &schema, tables, directives: &directives };
    let still = crate::drift::standing_still(conn)?;
    for name in names {
        if crate::clocks::one::<i64>(&wanted, &format!("SELECT 1 FROM {} LIMIT 1", quoted(&name)), [])?.is_some() {
            plan.refused.push(format!("table {name}: a definition says what tables are; rows are not part of it"));
        }
        plan.refused.extend(foreign_defaults(&wanted, &name)?);
        if let Some((_, reason)) = still.iter().find(|(table, _)| table.eq_ignore_ascii_case(&name)) {
            plan.refused.push(format!("table {name} stands still: {reason}; undo that change of the file first"));
        } else if let Some(local) = locals.iter().find(|local| local.name == name) {
            crate::local::plan(conn, (&wanted, local), &directives.drops, &schema, &mut plan)?;
        } else if schema.locals.contains_key(&name.to_ascii_lowercase()) {
            plan.refused
                .push(format!("table {name}: it is local here; write `-- @scope local` on the line of its name"));
        } else {
            planner.table(&name, &mut plan)?;
        }
    }
    planner.unnamed(&mut plan)?;
    crate::objects::plan(conn, (&wanted, directives.partial), &schema, &mut plan)?;
    plan.set_version();
    plan.require(conn, &schema, directives.requires.as_ref())?;
    if !plan.refused.is_empty() {
        plan.steps.clear();
    }
    Ok(plan)
}

/// Why a default that calls a function cannot be evaluated everywhere: SQLite looks for the function with the first row that needs it.
fn foreign_defaults(wanted: &Connection, table: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT name, dflt_value FROM pragma_table_xinfo(?1) WHERE dflt_value LIKE '%(%'";
    let mut statement = wanted.prepare(sql).doing("read the definition")?;
    let defaults = statement.query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    let mut refused = Vec::new();
    for default in defaults.doing("read the definition")? {
        let (column, default) = default.doing("read the definition")?;
        if let Err(error) = wanted.prepare(&format!("SELECT {default}"))
            && error.to_string().contains("no such function")
        {
            refused.push(format!("table {table}: the default of {column:?}: {error}"));
        }
    }
    Ok(refused)
}

/// A definition beside the file and the schema that it is compared with.
struct Planner<'a> {
    conn: &'a Connection,
    app: &'a str,
    wanted: &'a Connection,
    schema: &'a Schema,
    tables: Vec<std::sync::Arc<Tracked>>,
    directives: &'a Directives,
}

impl Planner<'_> {
    /// Plans one replicated table.
    fn table(&self, name: &str, plan: &mut SchemaPlan) -> Result<(), StoreError> {
        let Directives { renames, drops, .. } = self.directives;
        let before = renames.iter().find(|(_, column, new)| column.is_none() && new.eq_ignore_ascii_case(name));
        let before = before.map_or(name, |(old, ..)| old);
        let here = |wanted: &str| self.tables.iter().find(|known| known.table.name.eq_ignore_ascii_case(wanted));
        let definition = match tracked::introspect(self.wanted, self.app, name) {
            Ok(definition) => definition,
            Err(StoreError::Untrackable { table, reason }) => {
                plan.refused.push(format!("table {table}: {reason}"));
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        let Some(tracked) = here(name).or_else(|| here(before)) else {
            let former = self.schema.tables.get(&definition.table.id);
            if let Some(former) = former.filter(|former| !former.name.eq_ignore_ascii_case(name)) {
                plan.refused.push(format!(
                    "table {name}: that was the name of {} before; a new table under an old name is not supported yet",
                    former.name
                ));
                return Ok(());
            }
            plan.create(definition.clone());
            let (id, columns) = (definition.table.id, definition.table.columns.clone());
            return self.merges(&definition, (id, &columns), None, plan);
        };
        let gone = drops.iter().filter(|(table, _)| table.eq_ignore_ascii_case(name));
        let gone = gone.map(|(_, column)| column.as_str()).collect();
        let (conn, wanted, schema) = (self.conn, self.wanted, self.schema);
        let table = altered::Altered { conn, wanted, tracked, definition: &definition, schema, gone, renames };
        table.plan(renames, plan)?;
        let (id, columns) = (tracked.table.id, columns_after(tracked, plan));
        self.merges(&definition, (id, &columns), schema.tables.get(&id), plan)
    }

    /// Plans how the columns of a table merge.
    fn merges(
        &self,
        definition: &TableDefinition,
        (id, columns): (isle_schema::TableId, &[Column]),
        known: Option<&TableState>,
        plan: &mut SchemaPlan,
    ) -> Result<(), StoreError> {
        let Directives { kinds, groups, duplicates, .. } = self.directives;
        Asked::of(self.wanted, definition, kinds)?.plan(id, columns, known, plan);
        plan_groups((&definition.table.name, id), groups, columns, known, plan);
        crate::duplicates::plan(self.wanted, (definition, id), duplicates, columns, known, plan)
    }

    /// Refuses what the definition says of tables that it has not.
    fn unnamed(&self, plan: &mut SchemaPlan) -> Result<(), StoreError> {
        let Directives { kinds, groups, duplicates, .. } = self.directives;
        let kinds = kinds.iter().map(|(table, column, _)| (table, format!("@merge {table}.{column}")));
        let renamed = duplicates.iter().map(|(table, column)| (table, format!("@duplicates {table}.{column}")));
        let groups = groups.iter().map(|(table, columns)| (table, format!("@group {table}({})", columns.join(", "))));
        for (table, directive) in kinds.chain(renamed).chain(groups) {
            if tracked::columns(self.wanted, table)?.is_empty() {
                plan.refused.push(format!("{directive}: the definition has no table {table}"));
            }
        }
        for (old, _, new) in self.directives.renames.iter().filter(|(_, column, _)| column.is_none()) {
            let tracked = self.tables.iter().any(|tracked| tracked.table.name.eq_ignore_ascii_case(old));
            let local = self.schema.locals.contains_key(&old.to_ascii_lowercase());
            if !tracked && !local && !tracked::columns(self.conn, old)?.is_empty() {
                plan.refused.push(format!(
                    "@rename {old} -> {new}: table {old} is this device's own, which no schema of the group names; `isle exec \"ALTER TABLE {old} RENAME \
                     TO {new}\"` renames it"
                ));
            }
        }
        Ok(())
    }
}

/// The steps that make the columns of a table known that the group does not know.
pub(crate) fn new_columns(definition: &TableDefinition, known: &TableState) -> Result<Vec<Step>, StoreError> {
    let wanted = scratch()?;
    wanted.execute_batch(&definition.create_sql).doing("read the table")?;
    let table = &definition.table;
    let mut steps = Vec::new();
    for column in tracked::columns(&wanted, &table.name)? {
        let replicated = table.columns.iter().find(|replicated| replicated.name.eq_ignore_ascii_case(&column.name));
        let Some(new) = replicated.filter(|new| !known.columns.iter().any(|known| known.id == new.id)) else {
            continue;
        };
        let definition = column_sql(&wanted, &table.name, &column)?;
        if let Err(reason) = probe(&definition) {
            return Err(StoreError::Untrackable {
                table: table.name.clone(),
                reason: format!("its new column {:?} cannot be added elsewhere: {reason}", column.name),
            });
        }
        let birth = known.births(&column.name);
        steps.push(Step::AddColumn { table: table.id, column: new.clone(), birth, definition });
    }
    Ok(steps)
}

/// The definition of a column that a table was born with.
pub(crate) fn definition_of(definition: &TableDefinition, id: ColumnId) -> Result<Option<AddedColumn>, StoreError> {
    let table = &definition.table;
    let Some(wanted) = table.columns.iter().find(|column| column.id == id) else { return Ok(None) };
    let mut scratch = scratch()?;
    // Another device's text: it makes a table and computes nothing.
    let decide = |context: AuthContext<'_>| match context.action {
        AuthAction::CreateTable { .. }
        | AuthAction::CreateIndex { .. }
        | AuthAction::Reindex { .. }
        | AuthAction::Function { .. }
        | AuthAction::Read { .. } => Authorization::Allow,
        AuthAction::Insert { table_name } | AuthAction::Update { table_name, .. }
            if table_name.starts_with("sqlite_") =>
        {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    };
    scratch.authorizer(Some(decide)).doing("open a scratch database")?;
    scratch.execute(&definition.create_sql, []).map_err(|source| StoreError::Definition { source })?;
    scratch.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).doing("open a scratch database")?;
    let columns = tracked::columns(&scratch, &table.name)?;
    let column = columns.iter().find(|column| column.name.eq_ignore_ascii_case(&wanted.name));
    let sql = column.map(|column| column_sql(&scratch, &table.name, column)).transpose()?;
    Ok(sql.map(|definition| AddedColumn { id, definition }))
}

impl SchemaPlan {
    /// Whether a table is made anew with its rows.
    pub fn rewrites(&self) -> bool {
        !self.steps.is_empty() && self.changes.iter().any(|change| change.kind == "change table")
    }

    /// How much the changes ask of other devices and of the rows; `None` where there is nothing to do.
    pub fn class(&self) -> Option<Class> {
        self.steps.iter().map(Step::class).max()
    }

    /// Whether the definition is of an earlier version of the app than the schema: then there is nothing to do.
    pub fn is_older(&self) -> bool {
        matches!(&self.versions, (Some(here), Some(wanted)) if wanted < here)
    }

    fn set_version(&mut self) {
        let (here, Some(wanted)) = self.versions.clone() else { return };
        if here.as_ref() != Some(&wanted) {
            let here = here.map(|here| format!("{here} -> ")).unwrap_or_default();
            self.add("version", "schema", format!("{here}{wanted}"), Step::SetVersion(wanted));
        }
    }

    /// Asks for a version of the app, and refuses to where it is later than the one here: the app would lock itself out.
    fn require(&mut self, conn: &Connection, schema: &Schema, wanted: Option<&Version>) -> Result<(), StoreError> {
        let Some(wanted) = wanted.filter(|wanted| schema.requires.as_ref() < Some(wanted)) else { return Ok(()) };
        if let Some(app) = crate::pending::app_version(conn)?.filter(|app| app < wanted) {
            self.refused.push(format!(
                "`-- @requires {wanted}` asks for a later version of the app than this one, which is {app}"
            ));
        }
        self.add("requires", "app", wanted.to_string(), Step::Requires(wanted.clone()));
        Ok(())
    }

    pub(crate) fn add(&mut self, kind: &'static str, table: &str, detail: String, step: Step) {
        self.changes.push(SchemaChange { kind, table: table.to_owned(), detail });
        self.steps.push(step);
    }

    fn create(&mut self, definition: TableDefinition) {
        let table = definition.table.name.clone();
        let columns = definition.table.columns.len() + definition.table.key.len();
        self.add("create table", &table, format!("{columns} columns"), Step::CreateTable(definition));
    }
}

/// The columns of a table that is here, as the steps leave them.
fn columns_after(tracked: &Tracked, plan: &SchemaPlan) -> Vec<Column> {
    let mut columns = tracked.table.columns.clone();
    for step in &plan.steps {
        match step {
            Step::AddColumn { table, column, .. } if *table == tracked.table.id => columns.push(column.clone()),
            Step::RenameColumn { table, column, name } if *table == tracked.table.id => {
                columns.iter_mut().filter(|known| known.id == *column).for_each(|known| known.name.clone_from(name));
            }
            _ => {}
        }
    }
    columns
}

/// What stands in parentheses behind a word of a statement, each time, in a fixed order.
pub(crate) fn clauses(sql: &str, word: &str) -> Vec<Vec<String>> {
    let words = tracked::words(sql);
    let mut found = Vec::new();
    for at in (0..words.len()).filter(|at| words[*at] == word && words.get(at + 1).is_some_and(|next| next == "(")) {
        let mut depth = 0;
        let end = words[at + 1..].iter().position(|word| {
            depth += i32::from(word == "(") - i32::from(word == ")");
            depth == 0
        });
        found.push(words[at + 1..].iter().take(end.map_or(usize::MAX, |end| end + 1)).cloned().collect());
    }
    found.sort();
    found
}

/// A column's definition, put together from what SQLite says of it.
pub(crate) fn column_sql(wanted: &Connection, table: &str, column: &PhysicalColumn) -> Result<String, StoreError> {
    let mut sql = quoted(&column.name);
    if !column.declared.is_empty() {
        sql += &format!(" {}", column.declared);
    }
    if column.not_null {
        sql += " NOT NULL";
    }
    if let Some(default) = &column.default {
        sql += &format!(" DEFAULT {default}");
    }
    if column.collation != "BINARY" {
        sql += &format!(" COLLATE {}", column.collation);
    }
    for key in foreign_keys(wanted, table)?.iter().filter(|key| key.from == [column.name.clone()]) {
        sql += &key.sql();
    }
    Ok(sql)
}

/// The columns of each UNIQUE constraint in a table's definition, with their collations.
fn unique_constraints(conn: &Connection, table: &str) -> Result<Vec<Vec<String>>, StoreError> {
    let sql = "SELECT name FROM pragma_index_list(?1) WHERE origin = 'u'";
    let mut statement = conn.prepare(sql).doing("read the indexes")?;
    let names = statement.query_map([table], |row| row.get::<_, String>(0)).doing("read the indexes")?;
    let mut constraints = Vec::new();
    for name in names {
        let sql = "SELECT lower(name) || ' ' || coll FROM pragma_index_xinfo(?1) WHERE key = 1 ORDER BY seqno";
        let mut statement = conn.prepare(sql).doing("read the indexes")?;
        let columns = statement.query_map([name?], |row| row.get::<_, String>(0)).doing("read the indexes")?;
        constraints.push(columns.collect::<Result<Vec<_>, _>>().doing("read the indexes")?);
    }
    constraints.sort();
    Ok(constraints)
}

/// A foreign key of a table.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ForeignKey {
    pub(crate) from: Vec<String>,
    pub(crate) parent: String,
    pub(crate) to: Vec<String>,
    pub(crate) on_update: String,
    pub(crate) on_delete: String,
}

impl ForeignKey {
    fn sql(&self) -> String {
        let list: Vec<String> = self.to.iter().map(|column| quoted(column)).collect();
        let columns = if list.is_empty() { String::new() } else { format!("({})", list.join(", ")) };
        let (parent, update, delete) = (quoted(&self.parent), &self.on_update, &self.on_delete);
        format!(" REFERENCES {parent}{columns} ON UPDATE {update} ON DELETE {delete}")
    }
}

/// The tables that the foreign keys of a definition refer to, with the columns.
pub(crate) fn parents(
    wanted: &Connection,
    (name, id): (&str, isle_schema::TableId),
    schema: &Schema,
) -> Result<Vec<Parent>, StoreError> {
    let mut parents: Vec<Parent> = Vec::new();
    for key in foreign_keys(wanted, name)? {
        let parent = schema.tables.iter().find(|(_, table)| table.name.eq_ignore_ascii_case(&key.parent));
        let Some((table, state)) = parent.filter(|(parent, _)| **parent != id) else { continue };
        let referred = |column: &&Column| key.to.iter().any(|to| to.eq_ignore_ascii_case(&column.name));
        let columns: Vec<Column> = state.columns.iter().filter(referred).cloned().collect();
        match parents.iter_mut().find(|known| known.table == *table) {
            Some(known) => {
                let new = columns.into_iter().filter(|column| !known.columns.contains(column)).collect::<Vec<_>>();
                known.columns.extend(new);
            }
            None => parents.push(Parent { table: *table, name: key.parent.clone(), columns }),
        }
    }
    Ok(parents)
}

pub(crate) fn foreign_keys(conn: &Connection, table: &str) -> Result<Vec<ForeignKey>, StoreError> {
    let sql = "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete FROM pragma_foreign_key_list(?1) ORDER BY id, seq";
    let mut statement = conn.prepare(sql).doing("read the foreign keys")?;
    let mut rows = statement.query([table]).doing("read the foreign keys")?;
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    while let Some(row) = rows.next().doing("read the foreign keys")? {
        let id: i64 = row.get(0)?;
        let (from, to): (String, Option<String>) = (row.get(2)?, row.get(3)?);
        match keys.last_mut().filter(|(last, _)| *last == id) {
            Some((_, key)) => {
                key.from.push(from);
                key.to.extend(to);
            }
            None => {
                let (on_update, on_delete) = (row.get(4)?, row.get(5)?);
                let to = to.into_iter().collect();
                keys.push((id, ForeignKey { from: vec![from], parent: row.get(1)?, to, on_update, on_delete }));
            }
        }
    }
    let mut keys: Vec<ForeignKey> = keys.into_iter().map(|(_, key)| key).collect();
    keys.sort();
    Ok(keys)
}
