//! Content hashes against the one-line definitions.

use diq_core::error::DiqError;
use diq_core::hash::{file_hash, sample_id, sample_ids};
use proptest::collection::vec;
use proptest::prelude::*;

fn naive_id(text: &str) -> String {
    let mut id = String::new();
    for (i, byte) in blake3::hash(text.as_bytes()).as_bytes()[..16].iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            id.push('-');
        }
        id += &format!("{byte:02x}");
    }
    id
}

proptest! {
    #[test]
    fn sample_ids_match_their_definition(texts in vec(".*", 0..20)) {
        let naive: Vec<String> = texts.iter().map(|text| naive_id(text)).collect();
        prop_assert_eq!(sample_ids(&texts), naive);
    }
}

#[test]
fn sample_ids_do_not_depend_on_threads() {
    let texts: Vec<String> = (0..3000).map(|i| format!("sample {i}")).collect();
    let naive: Vec<String> = texts.iter().map(|text| naive_id(text)).collect();
    for count in 1..=3 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
        assert_eq!(pool.install(|| sample_ids(&texts)), naive);
    }
}

// pinned: a store keeps these ids for ever
#[test]
fn known_ids() {
    assert_eq!(sample_id(""), "af1349b9-f5f9-a1a6-a040-4dea36dcc949");
    assert_eq!(sample_id("abc"), "6437b3ac-3846-5133-ffb6-3b75273a8db5");
}

#[test]
fn file_hashes() {
    let path = std::env::temp_dir().join(format!("diq-hash-{}", std::process::id()));
    // around the size of the blocks that are read
    for size in [0, 1, 16_384, (16 << 20) - 1, 16 << 20, (16 << 20) + 137, 33 << 20] {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(file_hash(&path).unwrap(), blake3::hash(&bytes).to_hex().as_str());
    }
    std::fs::remove_file(&path).unwrap();
    let error = file_hash(&path).unwrap_err();
    assert!(matches!(&error, DiqError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound));
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
}
