//! Documents into rows and back, and what is refused on the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use isle_changeset::Value;
use isle_interchange::{Datum, Format, Mapping, Node, document, parse, print, rows};
use proptest::prelude::*;

const JOBS: &str = r#"
[[source]]
file = "jobs.yaml"
table = "jobs"
at = "jobs"
rows = "items"
rest = "data"
[source.columns]
id = "id"
name = "name"
enabled = { from = "enabled", as = "bool" }
voice = { from = ["settings", "voice"], as = "json" }
"#;

fn mapping(text: &str) -> Mapping {
    Mapping::from_toml(text).unwrap()
}

/// The values of the rows, as an export finds them in a table without defaults.
fn stored(mapping: &Mapping, node: &Node) -> Vec<Vec<Value>> {
    let rows = rows(&mapping.sources[0], node).unwrap();
    rows.into_iter().map(|row| row.cells.into_iter().map(|cell| cell.unwrap_or(Value::Null)).collect()).collect()
}

fn text(text: &str) -> Value {
    Value::Text(text.as_bytes().to_vec())
}

/// What is wrong with a document, as text.
fn fault(mapping_text: &str, format: Format, document: &str) -> String {
    let mapping = mapping(mapping_text);
    parse(format, document.as_bytes()).and_then(|node| rows(&mapping.sources[0], &node)).unwrap_err().to_string()
}

#[test]
fn members_without_a_column_are_kept_and_come_back() {
    let mapping = mapping(JOBS);
    let document_text =
        "jobs:\n- id: a\n  name: Café\n  enabled: true\n  settings:\n    voice: [1, 2.5]\n    speed: 3\n  odd: null\n";
    let node = parse(Format::Yaml, document_text.as_bytes()).unwrap();
    let cells = stored(&mapping, &node);
    assert_eq!(
        cells,
        [vec![
            text("a"),
            text("Café"),
            Value::Integer(1),
            text("[1,2.5]"),
            text(r#"{"settings":{"speed":3},"odd":null}"#)
        ]]
    );
    let back = document(&mapping.sources[0], &cells, &[]).unwrap();
    assert!(back.is_same(&node), "{back:?}");
}

#[test]
fn a_null_that_was_written_out_stays_one_and_nothing_stays_nothing() {
    let mapping = mapping(JOBS);
    let node = parse(Format::Json, br#"{"jobs": [{"id": "a", "name": null}, {"id": "b"}]}"#).unwrap();
    let cells = stored(&mapping, &node);
    assert_eq!(cells[0][1], Value::Null);
    assert_eq!(cells[1][1], Value::Null);
    assert!(document(&mapping.sources[0], &cells, &[]).unwrap().is_same(&node));
    // Once the column has a value, that one counts.
    let mut changed = cells;
    changed[0][1] = text("now");
    let back = print(Format::Json, &document(&mapping.sources[0], &changed, &[]).unwrap()).unwrap();
    assert!(back.contains("\"now\"") && !back.contains("null"), "{back}");
}

#[test]
fn entries_of_lists_are_a_row_for_each_element() {
    let mapping = mapping(
        "[[source]]\nfile = 'a.json'\ntable = 'aliases'\nat = 'aliases'\nrows = ['entries', 'items']\n\
         [source.frame]\nversion = '1.0'\n[source.columns]\ncanonical = '$key'\nalias = '$value'",
    );
    let node = parse(Format::Json, br#"{"version": "1.0", "aliases": {"x": ["a", "b"], "y": ["c"]}}"#).unwrap();
    let cells = stored(&mapping, &node);
    assert_eq!(cells, [[text("x"), text("a")], [text("x"), text("b")], [text("y"), text("c")]]);
    assert!(document(&mapping.sources[0], &cells, &[]).unwrap().is_same(&node));
}

#[test]
fn faults_tell_line_and_path() {
    let json = JOBS.replace("jobs.yaml", "jobs.json");
    let cases = [
        (
            Format::Json,
            "{\"jobs\": [\n{\"id\": \"a\"},\n{\"id\": \"b\", \"enabled\": \"yes\"}]}",
            "line 3, $.jobs[1].enabled: a text where true or false",
        ),
        (
            Format::Yaml,
            "jobs:\n- id: a\n- id: b\n  enabled: yes\n",
            "line 4, $.jobs[1].enabled: a text where true or false",
        ),
        (
            Format::Json,
            "{\"jobs\": [\n{\"id\": \"a\", \"x\": {\"k\": 1,\n\"k\": 2}}]}",
            "line 3, $.jobs[0].x: it has \"k\" twice",
        ),
        (
            Format::Json,
            "{\"jobs\": [\n{\"id\": 123456789012345678901}]}",
            "line 2, $.jobs[0].id: 123456789012345678901 does not fit",
        ),
        (Format::Yaml, "jobs:\n- id: 123456789012345678901\n", "line 2, $: the number does not fit"),
        (Format::Json, "{\"jobs\": [\n{\"id\": \"a\"", "line 2, $: EOF"),
        (Format::Json, "{\"jobs\": {}}", "line 1, $.jobs: an object instead of a list"),
        (Format::Json, "{\"jobs\": [true]}", "$.jobs[0]: true or false instead of an object"),
        (Format::Json, "{\"version\": 2,\n\"jobs\": []}", "$: \"version\" stands beside the rows"),
        (Format::Json, "[]", "$: a list instead of an object"),
        (Format::Yaml, "jobs:\n- id: a\n  id: b\n", "line 3"),
        (Format::Yaml, "jobs: [\n", "line"),
        (Format::Yaml, "jobs:\n- id: .nan\n", "non-finite"),
    ];
    for (format, document, expected) in cases {
        let found = fault(&json, format, document);
        assert!(found.contains(expected), "{document}\n{found}");
    }
    let one = parse(Format::Json, b"\xff\xfe{\0}\0").unwrap_err().to_string();
    assert!(one.contains("UTF-16"), "{one}");
    let one = parse(Format::Json, b"{\n\"a\": \"\xe4\"}").unwrap_err().to_string();
    assert!(one.contains("line 2") && one.contains("UTF-8"), "{one}");
}

#[test]
fn a_bomb_of_aliases_is_refused_and_deep_nesting_too() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let list = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{list}]\n"));
    }
    assert!(parse(Format::Yaml, bomb.as_bytes()).is_err());
    for (format, open, close) in [(Format::Json, "[", "]"), (Format::Yaml, "[", "]")] {
        let deep = open.repeat(5_000) + &close.repeat(5_000);
        assert!(parse(format, deep.as_bytes()).is_err(), "{format:?}");
    }
    // Deep in the way of blocks, too, and on the stack of a thread.
    let deep = "- ".repeat(199) + "x";
    let refused = std::thread::spawn(move || parse(Format::Yaml, deep.as_bytes()).is_err());
    assert!(refused.join().unwrap());
    let merged: String = (0..150).map(|_| "- <<: *d\n").collect();
    let merged = format!("defaults: &d {{a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, g: 7, h: 8}}\nitems:\n{merged}");
    assert!(parse(Format::Yaml, merged.as_bytes()).is_ok(), "defaults that are merged in are no bomb");
    // A repeated part, as PyYAML writes it, is no bomb.
    let twice = parse(Format::Yaml, b"jobs:\n- &id001 {id: a}\n- *id001\n").unwrap();
    assert!(matches!(&twice.member("jobs").unwrap().datum, Datum::List(items) if items.len() == 2));
}

#[test]
fn rows_that_no_document_can_have_are_refused_and_not_left_out() {
    let refused = |text: &str, rows: &[Vec<Value>]| {
        let (n, written) = document(&mapping(text).sources[0], rows, &[]).unwrap_err();
        format!("{n} {} {}", written.column, written.reason)
    };
    let head = "[[source]]\nfile = 'a.json'\ntable = 't'\n";
    let two = [vec![text("a"), text("same")], vec![text("b"), text("same")]];
    let record = format!("{head}rows = 'record'\n[source.columns]\nid = 'id'\nv = 'v'");
    assert!(refused(&record, &two).starts_with("1  a second row"));
    let entries = format!("{head}rows = 'entries'\n[source.columns]\nid = 'id'\nv = '$key'");
    assert!(refused(&entries, &two).starts_with("1  a second entry"));
    let rest = format!("{head}rows = 'items'\nrest = 'r'\n[source.columns]\nid = 'id'");
    assert!(refused(&rest, &[vec![text("a"), Value::Blob(vec![1])]]).contains("r no text of JSON"));
    let whole =
        format!("{head}rows = 'entries'\n[source.columns]\nid = '$key'\nv = {{ from = '$value', as = 'json' }}");
    assert!(refused(&whole, &[vec![text("a"), Value::Null]]).contains("NULL"));
}

/// Would catch: a member that another program wrote into the rest, and that goes with an export because its column is NULL.
#[test]
fn what_stands_in_the_rest_under_a_columns_name_shows_where_the_column_has_nothing() {
    let mapping = mapping(JOBS);
    let job = |name: Value| vec![vec![text("a"), name, Value::Null, Value::Null, text(r#"{"name":"theirs"}"#)]];
    let shown = |name| print(Format::Json, &document(&mapping.sources[0], &job(name), &[]).unwrap()).unwrap();
    assert!(shown(Value::Null).contains("theirs"));
    assert!(shown(text("ours")).contains("ours") && !shown(text("ours")).contains("theirs"));
}

#[test]
fn names_of_entries_can_be_whole_numbers() {
    let text = "[[source]]\nfile = 'a.json'\ntable = 't'\nrows = 'entries'\n[source.columns]\nid = { from = '$key', as = 'integer' }\nv = 'v'";
    let mapping = mapping(text);
    let node = parse(Format::Json, br#"{"7": {"v": 1}}"#).unwrap();
    let cells = stored(&mapping, &node);
    assert_eq!(cells, [[Value::Integer(7), Value::Integer(1)]]);
    assert!(document(&mapping.sources[0], &cells, &[]).unwrap().is_same(&node));
    assert!(fault(text, Format::Json, r#"{"07": {"v": 1}}"#).contains("where a whole number"));
}

#[test]
fn odd_mappings_are_refused_with_the_reason() {
    let head = "[[source]]\nfile = 'a.json'\ntable = 't'\n";
    let cases = [
        ("rows = 'items'\n[source.columns]\nid = '$key'", "rows has no \"entries\""),
        ("rows = 'entries'\n[source.columns]\nid = 'id'", "the names of the entries go nowhere"),
        ("rows = 'items'\n[source.columns]\nid = '$id'", "$id is none of"),
        ("rows = 'items'\nrest = 'ID'\n[source.columns]\nid = 'id'", "fills column id twice"),
        ("rows = 'items'\nrest = 'r'\n[source.columns]\nid = '$value'", "leaves nothing"),
        ("rows = 'items'\n[source.columns]\nid = { as = 'text' }", "neither from nor value"),
        ("rows = 'items'\n[source.columns]\nid = { value = true }", "its value is not of its form"),
        ("rows = 'items'\nodd = 1\n[source.columns]\nid = 'id'", "unknown field"),
        ("rows = ['items', 'items']\n[source.columns]\nid = 'id'", "two levels"),
        ("rows = 'items'\n[source.columns]\nid = 'id'\nv = 'id'", "two columns take the member id"),
        ("rows = 'items'\n[source.columns]\nid = 'a'\nv = { from = ['a', 'b'] }", "two columns take the member a"),
        ("at = 'x'\nrows = 'items'\nframe = { x = 1 }\n[source.columns]\nid = 'id'", "in which the rows are"),
    ];
    for (rest, expected) in cases {
        let found = Mapping::from_toml(&format!("{head}{rest}")).unwrap_err().to_string();
        assert!(found.contains(expected), "{rest}\n{found}");
    }
    for file in ["../a.json", "/etc/a.json", "a.txt", ""] {
        let text = format!("[[source]]\nfile = '{file}'\ntable = 't'\nrows = 'items'\n[source.columns]\nid = 'id'");
        assert!(Mapping::from_toml(&text).is_err(), "{file}");
    }
}

#[test]
fn texts_that_readers_of_yaml_take_for_something_else_are_quoted() {
    for odd in [
        "yes",
        "no",
        "on",
        "null",
        "~",
        "1_000",
        "0755",
        "12:30:45",
        "2025-11-01",
        "1e3",
        "0x1F",
        ".inf",
        "true",
        "- a",
        "a: b",
        "#x",
        " x",
        "x\n",
        "",
    ] {
        let node = Node::new(Datum::Text(odd.to_owned()));
        let printed = print(Format::Yaml, &Node::new(Datum::List(vec![node]))).unwrap();
        let plain = printed.trim_start_matches("- ").trim_end_matches('\n');
        assert!(plain.starts_with(['\'', '"', '|', '>']), "{odd:?} is printed as {printed:?}");
        let back = parse(Format::Yaml, printed.as_bytes()).unwrap();
        let Datum::List(items) = back.datum else { panic!("{printed}") };
        assert!(matches!(&items[0].datum, Datum::Text(text) if text == odd), "{odd:?} came back from {printed:?}");
    }
}

/// Any value of JSON that SQLite can hold.
fn any_node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        Just(Datum::Null),
        any::<bool>().prop_map(Datum::Bool),
        any::<i64>().prop_map(Datum::Integer),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Datum::Real),
        any_text().prop_map(Datum::Text),
    ];
    leaf.prop_map(Node::new).prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| Node::new(Datum::List(items))),
            prop::collection::btree_map(any_text(), inner, 0..5)
                .prop_map(|members| Node::new(Datum::Map(members.into_iter().collect()))),
        ]
    })
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zß0-9 ]{0,8}", "[\\PC]{0,6}", "(yes|no|null|~|1e5|0x10|-|:|#|'|\"|\\\\|\n|\t){0,3}"]
}

/// Its id, name and switch, one of its settings, and a member that has no column.
type AnyJob = (String, Option<String>, Option<bool>, Node, Node);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Would catch: a text that is printed so that it is read as something else, a number that loses digits, members that get lost.
    #[test]
    fn what_is_printed_is_read_as_the_same(node in any_node()) {
        for format in [Format::Json, Format::Yaml] {
            let printed = print(format, &node).unwrap();
            let back = parse(format, printed.as_bytes()).map_err(|fault| TestCaseError::fail(format!("{fault}\n{printed}")))?;
            prop_assert!(back.is_same(&node), "{format:?}: {printed}\n{back:?}");
        }
    }

    /// Would catch: a member that no column takes and that is dropped, a null that becomes nothing, rows that change places.
    #[test]
    fn rows_become_the_document_that_they_were_read_from(
        jobs in prop::collection::vec((any_text(), prop::option::of(any_text()), prop::option::of(any::<bool>()), any_node(), any_node()), 0..6)
    ) {
        let mapping = mapping(JOBS);
        let job = |(n, (id, name, enabled, voice, odd)): (usize, AnyJob)| {
            let mut members = vec![("id".to_owned(), Node::new(Datum::Text(format!("{n}{id}"))))];
            members.extend(name.map(|name| ("name".to_owned(), Node::new(Datum::Text(name)))));
            members.push(("enabled".to_owned(), Node::new(enabled.map_or(Datum::Null, Datum::Bool))));
            members.push(("settings".to_owned(), Node::new(Datum::Map(vec![("voice".to_owned(), voice), ("more".to_owned(), odd.clone())]))));
            members.push(("odd".to_owned(), odd));
            Node::new(Datum::Map(members))
        };
        let jobs: Vec<Node> = jobs.into_iter().enumerate().map(job).collect();
        let node = Node::new(Datum::Map(vec![("jobs".to_owned(), Node::new(Datum::List(jobs)))]));
        let back = document(&mapping.sources[0], &stored(&mapping, &node), &[]).unwrap();
        prop_assert!(back.is_same(&node), "{node:?}\n{back:?}");
    }
}
