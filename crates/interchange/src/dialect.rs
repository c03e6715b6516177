//! Tables and rows as SQL of other databases.
//!
//! SQLite holds any value in any column; others do not. A column gets the narrowest type that holds every value that is in it, so the same state gives
//! the same statements, and they load. Dates and JSON are texts, as they are in SQLite.
//!
//! * PostgreSQL: BIGINT, DOUBLE PRECISION, TEXT, BYTEA. A text with a NUL character has no form there and is an error.
//! * MySQL and MariaDB: BIGINT, DOUBLE, LONGTEXT, LONGBLOB; VARCHAR and VARBINARY for columns of the key, which have to have a length. Backslashes are not escapes for
//!   the session. Infinity has no form there; keys that differ in blanks at their end alone are one key; CREATE TABLE ends a transaction.
//! * SQLite: INTEGER, REAL, TEXT, BLOB, or no type where a column holds several.
//!
//! Elsewhere a column of integers beyond 2^53 and of floats is text. SQLite itself, up to 3.40 at least, reads some floats of a text one unit in the last
//! place off.

use std::fmt::Write as _;

use isle_changeset::{Value, ValueRef};

/// Whose SQL is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL 9.1 or later.
    Postgres,
    /// MySQL 5.7 or later, and MariaDB.
    Mysql,
}

/// Rows of one statement.
const ROWS_OF_ONE: usize = 100;
/// Bytes of one statement after which it ends: less than the packet that MySQL takes.
const BYTES_OF_ONE: usize = 1 << 20;
/// Characters of a key of MySQL's, at least and at most for all its columns together.
const KEY_CHARACTERS: (usize, usize) = (255, 768);
/// Bytes of a key that PostgreSQL has an index for.
const KEY_BYTES: usize = 2_600;

/// A column of a table, and what it holds.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// Whether it is a part of the primary key, from 1.
    pub key: Option<usize>,
    /// Whether it takes no NULL.
    pub not_null: bool,
    /// Its type if it holds nothing: by its declaration.
    pub empty: Kind,
    kinds: [bool; 4],
    /// Whether there is an integer that no float is.
    wide: bool,
    longest: usize,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A whole number.
    Integer,
    /// A number.
    Real,
    /// A text.
    #[default]
    Text,
    /// Bytes.
    Blob,
}

impl Held {
    /// A column that holds nothing yet; `empty` is its type then.
    pub fn new(name: String, key: Option<usize>, not_null: bool, empty: Kind) -> Held {
        Held { name, key, not_null, empty, ..Held::default() }
    }

    /// Takes note of a value.
    pub fn see(&mut self, value: &Value) {
        let (kind, length) = match value {
            Value::Null => return,
            Value::Integer(_) => (Kind::Integer, 0),
            Value::Real(_) => (Kind::Real, 0),
            Value::Text(text) => (Kind::Text, text.len()),
            Value::Blob(bytes) => (Kind::Blob, bytes.len()),
        };
        self.kinds[kind as usize] = true;
        self.wide |= matches!(value, Value::Integer(number) if number.unsigned_abs() > 1 << f64::MANTISSA_DIGITS);
        self.longest = self.longest.max(length);
    }

    /// The narrowest kind for all that it holds.
    fn kind(&self) -> Kind {
        match self.kinds {
            [false, false, false, false] => self.empty,
            [true, false, false, false] => Kind::Integer,
            // One of the two would be another number in the other's type.
            [true, true, false, false] if self.wide => Kind::Text,
            [_, true, false, false] => Kind::Real,
            [_, _, true, false] => Kind::Text,
            [.., true] => Kind::Blob,
        }
    }
}

impl Dialect {
    /// What stands before all tables.
    pub fn begin(self) -> &'static str {
        match self {
            Dialect::Sqlite => "PRAGMA foreign_keys = OFF;\nBEGIN;\n",
            Dialect::Postgres => "SET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\nBEGIN;\n",
            Dialect::Mysql => {
                "SET NAMES utf8mb4;\nSET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES');\nSTART TRANSACTION;\n"
            }
        }
    }

    /// What stands behind them.
    pub fn end(self) -> &'static str {
        "COMMIT;\n"
    }

    /// The statement that makes a table.
    pub fn create(self, table: &str, columns: &[Held]) -> String {
        let column = |held: &Held| {
            let kind = match self.column_type(held) {
                kind if kind.is_empty() => String::new(),
                kind => format!(" {kind}"),
            };
            let not_null = if held.not_null || held.key.is_some() { " NOT NULL" } else { "" };
            format!("  {}{kind}{not_null}", self.quoted(&held.name))
        };
        let mut lines: Vec<String> = columns.iter().map(column).collect();
        let mut key: Vec<&Held> = columns.iter().filter(|held| held.key.is_some()).collect();
        key.sort_by_key(|held| held.key);
        let long = |held: &&&Held| matches!(held.kind(), Kind::Text | Kind::Blob);
        let lengths = key.iter().filter(long).map(|held| held.longest);
        let too_long = match self {
            Dialect::Sqlite => false,
            Dialect::Postgres => lengths.sum::<usize>() > KEY_BYTES,
            Dialect::Mysql => lengths.map(|longest| longest.max(KEY_CHARACTERS.0)).sum::<usize>() > KEY_CHARACTERS.1,
        };
        let names = key.iter().map(|held| self.quoted(&held.name)).collect::<Vec<_>>().join(", ");
        if !key.is_empty() && !too_long {
            lines.push(format!("  PRIMARY KEY ({names})"));
        }
        let note =
            if too_long { format!("-- the key ({names}) is too long for an index here\n") } else { String::new() };
        format!("{note}CREATE TABLE {} (\n{}\n);\n", self.quoted(table), lines.join(",\n"))
    }

    fn column_type(self, held: &Held) -> String {
        let of_key = held.key.is_some() && held.longest <= KEY_CHARACTERS.1;
        let length = held.longest.max(KEY_CHARACTERS.0);
        let name = match (self, held.kind()) {
            (Dialect::Sqlite, _) if held.kinds.iter().filter(|held| **held).count() > 1 => "",
            (Dialect::Sqlite, Kind::Integer) => "INTEGER",
            (Dialect::Sqlite, Kind::Real) => "REAL",
            (Dialect::Sqlite | Dialect::Postgres, Kind::Text) => "TEXT",
            (Dialect::Sqlite, Kind::Blob) => "BLOB",
            (_, Kind::Integer) => "BIGINT",
            (Dialect::Postgres, Kind::Real) => "DOUBLE PRECISION",
            (Dialect::Postgres, Kind::Blob) => "BYTEA",
            (Dialect::Mysql, Kind::Real) => "DOUBLE",
            // As bytes: keys that differ in case alone are two.
            (Dialect::Mysql, Kind::Text) if of_key => {
                return format!("VARCHAR({length}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
            }
            (Dialect::Mysql, Kind::Blob) if of_key => return format!("VARBINARY({length})"),
            (Dialect::Mysql, Kind::Text) => "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            (Dialect::Mysql, Kind::Blob) => "LONGBLOB",
        };
        name.to_owned()
    }

    /// An identifier.
    fn quoted(self, name: &str) -> String {
        match self {
            Dialect::Mysql => format!("`{}`", name.replace('`', "``")),
            _ => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// A value in a column; an error says what has no form.
    fn literal(self, held: &Held, value: &Value, out: &mut String) -> Result<(), String> {
        let kind = held.kind();
        match (value.as_ref(), self) {
            (ValueRef::Null, _) => out.push_str("NULL"),
            (ValueRef::Integer(number), Dialect::Sqlite) => drop(write!(out, "{number}")),
            (ValueRef::Integer(number), _) => match kind {
                Kind::Integer | Kind::Real => drop(write!(out, "{number}")),
                Kind::Text => self.text(&number.to_string(), out)?,
                Kind::Blob => self.bytes(number.to_string().as_bytes(), out),
            },
            (ValueRef::Real(number), _) if self == Dialect::Sqlite || kind == Kind::Real => self.real(number, out)?,
            (ValueRef::Real(number), _) if kind == Kind::Blob => self.bytes(format!("{number:?}").as_bytes(), out),
            (ValueRef::Real(number), _) => self.text(&format!("{number:?}"), out)?,
            (ValueRef::Text(text), _) if self != Dialect::Sqlite && kind == Kind::Blob => self.bytes(text, out),
            (ValueRef::Text(text), _) => {
                self.text(std::str::from_utf8(text).map_err(|_| "a text that is not UTF-8".to_owned())?, out)?;
            }
            (ValueRef::Blob(bytes), _) => self.bytes(bytes, out),
        }
        Ok(())
    }

    fn real(self, number: f64, out: &mut String) -> Result<(), String> {
        match (self, number.is_finite()) {
            (_, true) => drop(write!(out, "{number:?}")),
            (Dialect::Sqlite, false) => out.push_str(if number > 0.0 { "9e999" } else { "-9e999" }),
            (Dialect::Postgres, false) => out.push_str(if number > 0.0 { "'Infinity'" } else { "'-Infinity'" }),
            (Dialect::Mysql, false) => return Err("infinity, which MySQL does not have".to_owned()),
        }
        Ok(())
    }

    fn text(self, text: &str, out: &mut String) -> Result<(), String> {
        match (self, text.contains('\0')) {
            // SQLite's own literals end there.
            (Dialect::Sqlite, true) => {
                out.push_str("CAST(");
                self.bytes(text.as_bytes(), out);
                out.push_str(" AS TEXT)");
            }
            (Dialect::Postgres, true) => {
                return Err("a text with a NUL character, which PostgreSQL does not have".to_owned());
            }
            (Dialect::Mysql, true) => {
                out.push_str("CONVERT(");
                self.bytes(text.as_bytes(), out);
                out.push_str(" USING utf8mb4)");
            }
            _ => {
                out.push('\'');
                out.push_str(&text.replace('\'', "''"));
                out.push('\'');
            }
        }
        Ok(())
    }

    fn bytes(self, bytes: &[u8], out: &mut String) {
        let digits = data_encoding::HEXLOWER.encode(bytes);
        // Nothing that is written to a string fails.
        let _ = match self {
            Dialect::Postgres => write!(out, "'\\x{digits}'"),
            _ => write!(out, "X'{digits}'"),
        };
    }
}

/// Statements that insert the rows of one table.
#[derive(Debug)]
pub struct Inserts<'c> {
    dialect: Dialect,
    head: String,
    columns: &'c [Held],
    open: usize,
    text: String,
}

impl<'c> Inserts<'c> {
    /// For a table with these columns.
    pub fn new(dialect: Dialect, table: &str, columns: &'c [Held]) -> Inserts<'c> {
        let names = columns.iter().map(|held| dialect.quoted(&held.name)).collect::<Vec<_>>().join(", ");
        let head = format!("INSERT INTO {} ({names}) VALUES\n", dialect.quoted(table));
        Inserts { dialect, head, columns, open: 0, text: String::new() }
    }

    /// Adds a row; gives the statement that is full with it.
    ///
    /// # Errors
    /// The value without a form, with the number of its column.
    pub fn row(&mut self, values: &[Value]) -> Result<Option<String>, (usize, String)> {
        self.text.push_str(if self.open == 0 { &self.head } else { ",\n" });
        for (n, (held, value)) in self.columns.iter().zip(values).enumerate() {
            self.text.push_str(if n == 0 { "(" } else { ", " });
            self.dialect.literal(held, value, &mut self.text).map_err(|reason| (n, reason))?;
        }
        self.text.push(')');
        self.open += 1;
        let full = self.open >= ROWS_OF_ONE || self.text.len() >= BYTES_OF_ONE;
        Ok(if full { self.finish() } else { None })
    }

    /// The statement that is not full, if there is one.
    pub fn finish(&mut self) -> Option<String> {
        if self.open == 0 {
            return None;
        }
        self.open = 0;
        self.text.push_str(";\n");
        Some(std::mem::take(&mut self.text))
    }
}
