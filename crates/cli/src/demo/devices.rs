//! A device of the demo: a database file, and a home folder that tells it from the others.

use std::path::{Path, PathBuf};

use isle::{Conflict, Replica, SyncReport};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::commands::{Names, conflicts};
use crate::failure::{Failure, Kind};
use crate::values;

/// The folder that the devices sync through, beside them.
const SHARED: &str = "shared";

pub(crate) struct Device {
    pub(crate) name: &'static str,
    pub(crate) db: PathBuf,
    pub(crate) replica: Replica,
}

/// What went through the folder, in all.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Traffic {
    pub(crate) syncs: u64,
    pub(crate) requests: u64,
    pub(crate) uploaded_bytes: u64,
    pub(crate) downloaded_bytes: u64,
}

/// What a device holds in the end.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct State {
    pub(crate) name: &'static str,
    pub(crate) db: String,
    pub(crate) home: String,
    pub(crate) merged: String,
    pub(crate) visible: String,
    pub(crate) rows: u64,
}

impl Device {
    /// Makes an empty replica, on a device that was given these keys.
    pub(crate) fn make(folder: &Path, name: &'static str, keys: Option<&str>) -> anyhow::Result<Device> {
        if let Some(keys) = keys {
            isle::import_keys(Some(home(folder, name)), keys)?;
        }
        let db = folder.join(format!("{name}.db"));
        let replica = Replica::builder(&db).app("music").home(home(folder, name)).init()?;
        replica.rename_device(name)?;
        let shared = folder.join(SHARED);
        let url = shared.to_str().ok_or_else(|| {
            Failure::new(Kind::Invalid, "the folder's path must be UTF-8").hint("name another one with --dir")
        })?;
        replica.add_remote(SHARED, url)?;
        Ok(Device { name, db, replica })
    }

    /// Tracks every table; gives how many.
    pub(crate) fn adopt(&self) -> anyhow::Result<usize> {
        let (tracked, refused) = self.replica.track_all()?;
        match refused.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(tracked.len()),
        }
    }

    pub(crate) fn sync(&self, runtime: &Runtime, traffic: &mut Traffic) -> anyhow::Result<SyncReport> {
        let report = runtime.block_on(self.replica.sync())?.into_iter().next().unwrap_or_default();
        traffic.syncs += 1;
        traffic.requests += report.requests;
        traffic.uploaded_bytes += report.uploaded_bytes;
        traffic.downloaded_bytes += report.downloaded_bytes;
        if let Some(reason) = report.refused.first() {
            return Err(Failure::new(Kind::Failed, format!("{}: {reason}", self.name)).into());
        }
        Ok(report)
    }

    pub(crate) fn state(&self) -> anyhow::Result<State> {
        let hash = self.replica.state_hash()?;
        let folder = self.db.parent().unwrap_or(Path::new("."));
        Ok(State {
            name: self.name,
            db: self.db.to_string_lossy().into_owned(),
            home: home(folder, self.name).to_string_lossy().into_owned(),
            merged: values::hex(&hash.merged),
            visible: values::hex(&hash.visible),
            rows: hash.rows,
        })
    }
}

fn home(folder: &Path, name: &str) -> PathBuf {
    folder.join("homes").join(name)
}

/// What lost, on all devices, each value once.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Lost {
    /// Whose journal has it.
    pub(crate) journal: &'static str,
    pub(crate) id: i64,
    pub(crate) sentence: String,
    pub(crate) conflict: serde_json::Value,
}

/// Reads the journals.
pub(crate) fn journal(devices: &[Device]) -> anyhow::Result<Vec<Lost>> {
    let mut lost: Vec<Lost> = Vec::new();
    for device in devices {
        let names = Names::new(&device.replica.status()?);
        let mut entries: Vec<Conflict> = device.replica.conflicts(false, 100)?;
        entries.sort_by_key(|conflict| conflict.id);
        for conflict in entries {
            let sentence = conflicts::sentence(&conflict, &names);
            if !lost.iter().any(|known| known.sentence == sentence) {
                let (id, conflict) = (conflict.id, conflicts::to_json(&conflict, &names));
                lost.push(Lost { journal: device.name, id, sentence, conflict });
            }
        }
    }
    Ok(lost)
}
