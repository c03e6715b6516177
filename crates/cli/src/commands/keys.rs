//! The keys of the group.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use isle::{GroupId, KeyInfo};
use serde_json::json;

use crate::args::{Args, KeyAction};
use crate::db;
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, count};

/// More is no key file.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub(crate) fn run(args: &Args, action: Option<&KeyAction>, out: &mut Out) -> anyhow::Result<u8> {
    let mark = out.style.green("✓").to_string();
    match action {
        None => {
            let replica = db::open(args)?;
            list(replica.status()?.group, &replica.keys()?, out)?;
        }
        Some(KeyAction::Create) => {
            let id = db::open(args)?.create_key()?;
            if !out.json(&json!({ "id": id.to_string() }))? {
                out.note(format!("{mark} made key {id}; keep a copy of it: `isle key export FILE`"))?;
            }
        }
        Some(KeyAction::Export { file: None }) => {
            let keys = db::open(args)?.export_keys()?;
            if !out.json(&json!({ "keys": keys }))? {
                out.line(keys)?;
            }
        }
        Some(KeyAction::Export { file: Some(file) }) => {
            let replica = db::open(args)?;
            let group = replica.status()?.group;
            let head = format!(
                "# isle: keys of group {group}. Whoever has this file can read what is in the group's remotes.\n"
            );
            write_private(file, &(head + &replica.export_keys()? + "\n"))?;
            if !out.json(&json!({ "file": file.to_string_lossy() }))? {
                let path = file.display();
                out.note(format!(
                    "{mark} wrote {path}: take it to your other devices, and keep it from everybody else"
                ))?;
            }
        }
        Some(KeyAction::Import { file }) => {
            let (group, new) = isle::import_keys(None, &read(file)?)?;
            if !out.json(&json!({ "group": group.to_string(), "new": new }))? {
                let new = count(new as u64, "new key");
                out.note(format!("{mark} took over {new} of group {}", group.short()))?;
                note_other_group(args, group, out)?;
            }
        }
        Some(KeyAction::Rotate) => {
            let id = db::open(args)?.rotate_key()?;
            if !out.json(&json!({ "id": id.to_string() }))? {
                out.note(format!("{mark} made key {id}; `isle sync` tells the other devices"))?;
            }
        }
    }
    Ok(0)
}

fn list(group: GroupId, keys: &[KeyInfo], out: &mut Out) -> anyhow::Result<()> {
    if out.json(&keys)? {
        return Ok(());
    }
    if keys.is_empty() {
        return out.note(
            "this device has no key of the group yet: the first sync with a new remote makes one, `isle key import FILE` takes over that of another device",
        );
    }
    out.note(format!("group {}", group.short()))?;
    let row = |key: &KeyInfo| {
        let state = if key.current { Cell::text("encrypts") } else { Cell::dim("reads what is older") };
        vec![Cell::text(key.id.to_string()), Cell::text(key.epoch.to_string()), state]
    };
    out.table(&["KEY", "EPOCH", ""], keys.iter().map(row).collect())
}

/// A key of another group than the file's is of use only once the file joins that one.
fn note_other_group(args: &Args, group: GroupId, out: &mut Out) -> anyhow::Result<()> {
    let Ok(status) = db::open(args).and_then(|replica| Ok(replica.status()?)) else { return Ok(()) };
    if status.group == group {
        return Ok(());
    }
    let file = status.path.display();
    if status.published > 0 {
        return out.note(format!("  {file} belongs to group {}: these keys are of no use to it", status.group.short()));
    }
    out.note(format!("  {file} has not synced yet: it uses them once it joins that group, with its first sync"))
}

/// Writes a file that nobody else can read, and that is not there yet.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let message = format!("{} is there already: give another name", path.display());
            Err(Failure::new(Kind::Invalid, message).into())
        }
        other => other.with_context(|| format!("cannot write {}", path.display())),
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(FILE_BYTES_MAX).read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
    };
    match read {
        // What is no text is no key file either, and is told so.
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            Err(Failure::new(Kind::Invalid, message).into())
        }
    }
}
