//! What is asked for of schemas.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum SchemaAction {
    /// Say what it takes to make the tables what a file of SQL says, and change nothing
    #[command(after_help = "The file has CREATE statements for tables, indexes, views, triggers and FTS5 tables\n\
        with content='TABLE'; or it is JSON (*.json), or a folder of numbered files of SQL, which count\n\
        one after the other; `-- @version 1.1.0` says of which version it is, `-- @requires 1.1.0` that apps of\n\
        earlier ones keep the schema that they have. `-- @drop table.column` takes a column out; `-- @rename old -> new` and\n\
        `-- @rename table.old -> new` say what is called otherwise now. `-- @group table(a, b)`\n\
        writes columns together. On the line of a column,\n\
        `-- @merge counter|max|min|set|text|json` says how its concurrent writes merge,\n\
        `-- @duplicates rename` numbers what clashes in a UNIQUE index; on that of a table's name,\n\
        `-- @scope local` keeps its rows on each device, `-- @expires` on a column's lets them go.\n\
        Exits with 0 if there is nothing to do, 3 if there is, 4 if something cannot be done.\n\n\
        Example:\n  isle schema plan schema.sql")]
    Plan {
        /// A file of SQL or JSON, or a folder; `-` reads standard input
        file: PathBuf,
    },
    /// Make the tables what a file of SQL says, here and with the next syncs everywhere
    #[command(
        after_help = "Where a table is made anew with its rows, the database is copied first, to a folder beside it.\n\n\
        Example:\n  isle schema apply schema.sql"
    )]
    Apply {
        /// A file of SQL or JSON, or a folder; `-` reads standard input
        file: PathBuf,
        /// Where such copies go
        #[arg(long, value_name = "FOLDER", conflicts_with = "no_backup", value_parser = crate::db::named())]
        backups: Option<PathBuf>,
        /// Make none
        #[arg(long)]
        no_backup: bool,
        /// Try it on the rows that are here, say what does not fit, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the schema as it stands here: a definition that `plan` finds nothing to do for
    #[command(after_help = "With --json as data, which `isle schema apply schema.json` takes too.\n\n\
        Example:\n  isle schema dump > schema.sql")]
    Dump,
    /// The operations that made the schema, the same on every replica that has them
    #[command(after_help = "Example:\n  isle schema history")]
    History,
    /// The tables and columns that the group agreed on
    #[command(after_help = "Example:\n  isle schema show --json")]
    Show,
    /// How this file stands to the group's schema, and which devices are behind
    #[command(
        after_help = "Exits with 0 if all is as it should be, 3 if something was changed by hand, is left out or cannot be applied.\n\n\
        Example:\n  isle schema status"
    )]
    Status,
    /// What others wrote into tables and columns that are not here yet
    #[command(
        after_help = "A schema operation that does not fit this file, or that a newer isle made, stops nobody: what needs it is kept, and\n\
        merged as soon as it is applied, which each sync tries again. `isle schema status` says what stands in its way.\n\n\
        Example:\n  isle schema parked"
    )]
    Parked,
    /// Give up an operation that waits, say one that somebody has made up
    #[command(
        after_help = "It and those that follow it are tried no more, and what others wrote into tables and columns that they alone would make is\n\
        dropped here, for good.\n\nExample:\n  isle schema forget 4f5bcb5c --yes"
    )]
    Forget {
        /// The operation, or the beginning of its id
        operation: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// What was changed in this file by hand: columns and indexes that are not part of the schema
    #[command(
        after_help = "Exits with 0 if there is nothing, 3 if there is, 4 if some of it cannot be taken over.\n\n\
        Example:\n  isle schema drift"
    )]
    Drift,
    /// Make what was changed in this file by hand part of the schema
    #[command(after_help = "Example:\n  isle schema adopt")]
    Adopt,
    /// Take back an operation of the schema by its opposite, which travels like any other
    #[command(
        after_help = "A column that was added leaves the definition, and its values stay. New tables and kinds cannot be\n\
        taken back.\n\nExample:\n  isle schema history\n  isle schema undo 4f5bcb5c"
    )]
    Undo {
        /// The operation, or the beginning of its id
        operation: String,
        /// Where the database is copied to first, if a table is made anew
        #[arg(long, value_name = "FOLDER", conflicts_with = "no_backup", value_parser = crate::db::named())]
        backups: Option<PathBuf>,
        /// Make no such copy
        #[arg(long)]
        no_backup: bool,
    },
    /// What of operations that two devices made at once does not stand
    #[command(
        after_help = "`isle schema apply` with the definition that you want settles it.\n\nExample:\n  isle schema conflicts"
    )]
    Conflicts,
    /// Say what a definition may do that one does not expect when several devices write
    #[command(
        after_help = "Exits with 0 if there is nothing to say, 3 if there is.\n\nExample:\n  isle schema lint schema.sql"
    )]
    Lint {
        /// A file of SQL or JSON, or a folder; `-` reads standard input
        file: PathBuf,
    },
}
