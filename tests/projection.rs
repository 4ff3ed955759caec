//! Projections against matrices built entry by entry, in float64.

use diq_core::error::DiqError;
use diq_core::projection::{philox, project_rademacher, sketch_matrices, sketch_outer};
use proptest::collection::vec;
use proptest::prelude::*;

const KEY: u64 = 0x0123_4567_89AB_CDEF;

fn number(i: usize) -> f32 {
    ((i * 2_654_435_761) % 1009) as f32 / 1009.0 - 0.5
}

fn numbers(len: usize, shift: usize) -> Vec<f32> {
    (0..len).map(|i| number(i + shift)).collect()
}

/// Sums beside the sums of their magnitudes, which their rounding errors grow with.
struct Expected(Vec<(f64, f64)>);

impl Expected {
    fn new(projected: &[f32]) -> Expected {
        Expected(projected.iter().map(|&start| (f64::from(start), f64::from(start).abs())).collect())
    }

    fn add(&mut self, at: usize, value: f64, magnitude: f64) {
        self.0[at].0 += value;
        self.0[at].1 += magnitude;
    }

    /// `additions` is how many roundings a sum has at most.
    fn check(&self, projected: &[f32], additions: usize) {
        let rounding = additions as f64 * f64::from(f32::EPSILON) / 2.0;
        assert_eq!(projected.len(), self.0.len());
        for (i, (&found, &(expected, magnitude))) in projected.iter().zip(&self.0).enumerate() {
            let error = (f64::from(found) - expected).abs();
            assert!(error <= rounding * magnitude, "at {i}: {found} is not {expected}");
        }
    }
}

/// The entry of the dense matrix, by the book.
fn entry(key: u64, row: u64, column: usize, dim: usize) -> f64 {
    let words = philox(key, [row as u32, (row >> 32) as u32, (column / 128) as u32, 0]);
    let bit = words[column % 128 / 32] >> (column % 32) & 1;
    (if bit == 1 { -1.0 } else { 1.0 }) / (dim as f64).sqrt()
}

/// The column and the sign of an element of a matrix in a sketch, by the book.
fn place(key: u64, o: usize, i: usize, dim: usize) -> (usize, f64) {
    let (q, l) = (i / 16, i % 16);
    let words = philox(key, [o as u32, (q / 2) as u32, 0, 1]);
    let (a, b) = if q % 2 == 0 { (words[0], words[1]) } else { (words[2], words[3]) };
    let block = (u64::from(a) * (dim / 16) as u64) >> 32;
    let lane = l ^ (b >> 16) as usize & 15;
    (block as usize * 16 + lane, if b >> l & 1 == 1 { -1.0 } else { 1.0 })
}

fn check_dense(gradients: &[f32], n: usize, dim: usize, key: u64, first_row: u64) {
    let p = gradients.len() / n;
    let mut projected = numbers(n * dim, 7);
    let mut expected = Expected::new(&projected);
    for row in 0..p {
        for column in 0..dim {
            let entry = entry(key, first_row + row as u64, column, dim);
            for sample in 0..n {
                let product = f64::from(gradients[sample * p + row]) * entry;
                expected.add(sample * dim + column, product, product.abs());
            }
        }
    }
    project_rademacher(gradients, &mut projected, n, key, first_row).unwrap();
    // four products, then 128 such sums, then the result
    expected.check(&projected, 4 + 128 + 2);
}

fn check_matrices(gradients: &[f32], [out, inputs]: [usize; 2], n: usize, dim: usize, key: u64) {
    let mut projected = numbers(n * dim, 7);
    let mut expected = Expected::new(&projected);
    for o in 0..out {
        for i in 0..inputs {
            let (column, sign) = place(key, o, i, dim);
            for sample in 0..n {
                let value = f64::from(gradients[(sample * out + o) * inputs + i]);
                expected.add(sample * dim + column, sign * value, value.abs());
            }
        }
    }
    sketch_matrices(gradients, [out, inputs], &mut projected, n, key).unwrap();
    expected.check(&projected, out * inputs + 17);
}

fn check_outer(delta: &[f32], x: &[f32], [out, inputs]: [usize; 2], offsets: &[i64], dim: usize, key: u64) {
    let n = offsets.len() - 1;
    let mut projected = numbers(n * dim, 7);
    let mut expected = Expected::new(&projected);
    for sample in 0..n {
        for token in offsets[sample] as usize..offsets[sample + 1] as usize {
            for o in 0..out {
                for i in 0..inputs {
                    let (column, sign) = place(key, o, i, dim);
                    let value = f64::from(delta[token * out + o]) * f64::from(x[token * inputs + i]);
                    expected.add(sample * dim + column, sign * value, value.abs());
                }
            }
        }
    }
    sketch_outer(delta, x, [delta.len() / out, out, inputs], offsets, &mut projected, key).unwrap();
    // a sum over tokens, then one over elements
    expected.check(&projected, delta.len() / out + out * inputs + 17);
}

// Random123's kat_vectors, philox4x32 10
#[test]
fn philox_matches_the_published_vectors() {
    let ones = u32::MAX;
    for (key, counter, words) in [
        (0, [0; 4], [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]),
        (u64::MAX, [ones; 4], [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]),
        (
            0x299F_31D0_A409_3822,
            [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1],
        ),
    ] {
        assert_eq!(philox(key, counter), words);
    }
}

#[test]
fn odd_shapes_are_projected_by_the_book() {
    for (n, p, dim) in
        [(1, 1, 16), (1, 15, 64), (2, 16, 128), (3, 17, 144), (5, 63, 400), (7, 137, 256), (65, 3, 32), (1, 1100, 48)]
    {
        check_dense(&numbers(n * p, 0), n, dim, KEY, 0);
    }
    // rows on both sides of 2^32, and the last there are
    check_dense(&numbers(2 * 40, 0), 2, 160, KEY, (1 << 32) - 13);
    check_dense(&numbers(2 * 40, 0), 2, 32, KEY, u64::MAX - 40);
}

#[test]
fn odd_shapes_are_sketched_by_the_book() {
    for dim in [16, 48, 4096] {
        for out in [1, 15, 16, 17, 63, 137] {
            for inputs in [1, 15, 16, 17, 63, 137] {
                check_matrices(&numbers(2 * out * inputs, 0), [out, inputs], 2, dim, KEY);
                let tokens = 9;
                let (delta, x) = (numbers(tokens * out, 1), numbers(tokens * inputs, 2));
                check_outer(&delta, &x, [out, inputs], &[0, 2, 2, 8], dim, KEY);
            }
        }
    }
}

// more rows than stay packed, more tokens than one span, a matrix large enough for several parts
#[test]
fn large_matrices_are_sketched_by_the_book() {
    let (out, inputs, tokens) = (403, 130, 300);
    check_matrices(&numbers(out * inputs, 0), [out, inputs], 1, 16, KEY);
    check_outer(&numbers(tokens * out, 1), &numbers(tokens * inputs, 2), [out, inputs], &[1, 299], 32, KEY);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn projections_match_naive_ones(
        gradients in vec(-8.0f32..8.0, 1..400),
        n in 1usize..9,
        blocks in 1usize..20,
        key in any::<u64>(),
        first_row in 0u64..1 << 63,
    ) {
        let p = gradients.len() / n;
        check_dense(&gradients[..n * p], n, 16 * blocks, key, first_row);
    }

    #[test]
    fn sketches_match_naive_ones(
        values in vec(-8.0f32..8.0, 2000),
        out in 1usize..40,
        inputs in 1usize..40,
        blocks in 1usize..20,
        key in any::<u64>(),
        lengths in vec(0usize..8, 0..4),
    ) {
        let n = values.len() / (out * inputs);
        check_matrices(&values[..n * out * inputs], [out, inputs], n, 16 * blocks, key);
        let mut offsets = vec![0];
        for length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length as i64);
        }
        let tokens = offsets[offsets.len() - 1] as usize + 1;
        let (delta, x) = (&values[..tokens * out], &values[values.len() - tokens * inputs..]);
        check_outer(delta, x, [out, inputs], &offsets, 16 * blocks, key);
    }
}

#[test]
fn halves_of_the_rows_add_up() {
    let (n, p, dim) = (3, 1001, 144);
    let gradients = numbers(n * p, 0);
    let mut whole = vec![0.0; n * dim];
    project_rademacher(&gradients, &mut whole, n, KEY, 5).unwrap();
    let mut halves = vec![0.0; n * dim];
    for (start, end) in [(0, 333), (333, p)] {
        let part: Vec<f32> = gradients.chunks(p).flat_map(|row| &row[start..end]).copied().collect();
        project_rademacher(&part, &mut halves, n, KEY, 5 + start as u64).unwrap();
    }
    for (whole, half) in whole.iter().zip(&halves) {
        assert!((whole - half).abs() < 1e-5, "{whole} is not {half}");
    }
}

#[test]
fn nothing_depends_on_threads_or_on_the_other_samples() {
    let pool = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    // enough columns for several blocks in a task, of one thread
    let (n, p, dim) = (5, 700, 2096);
    let gradients = numbers(n * p, 0);
    let dense = |threads, gradients: &[f32]| {
        let mut projected = vec![0.0; gradients.len() / p * dim];
        let n = gradients.len() / p;
        pool(threads).install(|| project_rademacher(gradients, &mut projected, n, KEY, 0)).unwrap();
        projected
    };
    let (out, inputs, sketch_dim, tokens) = (130, 70, 64, 11);
    let matrices = numbers(n * out * inputs, 0);
    let matrix = |threads, matrices: &[f32]| {
        let n = matrices.len() / (out * inputs);
        let mut projected = vec![0.0; n * sketch_dim];
        pool(threads).install(|| sketch_matrices(matrices, [out, inputs], &mut projected, n, KEY)).unwrap();
        projected
    };
    let (delta, x) = (numbers(tokens * out, 1), numbers(tokens * inputs, 2));
    let outer = |threads, offsets: &[i64]| {
        let mut projected = vec![0.0; (offsets.len() - 1) * sketch_dim];
        pool(threads)
            .install(|| sketch_outer(&delta, &x, [tokens, out, inputs], offsets, &mut projected, KEY))
            .unwrap();
        projected
    };
    let offsets = [0, 3, 4, 8, 8, 11];
    let one = (dense(1, &gradients), matrix(1, &matrices), outer(1, &offsets));
    for threads in [2, 3, 8] {
        assert_eq!(one, (dense(threads, &gradients), matrix(threads, &matrices), outer(threads, &offsets)));
    }
    for sample in 0..n {
        assert_eq!(dense(2, &gradients[sample * p..][..p]), one.0[sample * dim..][..dim]);
        assert_eq!(
            matrix(2, &matrices[sample * out * inputs..][..out * inputs]),
            one.1[sample * sketch_dim..][..sketch_dim]
        );
        assert_eq!(outer(2, &offsets[sample..sample + 2]), one.2[sample * sketch_dim..][..sketch_dim]);
    }
}

// projected gradients that are stored go on being used: another order of additions would be another projection
#[test]
fn bits_stay_as_they_are_in_stores() {
    let hash = |projected: &[f32]| {
        let bytes: Vec<u8> = projected.iter().flat_map(|number| number.to_le_bytes()).collect();
        blake3::hash(&bytes).to_hex()[..16].to_string()
    };
    let mut projected = numbers(7 * 400, 7);
    project_rademacher(&numbers(7 * 1100, 0), &mut projected, 7, KEY, (1 << 32) - 20).unwrap();
    assert_eq!(hash(&projected), "8c5e7b3a62f10525");

    let (out, inputs, tokens) = (203, 137, 300);
    let mut projected = numbers(2 * 400, 7);
    sketch_matrices(&numbers(2 * out * inputs, 0), [out, inputs], &mut projected, 2, KEY).unwrap();
    assert_eq!(hash(&projected), "3784ccafe011279b");

    let (delta, x) = (numbers(tokens * out, 1), numbers(tokens * inputs, 2));
    let mut projected = numbers(2 * 400, 7);
    sketch_outer(&delta, &x, [tokens, out, inputs], &[0, 11, 299], &mut projected, KEY).unwrap();
    assert_eq!(hash(&projected), "378ace6c0162c724");
}

#[test]
fn nothing_to_do() {
    let mut projected = numbers(2 * 32, 0);
    let before = projected.clone();
    project_rademacher(&[], &mut projected, 2, KEY, 0).unwrap();
    sketch_matrices(&[], [0, 5], &mut projected, 2, KEY).unwrap();
    sketch_outer(&[], &[], [0, 3, 5], &[0, 0, 0], &mut projected, KEY).unwrap();
    assert_eq!(projected, before);
    project_rademacher(&[], &mut [], 0, KEY, 0).unwrap();
    sketch_matrices(&[], [3, 5], &mut [], 0, KEY).unwrap();
    sketch_outer(&[1.0; 3], &[1.0; 5], [1, 3, 5], &[1], &mut [], KEY).unwrap();
}

#[test]
fn each_wrong_argument_has_its_error() {
    let dense = |gradients: usize, projected: usize, n, first_row| {
        project_rademacher(&numbers(gradients, 0), &mut numbers(projected, 0), n, KEY, first_row).unwrap_err()
    };
    for dim in [8, 24, 0, (1 << 20) + 16] {
        let error = dense(2 * 3, 2 * dim, 2, 0);
        assert!(matches!(error, DiqError::OutOfRange { .. }));
        assert_eq!(
            error.to_string(),
            format!("columns of projected must be a multiple of 16 in [16, 2**20], got {dim}")
        );
    }
    let error = dense(2 * 3, 2 * 16, 2, u64::MAX - 2).to_string();
    assert_eq!(error, "first_row must be a row with less than 2**64 rows behind it, got 18446744073709551613");
    assert!(matches!(dense(7, 32, 2, 0), DiqError::Ragged { argument: "gradients", .. }));
    assert!(matches!(dense(6, 33, 2, 0), DiqError::Ragged { argument: "projected", .. }));
    let error = dense(6, 0, 0, 0).to_string();
    assert_eq!(error, "gradients has 6 numbers, which is not what its 0 rows need");

    let matrices = |gradients: usize, projected: usize| {
        sketch_matrices(&numbers(gradients, 0), [3, 5], &mut numbers(projected, 0), 2, KEY).unwrap_err()
    };
    assert!(matches!(matrices(29, 32), DiqError::Ragged { argument: "gradients", .. }));
    assert!(matches!(matrices(30, 31), DiqError::Ragged { argument: "projected", .. }));
    assert!(matches!(matrices(30, 40), DiqError::OutOfRange { argument: "columns of projected", .. }));

    let outer = |delta: usize, x: usize, offsets: &[i64], projected: usize| {
        let projected = &mut numbers(projected, 0);
        sketch_outer(&numbers(delta, 0), &numbers(x, 0), [4, 3, 5], offsets, projected, KEY).unwrap_err()
    };
    assert!(matches!(outer(11, 20, &[0, 4], 16), DiqError::Ragged { argument: "delta", .. }));
    assert!(matches!(outer(12, 21, &[0, 4], 16), DiqError::Ragged { argument: "x", .. }));
    assert!(matches!(outer(12, 20, &[0, 4], 17), DiqError::OutOfRange { argument: "columns of projected", .. }));
    assert!(matches!(outer(12, 20, &[], 16), DiqError::Empty { argument: "offsets" }));
    for (offsets, message) in [
        ([0, 5], "offsets must ascend from 0 to 4 tokens, got 5 behind 0"),
        ([-1, 4], "offsets must ascend from 0 to 4 tokens, got -1 behind 0"),
        ([3, 2], "offsets must ascend from 0 to 4 tokens, got 2 behind 3"),
    ] {
        assert_eq!(outer(12, 20, &offsets, 16).to_string(), message);
    }
}

#[test]
fn what_is_not_finite_is_seen() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut gradients = numbers(2 * 48, 0);
        gradients[48 + 20] = bad;
        let mut projected = vec![0.0; 2 * 32];
        project_rademacher(&gradients, &mut projected, 2, KEY, 0).unwrap();
        assert!(projected[..32].iter().all(|number| number.is_finite()));
        assert!(projected[32..].iter().all(|number| !number.is_finite()));
        let mut projected = vec![0.0; 2 * 32];
        sketch_matrices(&gradients, [3, 16], &mut projected, 2, KEY).unwrap();
        assert!(projected[..32].iter().all(|number| number.is_finite()));
        assert!(projected[32..].iter().any(|number| !number.is_finite()));
    }
}
