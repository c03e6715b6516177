//! What is asked for of changes that somebody carries.

use std::path::PathBuf;

use clap::Subcommand;

/// What to do with changes that somebody carries.
#[derive(Debug, Subcommand)]
pub(crate) enum BundleAction {
    /// What this replica has, for `isle bundle export` on another device
    #[command(after_help = "Example:\n  isle bundle have phone.have")]
    Have {
        /// The file; standard output if none is named
        file: Option<PathBuf>,
    },
    /// Write what another replica lacks into a file
    #[command(
        after_help = "With a key of the group (`isle key`) the file is encrypted. Exits with 0 also if there is nothing to carry.\n\n\
        Examples:\n  isle bundle export usb/notes.bundle --have usb/phone.have\n  isle bundle export everything.bundle"
    )]
    Export {
        /// The file; it must not be there yet
        file: PathBuf,
        /// What the other one has [default: nothing]
        #[arg(long, value_name = "FILE", value_parser = crate::db::named())]
        have: Option<PathBuf>,
    },
    /// Take in what another replica has written into a file
    #[command(after_help = "Example:\n  isle bundle apply usb/notes.bundle")]
    Apply {
        /// The file
        file: PathBuf,
    },
}
