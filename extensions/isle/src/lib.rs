//! isle inside any SQLite: what the library does, from SQL, in whatever language an app is written.
//!
//! ```sql
//! SELECT isle_init();                         -- this database file becomes a replica
//! SELECT isle_track('notes');                 -- changes of this table travel
//! SELECT isle_sync('../bucket');              -- with a folder or s3://bucket/prefix; later isle_sync() alone
//! ```
//!
//! # How it works
//! Tracked tables are captured by triggers in plain SQL, whether this extension is loaded or not. What the functions do they do on connections of their own to
//! the same file, opened through the SQLite that loaded the extension: so they see what is committed, and where they write they cannot wait for a
//! transaction of the very connection that calls them. That is an error which says so, at once.
//!
//! # Promises
//! * No panic crosses into C, and no error leaves the connection unusable.
//! * A file is shared with other processes, `isle serve` among them, as by any two clients of SQLite.
//! * Functions that do something cannot be called by triggers, views or indexes of a file that came from elsewhere (`SQLITE_DIRECTONLY`).
//!
//! # Functions
//! Results that are more than one value are JSON. NULL for an argument in brackets counts as not given.
//!
//! ```text
//! isle_init([app [, home]])        makes a replica of the file, or opens it; gives the site id
//! isle_home(folder)                the folder that tells devices apart, before anything else; otherwise ISLE_HOME or the user's data folder
//! isle_track(table, …)             tracks tables; gives how many
//! isle_untrack(table)              stops that; the rows stay
//! isle_detach()                    makes a plain database of it again
//! isle_version()                   the last version that was sealed here
//! isle_site_id(), isle_group_id()  the ids of this replica and of its group
//! isle_hash()                      hash of the merged state: equal on replicas that have the same
//! isle_status()                    a summary
//! isle_check()                     looks for damage
//! isle_sync([url [, options]])     syncs with all remotes and known peers, or with one address; options: name, plain, direction ('pull', 'push'), timeout_ms
//! isle_forget_remote(name)         syncs with it no more
//! isle_key_create(), isle_key_export(), isle_key_import(text)    the group's key
//! isle_join(ticket)                joins the group of `isle invite`
//! isle_vector()                    what this replica has
//! isle_export([vector [, bytes]])  what another one with that vector lacks, as a blob; NULL if nothing
//! isle_apply(blob)                 takes it in
//! isle_schema_plan(sql), isle_schema_apply(sql [, backups])      what it takes to make the tables so; does it, on all devices
//! isle_resolve(conflict, take [, value])   'keep', 'put-back', 'base', 'ours', 'theirs', or 'value' and one; gives what stands then. The side that won keeps what
//!                                  stands, also where somebody has written something else since
//! isle_conflict_base(conflict)     what the cell held before either of the two values; NULL if nothing, or if the log does not reach back
//! isle_device_name([name])         what this device is called; gives it another name
//! isle_undo(version [, site])      takes a changeset back, by a new one
//! isle_backup([folder])            an online backup, verified
//! isle_text_splice(text, at, delete, insert)    text with a piece replaced; at counts characters from 0
//! isle_json_insert(json, path, value)           JSON with a value put before the element that the path names; '$.list[#]' is behind the last
//! isle_build()                     versions of the extension and of SQLite
//! ```
//!
//! # Tables
//! ```text
//! isle_changes      every changed row that the log has, newest first: site, device, version, time_ms, baseline, change, table_name, row_key, cells
//! isle_history(table [, key])    the same by cell: site, device, version, time_ms, baseline, change, row_key, column_name, before, after, kind; before is NULL without a key
//! isle_conflicts    values that lost: id, table_name, row_key, column_name, lost, lost_site, lost_ms, current, won_site, won_ms, reason, resolved
//! isle_repaired     rows that a constraint keeps from showing: table_name, row_key, hidden, constrained_by, instead
//! isle_devices      replicas of the group: site, name, version, last_write_ms, this, retired
//! isle_parked       what came for tables and columns that are not here: table_name, table_id, columns, changesets, needs
//! ```
//! A key of several columns is a JSON array, on the way in as well.
//!
//! # What an app has to know
//! * A device is a folder, `ISLE_HOME`, that holds its keys: one for all files of an app on a device. The second device takes over the key of what is encrypted, by `isle_key_export()`
//!   and `isle_key_import(text)`, or joins with a ticket; it needs no tables, they come with the first sync.
//! * Commit before a call. Those that write are refused in a write transaction of their own connection: all but `isle_status`, `isle_site_id`, `isle_group_id`,
//!   `isle_check`, `isle_schema_plan`, `isle_key_export`, `isle_devices`, `isle_conflicts`, `isle_repaired` and `isle_parked`. They wait for others' transactions as long as
//!   the connection's busy timeout says, for each remote anew, or 5 s if it says nothing; `isle_sync(url, '{"timeout_ms": 3000}')` bounds the whole.
//! * Keys are the app's to choose: two devices that both insert `id` 1 have written the same row. Where that can happen: `id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16))))`.
//! * Change tracked tables by `isle_schema_apply` with the whole definition that is wanted, not by ALTER TABLE: what that adds does not travel until it is in a definition,
//!   and a table that was changed otherwise stands still (`standing_still` of a sync).
//! * The fields of a sync's JSON are those of `SyncReport`, of the status those of `Status` (`cargo doc -p isle --open`). An app shows `tables` anew, looks at `isle_conflicts` when
//!   `conflict_detected` is true, and tells its user of `refused`, `waiting`, `pending`, `standing_still`, `stale` and `turned_away` where they are not empty.
//!
//! # Limits
//! SQLite 3.40 or later, built for threads. Only the main database of a connection, and only a file that it opened with SQLite's usual VFS. Two copies of SQLite
//! in one process cannot both load it, and it cannot be loaded by `sqlite3_auto_extension`: its own connections would load it again. What it does cannot be
//! interrupted. After a fork the child opens its connections anew, as SQLite asks of everybody.
//! `isle_changes` and `isle_history` read the whole log, and give the newest 100,000 rows.

mod functions;
mod host;
mod relation;
mod relations;
mod replica;
mod sync;
mod text;

use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::{Connection, ffi};

/// Where SQLite begins.
///
/// # Safety
/// SQLite calls it with a connection, a place for a message, and the table of its functions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_extension_init(
    db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    table: *mut ffi::sqlite3_api_routines,
) -> c_int {
    if table.is_null() {
        return ffi::SQLITE_ERROR;
    }
    let loaded = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: they are what SQLite handed in.
        unsafe {
            host::take_over(table)?;
            let conn = Connection::from_handle(db).map_err(|error| error.to_string())?;
            register(&conn).map_err(|error| error.to_string())
        }
    }));
    let reason = match loaded {
        // The library stays in the process: others may have their connections yet, and threads of its own may run.
        Ok(Ok(())) => return ffi::SQLITE_OK_LOAD_PERMANENTLY,
        Ok(Err(reason)) => reason,
        Err(_) => "isle failed while it was loaded; that is a fault of isle's".to_owned(),
    };
    // SAFETY: as above.
    unsafe { host::tell(table, message, &reason) };
    ffi::SQLITE_ERROR
}

fn register(conn: &Connection) -> rusqlite::Result<()> {
    // Not every SQLite tells how it was built.
    let sql = "SELECT sqlite_compileoption_used('THREADSAFE=0')";
    if conn.query_row(sql, [], |row| row.get(0)).unwrap_or(false) {
        let reason = "isle needs a SQLite that was built for threads (THREADSAFE=1 or 2)";
        return Err(rusqlite::Error::UserFunctionError(reason.into()));
    }
    let session = Arc::new(replica::Session::new());
    functions::register(conn, &session)?;
    relations::register(conn, &session)?;
    text::register(conn)
}
