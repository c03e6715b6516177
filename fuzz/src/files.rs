//! What rows and files of a library may hold: GGUF models, lists of chunks, paths and kinds.
//!
//! Input: form, then a model behind its magic and version (0), the same as it is (1), a list of chunks with the size of its file before it (2), a path (3),
//! or a kind as JSON (4).

use std::io::Cursor;

use isle_files::{ChunkRef, Kind, Kinds, LogicalPath, NamingRules, conflict_name, gguf};

use crate::script::Script;
use crate::{Seed, memory};

/// What reading takes whatever comes: a buffer, and the JSON of what is kept.
const fn bound(bytes: usize) -> usize {
    (256 << 10) + 96 * bytes
}

/// The target.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    match script.byte() % 5 {
        0 => model(&[b"GGUF\x03\0\0\0", script.rest()].concat()),
        1 => model(script.rest()),
        2 => chunks(&mut script),
        3 => path(&String::from_utf8_lossy(script.rest())),
        _ => kind(&String::from_utf8_lossy(script.rest())),
    }
}

fn model(bytes: &[u8]) {
    let read = || gguf::read(&mut Cursor::new(bytes), bytes.len() as u64);
    if let Ok(model) = memory::bounded("reading a model", bound(bytes.len()), read) {
        assert!(!model.architecture.is_empty() && model.metadata.is_object());
        assert!(serde_json::to_string(&model.metadata).is_ok());
        // One byte less is no whole model: the last tensor ends with the file, or there is padding behind it.
        let cut = &bytes[..bytes.len() - 1];
        let less = gguf::read(&mut Cursor::new(cut), cut.len() as u64);
        assert!(less.is_err() || less.is_ok_and(|less| less.tensors == model.tensors));
    }
}

fn chunks(script: &mut Script<'_>) {
    let (content, bytes) = (script.array(), u64::from_be_bytes(script.array()));
    let list = script.rest();
    let list = (!list.is_empty()).then_some(list);
    let read = || ChunkRef::decode(list, content, bytes);
    let Ok(pieces) = memory::bounded("reading a list of chunks", bound(list.map_or(0, <[u8]>::len)), read) else {
        return;
    };
    assert_eq!(pieces.iter().map(|piece| u64::from(piece.bytes)).sum::<u64>(), bytes);
    if let Some(encoded) = ChunkRef::encode(&pieces, bytes) {
        assert_eq!(Some(encoded.as_slice()), list);
    }
}

fn path(text: &str) {
    let Ok(path) = LogicalPath::parse(text) else { return };
    let parts: Vec<&str> = path.as_str().split('/').collect();
    assert!(parts.len() > 1 && parts.iter().all(|part| !matches!(*part, "" | "." | "..")) && !text.contains('\0'));
    assert_eq!(format!("{}/{}", path.root(), path.relative()), text);
    let beside = conflict_name(path.relative(), "0123456789abcdef");
    assert!(LogicalPath::of(path.root(), &beside).is_ok() || text.len() > 4000, "{beside}");
    if path.stands_under(NamingRules::Windows).is_ok() {
        assert!(!text.contains(['\\', ':']));
    }
}

fn kind(text: &str) {
    let Ok(kind) = serde_json::from_str::<Kind>(text) else { return };
    let bounded = kind.patterns.len() < 50 && kind.patterns.iter().all(|pattern| pattern.len() < 200);
    if let Ok(kinds) = Kinds::new(vec![kind.clone()])
        && bounded
    {
        assert_eq!(kinds.get(&kind.name), Some(&kind));
        // Whatever it says of a path, it says.
        let _ = kinds.of("a/b.txt");
    }
}

/// Small inputs.
pub fn seeds() -> Vec<Seed> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut model = Vec::new();
    model.extend(1_u64.to_le_bytes());
    model.extend(1_u64.to_le_bytes());
    model.extend([text("general.architecture"), 8_u32.to_le_bytes().to_vec(), text("llama")].concat());
    model.extend([text("w"), 1_u32.to_le_bytes().to_vec(), 8_u64.to_le_bytes().to_vec()].concat());
    model.extend([0_u32.to_le_bytes().to_vec(), 0_u64.to_le_bytes().to_vec()].concat());
    // Behind magic and version, the data begins at a multiple of 32 of the whole.
    model.resize((model.len() + 8).next_multiple_of(32) - 8 + 32, 0);
    let list = [[7; 32].as_slice(), &2_000_000_u32.to_be_bytes()].concat();
    let size = 2_000_000_u64.to_be_bytes();
    let kind =
        r#"{"name":"rom","patterns":["*.{nes,sfc}"],"validator":"any","identity":"content","destination":"roms"}"#;
    vec![
        ("model", [&[0], model.as_slice()].concat()),
        ("whole-model", [&[1], b"GGUF\x02\0\0\0".as_slice(), &model].concat()),
        ("chunks", [&[2], [1; 32].as_slice(), &size, &list].concat()),
        ("path", [&[3], b"models/llama/7b.gguf".as_slice()].concat()),
        ("kind", [&[4], kind.as_bytes()].concat()),
    ]
}
