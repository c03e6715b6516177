//! One column of values: types as runs, then integers, reals, lengths and bytes apart.

use crate::ValueRef;
use crate::wire::{DecodeError, Reader, put_varint, unzigzag, varint_len, zigzag};

const PLAIN: u8 = 0;
const DIFFERENCES: u8 = 1;
const FIXED: u8 = 2;

/// Collects the values of one column.
#[derive(Debug, Default)]
pub(crate) struct StreamWriter {
    runs: Vec<(u8, u64)>,
    integers: Vec<i64>,
    reals: Vec<u8>,
    lengths: Vec<u8>,
    bytes: Vec<u8>,
}

impl StreamWriter {
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.integers.clear();
        self.reals.clear();
        self.lengths.clear();
        self.bytes.clear();
    }

    pub(crate) fn push(&mut self, value: ValueRef<'_>) {
        let tag = value.tag();
        match self.runs.last_mut() {
            Some((last, count)) if *last == tag => *count += 1,
            _ => self.runs.push((tag, 1)),
        }
        match value {
            ValueRef::Null => {}
            ValueRef::Integer(v) => self.integers.push(v),
            ValueRef::Real(v) => self.reals.extend_from_slice(&v.to_bits().to_le_bytes()),
            ValueRef::Text(v) | ValueRef::Blob(v) => {
                put_varint(&mut self.lengths, v.len() as u64);
                self.bytes.extend_from_slice(v);
            }
        }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.runs.len() as u64);
        for (tag, count) in &self.runs {
            out.push(*tag);
            put_varint(out, *count);
        }
        self.write_integers(out);
        out.extend_from_slice(&self.reals);
        put_varint(out, self.lengths.len() as u64);
        out.extend_from_slice(&self.lengths);
        put_varint(out, self.bytes.len() as u64);
        out.extend_from_slice(&self.bytes);
    }

    fn write_integers(&self, out: &mut Vec<u8>) {
        let mut last = 0i64;
        let (mut plain, mut differences) = (0, 0);
        for &v in &self.integers {
            plain += varint_len(zigzag(v));
            differences += varint_len(zigzag(v.wrapping_sub(last)));
            last = v;
        }
        let fixed = 8 * self.integers.len();
        // On a tie the plain form: it compresses better, and a choice must not depend on anything else.
        let mode = if fixed < plain.min(differences) {
            FIXED
        } else if differences < plain {
            DIFFERENCES
        } else {
            PLAIN
        };
        out.push(mode);
        put_varint(out, fixed.min(plain).min(differences) as u64);
        let mut last = 0i64;
        for &v in &self.integers {
            match mode {
                FIXED => out.extend_from_slice(&v.to_le_bytes()),
                DIFFERENCES => put_varint(out, zigzag(v.wrapping_sub(last))),
                _ => put_varint(out, zigzag(v)),
            }
            last = v;
        }
    }
}

/// Hands out the values of one column, borrowed from the block.
#[derive(Debug, Clone)]
pub(crate) struct StreamReader<'a> {
    runs: Reader<'a>,
    tag: u8,
    left: u64,
    mode: u8,
    last: i64,
    integers: Reader<'a>,
    reals: Reader<'a>,
    lengths: Reader<'a>,
    bytes: Reader<'a>,
}

impl<'a> StreamReader<'a> {
    /// Takes a stream of exactly `values` values off the reader.
    pub(crate) fn parse(reader: &mut Reader<'a>, values: u64) -> Result<StreamReader<'a>, DecodeError> {
        let count = reader.count("runs of types", reader.remaining() / 2)?;
        let runs = reader.clone();
        let (mut total, mut reals) = (0u64, 0u64);
        for _ in 0..count {
            let tag = reader.byte()?;
            let length = reader.varint()?;
            total = total.saturating_add(length);
            match tag {
                2 => reals = reals.saturating_add(length),
                0 | 1 | 3 | 4 => {}
                _ => return Err(DecodeError::Tag { what: "value type", tag }),
            }
        }
        if total != values {
            return Err(DecodeError::Inconsistent { what: "number of values in a column" });
        }
        let mode = reader.byte()?;
        if mode > FIXED {
            return Err(DecodeError::Tag { what: "integer encoding", tag: mode });
        }
        let integers = Reader::new(reader.prefixed()?);
        let real_bytes = usize::try_from(reals.saturating_mul(8)).unwrap_or(usize::MAX);
        let reals = Reader::new(reader.bytes(real_bytes)?);
        let lengths = Reader::new(reader.prefixed()?);
        let bytes = Reader::new(reader.prefixed()?);
        Ok(StreamReader { runs, tag: 0, left: 0, mode, last: 0, integers, reals, lengths, bytes })
    }

    /// The next value. The caller asks for as many as `parse` was told.
    pub(crate) fn next(&mut self) -> Result<ValueRef<'a>, DecodeError> {
        while self.left == 0 {
            self.tag = self.runs.byte()?;
            self.left = self.runs.varint()?;
        }
        self.left -= 1;
        Ok(match self.tag {
            0 => ValueRef::Null,
            1 => ValueRef::Integer(self.integer()?),
            2 => ValueRef::Real(f64::from_bits(u64::from_le_bytes(self.reals.array()?))),
            tag => {
                let length = self.lengths.count("length of a value", self.bytes.remaining())?;
                let bytes = self.bytes.bytes(length)?;
                if tag == 3 { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) }
            }
        })
    }

    fn integer(&mut self) -> Result<i64, DecodeError> {
        Ok(match self.mode {
            FIXED => i64::from_le_bytes(self.integers.array()?),
            DIFFERENCES => {
                self.last = self.last.wrapping_add(unzigzag(self.integers.varint()?));
                self.last
            }
            _ => unzigzag(self.integers.varint()?),
        })
    }

    /// Checks that every byte was used.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        self.integers.end("integers of a column")?;
        self.lengths.end("lengths of a column")?;
        self.bytes.end("bytes of a column")
    }
}
