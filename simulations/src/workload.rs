//! What apps write: statements on whatever tables a file has.
//!
//! Few keys and few values, so that devices meet in the same cells; but what goes into text columns without a kind is different each
//! time, so that it can be said of each value what became of it.

use std::collections::BTreeMap;

use isle_schema::Kind;
use isle_store::Store;
use rusqlite::Connection;

use crate::random::Rng;

/// A table as a writer sees it.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) key: Vec<Col>,
    pub(crate) columns: Vec<Col>,
    /// Whether its rows travel.
    pub(crate) tracked: bool,
    /// Whether every merged row shows as it was merged: no kinds, no constraints over rows.
    pub(crate) plain: bool,
    /// A full-text table finds its rows. REPLACE fires no triggers for the rows that it removes, which such a table does not survive: no app
    /// that has one replaces rows.
    searched: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Col {
    pub(crate) name: String,
    declared: String,
    not_null: bool,
    has_default: bool,
    pub(crate) kind: Option<Kind>,
    /// The values that a CHECK allows.
    allowed: Vec<String>,
    /// Table and column that it refers to.
    refers: Option<(String, String)>,
    unique: bool,
}

/// A value that can be told from all others, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) table: String,
    pub(crate) column: String,
    pub(crate) text: String,
}

/// The tables of a file that writers use.
pub(crate) fn shapes(conn: &Connection, store: &Store) -> Result<Vec<Shape>, String> {
    let text = |error: rusqlite::Error| error.to_string();
    let (schema, _) = store.schema().map_err(|error| error.to_string())?;
    let searched = store.full_text_tables().map_err(|error| error.to_string())?;
    let mut statement = conn
        .prepare(
            "SELECT t.name, s.sql FROM pragma_table_list AS t JOIN sqlite_schema AS s ON s.name = t.name
             WHERE t.schema = 'main' AND t.type = 'table' AND t.name NOT LIKE 'isle\\_%' ESCAPE '\\' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
             ORDER BY t.name",
        )
        .map_err(text)?;
    let tables =
        statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).map_err(text)?;
    let mut shapes = Vec::new();
    for table in tables {
        let (name, sql) = table.map_err(text)?;
        // The library's own are written by isle.
        if isle_crsqlite::is_internal(&name) || name.starts_with("library_") {
            continue;
        }
        let state = schema.tables.values().find(|state| state.name.eq_ignore_ascii_case(&name));
        let kind_of = |column: &str| {
            let state = state?;
            let column = state.columns.iter().find(|known| known.name == column)?;
            state.kinds.get(&column.id).copied()
        };
        let (key, columns) = columns(conn, &name, &sql, kind_of).map_err(text)?;
        let constrained =
            columns.iter().any(|column| column.unique || column.refers.is_some() || column.kind.is_some())
                || key.iter().any(|column| column.refers.is_some());
        let searched = searched.iter().any(|search| search.table.as_deref() == Some(name.as_str()));
        let (tracked, plain) = (state.is_some(), state.is_some() && !constrained);
        shapes.push(Shape { name, key, columns, tracked, plain, searched });
    }
    Ok(shapes)
}

fn columns(
    conn: &Connection,
    table: &str,
    sql: &str,
    kind_of: impl Fn(&str) -> Option<Kind>,
) -> rusqlite::Result<(Vec<Col>, Vec<Col>)> {
    let mut refers = BTreeMap::new();
    let mut statement = conn.prepare("SELECT \"from\", \"table\", \"to\" FROM pragma_foreign_key_list(?1)")?;
    let rows = statement.query_map([table], |row| {
        Ok((row.get::<_, String>(0)?, (row.get::<_, String>(1)?, row.get::<_, Option<String>>(2)?.unwrap_or_default())))
    })?;
    for row in rows {
        let (from, to) = row?;
        refers.insert(from, to);
    }
    let mut unique: Vec<String> = Vec::new();
    let mut statement = conn.prepare(
        "SELECT i.name FROM pragma_index_list(?1) AS l, pragma_index_info(l.name) AS i WHERE l.\"unique\" AND l.origin <> 'pk'",
    )?;
    for name in statement.query_map([table], |row| row.get::<_, Option<String>>(0))? {
        unique.extend(name?);
    }
    let mut statement =
        conn.prepare("SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_xinfo(?1) WHERE hidden = 0")?;
    let rows = statement.query_map([table], |row| {
        let name: String = row.get(0)?;
        let default: Option<String> = row.get(3)?;
        let column = Col {
            declared: row.get::<_, String>(1)?.to_ascii_uppercase(),
            not_null: row.get(2)?,
            has_default: default.is_some(),
            kind: kind_of(&name),
            allowed: allowed(sql, &name),
            refers: refers.get(&name).cloned(),
            unique: unique.contains(&name),
            name,
        };
        Ok((row.get::<_, i64>(4)?, column))
    })?;
    let (mut key, mut columns) = (Vec::new(), Vec::new());
    for row in rows {
        match row? {
            (0, column) => columns.push(column),
            (position, column) => key.push((position, column)),
        }
    }
    key.sort_by_key(|(position, _)| *position);
    Ok((key.into_iter().map(|(_, column)| column).collect(), columns))
}

/// What `CHECK(column IN (…))` allows.
fn allowed(sql: &str, column: &str) -> Vec<String> {
    let Some((_, rest)) = sql.split_once(&format!("CHECK({column} IN (")) else { return Vec::new() };
    let Some((list, _)) = rest.split_once(')') else { return Vec::new() };
    list.split(',').map(|value| value.trim().to_owned()).collect()
}

/// Makes the statements of transactions.
pub(crate) struct Writer<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) shapes: &'a [Shape],
    pub(crate) rng: Rng,
    /// Counts tokens, over all devices.
    pub(crate) next_token: &'a mut u64,
    pub(crate) device: usize,
    /// Tables that most writes are of.
    pub(crate) hot: Vec<String>,
    pub(crate) tokens: Vec<Token>,
}

/// Some of the tables, which a seed chooses; the same whatever other tables there are.
pub(crate) fn hot(shapes: &[Shape], seed: u64, count: u32) -> Vec<String> {
    let mut names: Vec<String> = shapes.iter().map(|shape| shape.name.clone()).collect();
    let place = |name: &String| name.bytes().fold(seed, |hash, byte| Rng(hash ^ u64::from(byte)).next());
    names.sort_by_key(place);
    names.truncate(count as usize);
    names
}

impl Writer<'_> {
    /// The statements of one transaction: most of them on one table.
    pub(crate) fn transaction(&mut self) -> Vec<String> {
        if self.shapes.is_empty() {
            return Vec::new();
        }
        let mut focus = self.rng.below(self.shapes.len() as u64) as usize;
        if let Some(name) = self.hot.get(focus % self.hot.len().max(1))
            && self.rng.chance(85)
        {
            focus = self.shapes.iter().position(|shape| shape.name == *name).unwrap_or(focus);
        }
        let count = [1, 1, 1, 2, 3, 6][self.rng.below(6) as usize];
        (0..count)
            .map(|_| {
                let other = self.rng.below(self.shapes.len() as u64) as usize;
                let table = if self.rng.chance(70) { focus } else { other };
                self.statement(table)
            })
            .collect()
    }

    /// One statement that inserts many rows.
    pub(crate) fn bulk(&mut self, rows: u32, long: bool) -> Vec<String> {
        let tables: Vec<usize> =
            (0..self.shapes.len()).filter(|n| self.shapes[*n].plain && self.shapes[*n].key.len() == 1).collect();
        if tables.is_empty() {
            return Vec::new();
        }
        let shape = &self.shapes[tables[self.rng.below(tables.len() as u64) as usize]];
        let (table, key) = (shape.name.clone(), shape.key[0].name.clone());
        let first = 1_000 + self.rng.below(3) * u64::from(rows);
        let needed: Vec<usize> = (0..shape.columns.len()).filter(|n| shape.columns[*n].must_be_given()).collect();
        let texts: Vec<String> = shape
            .columns
            .iter()
            .filter(|column| column.declared == "TEXT" && !column.must_be_given() && column.is_free())
            .map(|column| column.name.clone())
            .collect();
        (first..first + u64::from(rows))
            .map(|n| {
                let mut columns = vec![quoted(&key)];
                let mut values =
                    vec![if self.shape(&table).key[0].is_integer() { n.to_string() } else { format!("'k{n}'") }];
                for column in &needed {
                    let column = self.shape(&table).columns[*column].clone();
                    values.push(self.value(&table, &column));
                    columns.push(quoted(&column.name));
                }
                if let Some(column) = texts.first().filter(|_| long) {
                    // Nothing makes it much shorter.
                    let text: String = (0..600).map(|_| format!("{:016x}", self.rng.next())).collect();
                    values.push(format!("'{text}'"));
                    columns.push(quoted(column));
                }
                let verb = if self.shape(&table).searched { "INSERT OR IGNORE" } else { "INSERT OR REPLACE" };
                format!("{verb} INTO {}({}) VALUES({})", quoted(&table), columns.join(", "), values.join(", "))
            })
            .collect()
    }

    fn shape(&self, table: &str) -> Shape {
        let found = self.shapes.iter().find(|shape| shape.name == table);
        found.cloned().unwrap_or_else(|| self.shapes[0].clone())
    }

    fn statement(&mut self, table: usize) -> String {
        let shape = self.shapes[table].clone();
        let kind = self.rng.below(20);
        match kind {
            7 if shape.searched => self.insert(&shape, "INSERT OR IGNORE"),
            0..=6 => self.insert(&shape, "INSERT"),
            7 => self.insert(&shape, "INSERT OR REPLACE"),
            8..=9 => {
                let keys: Vec<String> = shape.key.iter().map(|column| quoted(&column.name)).collect();
                let insert = self.insert(&shape, "INSERT");
                let action = match self.assignments(&shape) {
                    Some(set) => format!("DO UPDATE SET {set}"),
                    None => "DO NOTHING".to_owned(),
                };
                format!("{insert} ON CONFLICT({}) {action}", keys.join(", "))
            }
            10..=16 => match self.assignments(&shape) {
                Some(set) => {
                    let key = self.key_is(&shape);
                    format!("UPDATE {} SET {set} WHERE {key}", quoted(&shape.name))
                }
                None => self.insert(&shape, "INSERT OR REPLACE"),
            },
            17..=18 => {
                let key = self.key_is(&shape);
                format!("DELETE FROM {} WHERE {key}", quoted(&shape.name))
            }
            _ => self.move_key(&shape),
        }
    }

    fn insert(&mut self, shape: &Shape, verb: &str) -> String {
        let mut names = Vec::new();
        let mut values = Vec::new();
        for column in &shape.key {
            names.push(quoted(&column.name));
            values.push(self.key_value(column));
        }
        for column in &shape.columns {
            if column.must_be_given() || self.rng.chance(70) {
                names.push(quoted(&column.name));
                values.push(self.value(&shape.name, column));
            }
        }
        format!("{verb} INTO {}({}) VALUES({})", quoted(&shape.name), names.join(", "), values.join(", "))
    }

    fn key_is(&mut self, shape: &Shape) -> String {
        let terms = shape.key.iter().map(|column| {
            let value = self.key_value(column);
            format!("{} = {value}", quoted(&column.name))
        });
        terms.collect::<Vec<_>>().join(" AND ")
    }

    fn move_key(&mut self, shape: &Shape) -> String {
        let column = self.rng.pick(&shape.key).clone();
        let (to, key) = (self.key_value(&column), self.key_is(shape));
        format!("UPDATE OR IGNORE {} SET {} = {to} WHERE {key}", quoted(&shape.name), quoted(&column.name))
    }

    fn assignments(&mut self, shape: &Shape) -> Option<String> {
        if shape.columns.is_empty() {
            return None;
        }
        let mut one = self.rng.below(shape.columns.len() as u64) as usize;
        let of_kinds: Vec<usize> = (0..shape.columns.len()).filter(|n| shape.columns[*n].kind.is_some()).collect();
        if !self.hot.is_empty() && !of_kinds.is_empty() && self.rng.chance(50) {
            one = *self.rng.pick(&of_kinds);
        }
        let all = self.rng.chance(15);
        let chosen = shape.columns.iter().enumerate().filter(|(n, _)| all || *n == one);
        let set: Vec<String> = chosen
            .map(|(_, column)| {
                let value = self.changed(&shape.name, column);
                format!("{} = {value}", quoted(&column.name))
            })
            .collect();
        Some(set.join(", "))
    }

    /// What an UPDATE makes of a column.
    fn changed(&mut self, table: &str, column: &Col) -> String {
        let name = quoted(&column.name);
        let n = self.rng.below(9);
        match column.kind {
            Some(Kind::Counter) => format!("{name} + {}", 1 + n),
            Some(Kind::Set) if self.rng.chance(70) => format!("json_insert({name}, '$[#]', 'm{n}')"),
            Some(Kind::Set) => format!("(SELECT json_group_array(value) FROM json_each({name}) WHERE value <> 'm{n}')"),
            Some(Kind::Text) => match self.rng.below(3) {
                0 => format!("{name} || ' word{n}'"),
                1 => format!("'first{n} ' || {name}"),
                _ => format!("replace({name}, 'word{n}', 'term{n}')"),
            },
            Some(Kind::Json) if self.rng.chance(80) => format!("json_set({name}, '$.k{}', {n})", self.rng.below(4)),
            Some(Kind::Json) => format!("json_remove({name}, '$.k{}')", self.rng.below(4)),
            _ => self.value(table, column),
        }
    }

    fn key_value(&mut self, column: &Col) -> String {
        if let Some((table, to)) = column.refers.clone() {
            return self.parent(&table, &to).unwrap_or_else(|| "'nobody'".to_owned());
        }
        let n = self.rng.below(6);
        if column.is_integer() {
            (n + 1).to_string()
        } else {
            format!("'{}'", ["a", "A", "b", "c", "D", "e"][n as usize])
        }
    }

    /// The key of a row that is there, most of the time.
    fn parent(&mut self, table: &str, column: &str) -> Option<String> {
        let column = if column.is_empty() { self.shape(table).key.first()?.name.clone() } else { column.to_owned() };
        let skip = self.rng.below(4);
        let sql =
            format!("SELECT quote({0}) FROM {1} ORDER BY {0} LIMIT 1 OFFSET {skip}", quoted(&column), quoted(table));
        self.conn.query_row(&sql, [], |row| row.get(0)).ok()
    }

    fn value(&mut self, table: &str, column: &Col) -> String {
        if !column.allowed.is_empty() {
            return self.rng.pick(&column.allowed).clone();
        }
        if let Some((table, to)) = column.refers.clone() {
            let free = !column.not_null && self.rng.chance(20);
            return self.parent(&table, &to).filter(|_| !free).unwrap_or_else(|| "NULL".to_owned());
        }
        let n = self.rng.below(9);
        match column.kind {
            Some(Kind::Counter) => return n.to_string(),
            Some(Kind::Set) => return format!("'[\"m{n}\",\"m{}\"]'", (n + 1) % 9),
            Some(Kind::Text) => return format!("'some text{n} that was there'"),
            Some(Kind::Json) => return format!("'{{\"k{}\":{n}}}'", n % 4),
            Some(Kind::Max | Kind::Min) if column.is_integer() => return self.rng.below(1_000).to_string(),
            _ => {}
        }
        if column.unique {
            return format!("'u{}'", self.rng.below(5));
        }
        if !column.not_null && self.rng.chance(8) {
            return "NULL".to_owned();
        }
        if column.is_integer() {
            return self.rng.below(20).to_string();
        }
        match column.declared.as_str() {
            "REAL" => format!("{}.5", self.rng.below(20)),
            "BLOB" => format!("x'{:04x}'", self.rng.below(1 << 16)),
            "NUMERIC" => ["1", "1.5", "'x'", "1e3"][self.rng.below(4) as usize].to_owned(),
            _ => {
                *self.next_token += 1;
                let text = format!("d{}.{}", self.device, self.next_token);
                if column.kind.is_none() {
                    self.tokens.push(Token {
                        table: table.to_owned(),
                        column: column.name.clone(),
                        text: text.clone(),
                    });
                }
                format!("'{text}'")
            }
        }
    }
}

impl Col {
    fn is_integer(&self) -> bool {
        self.declared.contains("INT")
    }

    fn must_be_given(&self) -> bool {
        self.not_null && !self.has_default
    }

    /// Whether any text may stand there.
    fn is_free(&self) -> bool {
        self.allowed.is_empty() && self.refers.is_none() && !self.unique && self.kind.is_none()
    }
}

/// A name as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
