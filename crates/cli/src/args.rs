//! What can be typed.

mod backup;
mod bundle;
mod files;
mod init;
mod interchange;
mod rows;
mod schema;
#[cfg(feature = "sim")]
mod sim;

pub(crate) use backup::{BackupAction, BackupPlace};
pub(crate) use bundle::BundleAction;
pub(crate) use files::{By, FilesAction, IdentityBy, KindAdd, Moving, SetAction, TrashAction};
pub(crate) use init::{Engine, Init};
pub(crate) use interchange::{DialectBy, Documents, Export, ExportAction, Import, ImportAction};
pub(crate) use rows::{List, PerBy, Search, Stats};
pub(crate) use schema::SchemaAction;
#[cfg(feature = "sim")]
pub(crate) use sim::{SimAction, SimRun};

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Ordinary SQLite files that sync: through a folder or an S3 bucket, or straight from device to device.
#[derive(Debug, Parser)]
#[command(name = "isle", version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Start:\n  isle init notes.db                  track all tables of a file, new or not\n  \
    isle remote add home ~/Sync/notes   a folder, or s3://bucket/prefix\n  \
    isle sync                           exchange changes\n  \
    isle invite                         or let a device in, and sync without a remote\n  \
    isle demo                           three devices in one minute\n\n\
    Exit codes: 0 done, 1 failed, 2 wrong request, 3 needs your decision, 4 held back by a guard")]
pub(crate) struct Args {
    /// The replica's file [default: the only one in the current folder]
    #[arg(long, global = true, env = "ISLE_DB", value_name = "PATH", hide_env_values = true, value_parser = crate::db::named())]
    pub(crate) db: Option<PathBuf>,
    /// A file of settings [default: isle.toml, else isle/config.toml in the user's folder of settings]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Results and errors as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Only what was asked for, no summaries
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a replica of a file, new or existing, and track its tables
    #[command(after_help = "Example:\n  isle init notes.db --app notes")]
    Init(Init),
    /// Let changes of tables travel from now on
    #[command(after_help = "Example:\n  isle track notes tags")]
    Track {
        /// The tables
        #[arg(required = true, value_name = "TABLE")]
        tables: Vec<String>,
    },
    /// Keep tables on this device from now on; their rows stay
    #[command(after_help = "Example:\n  isle untrack drafts")]
    Untrack {
        /// The tables
        #[arg(required = true, value_name = "TABLE")]
        tables: Vec<String>,
    },
    /// Show what keeps the tables, or change it: isle alone, or cr-sqlite
    #[command(
        after_help = "cr-sqlite 0.17 is a loadable extension, which ISLE_CR_SQLITE names (`cr-sqlite` in isle.toml). Tables that it cannot hold stay with isle.\n\n\
        Examples:\n  isle engine\n  ISLE_CR_SQLITE=./crsqlite.so isle engine cr-sqlite\n  isle engine native"
    )]
    Engine {
        /// What is to keep them
        engine: Option<Engine>,
    },
    /// Make a plain database of the replica again
    #[command(after_help = "Example:\n  isle --db notes.db detach --yes")]
    Detach {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Run statements in one write transaction
    #[command(
        after_help = "Examples:\n  isle exec \"UPDATE notes SET stars = ?1 WHERE id = ?2\" --param 5 --param 7\n  \
        isle exec --file changes.sql"
    )]
    Exec(Exec),
    /// Run a query
    #[command(
        after_help = "Example:\n  isle query \"SELECT title, stars FROM notes WHERE stars > ?1\" --param 3 --json"
    )]
    Query(Query),
    /// Search rows by their full-text table, best first
    #[command(
        after_help = "Every word has to be there; '\"two words\"' next to each other, 'wor*' as a beginning, 'title:word' in that column, '-word' not at\n\
        all. Needs an FTS5 table with content='TABLE', or one with rows of its own.\n\n\
        Examples:\n  isle search notes 'sand* planet'\n  isle search notes 'title:dune -film' -n 5"
    )]
    Search(Search),
    /// Rows of a table by what their columns hold
    #[command(
        after_help = "Examples:\n  isle list notes --where 'stars>=4' --where title~dune --order stars --desc -n 10"
    )]
    List(List),
    /// How many rows there are, by what a column holds
    #[command(
        after_help = "Examples:\n  isle stats notes\n  isle stats notes --by stars\n  isle stats downloads --by downloaded_at --per day --sum bytes"
    )]
    Stats(Stats),
    /// What the tables should be, on every replica
    #[command(
        subcommand,
        after_help = "Examples:\n  isle schema plan schema.sql\n  isle schema apply schema.sql\n  isle schema show"
    )]
    Schema(SchemaAction),
    /// Folders and buckets that changes travel through
    #[command(
        subcommand,
        after_help = "Example:\n  isle remote add cloud s3://my-bucket/notes --endpoint https://s3.example.com"
    )]
    Remote(Remote),
    /// The key with which remotes are encrypted
    #[command(
        after_help = "The first sync with a new remote makes a key, and `isle invite` gives it to the devices that join. For others: export it\n\
        to a file, take that there, import it. Keep a copy: without the key nobody can read the remote.\n\n\
        Examples:\n  isle key\n  isle key export notes.key\n  isle key import notes.key\n  isle key rotate"
    )]
    Key {
        #[command(subcommand)]
        action: Option<KeyAction>,
    },
    /// Exchange changes with the remotes, and with devices that can be reached
    #[command(after_help = "Examples:\n  isle sync\n  isle sync pull\n  isle sync --watch --interval 30s")]
    Sync(Sync),
    /// Throw away history and tombstones that no replica needs
    #[command(
        after_help = "Syncs first. Where this replica's log in a remote is long, a snapshot takes its place; changes older than\n\
        --keep leave the log here; tombstones of deletes go once every replica has seen them. Run it on each device.\n\n\
        Examples:\n  isle compact\n  isle compact --keep 0s --vacuum"
    )]
    Compact(Compact),
    /// What this replica is, and how it stands
    #[command(after_help = "Example:\n  isle status --json")]
    Status,
    /// The newest changes, whoever made them
    #[command(after_help = "Example:\n  isle log -n 5")]
    Log {
        /// How many
        #[arg(short = 'n', long = "limit", default_value_t = 20, value_name = "N", value_parser = limit)]
        limit: usize,
    },
    /// How two files differ, row by row, or a file and what a remote holds
    #[command(
        after_help = "Exits with 0 if there is no difference, 3 if there is one. Any SQLite files can be compared; nothing is changed.\n\n\
        Examples:\n  isle diff other.db\n  isle diff old.db new.db -n 5\n  isle diff --remote home"
    )]
    Diff(DiffArgs),
    /// What the file holds, and how much room each part takes
    #[command(after_help = "Example:\n  isle info")]
    Info,
    /// Give free room in the file back
    #[command(
        after_help = "Takes as much room again while it runs. Rows of tables without a key get new rowids. `isle compact` makes room\n\
        first.\n\nExample:\n  isle vacuum"
    )]
    Vacuum,
    /// Who changed a row, when, and what it held before
    #[command(
        after_help = "Reads the whole log. What `isle compact` dropped is not there.\n\nExamples:\n  isle history notes 7\n  isle history notes"
    )]
    History {
        /// The table
        table: String,
        /// The row's key, column by column; without it the newest changes of the table
        #[arg(allow_negative_numbers = true)]
        key: Vec<String>,
        /// How many, newest first
        #[arg(short = 'n', long = "limit", default_value_t = 50, value_name = "N", value_parser = limit)]
        limit: usize,
    },
    /// Take a change back by a new one, which travels
    #[command(
        after_help = "Rows that it inserted are deleted, those that it deleted come again, and columns get the values from before it. What was\n\
        changed since stays as it is, and is told.\n\nExamples:\n  isle undo 42\n  isle undo laptop:42"
    )]
    Undo {
        /// Its version on this device, or DEVICE:VERSION: `isle log` and `isle history` show them
        change: String,
    },
    /// Values that lost against a concurrent write, and what to do with them
    #[command(
        after_help = "Examples:\n  isle conflicts\n  isle conflicts show 3\n  isle conflicts resolve 3 --put-back\n  \
        isle conflicts resolve --all"
    )]
    Conflicts(Conflicts),
    /// Let another device into the group, and sync with it directly
    #[command(
        after_help = "Prints a ticket, as text and as a QR code, and waits until a device has joined with it. The device must be able to\n\
        reach this one: on the same network, or at an --address that leads here (UDP).\n\n\
        Examples:\n  isle invite\n  isle invite --expires 1h --address home.example.org:4753"
    )]
    Invite(Invite),
    /// Join the group of a ticket, with a new file or one that has data
    #[command(after_help = "Examples:\n  isle join isle1abc… notes.db\n  isle join - notes.db < ticket")]
    Join(Join),
    /// Stay: let the group's devices call, push and take changes as they come
    #[command(after_help = "For a device that is always on. Syncs with the remotes too, if there are any.\n\n\
        Examples:\n  isle serve\n  isle serve --port 4753 --address home.example.org:4753")]
    Serve(Serve),
    /// The devices that were let into the group, and where they can be reached
    #[command(after_help = "Examples:\n  isle peers\n  isle peers add desk 192.168.1.7\n  isle peers revoke old-phone")]
    Peers {
        #[command(subcommand)]
        action: Option<PeersAction>,
    },
    /// The replicas of the group, and this device's name
    #[command(after_help = "Examples:\n  isle devices\n  isle devices rename laptop\n  isle devices retire old-phone")]
    Devices {
        #[command(subcommand)]
        action: Option<DevicesAction>,
    },
    /// Copies of the database that can be taken back
    #[command(
        subcommand,
        after_help = "They are made while others write, checked, and kept with a manifest each in `backups` beside the database (beside its folder,\n\
        if that is called data), or in the folder that --folder names.\n\n\
        Examples:\n  isle backup create --comment 'before the move'\n  isle backup list\n  isle backup restore 3f2a"
    )]
    Backup(BackupAction),
    /// Changes that somebody carries as a file, where devices share no network
    #[command(subcommand, after_help = "Example:\n  isle bundle export usb/notes.bundle --have usb/phone.have")]
    Bundle(BundleAction),
    /// Rows out of JSON and YAML documents
    #[command(subcommand, after_help = "Example:\n  isle import json ~/.app --map import.toml --archive")]
    Import(ImportAction),
    /// Documents, or SQL for other databases, out of rows
    #[command(subcommand, after_help = "Example:\n  isle export json out --map import.toml")]
    Export(ExportAction),
    /// Files in folders that belong to the data: their rows travel, their contents come when they are wanted
    #[command(
        subcommand,
        after_help = "Examples:\n  isle files add-root models ~/models\n  isle files scan\n  isle sync && isle files push\n  \
        isle files open models/llama.gguf      on another device: fetches it"
    )]
    Files(FilesAction),
    /// What was done with this replica: syncs, scans and the like, and what came of them
    #[command(
        subcommand,
        after_help = "Examples:\n  isle ops list --kind sync\n  isle ops show 7\n  isle ops watch 7 --json"
    )]
    Ops(OpsAction),
    /// A fingerprint of the state: equal on replicas that hold the same
    #[command(after_help = "Example:\n  isle hash --db notes.db")]
    Hash,
    /// Look for damage in the file and its bookkeeping
    #[command(after_help = "Example:\n  isle doctor")]
    Doctor,
    /// Fleets of devices in one process, under one seed, with everything going wrong
    #[cfg(feature = "sim")]
    #[command(
        subcommand,
        after_help = "Real files, the real merge, protocol and remotes, under virtual time and on disks, networks and buckets that fail. The same seed gives\n\
        the same trace on every machine; one that fails is made small and kept in a file.\n\n\
        Examples:\n  isle sim run --count 100\n  isle sim run --seed 7 --timeline\n  isle sim replay failed-7.json --timeline"
    )]
    Sim(SimAction),
    /// Watch three devices edit offline and agree again
    #[command(after_help = "Example:\n  isle demo --dir /tmp/isle-demo")]
    Demo(Demo),
}

#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("what").required(true))]
pub(crate) struct Exec {
    /// The statements; `-` reads them from standard input
    #[arg(group = "what")]
    pub(crate) sql: Option<String>,
    /// Reads the statements from a file
    #[arg(long, group = "what", value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// A value for ?1, then ?2, … (7, 0.5, NULL, x'00ff', text, '7' as text); for one statement only
    #[arg(long = "param", value_name = "V", allow_hyphen_values = true)]
    pub(crate) params: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Query {
    /// The query
    pub(crate) sql: String,
    /// A value for ?1, then ?2, … (7, 0.5, NULL, x'00ff', text, '7' as text)
    #[arg(long = "param", value_name = "V", allow_hyphen_values = true)]
    pub(crate) params: Vec<String>,
    /// As comma-separated values
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Remote {
    /// Add a remote
    #[command(after_help = "Credentials are never stored: they come from AWS_* variables or the AWS files.\n\n\
        Examples:\n  isle remote add home ~/Sync/notes\n  isle remote add cloud s3://my-bucket/notes --region eu-north-1")]
    Add(RemoteAdd),
    /// List the remotes
    #[command(after_help = "Example:\n  isle remote list")]
    List,
    /// Sync with all remotes before each query and each change, or not
    #[command(after_help = "A setting of this device, off at first. A remote that cannot be reached is no error.\n\n\
        Example:\n  isle remote sync-at-open on")]
    SyncAtOpen {
        /// on or off; without it, say which it is
        state: Option<Switch>,
    },
    /// Forget a remote; what it holds stays there
    #[command(after_help = "Example:\n  isle remote remove home")]
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// Make the group's key now, if there is none
    #[command(after_help = "Example:\n  isle key create")]
    Create,
    /// Write all keys of the group, for another device; whoever has them can read what is in the remotes
    #[command(after_help = "Examples:\n  isle key export notes.key\n  isle key export | ssh desk isle key import -")]
    Export {
        /// A new file, which only you can read; without it, to standard output
        file: Option<PathBuf>,
    },
    /// Take over the keys that another device exported
    #[command(after_help = "Example:\n  isle key import notes.key")]
    Import {
        /// The file; `-` reads standard input
        file: PathBuf,
    },
    /// Make a new key and encrypt with it from now on
    #[command(
        after_help = "The other devices find it with their next sync, but for those that were put out (`isle peers revoke`, which makes a new\n\
        key by itself) or retired (`isle devices retire`). What such a device has it keeps, and what was put before it can read on.\n\n\
        Example:\n  isle key rotate"
    )]
    Rotate,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RemoteAdd {
    /// A name for it
    pub(crate) name: String,
    /// A folder, or s3://bucket/prefix
    pub(crate) url: String,
    /// The endpoint of an S3-compatible store
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// The region of the bucket
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Allow an endpoint without TLS
    #[arg(long)]
    pub(crate) insecure_http: bool,
    /// Do not encrypt: whoever can read the remote can read the data
    #[arg(long)]
    pub(crate) plain: bool,
}

/// Which way a sync goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// Only fetch and merge what others published
    Pull,
    /// Only publish what is here
    Push,
}

/// Whose value stands after a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Prefer {
    /// The later write
    Merge,
    /// This replica's value
    Local,
    /// The other's value
    Remote,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Sync {
    /// Only one way
    #[arg(conflicts_with = "check")]
    pub(crate) way: Option<Way>,
    /// Only this remote
    #[arg(long, value_name = "NAME")]
    pub(crate) remote: Option<String>,
    /// Whose value stands where concurrent writes met in this sync; the other one is in the journal
    #[arg(long, value_name = "SIDE", default_value = "merge", conflicts_with = "check")]
    pub(crate) prefer: Prefer,
    /// With --prefer remote: go on although this replica's own unsent values may give way
    #[arg(long, requires = "prefer")]
    pub(crate) yes: bool,
    /// Say what a sync would do, and change nothing
    #[arg(long, conflicts_with = "watch")]
    pub(crate) check: bool,
    /// Sync again and again, and right after local changes, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// Stay connected with the group's devices: push and take changes as they come, until Ctrl-C
    #[arg(long, conflicts_with_all = ["watch", "check", "way", "remote", "prefer"])]
    pub(crate) live: bool,
    /// With --live: do not look for devices on the local network (multicast DNS)
    #[arg(long, requires = "live")]
    pub(crate) no_discovery: bool,
    /// Leave contents of files (`isle files`) for later
    #[arg(long)]
    pub(crate) no_files: bool,
    /// With --watch or --live: how long to wait between two syncs with remotes
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = duration)]
    pub(crate) interval: Duration,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// What is compared.
#[derive(Debug, ClapArgs)]
pub(crate) struct DiffArgs {
    /// One file, compared with the replica here, or two
    #[arg(num_args = 0..=2, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Compare the replica here with what this remote holds
    #[arg(long, value_name = "NAME")]
    pub(crate) remote: Option<String>,
    /// How many rows of each kind to show of a table
    #[arg(short = 'n', long = "limit", default_value_t = 20, value_name = "N", value_parser = limit)]
    pub(crate) limit: usize,
}

/// How patient a command is with a remote.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct Patience {
    /// How long a request to a remote may go without progress [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration, env = "ISLE_TIMEOUT", hide_env_values = true)]
    pub(crate) timeout: Option<Duration>,
    /// How often a request is tried again after a broken connection, a timeout or a server's error [default: 4]
    #[arg(long, value_name = "N", env = "ISLE_RETRIES", hide_env_values = true)]
    pub(crate) retries: Option<u32>,
}

/// Where to listen.
#[derive(Debug, ClapArgs)]
pub(crate) struct Listen {
    /// The UDP port to listen at, on all addresses of this machine [default: 4753, or any that is free]
    #[arg(long, conflicts_with = "listen")]
    pub(crate) port: Option<u16>,
    /// One address to listen at, as 192.168.1.7:4753
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Where else this device can be reached: a name, or the outside of a router; may be given several times
    #[arg(long = "address", value_name = "HOST:PORT")]
    pub(crate) addresses: Vec<String>,
    /// Neither look for devices on the local network nor announce this one (multicast DNS)
    #[arg(long)]
    pub(crate) no_discovery: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Invite {
    /// How long the ticket holds (as 15m, 1h)
    #[arg(long, default_value = "15m", value_name = "TIME", value_parser = span)]
    pub(crate) expires: Duration,
    /// Draw no QR code
    #[arg(long)]
    pub(crate) no_qr: bool,
    #[command(flatten)]
    pub(crate) listen: Listen,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Join {
    /// The ticket; `-` reads it from standard input
    pub(crate) ticket: String,
    /// The file that joins; made if it is not there [default: --db]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) listen: Listen,
    /// How long to wait between two syncs with the remotes
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub(crate) interval: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeersAction {
    /// Say where a device can be reached
    #[command(after_help = "Example:\n  isle peers add desk 192.168.1.7:4753")]
    Add {
        /// Its name, or the beginning of its key
        device: String,
        /// HOST:PORT, or a host or address alone
        address: String,
    },
    /// Forget where a device can be reached
    #[command(after_help = "Example:\n  isle peers forget desk")]
    Forget {
        /// Its name, or the beginning of its key
        device: String,
    },
    /// Put a device out of the group: a stolen phone, say
    #[command(
        after_help = "Nobody talks to it from then on, and what it writes later does not count. What it has it keeps. A member can\n\
        invite it again.\n\nExample:\n  isle peers revoke old-phone --yes"
    )]
    Revoke {
        /// Its name, or the beginning of its key
        device: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Compact {
    /// Keep changes younger than this in the log (as 12h, 30d)
    #[arg(long, default_value = "30d", value_name = "TIME", value_parser = span)]
    pub(crate) keep: Duration,
    /// Wait this long after every replica has seen a delete; longer than any sync lasts
    #[arg(long, default_value = "1d", value_name = "TIME", value_parser = span)]
    pub(crate) grace: Duration,
    /// Give free room in the file back; rows of tables without a key get new rowids
    #[arg(long)]
    pub(crate) vacuum: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Conflicts {
    #[command(subcommand)]
    pub(crate) action: Option<ConflictsAction>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// Which conflicts are listed.
#[derive(Debug, ClapArgs)]
pub(crate) struct Listing {
    /// Also those that were dealt with
    #[arg(long)]
    pub(crate) all: bool,
    /// At most this many [default: 100]
    #[arg(short = 'n', long, value_name = "N", value_parser = limit)]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConflictsAction {
    /// List them, newest first
    #[command(after_help = "Example:\n  isle conflicts list --all")]
    List(Listing),
    /// Show one in full
    #[command(after_help = "Example:\n  isle conflicts show 3")]
    Show {
        /// Its number
        id: i64,
    },
    /// Rows that a UNIQUE index or a foreign key keeps from showing here
    #[command(
        after_help = "Such a row is not lost: it shows again when what stands against it is changed or deleted,\n\
        or when the parent is there.\n\nExample:\n  isle conflicts hidden"
    )]
    Hidden {
        /// At most this many
        #[arg(short = 'n', long, value_name = "N", default_value = "100", value_parser = limit)]
        limit: usize,
    },
    /// Deal with one, or keep what stands for all of them
    #[command(
        after_help = "Examples:\n  isle conflicts resolve 3 --keep\n  isle conflicts resolve 3 --value 'Dune'\n  \
        isle conflicts resolve --all --table notes"
    )]
    Resolve(Resolve),
}

#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("which").required(true), group = ArgGroup::new("how"))]
#[command(override_usage = "isle conflicts resolve [OPTIONS] <ID> <--keep|--put-back|--value <V>>\n       \
    isle conflicts resolve [OPTIONS] --all [--table <TABLE>]")]
pub(crate) struct Resolve {
    /// Its number
    #[arg(group = "which", requires = "how")]
    pub(crate) id: Option<i64>,
    /// All open ones: the values stay as they stand now
    #[arg(long, group = "which", conflicts_with_all = ["put_back", "value", "take"])]
    pub(crate) all: bool,
    /// With --all: only those of this table
    #[arg(long, conflicts_with = "id", value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// Leave the value that won
    #[arg(long, group = "how")]
    pub(crate) keep: bool,
    /// Write the value that lost
    #[arg(long, group = "how")]
    pub(crate) put_back: bool,
    /// Whose value is to stand: the one from before both, this device's, or the other's
    #[arg(long, group = "how", value_name = "SIDE")]
    pub(crate) take: Option<Take>,
    /// Write another value
    #[arg(long, group = "how", value_name = "V", allow_hyphen_values = true)]
    pub(crate) value: Option<String>,
}

/// A side of a conflict.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Take {
    /// What the cell held before either was written
    Base,
    /// What this device wrote
    Ours,
    /// What the other device wrote
    Theirs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevicesAction {
    /// Give this device another name
    #[command(after_help = "Example:\n  isle devices rename laptop")]
    Rename {
        /// The name
        name: String,
    },
    /// Say that a replica does not come back: nobody waits for it any more
    #[command(
        after_help = "If it does come back, it goes on under a new site id and sends its unsent changes anew.\n\n\
        Example:\n  isle devices retire old-phone"
    )]
    Retire {
        /// Its name, or the beginning of its site id
        site: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum OpsAction {
    /// The newest first
    #[command(after_help = "Example:\n  isle ops list --kind sync")]
    List {
        /// Only this kind: sync, backup, restore, scan, push, pull, prune or verify
        #[arg(long)]
        kind: Option<String>,
        /// How many
        #[arg(short = 'n', long = "limit", default_value_t = 20, value_name = "N", value_parser = limit)]
        limit: usize,
    },
    /// One of them, whole
    #[command(after_help = "Example:\n  isle ops show 7")]
    Show {
        /// Its number
        id: i64,
    },
    /// Follow one until it has ended
    #[command(after_help = "With --json each line is how far it is.\n\nExample:\n  isle ops watch 7 --json")]
    Watch {
        /// Its number [default: the newest that runs]
        id: Option<i64>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Demo {
    /// Where to make it; must be empty [default: a new temporary folder]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// How many rows to begin with, roughly
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=2_000_000))]
    pub(crate) rows: u32,
    /// Keep the folder afterwards (the default)
    #[arg(long, overrides_with = "clean")]
    pub(crate) keep: bool,
    /// Remove the folder afterwards
    #[arg(long)]
    pub(crate) clean: bool,
}

/// A length of time with days of 24 hours.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a time such as 0s, 12h or 30d".to_owned();
    if let Some(days) = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok()) {
        return Ok(Duration::from_secs(u64::from(days) * 24 * 60 * 60));
    }
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(parsed).map_err(|_| wrong())
}

/// An amount of data, as 500KB, 2MB or 1.5GB.
fn amount(text: &str) -> Result<u64, String> {
    let wrong = || "expected an amount such as 500KB, 2MB or 1GB".to_owned();
    let text = text.trim().to_ascii_uppercase();
    let text = text.strip_suffix('B').unwrap_or(&text);
    let (digits, factor) = match text.chars().last() {
        Some('K') => (&text[..text.len() - 1], 1e3),
        Some('M') => (&text[..text.len() - 1], 1e6),
        Some('G') => (&text[..text.len() - 1], 1e9),
        Some('T') => (&text[..text.len() - 1], 1e12),
        _ => (text, 1.0),
    };
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let bytes = number * factor;
    if (0.0..9e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

fn limit(text: &str) -> Result<usize, String> {
    let number: Option<usize> = text.parse().ok();
    number.filter(|number| *number > 0).ok_or_else(|| "expected a number from 1 on".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| "expected a time such as 500ms, 5s or 2m".to_owned())?;
    let duration = Duration::try_from(parsed).map_err(|error| error.to_string())?;
    if duration < Duration::from_millis(100) { Err("at least 100ms".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_fit_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_purpose_and_an_example() {
        fn look(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some_and(|about| !about.to_string().contains('\n')), "{name}");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("isle "), "{name} has no example");
            command.get_subcommands().for_each(look);
        }
        Args::command().get_subcommands().for_each(look);
    }

    #[test]
    fn spans_are_read() {
        assert_eq!(span("30d"), Ok(Duration::from_secs(2_592_000)));
        assert_eq!((span("0s"), span("12h")), (Ok(Duration::ZERO), Ok(Duration::from_secs(43_200))));
        assert!(span("5").is_err() && span("-1d").is_err() && span("d").is_err());
    }

    #[test]
    fn amounts_are_read() {
        let amounts = ["0", "17", "2MB", "1.5 GB", "3k", "2tb"].map(|text| amount(text).unwrap());
        assert_eq!(amounts, [0, 17, 2_000_000, 1_500_000_000, 3_000, 2_000_000_000_000]);
        assert!(["", "MB", "-1", "1e30", "NaN", "x"].iter().all(|text| amount(text).is_err()));
    }

    #[test]
    fn intervals_are_read() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("5").is_err() && duration("1ms").is_err() && duration("-5s").is_err());
    }
}
