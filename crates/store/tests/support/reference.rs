//! The reference model (`isle_test_reference`) beside real files.

use isle_changeset::Value;
use isle_schema::{Migration, Table};
#[allow(unused_imports, reason = "each test binary uses a part")]
pub use isle_test_reference::{Model, Sealed, Write, writes};

use super::Device;

/// The tracked tables, as the schema operations declare them.
pub fn tables(device: &Device) -> Vec<Table> {
    let heads = device.store.schema_heads().unwrap();
    let operations =
        heads.iter().map(|head| Migration::decode(&device.store.migration(*head).unwrap().unwrap()).unwrap().1);
    let mut tables: Vec<Table> =
        operations.flat_map(|op| op.tables().map(|definition| definition.table.clone()).collect::<Vec<_>>()).collect();
    tables.dedup_by_key(|table| table.id);
    tables
}

/// The rows of a file in the form of [`Model::visible`].
pub fn visible(device: &Device, table: &Table) -> Vec<String> {
    visible_in(&rusqlite::Connection::open(device.path()).unwrap(), table)
}

/// The same of any database.
pub fn visible_in(conn: &rusqlite::Connection, table: &Table) -> Vec<String> {
    let names = table.key.iter().map(|column| &column.name).chain(table.columns.iter().map(|column| &column.name));
    let list = names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let mut statement = conn.prepare(&format!("SELECT {list} FROM \"{}\"", table.name)).unwrap();
    let count = statement.column_count();
    let rows = statement.query_map([], |row| {
        let values: Vec<Value> = (0..count).map(|n| value(row.get_ref(n).unwrap())).collect();
        Ok(format!("{values:?}"))
    });
    let mut shown: Vec<String> = rows.unwrap().map(Result::unwrap).collect();
    shown.sort();
    shown
}

fn value(value: rusqlite::types::ValueRef<'_>) -> Value {
    match value {
        rusqlite::types::ValueRef::Null => Value::Null,
        rusqlite::types::ValueRef::Integer(v) => Value::Integer(v),
        rusqlite::types::ValueRef::Real(v) => Value::Real(v),
        rusqlite::types::ValueRef::Text(v) => Value::Text(v.to_vec()),
        rusqlite::types::ValueRef::Blob(v) => Value::Blob(v.to_vec()),
    }
}
