//! Content hashes: the same text is the same sample, the same bytes are the same file.
//!
//! Source: BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020).

use std::path::Path;

use rayon::prelude::*;

use crate::error::DiqError;

/// Texts that one task hashes.
const TASK: usize = 256;

/// The id of a sample: the first 128 bits of the BLAKE3 hash of `text` in UTF-8, written as a UUID (32 lowercase
/// hexadecimal digits, hyphens after the 8th, 12th, 16th and 20th). The version bits of RFC 9562 are not set.
pub fn sample_id(text: &str) -> String {
    let hash = blake3::hash(text.as_bytes()).to_hex();
    format!("{}-{}-{}-{}-{}", &hash[..8], &hash[8..12], &hash[12..16], &hash[16..20], &hash[20..32])
}

/// [`sample_id`] of every text, in order, on all threads.
pub fn sample_ids<S: AsRef<str> + Sync>(texts: &[S]) -> Vec<String> {
    texts.par_iter().with_min_len(TASK).map(|text| sample_id(text.as_ref())).collect()
}

/// The BLAKE3 hash of a file's bytes: 64 lowercase hexadecimal digits, the same that `b3sum` prints.
///
/// The file is mapped, not read into memory, and hashed on all threads; it must not change meanwhile.
///
/// # Errors
/// [`DiqError::Io`] when the file cannot be opened or read.
pub fn file_hash(path: impl AsRef<Path>) -> Result<String, DiqError> {
    let mut hasher = blake3::Hasher::new();
    let hashed = hasher.update_mmap_rayon(&path);
    hashed.map_err(|source| DiqError::Io { path: path.as_ref().to_path_buf(), source })?;
    Ok(hasher.finalize().to_hex().to_string())
}
