//! A music shop that is made up from a number: the same one every time.

use isle::{Error, Transaction, params};

/// The tables, as anybody would write them.
pub(crate) const SCHEMA: &str = "
CREATE TABLE artists(id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT);
CREATE TABLE albums(id INTEGER PRIMARY KEY, artist INTEGER NOT NULL REFERENCES artists(id), title TEXT NOT NULL, year INTEGER);
CREATE TABLE tracks(id INTEGER PRIMARY KEY, album INTEGER NOT NULL REFERENCES albums(id), title TEXT NOT NULL,
                    seconds INTEGER, price REAL CHECK(price >= 0));
CREATE TABLE playlists(id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL);
CREATE TABLE playlist_tracks(playlist TEXT NOT NULL REFERENCES playlists(id), track INTEGER NOT NULL REFERENCES tracks(id),
                             added TEXT, PRIMARY KEY(playlist, track)) WITHOUT ROWID;
CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, track INTEGER REFERENCES tracks(id), body TEXT NOT NULL, stars INTEGER);
CREATE INDEX tracks_by_album ON tracks(album);";

const FIRST: [&str; 16] = [
    "Amber", "Birch", "Copper", "Dusty", "Electric", "Faint", "Golden", "Hollow", "Indigo", "Northern", "Paper",
    "Quiet", "Salt", "Silver", "Velvet", "Winter",
];
const SECOND: [&str; 16] = [
    "Lanterns", "Harbour", "Foxes", "Engine", "Rivers", "Choir", "Letters", "Orchard", "Signals", "Mirrors", "Tides",
    "Wires", "Sparrows", "Avenue", "Compass", "Static",
];
const THIRD: [&str; 12] = [
    "at Dawn",
    "in Rain",
    "for Two",
    "Again",
    "on Mars",
    "by Heart",
    "of Glass",
    "Unplugged",
    "Below Zero",
    "at Sea",
    "in Blue",
    "Returning",
];
const COUNTRIES: [&str; 8] = ["Denmark", "Ghana", "Japan", "Chile", "Iceland", "Portugal", "India", "Canada"];
const REMARKS: [&str; 8] = [
    "sounds best on headphones",
    "ask for the vinyl",
    "customers like it",
    "skip the intro",
    "play at closing time",
    "the second verse!",
    "reorder soon",
    "good for the window",
];
const PRICES: [f64; 5] = [0.79, 0.99, 1.09, 1.29, 1.49];

/// How many rows each table gets.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    artists: i64,
    albums: i64,
    tracks: i64,
    playlists: i64,
    entries: i64,
    notes: i64,
}

impl Sizes {
    fn of(rows: u32) -> Sizes {
        let rows = i64::from(rows);
        let (artists, albums, tracks) = ((rows / 50).max(2), (rows / 14).max(4), rows * 7 / 10);
        let (playlists, entries) = ((rows / 200).max(2), rows / 8);
        let notes = rows - artists - albums - tracks - playlists - entries;
        Sizes { artists, albums, tracks, playlists, entries, notes }
    }
}

/// A generator of numbers that are as good as random (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides.unsigned_abs().max(1)) as i64
    }

    fn pick<'w, T: ?Sized>(&mut self, words: &[&'w T]) -> &'w T {
        words[self.roll(words.len() as i64) as usize]
    }

    fn title(&mut self) -> String {
        format!("{} {} {}", self.pick(&FIRST), self.pick(&SECOND), self.pick(&THIRD))
    }
}

/// Fills the tables; gives the number of rows.
pub(crate) fn fill(tx: &Transaction<'_>, rows: u32) -> Result<u64, Error> {
    let (sizes, mut dice) = (Sizes::of(rows), Dice(20_261_120));
    let mut written = catalogue(tx, sizes, &mut dice)?;
    let mut playlist = tx.prepare("INSERT INTO playlists VALUES(?1, ?2)")?;
    for n in 1..=sizes.playlists {
        let (id, title) = (format!("list-{n}"), format!("{} mix {n}", dice.pick(&FIRST)));
        written += playlist.execute(params![&id, &title])?;
    }
    let mut entry = tx.prepare("INSERT INTO playlist_tracks VALUES(?1, ?2, ?3)")?;
    for n in 0..sizes.entries {
        // Each list has its own part of the catalogue, so that no pair comes twice.
        let (list, at) = (n % sizes.playlists, n / sizes.playlists);
        let (id, added) = (format!("list-{}", list + 1), format!("2026-{:02}-{:02}", 1 + n % 10, 1 + n % 28));
        written += entry.execute(params![&id, 1 + (list * 7 + at * 3) % sizes.tracks, &added])?;
    }
    let mut note = tx.prepare("INSERT INTO notes VALUES(?1, ?2, ?3, ?4)")?;
    for n in 1..=sizes.notes {
        let (id, body) = (format!("n{n}"), dice.pick(&REMARKS));
        written += note.execute(params![&id, 1 + dice.roll(sizes.tracks), body, 1 + dice.roll(5)])?;
    }
    Ok(written as u64)
}

fn catalogue(tx: &Transaction<'_>, sizes: Sizes, dice: &mut Dice) -> Result<usize, Error> {
    let mut written = 0;
    let mut artist = tx.prepare("INSERT INTO artists VALUES(?1, ?2, ?3)")?;
    for id in 1..=sizes.artists {
        let name = format!("{} {}", dice.pick(&FIRST), dice.pick(&SECOND));
        written += artist.execute(params![id, &name, dice.pick(&COUNTRIES)])?;
    }
    let mut album = tx.prepare("INSERT INTO albums VALUES(?1, ?2, ?3, ?4)")?;
    for id in 1..=sizes.albums {
        let (artist, title) = (1 + dice.roll(sizes.artists), dice.title());
        written += album.execute(params![id, artist, &title, 1962 + dice.roll(64)])?;
    }
    let mut track = tx.prepare("INSERT INTO tracks VALUES(?1, ?2, ?3, ?4, ?5)")?;
    for id in 1..=sizes.tracks {
        let (album, title) = (1 + id * sizes.albums / (sizes.tracks + 1), dice.title());
        let price = PRICES[dice.roll(PRICES.len() as i64) as usize];
        written += track.execute(params![id, album, &title, 95 + dice.roll(300), price])?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_add_up() {
        for rows in [100, 101, 5_000, 123_457] {
            let s = Sizes::of(rows);
            assert_eq!(s.artists + s.albums + s.tracks + s.playlists + s.entries + s.notes, i64::from(rows));
            assert!(s.notes >= 7 && s.tracks >= 43, "{s:?}");
            assert!(s.entries / s.playlists * 3 < s.tracks, "pairs repeat: {s:?}");
        }
    }
}
