//! Random projections of gradients whose matrices are never stored: each entry is a function of a key and its place.
//!
//! The random words come from Philox4x32-10, a hash of a 64-bit key and a counter of four words, so anyone can rebuild
//! any entry, in any order, on any device:
//!
//! - [`project_rademacher`]: the entry of row `r` (row-major index of an element within its parameter matrix
//!   `[out, in]`) and column `c` is -1 or +1, over the square root of dim. With
//!   `words = philox(key, [r mod 2^32, r / 2^32, c / 128, 0])`, it is negative where bit `c % 32` of
//!   `words[c % 128 / 32]` is set.
//! - [`sketch_matrices`] and [`sketch_outer`]: a signed count sketch. 16 neighbouring elements of a row of the matrix
//!   share a block of 16 columns: element `(o, i)` with `q = i / 16` and `l = i % 16` has
//!   `words = philox(key, [o, q / 2, 0, 1])`, of which `[a, b]` are the first two when `q` is even, the last two when
//!   it is odd; it is added to column `16 * (a * (dim / 16) >> 32) + (l ^ (b >> 16 & 15))`, negated where bit `l` of
//!   `b` is set.
//!
//! All instruction sets and all numbers of threads give the same bits: sums run over rows and tokens in one fixed
//! order, and are split between threads by column, by sample, or into parts that depend on the matrix's shape and dim
//! alone. This file checks shapes, splits the work and chooses kernels by what the processor has; `dense.rs` and
//! `sketch.rs` hold the kernels, `philox.rs` the random words.
//!
//! Source: Achlioptas (2003), Theorem 1.1 (entries of one bit); Charikar, Chen and Farach-Colton (2002) (count sketch).

use std::ops::Range;

use rayon::prelude::*;

use crate::dense::{self, COLUMNS};
use crate::error::DiqError;
use crate::philox::keys;
pub use crate::philox::philox;
use crate::simd::{InstructionSet, Line};
use crate::sketch::{self, GROUP};

/// Samples that share one making of the signs.
const SAMPLES: usize = 64;
/// Blocks of columns of one task, at most.
const BLOCKS: usize = 4;
/// Sketches into which a large matrix is split.
const PARTS: usize = 16;
/// Elements of a matrix that are worth a sketch of their own, for each column of it.
const PART_ELEMENTS: usize = 8;
/// Largest dim of a sketch: a block number times 16 must fit 32 bits with room to spare.
const LARGEST_SKETCH: usize = 1 << 30;
/// Largest dim of a dense projection.
const LARGEST_DENSE: usize = 1 << 20;

/// Adds `gradients @ P[first_row..first_row + p]` to `projected`, with `P` the dense matrix of signs of this module.
///
/// `gradients`: `[n, p]`, row-major. `projected`: `[n, dim]`, row-major, dim a multiple of 16, 16 to 2^20. A call for
/// rows `0..p` equals two calls for its halves up to float32 rounding. A gradient that is not finite leaves no number
/// of its row finite.
///
/// O(n * p * dim) time; the signs are made once for every 64 samples.
///
/// # Errors
/// [`DiqError::OutOfRange`] when dim is not such a multiple, or the rows do not all have numbers below 2^64;
/// [`DiqError::Ragged`] when an argument has not the length that its shape needs.
pub fn project_rademacher(
    gradients: &[f32],
    projected: &mut [f32],
    n: usize,
    key: u64,
    first_row: u64,
) -> Result<(), DiqError> {
    project_with(InstructionSet::fastest(), gradients, projected, n, key, first_row)
}

/// Adds the sketch of each matrix of `gradients` to `projected`.
///
/// `gradients`: `[n, out, in]`, row-major, with `shape` = `[out, in]`. `projected`: `[n, dim]`, row-major, dim a
/// multiple of 16, 16 to 2^30. A gradient that is not finite leaves its row not finite somewhere.
///
/// O(n * out * in) time; the gradients are read once. A matrix of at least 8 * dim elements is split between threads.
///
/// # Errors
/// As for [`project_rademacher`].
pub fn sketch_matrices(
    gradients: &[f32],
    shape: [usize; 2],
    projected: &mut [f32],
    n: usize,
    key: u64,
) -> Result<(), DiqError> {
    matrices_with(InstructionSet::fastest(), gradients, shape, projected, n, key)
}

/// Adds the sketch of each sample's gradient to `projected`: the sum of `delta_t^T x_t` over the sample's tokens.
///
/// `delta`: `[t, out]` and `x`: `[t, in]`, row-major, with `shape` = `[t, out, in]`. `offsets`: `n + 1` numbers; the
/// tokens of sample `s` are `offsets[s]..offsets[s + 1]`. `projected`: `[n, dim]`, row-major, dim a multiple of 16, 16
/// to 2^30. Equals [`sketch_matrices`] of the gradients up to float32 rounding; no gradient is ever in memory, only
/// tiles of it.
///
/// O(t * out * in) time.
///
/// # Errors
/// As for [`sketch_matrices`]; [`DiqError::Empty`] and [`DiqError::Offsets`] when there are no `offsets`, or they
/// descend or leave the tokens.
pub fn sketch_outer(
    delta: &[f32],
    x: &[f32],
    shape: [usize; 3],
    offsets: &[i64],
    projected: &mut [f32],
    key: u64,
) -> Result<(), DiqError> {
    outer_with(InstructionSet::fastest(), delta, x, shape, offsets, projected, key)
}

fn project_with(
    set: InstructionSet,
    gradients: &[f32],
    projected: &mut [f32],
    n: usize,
    key: u64,
    first_row: u64,
) -> Result<(), DiqError> {
    let p = row_length("gradients", gradients.len(), n)?;
    let dim = row_length("projected", projected.len(), n)?;
    check_dim(dim, n, LARGEST_DENSE, "a multiple of 16 in [16, 2**20]")?;
    if first_row.checked_add(p as u64).is_none() {
        let allowed = "a row with less than 2**64 rows behind it";
        return Err(DiqError::OutOfRange { argument: "first_row", allowed, found: first_row.to_string() });
    }
    if gradients.is_empty() {
        return Ok(());
    }
    let (kernel, keys) = (dense::kernel(set), keys(key));
    let scale = 1.0 / (dim as f64).sqrt();
    let shared = Shared(projected.as_mut_ptr());
    let (blocks, tiles) = (dim.div_ceil(COLUMNS), n.div_ceil(SAMPLES));
    // some tasks for each thread; more blocks in one share what is made of the gradients
    let width = COLUMNS * (blocks * tiles / (4 * rayon::current_num_threads())).clamp(1, BLOCKS);
    let tasks = dim.div_ceil(width);
    (0..tasks * tiles).into_par_iter().for_each(|task| {
        let (column, first) = (task % tasks * width, task / tasks * SAMPLES);
        let samples = SAMPLES.min(n - first);
        let columns = width.min(dim - column);
        let mut totals = vec![0.0; samples * columns];
        let gradients = &gradients[first * p..][..samples * p];
        // SAFETY: this processor has the instructions of `set`.
        unsafe { kernel(&keys, first_row, (column / COLUMNS) as u32, gradients, samples, &mut totals) };
        for (sample, totals) in totals.chunks_exact(columns).enumerate() {
            // SAFETY: the row is one of `n` and the columns end at dim at the latest, so the slice lies within
            // `projected`; no other task has both these samples and these columns.
            let numbers =
                unsafe { std::slice::from_raw_parts_mut(shared.get().add((first + sample) * dim + column), columns) };
            for (number, total) in numbers.iter_mut().zip(totals) {
                *number = (f64::from(*number) + total * scale) as f32;
            }
        }
    });
    Ok(())
}

fn matrices_with(
    set: InstructionSet,
    gradients: &[f32],
    [out, inputs]: [usize; 2],
    projected: &mut [f32],
    n: usize,
    key: u64,
) -> Result<(), DiqError> {
    check_matrix([out, inputs])?;
    if gradients.len() != n * out * inputs {
        return Err(DiqError::Ragged { argument: "gradients", len: gradients.len(), rows: n * out });
    }
    let (kernel, keys) = (sketch::matrix_kernel(set), keys(key));
    add_sketches(projected, n, [out, inputs], |sample, rows, sketch| {
        let matrix = &gradients[sample * out * inputs..][..out * inputs];
        // SAFETY: this processor has the instructions of `set`.
        unsafe { kernel(&keys, matrix, inputs, rows, sketch) }
    })
}

fn outer_with(
    set: InstructionSet,
    delta: &[f32],
    x: &[f32],
    [tokens, out, inputs]: [usize; 3],
    offsets: &[i64],
    projected: &mut [f32],
    key: u64,
) -> Result<(), DiqError> {
    check_matrix([out, inputs])?;
    for (argument, len, columns) in [("delta", delta.len(), out), ("x", x.len(), inputs)] {
        if len != tokens * columns {
            return Err(DiqError::Ragged { argument, len, rows: tokens });
        }
    }
    let Some(n) = offsets.len().checked_sub(1) else {
        return Err(DiqError::Empty { argument: "offsets" });
    };
    let mut previous = 0;
    for &offset in offsets {
        if offset < previous || offset as usize > tokens {
            return Err(DiqError::Offsets { tokens, found: offset, previous });
        }
        previous = offset;
    }
    let (kernel, keys) = (sketch::outer_kernel(set), keys(key));
    add_sketches(projected, n, [out, inputs], |sample, rows, sketch| {
        let tokens = offsets[sample] as usize..offsets[sample + 1] as usize;
        let delta = &delta[tokens.start * out..tokens.end * out];
        let x = &x[tokens.start * inputs..tokens.end * inputs];
        // SAFETY: this processor has the instructions of `set`.
        unsafe { kernel(&keys, delta, x, [out, inputs], rows, sketch) }
    })
}

/// Adds to each row of `projected` the sketch of its sample's matrix, made by `add(sample, rows of the matrix,
/// sketch)`.
fn add_sketches(
    projected: &mut [f32],
    n: usize,
    [out, inputs]: [usize; 2],
    add: impl Fn(usize, Range<usize>, &mut [Line]) + Sync,
) -> Result<(), DiqError> {
    let dim = row_length("projected", projected.len(), n)?;
    check_dim(dim, n, LARGEST_SKETCH, "a multiple of 16 in [16, 2**30]")?;
    if n == 0 || out == 0 || inputs == 0 {
        return Ok(());
    }
    // a function of the shape and dim alone, so that neither threads nor the other samples change a sum
    let parts = (out * inputs / (PART_ELEMENTS * dim)).clamp(1, PARTS);
    let rows = out.div_ceil(parts);
    projected.par_chunks_mut(dim).enumerate().for_each(|(sample, projected)| {
        let sketch = |part: usize| {
            let mut sketch = vec![Line([0.0; GROUP]); dim / GROUP];
            add(sample, (part * rows).min(out)..((part + 1) * rows).min(out), &mut sketch);
            sketch
        };
        let sketches: Vec<Vec<Line>> = (0..parts).into_par_iter().map(sketch).collect();
        for sketch in sketches {
            for (numbers, line) in projected.as_chunks_mut::<GROUP>().0.iter_mut().zip(&sketch) {
                *numbers = std::array::from_fn(|lane| numbers[lane] + line.0[lane]);
            }
        }
    });
    Ok(())
}

/// Length of each of the `n` rows that `len` numbers are.
fn row_length(argument: &'static str, len: usize, n: usize) -> Result<usize, DiqError> {
    match len.checked_rem(n) {
        Some(0) => Ok(len / n),
        None if len == 0 => Ok(0),
        _ => Err(DiqError::Ragged { argument, len, rows: n }),
    }
}

fn check_dim(dim: usize, n: usize, largest: usize, allowed: &'static str) -> Result<(), DiqError> {
    if n > 0 && (!dim.is_multiple_of(GROUP) || dim < GROUP || dim > largest) {
        return Err(DiqError::OutOfRange { argument: "columns of projected", allowed, found: dim.to_string() });
    }
    Ok(())
}

/// Rows and pairs of groups must fit the words of a counter.
fn check_matrix([out, inputs]: [usize; 2]) -> Result<(), DiqError> {
    if out as u64 > 1 << 32 || inputs as u64 > 1 << 32 {
        let found = format!("[{out}, {inputs}]");
        return Err(DiqError::OutOfRange { argument: "a matrix", allowed: "at most 2**32 rows and columns", found });
    }
    Ok(())
}

/// A pointer that several threads may use; each must keep to numbers that no other uses.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

impl Shared {
    // a method, so that closures capture the whole value and not its pointer
    fn get(self) -> *mut f32 {
        self.0
    }
}

// SAFETY: the pointer alone does nothing; those who use it promise to keep to their own numbers.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(i: usize) -> f32 {
        ((i * 2_654_435_761) % 1009) as f32 / 1009.0 - 0.5
    }

    fn bits(projected: &[f32]) -> Vec<u32> {
        projected.iter().map(|number| number.to_bits()).collect()
    }

    /// Checks that all instruction sets add the same to the same start.
    fn check(what: &str, len: usize, add: impl Fn(InstructionSet, &mut [f32])) {
        let results = InstructionSet::all().map(|set| {
            let mut projected: Vec<f32> = (0..len).map(|i| number(i + 77)).collect();
            add(set, &mut projected);
            (set, bits(&projected))
        });
        let results: Vec<_> = results.collect();
        let portable = &results[results.len() - 1].1;
        for (set, result) in &results {
            assert!(result == portable, "{what}: {set:?} differs from portable");
        }
    }

    // the other kernels cannot be reached through the public functions on one machine
    #[test]
    fn every_kernel_projects_to_the_same_bits() {
        for (n, p, dim) in
            [(1, 1, 16), (2, 63, 48), (3, 512, 128), (7, 513, 144), (13, 137, 272), (65, 17, 128), (6, 70, 2096)]
        {
            let gradients: Vec<f32> = (0..n * p).map(number).collect();
            check(&format!("{n} {p} {dim}"), n * dim, |set, projected| {
                // rows on both sides of 2^32
                project_with(set, &gradients, projected, n, 0x1234_5678_9ABC_DEF0, (1 << 32) - 20).unwrap();
            });
        }
    }

    #[test]
    fn every_kernel_sketches_to_the_same_bits() {
        for (out, inputs, dim) in [(1, 1, 16), (7, 63, 48), (13, 137, 64), (200, 65, 128), (5, 16, 4096), (17, 15, 32)]
        {
            let n = 3;
            let gradients: Vec<f32> = (0..n * out * inputs).map(number).collect();
            check(&format!("matrices {out} {inputs} {dim}"), n * dim, |set, projected| {
                matrices_with(set, &gradients, [out, inputs], projected, n, u64::MAX - 5).unwrap();
            });
            let tokens = 2 * sketch::TOKENS + 3;
            let delta: Vec<f32> = (0..tokens * out).map(number).collect();
            let x: Vec<f32> = (0..tokens * inputs).map(|i| number(i + 5)).collect();
            let offsets = [0, 1, 1, tokens as i64];
            check(&format!("outer {out} {inputs} {dim}"), n * dim, |set, projected| {
                outer_with(set, &delta, &x, [tokens, out, inputs], &offsets, projected, 42).unwrap();
            });
        }
    }
}
