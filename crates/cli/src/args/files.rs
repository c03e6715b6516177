//! What is asked for of files.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::{amount, duration, span};

/// What to do with files.
#[derive(Debug, Subcommand)]
pub(crate) enum FilesAction {
    /// Add a folder of this device, under a name that other devices may have elsewhere
    #[command(
        after_help = "Begins the library if there is none. A file .isleignore in the folder says what to leave out, written like .gitignore.\n\n\
        Examples:\n  isle files add-root models ~/models\n  isle files add-root words ~/wake-words --kind ppn"
    )]
    AddRoot {
        /// Its name, on every device
        name: String,
        /// The folder on this one
        folder: PathBuf,
        /// Only files of this kind; may be given several times
        #[arg(long = "kind", value_name = "KIND")]
        kinds: Vec<String>,
    },
    /// Forget a folder of this device; its files stay where they are, and in the library
    #[command(after_help = "Example:\n  isle files remove-root models")]
    RemoveRoot {
        /// Its name
        name: String,
        /// Also where this device alone has some of its files
        #[arg(long)]
        yes: bool,
    },
    /// The folders of this device
    #[command(after_help = "Example:\n  isle files roots")]
    Roots,
    /// The kinds of files
    #[command(after_help = "Example:\n  isle files kinds")]
    Kinds,
    /// Add a kind of files, or change it, for all devices
    #[command(after_help = "Validators: any, text (UTF-8), gguf, ppn. An app can bring others.\n\n\
        Examples:\n  isle files add-kind manual --pattern '*.pdf' --pattern '*.txt' --max 50MB\n  \
        isle files add-kind rom --pattern '*.{nes,sfc}' --by content --destination roms --sha1")]
    AddKind(KindAdd),
    /// Forget a kind; its files stay in the library
    #[command(after_help = "Example:\n  isle files remove-kind manual")]
    RemoveKind {
        /// Its name
        name: String,
    },
    /// Compare the folders with the library, once
    #[command(
        after_help = "Files that were not written since the last time are not read again. Exits with 4 if a folder is gone or lost all of its files: then\n\
        nothing of it was changed, and --emptied says that it was meant.\n\nExamples:\n  isle files scan\n  isle files scan --kind gguf"
    )]
    Scan {
        /// Only this folder
        #[arg(long, value_name = "NAME")]
        root: Option<String>,
        /// Only files of this kind
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// A folder that is there and empty was emptied knowingly
        #[arg(long)]
        emptied: bool,
    },
    /// Keep the library in step with the folders, until Ctrl-C
    #[command(after_help = "Example:\n  isle files watch --every 30m")]
    Watch {
        /// For how long a file must not have been written before it is taken
        #[arg(long, default_value = "1s", value_name = "TIME", value_parser = duration)]
        settle: Duration,
        /// How often everything is compared
        #[arg(long, default_value = "15m", value_name = "TIME", value_parser = duration)]
        every: Duration,
        /// Do without notices of the system: compare every so often alone
        #[arg(long)]
        no_notices: bool,
    },
    /// What there is and where, what the last scan changed, what is wrong
    #[command(after_help = "Examples:\n  isle files status\n  isle files status --by set")]
    Status {
        /// Sums by kind, set or root
        #[arg(long, value_name = "WHAT")]
        by: Option<By>,
        /// At most so many changes and problems
        #[arg(short = 'n', long = "limit", default_value_t = 50, value_name = "N")]
        limit: usize,
    },
    /// The files of the library
    #[command(after_help = "Examples:\n  isle files list --kind gguf\n  isle files list --below models/llama --all")]
    List {
        /// Of this kind
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// Of this set
        #[arg(long, value_name = "SET")]
        set: Option<String>,
        /// Whose path begins so
        #[arg(long, value_name = "PATH")]
        below: Option<String>,
        /// Older versions and what is in the trash, too
        #[arg(long)]
        all: bool,
        /// At most so many
        #[arg(short = 'n', long = "limit", default_value_t = 0, value_name = "N", hide_default_value = true)]
        limit: usize,
    },
    /// Put contents of this device into the remotes
    #[command(
        after_help = "Only what a remote lacks is sent. `isle sync` does it too.\n\nExample:\n  isle files push --limit-rate 2MB"
    )]
    Push {
        #[command(flatten)]
        moving: Moving,
        /// Ask the remote what it has, however lately that was done
        #[arg(long)]
        refresh: bool,
        /// Put everything again that is here, whatever stands there: for a remote in which something is damaged
        #[arg(long)]
        again: bool,
    },
    /// Bring contents to this device
    #[command(
        after_help = "Examples:\n  isle files pull --all\n  isle files pull --set zelda\n  isle files pull models/llama.gguf"
    )]
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(false))]
    Pull {
        /// These, by path, name or id
        #[arg(group = "what", value_name = "FILE")]
        files: Vec<String>,
        /// All
        #[arg(long, group = "what")]
        all: bool,
        /// Those of a set
        #[arg(long, group = "what", value_name = "SET")]
        set: Option<String>,
        /// Those of a kind
        #[arg(long, group = "what", value_name = "KIND")]
        kind: Option<String>,
        /// Those that are pinned
        #[arg(long, group = "what")]
        pinned: bool,
        #[command(flatten)]
        moving: Moving,
    },
    /// Print where a file is on this device, and fetch it first if it is not here
    #[command(after_help = "Example:\n  isle files open models/llama.gguf")]
    Open {
        /// Its path, name or id
        file: String,
        /// Exit with 3 instead of fetching
        #[arg(long)]
        no_fetch: bool,
        #[command(flatten)]
        moving: Moving,
    },
    /// Keep files on this device
    #[command(after_help = "Example:\n  isle files pin models/llama.gguf && isle files pull --pinned")]
    Pin {
        /// By path, name or id
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
    },
    /// Let files go again
    #[command(after_help = "Example:\n  isle files unpin models/llama.gguf")]
    Unpin {
        /// By path, name or id
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
    },
    /// Take copies of this device away, of files that a remote has
    #[command(
        after_help = "The remote is asked for every part before. Exits with 4 for the last copy.\n\nExample:\n  isle files evict models/llama.gguf"
    )]
    Evict {
        /// By path, name or id
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
    },
    /// Groups of files that belong together
    #[command(subcommand, after_help = "Example:\n  isle files set add zelda roms/zelda.sfc manuals/zelda.pdf")]
    Set(SetAction),
    /// Take files out of the library on every device, and take them back
    #[command(
        subcommand,
        after_help = "Examples:\n  isle files trash put old.gguf\n  isle files trash list\n  isle files trash restore old.gguf"
    )]
    Trash(TrashAction),
    /// Remove for good what is out of the library, and what nothing needs
    #[command(
        after_help = "In remotes, parts of files that nothing needs are marked first, and go when they are still not needed after --grace.\n\n\
        Examples:\n  isle files prune --dry-run\n  isle files prune --keep 90d --yes"
    )]
    Prune {
        /// How long to keep what is in the trash, and older versions
        #[arg(long, default_value = "30d", value_name = "TIME", value_parser = span)]
        keep: Duration,
        /// For how long a part must have been marked
        #[arg(long, default_value = "7d", value_name = "TIME", value_parser = span)]
        grace: Duration,
        /// Say what would go, and remove nothing
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Read every file of this device, and ask the remotes what they have
    #[command(after_help = "Exits with 1 if something is damaged or lost.\n\nExample:\n  isle files verify")]
    Verify,
}

/// By what files are summed up.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum By {
    Kind,
    Set,
    Root,
}

/// A kind of files.
#[derive(Debug, ClapArgs)]
pub(crate) struct KindAdd {
    /// Its name: small letters, digits, - and _
    pub(crate) name: String,
    /// A pattern of names, or of paths if there is a slash in it; may be given several times
    #[arg(long = "pattern", value_name = "GLOB", required = true)]
    pub(crate) patterns: Vec<String>,
    /// Who looks into its files
    #[arg(long, default_value = "any", value_name = "NAME")]
    pub(crate) validator: String,
    /// The least size
    #[arg(long, value_name = "BYTES", value_parser = amount)]
    pub(crate) min: Option<u64>,
    /// The largest size
    #[arg(long, value_name = "BYTES", value_parser = amount)]
    pub(crate) max: Option<u64>,
    /// What makes two finds one file: the content alone, or content and path
    #[arg(long, default_value = "path", value_name = "WHAT")]
    pub(crate) by: IdentityBy,
    /// The folder below the library's own for its files from other devices
    #[arg(long, value_name = "FOLDER")]
    pub(crate) destination: Option<String>,
    /// Keep the SHA-1 of its files
    #[arg(long)]
    pub(crate) sha1: bool,
    /// Keep the SHA-256 of its files
    #[arg(long)]
    pub(crate) sha256: bool,
    /// Of several kinds that fit, that of the smallest rank counts
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true)]
    pub(crate) rank: i64,
}

/// What makes two finds one file.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum IdentityBy {
    Content,
    Path,
}

/// How contents move.
#[derive(Debug, ClapArgs)]
pub(crate) struct Moving {
    /// Only this remote
    #[arg(long, value_name = "NAME")]
    pub(crate) remote: Option<String>,
    /// At most so much a second, as 500KB or 2MB
    #[arg(long, value_name = "BYTES", value_parser = amount)]
    pub(crate) limit_rate: Option<u64>,
}

/// What to do with a set.
#[derive(Debug, Subcommand)]
pub(crate) enum SetAction {
    /// Put files into a set
    #[command(after_help = "Example:\n  isle files set add zelda roms/zelda.sfc")]
    Add {
        /// The set
        set: String,
        /// By path, name or id
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
    },
    /// Take files out of a set
    #[command(after_help = "Example:\n  isle files set remove zelda roms/zelda.sfc")]
    Remove {
        /// The set
        set: String,
        /// By path, name or id
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
    },
}

/// What to do with the trash.
#[derive(Debug, Subcommand)]
pub(crate) enum TrashAction {
    /// Take files out of the library
    #[command(after_help = "Example:\n  isle files trash put models/old.gguf")]
    Put {
        /// By path, name or id
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
    },
    /// What is in the trash of this device
    #[command(after_help = "Example:\n  isle files trash list")]
    List,
    /// Take files back to where they were
    #[command(after_help = "Example:\n  isle files trash restore models/old.gguf")]
    Restore {
        /// By path, name or id
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
    },
}
