//! Shards as others write them, and as they break.

use std::path::PathBuf;

use diq_core::error::DiqError;
use diq_core::shard::{Element, Shard};
use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};

/// A file that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Scratch {
        let path = std::env::temp_dir().join(format!("diq-shard-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn file(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    serialize(views, None).unwrap()
}

fn open_error(name: &str, bytes: &[u8]) -> (DiqError, String) {
    let scratch = Scratch::new(name, bytes);
    let error = Shard::open(&scratch.0).unwrap_err();
    let message = error.to_string();
    let prefix = format!("{}: ", scratch.0.display());
    let message = message.strip_prefix(&prefix).expect("the path comes first").to_owned();
    assert!(!message.contains('\n'), "{message}");
    (error, message)
}

#[test]
fn a_shard_beside_other_tensors() {
    let (ids, gradients) = ([7u8; 24], [1u8, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    for (dtype, element, shape) in
        [(Dtype::F16, Element::F16, [3, 2]), (Dtype::BF16, Element::Bf16, [2, 3]), (Dtype::F32, Element::F32, [3, 1])]
    {
        let bytes = file(&[("ids", Dtype::U8, &[3, 8], &ids), ("gradients", dtype, &shape, &gradients)]);
        let scratch = Scratch::new("beside", &bytes);
        let shard = Shard::open(&scratch.0).unwrap();
        assert_eq!((shard.rows(), shard.dim(), shard.element()), (shape[0], shape[1], element));
        assert_eq!((shard.data(), shard.path()), (&gradients[..], scratch.0.as_path()));
    }
}

#[test]
fn a_scale_for_each_row() {
    let scale: Vec<u8> = [0.5f32, -2.0, 0.0].iter().flat_map(|scale| scale.to_le_bytes()).collect();
    for (dtype, element, shape) in [(Dtype::I8, Element::I8, [3, 4]), (Dtype::F16, Element::F16, [3, 2])] {
        let bytes = file(&[("gradients", dtype, &shape, &[1; 12]), ("scale", Dtype::F32, &[3], &scale)]);
        let scratch = Scratch::new("scale", &bytes);
        let shard = Shard::open(&scratch.0).unwrap();
        assert_eq!((shard.rows(), shard.dim(), shard.element()), (shape[0], shape[1], element));
        assert_eq!((shard.scale(), shard.data()), (Some(&[0.5, -2.0, 0.0][..]), &[1; 12][..]));
    }
    let scratch = Scratch::new("unscaled", &file(&[("gradients", Dtype::F32, &[1, 3], &[0; 12])]));
    assert_eq!(Shard::open(&scratch.0).unwrap().scale(), None);
}

#[test]
fn a_shard_without_rows() {
    let scratch = Scratch::new("none", &file(&[("gradients", Dtype::F16, &[0, 5], &[])]));
    let shard = Shard::open(&scratch.0).unwrap();
    assert_eq!((shard.rows(), shard.dim(), shard.data().len()), (0, 5, 0));
}

#[test]
fn each_defect_has_its_error() {
    let data = [0u8; 24];
    let (error, message) = open_error("name", &file(&[("b", Dtype::U8, &[24], &data), ("a", Dtype::U8, &[24], &data)]));
    assert!(matches!(error, DiqError::ShardTensor { .. }));
    assert_eq!(message, "no tensor `gradients`, found: a, b");
    let (error, message) = open_error("shape", &file(&[("gradients", Dtype::F32, &[6], &data)]));
    assert!(matches!(error, DiqError::ShardShape { .. }));
    assert_eq!(message, "`gradients` must be [rows, dim], got shape [6]");
    let (error, message) = open_error("dtype", &file(&[("gradients", Dtype::F64, &[3, 1], &data)]));
    assert!(matches!(error, DiqError::ShardDtype { .. }));
    assert_eq!(message, "`gradients` must be F32, F16, BF16 or I8, got F64");
    let bytes = ("gradients", Dtype::I8, &[6, 4][..], &data[..]);
    let (error, message) = open_error("unscaled", &file(&[bytes]));
    assert!(matches!(error, DiqError::ShardUnscaled { .. }));
    assert_eq!(message, "I8 `gradients` need a tensor `scale`, F32 of shape [6]");
    let (error, message) = open_error("scale-dtype", &file(&[bytes, ("scale", Dtype::F16, &[6], &data[..12])]));
    assert!(matches!(error, DiqError::ShardScale { .. }));
    assert_eq!(message, "`scale` must be F32 of shape [6], got F16 of shape [6]");
    let (_, message) = open_error("scale-shape", &file(&[bytes, ("scale", Dtype::F32, &[6, 1], &data)]));
    assert_eq!(message, "`scale` must be F32 of shape [6], got F32 of shape [6, 1]");
    let (error, _) = open_error("text", b"\x09\0\0\0\0\0\0\0not json!");
    assert!(matches!(error, DiqError::ShardCorrupt { .. }));
    let missing = Shard::open("/nowhere/shard.safetensors").unwrap_err();
    assert!(matches!(missing, DiqError::Io { .. }));
    assert!(missing.to_string().starts_with("/nowhere/shard.safetensors: "), "{missing}");
}

#[test]
fn every_truncation_is_found() {
    let whole = file(&[("gradients", Dtype::F16, &[3, 4], &[1; 24])]);
    for size in 0..whole.len() {
        let (error, message) = open_error("cut", &whole[..size]);
        assert!(matches!(error, DiqError::ShardTruncated { .. }), "{size}: {message}");
    }
    let (error, _) = open_error("long", &[&whole[..], &[0]].concat());
    assert!(matches!(error, DiqError::ShardTruncated { .. }));
}

proptest! {
    // whatever the damage, the answer is an error or a shard, never a panic
    #[test]
    fn damage_does_not_panic(at in 0usize..120, byte in any::<u8>(), noise in vec(any::<u8>(), 0..64)) {
        let mut bytes = file(&[("gradients", Dtype::F16, &[3, 4], &[1; 24])]);
        let at = at % bytes.len();
        bytes[at] = byte;
        let damaged = Scratch::new("damaged", &bytes);
        if let Ok(shard) = Shard::open(&damaged.0) {
            prop_assert_eq!(shard.data().len(), shard.rows() * shard.dim() * shard.element().bytes());
        }
        let noise = Scratch::new("noise", &noise);
        prop_assert!(Shard::open(&noise.0).is_err());
    }
}
