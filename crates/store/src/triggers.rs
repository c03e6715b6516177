//! Capture by plain SQL: triggers that any client from SQLite 3.23 on runs (3.40 is tested), with no function of isle's.
//!
//! Each trigger appends to `isle_queue` in the user's own transaction: the table's number, a mask of changed cells (none = all)
//! and the key; an update also the key before it, so that the seal finds both rows where a key has moved. The wall time is the
//! default of the queue's column: every client parses these triggers when it opens the file, so they say no more than they must.
//! The queue has no constraint, so that an outer `OR IGNORE` or `OR REPLACE`, which would override a conflict clause in a
//! trigger's body, has nothing to work on. Entries are hints: the seal looks at the table.
//!
//! A mask begins with `m0`; where that is NULL all cells count. A later word that is NULL behind a `m0` says that nothing in
//! it changed: the trigger may have been made before the table had so many columns.
//!
//! A mask is exact to the byte and the type. `IS NOT` alone is not: it takes 1 for 1.0, −0.0 for 0.0, and what a column's collation
//! calls equal for equal.

use isle_schema::Affinity;
use rusqlite::Connection;

use crate::StoreError;
use crate::error::Doing as _;
use crate::layout::{literal, quoted};
use crate::tracked::{Tracked, WORD_BITS, collation_name, join};

/// Milliseconds since 1970 of a Julian day number, which is what the queue has: SQL for that is older than
/// `unixepoch('subsec')`.
pub(crate) fn ms_of_julian_day(day: f64) -> u64 {
    ((day - 2_440_587.5) * 86_400_000.0).max(0.0) as u64
}

/// The inverse of [`ms_of_julian_day`].
pub(crate) fn julian_day_of_ms(ms: u64) -> f64 {
    ms as f64 / 86_400_000.0 + 2_440_587.5
}

/// The triggers' names, for dropping them.
pub(crate) fn names(no: i64) -> [String; 6] {
    ["isle_i", "isle_u", "isle_d", "isle_z", "isle_r", "isle_q"].map(|name| format!("{name}{no}"))
}

/// Puts the triggers on a table.
pub(crate) fn install(conn: &Connection, tracked: &Tracked) -> Result<(), StoreError> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    let sql = crate::clocks::one::<String>(conn, sql, [&tracked.table.name])?.unwrap_or_default();
    let plain = !crate::tracked::contains_word(&sql, "COLLATE");
    conn.execute_batch(&create_sql(tracked, plain)).doing(&format!("watch table {}", tracked.table.name))
}

/// Puts on a table that cr-sqlite keeps the one trigger that notes what cr-sqlite takes for no change.
pub(crate) fn install_zero_sign(conn: &Connection, tracked: &Tracked) -> Result<(), StoreError> {
    let [_, _, _, zero, ..] = names(tracked.no);
    conn.execute_batch(&zero_sign(tracked, &zero)).doing(&format!("watch table {}", tracked.table.name))
}

/// Takes them off.
pub(crate) fn remove(conn: &Connection, no: i64) -> Result<(), StoreError> {
    let sql: String = names(no).iter().map(|trigger| format!("DROP TRIGGER IF EXISTS {trigger};")).collect();
    conn.execute_batch(&sql).doing("take the triggers off a table")
}

/// The statements that create the triggers of a table. `plain` says that none of its columns names a collation, so that text is
/// compared byte by byte without more words.
fn create_sql(tracked: &Tracked, plain: bool) -> String {
    let [insert, update, delete, zero, ..] = names(tracked.no);
    let on = quoted(&tracked.table.name);
    let inserted = entry(tracked, &[], "NEW", false);
    let removed = entry(tracked, &[], "OLD", false);
    let masks: Vec<String> = (0..tracked.queue_words()).map(|word| mask(tracked, word, plain)).collect();
    let updated = entry(tracked, &masks, "NEW", true);
    let guard = null_guard(tracked);
    let zeros = zero_sign(tracked, &zero);
    format!(
        "CREATE TRIGGER {insert} AFTER INSERT ON {on} BEGIN {guard}{inserted} END;\n\
         CREATE TRIGGER {update} AFTER UPDATE ON {on} BEGIN {guard}{updated} END;\n\
         CREATE TRIGGER {delete} AFTER DELETE ON {on} BEGIN {removed} END;\n{zeros}{}",
        clash_sql(tracked)
    )
}

/// The triggers of a table with UNIQUE indexes: REPLACE removes the rows that a new one clashes with, and tells no trigger.
pub(crate) fn clash_sql(tracked: &Tracked) -> String {
    let places = join((0..tracked.table.key.len()).map(|n| format!(",k{n}")), "");
    let keys = join(tracked.table.key.iter().map(|column| format!(",{}", quoted(&column.name))), "");
    let no = tracked.no;
    let [.., replaced, moved] = names(no);
    let clashes = clashes(tracked, |found| {
        // With no cell in its mask the entry means: look whether the row is gone.
        format!("INSERT INTO isle_queue(t,m0{places}) SELECT {no},0{keys} FROM {found};")
    });
    let clashes = clashes
        .map(|[insert, update]| format!("CREATE TRIGGER {replaced} {insert};\nCREATE TRIGGER {moved} {update};\n"));
    clashes.unwrap_or_default()
}

/// Bodies of triggers before an insert and before an update of indexed columns that do something with the rows which a new row
/// clashes with: `act` gets their FROM clause. `None` for a table without UNIQUE indexes.
pub(crate) fn clashes(tracked: &Tracked, act: impl Fn(&str) -> String) -> Option<[String; 2]> {
    if tracked.unique.is_empty() {
        return None;
    }
    let on = quoted(&tracked.table.name);
    let key = tracked.table.key.iter().map(|column| format!("{0} IS OLD.{0}", quoted(&column.name)));
    let key = join(key, " AND ");
    // Before an insert nobody knows an automatic key yet; a hint too many does no harm.
    let body = |other: &str| -> String {
        let found = tracked.unique.iter().map(|index| {
            let terms = index.parts.iter().map(|part| {
                let name = quoted(&part.column.name);
                format!("{name}=NEW.{name} COLLATE {}", collation_name(part.column.collation))
            });
            // With its condition a partial index can be used to find them.
            act(&format!("{on} WHERE {}{}{other}", join(terms, " AND "), index.condition()))
        });
        found.collect()
    };
    let mut columns: Vec<String> = Vec::new();
    for part in tracked.unique.iter().flat_map(|index| &index.parts) {
        let name = quoted(&part.column.name);
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    Some([
        format!("BEFORE INSERT ON {on} BEGIN {} END", body("")),
        format!("BEFORE UPDATE OF {} ON {on} BEGIN {} END", columns.join(","), body(&format!(" AND NOT ({key})"))),
    ])
}

/// One queue entry for the key of `row` (NEW or OLD), with the key before if the row may have another now. Without masks it is
/// about all cells.
fn entry(tracked: &Tracked, masks: &[String], row: &str, moves: bool) -> String {
    let (mut columns, mut values) = ("t".to_owned(), tracked.no.to_string());
    for (n, mask) in masks.iter().enumerate().filter(|(n, mask)| *n == 0 || *mask != "0") {
        columns += &format!(",m{n}");
        values += &format!(",{mask}");
    }
    let rows = [("k", row), ("o", "OLD")];
    for (prefix, row) in rows.into_iter().take(1 + usize::from(moves)) {
        for (n, column) in tracked.table.key.iter().enumerate() {
            columns += &format!(",{prefix}{n}");
            values += &format!(",{row}.{}", quoted(&column.name));
        }
    }
    format!("INSERT INTO isle_queue({columns}) VALUES({values});")
}

/// True of a queue entry whose row got another canonical key.
pub(crate) fn moved(tracked: &Tracked) -> String {
    let terms = tracked.table.key.iter().enumerate();
    let differs = terms.map(|(n, column)| format!("o{n} IS NOT k{n} COLLATE {}", collation_name(column.collation)));
    format!("o0 IS NOT NULL AND ({})", join(differs, " OR "))
}

/// The cells of one queue word that an update changed, the last first: SQLite gives << and | one precedence, so that
/// `(a)<<1|(b)<<1|(c)` is `((a<<1|b)<<1)|c`.
fn mask(tracked: &Tracked, word: usize, plain: bool) -> String {
    let from = word * WORD_BITS;
    let to = tracked.cells().min(from + WORD_BITS);
    let mut mask = String::new();
    for cell in (from..to).rev() {
        let changed = match cell.checked_sub(1) {
            None => exact_key_changed(tracked, plain),
            Some(column) => {
                Some(changed(&quoted(&tracked.table.columns[column].name), tracked.affinities[column], plain))
            }
        };
        mask += if mask.is_empty() { "" } else { "<<1" };
        if let Some(changed) = changed {
            mask += &format!("{}({changed})", if mask.is_empty() { "" } else { "|" });
        }
    }
    if mask.is_empty() { "0".to_owned() } else { mask }
}

/// True when a value changed in its type or in one of its bits.
fn changed(name: &str, affinity: Affinity, plain: bool) -> String {
    let bytes = format!("OLD.{name} IS NOT NEW.{name}{}", if plain { "" } else { " COLLATE BINARY" });
    match affinity {
        // Only integers and reals compare equal across types. A column that converts holds such a number in one type; the one
        // exception is −2^63, which an INTEGER column keeps as a real if it came as one.
        Affinity::Text | Affinity::Real | Affinity::Integer | Affinity::Numeric => bytes,
        Affinity::Blob => format!("{bytes} OR typeof(OLD.{name})<>typeof(NEW.{name})"),
    }
}

/// A trigger for columns without conversion: no SQL function of a stock SQLite tells −0.0 from 0.0, so a statement that
/// assigns a real zero to such a column that holds one counts as a change of it.
fn zero_sign(tracked: &Tracked, trigger: &str) -> String {
    let columns = || tracked.table.columns.iter().enumerate().filter(|(n, _)| tracked.affinities[*n] == Affinity::Blob);
    // Where the old zero was an integer the type changed, which is noted anyway.
    let both = |name: &str| format!("OLD.{name}=0.0 AND NEW.{name}=0.0 AND typeof(NEW.{name})='real'");
    let keys = || tracked.table.key.iter().filter(|key| !tracked.table.rowid_key && key.affinity == Affinity::Blob);
    let names = keys().map(|key| &key.name).chain(columns().map(|(_, column)| &column.name));
    let names = join(names.map(|name| quoted(name)), ",");
    if names.is_empty() {
        return String::new();
    }
    let mut masks = vec![Vec::new(); tracked.queue_words()];
    masks[0].extend(keys().map(|key| format!("(({}) IS TRUE)", both(&quoted(&key.name)))));
    for (n, column) in columns() {
        masks[(n + 1) / WORD_BITS].push(format!(
            "((({}) IS TRUE)<<{})",
            both(&quoted(&column.name)),
            (n + 1) % WORD_BITS
        ));
    }
    if let (None, Some((n, _)), None) = (keys().next(), columns().next(), columns().nth(1)) {
        // Of a single column the trigger's condition has said it all.
        masks[(n + 1) / WORD_BITS] = vec![(1u64 << ((n + 1) % WORD_BITS)).to_string()];
    }
    let masks: Vec<String> = masks.iter().map(|w| if w.is_empty() { "0".to_owned() } else { w.join("|") }).collect();
    let entry = entry(tracked, &masks, "NEW", false);
    let any = keys().map(|key| &key.name).chain(columns().map(|(_, column)| &column.name));
    let any: Vec<String> = any.map(|name| format!("({})", both(&quoted(name)))).collect();
    let any = balanced_or(&any);
    let on = quoted(&tracked.table.name);
    format!("CREATE TRIGGER {trigger} AFTER UPDATE OF {names} ON {on} WHEN {any} BEGIN {entry} END;\n")
}

/// A tree of ORs: a chain of a thousand would be deeper than SQLite allows.
fn balanced_or(terms: &[String]) -> String {
    match terms {
        [] => "0".to_owned(),
        [one] => one.clone(),
        _ => {
            let (left, right) = terms.split_at(terms.len() / 2);
            format!("({} OR {})", balanced_or(left), balanced_or(right))
        }
    }
}

/// True when the exact bytes of a key changed within its canonical form; `None` where they cannot.
fn exact_key_changed(tracked: &Tracked, plain: bool) -> Option<String> {
    if tracked.table.rowid_key {
        return None;
    }
    let terms = tracked.table.key.iter().map(|column| changed(&quoted(&column.name), column.affinity, plain));
    Some(join(terms, " OR "))
}

/// Refuses a NULL in a key, which SQLite itself allows in a rowid table for historical reasons.
fn null_guard(tracked: &Tracked) -> String {
    let nullable = tracked.table.key.iter().zip(&tracked.nullable_key).filter(|(_, nullable)| **nullable);
    let condition = join(nullable.map(|(column, _)| format!("NEW.{} IS NULL", quoted(&column.name))), " OR ");
    if condition.is_empty() {
        return String::new();
    }
    let message = literal(&format!("isle: NULL in the key of table {}", tracked.table.name));
    format!("SELECT RAISE(ABORT,{message}) WHERE {condition};")
}
