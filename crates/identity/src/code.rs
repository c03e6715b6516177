//! Structures as text that people copy: a word that tells what it is, then base32 with a checksum.

use data_encoding::BASE32_NOPAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

const CHECK_BYTES: usize = 4;

/// Why a text is not what was expected.
pub(crate) enum CodeError {
    /// It begins otherwise.
    Foreign,
    /// A character is missing or wrong.
    Damaged,
    /// Its checksum holds, its content cannot be read.
    Newer,
}

fn check_bytes(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECK_BYTES]);
    check
}

pub(crate) fn encode(start: &str, value: &impl Serialize) -> Result<String, postcard::Error> {
    let mut bytes = postcard::to_stdvec(value)?;
    bytes.extend(check_bytes(&bytes));
    Ok(format!("{start}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
}

/// Blanks, line ends and capitals, as they come from copying or from a QR code, do not matter. The caller bounds the text.
pub(crate) fn decode<T: DeserializeOwned>(start: &str, text: &str) -> Result<T, CodeError> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
    let code = text.strip_prefix(start).ok_or(CodeError::Foreign)?;
    let bytes = BASE32_NOPAD.decode(code.to_ascii_uppercase().as_bytes()).map_err(|_| CodeError::Damaged)?;
    let (content, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(CodeError::Damaged)?;
    if check_bytes(content) != *check {
        return Err(CodeError::Damaged);
    }
    match postcard::take_from_bytes(content) {
        Ok((value, [])) => Ok(value),
        _ => Err(CodeError::Newer),
    }
}
