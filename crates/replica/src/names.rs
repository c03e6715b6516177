//! Names that users give: of a device, an app, a remote, a table.

use crate::Error;

/// Characters of a name; four bytes each at most.
const CHARACTERS_MAX: usize = 64;

/// Refuses a name that cannot be shown on one line of a terminal.
pub(crate) fn check(what: &'static str, name: &str) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::InvalidName { what, reason });
    if name.trim().is_empty() {
        return refuse("cannot be empty".to_owned());
    }
    if name.trim() != name {
        return refuse("cannot begin or end with a space".to_owned());
    }
    let count = name.chars().count();
    if count > CHARACTERS_MAX {
        return refuse(format!("has at most {CHARACTERS_MAX} characters, this one has {count}"));
    }
    match name.chars().find(|c| is_invisible(*c)) {
        Some(found) => {
            refuse(format!("is one line of text, this one holds the control character {}", found.escape_unicode()))
        }
        None => Ok(()),
    }
}

/// An identifier of SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name as it can be shown and stored, for one that nobody typed.
pub(crate) fn tame(name: &str) -> String {
    let kept: String = name.chars().filter(|c| !is_invisible(*c)).take(CHARACTERS_MAX).collect();
    kept.trim().to_owned()
}

/// A line of text that somebody else wrote, as it can be shown.
pub(crate) fn tame_line(text: &str) -> String {
    text.chars().filter(|c| !is_invisible(*c)).take(300).collect()
}

/// Control characters, line separators, and those that turn the direction of the text around.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_short_line() {
        for good in ["a", "Søren's laptop", "電話", &"😀".repeat(64)] {
            assert!(check("a name", good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", "empty"),
            (" \t", "empty"),
            (" a", "space"),
            ("a\n", "space"),
            ("a\nb", "u{a}"),
            ("a\u{1b}[31m", "u{1b}"),
            ("a\u{202e}b", "u{202e}"),
            (&"x".repeat(65), "65"),
        ] {
            let error = check("a device's name", bad).expect_err(bad).to_string();
            assert!(error.contains(why) && error.starts_with("a device's name "), "{error}");
        }
        assert_eq!(tame("\u{1b}lap\ntop "), "laptop");
    }
}
