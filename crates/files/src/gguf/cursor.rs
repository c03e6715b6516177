//! Reads forward through a file of known size and never past its end.

use std::fmt;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::NAME_BYTES_MAX;
use super::error::GgufError;

/// Most headers without a vocabulary fit into one read of this size.
const BUFFER_BYTES: usize = 32 * 1024;
/// As much of a name as an error repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// What is being read, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    Header(&'static str),
    Count(&'static str),
    /// The name of the key of this number, counted from 0.
    Key(u64),
    /// The value of this key.
    Value(&'a str),
    /// The name of the tensor of this number, counted from 0.
    TensorName(u64),
    /// The tensor of this name.
    Tensor(&'a str),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Header(part) => write!(f, "the {part}"),
            Place::Count(what) => write!(f, "the number of {what}"),
            Place::Key(number) => write!(f, "the name of metadata key {number}"),
            // Quoted with escapes: names are foreign and may end up on a terminal.
            Place::Value(key) => write!(f, "the value of {:?}", shortened(key)),
            Place::TensorName(number) => write!(f, "the name of tensor {number}"),
            Place::Tensor(name) => write!(f, "the tensor {:?}", shortened(name)),
        }
    }
}

/// The beginning of a name.
pub(super) fn shortened(name: &str) -> String {
    match name.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
        None => name.to_owned(),
    }
}

pub(super) struct Cursor<'a, R> {
    reader: BufReader<&'a mut R>,
    position: u64,
    size: u64,
}

impl<'a, R: Read + Seek> Cursor<'a, R> {
    pub(super) fn new(input: &'a mut R, size: u64) -> Result<Cursor<'a, R>, GgufError> {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, input);
        reader.seek(SeekFrom::Start(0)).map_err(|source| GgufError::Read { offset: 0, source })?;
        Ok(Cursor { reader, position: 0, size })
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Insists on so many bytes after the position.
    pub(super) fn require(&self, bytes: u64, place: Place<'_>) -> Result<(), GgufError> {
        let left = self.size.saturating_sub(self.position);
        match bytes.checked_sub(left) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(GgufError::Truncated { place: place.to_string(), offset: self.position, missing }),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, place: Place<'_>) -> Result<[u8; N], GgufError> {
        self.require(N as u64, place)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|source| self.failed(source))?;
        self.position += N as u64;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, place: Place<'_>) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(place)?))
    }

    pub(super) fn u64(&mut self, place: Place<'_>) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(place)?))
    }

    /// So many bytes. The memory for them grows with what arrives; the caller bounds `length`.
    pub(super) fn bytes(&mut self, length: u64, place: Place<'_>) -> Result<Vec<u8>, GgufError> {
        self.require(length, place)?;
        let mut bytes = Vec::new();
        (&mut self.reader).take(length).read_to_end(&mut bytes).map_err(|source| self.failed(source))?;
        if (bytes.len() as u64) < length {
            return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        self.position += length;
        Ok(bytes)
    }

    /// Moves on without reading, at no cost for any length.
    pub(super) fn skip(&mut self, length: u64, place: Place<'_>) -> Result<(), GgufError> {
        self.require(length, place)?;
        let target = self.position + length;
        // A relative move keeps the buffer when it stays within it.
        let moved = match i64::try_from(length) {
            Ok(length) => self.reader.seek_relative(length),
            Err(_) => self.reader.seek(SeekFrom::Start(target)).map(drop),
        };
        moved.map_err(|source| self.failed(source))?;
        self.position = target;
        Ok(())
    }

    /// The name of a key or of a tensor.
    pub(super) fn name(&mut self, place: Place<'_>) -> Result<String, GgufError> {
        let offset = self.position;
        let bytes = self.u64(place)?;
        if bytes > NAME_BYTES_MAX {
            return Err(GgufError::NameTooLong { place: place.to_string(), offset, bytes, max: NAME_BYTES_MAX });
        }
        let name = self.bytes(bytes, place)?;
        String::from_utf8(name).map_err(|_| GgufError::NotUtf8 { place: place.to_string(), offset })
    }

    fn failed(&self, source: io::Error) -> GgufError {
        GgufError::Read { offset: self.position, source }
    }
}
