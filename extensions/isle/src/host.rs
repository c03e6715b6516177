//! The SQLite that loads this library: its functions come in a table that grows with its versions.
//!
//! The binding refuses a SQLite that is older than the header it was made from, and would read beyond the end of an older one's table. What isle uses is in
//! all since 3.40; so the binding is given a copy of the table that has as much as the host has, and nothing behind that: a function that is not there is one
//! that the binding says it cannot call. Two that came with 3.44 the binding uses for every hook: before that they are made up here.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::{MaybeUninit, offset_of, size_of};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use rusqlite::ffi::{self, sqlite3_api_routines as Table};

/// The oldest SQLite that is tried: Debian 12's.
pub(crate) const OLDEST: i32 = 3_040_000;

/// How far the tables of versions before these reach.
const ENDS: &[(i32, usize)] = &[
    (3_041_000, offset_of!(Table, is_interrupted)),
    (3_043_000, offset_of!(Table, stmt_explain)),
    (3_044_000, offset_of!(Table, get_clientdata)),
    (3_050_000, offset_of!(Table, setlk_timeout)),
    (3_051_000, offset_of!(Table, set_errmsg)),
    (3_052_000, offset_of!(Table, str_truncate)),
    (3_054_000, offset_of!(Table, incomplete)),
];

// A binding to a later version has functions that are not told apart above.
const _: () = assert!(size_of::<Table>() == offset_of!(Table, result_str) + size_of::<usize>());

/// What SQLite says its version is, to the binding.
static VERSION: AtomicI32 = AtomicI32::new(0);

/// The address of one function of the host that was first, by which another SQLite in this process is told apart.
static FIRST: Mutex<Option<usize>> = Mutex::new(None);

unsafe extern "C" fn version() -> c_int {
    VERSION.load(Ordering::Relaxed)
}

/// What the binding keeps with a connection, its hooks, where SQLite cannot: by the addresses of connections, and names. That of a connection which was
/// closed stays until another one has its address; it is not used any more then.
static CLIENT_DATA: LazyLock<Mutex<HashMap<(usize, CString), Kept>>> = LazyLock::new(Mutex::default);

struct Kept {
    data: usize,
    free: Option<unsafe extern "C" fn(*mut c_void)>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            // SAFETY: whoever gave the data gave what frees it, which is called once.
            unsafe { free(self.data as *mut c_void) };
        }
    }
}

unsafe extern "C" fn set_client_data(
    db: *mut ffi::sqlite3,
    name: *const c_char,
    data: *mut c_void,
    free: Option<unsafe extern "C" fn(*mut c_void)>,
) -> c_int {
    // SAFETY: the binding gives a name.
    let key = (db as usize, unsafe { CStr::from_ptr(name) }.to_owned());
    let mut all = CLIENT_DATA.lock().unwrap_or_else(PoisonError::into_inner);
    let before = match data.is_null() {
        true => all.remove(&key),
        false => all.insert(key, Kept { data: data as usize, free }),
    };
    drop(all);
    drop(before);
    ffi::SQLITE_OK
}

unsafe extern "C" fn client_data(db: *mut ffi::sqlite3, name: *const c_char) -> *mut c_void {
    // SAFETY: the binding gives a name.
    let key = (db as usize, unsafe { CStr::from_ptr(name) }.to_owned());
    let all = CLIENT_DATA.lock().unwrap_or_else(PoisonError::into_inner);
    all.get(&key).map_or(std::ptr::null_mut(), |kept| kept.data as *mut c_void)
}

/// Takes over the host's functions.
///
/// # Safety
/// `table` is what SQLite handed to the entry point.
pub(crate) unsafe fn take_over(table: *const Table) -> Result<(), String> {
    // SAFETY: every SQLite that loads extensions with this entry point has these functions.
    let (number, open) = unsafe { ((*table).libversion_number, (*table).open_v2) };
    let number = number.map_or(0, |number| unsafe { number() });
    if number < OLDEST {
        return Err(format!("isle needs SQLite {} or later, this is {}", dotted(OLDEST), dotted(number)));
    }
    let address = open.map_or(0, |open| open as usize);
    let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
    match *first {
        Some(known) if known == address => return Ok(()),
        Some(_) => {
            return Err("isle is in use by another copy of SQLite in this process already: two copies that open one file damage it, so \
                        use one of them only"
                .to_owned());
        }
        None => {}
    }
    let end = ENDS.iter().find(|(before, _)| number < *before).map_or(size_of::<Table>(), |(_, end)| *end);
    let mut copy = MaybeUninit::<Table>::zeroed();
    // SAFETY: the host's table has at least `end` bytes, and a function that is not there is all zeros.
    let copy = unsafe {
        std::ptr::copy_nonoverlapping(table.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), end);
        let copy = copy.as_mut_ptr();
        (*copy).libversion_number = Some(version);
        if number < 3_044_000 {
            (*copy).set_clientdata = Some(set_client_data);
            (*copy).get_clientdata = Some(client_data);
        }
        copy
    };
    VERSION.store(number.max(ffi::SQLITE_VERSION_NUMBER), Ordering::Relaxed);
    // SAFETY: it copies the addresses, and keeps none of the table itself.
    let taken = unsafe { ffi::rusqlite_extension_init2(copy) };
    VERSION.store(number, Ordering::Relaxed);
    taken.map_err(|error| format!("isle cannot use this SQLite: {error}"))?;
    *first = Some(address);
    Ok(())
}

/// Tells SQLite why it was refused, in memory of its own.
///
/// # Safety
/// Both are what SQLite handed to the entry point.
pub(crate) unsafe fn tell(table: *const Table, message: *mut *mut c_char, reason: &str) {
    let Ok(text) = CString::new(reason.replace('\0', " ")) else { return };
    let bytes = text.as_bytes_with_nul();
    // SAFETY: `malloc` is in every table, and what it gives has as many bytes as were asked for.
    unsafe {
        let Some(malloc) = (!message.is_null()).then(|| (*table).malloc).flatten() else { return };
        let copy = malloc(c_int::try_from(bytes.len()).unwrap_or(0)).cast::<c_char>();
        if !copy.is_null() {
            std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), copy, bytes.len());
            *message = copy;
        }
    }
}

/// `3040001` as `3.40.1`.
pub(crate) fn dotted(number: i32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    unsafe extern "C" fn too_old() -> c_int {
        3_039_004
    }

    unsafe extern "C" fn oldest() -> c_int {
        OLDEST
    }

    unsafe extern "C" fn open(_: *const c_char, _: *mut *mut ffi::sqlite3, _: c_int, _: *const c_char) -> c_int {
        ffi::SQLITE_CANTOPEN
    }

    unsafe extern "C" fn beyond(_: *mut ffi::sqlite3) -> c_int {
        1
    }

    fn table(version: unsafe extern "C" fn() -> c_int) -> Table {
        // SAFETY: every field is a function that may be missing.
        let mut table: Table = unsafe { MaybeUninit::zeroed().assume_init() };
        table.libversion_number = Some(version);
        table
    }

    #[test]
    fn a_sqlite_that_is_too_old_is_told_what_is_needed() {
        // SAFETY: it is a table.
        let refused = unsafe { take_over(&table(too_old)) }.unwrap_err();
        assert_eq!(refused, "isle needs SQLite 3.40.0 or later, this is 3.39.4");
    }

    #[test]
    fn nothing_behind_an_older_table_is_taken_for_a_function_and_a_second_sqlite_is_refused() {
        let mut first = table(oldest);
        // What stands there in memory, behind what that version has.
        first.is_interrupted = Some(beyond);
        // SAFETY: it is a table.
        unsafe { take_over(&first).unwrap() };
        assert_eq!(rusqlite::version_number(), OLDEST, "not what the binding was told");
        let called = std::panic::catch_unwind(|| unsafe { ffi::sqlite3_is_interrupted(std::ptr::null_mut()) });
        assert!(called.is_err(), "it is not there");
        // SAFETY: as above.
        unsafe { take_over(&first).unwrap() };
        let mut second = table(oldest);
        second.open_v2 = Some(open);
        let refused = unsafe { take_over(&second) }.unwrap_err();
        assert!(refused.contains("another copy"), "{refused}");
    }

    #[test]
    fn what_the_binding_keeps_with_a_connection_is_freed_once() {
        unsafe extern "C" fn free(data: *mut c_void) {
            // SAFETY: it is the counter below.
            unsafe { *data.cast::<u32>() += 1 };
        }
        let (mut freed, mut others) = (0u32, 0u32);
        let db = std::ptr::dangling_mut::<u8>().cast::<ffi::sqlite3>();
        let (data, more) = ((&raw mut freed).cast::<c_void>(), (&raw mut others).cast::<c_void>());
        // SAFETY: the counters outlive what is kept.
        unsafe {
            set_client_data(db, c"hook".as_ptr(), data, Some(free));
            set_client_data(db, c"other".as_ptr(), more, Some(free));
            assert_eq!(
                (client_data(db, c"hook".as_ptr()), client_data(db, c"none".as_ptr())),
                (data, std::ptr::null_mut())
            );
            set_client_data(db, c"hook".as_ptr(), std::ptr::null_mut(), None);
            assert!(client_data(db, c"hook".as_ptr()).is_null());
            set_client_data(db, c"other".as_ptr(), std::ptr::null_mut(), None);
        }
        assert_eq!((freed, others), (1, 1));
    }
}
