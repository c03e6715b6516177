//! Documents against what they promise: every order of arrival shows the same, and nobody's insertion is lost.

#![allow(clippy::unwrap_used)]

use isle_document::{Document, Form, Writer, fits};
use proptest::prelude::*;

fn writer(site: u8, time: u64) -> Writer {
    Writer { site: [site; 16], time }
}

fn both_edit(form: Form, base: &str, a: &str, b: &str) -> String {
    let (mut one, mut two) = (Document::begin(form, base).unwrap(), Document::begin(form, base).unwrap());
    let first = one.edit(a, writer(1, 1)).unwrap().unwrap();
    let second = two.edit(b, writer(2, 1)).unwrap().unwrap();
    one.apply(&second).unwrap();
    two.apply(&first).unwrap();
    assert_eq!(one.shown(), two.shown());
    assert_eq!(isle_document::heads(&one.save()).unwrap(), isle_document::heads(&two.save()).unwrap());
    one.shown().to_owned()
}

#[test]
fn insertions_of_both_sides_survive() {
    let merged = both_edit(Form::Text, "the fox jumps", "the quick fox jumps", "the fox jumps over");
    assert_eq!(merged, "the quick fox jumps over");
}

#[test]
fn a_word_that_both_replace_is_not_mixed_letter_by_letter() {
    let merged = both_edit(Form::Text, "a cat sat", "a hat sat", "a dog sat");
    assert!(["a hatdog sat", "a doghat sat"].contains(&merged.as_str()), "{merged}");
}

#[test]
fn members_and_elements_of_both_sides_survive() {
    let merged = both_edit(
        Form::Json,
        r#"{"a":1,"list":[1,2,3],"in":{"x":1}}"#,
        r#"{"a":2,"list":[0,1,2,3],"in":{"x":1,"y":"é"}}"#,
        r#"{"a":1,"b":null,"list":[1,3],"in":{"x":1.5}}"#,
    );
    assert_eq!(merged, r#"{"a":2,"b":null,"in":{"x":1.5,"y":"é"},"list":[0,1,3]}"#);
}

/// What either side had put there and does not show is told, on both sides.
#[test]
fn what_two_that_write_one_member_at_once_lose_is_told() {
    let base = r#"{"a":1,"l":[{"v":1},2],"o":{"p":1}}"#;
    let told = |a: &str, b: &str| {
        let (mut one, mut two) =
            (Document::begin(Form::Json, base).unwrap(), Document::begin(Form::Json, base).unwrap());
        let first = one.edit(a, writer(1, 1)).unwrap().unwrap();
        let second = two.edit(b, writer(2, 1)).unwrap().unwrap();
        let (at_one, at_two) = (one.apply(&second).unwrap(), two.apply(&first).unwrap());
        assert_eq!((&at_one.theirs, &at_one.ours), (&at_two.ours, &at_two.theirs), "{a} {b}");
        assert_eq!(one.apply(&second).unwrap(), isle_document::Lost::default(), "told once");
        [at_one.ours, at_one.theirs].into_iter().flatten().collect::<Vec<_>>()
    };
    let changed = |from: &str, to: &str| base.replace(from, to);
    let (two, three) = (changed("\"a\":1", "\"a\":2"), changed("\"a\":1", "\"a\":3"));
    let lost = told(&two, &three);
    assert!(lost == [two] || lost == [three], "{lost:?}");
    let inner = changed("\"p\":1", "\"p\":2");
    assert_eq!(told("{}", &inner), [inner]);
    let inner = changed("{\"v\":1}", "{\"v\":8}");
    assert_eq!(told(&changed("{\"v\":1},", ""), &inner), [inner]);
    let (none, other) =
        (changed("\"p\":1", "\"p\":1,\"q\":1"), changed("\"l\":[{\"v\":1},2]", "\"l\":[{\"v\":1},2,3]"));
    assert!(told(&none, &other).is_empty());
}

#[test]
fn what_would_not_come_back_as_it_is_does_not_fit() {
    for value in ["1", "\"text\"", "{", "[123456789012345678901234567890]", "", "[1]x"] {
        assert!(!fits(Form::Json, value), "{value}");
    }
    let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
    assert!(!fits(Form::Json, &deep));
    for value in ["[]", "{\"a\":\"123456789012345678901234567890\"}", "[18446744073709551615,-1,1e300]"] {
        assert!(fits(Form::Json, value), "{value}");
    }
    assert!(!fits(Form::Text, &"x".repeat(isle_document::LENGTH_MAX + 1)));
}

/// An edit names the root that it builds on: if this fails, documents of earlier releases cannot be edited together with those
/// of this one.
#[test]
fn the_roots_are_those_of_earlier_releases() {
    let hash = |form, base| {
        let saved = Document::begin(form, base).unwrap().save();
        isle_document::heads(&saved).unwrap().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(hash(Form::Text, ""), "bea00ff1ab7ee0a2da84af4b9397ebe0e469dda58b27e758213a6e61054b4fed");
    assert_eq!(hash(Form::Text, "ship 🚢 ahoy"), "d21607c0c7177b8272c2a8963f51925156ca72d176c7592e93ea3f24ce036d72");
    assert_eq!(
        hash(Form::Json, r#"{"b":[1,-2,18446744073709551615,1.5],"a":{"x":null,"y":true,"z":"text"}}"#),
        "c1c39722f7f8e7f122adbbad242689d06ea4afa1d497cc19909f53ac8cf7c307"
    );
}

/// Documents and changes are kept in files and sent to other releases.
#[test]
fn documents_and_changes_are_laid_out_as_in_earlier_releases() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut document = Document::begin(Form::Text, "ahoy").unwrap();
    let change = document.edit("ahoy you", writer(7, 9)).unwrap().unwrap();
    assert_eq!(
        hex(&change),
        "856f4a83bd130cc3017301fcf877175fc9aa87935c8db0ae78e4fbb801a0775013f0de6017dc3020760c8210f2940e55f07ae69b0dfca074927905850106000001100000000000000000000000000000000009010202021104130434024202560257047002040104017f0103007f05030100040401041620796f750400"
    );
    assert_eq!(
        hex(&document.save()),
        "0101bd130cc33e2e0bc45c914043dcfb9504e9cad16f88b54fb63a41e8d236c5347ebf01856f4a833b62742a00b40102100000000000000000000000000000000010f2940e55f07ae69b0dfca0749279058501bd130cc33e2e0bc45c914043dcfb9504e9cad16f88b54fb63a41e8d236c5347e0701030303130323024003430256020c010402041106130715052104230234024204560457088001027e00017e01007e050402007e00017f000207000108000001080100020400030100017e000206017f0176000805000401090101087f0408017f00081661686f7920796f7509000100"
    );
}

#[test]
fn edits_of_a_base_that_comes_later_wait_for_it() {
    let mut author = Document::begin(Form::Text, "one").unwrap();
    let change = author.edit("one two", writer(1, 1)).unwrap().unwrap();
    let mut waiting = Document::without_root(Form::Text);
    waiting.apply(&change).unwrap();
    let mut waiting = Document::load(Form::Text, &waiting.save()).unwrap();
    waiting.put_root("one").unwrap();
    assert_eq!(waiting.shown(), "one two");
    assert_eq!(waiting.save(), author.save());
}

#[derive(Debug, Clone)]
enum Do {
    /// A device writes: at a place, so many characters become these.
    Edit(usize, prop::sample::Index, usize, String),
    /// A device hears of the first so many changes of all.
    Hear(usize, prop::sample::Index),
    /// A device reads its file again.
    Reopen(usize),
    /// A device takes another's document.
    Join(usize, usize),
}

fn step() -> impl Strategy<Value = Do> {
    let device = || 0..3usize;
    prop_oneof![
        4 => (device(), any::<prop::sample::Index>(), 0..4usize, "[a-c é🚢]{0,5}").prop_map(|(d, at, n, text)| Do::Edit(d, at, n, text)),
        2 => (device(), any::<prop::sample::Index>()).prop_map(|(d, n)| Do::Hear(d, n)),
        1 => device().prop_map(Do::Reopen),
        1 => (device(), device()).prop_map(|(a, b)| Do::Join(a, b)),
    ]
}

fn edited(form: Form, shown: &str, at: prop::sample::Index, gone: usize, came: &str) -> String {
    match form {
        Form::Text => {
            let letters: Vec<char> = shown.chars().collect();
            let from = at.index(letters.len() + 1);
            let to = (from + gone).min(letters.len());
            letters[..from].iter().copied().chain(came.chars()).chain(letters[to..].iter().copied()).collect()
        }
        Form::Json => {
            let mut value: serde_json::Value = serde_json::from_str(shown).unwrap();
            let items = value["list"].as_array_mut().unwrap();
            let from = at.index(items.len() + 1);
            let to = (from + gone).min(items.len());
            items.splice(
                from..to,
                came.chars().map(|c| match c {
                    'a' => serde_json::json!({"name": came, "n": gone}),
                    'b' => serde_json::json!([gone, 1.5]),
                    c => serde_json::json!(c.to_string()),
                }),
            );
            for item in items.iter_mut().filter_map(|item| item.as_object_mut()) {
                item.insert(came.to_owned(), serde_json::json!(gone));
                if gone == 3 {
                    item.remove("n");
                }
            }
            value.to_string()
        }
    }
}

fn run(form: Form, base: &str, steps: Vec<Do>) -> Result<(), TestCaseError> {
    let mut devices: Vec<Document> = (0..3).map(|_| Document::begin(form, base).unwrap()).collect();
    let mut changes: Vec<Vec<u8>> = Vec::new();
    for (time, step) in steps.into_iter().enumerate() {
        match step {
            Do::Edit(device, at, gone, came) => {
                let shown = devices[device].shown().to_owned();
                let new = edited(form, &shown, at, gone, &came);
                let change = devices[device].edit(&new, writer(device as u8, time as u64 / 3)).unwrap();
                prop_assert_eq!(change.is_none(), shown == new);
                prop_assert_eq!(devices[device].shown(), &new);
                changes.extend(change);
            }
            Do::Hear(device, count) => {
                for change in &changes[..count.index(changes.len() + 1)] {
                    devices[device].apply(change).unwrap();
                }
            }
            Do::Reopen(device) => {
                let saved = devices[device].save();
                devices[device] = Document::load(form, &saved).unwrap();
                prop_assert_eq!(&devices[device].save(), &saved);
            }
            Do::Join(a, b) => {
                let mut other = devices[b].clone();
                devices[a].join(&mut other).unwrap();
            }
        }
    }
    changes.reverse();
    let mut late = Document::begin(form, base).unwrap();
    changes.iter().for_each(|change| drop(late.apply(change).unwrap()));
    for device in &mut devices {
        changes.iter().for_each(|change| drop(device.apply(change).unwrap()));
        prop_assert_eq!(device.shown(), late.shown());
        let (saved, other) = (device.save(), late.save());
        prop_assert_eq!(isle_document::heads(&saved).unwrap(), isle_document::heads(&other).unwrap());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_order_shows_one_text(base in "[a-c é]{0,12}", steps in prop::collection::vec(step(), 1..25)) {
        run(Form::Text, &base, steps)?;
    }

    #[test]
    fn every_order_shows_one_value(steps in prop::collection::vec(step(), 1..25)) {
        run(Form::Json, r#"{"list":[{"n":1},"x"]}"#, steps)?;
    }

    #[test]
    fn any_text_turns_into_any_other(a in "\\PC{0,40}", b in "\\PC{0,40}") {
        let mut document = Document::begin(Form::Text, &a).unwrap();
        document.edit(&b, writer(1, 1)).unwrap();
        prop_assert_eq!(document.shown(), b);
    }
}
