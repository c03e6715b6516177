//! Two devices of an app, and the two ways between them.

#![allow(dead_code, reason = "not every app needs all of it")]

use std::path::{Path, PathBuf};

use isle::{InviteOptions, Live, LiveOptions, Replica};
use tempfile::TempDir;

/// How two devices sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Bucket,
    Direct,
}

/// Two devices, each with a folder of its own.
pub(crate) struct Pair<T> {
    pub(crate) a: T,
    pub(crate) b: T,
    way: Way,
    live: Option<Live>,
    replicas: [Replica; 2],
    pub(crate) folder: TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
}

/// The folder of a device, and what tells it apart.
pub(crate) fn places(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let own = folder.join(name);
    std::fs::create_dir_all(&own).unwrap();
    (own.clone(), own.join("home"))
}

impl<T> Pair<T> {
    /// The first device has what `fill` makes; the second one joins with an empty file.
    pub(crate) fn new(
        way: Way,
        open: impl Fn(&Path, Option<&Path>) -> Result<T, isle::Error>,
        replica: impl Fn(&T) -> Replica,
        fill: impl FnOnce(&T),
    ) -> Pair<T> {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let device = |name: &str| {
            let (own, home) = places(folder.path(), name);
            (open(&own.join("app.db"), Some(&home)).unwrap(), home)
        };
        let ((a, _), (b, home_b)) = (device("a"), device("b"));
        fill(&a);
        let replicas = [replica(&a), replica(&b)];
        let live = match way {
            Way::Bucket => {
                let bucket = folder.path().join("bucket");
                for replica in &replicas {
                    replica.add_remote("home", bucket.to_str().unwrap()).unwrap();
                }
                runtime.block_on(replicas[0].sync()).unwrap();
                isle::import_keys(Some(home_b), &replicas[0].export_keys().unwrap()).unwrap();
                None
            }
            Way::Direct => {
                let options = LiveOptions { listen: Some("127.0.0.1:0".parse().unwrap()), ..LiveOptions::default() };
                let live = runtime.block_on(replicas[0].go_live(&options)).unwrap();
                let options = InviteOptions { addresses: live.addresses().to_vec(), ..InviteOptions::default() };
                let ticket = replicas[0].invite(&options).unwrap();
                runtime.block_on(replicas[1].join(&ticket)).unwrap();
                Some(live)
            }
        };
        let pair = Pair { a, b, way, live, replicas, folder, runtime };
        pair.sync();
        pair
    }

    /// Both have what the other one has.
    pub(crate) fn sync(&self) {
        match self.way {
            Way::Bucket => {
                for n in [0, 1, 0] {
                    self.runtime.block_on(self.replicas[n].sync()).unwrap();
                }
            }
            Way::Direct => {
                let outcomes = self.runtime.block_on(self.replicas[1].sync_peers()).unwrap();
                outcomes.into_iter().for_each(|outcome| drop(outcome.result.unwrap()));
            }
        }
        let [a, b] = &self.replicas;
        assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap(), "{:?}", self.way);
        assert!(a.check().unwrap().findings.is_empty() && b.check().unwrap().findings.is_empty());
    }
}

impl<T> Drop for Pair<T> {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            let _ = self.runtime.block_on(live.stop());
        }
    }
}
