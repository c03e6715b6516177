//! Cuts a script into statements, by SQLite's own rule for where a statement is complete.

/// What the beginning of a statement says about where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but space and comments so far.
    Start,
    /// After EXPLAIN.
    Explain,
    /// After CREATE.
    Create,
    /// Inside an ordinary statement.
    Normal,
    /// Inside CREATE TRIGGER.
    Trigger,
    /// After a semicolon inside CREATE TRIGGER.
    TriggerSemicolon,
    /// After `; END` inside CREATE TRIGGER.
    TriggerEnd,
}

/// The statements of a script, without the semicolons that end them; empty ones are left out.
pub(crate) fn statements(script: &str) -> Vec<&str> {
    let (mut found, mut state, mut begin, mut at) = (Vec::new(), State::Start, 0, 0);
    while at < script.len() {
        let token = token(&script[at..]);
        let next = step(state, token);
        if next == State::Start && token == ";" {
            if state != State::Start {
                found.push(script[begin..at].trim());
            }
            begin = at + 1;
        }
        state = next;
        at += token.len();
    }
    if state != State::Start {
        found.push(script[begin..].trim());
    }
    found
}

/// Whether the statement begins or ends a transaction, as scripts of `.dump` do around everything.
pub(crate) fn is_transaction_frame(statement: &str) -> bool {
    let words = words(statement);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    matches!(words.as_slice(), ["BEGIN" | "COMMIT" | "END"] | ["BEGIN" | "COMMIT" | "END", "TRANSACTION"])
        || matches!(words.as_slice(), ["BEGIN", "DEFERRED" | "IMMEDIATE" | "EXCLUSIVE", ..])
}

fn words(statement: &str) -> Vec<String> {
    let (mut words, mut at) = (Vec::new(), 0);
    while at < statement.len() {
        let token = token(&statement[at..]);
        if !is_blank(token) {
            words.push(token.to_ascii_uppercase());
        }
        at += token.len();
    }
    words
}

fn is_blank(token: &str) -> bool {
    token.starts_with("--") || token.starts_with("/*") || token.starts_with(|c: char| c.is_ascii_whitespace())
}

fn step(state: State, token: &str) -> State {
    if is_blank(token) {
        return state;
    }
    let is = |word: &str| token.eq_ignore_ascii_case(word);
    match state {
        State::Start | State::Explain if is("CREATE") => State::Create,
        State::Start if is("EXPLAIN") => State::Explain,
        State::Explain if is("QUERY") || is("PLAN") => State::Explain,
        State::Create if is("TEMP") || is("TEMPORARY") => State::Create,
        State::Create if is("TRIGGER") => State::Trigger,
        State::Trigger | State::TriggerSemicolon | State::TriggerEnd if token == ";" => {
            if state == State::TriggerEnd {
                State::Start
            } else {
                State::TriggerSemicolon
            }
        }
        State::TriggerSemicolon if is("END") => State::TriggerEnd,
        State::Trigger | State::TriggerSemicolon | State::TriggerEnd => State::Trigger,
        _ if token == ";" => State::Start,
        _ => State::Normal,
    }
}

/// The first token of a text that is not empty: space, a comment, something in quotes, a word, or one character.
fn token(text: &str) -> &str {
    let until = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
    let first = text.chars().next().unwrap_or(' ');
    let len = match first {
        _ if text.starts_with("--") => until("\n", 0),
        _ if text.starts_with("/*") => until("*/", 2),
        '\'' => until("'", 1),
        '"' => until("\"", 1),
        '`' => until("`", 1),
        '[' => until("]", 1),
        _ if first.is_ascii_whitespace() => text.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(text.len()),
        _ if word(first) => text.find(|c: char| !word(c)).unwrap_or(text.len()),
        _ => first.len_utf8(),
    };
    &text[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_quotes_comments_and_triggers_end_nothing() {
        let script = "INSERT INTO t VALUES('a;b''c;'); -- x; y\n/* ; */ ;;
            CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; UPDATE t SET e = CASE WHEN 1 THEN 2 END; END;
            SELECT \";\", [;], `;`";
        let found = statements(script);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], "INSERT INTO t VALUES('a;b''c;')");
        assert!(found[1].contains("CREATE TRIGGER") && found[1].ends_with("END"), "{}", found[1]);
        assert!(found[2].starts_with("SELECT"));
    }

    #[test]
    fn text_beyond_ascii_and_open_quotes_are_no_trouble() {
        assert_eq!(statements("SELECT 'Ærøskøbing'; SELECT 'open"), ["SELECT 'Ærøskøbing'", "SELECT 'open"]);
        assert!(statements(" \n -- nothing \n ;; ").is_empty());
    }

    #[test]
    fn frames_of_a_dump_are_known() {
        for frame in ["BEGIN TRANSACTION", "begin", "COMMIT", "END TRANSACTION", "BEGIN IMMEDIATE", "-- x\nCOMMIT"] {
            assert!(is_transaction_frame(frame), "{frame}");
        }
        for other in ["SELECT 1", "ROLLBACK", "SAVEPOINT a"] {
            assert!(!is_transaction_frame(other), "{other}");
        }
    }
}
