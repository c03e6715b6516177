//! Files made here, whole and broken.

use std::io::{self, Cursor as Bytes, SeekFrom};

use proptest::prelude::*;

use super::*;

const U8: u32 = 0;
const U32: u32 = 4;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const F64: u32 = 12;

/// Makes the bytes of a file, sound unless told otherwise.
#[derive(Clone)]
struct Model {
    version: u32,
    keys: Vec<(String, u32, Vec<u8>)>,
    /// Name, dimensions, type, offset, bytes of data.
    tensors: Vec<(String, Vec<u64>, u32, u64, usize)>,
    alignment: usize,
}

impl Model {
    fn empty() -> Model {
        Model { version: 3, keys: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }

    fn new() -> Model {
        Model::empty().string("general.architecture", "llama")
    }

    /// One of everything, with two tensors at the end.
    fn sample(version: u32) -> Model {
        let mut model = Model::new()
            .string("general.name", "Käthe")
            .key("general.file_type", U32, &15_u32.to_le_bytes())
            .key("llama.context_length", U64, &4096_u64.to_le_bytes())
            .key("a.float", F32, &1e-5_f32.to_le_bytes())
            .key("a.truth", BOOL, &[1])
            .key("tokenizer.ggml.tokens", ARRAY, &strings(&["<s>", "a", "\"b\""]))
            .key("nested", ARRAY, &array(ARRAY, 2, &[array(U8, 2, &[1, 2]), array(STRING, 0, &[])].concat()))
            .tensor("token_embd.weight", &[32, 3], 8, 0, 102)
            .tensor("output_norm.weight", &[5], 0, 128, 20);
        model.version = version;
        model
    }

    fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Model {
        self.keys.push((key.to_owned(), kind, value.to_vec()));
        self
    }

    fn string(self, key: &str, value: &str) -> Model {
        self.key(key, STRING, &text(value.as_bytes()))
    }

    fn aligned(mut self, alignment: u32) -> Model {
        self.alignment = alignment as usize;
        self.key("general.alignment", U32, &alignment.to_le_bytes())
    }

    fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64, bytes: usize) -> Model {
        self.tensors.push((name.to_owned(), dimensions.to_vec(), kind, offset, bytes));
        self
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = header(self.version, self.tensors.len() as u64, self.keys.len() as u64);
        for (key, kind, value) in &self.keys {
            bytes.extend(text(key.as_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for (name, dimensions, kind, offset, _) in &self.tensors {
            bytes.extend(text(name.as_bytes()));
            bytes.extend((dimensions.len() as u32).to_le_bytes());
            dimensions.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        if let Some(end) = self.tensors.iter().map(|(_, _, _, offset, bytes)| *offset as usize + bytes).max() {
            bytes.resize(bytes.len().next_multiple_of(self.alignment) + end, 0xd7);
        }
        bytes
    }

    fn read(&self) -> Result<Gguf, GgufError> {
        parse(&self.bytes())
    }

    fn refused(&self) -> GgufError {
        refused(&self.bytes())
    }
}

fn header(version: u32, tensors: u64, keys: u64) -> Vec<u8> {
    [&b"GGUF"[..], &version.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

fn array(kind: u32, length: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), items].concat()
}

fn strings(items: &[&str]) -> Vec<u8> {
    let bytes: Vec<u8> = items.iter().flat_map(|item| text(item.as_bytes())).collect();
    array(STRING, items.len() as u64, &bytes)
}

/// A value of arrays in arrays.
fn nested(levels: usize) -> Vec<u8> {
    (1..levels).fold(array(U8, 1, &[7]), |inner, _| array(ARRAY, 1, &inner))
}

fn parse(bytes: &[u8]) -> Result<Gguf, GgufError> {
    read(&mut Bytes::new(bytes), bytes.len() as u64)
}

fn refused(bytes: &[u8]) -> GgufError {
    match parse(bytes) {
        Ok(model) => panic!("accepted as {model:?}"),
        Err(error) => error,
    }
}

/// Bytes followed by zeros, which counts what is read of them.
struct Sparse {
    begin: Vec<u8>,
    size: u64,
    position: u64,
    read: u64,
}

impl Sparse {
    fn new(begin: Vec<u8>, size: u64) -> Sparse {
        Sparse { begin, size, position: 0, read: 0 }
    }
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (buffer.len() as u64).min(self.size - self.position.min(self.size)) as usize;
        for byte in &mut buffer[..length] {
            *byte = self.begin.get(self.position as usize).copied().unwrap_or(0);
            self.position += 1;
        }
        self.read += length as u64;
        Ok(length)
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(position) => position,
            SeekFrom::Current(by) => self.position.checked_add_signed(by).unwrap(),
            SeekFrom::End(by) => self.size.checked_add_signed(by).unwrap(),
        };
        Ok(self.position)
    }
}

#[test]
fn both_versions_are_read_alike() {
    for version in [2, 3] {
        let model = Model::sample(version).read().unwrap();
        let metadata = json_of(&[
            ("general.architecture", "\"llama\""),
            ("general.name", "\"Käthe\""),
            ("general.file_type", "15"),
            ("llama.context_length", "4096"),
            ("a.float", "0.00001"),
            ("a.truth", "true"),
            ("tokenizer.ggml.tokens", r#"["<s>", "a", "\"b\""]"#),
            ("nested", "[[1, 2], []]"),
        ]);
        let expected = Gguf {
            version,
            name: Some("Käthe".to_owned()),
            architecture: "llama".to_owned(),
            quantization: Some("Q4_K_M".to_owned()),
            context_length: Some(4096),
            vocabulary: Some(3),
            parameters: 101,
            tensors: 2,
            metadata,
        };
        assert_eq!(model, expected);
    }
}

fn json_of(entries: &[(&str, &str)]) -> Value {
    let parsed = |value: &str| serde_json::from_str(value).unwrap();
    Value::Object(entries.iter().map(|(key, value)| ((*key).to_owned(), parsed(value))).collect())
}

#[test]
fn reading_begins_at_the_start_wherever_the_input_stands() {
    let bytes = Model::sample(3).bytes();
    let mut input = Bytes::new(&bytes);
    input.set_position(17);
    assert_eq!(read(&mut input, bytes.len() as u64).unwrap().tensors, 2);
}

#[test]
fn every_type_of_value_has_its_json_form() {
    let model = Model::new()
        .key("u8", 0, &[255])
        .key("i8", 1, &[255])
        .key("u16", 2, &[255, 255])
        .key("i16", 3, &[0, 128])
        .key("u32", 4, &u32::MAX.to_le_bytes())
        .key("i32", 5, &i32::MIN.to_le_bytes())
        .key("f32", 6, &0.1_f32.to_le_bytes())
        .key("bool", 7, &[0])
        .key("string", 8, &text(b"\0\n"))
        .key("u64", 10, &u64::MAX.to_le_bytes())
        .key("i64", 11, &i64::MIN.to_le_bytes())
        .key("f64", 12, &0.1_f64.to_le_bytes())
        .read()
        .unwrap();
    let expected = json_of(&[
        ("general.architecture", "\"llama\""),
        ("u8", "255"),
        ("i8", "-1"),
        ("u16", "65535"),
        ("i16", "-32768"),
        ("u32", "4294967295"),
        ("i32", "-2147483648"),
        ("f32", "0.1"),
        ("bool", "false"),
        ("string", r#""\u0000\n""#),
        ("u64", "18446744073709551615"),
        ("i64", "-9223372036854775808"),
        ("f64", "0.1"),
    ]);
    assert_eq!(model.metadata, expected);
}

#[test]
fn numbers_without_a_json_form_are_kept_as_text() {
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(f32::to_le_bytes).concat();
    let model = Model::new()
        .key("f32", ARRAY, &array(F32, 3, &values))
        .key("f64", F64, &f64::NEG_INFINITY.to_le_bytes())
        .read()
        .unwrap();
    assert_eq!(model.metadata["f32"].to_string(), r#"["NaN","inf","-inf"]"#);
    assert_eq!(model.metadata["f64"], "-inf");
}

#[test]
fn the_name_is_missing_or_blank() {
    assert_eq!(Model::new().read().unwrap().name, None);
    assert_eq!(Model::new().string("general.name", " \n").read().unwrap().name, None);
    assert_eq!(Model::new().key("general.name", U8, &[1]).read().unwrap().name, None);
}

#[test]
fn a_value_that_is_no_utf8_is_kept_with_replacements() {
    let model = Model::new().key("token", STRING, &text(b"a\xff\xfe\xe4\xb8z")).read().unwrap();
    assert_eq!(model.metadata["token"], "a\u{fffd}\u{fffd}\u{fffd}z");
}

#[test]
fn files_of_another_kind_are_named_so() {
    for bytes in [&b""[..], b"GGU", b"GGML\x03\0\0\0", b"this is no model\n", b"FUGG\0\0\0\x03"] {
        let error = refused(bytes);
        assert!(matches!(error, GgufError::Foreign), "{error}");
    }
}

#[test]
fn other_versions_and_byte_orders_are_told_apart() {
    let error = |version| refused(&header(version, 0, 0));
    assert!(matches!(error(1), GgufError::Outdated));
    for found in [0, 4, 0x0103_0000 + 1, u32::MAX] {
        assert!(matches!(error(found), GgufError::Version { found: same } if same == found));
    }
    for version in [1_u32, 2, 3, 256] {
        let error = error(version.swap_bytes());
        assert!(matches!(error, GgufError::BigEndian { version: same } if same == version), "{error}");
    }
}

#[test]
fn a_claim_of_countless_tensors_or_keys_is_refused_at_once() {
    for (what, tensors, keys) in [("tensors", 1_000_000_000_000, 1), ("metadata keys", 1, u64::MAX)] {
        let mut input = Sparse::new(header(3, tensors, keys), 100);
        let error = read(&mut input, 100).unwrap_err();
        assert!(matches!(error, GgufError::TooMany { what: same, .. } if same == what), "{error}");
    }
    let most = header(3, TENSORS_MAX, KEYS_MAX);
    let error = read(&mut Sparse::new(most, 100), 100).unwrap_err();
    let bytes = TENSORS_MAX * TENSOR_BYTES_MIN + KEYS_MAX * KEY_BYTES_MIN - 76;
    assert!(matches!(error, GgufError::Truncated { offset: 24, missing, .. } if missing == bytes), "{error}");
}

#[test]
fn a_claim_of_a_countless_array_is_refused_before_it_is_read() {
    for (kind, length) in [(STRING, 1_000_000_000_000), (U8, 1_000_000_000_000), (ARRAY, u64::MAX), (U64, 1 << 61)] {
        let bytes = Model::new().key("tokens", ARRAY, &array(kind, length, &[0; 64])).bytes();
        let error = refused(&bytes);
        assert!(matches!(error, GgufError::Truncated { missing, .. } if missing > 1 << 39), "{error}");
    }
}

#[test]
fn more_strings_than_can_be_walked_in_time_are_refused_even_if_the_file_has_room() {
    let half = WALKED_ITEMS_MAX / 2 + 1;
    let bytes = Model::new().key("tokens", ARRAY, &array(STRING, 1_000_000_000_000, &[])).header();
    let error = read(&mut Sparse::new(bytes, 1 << 50), 1 << 50).unwrap_err();
    assert!(matches!(error, GgufError::TooMany { claimed: 1_000_000_000_000, .. }), "{error}");
    // The bound holds for all arrays together.
    let inner = array(ARRAY, half, &[]);
    let bytes = Model::new().key("tokens", ARRAY, &array(ARRAY, half, &inner)).header();
    let error = read(&mut Sparse::new(bytes, 1 << 50), 1 << 50).unwrap_err();
    assert!(matches!(error, GgufError::TooMany { claimed, .. } if claimed == 2 * half), "{error}");
}

#[test]
fn a_claim_of_an_endless_string_is_refused_before_it_is_read() {
    let endless = [&1_000_000_000_000_u64.to_le_bytes()[..], b"abc"].concat();
    let error = Model::new().key("name", STRING, &endless).refused();
    assert!(matches!(error, GgufError::Truncated { missing: 999_999_999_997, .. }), "{error}");
    // Here the file has room for it.
    let model = Model::new().key("name", STRING, &endless);
    let mut input = Sparse::new(model.bytes(), 1 << 50);
    let error = read(&mut input, 1 << 50).unwrap_err();
    assert!(matches!(error, GgufError::MetadataTooLarge { .. }), "{error}");
    assert!(input.read < 100_000, "{} bytes were read", input.read);

    let mut bytes = header(3, 0, 1);
    bytes.extend(u64::MAX.to_le_bytes());
    bytes.extend([0; 64]);
    let error = refused(&bytes);
    assert!(matches!(error, GgufError::NameTooLong { bytes: u64::MAX, offset: 24, .. }), "{error}");
}

#[test]
fn names_may_be_as_long_as_the_bound_and_not_longer() {
    let key = |length: u64| Model::new().key(&"k".repeat(length as usize), U8, &[1]);
    assert!(key(NAME_BYTES_MAX).read().is_ok());
    let error = key(NAME_BYTES_MAX + 1).refused();
    assert!(matches!(error, GgufError::NameTooLong { bytes: 65_536, .. }), "{error}");
}

#[test]
fn names_that_are_no_utf8_are_refused() {
    let mut bytes = header(3, 0, 1);
    bytes.extend(text(b"\xff"));
    bytes.extend([0; 5]);
    let error = refused(&bytes);
    assert!(matches!(error, GgufError::NotUtf8 { offset: 24, .. }), "{error}");
}

#[test]
fn metadata_beyond_the_bound_is_refused_also_when_only_its_json_is_too_large() {
    let value = |byte: u8, length: u64| Model::new().key("blob", STRING, &text(&vec![byte; length as usize])).read();
    assert!(value(b'a', METADATA_BYTES_MAX - 4096).is_ok());
    // As JSON, a control character takes 6 bytes, a quote 2, and a byte that is no UTF-8 3.
    for (byte, factor) in [(b'a', 1), (1, 6), (b'"', 2), (0xff, 3)] {
        let error = value(byte, METADATA_BYTES_MAX / factor).unwrap_err();
        assert!(matches!(error, GgufError::MetadataTooLarge { .. }), "{byte}: {error}");
    }
    let short = array(U8, ARRAY_ITEMS_KEPT_MAX, &vec![0; ARRAY_ITEMS_KEPT_MAX as usize]);
    let many = array(ARRAY, 1000, &short.repeat(1000));
    let error = Model::new().key("matrix", ARRAY, &many).refused();
    assert!(matches!(error, GgufError::MetadataTooLarge { .. }), "{error}");
}

#[test]
fn long_vocabularies_are_summarised_and_still_counted() {
    let tokens: Vec<String> = (0..150_000).map(|number| format!("token {number}")).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let kept = ARRAY_ITEMS_KEPT_MAX as usize;
    let model = Model::new()
        .key("tokenizer.ggml.tokens", ARRAY, &strings(&tokens))
        .key("scores", ARRAY, &array(F32, 150_000, &vec![0; 600_000]))
        .key("pairs", ARRAY, &array(ARRAY, 1025, &strings(&["a", "b"]).repeat(1025)))
        .key("kept", ARRAY, &strings(&tokens[..kept]))
        .key("cut", ARRAY, &strings(&tokens[..=kept]))
        .key("after", U8, &[42])
        .read()
        .unwrap();
    let metadata = |key: &str| model.metadata[key].to_string();
    assert_eq!(model.vocabulary, Some(150_000));
    assert_eq!(metadata("tokenizer.ggml.tokens"), r#"{"array":"string","length":150000}"#);
    assert_eq!(metadata("scores"), r#"{"array":"float32","length":150000}"#);
    assert_eq!(metadata("pairs"), r#"{"array":"array","length":1025}"#);
    assert_eq!(model.metadata["kept"].as_array().unwrap().len(), kept);
    assert_eq!(metadata("cut"), r#"{"array":"string","length":1025}"#);
    assert_eq!(metadata("after"), "42");
}

#[test]
fn arrays_of_numbers_and_tensor_data_are_never_read() {
    let length: u64 = 1 << 40;
    let begin = Model::new().key("large", ARRAY, &array(F64, length, &[]));
    let begin = Model { tensors: vec![("t".to_owned(), vec![0], 0, 0, 0)], ..begin }.header();
    let tensor = begin.len() - (8 + 1 + 4 + 8 + 4 + 8);
    let size = begin.len() as u64 + length * 8 + 64;
    // The zeros after the array describe a tensor without name and dimensions, of four bytes.
    let mut input = Sparse::new(begin[..tensor].to_vec(), size);
    let model = read(&mut input, size).unwrap();
    assert_eq!(model.metadata["large"]["length"], length);
    assert_eq!((model.tensors, model.parameters), (1, 1));
    assert!(input.read < 100_000, "{} bytes were read", input.read);
}

#[test]
fn the_declared_vocabulary_comes_first() {
    let model = Model::new().key("tokenizer.ggml.tokens", ARRAY, &strings(&["a"]));
    assert_eq!(model.read().unwrap().vocabulary, Some(1));
    let model = model.key("llama.vocab_size", U32, &32_000_u32.to_le_bytes());
    assert_eq!(model.read().unwrap().vocabulary, Some(32_000));
    assert_eq!(Model::new().read().unwrap().vocabulary, None);
}

#[test]
fn duplicate_keys_are_refused() {
    let error = Model::new().key("twice", U8, &[1]).key("twice", U8, &[1]).refused();
    let offset = Model::new().key("twice", U8, &[1]).bytes().len() as u64;
    assert!(
        matches!(&error, GgufError::DuplicateKey { key, offset: same } if key == "twice" && *same == offset),
        "{error}"
    );
    assert!(matches!(Model::new().aligned(8).aligned(8).refused(), GgufError::DuplicateKey { .. }));
}

#[test]
fn models_without_an_architecture_are_refused() {
    let models = [
        Model::empty(),
        Model::empty().string("general.architecture", ""),
        Model::empty().string("general.architecture", " "),
        Model::empty().key("general.architecture", U8, &[1]),
        Model::empty().string("general.Architecture", "llama"),
    ];
    for model in models {
        let error = model.refused();
        assert!(matches!(error, GgufError::NoArchitecture), "{error}");
    }
}

#[test]
fn unknown_types_of_values_are_refused() {
    for (kind, value) in [(13, vec![]), (u32::MAX, vec![]), (ARRAY, array(13, 0, &[]))] {
        let error = Model::new().key("odd", kind, &value).refused();
        assert!(matches!(error, GgufError::ValueType { .. }), "{error}");
    }
}

#[test]
fn truth_values_other_than_0_and_1_are_refused() {
    let error = Model::new().key("truth", BOOL, &[2]).refused();
    assert!(matches!(error, GgufError::Bool { found: 2, .. }), "{error}");
}

#[test]
fn arrays_nest_as_deep_as_the_bound_and_no_deeper() {
    let levels = ARRAY_DEPTH_MAX as usize;
    let deepest = Model::new().key("deep", ARRAY, &nested(levels)).read().unwrap();
    assert_eq!(deepest.metadata["deep"].to_string(), "[[[[7]]]]");
    assert!(matches!(Model::new().key("deep", ARRAY, &nested(levels + 1)).refused(), GgufError::TooDeep { .. }));
    // Arrays that are skipped have the same bound.
    let skipped = |inner: usize| Model::new().key("deep", ARRAY, &array(ARRAY, 1025, &nested(inner).repeat(1025)));
    assert!(skipped(levels - 1).read().is_ok());
    for inner in [levels, 100] {
        assert!(matches!(skipped(inner).refused(), GgufError::TooDeep { .. }));
    }
}

#[test]
fn alignments_other_than_multiples_of_8_are_refused() {
    for found in [0, 4, 12, u32::MAX] {
        let error = Model::new().key("general.alignment", U32, &found.to_le_bytes()).refused();
        assert!(matches!(error, GgufError::Alignment { found: same, .. } if same == found), "{error}");
    }
    let error = Model::new().key("general.alignment", U64, &32_u64.to_le_bytes()).refused();
    assert!(matches!(error, GgufError::AlignmentType { found: "uint64", .. }), "{error}");
}

#[test]
fn the_alignment_of_the_file_decides_where_data_begins() {
    for alignment in [8, 24, 32, 4096] {
        let model = Model::new().aligned(alignment).tensor("t", &[3], 0, u64::from(alignment), 12);
        let bytes = model.bytes();
        assert_eq!(parse(&bytes).unwrap().parameters, 3, "{alignment}");
        let error = refused(&bytes[..bytes.len() - 1]);
        assert!(matches!(error, GgufError::Truncated { missing: 1, .. }), "{alignment}: {error}");
        let error = Model::new().aligned(alignment).tensor("t", &[3], 0, 4, 12).refused();
        assert!(matches!(error, GgufError::Misaligned { found: 4, .. }), "{alignment}: {error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_and_the_missing_bytes_are_counted() {
    for version in [2, 3] {
        let model = Model::sample(version);
        let (whole, header) = (model.bytes(), model.header().len());
        for cut in 0..whole.len() {
            let error = refused(&whole[..cut]);
            let missing_at_end = (whole.len() - cut) as u64;
            match &error {
                GgufError::Foreign => assert!(cut < 4, "{cut}: {error}"),
                GgufError::Truncated { missing, place, offset } => {
                    assert!(cut >= 4 && *missing > 0 && *missing <= missing_at_end, "{cut}: {error}");
                    if cut >= header {
                        assert_eq!(*missing, missing_at_end, "{cut}: {error}");
                        assert_eq!(place, "the tensor \"output_norm.weight\"");
                        assert_eq!(*offset, whole.len() as u64 - 20);
                    } else {
                        assert!(*offset <= cut as u64, "{cut}: {error}");
                    }
                }
                other => panic!("cut at {cut}: {other}"),
            }
        }
    }
}

#[test]
fn the_tensor_that_ends_last_decides_wherever_it_is_listed() {
    let model = Model::new().tensor("late", &[32], 8, 64, 34).tensor("early", &[1], 0, 0, 4);
    let bytes = model.bytes();
    assert!(parse(&bytes).is_ok());
    let error = refused(&bytes[..bytes.len() - 7]);
    let late = |place: &str| place == "the tensor \"late\"";
    assert!(matches!(&error, GgufError::Truncated { place, missing: 7, .. } if late(place)), "{error}");
}

#[test]
fn an_input_shorter_than_its_size_is_a_failure_to_read() {
    let model = Model::sample(3);
    let bytes = model.bytes();
    let header = model.header().len();
    // The tensor data is not looked at.
    assert!(read(&mut Bytes::new(&bytes[..header]), bytes.len() as u64).is_ok());
    for cut in 0..header {
        let error = read(&mut Bytes::new(&bytes[..cut]), bytes.len() as u64).unwrap_err();
        let offset_within = |offset: u64| offset <= cut as u64;
        assert!(matches!(error, GgufError::Read { offset, .. } if offset_within(offset)), "{cut}: {error}");
    }
}

#[test]
fn tensors_of_unknown_types_are_counted_though_their_size_is_not_known() {
    for kind in [4, 9, 42, 99, u32::MAX] {
        let model = Model::new().tensor("odd", &[7, 3], kind, 32, 0);
        let read = model.read().unwrap();
        assert_eq!((read.parameters, read.quantization), (21, None), "{kind}");
        // Where it begins is known all the same.
        let bytes = model.bytes();
        let error = refused(&bytes[..bytes.len() - 1]);
        assert!(matches!(error, GgufError::Truncated { missing: 1, .. }), "{kind}: {error}");
    }
}

#[test]
fn every_known_type_has_blocks_of_its_size() {
    for kind in 0..64 {
        let Some(known) = tensor_types::tensor_type(kind) else { continue };
        let (row, bytes) = (known.block * 3, known.block_bytes as usize * 6);
        let file = Model::new().tensor("t", &[row, 2], kind, 0, bytes).bytes();
        assert_eq!(parse(&file).unwrap().quantization.as_deref(), Some(known.name));
        let error = refused(&file[..file.len() - 1]);
        assert!(matches!(error, GgufError::Truncated { missing: 1, .. }), "{}: {error}", known.name);
        if known.block > 1 {
            let error = Model::new().tensor("t", &[row + 1, known.block], kind, 0, bytes * 1000).refused();
            assert!(matches!(error, GgufError::PartialBlock { .. }), "{}: {error}", known.name);
        }
    }
}

#[test]
fn the_quantization_is_declared_or_that_of_most_parameters() {
    let mixed = Model::new().tensor("many", &[256, 8], 12, 0, 1152).tensor("norm", &[64], 0, 1152, 256).tensor(
        "x",
        &[],
        0,
        0,
        4,
    );
    assert_eq!(mixed.read().unwrap().quantization.as_deref(), Some("Q4_K"));
    let declared = |number: u32| mixed.clone().key("general.file_type", U32, &number.to_le_bytes()).read().unwrap();
    for (number, name) in [(0, "F32"), (1, "F16"), (2, "Q4_0"), (7, "Q8_0"), (15, "Q4_K_M"), (32, "BF16")] {
        assert_eq!(declared(number).quantization.as_deref(), Some(name));
    }
    assert_eq!(declared(1024).quantization.as_deref(), Some("Q4_K"), "an unknown number says nothing");
    assert_eq!(Model::new().read().unwrap().quantization, None);
}

#[test]
fn tensors_with_more_than_four_dimensions_are_refused() {
    assert_eq!(Model::new().tensor("t", &[2, 2, 2, 2], 24, 0, 16).read().unwrap().parameters, 16);
    let error = Model::new().tensor("t", &[1; 5], 24, 0, 1).refused();
    assert!(matches!(error, GgufError::Dimensions { found: 5, .. }), "{error}");
}

#[test]
fn sizes_that_do_not_fit_into_64_bits_are_refused() {
    let models = [
        Model::new().tensor("product", &[1 << 32, 1 << 32], 24, 0, 0),
        Model::new().tensor("bytes", &[1 << 62], 0, 0, 0),
        Model::new().tensor("end", &[64], 24, u64::MAX - 31, 0),
        Model::new().tensor("a", &[u64::MAX], 99, 0, 0).tensor("sum", &[1], 99, 0, 0),
    ];
    for model in models {
        // Only the description: such data does not exist.
        let error = refused(&model.header());
        assert!(matches!(error, GgufError::Overflow { .. }), "{error}");
    }
    let error = refused(&Model::new().tensor("placed", &[0], 0, u64::MAX - 31, 0).header());
    assert!(matches!(error, GgufError::Overflow { .. }), "{error}");
}

#[test]
fn errors_repeat_names_shortened_and_escaped() {
    let name = format!("\u{1b}[2J{}", "x".repeat(1000));
    let message = Model::new().key(&name, 13, &[]).refused().to_string();
    assert!(message.starts_with("the value of \"\\u{1b}[2Jxxx") && message.len() < 200, "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is broken, the answer comes and keeps to the bounds.
    #[test]
    fn flipped_bytes_neither_panic_nor_exceed_the_bounds(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        longer in 0_u64..1 << 50,
    ) {
        let mut bytes = Model::sample(3).bytes();
        for (place, byte) in flips {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        for size in [bytes.len() as u64, longer] {
            let mut input = Sparse::new(bytes.clone(), size);
            match read(&mut input, size) {
                Ok(model) => prop_assert!(model.metadata.to_string().len() as u64 <= METADATA_BYTES_MAX),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn random_bytes_after_the_counts_neither_panic_nor_take_long(
        tensors in 0_u64..8,
        keys in 0_u64..8,
        rest in prop::collection::vec(prop_oneof![3 => 0_u8..14, 1 => any::<u8>()], 0..600),
    ) {
        let mut bytes = header(3, tensors, keys);
        bytes.extend(rest);
        if let Ok(model) = parse(&bytes) {
            prop_assert_eq!(model.tensors, tensors);
        }
    }

    /// What is written is what is read.
    #[test]
    fn floats_keep_their_value(bits in any::<u32>()) {
        let value = f32::from_bits(bits);
        let model = Model::new().key("f", F32, &value.to_le_bytes()).read().unwrap();
        match model.metadata["f"].as_f64() {
            Some(read) => prop_assert_eq!((read as f32).to_bits(), bits),
            None => prop_assert_eq!(model.metadata["f"].as_str().unwrap(), value.to_string()),
        }
    }
}
