//! Random statements on a schema that has a table of every kind.

use proptest::prelude::*;

/// Five tables: rowid key; NOCASE text; composite without rowid; keys only; a key and columns without conversion.
pub const SCHEMA: &str = "
    CREATE TABLE ints(id INTEGER PRIMARY KEY, a TEXT, b INT CHECK(b IS NOT 13), c);
    CREATE TABLE names(name TEXT PRIMARY KEY COLLATE NOCASE, v, w NUMERIC CHECK(w IS NOT 13));
    CREATE TABLE pairs(x INT, y TEXT, v BLOB, w REAL, PRIMARY KEY(y, x)) WITHOUT ROWID;
    CREATE TABLE tags(a INT NOT NULL, b TEXT NOT NULL, PRIMARY KEY(a, b));
    CREATE TABLE loose(k BLOB PRIMARY KEY, v BLOB, w)";

struct Shape {
    name: &'static str,
    keys: &'static [(&'static str, &'static [&'static str])],
    columns: &'static [&'static str],
}

const TABLES: [Shape; 5] = [
    Shape { name: "ints", keys: &[("id", &["1", "2", "3", "4"])], columns: &["a", "b", "c"] },
    Shape { name: "names", keys: &[("name", &["'a'", "'A'", "'b'", "'B'", "'c'"])], columns: &["v", "w"] },
    Shape { name: "pairs", keys: &[("x", &["1", "2"]), ("y", &["'k'", "'l'"])], columns: &["v", "w"] },
    Shape { name: "tags", keys: &[("a", &["1", "2"]), ("b", &["'p'", "'q'"])], columns: &[] },
    Shape { name: "loose", keys: &[("k", &["5", "5.0", "'a'", "x'61'", "7.5"])], columns: &["v", "w"] },
];

const VALUES: [&str; 14] =
    ["NULL", "0", "1", "1.0", "1.5", "'a'", "'A'", "'b '", "'1'", "''", "x'61'", "x''", "9223372036854775807", "13"];
const ZEROS: [&str; 2] = ["0.0", "-0.0"];

/// Which statements are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Any.
    All,
    /// Without real zeros: their sign is all that the two ways of capture may treat differently.
    NoZeros,
    /// Every value is another one, and rows do not change their keys.
    Unique,
}

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for n in (1..items.len()).rev() {
            items.swap(n, self.below(n + 1));
        }
    }
}

/// One statement; shown as its text when a case fails.
#[derive(Clone, PartialEq, Eq)]
pub struct Sql(pub String);

impl std::fmt::Debug for Sql {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Statements of one transaction: most of them on one table, so that they meet in its rows.
pub fn statements(style: Style, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Sql>> {
    let seeds = prop::collection::vec(any::<u64>().no_shrink(), count);
    (0..TABLES.len(), seeds)
        .prop_map(move |(focus, seeds)| seeds.into_iter().map(|seed| statement(&mut Rng(seed), style, focus)).collect())
}

/// How a statement begins that is undone at once, and one whose savepoint is kept.
pub const UNDONE: &str = "/* undone */ ";
pub const KEPT: &str = "/* savepoint */ ";

pub fn statement(rng: &mut Rng, style: Style, focus: usize) -> Sql {
    let table = if rng.chance(65) { &TABLES[focus] } else { rng.pick(&TABLES) };
    let Sql(sql) = bare_statement(rng, style, table);
    Sql(match rng.below(12) {
        0 => format!("{UNDONE}{sql}"),
        1 => format!("{KEPT}{sql}"),
        _ => sql,
    })
}

fn bare_statement(rng: &mut Rng, style: Style, table: &Shape) -> Sql {
    let kinds = if style == Style::Unique { 26 } else { 34 };
    Sql(match rng.below(kinds) {
        0..=4 => insert(rng, table, style, "INSERT"),
        5 => insert(rng, table, style, "INSERT OR IGNORE"),
        6 => insert(rng, table, style, "INSERT OR FAIL"),
        7..=9 => insert(rng, table, style, "INSERT OR REPLACE"),
        10..=13 => upsert(rng, table, style),
        14..=20 => update(rng, table, style),
        21..=24 => format!("DELETE FROM {} WHERE {}", table.name, key_is(rng, table)),
        25 if rng.chance(30) => format!("DELETE FROM {}", table.name),
        25 => update(rng, table, style),
        26 => {
            "UPDATE names SET name = CASE WHEN name = lower(name) COLLATE BINARY THEN upper(name) ELSE lower(name) END"
                .into()
        }
        27 => "UPDATE loose SET k = CASE typeof(k) WHEN 'integer' THEN 5.0 ELSE 5 END WHERE k = 5".into(),
        28 => format!("UPDATE OR REPLACE ints SET id = id {} WHERE id > {}", rng.pick(&["+ 1", "- 1"]), rng.below(3)),
        _ => move_key(rng, table),
    })
}

fn value(rng: &mut Rng, style: Style) -> String {
    match style {
        Style::Unique => (1_000 + (rng.next() >> 16)).to_string(),
        Style::All if rng.chance(10) => (*rng.pick(&ZEROS)).into(),
        _ => (*rng.pick(&VALUES)).into(),
    }
}

fn key(rng: &mut Rng, table: &Shape) -> Vec<&'static str> {
    table.keys.iter().map(|(_, pool)| if rng.chance(40) { pool[0] } else { *rng.pick(pool) }).collect()
}

fn key_is(rng: &mut Rng, table: &Shape) -> String {
    let key = key(rng, table);
    let terms: Vec<String> = table.keys.iter().zip(key).map(|((name, _), value)| format!("{name} = {value}")).collect();
    // Now and then all rows that share a part of the key.
    terms[..if rng.chance(80) { terms.len() } else { 1 }].join(" AND ")
}

/// One or two rows, now and then without some of the columns.
fn insert(rng: &mut Rng, table: &Shape, style: Style, verb: &str) -> String {
    let part = style != Style::Unique && rng.chance(25);
    let columns: Vec<&str> = table.columns.iter().copied().filter(|_| !part || rng.chance(50)).collect();
    let names = table.keys.iter().map(|(name, _)| *name).chain(columns.iter().copied()).collect::<Vec<_>>().join(", ");
    let rows: Vec<String> = (0..1 + usize::from(rng.chance(25)))
        .map(|_| {
            let mut row: Vec<String> = key(rng, table).into_iter().map(str::to_owned).collect();
            row.extend(columns.iter().map(|_| value(rng, style)));
            format!("({})", row.join(", "))
        })
        .collect();
    format!("{verb} INTO {}({names}) VALUES {}", table.name, rows.join(", "))
}

fn assignments(rng: &mut Rng, table: &Shape, style: Style) -> String {
    let all = rng.chance(25);
    let one = *rng.pick(table.columns);
    let chosen = table.columns.iter().filter(|column| all || **column == one);
    chosen.map(|column| format!("{column} = {}", value(rng, style))).collect::<Vec<_>>().join(", ")
}

fn upsert(rng: &mut Rng, table: &Shape, style: Style) -> String {
    let keys = table.keys.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let action = if table.columns.is_empty() || rng.chance(10) {
        "DO NOTHING".to_owned()
    } else {
        format!("DO UPDATE SET {}", assignments(rng, table, style))
    };
    format!("{} ON CONFLICT({keys}) {action}", insert(rng, table, style, "INSERT"))
}

fn update(rng: &mut Rng, table: &Shape, style: Style) -> String {
    if table.columns.is_empty() {
        return insert(rng, table, style, "INSERT OR REPLACE");
    }
    let set = assignments(rng, table, style);
    let verb = *rng.pick(&["UPDATE", "UPDATE", "UPDATE", "UPDATE OR IGNORE", "UPDATE OR FAIL"]);
    let filter = if rng.chance(85) { format!(" WHERE {}", key_is(rng, table)) } else { String::new() };
    format!("{verb} {} SET {set}{filter}", table.name)
}

fn move_key(rng: &mut Rng, table: &Shape) -> String {
    let verb = *rng.pick(&["UPDATE", "UPDATE", "UPDATE OR IGNORE", "UPDATE OR REPLACE", "UPDATE OR FAIL"]);
    let (name, pool) = rng.pick(table.keys);
    let mut set = format!("{name} = {}", rng.pick(pool));
    if rng.chance(30) && !table.columns.is_empty() {
        set += &format!(", {}", assignments(rng, table, Style::NoZeros));
    }
    format!("{verb} {} SET {set} WHERE {}", table.name, key_is(rng, table))
}
