//! The commands, by what they are about.

mod backups;
mod bundle;
mod compact;
pub(crate) mod conflicts;
mod devices;
mod diff;
mod engines;
mod files;
mod history;
mod interchange;
mod keys;
mod library;
mod live;
mod look;
mod operations;
mod peers;
mod remote_backups;
mod remotes;
mod rows;
mod schema;
mod search;
#[cfg(feature = "sim")]
mod sim;
mod sql;
mod sync;
mod watch;

pub(crate) use devices::Names;
pub(crate) use sync::runtime;

use crate::args::{Args, Command};
use crate::demo;
use crate::output::Out;

/// Runs a command; gives the exit code.
pub(crate) fn run(args: &Args, out: &mut Out) -> anyhow::Result<u8> {
    match &args.command {
        Command::Init(init) => files::init(args, init, out),
        Command::Track { tables } => files::track(args, tables, out),
        Command::Untrack { tables } => files::untrack(args, tables, out),
        Command::Engine { engine } => engines::run(args, *engine, out),
        Command::Detach { yes } => files::detach(args, *yes, out),
        Command::Exec(exec) => sql::exec(args, exec, out),
        Command::Query(query) => sql::query(args, query, out),
        Command::Search(wanted) => search::search(args, wanted, out),
        Command::List(wanted) => rows::list(args, wanted, out),
        Command::Stats(wanted) => rows::stats(args, wanted, out),
        Command::Schema(action) => schema::run(args, action, out),
        Command::Remote(remote) => remotes::run(args, remote, out),
        Command::Key { action } => keys::run(args, action.as_ref(), out),
        Command::Sync(sync) => sync::run(args, sync, out),
        Command::Compact(compact) => compact::run(args, compact, out),
        Command::Status => look::status(args, out),
        Command::Log { limit } => look::log(args, *limit, out),
        Command::Diff(wanted) => diff::run(args, wanted, out),
        Command::Info => look::info(args, out),
        Command::Vacuum => look::vacuum(args, out),
        Command::History { table, key, limit } => history::run(args, table, key, *limit, out),
        Command::Undo { change } => history::undo(args, change, out),
        Command::Conflicts(conflicts) => conflicts::run(args, conflicts, out),
        Command::Invite(invite) => live::invite(args, invite, out),
        Command::Join(join) => live::join(args, join, out),
        Command::Serve(serve) => live::serve(args, serve, out),
        Command::Peers { action } => peers::run(args, action.as_ref(), out),
        Command::Devices { action } => devices::run(args, action.as_ref(), out),
        Command::Backup(action) => backups::run(args, action, out),
        Command::Bundle(action) => bundle::run(args, action, out),
        Command::Import(action) => interchange::import(args, action, out),
        Command::Export(action) => interchange::export(args, action, out),
        Command::Files(action) => library::run(args, action, out),
        Command::Ops(action) => operations::run(args, action, out),
        Command::Hash => look::hash(args, out),
        Command::Doctor => look::doctor(args, out),
        #[cfg(feature = "sim")]
        Command::Sim(action) => sim::run(action, out),
        Command::Demo(demo) => demo::run(demo, out),
    }
}
