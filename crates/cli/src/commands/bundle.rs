//! Changes that somebody carries: on a memory stick, by mail.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use isle::Have;
use serde_json::json;

use super::Names;
use super::sync::{details, summary};
use crate::args::{Args, BundleAction};
use crate::failure::{Failure, Kind};
use crate::output::{Out, bytes};
use crate::{db, spinner};

/// More is no bundle, and no list of what a replica has.
const FILE_BYTES_MAX: u64 = 1 << 30;

pub(crate) fn run(args: &Args, action: &BundleAction, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let mark = out.style.green("✓").to_string();
    match action {
        BundleAction::Have { file } => {
            let have = replica.have()?.to_string();
            match file {
                Some(file) => {
                    std::fs::write(file, format!("{have}\n"))
                        .with_context(|| format!("cannot write {}", file.display()))?;
                    if !out.json(&json!({ "file": file }))? {
                        out.note(format!("{mark} wrote {}: take it to the device that has the news", file.display()))?;
                    }
                }
                None => out.line(have)?,
            }
        }
        BundleAction::Export { file, have } => {
            let have = match have {
                Some(path) => {
                    String::from_utf8_lossy(&read(path)?).trim().parse::<Have>().map_err(isle::Error::from)?
                }
                None => Have::default(),
            };
            let bundle = spinner::beside("gathering changes", || replica.export_bundle(&have, usize::MAX))?;
            let size = bundle.as_ref().map(|bundle| bundle.len() as u64);
            if let Some(bundle) = &bundle {
                write_new(file, bundle)?;
            }
            if !out.json(&json!({ "file": size.map(|_| file), "bytes": size }))? {
                match size {
                    Some(size) => out.note(format!(
                        "{mark} wrote {} ({}): `isle bundle apply` on the other device takes it in",
                        file.display(),
                        bytes(size)
                    ))?,
                    None => out.note("the other one has all that is here: nothing was written")?,
                }
            }
        }
        BundleAction::Apply { file } => {
            let bundle = read(file)?;
            let report = spinner::beside("merging", || replica.apply_bundle(&bundle))?;
            if !out.json(&report)? {
                out.note(format!("{mark} {}", summary(&report)))?;
                for line in details(&report, &Names::new(&replica.status()?)) {
                    out.note(format!("  {line}"))?;
                }
            }
        }
    }
    Ok(0)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut content));
    match read {
        Ok(_) => Ok(content),
        Err(error) => Err(Failure::new(Kind::Invalid, format!("cannot read {}: {error}", path.display())).into()),
    }
}

/// Writes a file that is not there yet; half of one does not stay.
fn write_new(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut file = match File::create_new(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let message = format!("{} is there already: give another name", path.display());
            return Err(Failure::new(Kind::Invalid, message).into());
        }
        other => other.with_context(|| format!("cannot write {}", path.display()))?,
    };
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = std::fs::remove_file(path);
        anyhow::Error::new(error).context(format!("cannot write {}", path.display()))
    })
}
