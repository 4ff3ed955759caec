//! Everything that can go wrong in the core, one variant a cause.

use std::path::PathBuf;

/// What went wrong, in one line that names the argument or the file.
#[derive(Debug, thiserror::Error)]
pub enum DiqError {
    /// An argument that needs at least one value has none.
    #[error("{argument} is empty")]
    Empty {
        /// Name of the argument.
        argument: &'static str,
    },
    /// An argument holds NaN or an infinity where only numbers make sense.
    #[error("{argument} is not finite at row {row}")]
    NonFinite {
        /// Name of the argument.
        argument: &'static str,
        /// First row, 0-based, that is not finite.
        row: usize,
    },
    /// Two arguments that describe the same rows differ in length.
    #[error("{argument} has {found} rows, but {other} has {expected}")]
    Length {
        /// Name of the argument with the wrong length.
        argument: &'static str,
        /// Its length.
        found: usize,
        /// Name of the argument that it must match.
        other: &'static str,
        /// The length of that argument.
        expected: usize,
    },
    /// An argument has too many or too few numbers for its rows.
    #[error("{argument} has {len} numbers, which is not what its {rows} rows need")]
    Ragged {
        /// Name of the argument.
        argument: &'static str,
        /// How many numbers it has.
        len: usize,
        /// How many rows it should have.
        rows: usize,
    },
    /// A number lies outside its range.
    #[error("{argument} must be {allowed}, got {found}")]
    OutOfRange {
        /// Name of the argument.
        argument: &'static str,
        /// The range in words.
        allowed: &'static str,
        /// The number as given.
        found: String,
    },
    /// A validity bitmap ends before the rows that it describes.
    #[error("a validity bitmap of {bits} bits is too short for {rows} rows from bit {offset} on")]
    Validity {
        /// Bits of the bitmap.
        bits: usize,
        /// The bit of the first row.
        offset: usize,
        /// Number of rows.
        rows: usize,
    },
    /// More rows than the 32-bit row numbers of a ranking can name.
    #[error("{rows} rows are more than one ranking holds ({max})", max = u32::MAX)]
    TooManyRows {
        /// Number of rows given.
        rows: usize,
    },
    /// An array is not contiguous in memory, so it cannot be borrowed.
    #[error("{argument} is not contiguous and aligned; pass numpy.ascontiguousarray({argument})")]
    Strided {
        /// Name of the argument.
        argument: &'static str,
    },
    /// An array that is written in place cannot be written.
    #[error("{argument} is read-only, but is written in place")]
    ReadOnly {
        /// Name of the argument.
        argument: &'static str,
    },
    /// An array shares memory with one that is being written, or is used by another call that writes.
    #[error("{argument} shares memory with an array that is being written")]
    InUse {
        /// Name of the argument.
        argument: &'static str,
    },
    /// Offsets do not cut the tokens into samples.
    #[error("offsets must ascend from 0 to {tokens} tokens, got {found} behind {previous}")]
    Offsets {
        /// Number of tokens.
        tokens: usize,
        /// The first offset that is out of order or out of range.
        found: i64,
        /// The offset before it.
        previous: i64,
    },
    /// An array has the wrong number of dimensions.
    #[error("{argument} must be {expected}-dimensional, got {found} dimensions")]
    Dimensions {
        /// Name of the argument.
        argument: &'static str,
        /// Number of dimensions that it must have.
        expected: usize,
        /// Number of dimensions that it has.
        found: usize,
    },
    /// An argument is not an array of a supported element type.
    #[error("{argument} must be {expected}, got {found}")]
    Type {
        /// Name of the argument.
        argument: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// Vectors and shard differ in dimension.
    #[error("vectors have {found} columns, but the gradients in {path} have {expected}", path = path.display())]
    Dim {
        /// The shard.
        path: PathBuf,
        /// Columns of the vectors.
        found: usize,
        /// Columns of the gradients.
        expected: usize,
    },
    /// A shard ends before (or goes on after) what its header announces.
    #[error("{path}: {bytes} bytes are not what the header announces; the file is truncated or was not closed", path = path.display())]
    ShardTruncated {
        /// The shard.
        path: PathBuf,
        /// Its size.
        bytes: usize,
    },
    /// A shard's header is not a safetensors header.
    #[error("{path}: not a safetensors file: {reason}", path = path.display())]
    ShardCorrupt {
        /// The shard.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },
    /// A shard has no tensor `gradients`.
    #[error("{path}: no tensor `gradients`, found: {found}", path = path.display())]
    ShardTensor {
        /// The shard.
        path: PathBuf,
        /// Names of the tensors that it has.
        found: String,
    },
    /// The tensor `gradients` is not two-dimensional.
    #[error("{path}: `gradients` must be [rows, dim], got shape {found:?}", path = path.display())]
    ShardShape {
        /// The shard.
        path: PathBuf,
        /// Its shape.
        found: Vec<usize>,
    },
    /// The tensor `gradients` has an element type that the core does not read.
    #[error("{path}: `gradients` must be F32, F16, BF16 or I8, got {found}", path = path.display())]
    ShardDtype {
        /// The shard.
        path: PathBuf,
        /// Its element type.
        found: String,
    },
    /// The tensor `scale` is not one float32 a row.
    #[error("{path}: `scale` must be F32 of shape [{rows}], got {found}", path = path.display())]
    ShardScale {
        /// The shard.
        path: PathBuf,
        /// Rows of `gradients`.
        rows: usize,
        /// Its element type and shape.
        found: String,
    },
    /// The gradients are integers without a scale.
    #[error("{path}: I8 `gradients` need a tensor `scale`, F32 of shape [{rows}]", path = path.display())]
    ShardUnscaled {
        /// The shard.
        path: PathBuf,
        /// Rows of `gradients`.
        rows: usize,
    },
    /// The operating system refused to open or read a file.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
