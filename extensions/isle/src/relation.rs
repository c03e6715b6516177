//! Tables that stand in no file: rows that the replica tells.

use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use isle::{Replica, Value};
use rusqlite::types::Null;
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConfig, VTabConnection, VTabCursor,
};
use rusqlite::{Connection, Error, Result, ffi};

use crate::replica::{Access, Failure, Session};

/// What one tells, or why it cannot.
pub(crate) type Rows = Result<Vec<Vec<Value>>, Failure>;

/// One of them.
pub(crate) struct Relation {
    pub(crate) name: &'static CStr,
    /// How SQLite is told of its columns; those that are arguments come last, and are hidden.
    pub(crate) declaration: &'static CStr,
    /// How many columns stand before the arguments.
    pub(crate) columns: usize,
    /// What the arguments are called; those up to `required` have to be given.
    pub(crate) arguments: &'static [&'static str],
    pub(crate) required: usize,
    pub(crate) access: Access,
    pub(crate) rows: fn(&Replica, &[Value]) -> Rows,
}

type Aux = (Arc<Session>, &'static Relation);

/// Makes one known to a connection.
pub(crate) fn register(conn: &Connection, session: &Arc<Session>, relation: &'static Relation) -> Result<()> {
    const MODULE: Module<'static, Table> = Module::eponymous_only_module();
    conn.create_module(relation.name, &MODULE, Some((Arc::clone(session), relation)))
}

#[repr(C)]
struct Table {
    // SQLite's part comes first.
    base: ffi::sqlite3_vtab,
    session: Arc<Session>,
    relation: &'static Relation,
    db: *mut ffi::sqlite3,
}

// SAFETY: the first field of the struct, whose layout is C's, is SQLite's.
unsafe impl<'vtab> VTab<'vtab> for Table {
    type Aux = Aux;
    type Cursor = Cursor<'vtab>;

    fn connect(
        db: &mut VTabConnection,
        aux: Option<&Aux>,
        _module: &[u8],
        _database: &[u8],
        _table: &[u8],
        _arguments: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        let Some((session, relation)) = aux else { return Err(failure("the table was registered without its rows")) };
        db.config(VTabConfig::DirectOnly)?;
        // SAFETY: the connection outlives its tables.
        let db = unsafe { db.handle() };
        let base = ffi::sqlite3_vtab::default();
        let table = Table { base, session: Arc::clone(session), relation, db };
        Ok((Cow::Borrowed(relation.declaration), table))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
        let columns = self.relation.columns as c_int;
        let mut given = vec![None; self.relation.arguments.len()];
        let mut unusable = false;
        for (n, constraint) in info.constraints().enumerate() {
            let argument = usize::try_from(constraint.column() - columns).ok();
            let Some(slot) = argument.and_then(|argument| given.get_mut(argument)) else { continue };
            if constraint.operator() != IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ {
                continue;
            }
            match constraint.is_usable() {
                true => *slot = Some(n),
                false => unusable = true,
            }
        }
        let (mut mask, mut position) = (0, 0);
        for (argument, constraint) in given.iter().enumerate() {
            if let Some(constraint) = constraint {
                position += 1;
                mask |= 1 << argument;
                let mut usage = info.constraint_usage(*constraint);
                usage.set_argv_index(position);
                usage.set_omit(true);
            }
        }
        info.set_idx_num(mask);
        // More arguments are better than fewer; what the rows cost is not known.
        info.set_estimated_cost(1e6 / f64::from(1 + position));
        Ok(!unusable)
    }

    fn open(&'vtab mut self) -> Result<Cursor<'vtab>> {
        Ok(Cursor {
            base: ffi::sqlite3_vtab_cursor::default(),
            session: Arc::clone(&self.session),
            relation: self.relation,
            db: self.db,
            arguments: Vec::new(),
            rows: Vec::new(),
            at: 0,
            table: PhantomData,
        })
    }
}

#[repr(C)]
struct Cursor<'vtab> {
    base: ffi::sqlite3_vtab_cursor,
    session: Arc<Session>,
    relation: &'static Relation,
    db: *mut ffi::sqlite3,
    arguments: Vec<Value>,
    rows: Vec<Vec<Value>>,
    at: usize,
    table: PhantomData<&'vtab Table>,
}

impl Cursor<'_> {
    fn look(&mut self, mask: c_int, given: &Filters<'_>) -> Result<(), Failure> {
        let mut given = given.iter();
        let relation = self.relation;
        self.arguments.clear();
        for (n, name) in relation.arguments.iter().enumerate() {
            let value = if mask & (1 << n) == 0 { None } else { given.next() };
            let value = value.map_or(Value::Null, crate::functions::value_of);
            if n < relation.required && value == Value::Null {
                return Err(format!("{} takes an argument: {name}", relation.name.to_string_lossy()).into());
            }
            self.arguments.push(value);
        }
        // SAFETY: the connection outlives its tables, and theirs outlive their cursors.
        let host = unsafe { Connection::from_handle(self.db)? };
        let replica = self.session.replica(&host, relation.access)?;
        (self.rows, self.at) = ((relation.rows)(&replica, &self.arguments)?, 0);
        Ok(())
    }
}

// SAFETY: as for the table.
unsafe impl VTabCursor for Cursor<'_> {
    fn filter(&mut self, mask: c_int, _: Option<&str>, given: &Filters<'_>) -> Result<()> {
        match catch_unwind(AssertUnwindSafe(|| self.look(mask, given))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failure(&crate::functions::printable(error).to_string())),
            Err(_) => Err(failure("isle failed; that is a fault of isle's")),
        }
    }

    fn next(&mut self) -> Result<()> {
        self.at += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.at >= self.rows.len()
    }

    fn column(&self, context: &mut Context, column: c_int) -> Result<()> {
        let column = usize::try_from(column).unwrap_or(usize::MAX);
        let value = match column.checked_sub(self.relation.columns) {
            None => self.rows.get(self.at).and_then(|row| row.get(column)),
            Some(argument) => self.arguments.get(argument),
        };
        match value {
            None | Some(Value::Null) => context.set_result(Null),
            Some(Value::Integer(value)) => context.set_result(value),
            Some(Value::Real(value)) => context.set_result(value),
            Some(Value::Text(value)) => context.set_result(value.as_str()),
            Some(Value::Blob(value)) => context.set_result(value.as_slice()),
        }
    }

    fn rowid(&self) -> Result<i64> {
        Ok(self.at as i64)
    }
}

fn failure(reason: &str) -> Error {
    Error::ModuleError(reason.to_owned())
}
