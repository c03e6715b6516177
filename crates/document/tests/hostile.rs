//! Bytes that nobody who means well would send.

#![allow(clippy::unwrap_used)]

use isle_document::{Document, DocumentError, Form, Writer};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn change(document: &mut Document, new: &str, site: u8) -> Vec<u8> {
    document.edit(new, Writer { site: [site; 16], time: 1 }).unwrap().unwrap()
}

/// Makes the checksum of a chunk right again.
fn resigned(mut chunk: Vec<u8>) -> Vec<u8> {
    let sum = Sha256::digest(&chunk[8..]);
    chunk[4..8].copy_from_slice(&sum[..4]);
    chunk
}

/// A change chunk of one column that says `rows` rows in a few bytes.
fn bomb(rows: i64) -> Vec<u8> {
    let mut column = Vec::new();
    let mut rest = rows;
    while rest >= 0x40 {
        column.push(rest as u8 & 0x7f | 0x80);
        rest >>= 7;
    }
    column.extend([rest as u8, 1]);
    // No dependencies, an actor, number 1, operation 1, time 0, no message, no other actors, one column: actions.
    let mut body = vec![0, 16];
    body.extend([7; 16]);
    body.extend([1, 1, 0, 0, 0, 1, 0x42, column.len() as u8]);
    body.extend(column);
    let mut chunk = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 1, body.len() as u8];
    chunk.extend(body);
    resigned(chunk)
}

#[test]
fn a_column_that_says_a_trillion_rows_is_refused_before_it_is_read() {
    let mut document = Document::begin(Form::Text, "base").unwrap();
    for rows in [(1 << 19) + 1, 1 << 40, 1 << 60] {
        let error = document.apply(&bomb(rows)).unwrap_err();
        assert!(matches!(error, DocumentError::TooLarge { .. }), "{error}");
    }
    assert!(isle_document::check(&bomb(9)).is_ok(), "the chunk is laid out as the reader wants it");
}

/// Deleting millions of characters takes two bytes to say and gigabytes to do.
#[test]
fn a_change_of_too_many_characters_is_not_made() {
    let text = "x y ".repeat(isle_document::EDIT_OPS_MAX / 4 + 1);
    let mut document = Document::begin(Form::Text, &text).unwrap();
    let error = document.edit("", Writer { site: [1; 16], time: 1 }).unwrap_err();
    assert!(matches!(error, DocumentError::TooLarge { .. }), "{error}");
}

#[test]
fn a_compressed_change_is_refused() {
    let mut document = Document::begin(Form::Text, "base").unwrap();
    let mut chunk = change(&mut document, "base and more", 1);
    chunk[8] = 2;
    let mut other = Document::begin(Form::Text, "base").unwrap();
    assert!(matches!(other.apply(&resigned(chunk)), Err(DocumentError::Malformed { .. })));
    assert_eq!(other.shown(), "base");
}

#[test]
fn of_two_changes_that_claim_to_be_one_the_same_counts_everywhere() {
    let mut author = Document::begin(Form::Text, "base").unwrap();
    let true_change = change(&mut author, "base x", 1);
    let later = change(&mut author, "base x y", 1);
    // The same actor and number, another letter.
    let mut forged = true_change.clone();
    let at = forged.iter().rposition(|byte| *byte == b'x').unwrap();
    forged[at] = b'z';
    let forged = resigned(forged);
    let mut shown = Vec::new();
    for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0], [0, 2, 1], [2, 1, 0], [2, 0, 1]] {
        let mut document = Document::begin(Form::Text, "base").unwrap();
        for n in order {
            document.apply([&true_change, &forged, &later][n]).unwrap();
            document = Document::load(Form::Text, &document.save()).unwrap();
        }
        shown.push(document.shown().to_owned());
    }
    shown.dedup();
    assert_eq!(shown.len(), 1, "{shown:?}");
}

#[test]
fn a_change_that_calls_itself_a_root_is_refused() {
    let mut document = Document::begin(Form::Text, "base").unwrap();
    let mut forged = change(&mut document, "base x", 1);
    let actor = forged.windows(16).position(|window| {
        // Behind one dependency: count, hash, length of the actor.
        window.as_ptr() as usize - forged.as_ptr() as usize == 10 + 1 + 32 + 1
    });
    let at = actor.unwrap();
    assert_eq!(forged[at - 1], 16);
    forged[at..at + 16].fill(0);
    assert!(Document::begin(Form::Text, "base").unwrap().apply(&resigned(forged)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn noise_is_an_error_and_changes_nothing(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut document = Document::begin(Form::Json, "[1]").unwrap();
        prop_assert!(document.apply(&noise).is_err());
        prop_assert!(Document::load(Form::Text, &noise).is_err() || noise.len() < 60);
        prop_assert_eq!(document.shown(), "[1]");
    }

    /// Bytes that are altered behind a true checksum reach the decoder; whatever it makes of them, the document goes on.
    #[test]
    fn altered_changes_never_break_a_document(flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4)) {
        let mut author = Document::begin(Form::Json, r#"{"a":[1,2,3]}"#).unwrap();
        let mut bytes = change(&mut author, r#"{"a":[1,"two",3,{"deep":[true]}],"b":"text"}"#, 1);
        for (at, flip) in flips {
            let at = 10 + at.index(bytes.len() - 10);
            bytes[at] ^= flip;
        }
        let mut document = Document::begin(Form::Json, r#"{"a":[1,2,3]}"#).unwrap();
        // Whether or not it counts.
        let _ = document.apply(&resigned(bytes));
        let saved = document.save();
        let mut again = Document::load(Form::Json, &saved).unwrap();
        prop_assert_eq!(again.shown(), document.shown());
        let next = document.edit(r#"{"a":[]}"#, Writer { site: [2; 16], time: 9 });
        prop_assert!(next.is_ok(), "{:?}", next.err());
    }
}
