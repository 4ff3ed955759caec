//! Content hashes: the same text is the same sample, the same bytes are the same file.
//!
//! Source: BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use rayon::prelude::*;

use crate::error::DiqError;

/// Texts that one task hashes.
const TASK: usize = 256;
/// Bytes of a file that are read at a time; enough for all threads to share.
const BLOCK: usize = 16 << 20;

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
/// The file is read in blocks, each hashed on all threads. A memory map would be a little faster, but every page of it
/// counts as memory of the process, and a 5 GB file must not look like 5 GB.
///
/// # Errors
/// [`DiqError::Io`] when the file cannot be opened or read.
pub fn file_hash(path: impl AsRef<Path>) -> Result<String, DiqError> {
    let path = path.as_ref();
    let failed = |source| DiqError::Io { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut block = vec![0; BLOCK];
    let mut hasher = blake3::Hasher::new();
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(hasher.finalize().to_hex().to_string()),
            Ok(n) => {
                hasher.update_rayon(&block[..n]);
            }
            Err(source) if source.kind() == ErrorKind::Interrupted => {}
            Err(source) => return Err(failed(source)),
        }
    }
}
