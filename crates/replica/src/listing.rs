//! Rows of a table or view by what their columns hold, and counts of them, for callers that take conditions from people.
//!
//! Names of columns are looked up in the table, values are bound: whatever somebody types, nothing of it is SQL. Where an order does not tell rows
//! apart, the primary key does, so that pages neither overlap nor leave a row out.

use rusqlite::Connection;

use crate::names::quoted;
use crate::{Error, Param, Queries, Replica, Row, Value};

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// It is the value; NULL is NULL.
    Equal,
    /// It is not the value.
    NotEqual,
    /// It is less.
    Less,
    /// It is less or the same.
    AtMost,
    /// It is greater.
    Greater,
    /// It is greater or the same.
    AtLeast,
    /// It contains the text; letters of ASCII count the same in both cases.
    Contains,
}

/// Which rows, in which order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    conditions: Vec<(String, Comparison, Value)>,
    order: Vec<(String, bool)>,
    limit: Option<usize>,
    offset: usize,
}

impl Filter {
    /// All rows, in the order of their keys.
    #[must_use]
    pub fn new() -> Filter {
        Filter::default()
    }

    /// Only rows of which this holds as well.
    #[must_use]
    pub fn with(mut self, column: &str, comparison: Comparison, value: Value) -> Filter {
        self.conditions.push((column.to_owned(), comparison, value));
        self
    }

    /// By this column, after those named before.
    #[must_use]
    pub fn order_by(mut self, column: &str, descending: bool) -> Filter {
        self.order.push((column.to_owned(), descending));
        self
    }

    /// No more rows than this.
    #[must_use]
    pub fn limit(mut self, rows: usize) -> Filter {
        self.limit = Some(rows);
        self
    }

    /// Without the first rows.
    #[must_use]
    pub fn offset(mut self, rows: usize) -> Filter {
        self.offset = rows;
        self
    }
}

/// A span of time that a column's moments are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// What rows are counted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grouping {
    /// The column.
    pub column: String,
    /// For a column of moments: how finely. Texts as ISO 8601 has them, or seconds since 1970, in UTC.
    pub per: Option<Per>,
    /// A column whose values are added up.
    pub sum: Option<String>,
}

/// Rows that have something in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// What.
    pub value: Value,
    /// How many rows.
    pub rows: u64,
    /// The sum that was asked for; NULL if nothing was to be added.
    pub sum: Value,
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnFacts {
    /// Its name.
    pub name: String,
    /// Rows in which it is not NULL.
    pub filled: u64,
    /// Different values.
    pub distinct: u64,
    /// The least.
    pub least: Value,
    /// The greatest.
    pub greatest: Value,
}

impl Replica {
    /// Rows of a table or view.
    ///
    /// # Errors
    /// [`Error::NoSuchColumn`] with those that there are, or SQLite's reason.
    pub fn list(&self, table: &str, filter: &Filter) -> Result<Vec<Row>, Error> {
        self.read(|queries| {
            let shape = Shape::of(queries, table)?;
            let (condition, values) = shape.condition(filter)?;
            let order = shape.order(filter)?;
            let (limit, offset) = (filter.limit.map_or(-1, whole), whole(filter.offset));
            let sql = format!("SELECT * FROM {} {condition} {order} LIMIT {limit} OFFSET {offset}", quoted(table));
            queries.query(&sql, &params(&values))
        })
    }

    /// How many rows of a table or view there are; the order and the limit do not count.
    ///
    /// # Errors
    /// As [`Replica::list`].
    pub fn count(&self, table: &str, filter: &Filter) -> Result<u64, Error> {
        self.read(|queries| {
            let (condition, values) = Shape::of(queries, table)?.condition(filter)?;
            let sql = format!("SELECT count(*) FROM {} {condition}", quoted(table));
            Ok(queries.one::<i64>(&sql, &params(&values))?.unwrap_or(0).unsigned_abs())
        })
    }

    /// Rows counted by what a column holds: the largest groups first, or in their order if they are spans of time. The filter's own order does not count.
    ///
    /// # Errors
    /// As [`Replica::list`].
    pub fn groups(&self, table: &str, grouping: &Grouping, filter: &Filter) -> Result<Vec<Group>, Error> {
        self.read(|queries| {
            let shape = Shape::of(queries, table)?;
            let (condition, values) = shape.condition(filter)?;
            let column = shape.column(&grouping.column)?;
            let value = match grouping.per {
                None => column.clone(),
                Some(per) => format!("strftime('{}', {column}, 'auto')", per.format()),
            };
            let order = if grouping.per.is_some() { "1" } else { "2 DESC, 1" };
            let sum = match &grouping.sum {
                Some(column) => format!("sum({})", shape.column(column)?),
                None => "NULL".to_owned(),
            };
            let (limit, offset) = (filter.limit.map_or(-1, whole), whole(filter.offset));
            let sql = format!(
                "SELECT {value}, count(*), {sum} FROM {} {condition} GROUP BY 1 ORDER BY {order} LIMIT {limit} OFFSET {offset}",
                quoted(table)
            );
            let rows = queries.query(&sql, &params(&values))?;
            Ok(rows.iter().filter_map(|row| Group::of(row.values())).collect())
        })
    }

    /// What each column of a table or view holds.
    ///
    /// # Errors
    /// As [`Replica::list`].
    pub fn column_facts(&self, table: &str, filter: &Filter) -> Result<Vec<ColumnFacts>, Error> {
        self.snapshot(|queries| {
            let shape = Shape::of(queries, table)?;
            let (condition, values) = shape.condition(filter)?;
            let mut facts = Vec::new();
            for name in &shape.columns {
                let column = quoted(name);
                let sql = format!(
                    "SELECT count({column}), count(DISTINCT {column}), min({column}), max({column}) FROM {} {condition}",
                    quoted(table)
                );
                let rows = queries.query(&sql, &params(&values))?;
                facts.extend(rows.first().and_then(|row| ColumnFacts::of(name, row.values())));
            }
            Ok(facts)
        })
    }
}

impl Group {
    fn of(values: &[Value]) -> Option<Group> {
        let [value, Value::Integer(rows), sum] = values else { return None };
        Some(Group { value: value.clone(), rows: rows.unsigned_abs(), sum: sum.clone() })
    }
}

impl ColumnFacts {
    fn of(name: &str, values: &[Value]) -> Option<ColumnFacts> {
        let [Value::Integer(filled), Value::Integer(distinct), least, greatest] = values else { return None };
        Some(ColumnFacts {
            name: name.to_owned(),
            filled: filled.unsigned_abs(),
            distinct: distinct.unsigned_abs(),
            least: least.clone(),
            greatest: greatest.clone(),
        })
    }
}

impl Per {
    fn format(self) -> &'static str {
        match self {
            Per::Hour => "%Y-%m-%dT%H:00",
            Per::Day => "%Y-%m-%d",
            Per::Month => "%Y-%m",
            Per::Year => "%Y",
        }
    }
}

/// The columns of a table or view.
struct Shape {
    table: String,
    columns: Vec<String>,
    key: Vec<String>,
}

impl Shape {
    fn of(queries: &Queries<'_>, table: &str) -> Result<Shape, Error> {
        let conn: &Connection = queries.as_rusqlite();
        let failed = |error| isle_store::StoreError::of_statement("look at the table", error);
        let mut statement =
            conn.prepare_cached("SELECT name, pk FROM pragma_table_xinfo(?1) WHERE hidden <> 1").map_err(failed)?;
        let found = statement.query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
        let found: Vec<(String, i64)> = found.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
        if found.is_empty() {
            return Err(isle_store::StoreError::NoSuchTable { table: table.to_owned() }.into());
        }
        let mut key: Vec<&(String, i64)> = found.iter().filter(|(_, pk)| *pk > 0).collect();
        key.sort_by_key(|(_, pk)| *pk);
        let key = key.into_iter().map(|(name, _)| name.clone()).collect();
        Ok(Shape { table: table.to_owned(), columns: found.into_iter().map(|(name, _)| name).collect(), key })
    }

    /// A column's name as SQL, if there is such a column.
    fn column(&self, name: &str) -> Result<String, Error> {
        let known = self.columns.iter().find(|known| known.eq_ignore_ascii_case(name));
        known.map(|known| quoted(known)).ok_or_else(|| Error::NoSuchColumn {
            table: self.table.clone(),
            column: name.to_owned(),
            known: self.columns.join(", "),
        })
    }

    fn condition(&self, filter: &Filter) -> Result<(String, Vec<Value>), Error> {
        let (mut parts, mut values) = (Vec::new(), Vec::new());
        for (column, comparison, value) in &filter.conditions {
            let column = self.column(column)?;
            let n = values.len() + 1;
            let (part, value) = match comparison {
                Comparison::Equal => (format!("{column} IS ?{n}"), value.clone()),
                Comparison::NotEqual => (format!("{column} IS NOT ?{n}"), value.clone()),
                Comparison::Less => (format!("{column} < ?{n}"), value.clone()),
                Comparison::AtMost => (format!("{column} <= ?{n}"), value.clone()),
                Comparison::Greater => (format!("{column} > ?{n}"), value.clone()),
                Comparison::AtLeast => (format!("{column} >= ?{n}"), value.clone()),
                Comparison::Contains => (format!("{column} LIKE ?{n} ESCAPE '\\'"), Value::Text(pattern(value))),
            };
            parts.push(part);
            values.push(value);
        }
        let sql = if parts.is_empty() { String::new() } else { format!("WHERE {}", parts.join(" AND ")) };
        Ok((sql, values))
    }

    fn order(&self, filter: &Filter) -> Result<String, Error> {
        let mut parts = Vec::new();
        for (column, descending) in &filter.order {
            parts.push(format!("{}{}", self.column(column)?, if *descending { " DESC" } else { "" }));
        }
        let named = |key: &&String| filter.order.iter().all(|(column, _)| !column.eq_ignore_ascii_case(key));
        parts.extend(self.key.iter().filter(named).map(|key| quoted(key)));
        Ok(if parts.is_empty() { String::new() } else { format!("ORDER BY {}", parts.join(", ")) })
    }
}

/// A pattern of LIKE for what contains a value's text.
fn pattern(value: &Value) -> String {
    let text = value.to_string();
    let escaped: String =
        text.chars().flat_map(|c| matches!(c, '%' | '_' | '\\').then_some('\\').into_iter().chain([c])).collect();
    format!("%{escaped}%")
}

fn params(values: &[Value]) -> Vec<Param<'_>> {
    values.iter().map(Value::as_param).collect()
}

fn whole(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
