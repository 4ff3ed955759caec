//! Dots of a shard against naive ones in float64.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use diq_core::dot::shard_dots;
use diq_core::shard::{Element, SCALE, Shard, TENSOR};
use half::{bf16, f16};
use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};

/// A shard in a file that is gone when the function returns; `gradients` become what `element` holds of them.
fn shard(element: Element, gradients: &mut [f32], dim: usize, shift: usize) -> Shard {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let mut bytes = vec![];
    // powers of two, so that a scaled number is exact
    let scales: Vec<f32> = (0..gradients.len() / dim).map(|row| 2f32.powi(-4 - (row % 5) as i32)).collect();
    for (i, gradient) in gradients.iter_mut().enumerate() {
        match element {
            Element::F32 => bytes.extend(gradient.to_le_bytes()),
            Element::F16 => {
                let stored = f16::from_f32(*gradient);
                *gradient = stored.to_f32();
                bytes.extend(stored.to_le_bytes());
            }
            Element::Bf16 => {
                let stored = bf16::from_f32(*gradient);
                *gradient = stored.to_f32();
                bytes.extend(stored.to_le_bytes());
            }
            Element::I8 => {
                let stored = (*gradient / scales[i / dim]) as i8;
                *gradient = f32::from(stored) * scales[i / dim];
                bytes.extend(stored.to_le_bytes());
            }
        }
    }
    let dtype = match element {
        Element::F32 => Dtype::F32,
        Element::F16 => Dtype::F16,
        Element::Bf16 => Dtype::BF16,
        Element::I8 => Dtype::I8,
    };
    let mut tensors = vec![(TENSOR, TensorView::new(dtype, vec![scales.len(), dim], &bytes).unwrap())];
    let scale_bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    if element == Element::I8 {
        tensors.push((SCALE, TensorView::new(Dtype::F32, vec![scales.len()], &scale_bytes).unwrap()));
    }
    let mut file = serialize(tensors, None).unwrap();
    // a header may have any length, so the data may have any alignment
    let header = u64::from_le_bytes(file[..8].try_into().unwrap());
    file[..8].copy_from_slice(&(header + shift as u64).to_le_bytes());
    for _ in 0..shift {
        file.insert(8 + header as usize, b' ');
    }
    let name = format!("diq-dot-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path: PathBuf = std::env::temp_dir().join(name);
    std::fs::write(&path, file).unwrap();
    let shard = Shard::open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    shard
}

/// Each dot beside the sum of the magnitudes of its products, which its rounding error grows with.
fn naive(gradients: &[f32], vectors: &[f32], dim: usize) -> Vec<(f64, f64)> {
    let mut dots = vec![];
    for gradient in gradients.chunks(dim) {
        for vector in vectors.chunks(dim) {
            let products = gradient.iter().zip(vector).map(|(&a, &b)| f64::from(a) * f64::from(b));
            dots.push((products.clone().sum(), products.map(f64::abs).sum()));
        }
    }
    dots
}

fn check(element: Element, mut gradients: Vec<f32>, vectors: &[f32], dim: usize, shift: usize) {
    let shard = shard(element, &mut gradients, dim, shift);
    let m = vectors.len() / dim;
    let dots = shard_dots(&shard, vectors, m).unwrap();
    let expected = naive(&gradients, vectors, dim);
    assert_eq!(dots.len(), expected.len());
    // a product is rounded once, then once for each of the at most 128 additions of its lane, and once as the result
    let rounding = 130.0 * f64::from(f32::EPSILON) / 2.0;
    for (&dot, (expected, magnitude)) in dots.iter().zip(expected) {
        let error = (f64::from(dot) - expected).abs();
        assert!(error <= rounding * magnitude, "{element:?} {dim}: {dot} is not {expected}");
    }
}

const ELEMENTS: [Element; 4] = [Element::F32, Element::F16, Element::Bf16, Element::I8];

fn number(i: usize) -> f32 {
    ((i * 2_654_435_761) % 1009) as f32 / 1009.0 - 0.5
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn dots_match_naive_ones(
        gradients in vec(-8i8..8, 1..300),
        vectors in vec(-8.0f32..8.0, 600),
        dim in 1usize..70,
        m in 1usize..8,
        shift in 0usize..8,
    ) {
        let gradients: Vec<f32> = gradients[..gradients.len() / dim * dim].iter().map(|&x| f32::from(x) / 4.0).collect();
        for element in ELEMENTS {
            check(element, gradients.clone(), &vectors[..m * dim], dim, shift);
        }
    }
}

#[test]
fn odd_dims() {
    for dim in [1, 31, 32, 33, 63, 137, 4095, 4096, 4097, 9001] {
        let gradients: Vec<f32> = (0..5 * dim).map(number).collect();
        let vectors: Vec<f32> = (0..6 * dim).map(|i| number(i + 500)).collect();
        for (shift, element) in ELEMENTS.into_iter().enumerate() {
            for m in 1..=6 {
                check(element, gradients.clone(), &vectors[..m * dim], dim, shift);
            }
        }
    }
}

#[test]
fn every_float16_is_widened_exactly() {
    let every: Vec<f32> = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()).collect();
    let shard = shard(Element::F16, &mut every.clone(), 1, 0);
    for (dot, expected) in shard_dots(&shard, &[1.0], 1).unwrap().into_iter().zip(every) {
        assert!(dot == expected || dot.is_nan() && expected.is_nan(), "{dot} is not {expected}");
    }
}

#[test]
fn dots_do_not_depend_on_threads_or_on_the_other_vectors() {
    let (rows, dim, m) = (700, 1037, 5);
    let mut gradients: Vec<f32> = (0..rows * dim).map(number).collect();
    let vectors: Vec<f32> = (0..m * dim).map(|i| number(i + 300)).collect();
    for element in ELEMENTS {
        let shard = shard(element, &mut gradients, dim, 0);
        let dots = |threads: usize, vectors: &[f32]| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| shard_dots(&shard, vectors, vectors.len() / dim)).unwrap()
        };
        let one = dots(1, &vectors);
        assert_eq!(one, dots(2, &vectors));
        assert_eq!(one, dots(3, &vectors));
        for (j, vector) in vectors.chunks(dim).enumerate() {
            let column: Vec<f32> = one.iter().skip(j).step_by(m).copied().collect();
            assert_eq!(dots(2, vector), column);
        }
    }
}

// scores that are stored go on being used
#[test]
fn bits_stay_as_they_are_in_stores() {
    let (rows, dim, m) = (9, 9001, 5);
    let vectors: Vec<f32> = (0..m * dim).map(|i| number(i + 300)).collect();
    let hashes = ["481a2227a484a1ea", "0b5923f533503b97", "5c10cd85aaab1a1d", "74b35a99b01b45c0"];
    for (element, hash) in ELEMENTS.into_iter().zip(hashes) {
        let shard = shard(element, &mut (0..rows * dim).map(number).collect::<Vec<f32>>(), dim, 0);
        let dots = shard_dots(&shard, &vectors, m).unwrap();
        let bytes: Vec<u8> = dots.iter().flat_map(|dot| dot.to_le_bytes()).collect();
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], hash, "{element:?}");
    }
}

#[test]
fn no_rows_and_no_vectors() {
    assert!(shard_dots(&shard(Element::F16, &mut [], 5, 0), &[1.0; 10], 2).unwrap().is_empty());
    assert!(shard_dots(&shard(Element::F16, &mut [1.0; 10], 5, 0), &[], 0).unwrap().is_empty());
}

#[test]
fn another_dim_is_refused() {
    let error = shard_dots(&shard(Element::F32, &mut [1.0; 6], 3, 0), &[1.0; 8], 2).unwrap_err().to_string();
    assert!(
        error.starts_with("vectors have 4 columns, but the gradients in ") && error.ends_with(" have 3"),
        "{error}"
    );
}
