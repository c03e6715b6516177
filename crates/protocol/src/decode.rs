//! Messages out of a stream of bytes that come in pieces.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::message::{Message, MessageError, PRELUDE_BYTES, limit};

/// Gathers bytes until they are a message. Holds no more than what came, and refuses a length that its kind may not have
/// before anything of it is kept.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a part of a message waits for the rest.
    pub fn is_within(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next message, if it is here whole, and its size.
    ///
    /// # Errors
    /// [`MessageError`]; the stream cannot be read on then.
    pub fn take(&mut self) -> Result<Option<(Message, usize)>, MessageError> {
        let Some((prelude, _)) = self.buffer.split_first_chunk::<PRELUDE_BYTES>() else { return Ok(None) };
        let [a, b, c, d, kind] = *prelude;
        let bytes = u32::from_be_bytes([a, b, c, d]) as usize;
        let max = limit(kind)?;
        let Some(body) = bytes.checked_sub(1) else {
            return Err(MessageError::Malformed { kind, what: "it has no length" });
        };
        if body > max {
            return Err(MessageError::TooLarge { kind, bytes, max });
        }
        if self.buffer.len() < PRELUDE_BYTES + body {
            return Ok(None);
        }
        self.buffer.advance(PRELUDE_BYTES);
        let body: Bytes = self.buffer.split_to(body).freeze();
        Ok(Some((Message::decode(kind, body)?, PRELUDE_BYTES + bytes - 1)))
    }
}
