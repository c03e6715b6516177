//! Texts as documents.

use automerge::transaction::Transactable;
use automerge::{AutoCommit, ObjId, ObjType, ROOT, ReadDoc, Value};
use imara_diff::{Algorithm, Diff, Hunk, InternedInput};

use crate::{DocumentError, EDIT_OPS_MAX, VALUE, refused};

/// The text of a document; that of one that somebody made into something else is empty.
pub(crate) fn shown(doc: &AutoCommit) -> String {
    object(doc).and_then(|object| doc.text(&object).ok()).unwrap_or_default()
}

fn object(doc: &AutoCommit) -> Option<ObjId> {
    match doc.get(ROOT, VALUE) {
        Ok(Some((Value::Object(ObjType::Text), object))) => Some(object),
        _ => None,
    }
}

/// Replaces what differs.
pub(crate) fn edit(doc: &mut AutoCommit, new: &str) -> Result<(), DocumentError> {
    let object = match object(doc) {
        Some(object) => object,
        None => doc.put_object(ROOT, VALUE, ObjType::Text).map_err(refused)?,
    };
    let old = doc.text(&object).map_err(refused)?;
    let (at, old, new) = differing(&old, new);
    let (old, new) = (words(old), words(new));
    let mut diff = InternedInput::default();
    diff.update_before(old.iter().copied());
    diff.update_after(new.iter().copied());
    // From the end, so that earlier places stay what they are.
    let mut ends: Vec<usize> = Vec::with_capacity(old.len() + 1);
    ends.push(at);
    let mut end = at;
    ends.extend(old.iter().map(|word| {
        end += word.chars().count();
        end
    }));
    let hunks: Vec<_> = Diff::compute(Algorithm::Histogram, &diff).hunks().collect();
    let hunks = joined(hunks);
    // Before the library takes them one by one.
    let length = |words: &[&str]| words.iter().map(|word| word.chars().count()).sum::<usize>();
    let of = |range: &std::ops::Range<u32>| range.start as usize..range.end as usize;
    let changed = |hunk: &Hunk| length(&old[of(&hunk.before)]) + length(&new[of(&hunk.after)]);
    if hunks.iter().map(changed).sum::<usize>() > EDIT_OPS_MAX {
        return Err(DocumentError::TooLarge { what: "change", max: EDIT_OPS_MAX });
    }
    for hunk in hunks.into_iter().rev() {
        let (before, after) = (hunk.before.start as usize..hunk.before.end as usize, hunk.after);
        let (from, gone) = (ends[before.start], old[before].concat());
        let came = new[after.start as usize..after.end as usize].concat();
        let (skip, gone, came) = match trimmed(&gone, &came) {
            // Letters that came into a word or left it; a word in the place of another is taken whole, or two such would mix.
            (skip, gone, came) if gone.is_empty() || came.is_empty() => (skip, gone, came),
            _ => (0, gone.as_str(), came.as_str()),
        };
        let gone = isize::try_from(gone.chars().count()).unwrap_or(isize::MAX);
        doc.splice_text(&object, from + skip, gone, came).map_err(refused)?;
    }
    Ok(())
}

/// So many places are changed one by one. A text that is rewritten as a whole would take the library a pass over it for each of its words.
const HUNKS_MAX: usize = 500;

/// Places that are to be changed; where they are too many, one that has them all.
fn joined(hunks: Vec<Hunk>) -> Vec<Hunk> {
    match (hunks.first(), hunks.last()) {
        (Some(first), Some(last)) if hunks.len() > HUNKS_MAX => {
            vec![Hunk { before: first.before.start..last.before.end, after: first.after.start..last.after.end }]
        }
        _ => hunks,
    }
}

/// What differs between two texts, without what they begin and end with alike; and how many characters they begin with.
fn trimmed<'a>(old: &'a str, new: &'a str) -> (usize, &'a str, &'a str) {
    let alike = |(a, b): &(char, char)| a == b;
    let begin = old.chars().zip(new.chars()).take_while(alike);
    let (characters, bytes) = begin.fold((0, 0), |(n, bytes), (c, _)| (n + 1, bytes + c.len_utf8()));
    let (old, new) = (&old[bytes..], &new[bytes..]);
    let end: usize = old.chars().rev().zip(new.chars().rev()).take_while(alike).map(|(c, _)| c.len_utf8()).sum();
    (characters, &old[..old.len() - end], &new[..new.len() - end])
}

/// [`trimmed`] at the borders of words.
fn differing<'a>(old: &'a str, new: &'a str) -> (usize, &'a str, &'a str) {
    let (mut characters, middle, _) = trimmed(old, new);
    let mut begin: usize = old.chars().take(characters).map(char::len_utf8).sum();
    let mut end = old.len() - begin - middle.len();
    let of_word = |c: &char| c.is_alphanumeric();
    while let Some(letter) = old[..begin].chars().next_back().filter(of_word) {
        begin -= letter.len_utf8();
        characters -= 1;
    }
    while let Some(letter) = old[old.len() - end..].chars().next().filter(of_word) {
        end -= letter.len_utf8();
    }
    (characters, &old[begin..old.len() - end], &new[begin..new.len() - end])
}

/// Runs of letters and digits, and every other character by itself.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = 0;
    let mut within = false;
    for (at, c) in text.char_indices() {
        let of_word = c.is_alphanumeric();
        if at > start && !(within && of_word) {
            words.push(&text[start..at]);
            start = at;
        }
        within = of_word;
    }
    if start < text.len() {
        words.push(&text[start..]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_and_the_rest_stands_singly() {
        assert_eq!(words("ab, cd-é2"), ["ab", ",", " ", "cd", "-", "é2"]);
        assert_eq!(words(""), [""; 0]);
    }

    #[test]
    fn what_texts_share_at_both_ends_is_left_out_once() {
        assert_eq!(trimmed("aaa", "aa"), (2, "a", ""));
        assert_eq!(trimmed("xéy", "xèy"), (1, "é", "è"));
    }
}
