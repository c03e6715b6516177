//! Checksums that hold over whatever is below them, as whoever means ill would make them: else they would be all that is ever tried.

use data_encoding::BASE32_NOPAD;
use isle_changeset::BlockInfo;

/// A ticket or a line of a key file around any content.
pub fn code(start: &str, content: &[u8]) -> String {
    let check = blake3::hash(content);
    let bytes = [content, &check.as_bytes()[..4]].concat();
    format!("{start}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

/// The content of such a text; how seeds are written.
pub fn content(start: &str, text: &str) -> Vec<u8> {
    let code = text.strip_prefix(start).unwrap_or_default().to_ascii_uppercase();
    let mut bytes = BASE32_NOPAD.decode(code.as_bytes()).unwrap_or_default();
    bytes.truncate(bytes.len().saturating_sub(4));
    bytes
}

/// An object of a remote around any body.
pub fn envelope(letter: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let prelude = [b'i', b's', b'l', b'e', letter, flags, 0, 1];
    let sum = blake3::Hasher::new().update(&prelude).update(body).finalize();
    [&prelude, sum.as_bytes().as_slice(), body].concat()
}

/// What a header says of a block that it vouches for.
pub fn vouched(stored: &[u8], raw_bytes: u32, rows: u32) -> BlockInfo {
    BlockInfo { stored_bytes: stored.len() as u32, raw_bytes, rows, hash: *blake3::hash(stored).as_bytes() }
}
