//! What is asked for of backups.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};

use super::span;

/// What to do with backups.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupAction {
    /// Copy the database, as it is now
    #[command(
        after_help = "Examples:\n  isle backup create --comment 'before the move'\n  isle backup create --remote cloud"
    )]
    Create {
        /// Put it into this remote as well
        #[arg(long, value_name = "REMOTE")]
        remote: Option<String>,
        /// What to say of it in the list
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
        #[command(flatten)]
        place: BackupPlace,
    },
    /// The backups of this database, newest first
    #[command(
        after_help = "Examples:\n  isle backup list --all --folder /mnt/disk/backups\n  isle backup list --remote cloud"
    )]
    List {
        /// Those that stand in a remote, of all devices
        #[arg(long, value_name = "REMOTE", conflicts_with = "all")]
        remote: Option<String>,
        /// Those of other databases too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        place: BackupPlace,
    },
    /// Read backups from end to end: is each what was written, and sound?
    #[command(
        after_help = "Exits with 1 if one is damaged.\n\nExamples:\n  isle backup verify\n  isle backup verify 3f2a"
    )]
    Verify {
        /// One backup, by its id or the beginning of it; all of this database if none is named
        id: Option<String>,
        #[command(flatten)]
        place: BackupPlace,
    },
    /// Put a backup into a remote: encrypted if that is, and signed by this device
    #[command(after_help = "Example:\n  isle backup push 3f2a --remote cloud")]
    Push {
        /// The backup's id, or the beginning of it
        id: String,
        /// The remote
        #[arg(long, value_name = "REMOTE")]
        remote: String,
        #[command(flatten)]
        place: BackupPlace,
    },
    /// Bring a backup of any device from a remote into the folder
    #[command(after_help = "Example:\n  isle backup fetch 3f2a --remote cloud")]
    Fetch {
        /// The backup's id, or the beginning of it
        id: String,
        /// The remote
        #[arg(long, value_name = "REMOTE")]
        remote: String,
        #[command(flatten)]
        place: BackupPlace,
    },
    /// Make the database what a backup has
    #[command(
        after_help = "The backup is verified first, and the database as it is becomes one more backup. It goes on under a new site id; what the\n\
        group has written since comes with the next sync: to undo changes for everybody, this is not the way.\n\n\
        Example:\n  isle backup restore 3f2a --yes"
    )]
    Restore {
        /// The backup's id, or the beginning of it
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: BackupPlace,
    },
    /// Remove old backups of this database
    #[command(
        after_help = "Examples:\n  isle backup prune --keep 5 --older-than 30d --dry-run\n  isle backup prune --remote cloud --keep 3"
    )]
    Prune {
        /// Those that this device has put into a remote
        #[arg(long, value_name = "REMOTE")]
        remote: Option<String>,
        /// Keep this many of the newest, whatever their age
        #[arg(long, default_value_t = 10, value_name = "N")]
        keep: usize,
        /// Only those older than this (as 12h, 30d)
        #[arg(long, value_name = "TIME", value_parser = span)]
        older_than: Option<Duration>,
        /// Say which, and remove nothing
        #[arg(long)]
        dry_run: bool,
        /// Do not ask, also where none would be left
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: BackupPlace,
    },
}

/// Where backups are.
#[derive(Debug, ClapArgs)]
pub(crate) struct BackupPlace {
    /// The folder of the backups
    #[arg(long, value_name = "FOLDER", value_parser = crate::db::named())]
    pub(crate) folder: Option<PathBuf>,
}
