//! Kernels of the count sketch: adding the elements of a matrix, given or a sum of outer products, to their places.
//!
//! The sketch moves whole blocks so that it is a vector addition to one cache line instead of 16 scalar ones. Elements
//! of one group of 16 never meet; any two others land in the same block with probability 16 / dim and then, because the
//! permutations are independent, in the same column with probability 1 / 16. So no two elements meet more often than
//! with probability 1 / dim, as in a plain count sketch, and each has a sign of its own: inner products are kept in
//! expectation and their variance is that of a plain count sketch, or less.

use std::ops::Range;

use crate::philox::{COUNTERS, Keys, Random};
use crate::simd::{InstructionSet, LINE, Line, Portable, Register};

/// Neighbouring elements that share a block of a sketch: one line of the cache.
pub const GROUP: usize = LINE;
/// Tokens whose outer products are summed before they are added to the sketch.
pub const TOKENS: usize = 256;
/// Columns of a tile of outer products.
const PANEL: usize = 64;
/// Rows of a tile of outer products.
const ROWS: usize = 6;
/// Rows of outer products whose factors stay in the cache; a multiple of [`ROWS`].
const PACKED_ROWS: usize = 192;

/// Adds some rows of one matrix to a sketch: keys, matrix, its columns, rows, sketch. Needs the instructions of its set.
pub type MatrixKernel = unsafe fn(&Keys, &[f32], usize, Range<usize>, &mut [Line]);
/// Adds some rows of a sum of outer products to a sketch: keys, `[t, out]` delta, `[t, in]` x, `[out, in]`, rows, sketch.
/// Needs the instructions of its set.
pub type OuterKernel = unsafe fn(&Keys, &[f32], &[f32], [usize; 2], Range<usize>, &mut [Line]);

/// The kernel of an instruction set; those of all sets give the same bits.
pub fn matrix_kernel(set: InstructionSet) -> MatrixKernel {
    match set {
        InstructionSet::Portable => matrix::<Portable>,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2(_) => x86::avx2_matrix,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512(_) => x86::avx512_matrix,
    }
}

/// As [`matrix_kernel`].
pub fn outer_kernel(set: InstructionSet) -> OuterKernel {
    match set {
        InstructionSet::Portable => outer::<Portable, 2>,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2(_) => x86::avx2_outer,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512(_) => x86::avx512_outer,
    }
}

/// A register that adds to a sketch. As unsafe as [`Random`].
trait Scatter: Random {
    /// Adds a group of 16 numbers to the block of `sketch`, of `blocks`, that the words `a` and `b` choose.
    unsafe fn scatter(group: *const f32, ab: [u32; 2], blocks: usize, sketch: *mut f32);
}

impl Scatter for Portable {
    #[inline(always)]
    unsafe fn scatter(group: *const f32, [a, b]: [u32; 2], blocks: usize, sketch: *mut f32) {
        // SAFETY: the caller promises a group, and a sketch in which the block lies.
        unsafe {
            let block = sketch.add(block(a, blocks) * GROUP);
            for lane in 0..GROUP {
                let sign = b >> lane << 31;
                let value = f32::from_bits(group.add(lane).read_unaligned().to_bits() ^ sign);
                *block.add(lane ^ ((b >> 16) as usize % GROUP)) += value;
            }
        }
    }
}

/// The block that the word `a` chooses.
#[inline(always)]
fn block(a: u32, blocks: usize) -> usize {
    ((u64::from(a) * blocks as u64) >> 32) as usize
}

/// A [`MatrixKernel`].
///
/// # Safety
/// The processor must have the instructions of `R`.
#[inline(always)]
unsafe fn matrix<R: Scatter>(keys: &Keys, matrix: &[f32], inputs: usize, rows: Range<usize>, sketch: &mut [Line]) {
    assert!(rows.end * inputs <= matrix.len());
    let pairs = inputs.div_ceil(2 * GROUP);
    let blocks = sketch.len();
    let sketch = sketch.as_mut_ptr().cast();
    // hashes of different counters overlap, so many are made in one go
    const CHUNK: usize = 8 * COUNTERS;
    let mut words = [[0; 4]; CHUNK];
    let mut counters = [0; CHUNK];
    let (mut row, mut pair) = (rows.start, 0);
    while row < rows.end {
        let mut count = 0;
        while count < CHUNK && row < rows.end {
            counters[count] = row as u64 | (pair as u64) << 32;
            count += 1;
            pair += 1;
            if pair == pairs {
                (row, pair) = (row + 1, 0);
            }
        }
        let chunks = counters.as_chunks::<COUNTERS>().0.iter().zip(words.as_chunks_mut::<COUNTERS>().0);
        for (counters, words) in chunks.take(count.div_ceil(COUNTERS)) {
            // SAFETY: the caller promises the instructions.
            unsafe { R::random(keys, counters, [0, 1], words) }
        }
        for (&counter, words) in counters[..count].iter().zip(&words) {
            let (row, column) = (counter as u32 as usize, (counter >> 32) as usize * 2 * GROUP);
            let values = &matrix[row * inputs..][..inputs][column..];
            let mut tail = [0.0; 2 * GROUP];
            let values = values.first_chunk().unwrap_or_else(|| {
                fill(&mut tail, values);
                &tail
            });
            let [a, b, c, d] = *words;
            // SAFETY: the caller promises the instructions; a group is GROUP numbers, and `sketch` has `blocks` lines.
            unsafe {
                R::scatter(values.as_ptr(), [a, b], blocks, sketch);
                R::scatter(values.as_ptr().add(GROUP), [c, d], blocks, sketch);
            }
        }
    }
}

/// An [`OuterKernel`]. `Q` registers of columns make a tile; they divide a panel, and `R::WIDTH * Q` is a multiple of a
/// group.
///
/// # Safety
/// The processor must have the instructions of `R`.
#[inline(always)]
unsafe fn outer<R: Scatter, const Q: usize>(
    keys: &Keys,
    delta: &[f32],
    x: &[f32],
    [out, inputs]: [usize; 2],
    rows: Range<usize>,
    sketch: &mut [Line],
) {
    const PAIRS: usize = PANEL / (2 * GROUP);
    let all = delta.len() / out;
    assert!(rows.end <= out && x.len() == all * inputs);
    let blocks = sketch.len();
    let sketch = sketch.as_mut_ptr().cast();
    let longest = TOKENS.min(all);
    let mut packed_x = vec![[0.0f32; PANEL]; longest];
    let mut packed_delta = vec![[0.0f32; ROWS]; longest * rows.len().min(PACKED_ROWS).div_ceil(ROWS)];
    let mut words = [[0; 4]; PACKED_ROWS * PAIRS];
    for start in (0..all).step_by(TOKENS) {
        let tokens = TOKENS.min(all - start);
        for first in rows.clone().step_by(PACKED_ROWS) {
            let count = PACKED_ROWS.min(rows.end - first);
            for token in 0..tokens {
                let row = &delta[(start + token) * out + first..][..count];
                for (tile, row) in row.chunks(ROWS).enumerate() {
                    fill(&mut packed_delta[tile * tokens + token], row);
                }
            }
            for column in (0..inputs).step_by(PANEL) {
                let width = PANEL.min(inputs - column);
                for (token, packed) in packed_x[..tokens].iter_mut().enumerate() {
                    fill(packed, &x[(start + token) * inputs + column..][..width]);
                }
                let chunks = words.as_chunks_mut::<COUNTERS>().0;
                for (chunk, words) in chunks[..(count * PAIRS).div_ceil(COUNTERS)].iter_mut().enumerate() {
                    let mut counters = [0; COUNTERS];
                    for (lane, counter) in counters.iter_mut().enumerate() {
                        let (row, pair) = ((chunk * COUNTERS + lane) / PAIRS, (chunk * COUNTERS + lane) % PAIRS);
                        *counter = (first + row) as u64 | ((column / (2 * GROUP) + pair) as u64) << 32;
                    }
                    // SAFETY: the caller promises the instructions.
                    unsafe { R::random(keys, &counters, [0, 1], words) }
                }
                for (tile, delta) in packed_delta.chunks_exact(tokens).take(count.div_ceil(ROWS)).enumerate() {
                    let mut sums = [[0.0f32; PANEL]; ROWS];
                    let groups = width.div_ceil(GROUP);
                    let mut lane = 0;
                    while lane < groups * GROUP {
                        // SAFETY: the caller promises the instructions; the registers end with the panel at the latest.
                        lane += unsafe {
                            if lane + Q * R::WIDTH <= groups * GROUP {
                                products::<R, Q>(delta, &packed_x, lane, &mut sums)
                            } else {
                                products::<R, 1>(delta, &packed_x, lane, &mut sums)
                            }
                        };
                    }
                    for (row, sums) in sums.iter().enumerate().take(count - tile * ROWS) {
                        let words = &words[(tile * ROWS + row) * PAIRS..][..PAIRS];
                        let words = words.as_flattened().as_chunks::<2>().0;
                        for (group, ab) in sums.as_chunks::<GROUP>().0[..groups].iter().zip(words) {
                            // SAFETY: the caller promises the instructions; `sketch` has `blocks` lines.
                            unsafe { R::scatter(group.as_ptr(), *ab, blocks, sketch) }
                        }
                    }
                }
            }
        }
    }
}

/// Copies as many numbers as there is room for, and zeros behind them.
#[inline(always)]
fn fill<const N: usize>(to: &mut [f32; N], from: &[f32]) {
    // a copy of known length needs no call
    match from.first_chunk() {
        Some(whole) => *to = *whole,
        None => {
            to[..from.len()].copy_from_slice(from);
            to[from.len()..].fill(0.0);
        }
    }
}

/// Sums of outer products in `Q` registers of columns from `lane` on; returns how many columns they are.
///
/// # Safety
/// The processor must have the instructions of `R`.
#[inline(always)]
unsafe fn products<R: Register, const Q: usize>(
    delta: &[[f32; ROWS]],
    x: &[[f32; PANEL]],
    lane: usize,
    sums: &mut [[f32; PANEL]; ROWS],
) -> usize {
    assert!(lane + Q * R::WIDTH <= PANEL);
    // SAFETY: the caller promises the instructions; the registers lie within a row of the panel.
    unsafe {
        let mut tile = [[R::zero(); Q]; ROWS];
        for (delta, x) in delta.iter().zip(x) {
            let mut values = [R::zero(); Q];
            for (q, value) in values.iter_mut().enumerate() {
                *value = R::load(x.as_ptr().add(lane + q * R::WIDTH));
            }
            for (delta, tile) in delta.iter().zip(&mut tile) {
                let delta = R::splat(*delta);
                for (sum, &value) in tile.iter_mut().zip(&values) {
                    *sum = sum.add_product(delta, value);
                }
            }
        }
        for (tile, sums) in tile.into_iter().zip(sums) {
            for (q, sum) in tile.into_iter().enumerate() {
                sum.store(sums.as_mut_ptr().add(lane + q * R::WIDTH));
            }
        }
    }
    Q * R::WIDTH
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use super::{GROUP, Keys, Scatter, block, matrix, outer};
    use crate::simd::{Avx2, Avx512, Line};

    impl Scatter for Avx2 {
        #[inline(always)]
        unsafe fn scatter(group: *const f32, [a, b]: [u32; 2], blocks: usize, sketch: *mut f32) {
            // SAFETY: the caller's promise is passed on.
            unsafe {
                let block = sketch.add(block(a, blocks) * GROUP);
                let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let bits = _mm256_set1_epi32(b as i32);
                let order = _mm256_xor_si256(lanes, _mm256_srli_epi32::<16>(bits));
                for half in [0, 8] {
                    // a permutation by exclusive or keeps halves together
                    let from = half ^ (b >> 16) as usize & 8;
                    let shifts = _mm256_sub_epi32(_mm256_set1_epi32(31 - from as i32), lanes);
                    let signs = _mm256_and_si256(_mm256_sllv_epi32(bits, shifts), _mm256_set1_epi32(i32::MIN));
                    let values = _mm256_xor_ps(_mm256_loadu_ps(group.add(from)), _mm256_castsi256_ps(signs));
                    let values = _mm256_permutevar8x32_ps(values, order);
                    let to = block.add(half);
                    _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), values));
                }
            }
        }
    }

    impl Scatter for Avx512 {
        #[inline(always)]
        unsafe fn scatter(group: *const f32, [a, b]: [u32; 2], blocks: usize, sketch: *mut f32) {
            // SAFETY: the caller's promise is passed on.
            unsafe {
                let to = sketch.add(block(a, blocks) * GROUP);
                let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let order = _mm512_xor_si512(lanes, _mm512_set1_epi32((b >> 16) as i32));
                let values = _mm512_castps_si512(_mm512_loadu_ps(group));
                let values = _mm512_mask_xor_epi32(values, b as u16, values, _mm512_set1_epi32(i32::MIN));
                let values = _mm512_permutexvar_ps(order, _mm512_castsi512_ps(values));
                _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), values));
            }
        }
    }

    #[target_feature(enable = "avx2,f16c,fma")]
    pub fn avx2_matrix(keys: &Keys, values: &[f32], inputs: usize, rows: Range<usize>, sketch: &mut [Line]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { matrix::<Avx2>(keys, values, inputs, rows, sketch) }
    }

    #[target_feature(enable = "avx2,f16c,fma")]
    pub fn avx2_outer(
        keys: &Keys,
        delta: &[f32],
        x: &[f32],
        shape: [usize; 2],
        rows: Range<usize>,
        sketch: &mut [Line],
    ) {
        // SAFETY: this function has the instructions of its register.
        unsafe { outer::<Avx2, 2>(keys, delta, x, shape, rows, sketch) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn avx512_matrix(keys: &Keys, values: &[f32], inputs: usize, rows: Range<usize>, sketch: &mut [Line]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { matrix::<Avx512>(keys, values, inputs, rows, sketch) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn avx512_outer(
        keys: &Keys,
        delta: &[f32],
        x: &[f32],
        shape: [usize; 2],
        rows: Range<usize>,
        sketch: &mut [Line],
    ) {
        // SAFETY: this function has the instructions of its register.
        unsafe { outer::<Avx512, 4>(keys, delta, x, shape, rows, sketch) }
    }
}
