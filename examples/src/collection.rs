//! The collection of software: what there is goes everywhere, files come when somebody opens them. Syncing is by hand, in one direction or both, and each is
//! logged.

use std::path::{Path, PathBuf};

use isle::{
    Availability, BackedUp, CheckReport, Direction, Error, FileFilter, FileInfo, Library, MoveOptions, Prefer, Replica,
    SyncOptions, SyncReport, params,
};
use serde::Deserialize;

const MIGRATIONS: &[(&str, &str)] = &[
    ("1.0.0__start.sql", include_str!("../../migrations/collection/1.0.0__start.sql")),
    ("1.1.0__devices.sql", include_str!("../../migrations/collection/1.1.0__devices.sql")),
];

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LogEntry {
    /// 0 for a pull, 1 for a push.
    pub sync_type: i64,
    /// The device.
    pub device_id: String,
    /// The last version in the bucket before.
    pub cloud_version: Option<String>,
    /// This device's last version.
    pub local_version: Option<String>,
    /// Whether values lost.
    pub conflict_detected: bool,
    /// 0 if there was none, 1 if the cloud's values stand, 2 if this device's do, 3 if they are for somebody to look at.
    pub conflict_resolution: Option<i64>,
    /// In words.
    pub message: String,
}

/// The collection.
#[derive(Debug, Clone)]
pub struct Collection {
    replica: Replica,
}

impl Collection {
    /// Opens the collection's file. One of the time before isle is taken over with its rows.
    ///
    /// # Errors
    /// As [`Replica::sync_schema`].
    pub fn open(path: &Path, home: Option<&Path>) -> Result<Collection, Error> {
        Ok(Collection { replica: crate::open(path, home, "collection", MIGRATIONS)? })
    }

    /// What lies below.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The library of files below.
    pub fn library(&self) -> Library {
        self.replica.library()
    }

    /// Adds a release of a title on a system.
    ///
    /// # Errors
    /// What a constraint has against it.
    pub fn add_release(&self, id: &str, name: &str, title: (&str, &str), system: (&str, &str)) -> Result<(), Error> {
        self.replica.write(|tx| {
            tx.execute(
                "INSERT INTO system(id, name) VALUES(?1, ?2) ON CONFLICT DO NOTHING",
                params![system.0, system.1],
            )?;
            tx.execute(
                "INSERT INTO software_title(id, name) VALUES(?1, ?2) ON CONFLICT DO NOTHING",
                params![title.0, title.1],
            )?;
            tx.execute("INSERT INTO release(id, name) VALUES(?1, ?2)", params![id, name])?;
            tx.execute("INSERT INTO release_software_title VALUES(?1, ?2)", params![id, title.0])?;
            tx.execute("INSERT INTO release_system VALUES(?1, ?2)", params![id, system.0])
        })?;
        Ok(())
    }

    /// Makes a set of files of a release of what lies in the library.
    ///
    /// # Errors
    /// What a constraint has against it; [`isle::LibraryError::NoSuchFile`].
    pub fn add_file_set(
        &self,
        id: &str,
        release: &str,
        file_type: &str,
        name: &str,
        files: &[&str],
    ) -> Result<(), Error> {
        let found = files.iter().map(|wanted| self.library().file(wanted)).collect::<Result<Vec<FileInfo>, Error>>()?;
        let member =
            "INSERT INTO file_set_file_info(file_set_id, file_sha1, file_name, sort_order) VALUES(?1, ?2, ?3, ?4)";
        self.replica.write(|tx| {
            tx.execute(
                "INSERT INTO file_set(id, release_id, file_type, name) VALUES(?1, ?2, ?3, ?4)",
                params![id, release, file_type, name],
            )?;
            for (n, file) in found.iter().enumerate() {
                let info =
                    "INSERT INTO file_info(sha1, file_size, archive_name) VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING";
                tx.execute(info, params![&file.content, file.bytes as i64, &file.path])?;
                let file_name = file.path.rsplit('/').next().unwrap_or(&file.path);
                tx.execute(member, params![id, &file.content, file_name, n as i64])?;
            }
            Ok(())
        })
    }

    /// The releases, by name.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn releases(&self) -> Result<Vec<String>, Error> {
        self.replica.read(|q| q.all("SELECT name FROM release ORDER BY name, id", &[]))
    }

    /// The files of a set, and where each is.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn file_set(&self, id: &str) -> Result<Vec<(String, Availability)>, Error> {
        let all = self.library().files(&FileFilter::default())?;
        let sql = "SELECT file_name, file_sha1 FROM file_set_file_info WHERE file_set_id = ?1 ORDER BY sort_order";
        let members: Vec<(String, String)> = self.replica.read(|q| q.all(sql, params![id]))?;
        let of = |content: &str| {
            all.iter().find(|file| file.content == content).map_or(Availability::NotAvailable, |file| file.availability)
        };
        Ok(members.into_iter().map(|(name, content)| (name, of(&content))).collect())
    }

    /// Opens the files of a set: those that are not here are fetched.
    ///
    /// # Errors
    /// As [`Library::open`].
    pub async fn open_file_set(&self, id: &str) -> Result<Vec<PathBuf>, Error> {
        let sql = "SELECT archive_name FROM file_set_file_info JOIN file_info ON sha1 = file_sha1 WHERE file_set_id = ?1 ORDER BY sort_order";
        let wanted: Vec<String> = self.replica.read(|q| q.all(sql, params![id]))?;
        let mut opened = Vec::with_capacity(wanted.len());
        for path in wanted {
            opened.push(self.library().open(&path, true, &MoveOptions::default()).await?);
        }
        Ok(opened)
    }

    /// How this device and its remotes compare; changes nothing.
    ///
    /// # Errors
    /// As [`Replica::check_remotes`].
    pub async fn check(&self) -> Result<Vec<CheckReport>, Error> {
        self.replica.check_remotes(&SyncOptions::default()).await
    }

    /// Takes in what others have pushed, and looks which files are there; whose values stand where both wrote is the caller's to say.
    ///
    /// # Errors
    /// As [`Replica::sync_with`].
    pub async fn pull(&self, prefer: Prefer) -> Result<SyncReport, Error> {
        let report = self.sync(Direction::Pull, prefer).await?;
        if self.library().exists()? {
            self.library().refresh(&MoveOptions::default()).await?;
        }
        Ok(report)
    }

    /// Makes a backup, and publishes what is here, files among it.
    ///
    /// # Errors
    /// As [`Replica::back_up`], [`Replica::sync_with`] and [`Library::push`].
    pub async fn push(&self) -> Result<SyncReport, Error> {
        if let BackedUp::Done(backup) = self.replica.back_up_before("push")? {
            backup.verify()?;
        }
        let report = self.sync(Direction::Push, Prefer::Merge).await?;
        if self.library().exists()? {
            self.library().push(&MoveOptions::default()).await?;
        }
        Ok(report)
    }

    async fn sync(&self, direction: Direction, prefer: Prefer) -> Result<SyncReport, Error> {
        let result = self.replica.sync_with(&SyncOptions { direction, prefer, ..SyncOptions::default() }).await;
        let (sync_type, device) = (i64::from(direction == Direction::Push), self.replica.device()?);
        let told = match &result {
            Ok(reports) => reports.first().cloned().unwrap_or_default(),
            Err(_) => SyncReport::default(),
        };
        let message = match &result {
            Ok(_) => format!("{} in, {} out", told.pulled_versions, told.pushed_versions),
            Err(error) => error.to_string(),
        };
        let resolution = match (told.conflict_detected, prefer) {
            (false, _) => 0,
            (true, Prefer::Remote) => 1,
            (true, Prefer::Local) => 2,
            (true, Prefer::Merge) => 3,
        };
        let log = "INSERT INTO database_sync_log(sync_type, device_id, cloud_version, local_version, conflict_detected, conflict_resolution, message)
            VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let seen = "INSERT INTO device(id, name, created_at, last_seen) VALUES(?1, ?2, datetime('now'), datetime('now')) ON CONFLICT(id) DO NOTHING";
        self.replica.write(|tx| {
            let id = device.id.to_string();
            tx.execute(seen, params![&id, &device.name])?;
            let versions = (told.remote_version.to_string(), told.local_version.to_string());
            tx.execute(
                log,
                params![
                    sync_type,
                    &id,
                    &versions.0,
                    &versions.1,
                    i64::from(told.conflict_detected),
                    resolution,
                    &message
                ],
            )
        })?;
        result.map(|_| told)
    }

    /// What was synced on this device, newest first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn sync_log(&self) -> Result<Vec<LogEntry>, Error> {
        let sql =
            "SELECT sync_type, device_id, cloud_version, local_version, conflict_detected, conflict_resolution, message
            FROM database_sync_log ORDER BY id DESC";
        self.replica.read(|q| q.all(sql, &[]))
    }
}
