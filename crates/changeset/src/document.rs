//! What one write did to a text or a JSON value: the value of a cell whose column is one.
//!
//! ```text
//!  v  changes: count, then each:
//!       16  the root of its document: which plain value it goes back to
//!       v   length, the change
//! ```
//! What is in a change is not looked at here.

use crate::wire::{DecodeError, Reader, put_varint};

/// What one write did to a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentChange {
    /// Changes, each with the root of its document.
    pub changes: Vec<([u8; 16], Vec<u8>)>,
}

impl DocumentChange {
    /// The one encoding of the change.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.changes.len() as u64);
        for (root, change) in &self.changes {
            out.extend(root);
            put_varint(&mut out, change.len() as u64);
            out.extend(change);
        }
        out
    }

    /// Reads a change. Memory stays within a small multiple of the input's length.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`DocumentChange::encode`] would not have written.
    pub fn decode(bytes: &[u8]) -> Result<DocumentChange, DecodeError> {
        let mut reader = Reader::new(bytes);
        let count = reader.count("changes", reader.remaining() / 17)?;
        let change = |reader: &mut Reader<'_>| Ok((reader.array()?, reader.prefixed()?.to_vec()));
        let changes = (0..count).map(|_| change(&mut reader)).collect::<Result<_, _>>()?;
        reader.end("change of a document")?;
        let change = DocumentChange { changes };
        if change.encode() == bytes {
            Ok(change)
        } else {
            Err(DecodeError::Inconsistent { what: "change of a document" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_change_reads_back_and_no_input_makes_it_panic(
            changes in prop::collection::vec((any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 0..20)), 0..4),
            noise in prop::collection::vec(any::<u8>(), 0..80)
        ) {
            let change = DocumentChange { changes };
            prop_assert_eq!(DocumentChange::decode(&change.encode()), Ok(change));
            if let Ok(change) = DocumentChange::decode(&noise) {
                prop_assert_eq!(change.encode(), noise);
            }
        }
    }

    #[test]
    fn the_layout_is_the_one_that_the_docs_draw() {
        let change = DocumentChange { changes: vec![([7; 16], b"ab".to_vec())] };
        let mut expected = vec![1];
        expected.extend([7; 16]);
        expected.extend([2, b'a', b'b']);
        assert_eq!(change.encode(), expected);
    }
}
