//! Views, triggers and full-text tables: what hangs on tables and holds no rows of its own travels as SQL.
//!
//! The fold of all operations says which there are; each file has those of them that compile there. One that does not, because a
//! table that it needs is not here yet say, is left out with a warning and tried again with every schema operation. Full-text tables are
//! FTS5 over the rows of a table (`content='notes'`): isle fills them when it makes them, and triggers of the definition keep them, also when rows are
//! merged. They name rows by an INTEGER PRIMARY KEY or, where the key is another one, by the number that SQLite has given each row in this file: VACUUM
//! promises to keep it in tables with an INTEGER PRIMARY KEY alone, and does in all that have an index (SQLite 3.40 to 3.54), as every other key is one. So
//! isle fills them anew after its own VACUUM, and `isle doctor` compares.
//!
//! # What another device's SQL may do
//! One CREATE statement that makes exactly what it says; it is tried in a scratch database first, where nothing else is allowed. A
//! trigger's body is compiled under the authorizer before it stays: it writes to no table of isle's or SQLite's own and calls no function
//! that reaches outside the database. The name of something that the app made itself is not taken from it.

use isle_schema::{Object, ObjectKind, Schema, Step};
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OptionalExtension as _};

use crate::StoreError;
use crate::define::{SchemaChange, SchemaPlan};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::guard::Mode;
use crate::layout::{self, quoted};
use crate::tracked;

/// The fact that holds the SQL of an object that isle made.
fn fact(name: &str) -> String {
    format!("object {}", name.to_ascii_lowercase())
}

/// Notes why something of the group's is not made here, for people; or that it is.
pub(crate) fn note_left_out(conn: &Connection, what: &str, name: &str, reason: Option<&str>) -> Result<(), StoreError> {
    let fact = format!("left out {}", name.to_ascii_lowercase());
    match reason {
        Some(reason) => {
            tracing::warn!(name, reason, "a {what} of the group is left out");
            layout::set_meta(conn, &fact, format!("{what} {name} of the group's schema is not here: {reason}"))
        }
        None => {
            conn.prepare_cached("DELETE FROM isle_meta WHERE k = ?1")
                .and_then(|mut statement| statement.execute([fact]))
                .doing("note what is left out")?;
            Ok(())
        }
    }
}

/// Why parts of the group's schema are not here.
pub(crate) fn left_out(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT v FROM isle_meta WHERE k > 'left out ' AND k < 'left out!' ORDER BY k";
    let mut statement = conn.prepare(sql).doing("read what is left out")?;
    let reasons = statement.query_map([], |row| row.get(0)).doing("read what is left out")?;
    reasons.collect::<Result<_, _>>().doing("read what is left out")
}

/// What isle has made and somebody has dropped since, by name.
pub(crate) fn gone(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT substr(k, 8) AS name FROM isle_meta WHERE k > 'object ' AND k < 'object!'
               EXCEPT SELECT lower(name) FROM sqlite_schema ORDER BY 1";
    let mut statement = conn.prepare(sql).doing("look for views and triggers that are gone")?;
    let names = statement.query_map([], |row| row.get(0)).doing("look for views and triggers that are gone")?;
    names.collect::<Result<_, _>>().doing("look for views and triggers that are gone")
}

/// What of a file or a scratch database is an object: views, triggers, virtual tables.
fn list(conn: &Connection) -> Result<Vec<(String, Object)>, StoreError> {
    let sql = concat!(
        "SELECT iif(s.type = 'table', 'virtual', s.type), s.name, s.sql FROM sqlite_schema AS s
               WHERE s.name NOT LIKE 'isle\\_%' ESCAPE '\\' AND ",
        crate::companion::not_of_cr_sqlite!(trigger "s.name"),
        " AND (s.type IN ('view', 'trigger') OR EXISTS
                 (SELECT 1 FROM pragma_table_list AS l WHERE l.schema = 'main' AND l.name = s.name AND l.type = 'virtual'))
               ORDER BY s.type, s.name"
    );
    let mut statement = conn.prepare(sql).doing("read views and triggers")?;
    let mut rows = statement.query([]).doing("read views and triggers")?;
    let mut objects = Vec::new();
    while let Some(row) = rows.next().doing("read views and triggers")? {
        let text = |at| row.get::<_, String>(at).doing("read views and triggers");
        let kind = match text(0)?.as_str() {
            "view" => ObjectKind::View,
            "trigger" => ObjectKind::Trigger,
            _ => ObjectKind::FullText,
        };
        objects.push((text(0)?, Object { kind, name: text(1)?, sql: text(2)? }));
    }
    Ok(objects)
}

/// The group's objects as they stand in this file, tables before what stands on them.
pub(crate) fn of_the_group(conn: &Connection) -> Result<Vec<(String, Object)>, StoreError> {
    let mut objects = list(conn)?;
    let mut ours = Vec::new();
    for (_, object) in &objects {
        ours.push(layout::meta::<String>(conn, &fact(&object.name))?.is_some());
    }
    let mut ours = ours.into_iter();
    objects.retain(|_| ours.next().unwrap_or(false));
    objects.sort_by(|(_, a), (_, b)| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(objects)
}

fn same(a: &str, b: &str) -> bool {
    tracked::words(a) == tracked::words(b)
}

/// Adds what the definition in `wanted` asks for beside tables. A `partial` one leaves alone what it does not name.
pub(crate) fn plan(
    conn: &Connection,
    (wanted, partial): (&Connection, bool),
    schema: &Schema,
    plan: &mut SchemaPlan,
) -> Result<(), StoreError> {
    let here = list(conn)?;
    let wanted_objects = list(wanted)?;
    let mut change = |kind: &'static str, object: &Object, step: Step| {
        let detail = object.kind.as_str().to_owned();
        plan.changes.push(SchemaChange { kind, table: object.name.clone(), detail });
        plan.steps.push(step);
    };
    let mut refused = Vec::new();
    for (_, object) in &wanted_objects {
        if let Err(reason) = check(wanted, object)? {
            refused.push(format!("{} {}: {reason}", object.kind.as_str(), object.name));
            continue;
        }
        let known = schema.objects.get(&object.name.to_ascii_lowercase()).and_then(Option::as_ref);
        if known.is_some_and(|known| known.kind == object.kind && same(&known.sql, &object.sql)) {
            continue;
        }
        let there = here.iter().find(|(_, there)| there.name.eq_ignore_ascii_case(&object.name));
        let ours = layout::meta::<String>(conn, &fact(&object.name))?.is_some();
        let foreign = there.filter(|(_, there)| !ours && (there.kind != object.kind || !same(&there.sql, &object.sql)));
        if foreign.is_some() {
            refused.push(format!(
                "{} {}: the app has made another one of that name here; drop it first",
                object.kind.as_str(),
                object.name
            ));
            continue;
        }
        change(if known.is_some() { "replace" } else { "create" }, object, Step::PutObject(object.clone()));
    }
    for object in schema.objects.values().flatten().filter(|_| !partial) {
        if !wanted_objects.iter().any(|(_, wanted)| wanted.name.eq_ignore_ascii_case(&object.name)) {
            change("drop", object, Step::DropObject { name: object.name.clone() });
        }
    }
    plan.refused.extend(refused);
    Ok(())
}

/// Whether an object of the definition can be made everywhere; else why not.
fn check(wanted: &Connection, object: &Object) -> Result<Result<(), String>, StoreError> {
    if let Err(reason) = try_alone(object) {
        return Ok(Err(reason));
    }
    match object.kind {
        ObjectKind::View => {
            let sql = format!("SELECT * FROM {}", quoted(&object.name));
            Ok(wanted.prepare(&sql).map(drop).map_err(|error| does_not_compile(&error)))
        }
        ObjectKind::Trigger => compile_trigger(wanted, &object.name),
        ObjectKind::FullText => content(wanted, object),
        _ => Ok(Err("it is of a kind that this version does not know; update isle".to_owned())),
    }
}

fn does_not_compile(error: &rusqlite::Error) -> String {
    format!("it does not compile ({error}); the definition has to name every table that it uses")
}

/// Runs another device's CREATE statement where it can do no harm: it has to make what it says and nothing else.
fn try_alone(object: &Object) -> Result<(), String> {
    // A trigger needs its table; its statement is run under the guard instead.
    if object.kind == ObjectKind::Trigger {
        return Ok(());
    }
    let mut conn = Connection::open_in_memory().map_err(|error| error.to_string())?;
    let name = object.name.clone();
    let full_text = object.kind == ObjectKind::FullText;
    let decide = move |context: AuthContext<'_>| {
        let own =
            |table: &str| full_text && table.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(&name));
        match context.action {
            AuthAction::CreateView { .. } if !full_text => Authorization::Allow,
            AuthAction::CreateVtable { module_name, .. } if full_text && module_name.eq_ignore_ascii_case("fts5") => {
                Authorization::Allow
            }
            AuthAction::CreateTable { table_name } if own(table_name) => Authorization::Allow,
            AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name }
                if table_name.starts_with("sqlite_") || own(table_name) =>
            {
                Authorization::Allow
            }
            AuthAction::Read { .. } | AuthAction::Select | AuthAction::Function { .. } => Authorization::Allow,
            AuthAction::Pragma { pragma_name, pragma_value: None } if pragma_name.contains("version") => {
                Authorization::Allow
            }
            AuthAction::CreateIndex { table_name, .. } if own(table_name) => Authorization::Allow,
            _ => Authorization::Deny,
        }
    };
    conn.authorizer(Some(decide)).map_err(|error| error.to_string())?;
    conn.execute(&object.sql, []).map_err(|error| format!("it cannot be made ({error})"))?;
    conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).map_err(|error| error.to_string())?;
    let made = list(&conn).map_err(|error| error.to_string())?;
    match made.as_slice() {
        [(_, made)] if made.kind == object.kind && made.name.eq_ignore_ascii_case(&object.name) => Ok(()),
        _ => Err("its SQL makes something else".to_owned()),
    }
}

/// Compiles a statement of each kind that may fire a trigger; what its body may not do, or cannot, is the reason why not. What did not
/// compile without the trigger says nothing of it.
fn compile_trigger(conn: &Connection, name: &str) -> Result<Result<(), String>, StoreError> {
    let sql = "SELECT tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name = ?1 COLLATE NOCASE";
    let on: Option<String> = conn.query_row(sql, [name], |row| row.get(0)).optional().doing("read a trigger")?;
    let Some(on) = on else { return Ok(Err("it is not there".to_owned())) };
    let columns = tracked::columns(conn, &on)?;
    let assigned: Vec<String> =
        columns.iter().filter(|column| column.hidden == 0).map(|column| quoted(&column.name)).collect();
    let sets: Vec<String> = assigned.iter().map(|column| format!("{column} = {column}")).collect();
    let table = quoted(&on);
    let list = assigned.join(", ");
    for sql in [
        format!("INSERT INTO {table}({list}) SELECT {list} FROM {table} WHERE 0"),
        format!("UPDATE {table} SET {} WHERE 0", sets.join(", ")),
        format!("DELETE FROM {table} WHERE 0"),
    ] {
        match conn.prepare(&sql) {
            Ok(_) => {}
            // A view without an INSTEAD OF trigger for this.
            Err(error) if error.to_string().contains("cannot modify") => {}
            Err(error) => return Ok(Err(does_not_compile(&error))),
        }
    }
    Ok(Ok(()))
}

/// Whether a full-text table names its rows by the numbers that SQLite gives them in this file.
fn is_by_rowid(conn: &Connection, table: &str, rowid: &str) -> Result<bool, StoreError> {
    let hidden = ["rowid", "_rowid_", "oid"].iter().any(|name| rowid.eq_ignore_ascii_case(name));
    let columns = tracked::columns(conn, table)?;
    let has_key = columns.iter().any(|column| column.key_position > 0);
    let taken = columns.iter().any(|column| column.name.eq_ignore_ascii_case(rowid));
    let sql = "SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND NOT wr AND name = ?1 COLLATE NOCASE";
    Ok(hidden && has_key && !taken && crate::clocks::one::<i64>(conn, sql, [table])?.is_some())
}

/// Whether a full-text table finds its rows in a table that has a number for each.
fn content(conn: &Connection, object: &Object) -> Result<Result<(), String>, StoreError> {
    let options = options(&object.sql);
    let option =
        |name: &str| options.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let Some(table) = option("content").filter(|table| !table.is_empty()) else {
        return Ok(Err("it keeps its own content or none, which other devices could not fill; write content='TABLE' and triggers that \
                       keep it".to_owned()));
    };
    let columns = tracked::columns(conn, table)?;
    let rowid = option("content_rowid").map_or("rowid", String::as_str);
    let numbered = number_of(&columns)
        .is_some_and(|key| rowid.eq_ignore_ascii_case("rowid") || rowid.eq_ignore_ascii_case(&key.name));
    if is_internal(table) || !(numbered || is_by_rowid(conn, table, rowid)?) {
        return Ok(Err(format!(
            "rows of table {table} have no number {rowid} to which it could refer: an INTEGER PRIMARY KEY, or, without content_rowid, the rowid of a \
             table with another key"
        )));
    }
    // A virtual table that is rolled back fails the commit, so it is tried elsewhere first.
    let scratch = Connection::open_in_memory().doing("try a full-text table")?;
    let names = columns.iter().map(|column| match column.key_position {
        n if n > 0 && numbered => format!("{} INTEGER PRIMARY KEY", quoted(&column.name)),
        _ => quoted(&column.name),
    });
    let (table, names) = (quoted(table), names.collect::<Vec<_>>().join(", "));
    let name = quoted(&object.name);
    let tried = scratch
        .execute_batch(&format!("CREATE TABLE {table}({names}); INSERT INTO {table} DEFAULT VALUES"))
        .and_then(|()| scratch.execute(&object.sql, []))
        .and_then(|_| scratch.execute(&format!("INSERT INTO {name}({name}) VALUES('rebuild')"), []));
    Ok(tried.map(drop).map_err(|error| format!("it does not fit its table ({error})")))
}

fn is_internal(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("isle_") || name.starts_with("sqlite_")
}

/// Takes the views and triggers that isle made out of the way of a change to the tables below; [`follow`] makes them again.
pub(crate) fn set_aside(conn: &Connection) -> Result<(), StoreError> {
    for (kind, object) in list(conn)? {
        let ours = layout::meta::<String>(conn, &fact(&object.name))?.is_some();
        if ours && object.kind != ObjectKind::FullText {
            conn.execute_batch(&format!("DROP {kind} IF EXISTS {}", quoted(&object.name))).doing("set a view aside")?;
        }
    }
    Ok(())
}

/// Lets full-text tables write what they keep in memory, before statements are compiled that may not write: FTS5 does so when a savepoint
/// begins, or else in the middle of the next change of the schema.
pub(crate) fn flush(conn: &Connection) -> Result<(), StoreError> {
    conn.execute_batch("SAVEPOINT isle_flush; RELEASE isle_flush").doing("write full-text tables")
}

/// Fills the full-text tables over a table that was made anew.
pub(crate) fn fill_again(conn: &Connection, table: &str) -> Result<(), StoreError> {
    for search in crate::search::full_text_tables(conn)? {
        if search.table.as_deref().is_some_and(|over| over.eq_ignore_ascii_case(table)) {
            fill(conn, &search.name)?;
        }
    }
    Ok(())
}

/// The full-text tables that isle has made: what one that the app made itself holds is the app's affair.
pub(crate) fn own_full_text(conn: &Connection) -> Result<Vec<crate::FullText>, StoreError> {
    let mut own = crate::search::full_text_tables(conn)?;
    let mut made = Vec::with_capacity(own.len());
    for search in &own {
        made.push(search.table.is_some() && layout::meta::<String>(conn, &fact(&search.name))?.is_some());
    }
    let mut made = made.into_iter();
    own.retain(|_| made.next().unwrap_or(false));
    Ok(own)
}

/// Fills the full-text tables again that go by numbers which VACUUM may have given anew.
pub(crate) fn fill_by_rowid(conn: &Connection) -> Result<(), StoreError> {
    for search in own_full_text(conn)? {
        let Some(table) = &search.table else { continue };
        let columns = tracked::columns(conn, table)?;
        if number_of(&columns).is_none() && is_by_rowid(conn, table, &search.rowid)? {
            fill(conn, &search.name)?;
        }
    }
    Ok(())
}

/// The INTEGER PRIMARY KEY, if a table has one.
fn number_of(columns: &[tracked::PhysicalColumn]) -> Option<&tracked::PhysicalColumn> {
    let mut key = columns.iter().filter(|column| column.key_position > 0);
    let first = key.next().filter(|column| column.declared.eq_ignore_ascii_case("INTEGER"));
    if key.next().is_none() { first } else { None }
}

fn fill(conn: &Connection, name: &str) -> Result<(), StoreError> {
    let name = quoted(name);
    conn.execute_batch(&format!("INSERT INTO {name}({name}) VALUES('rebuild')")).doing("fill a full-text table")
}

/// The options `name = value` of a virtual table, unquoted.
pub(crate) fn options(sql: &str) -> Vec<(String, String)> {
    let Some((_, arguments)) = sql.split_once('(') else { return Vec::new() };
    let arguments = arguments.rsplit_once(')').map_or(arguments, |(arguments, _)| arguments);
    let (mut parts, mut quote, mut part) = (Vec::new(), None, String::new());
    for character in arguments.chars() {
        match (quote, character) {
            (None, ',') => parts.push(std::mem::take(&mut part)),
            (None, '\'' | '"' | '`') => {
                quote = Some(character);
                part.push(character);
            }
            (Some(open), _) if open == character => {
                quote = None;
                part.push(character);
            }
            _ => part.push(character),
        }
    }
    parts.push(part);
    let options = parts.iter().filter_map(|part| part.split_once('='));
    let plain = |text: &str| text.trim().trim_matches(['\'', '"', '`', '[', ']']).to_owned();
    options.map(|(name, value)| (plain(name), plain(value))).collect()
}

/// Brings the file's objects to what the operations say. What does not compile here is left out.
pub(crate) fn follow(engine: &Engine, schema: &Schema) -> Result<(), StoreError> {
    let mut wanted: Vec<(&String, &Option<Object>)> = schema.objects.iter().collect();
    // Triggers keep full-text tables and may stand on views.
    wanted.sort_by_key(|(_, object)| object.as_ref().map(|object| object.kind));
    let mut left_out = Vec::new();
    for (name, object) in wanted {
        let conn = &engine.conn;
        let here = list(conn)?.into_iter().find(|(_, here)| here.name.eq_ignore_ascii_case(name));
        let made: Option<String> = layout::meta(conn, &fact(name))?;
        let stands = match (object, &here) {
            (None, None) => true,
            (Some(object), Some((_, here))) => here.kind == object.kind && same(&here.sql, &object.sql),
            _ => false,
        };
        if stands {
            note_left_out(conn, "part", name, None)?;
            match object {
                Some(object) if made.is_none() => layout::set_meta(conn, &fact(name), &object.sql)?,
                Some(_) => {}
                None => forget(conn, name)?,
            }
            continue;
        }
        if let Some((kind, here)) = &here {
            if made.is_none() {
                let what = object.as_ref().map_or("part", |object| object.kind.as_str());
                let reason = object
                    .as_ref()
                    .map(|_| "the app has made something of this name; drop it, and apply the schema again");
                note_left_out(conn, what, name, reason)?;
                continue;
            }
            let kind = if kind == "virtual" { "TABLE" } else { kind.as_str() };
            conn.execute_batch(&format!("DROP {kind} {}", quoted(&here.name))).doing("replace a view or trigger")?;
            forget(conn, name)?;
        }
        if let Some(object) = object
            && !make(engine, object)?
        {
            left_out.push(object);
        }
    }
    // One may stand on another that comes after it.
    loop {
        let before = left_out.len();
        for object in std::mem::take(&mut left_out) {
            if !make(engine, object)? {
                left_out.push(object);
            }
        }
        if left_out.len() == before {
            return Ok(());
        }
    }
}

fn forget(conn: &Connection, name: &str) -> Result<(), StoreError> {
    conn.execute("DELETE FROM isle_meta WHERE k = ?1", [fact(name)]).doing("replace a view or trigger").map(|_| ())
}

/// Makes an object, or leaves it out with a warning; false then.
fn make(engine: &Engine, object: &Object) -> Result<bool, StoreError> {
    let conn = &engine.conn;
    let run = |sql: &str| conn.execute_batch(sql).doing("make a view or trigger");
    run("SAVEPOINT isle_object")?;
    let made = try_make(engine, object);
    match made {
        Ok(Ok(())) => {
            run("RELEASE isle_object")?;
            note_left_out(conn, object.kind.as_str(), &object.name, None)?;
            layout::set_meta(conn, &fact(&object.name), &object.sql)?;
            Ok(true)
        }
        Ok(Err(reason)) => {
            run("ROLLBACK TO isle_object; RELEASE isle_object")?;
            note_left_out(conn, object.kind.as_str(), &object.name, Some(&reason))?;
            Ok(false)
        }
        Err(error) => {
            run("ROLLBACK TO isle_object; RELEASE isle_object")?;
            Err(error)
        }
    }
}

fn try_make(engine: &Engine, object: &Object) -> Result<Result<(), String>, StoreError> {
    if let Err(reason) = try_alone(object) {
        return Ok(Err(reason));
    }
    let conn = &engine.conn;
    if object.kind == ObjectKind::FullText
        && let Err(reason) = content(conn, object)?
    {
        return Ok(Err(reason));
    }
    let taken = "SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
    if crate::clocks::one::<i64>(conn, taken, [&object.name])?.is_some() {
        return Ok(Err("something else has its name here".to_owned()));
    }
    let created = match object.kind {
        ObjectKind::Trigger => {
            flush(conn)?;
            engine.guard.creating(&object.name, || conn.execute(&object.sql, []))
        }
        _ => conn.execute(&object.sql, []),
    };
    if let Some(reason) = engine.guard.take_refusal() {
        return Ok(Err(reason));
    }
    if let Err(error) = created {
        return match StoreError::sqlite("make a view or trigger", error) {
            StoreError::Sqlite { source, .. } => Ok(Err(source.to_string())),
            other => Err(other),
        };
    }
    match object.kind {
        ObjectKind::View => {
            let sql = format!("SELECT * FROM {}", quoted(&object.name));
            Ok(conn.prepare(&sql).map(drop).map_err(|error| does_not_compile(&error)))
        }
        ObjectKind::Trigger => {
            // Where they do not fire, SQLite does not compile them either.
            let fire = |on| conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, on).doing("compile a trigger");
            fire(true)?;
            let compiled = engine.guard.with(Mode::Trigger, || compile_trigger(conn, &object.name));
            fire(engine.triggers_needed)?;
            let compiled = compiled?;
            Ok(engine.guard.take_refusal().map_or(compiled, Err))
        }
        _ => {
            let name = quoted(&object.name);
            let fill = format!("INSERT INTO {name}({name}) VALUES('rebuild')");
            conn.execute(&fill, []).doing("fill a full-text table").map(|_| Ok(()))
        }
    }
}
