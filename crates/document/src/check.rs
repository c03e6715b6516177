//! What of foreign bytes is let near the decoder.
//!
//! Automerge stores columns run by run, so that a hundred bytes can say a trillion rows, and compresses parts of what it saves. Both
//! are measured here without being unrolled. The layout is that of the Automerge binary format
//! (<https://automerge.org/automerge-binary-format-spec/>).

use crate::DocumentError;

/// The most rows that a column of a document may say. A document with half of them is not edited any more, so there is room for what others do
/// meanwhile.
pub const OPS_MAX: usize = 16 << 20;

/// The most that a column of one change may say: the library takes about 0.8 KB and 8 µs for each character that is deleted, which are two
/// bytes in a change however many they are.
pub const CHANGE_OPS_MAX: usize = 1 << 19;

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
const DOCUMENT: u8 = 0;
const CHANGE: u8 = 1;

/// Measures chunks of a document, or one change.
///
/// # Errors
/// [`DocumentError`] if they are not laid out as such, are compressed, or say more rows than [`OPS_MAX`] or [`CHANGE_OPS_MAX`].
pub fn check(bytes: &[u8]) -> Result<(), DocumentError> {
    for chunk in chunks(bytes) {
        let (kind, _, body) = chunk?;
        let mut reader = Reader(body);
        match kind {
            CHANGE => change(&mut reader)?,
            DOCUMENT => document(&mut reader)?,
            _ => return Err(malformed("kind of a chunk")),
        }
    }
    Ok(())
}

/// The changes that stand singly in what a document saves: those that wait for what they build on.
pub(crate) fn changes(bytes: &[u8]) -> Result<Vec<Vec<u8>>, DocumentError> {
    let mut changes = Vec::new();
    for chunk in chunks(bytes) {
        let (kind, whole, _) = chunk?;
        if kind == CHANGE {
            changes.push(whole.to_vec());
        }
    }
    Ok(changes)
}

/// Kind, whole and body of each chunk.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = Result<(u8, &[u8], &[u8]), DocumentError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let whole = rest;
        let mut reader = Reader(rest);
        let chunk = head(&mut reader);
        rest = if chunk.is_ok() { reader.0 } else { &[] };
        Some(chunk.map(|(kind, body)| (kind, &whole[..whole.len() - rest.len()], body)))
    })
}

fn head<'a>(reader: &mut Reader<'a>) -> Result<(u8, &'a [u8]), DocumentError> {
    if reader.take(4)? != MAGIC {
        return Err(malformed("start of a chunk"));
    }
    reader.take(4)?;
    let kind = reader.take(1)?[0];
    Ok((kind, reader.prefixed()?))
}

fn change(reader: &mut Reader<'_>) -> Result<(), DocumentError> {
    let dependencies = reader.count(32)?;
    reader.take(dependencies * 32)?;
    reader.prefixed()?;
    for _ in 0..2 {
        // Number of the change, first operation: sums of them must not overflow.
        if reader.unsigned()? > u64::from(u32::MAX) {
            return Err(DocumentError::TooLarge { what: "number", max: u32::MAX as usize });
        }
    }
    reader.signed()?;
    reader.prefixed()?;
    for _ in 0..reader.count(1)? {
        reader.prefixed()?;
    }
    let columns = specifications(reader)?;
    operation_columns(columns, CHANGE_OPS_MAX, reader)
}

fn document(reader: &mut Reader<'_>) -> Result<(), DocumentError> {
    for _ in 0..reader.count(1)? {
        reader.prefixed()?;
    }
    let heads = reader.count(32)?;
    reader.take(heads * 32)?;
    let (changes, operations) = (specifications(reader)?, specifications(reader)?);
    for (specification, length) in changes {
        column(specification, (u64::MAX, OPS_MAX), reader.take(length)?)?;
    }
    operation_columns(operations, OPS_MAX, reader)
}

/// isle makes maps, lists and texts, writes and deletes. Marks on texts, increments and tables come from nobody, and marks in a wrong order
/// make documents that cannot be read again.
fn operation_columns(
    columns: Vec<(u64, usize)>,
    rows_max: usize,
    reader: &mut Reader<'_>,
) -> Result<(), DocumentError> {
    for (specification, length) in columns {
        let max = match specification >> 4 {
            0..=3 | 5..=8 => u64::MAX,
            4 => 4,
            _ => return Err(malformed("column of marks")),
        };
        column(specification, (max, rows_max), reader.take(length)?)?;
    }
    Ok(())
}

fn specifications(reader: &mut Reader<'_>) -> Result<Vec<(u64, usize)>, DocumentError> {
    let count = reader.count(2)?;
    (0..count).map(|_| Ok((reader.unsigned()?, reader.length()?))).collect()
}

/// Counts the rows of a column, which are at most so many, and whose numbers are `max` at most.
fn column(specification: u64, (max, rows_max): (u64, usize), bytes: &[u8]) -> Result<(), DocumentError> {
    if specification & 8 != 0 {
        return Err(malformed("compressed column"));
    }
    let mut reader = Reader(bytes);
    let mut rows = 0u64;
    // 0 groups, 1 actors, 2 integers, 3 differences, 4 booleans, 5 texts, 6 headings of values, 7 values.
    let kind = specification & 7;
    while kind != 7 && !reader.0.is_empty() {
        let run = if kind == 4 { i128::from(reader.unsigned()?) } else { i128::from(reader.signed()?) };
        let item = |reader: &mut Reader<'_>| match kind {
            3 => reader.signed().map(drop),
            5 => reader.prefixed().map(drop),
            _ => match reader.unsigned()? {
                number if number > max => Err(malformed("kind of an operation")),
                _ => Ok(()),
            },
        };
        let count = match run {
            run if kind == 4 => run,
            0 => i128::from(reader.unsigned()?),
            run if run < 0 => {
                let count = usize::try_from(-run).ok().filter(|count| *count <= reader.0.len());
                for _ in 0..count.ok_or_else(|| malformed("run of a column"))? {
                    item(&mut reader)?;
                }
                -run
            }
            run => {
                item(&mut reader)?;
                run
            }
        };
        rows = rows.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if rows > rows_max as u64 {
            return Err(DocumentError::TooLarge { what: "column", max: rows_max });
        }
    }
    Ok(())
}

fn malformed(what: &'static str) -> DocumentError {
    DocumentError::Malformed { what }
}

/// Appends a number, seven bits a byte, the lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads what Automerge and isle write: numbers as LEB128.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], DocumentError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| malformed("length"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn unsigned(&mut self) -> Result<u64, DocumentError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("number"))
    }

    fn signed(&mut self) -> Result<i64, DocumentError> {
        let mut value = 0i64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= i64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let negative = byte & 0x40 != 0 && shift + 7 < 64;
                return Ok(if negative { value | -1 << (shift + 7) } else { value });
            }
        }
        Err(malformed("number"))
    }

    pub(crate) fn length(&mut self) -> Result<usize, DocumentError> {
        let length = usize::try_from(self.unsigned()?).unwrap_or(usize::MAX);
        if length > self.0.len() { Err(malformed("length")) } else { Ok(length) }
    }

    pub(crate) fn prefixed(&mut self) -> Result<&'a [u8], DocumentError> {
        let length = self.length()?;
        self.take(length)
    }

    /// A number of things that take at least `each` bytes.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, DocumentError> {
        let count = usize::try_from(self.unsigned()?).unwrap_or(usize::MAX);
        if count > self.0.len() / each { Err(malformed("number")) } else { Ok(count) }
    }
}
