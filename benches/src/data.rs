//! The rows and operations every engine is given, from a fixed seed.
//!
//! # Invariants
//! * The same number of rows gives the same dataset on every machine.
//! * Rows with integer keys have the keys `1..=n` in order; operations name rows by integer key.
//! * `updates`, `theirs` and `ours` never write the value a row already has, and `theirs` and `ours`
//!   never agree: every update is a change and every contended row a conflict.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Rows written by one small transaction.
const SMALL_TRANSACTION_ROWS: usize = 10;
/// Small transactions in a sample.
const SMALL_TRANSACTIONS: usize = 1_000;
/// One-row transactions in a sample.
const ONE_ROW_TRANSACTIONS: usize = 200;
/// Point reads in a sample.
const POINT_READS: usize = 20_000;
/// Rows both sides write before they sync, unless that is more than a quarter of the table.
const CONFLICTS: usize = 50_000;

const WORDS: [&str; 32] = [
    "amber", "basket", "candle", "desk", "engine", "feather", "garden", "harbour", "index", "jacket", "kettle",
    "lantern", "marble", "needle", "orchid", "paper", "quartz", "ribbon", "saddle", "table", "umbrella", "velvet",
    "window", "yarn", "zipper", "bottle", "copper", "drawer", "folding", "granite", "hollow", "ivory",
];

/// What the primary key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keys {
    /// `INTEGER PRIMARY KEY`, handed out in order.
    Int,
    /// `BLOB PRIMARY KEY` of 16 random bytes.
    Uuid,
}

impl Keys {
    /// A short name, for files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Uuid => "uuid",
        }
    }
}

/// The key of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// An integer key.
    Int(i64),
    /// A random UUID as a blob.
    Uuid([u8; 16]),
}

/// One row of the table `items`.
#[derive(Clone, Debug)]
pub struct Row {
    /// Primary key.
    pub key: Key,
    /// A title of about 20 characters.
    pub title: String,
    /// A small number.
    pub stock: i64,
    /// A number with three decimals.
    pub score: f64,
}

/// A new value of `stock` for the row with this integer key.
pub type StockUpdate = (i64, i64);

/// Everything the workloads write and ask for.
#[derive(Debug)]
pub struct Dataset {
    int_rows: Vec<Row>,
    uuid_rows: Vec<Row>,
    /// One update of each row, in key order.
    pub updates: Vec<StockUpdate>,
    /// A random half of the keys, in random order.
    pub half: Vec<i64>,
    /// Small transactions of random updates.
    pub small: Vec<Vec<StockUpdate>>,
    /// The remote side's updates of the contended rows, in random order.
    pub theirs: Vec<StockUpdate>,
    /// The local side's updates of the same rows.
    pub ours: Vec<StockUpdate>,
    /// Rows to add one at a time; their keys follow those of the table.
    pub extra: Vec<Row>,
    /// Keys to read, random and with repetition.
    pub points: Vec<i64>,
}

impl Dataset {
    /// Makes the dataset for a table of `rows` rows.
    #[must_use]
    pub fn generate(rows: usize) -> Self {
        let mut rng = Rng(0x1517_5eed);
        let mut all: Vec<Row> =
            (1..).take(rows + ONE_ROW_TRANSACTIONS).map(|key| random_row(Key::Int(key), &mut rng)).collect();
        let extra = all.split_off(rows);
        let uuid_rows = all.iter().map(|row| Row { key: rng.uuid(), ..row.clone() }).collect();
        let mut keys: Vec<i64> = (1..).take(rows).collect();
        let stock_of = |key: i64| usize::try_from(key - 1).map_or(0, |index| all[index].stock);
        let updates = keys.iter().map(|&key| (key, rng.stock_unlike(&[stock_of(key)]))).collect();
        rng.shuffle(&mut keys);
        let half = keys[..rows / 2].to_vec();
        let small = (0..SMALL_TRANSACTIONS)
            .map(|_| (0..SMALL_TRANSACTION_ROWS).map(|_| (rng.pick(&keys), rng.stock())).collect())
            .collect();
        rng.shuffle(&mut keys);
        let contended = &keys[..CONFLICTS.min(rows / 4)];
        let theirs: Vec<StockUpdate> = contended.iter().map(|&key| (key, rng.stock_unlike(&[stock_of(key)]))).collect();
        let ours = theirs.iter().map(|&(key, theirs)| (key, rng.stock_unlike(&[stock_of(key), theirs]))).collect();
        let points = (0..POINT_READS).map(|_| rng.pick(&keys)).collect();
        Self { int_rows: all, uuid_rows, updates, half, small, theirs, ours, extra, points }
    }

    /// The rows of the table, in the order they are inserted.
    #[must_use]
    pub fn rows(&self, keys: Keys) -> &[Row] {
        match keys {
            Keys::Int => &self.int_rows,
            Keys::Uuid => &self.uuid_rows,
        }
    }

    /// The digest of a table that holds exactly `rows`.
    pub fn digest<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Digest {
        let mut digest = Digest::default();
        for row in rows {
            digest.add_row(row);
        }
        digest
    }

    /// The digest of the integer-keyed table after `updates` in order and then `deletes`.
    pub fn digest_after<'a>(&self, updates: impl IntoIterator<Item = &'a StockUpdate>, deletes: &[i64]) -> Digest {
        let stock: HashMap<i64, i64> = updates.into_iter().copied().collect();
        let deleted: HashSet<i64> = deletes.iter().copied().collect();
        let mut digest = Digest::default();
        for row in &self.int_rows {
            let Key::Int(key) = row.key else { continue };
            if !deleted.contains(&key) {
                digest.add_row(&Row { stock: stock.get(&key).copied().unwrap_or(row.stock), ..row.clone() });
            }
        }
        digest
    }

    /// The keys both sides write before they sync.
    #[must_use]
    pub fn contended(&self) -> Vec<i64> {
        self.theirs.iter().map(|&(key, _)| key).collect()
    }
}

/// What a table holds: the number of rows and a sum over the hashes of the rows, in whatever order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Number of rows.
    pub rows: u64,
    /// Sum of the rows' hashes.
    pub sum: u64,
}

impl Digest {
    /// Adds one row.
    pub fn add(&mut self, key: KeyRef<'_>, title: &[u8], stock: i64, score: f64) {
        let mut hasher = DefaultHasher::new();
        (key, title, stock, score.to_bits()).hash(&mut hasher);
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
    }

    fn add_row(&mut self, row: &Row) {
        let key = match &row.key {
            Key::Int(key) => KeyRef::Int(*key),
            Key::Uuid(key) => KeyRef::Blob(key),
        };
        self.add(key, row.title.as_bytes(), row.stock, row.score);
    }
}

/// A key as it is read from a database.
#[derive(Clone, Copy, Debug, Hash)]
pub enum KeyRef<'a> {
    /// An integer key.
    Int(i64),
    /// A blob key.
    Blob(&'a [u8]),
}

const STOCK_LIMIT: i64 = 100_000;

fn random_row(key: Key, rng: &mut Rng) -> Row {
    let title = format!("{} {} {:04}", rng.pick(&WORDS), rng.pick(&WORDS), rng.below(10_000));
    Row { key, title, stock: rng.stock(), score: f64::from(rng.below_u32(5_000_000)) / 1_000.0 }
}

/// SplitMix64: small, seedable and the same everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below_u32(&mut self, limit: u32) -> u32 {
        // The high half of a 32 by 32 bit product: less than `limit`, so it fits.
        (((self.next() >> 32) * u64::from(limit)) >> 32) as u32
    }

    fn below(&mut self, limit: usize) -> usize {
        self.below_u32(u32::try_from(limit).unwrap_or(u32::MAX)) as usize
    }

    fn stock(&mut self) -> i64 {
        i64::from(self.below_u32(STOCK_LIMIT as u32))
    }

    /// A stock that is none of `taken`, so that writing it changes something.
    fn stock_unlike(&mut self, taken: &[i64]) -> i64 {
        loop {
            let stock = self.stock();
            if !taken.contains(&stock) {
                return stock;
            }
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }

    /// A version 4 UUID.
    fn uuid(&mut self) -> Key {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes());
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Key::Uuid(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_dataset_every_time() {
        let (a, b) = (Dataset::generate(1_000), Dataset::generate(1_000));
        assert_eq!(Dataset::digest(a.rows(Keys::Uuid)), Dataset::digest(b.rows(Keys::Uuid)));
        assert_eq!(a.half, b.half);
        assert_eq!(a.half.len(), 500);
    }

    #[test]
    fn every_update_is_a_change_and_every_contended_row_a_conflict() {
        // Enough rows that values meet by chance: there are only `STOCK_LIMIT` of them.
        let data = Dataset::generate(STOCK_LIMIT as usize);
        let changes = |update: &StockUpdate| data.int_rows[update.0 as usize - 1].stock != update.1;
        assert!(data.updates.iter().chain(&data.theirs).chain(&data.ours).all(changes));
        assert_eq!(data.theirs.len(), STOCK_LIMIT as usize / 4);
        assert!(data.theirs.iter().zip(&data.ours).all(|(theirs, ours)| theirs.0 == ours.0 && theirs.1 != ours.1));
    }
}
