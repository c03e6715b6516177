//! Why a file is refused.

/// Why a GGUF file is refused. Offsets are bytes from the start of the file; long names are shortened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file is of another kind.
    #[error("the file is no gguf model: it does not begin with \"GGUF\"")]
    Foreign,
    /// The file is of version 1, whose lengths have another width.
    #[error("the model has gguf version 1, which is outdated: convert it to version 3")]
    Outdated,
    /// The file was written for machines of the other byte order.
    #[error("the model is big-endian (gguf version {version}), only little-endian models can be read")]
    BigEndian {
        /// Its version.
        version: u32,
    },
    /// The version is not known.
    #[error("the model has gguf version {found}, only versions 2 and 3 can be read")]
    Version {
        /// What was read.
        found: u32,
    },
    /// The file ends before what it claims to hold.
    #[error("the file is truncated: for {place}, at byte {offset}, at least {missing} bytes are missing")]
    Truncated {
        /// What does not fit.
        place: String,
        /// Where it begins.
        offset: u64,
        /// How many bytes are missing at its end, or more; exact for tensor data.
        missing: u64,
    },
    /// The file claims more of something than any model has.
    #[error("the file claims {claimed} {what} at byte {offset}, at most {max} are allowed")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// Where the claim is.
        offset: u64,
        /// How many there are said to be.
        claimed: u64,
        /// The bound.
        max: u64,
    },
    /// A name is too long.
    #[error("{place} at byte {offset} has {bytes} bytes, at most {max} are allowed")]
    NameTooLong {
        /// Which name.
        place: String,
        /// Where it begins.
        offset: u64,
        /// Its length.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// A name is no text.
    #[error("{place} at byte {offset} is not UTF-8")]
    NotUtf8 {
        /// Which name.
        place: String,
        /// Where it begins.
        offset: u64,
    },
    /// The metadata is too large to be kept.
    #[error("the metadata takes more than {max} bytes, counted up to {place} at byte {offset}")]
    MetadataTooLarge {
        /// What exceeds the bound.
        place: String,
        /// Where it is.
        offset: u64,
        /// The bound.
        max: u64,
    },
    /// A key appears twice.
    #[error("the key {key:?} appears a second time at byte {offset}")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it appears again.
        offset: u64,
    },
    /// A value has a type that the format does not define.
    #[error("{place} has the unknown type {found} at byte {offset}")]
    ValueType {
        /// Which value.
        place: String,
        /// Where the type is.
        offset: u64,
        /// What was read.
        found: u32,
    },
    /// A truth value is neither 0 nor 1.
    #[error("{place} holds {found} at byte {offset} where only 0 or 1 can be")]
    Bool {
        /// Which value.
        place: String,
        /// Where it is.
        offset: u64,
        /// What was read.
        found: u8,
    },
    /// Arrays are nested too deeply.
    #[error("{place} nests arrays more than {max} deep at byte {offset}")]
    TooDeep {
        /// Which value.
        place: String,
        /// Where the innermost array begins.
        offset: u64,
        /// The bound.
        max: u32,
    },
    /// The alignment has a type other than `uint32`.
    #[error("general.alignment at byte {offset} is of type {found}, it must be uint32")]
    AlignmentType {
        /// Where the value is.
        offset: u64,
        /// Its type.
        found: &'static str,
    },
    /// The alignment is none.
    #[error("general.alignment at byte {offset} is {found}, it must be a multiple of 8 above 0")]
    Alignment {
        /// Where the value is.
        offset: u64,
        /// What was read.
        found: u32,
    },
    /// The file does not say what kind of model it holds.
    #[error("general.architecture is missing, empty or no string")]
    NoArchitecture,
    /// A tensor has too many dimensions.
    #[error("{place} has {found} dimensions at byte {offset}, at most {max} are allowed")]
    Dimensions {
        /// Which tensor.
        place: String,
        /// Where its number of dimensions is.
        offset: u64,
        /// What was read.
        found: u32,
        /// The bound.
        max: u32,
    },
    /// Sizes of tensors exceed what 64 bits can count.
    #[error("the size of {place}, described at byte {offset}, exceeds 64 bits")]
    Overflow {
        /// At which tensor.
        place: String,
        /// Where its description begins.
        offset: u64,
    },
    /// A row of a tensor does not fill the blocks of its type.
    #[error("{place}, described at byte {offset}, has rows of {row} items, its type needs a multiple of {block}")]
    PartialBlock {
        /// Which tensor.
        place: String,
        /// Where its description begins.
        offset: u64,
        /// The items in a row.
        row: u64,
        /// The items in a block.
        block: u64,
    },
    /// The data of a tensor begins where none can.
    #[error("{place} has the data offset {found} at byte {offset}, it must be a multiple of {alignment}")]
    Misaligned {
        /// Which tensor.
        place: String,
        /// Where the data offset is stored.
        offset: u64,
        /// What was read.
        found: u64,
        /// The alignment of the file.
        alignment: u64,
    },
    /// The input failed, or is shorter than its size says.
    #[error("the model cannot be read at byte {offset}")]
    Read {
        /// Where reading failed.
        offset: u64,
        /// Why.
        source: std::io::Error,
    },
}
