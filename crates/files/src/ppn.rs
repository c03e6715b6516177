//! Recognises Porcupine wake words by name and size.
//!
//! A `.ppn` file has no mark of its own: its bytes look random. What can be checked is the extension and a size
//! between [`SIZE_MIN_BYTES`] and [`SIZE_MAX_BYTES`]; nothing is read. A file that passes may still be no wake word.

/// The smallest wake word.
pub const SIZE_MIN_BYTES: u64 = 1024;
/// The largest wake word.
pub const SIZE_MAX_BYTES: u64 = 100 * 1024;

const EXTENSION: &str = ".ppn";

/// What a wake word file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ppn {
    /// The file name without its last extension.
    pub name: String,
}

/// Why a file is taken for no wake word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PpnError {
    /// The name does not end in `.ppn`.
    #[error("the file name {file_name:?} does not end in .ppn")]
    Extension {
        /// The name.
        file_name: String,
    },
    /// Nothing but blanks precedes the extension.
    #[error("the file name {file_name:?} has no name before .ppn")]
    NoName {
        /// The name.
        file_name: String,
    },
    /// No wake word has this size.
    #[error("the file {file_name:?} has {bytes} bytes, wake words have {min} to {max}")]
    Size {
        /// The name.
        file_name: String,
        /// Its size.
        bytes: u64,
        /// The smallest size.
        min: u64,
        /// The largest size.
        max: u64,
    },
}

/// Checks the name, without folders, and the size of a file.
///
/// # Errors
/// [`PpnError`] when the extension, the rest of the name or the size is not that of a wake word, in this order.
pub fn check(file_name: &str, size: u64) -> Result<Ppn, PpnError> {
    let split = file_name.len().checked_sub(EXTENSION.len()).and_then(|middle| file_name.split_at_checked(middle));
    let Some((name, extension)) = split else {
        return Err(PpnError::Extension { file_name: file_name.to_owned() });
    };
    if !extension.eq_ignore_ascii_case(EXTENSION) {
        return Err(PpnError::Extension { file_name: file_name.to_owned() });
    }
    if name.trim().is_empty() {
        return Err(PpnError::NoName { file_name: file_name.to_owned() });
    }
    if !(SIZE_MIN_BYTES..=SIZE_MAX_BYTES).contains(&size) {
        let (min, max) = (SIZE_MIN_BYTES, SIZE_MAX_BYTES);
        return Err(PpnError::Size { file_name: file_name.to_owned(), bytes: size, min, max });
    }
    Ok(Ppn { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(file_name: &str) -> String {
        check(file_name, 4096).unwrap().name
    }

    #[test]
    fn sizes_at_the_bounds_are_on_the_right_side_of_them() {
        for size in [1024, 1025, 102_399, 102_400] {
            assert_eq!(check("jarvis.ppn", size), Ok(Ppn { name: "jarvis".to_owned() }), "{size}");
        }
        for size in [0, 1023, 102_401, u64::MAX] {
            let refused = PpnError::Size { file_name: "jarvis.ppn".to_owned(), bytes: size, min: 1024, max: 102_400 };
            assert_eq!(check("jarvis.ppn", size), Err(refused), "{size}");
        }
    }

    #[test]
    fn only_the_last_extension_is_taken_off() {
        assert_eq!(name("a.ppn"), "a");
        assert_eq!(name("a.ppn.ppn"), "a.ppn");
        assert_eq!(name("hey jarvis_en_linux_v3_0_0.ppn"), "hey jarvis_en_linux_v3_0_0");
        assert_eq!(name("v1.2.ppn"), "v1.2");
    }

    #[test]
    fn the_extension_is_compared_without_case_and_the_name_keeps_its_own() {
        assert_eq!(name("Ärger.PPN"), "Ärger");
        assert_eq!(name("HALLO.pPn"), "HALLO");
    }

    #[test]
    fn names_without_a_name_are_refused() {
        for file_name in [".ppn", ".PPN", "  .ppn"] {
            let refused = PpnError::NoName { file_name: file_name.to_owned() };
            assert_eq!(check(file_name, 4096), Err(refused), "{file_name}");
        }
    }

    #[test]
    fn other_extensions_are_refused_also_where_the_cut_falls_into_a_letter() {
        for file_name in ["", "ppn", "a", "a.pp", "a.ppn ", "a.ppn.txt", "appn", "äää", "a.pp\u{ff4e}", "€n", "a€n"]
        {
            let refused = PpnError::Extension { file_name: file_name.to_owned() };
            assert_eq!(check(file_name, 4096), Err(refused), "{file_name}");
        }
    }
}
