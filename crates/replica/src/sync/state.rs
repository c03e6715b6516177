//! What is remembered of a remote, beside the file's own rows.

use std::collections::{BTreeMap, BTreeSet};

use isle_clock::{GroupId, VersionVector};
use isle_identity::{KeyId, OpId};
use isle_store::RemoteRow;
use serde::{Deserialize, Serialize};

/// What is remembered of a remote between syncs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RemoteState {
    pub(super) group: Option<GroupId>,
    pub(crate) last_sync_ms: Option<u64>,
    /// Why the last sync failed, if it did, and when.
    #[serde(default)]
    pub(crate) last_error: Option<(String, u64)>,
    /// Schema operations that are known to stand there.
    pub(super) schema: Vec<String>,
    /// What all heads held to be applied by everyone, and since when they did.
    #[serde(default)]
    pub(super) floor: Option<(VersionVector, u64)>,
    /// When this replica put its head last.
    #[serde(default)]
    pub(super) head_put_ms: u64,
    /// What a bucket with versioning calls that object.
    #[serde(default)]
    pub(crate) head_version_id: Option<String>,
    /// The head there was put before this replica had caught up: it is as good as none.
    #[serde(default)]
    pub(super) held_back: bool,
    /// Snapshots that were taken in or found unfit: none is fetched twice.
    #[serde(default)]
    pub(super) snapshots: Vec<String>,
    /// The key that the group's object names.
    #[serde(default)]
    pub(super) base: Option<KeyId>,
    /// The key with which the own head was encrypted last.
    #[serde(default)]
    pub(super) sealed_with: Option<KeyId>,
    /// Keys made here that this remote was told of.
    #[serde(default)]
    pub(super) announced: Vec<KeyId>,
    /// By site: the key with which its head was encrypted when it was read last.
    #[serde(default)]
    pub(super) sealed: BTreeMap<String, KeyId>,
    /// Devices that were given a key of others'.
    #[serde(default)]
    pub(super) helped: BTreeSet<String>,
    /// Membership operations that are known to stand there.
    #[serde(default)]
    pub(super) members: Vec<OpId>,
    /// The last number of an own head.
    #[serde(default)]
    pub(super) sequence: u64,
    /// By site: the number of its head that went back.
    #[serde(default)]
    pub(super) stale: BTreeMap<String, u64>,
}

impl RemoteState {
    pub(crate) fn read(row: &RemoteRow) -> RemoteState {
        // A state that cannot be read is one that was never written: everything is looked at again.
        row.state.as_deref().and_then(|state| serde_json::from_str(state).ok()).unwrap_or_default()
    }

    /// Forgets what was true of a file that is an older one now, in that file: which snapshots it had taken in, above all.
    pub(crate) fn forget_in(restored: &isle_store::Store) -> Result<(), isle_store::StoreError> {
        for row in restored.remotes()?.into_iter().filter(|row| row.state.is_some()) {
            let state = RemoteState {
                floor: None,
                head_put_ms: 0,
                held_back: false,
                snapshots: Vec::new(),
                ..RemoteState::read(&row)
            };
            let state = Some(serde_json::to_string(&state).unwrap_or_default());
            restored.put_remote(&RemoteRow { state, ..row })?;
        }
        Ok(())
    }
}
