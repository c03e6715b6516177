//! A compact encoding of rows, for engines that leave encoding to the application: integers as
//! zigzag varints, reals as 8 bytes little-endian, text and blobs with their length in front.

use anyhow::{Context, Result, bail};
use rusqlite::types::ValueRef;

use crate::data::{Key, Row};

/// The level every engine's bytes are compressed with.
const ZSTD_LEVEL: i32 = 3;

/// The plain values of some rows, row after row, without anything else.
#[must_use]
pub fn plain_values(rows: &[Row]) -> Vec<u8> {
    let mut out = Writer::default();
    for row in rows {
        match &row.key {
            Key::Int(key) => out.integer(*key),
            Key::Uuid(key) => out.raw(key),
        }
        out.bytes(row.title.as_bytes());
        out.integer(row.stock);
        out.real(row.score);
    }
    out.finish()
}

/// The size of some bytes after compression.
///
/// # Errors
/// When compression fails.
pub fn compressed_size(bytes: &[u8]) -> Result<u64> {
    Ok(u64::try_from(zstd::encode_all(bytes, ZSTD_LEVEL)?.len())?)
}

/// Writes values one after the other.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An integer.
    pub fn integer(&mut self, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while rest >= 0x80 {
            self.0.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    /// A real.
    pub fn real(&mut self, value: f64) {
        self.raw(&value.to_le_bytes());
    }

    /// Text or a blob, with its length.
    pub fn bytes(&mut self, value: &[u8]) {
        self.integer(value.len() as i64);
        self.raw(value);
    }

    /// Bytes whose length the reader knows.
    pub fn raw(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    /// A value whose type the reader does not know.
    pub fn any(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.0.push(0),
            ValueRef::Integer(value) => {
                self.0.push(1);
                self.integer(value);
            }
            ValueRef::Real(value) => {
                self.0.push(2);
                self.real(value);
            }
            ValueRef::Text(value) => {
                self.0.push(3);
                self.bytes(value);
            }
            ValueRef::Blob(value) => {
                self.0.push(4);
                self.bytes(value);
            }
        }
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads what a [`Writer`] wrote.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An integer.
    ///
    /// # Errors
    /// As for every value: when the bytes end too early or make no sense.
    pub fn integer(&mut self) -> Result<i64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
            }
        }
        bail!("an integer is too long")
    }

    /// Text or a blob.
    ///
    /// # Errors
    /// See [`Reader::integer`].
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = usize::try_from(self.integer()?)?;
        let (value, rest) = self.0.split_at_checked(length).context("the bytes end too early")?;
        self.0 = rest;
        Ok(value)
    }

    /// A value of any type.
    ///
    /// # Errors
    /// See [`Reader::integer`].
    pub fn any(&mut self) -> Result<ValueRef<'a>> {
        let [kind] = self.array()?;
        Ok(match kind {
            0 => ValueRef::Null,
            1 => ValueRef::Integer(self.integer()?),
            2 => ValueRef::Real(f64::from_le_bytes(self.array()?)),
            3 => ValueRef::Text(self.bytes()?),
            4 => ValueRef::Blob(self.bytes()?),
            _ => bail!("there is no type {kind}"),
        })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (value, rest) = self.0.split_first_chunk().context("the bytes end too early")?;
        self.0 = rest;
        Ok(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() -> Result<()> {
        let values = [
            ValueRef::Null,
            ValueRef::Integer(0),
            ValueRef::Integer(-1),
            ValueRef::Integer(i64::MIN),
            ValueRef::Integer(i64::MAX),
            ValueRef::Real(-2.5),
            ValueRef::Text(b"text"),
            ValueRef::Blob(b""),
        ];
        let mut writer = Writer::default();
        for value in values {
            writer.any(value);
        }
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes);
        for value in values {
            assert_eq!(reader.any()?, value);
        }
        assert!(reader.is_empty());
        Ok(())
    }
}
