//! Writes the seeds of all targets into a folder, one folder each: `scripts/fuzz seeds`.

use std::fs;
use std::path::PathBuf;

use isle_fuzz::{Seed, changeset, files, frames, membership, pairing, remote, schema, session, ticket};
// What the instrumentation of the crates calls.
use libfuzzer_sys as _;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("fuzz/seeds"), PathBuf::from);
    let targets: [(&str, Vec<Seed>); 9] = [
        ("frames", frames::seeds()),
        ("session", session::seeds()),
        ("pairing", pairing::seeds()),
        ("ticket", ticket::seeds()),
        ("membership", membership::seeds()),
        ("changeset", changeset::seeds()),
        ("remote", remote::seeds()),
        ("schema", schema::seeds()),
        ("files", files::seeds()),
    ];
    for (target, seeds) in targets {
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
