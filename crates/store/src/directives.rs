//! What a definition says in comments, because SQL has no words for it.
//!
//! ```sql
//! -- @version 1.2.0                the version of the app that this is the schema of; of several the last
//! -- @requires 1.2.0               apps of earlier versions keep the schema that they have
//! -- @partial                      there are other definitions beside this one: views, triggers and full-text tables that it does not name stay
//! -- @rename old -> new            a table is called otherwise
//! -- @rename table.old -> new      a column is
//! -- @drop table.column            a column leaves the definition; its values stay
//! -- @scope table local            its rows stay where they are written
//! -- @expires table.column         they go when this moment of theirs has come
//! -- @group table(a, b)            a write of one of these columns counts as a write of all
//! -- @duplicates table.column rename  rows that clash in a UNIQUE index of it show with a number behind this value
//! -- @merge table.column counter   how concurrent writes of a column merge
//! CREATE TABLE files(
//!   id INTEGER PRIMARY KEY,
//!   reads INTEGER NOT NULL DEFAULT 0, -- @merge counter
//! );
//! ```
//! Without a name, `@merge`, `@duplicates` and `@expires` are about the column that their line defines, `@scope` about the table:
//! ```sql
//! CREATE TABLE cache( -- @scope local
//!   query TEXT PRIMARY KEY,
//!   until REAL -- @expires
//! );
//! ```

use isle_schema::{Kind, Version};

/// The table's name, the column if it is about one, the new name.
pub(crate) type Rename = (String, Option<String>, String);

/// What the comments of a definition say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    pub(crate) version: Option<Version>,
    /// The largest that is asked for.
    pub(crate) requires: Option<Version>,
    /// Views, triggers and full-text tables that the definition does not name stay.
    pub(crate) partial: bool,
    pub(crate) renames: Vec<Rename>,
    /// Table and column.
    pub(crate) drops: Vec<(String, String)>,
    /// Table, column and kind.
    pub(crate) kinds: Vec<(String, String, Kind)>,
    /// Table and columns.
    pub(crate) groups: Vec<(String, Vec<String>)>,
    /// Table and column whose clashing values get a number.
    pub(crate) duplicates: Vec<(String, String)>,
    /// Tables whose rows stay.
    pub(crate) locals: Vec<String>,
    /// Table and column.
    pub(crate) expires: Vec<(String, String)>,
    /// What cannot be understood.
    pub(crate) errors: Vec<String>,
}

/// A part of a text in SQL.
enum Token<'a> {
    /// A bare word.
    Word(&'a str),
    /// A name in quotes, without them.
    Name(String),
    /// A text in single quotes, which SQLite takes for a name where only one can stand.
    Text(String),
    Mark(char),
    Newline,
    /// What follows `--`.
    Comment(&'a str),
}

/// Where the quotes that open a text are closed: behind the closing ones. Doubled ones are part of it.
fn quoted_end(text: &str, close: char) -> usize {
    let mut at = 1;
    while let Some(next) = text[at..].find(close).map(|next| at + next + close.len_utf8()) {
        if close == ']' || !text[next..].starts_with(close) {
            return next;
        }
        at = next + close.len_utf8();
    }
    text.len()
}

/// Splits a text in SQL; comments in `/* */` and spaces are passed over. This is no parser: it knows quotes and comments.
fn tokens(sql: &str) -> Vec<Token<'_>> {
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
    let mut tokens = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\n' => {
                tokens.push(Token::Newline);
                1
            }
            '-' if rest.starts_with("--") => {
                let end = rest.find('\n').unwrap_or(rest.len());
                tokens.push(Token::Comment(&rest[2..end]));
                end
            }
            '/' if rest.starts_with("/*") => rest[2..].find("*/").map_or(rest.len(), |at| at + 4),
            '\'' | '"' | '`' | '[' => {
                let close = if first == '[' { ']' } else { first };
                let end = quoted_end(rest, close);
                let inner = rest.get(1..end.saturating_sub(1).max(1)).unwrap_or_default();
                let inner = inner.replace(&close.to_string().repeat(2), &close.to_string());
                tokens.push(if first == '\'' { Token::Text(inner) } else { Token::Name(inner) });
                end
            }
            _ if in_word(first) => {
                let end = rest.find(|c: char| !in_word(c)).unwrap_or(rest.len());
                tokens.push(Token::Word(&rest[..end]));
                end
            }
            _ => {
                if !first.is_whitespace() {
                    tokens.push(Token::Mark(first));
                }
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    tokens
}

/// Words with which a constraint begins, and no column.
const CONSTRAINTS: [&str; 5] = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"];

/// Where a reader of CREATE TABLE statements is.
#[derive(Default)]
struct Place {
    /// The words of the statement so far, up to its first parenthesis.
    head: Vec<String>,
    depth: usize,
    /// Whether the next word begins a column or a constraint.
    begins: bool,
    /// The last column that was begun, with its table.
    column: Option<(String, String)>,
    /// The last table that was begun.
    last: Option<String>,
    /// Whether this line has something beside comments.
    line: bool,
}

impl Place {
    /// The table that the statement creates.
    fn table(&self) -> Option<&String> {
        let is = |at: usize, word: &str| self.head.get(at).is_some_and(|found| found.eq_ignore_ascii_case(word));
        let table = 1 + usize::from(is(1, "TEMP") || is(1, "TEMPORARY"));
        (is(0, "CREATE") && is(table, "TABLE")).then(|| self.head.last()).flatten()
    }

    /// A word before any parenthesis; it may be the column of an ALTER TABLE … ADD.
    fn head(&mut self, word: String) {
        let is = |at: usize, word: &str| self.head.get(at).is_some_and(|found| found.eq_ignore_ascii_case(word));
        let alter = is(0, "ALTER") && is(1, "TABLE");
        let add = (3..self.head.len()).find(|at| is(*at, "ADD"));
        if let Some(add) = add.filter(|_| alter) {
            let begun = self.head.len() - add - 1;
            let named = usize::from(is(add + 1, "COLUMN"));
            if begun == named && !(begun == 0 && word.eq_ignore_ascii_case("COLUMN")) {
                self.column = Some((self.head[add - 1].clone(), word.clone()));
            }
        }
        self.head.push(word);
    }

    fn take(&mut self, token: &Token<'_>) {
        self.line = !matches!(token, Token::Newline) && (self.line || !matches!(token, Token::Comment(_)));
        match token {
            Token::Mark(';') if self.depth == 0 => self.head.clear(),
            Token::Mark('(') => {
                self.depth += 1;
                if self.depth == 1 && self.table().is_some() {
                    self.last = self.table().cloned();
                }
                self.begins = self.depth == 1 && self.table().is_some();
            }
            Token::Mark(')') => self.depth = self.depth.saturating_sub(1),
            Token::Mark(',') => self.begins = self.depth == 1 && self.table().is_some(),
            Token::Word(word) if self.depth == 0 => self.head((*word).to_owned()),
            Token::Name(name) | Token::Text(name) if self.depth == 0 => self.head(name.clone()),
            Token::Word(word) if std::mem::take(&mut self.begins) => {
                let constraint = CONSTRAINTS.iter().any(|known| word.eq_ignore_ascii_case(known));
                let table = self.table().cloned().filter(|_| !constraint);
                self.column = table.map(|table| (table, (*word).to_owned()));
            }
            Token::Name(name) | Token::Text(name) if std::mem::take(&mut self.begins) => {
                self.column = self.table().cloned().map(|table| (table, name.clone()));
            }
            _ => {}
        }
    }
}

/// A text in SQL without what its comments say to isle.
pub(crate) fn without(sql: &str) -> String {
    let mut kept = String::with_capacity(sql.len());
    let mut from = 0;
    for token in tokens(sql) {
        if let Token::Comment(text) = token
            && text.trim_start().starts_with('@')
        {
            // A comment's text begins behind its two dashes.
            let at = text.as_ptr() as usize - sql.as_ptr() as usize - 2;
            kept += sql[from..at].trim_end_matches([' ', '\t']);
            from = at + 2 + text.len();
        }
    }
    kept + &sql[from..]
}

impl Directives {
    /// Reads the comments of a definition.
    pub(crate) fn read(sql: &str) -> Directives {
        let mut found = Directives::default();
        let mut place = Place::default();
        for token in tokens(sql) {
            if let Token::Comment(text) = token
                && let Some(directive) = text.trim().strip_prefix('@')
            {
                found.take(directive, &place);
            }
            place.take(&token);
        }
        found
    }

    /// Gives what was said under an earlier name, as in an earlier of several numbered files, the names that the definition ends with.
    /// `has` says whether it ends with a table, or a column of one.
    pub(crate) fn follow_renames(&mut self, has: impl Fn(&str, Option<&str>) -> bool) {
        let renames = self.renames.clone();
        let is = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        let table = |name: &mut String| {
            for _ in &renames {
                match renames.iter().find(|(old, column, _)| column.is_none() && is(old, name) && !has(name, None)) {
                    Some((_, _, new)) => name.clone_from(new),
                    None => break,
                }
            }
        };
        let column = |of: &str, name: &mut String| {
            for _ in &renames {
                let renamed = |(table, old, _): &&Rename| {
                    (is(table, of) || !has(table, None)) && old.as_ref().is_some_and(|old| is(old, name))
                };
                match renames.iter().find(renamed).filter(|_| !has(of, Some(name))) {
                    Some((_, _, new)) => name.clone_from(new),
                    None => break,
                }
            }
        };
        for (of, name, _) in &mut self.kinds {
            table(of);
            column(of, name);
        }
        for (of, name) in self.expires.iter_mut().chain(&mut self.duplicates) {
            table(of);
            column(of, name);
        }
        for (of, names) in &mut self.groups {
            table(of);
            names.iter_mut().for_each(|name| column(of, name));
        }
        self.locals.iter_mut().for_each(table);
        // A later file has dropped the column.
        let drops = &self.drops;
        let stays = |of: &str, name: &str| has(of, Some(name)) || !drops.iter().any(|(t, c)| is(t, of) && is(c, name));
        self.kinds.retain(|(of, name, _)| stays(of, name));
        self.duplicates.retain(|(of, name)| stays(of, name));
    }

    fn take(&mut self, directive: &str, place: &Place) {
        let (word, rest) = directive.split_once(char::is_whitespace).unwrap_or((directive, ""));
        match word {
            "rename" => match rest.split_once("->") {
                Some((old, new)) => {
                    let (table, column) = match column_of(old) {
                        Some((table, column)) => (table, Some(column)),
                        None => (unquoted(old), None),
                    };
                    self.renames.push((table, column, unquoted(new)));
                }
                None => self.errors.push(format!("@{directive}: write `-- @rename old -> new`")),
            },
            "drop" => match column_of(rest) {
                Some(column) => self.drops.push(column),
                None => self.errors.push(format!("@{directive}: write `-- @drop table.column`")),
            },
            "version" => match Version::parse(rest.trim()) {
                Some(version) => self.version = Some(version),
                None => self.errors.push(format!("@{directive}: write `-- @version 1.2.0`")),
            },
            "requires" => match Version::parse(rest.trim()) {
                Some(version) => self.requires = self.requires.take().max(Some(version)),
                None => self.errors.push(format!("@{directive}: write `-- @requires 1.2.0`")),
            },
            "partial" => self.partial = true,
            "merge" => self.merge(rest.trim(), place),
            "duplicates" => self.rename_duplicates(rest.trim(), place),
            "group" => match group_of(rest) {
                Some(group) => self.groups.push(group),
                None => self.errors.push(format!("@{directive}: write `-- @group table(column, column)`")),
            },
            "scope" => self.scope(rest.trim(), place),
            "expires" => self.expire(rest.trim(), place),
            // Comments of another use.
            _ => {}
        }
    }

    fn scope(&mut self, rest: &str, place: &Place) {
        let scope = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
        let known = |word: &str| ["local", "replicated", "device"].contains(&word);
        let (table, word) = match leading_name(rest) {
            _ if known(&scope(rest)) => (place.last.clone().filter(|_| place.line), scope(rest)),
            Some((table, rest)) => (Some(table), scope(rest)),
            None => (None, scope(rest)),
        };
        match (table, word.as_str()) {
            (Some(table), "local") => self.locals.push(table),
            (Some(_), "replicated") => {}
            (Some(_), _) => {
                self.errors.push(format!("@scope {rest}: no scope {word:?}; there are local and replicated"))
            }
            (None, _) => self.errors.push(format!(
                "@scope {rest}: write it on the line of its table's name, or as `-- @scope table {word}`"
            )),
        }
    }

    fn expire(&mut self, rest: &str, place: &Place) {
        let column = leading_column(rest).map(|(column, _)| column);
        match column.or_else(|| place.column.clone().filter(|_| place.line)) {
            Some(column) => self.expires.push(column),
            None => self
                .errors
                .push(format!("@expires {rest}: write it on the line of its column, or as `-- @expires table.column`")),
        }
    }

    /// What follows the word is for people.
    fn rename_duplicates(&mut self, rest: &str, place: &Place) {
        let first = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
        let (column, word) = match leading_column(rest) {
            Some((column, rest)) => (Some(column), first(rest)),
            None => (place.column.clone().filter(|_| place.line), first(rest)),
        };
        match column {
            Some(column) if word == "rename" => self.duplicates.push(column),
            Some(_) => self.errors.push(format!("@duplicates {rest}: there is nothing but `rename`")),
            None => self.errors.push(format!(
                "@duplicates {rest}: write it on the line of its column, or as `-- @duplicates table.column rename`"
            )),
        }
    }

    /// What follows the kind is for people.
    fn merge(&mut self, rest: &str, place: &Place) {
        let first = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
        let (column, word) = match leading_column(rest) {
            Some((column, rest)) => (Some(column), first(rest)),
            None => (place.column.clone().filter(|_| place.line), first(rest)),
        };
        let Some(kind) = Kind::parse(&word) else {
            let kinds = Kind::ALL.map(Kind::as_str).join(", ");
            self.errors.push(format!("@merge {rest}: no kind {word:?}; there are {kinds}"));
            return;
        };
        match column {
            Some((table, column)) => self.kinds.push((table, column, kind)),
            None => self.errors.push(format!(
                "@merge {rest}: write it on the line of its column, or as `-- @merge table.column {word}`"
            )),
        }
    }
}

/// A name at the start of a text, perhaps in quotes, and what follows it.
fn leading_name(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let end = match text.strip_prefix('"') {
        Some(_) => {
            let mut quotes = text.match_indices('"').skip(1).map(|(at, _)| at).peekable();
            loop {
                let at = quotes.next()?;
                // Two quotes are one of the name's.
                if quotes.peek() != Some(&(at + 1)) {
                    break at + 1;
                }
                quotes.next();
            }
        }
        None => text.find(|c: char| c == '.' || c.is_whitespace()).unwrap_or(text.len()),
    };
    (end > 0).then(|| (unquoted(&text[..end]), &text[end..]))
}

/// `table(column, column)`.
fn group_of(text: &str) -> Option<(String, Vec<String>)> {
    let text = text.trim();
    let open = match text.strip_prefix('"') {
        Some(quoted) => quoted.find("\"(").map(|at| at + 2)?,
        None => text.find('(')?,
    };
    let columns = text[open + 1..].split(')').next()?.split(',').map(unquoted).collect::<Vec<_>>();
    let named = columns.len() > 1 && columns.iter().all(|column| !column.is_empty());
    named.then(|| (unquoted(&text[..open]), columns))
}

/// `table.column` at the start of a text, and what follows it.
fn leading_column(text: &str) -> Option<((String, String), &str)> {
    let (table, rest) = leading_name(text)?;
    let (column, rest) = leading_name(rest.strip_prefix('.')?)?;
    Some(((table, column), rest))
}

/// `table.column`, either perhaps in quotes.
fn column_of(text: &str) -> Option<(String, String)> {
    let text = text.trim();
    let dot = match text.strip_prefix('"') {
        Some(quoted) => quoted.find("\".").map(|at| at + 2)?,
        None => text.find('.')?,
    };
    let (table, column) = (unquoted(&text[..dot]), unquoted(&text[dot + 1..]));
    (!table.is_empty() && !column.is_empty()).then_some((table, column))
}

fn unquoted(name: &str) -> String {
    let name = name.trim();
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(name) => name.replace("\"\"", "\""),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_isle_can_be_left_out_of_a_text() {
        let sql =
            "CREATE TABLE t(a INT, -- @merge counter\n b TEXT DEFAULT '-- @x', -- for people\n c INT -- @merge max\n)";
        let plain = "CREATE TABLE t(a INT,\n b TEXT DEFAULT '-- @x', -- for people\n c INT\n)";
        assert_eq!(without(sql), plain);
    }

    fn kinds(sql: &str) -> Vec<String> {
        let found = Directives::read(sql);
        let kinds = found.kinds.iter().map(|(table, column, kind)| format!("{table}.{column} {kind}"));
        kinds.chain(found.errors.iter().map(|_| "?".to_owned())).collect()
    }

    #[test]
    fn a_kind_belongs_to_the_column_of_its_line() {
        let sql = "CREATE TABLE IF NOT EXISTS \"my files\"(id INTEGER PRIMARY KEY, -- nothing
              reads INTEGER NOT NULL DEFAULT (max(1, 2)), -- @merge counter  is for people: +3. and +4
              [last read] TEXT CHECK([last read] <> 'a,b'), -- @MERGE is no directive, and what follows a kind
              first TEXT, /* , x */ tags TEXT DEFAULT '-- @merge min', -- @merge set
              UNIQUE(a, b)
            ); -- x
            CREATE TEMP TABLE main.t(a, b); -- @merge Max
            create index i on t(a);";
        assert_eq!(kinds(sql), ["my files.reads counter", "my files.tags set", "t.b max"]);
    }

    #[test]
    fn a_column_that_is_added_can_have_a_kind() {
        let sql = "ALTER TABLE main.t ADD COLUMN n INT DEFAULT 0; -- @merge counter\n alter table [u v] add m text -- @merge max";
        assert_eq!(kinds(sql), ["t.n counter", "u v.m max"]);
        assert_eq!(kinds("ALTER TABLE t RENAME TO u; -- @merge max"), ["?"]);
    }

    #[test]
    fn names_are_read_as_sqlite_reads_them() {
        let sql = "CREATE TABLE 'my t'(a INT, \"a\"\"b\" INT, -- @merge counter
              x INT, x$y INT, -- @merge max
              [x\"] INT, x\u{1f600} INT, -- @merge min
              y INT, 'n' INTEGER -- @merge set
            );";
        assert_eq!(kinds(sql), ["my t.a\"b counter", "my t.x$y max", "my t.x\u{1f600} min", "my t.n set"]);
    }

    #[test]
    fn what_was_said_of_an_earlier_name_holds_for_the_later_one() {
        let sql = "CREATE TABLE t(n INT, -- @merge counter\n gone INT); -- @merge max
            -- @rename t.n -> m\n-- @rename t -> u\n-- @drop u.gone";
        let mut found = Directives::read(sql);
        found.follow_renames(|table, column| table == "u" && column.is_none_or(|column| column == "m"));
        assert_eq!(found.kinds, [("u".to_owned(), "m".to_owned(), Kind::Counter)]);
    }

    #[test]
    fn what_belongs_to_no_column_is_refused() {
        assert_eq!(kinds("CREATE TABLE t(a INT,\n -- @merge counter\n b INT)"), ["?"]);
        assert_eq!(kinds("CREATE TABLE t(a INT, -- @merge countr\n b INT)"), ["?"]);
        assert_eq!(kinds("CREATE TABLE t(a INT,\n UNIQUE(a) -- @merge counter\n)"), ["?"]);
        assert_eq!(kinds("CREATE INDEX i ON t(a) -- @merge counter"), ["?"]);
        assert_eq!(kinds("-- @merge t counter"), ["?"]);
        assert_eq!(kinds("-- @merge \"a.b\".\"c \"\"d\" counter ...\n-- @merge t.c min."), ["a.b.c \"d counter", "?"]);
        assert_eq!(kinds("-- @merge t.c min\n-- @merge"), ["t.c min", "?"]);
    }

    #[test]
    fn a_scope_belongs_to_its_table_and_an_expiry_to_its_column() {
        let sql = "CREATE TABLE a(id INT);
            CREATE TABLE \"b c\"( -- @scope local
              id INT, until REAL, -- @expires
              x INT);
            CREATE TABLE d(id INT); -- @scope local
            -- @scope e local\n-- @expires e.gone\n-- @scope f everywhere\n-- @scope local\n-- @expires";
        let found = Directives::read(sql);
        assert_eq!(found.locals, ["b c", "d", "e"]);
        let columns: Vec<String> = found.expires.iter().map(|(table, column)| format!("{table}.{column}")).collect();
        assert_eq!(columns, ["b c.until", "e.gone"]);
        assert_eq!(found.errors.len(), 3);
    }

    #[test]
    fn a_group_names_its_columns() {
        let found = Directives::read(
            "-- @group \"a b\"(x, \"y z\") for people\n-- @group t( a,b )\n-- @group t(a)\n-- @group t",
        );
        let name = |text: &str| text.to_owned();
        let expected = [(name("a b"), vec![name("x"), name("y z")]), (name("t"), vec![name("a"), name("b")])];
        assert_eq!((found.groups.as_slice(), found.errors.len()), (expected.as_slice(), 2));
    }

    #[test]
    fn renames_and_drops_name_tables_and_columns() {
        let found =
            Directives::read("-- @rename a -> b\n --@rename a.b -> c d\n-- @drop t.c\n-- @author me\n-- @drop t");
        let name = |text: &str| text.to_owned();
        assert_eq!(found.renames, [(name("a"), None, name("b")), (name("a"), Some(name("b")), name("c d"))]);
        assert_eq!(found.drops, [(name("t"), name("c"))]);
        assert_eq!(found.errors.len(), 1);
    }
}
