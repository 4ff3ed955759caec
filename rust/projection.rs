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
//! The sketch moves whole blocks so that it is a vector addition to one cache line instead of 16 scalar ones. Elements
//! of one group of 16 never meet; any two others land in the same block with probability 16 / dim and then, because the
//! permutations are independent, in the same column with probability 1 / 16. So no two elements meet more often than
//! with probability 1 / dim, as in a plain count sketch, and each has a sign of its own: inner products are kept in
//! expectation and their variance is that of a plain count sketch, or less.
//!
//! All instruction sets and all numbers of threads give the same bits: sums run over rows and tokens in one fixed
//! order, and are split between threads by column, by sample, or into parts that depend on the matrix's shape and dim
//! alone. A dense sum adds four signed rows, then those sums of four in float32 over 512 rows, then those in float64;
//! with AVX-512 the 16 possible sums of four are looked up, which takes fewer instructions than multiplications would.
//!
//! Source: Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as easy as 1, 2, 3 (Philox); Achlioptas
//! (2003), Theorem 1.1 (entries of one bit); Charikar, Chen and Farach-Colton (2002) (count sketch).

use std::ops::Range;

use rayon::prelude::*;

use crate::error::DiqError;

/// Columns that one Philox counter signs.
const COLUMNS: usize = 128;
/// Rows that are summed in float32.
const SPAN: usize = 512;
/// Rows that are summed before they are added to the sum of a span.
const SUM: usize = 4;
/// Samples that share one making of the signs.
const SAMPLES: usize = 64;
/// Blocks of columns of one task, at most.
const BLOCKS: usize = 4;
/// Philox counters that are hashed at once.
const RANDOM: usize = 16;
/// Neighbouring elements that share a block of a sketch.
const GROUP: usize = 16;
/// Tokens whose outer products are summed before they are added to the sketch.
const TOKENS: usize = 256;
/// Columns of a tile of outer products.
const PANEL: usize = 64;
/// Rows of a tile of outer products.
const ROWS: usize = 6;
/// Rows of outer products whose factors stay in the cache; a multiple of [`ROWS`].
const PACKED_ROWS: usize = 192;
/// Sketches into which a large matrix is split.
const PARTS: usize = 16;
/// Elements of a matrix that are worth a sketch of their own, for each column of it.
const PART_ELEMENTS: usize = 8;
/// Largest dim of a sketch: a block number times 16 must fit 32 bits with room to spare.
const LARGEST_SKETCH: usize = 1 << 30;
/// Largest dim of a dense projection.
const LARGEST_DENSE: usize = 1 << 20;

/// The random words of one counter: Philox4x32-10.
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    rounds(&keys(key), counter)
}

/// The keys of all ten rounds.
type Keys = [[u32; 2]; 10];

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];

fn keys(key: u64) -> Keys {
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let [low, high] = [key as u32, (key >> 32) as u32];
    std::array::from_fn(|round| {
        let steps = round as u32;
        [low.wrapping_add(steps.wrapping_mul(WEYL[0])), high.wrapping_add(steps.wrapping_mul(WEYL[1]))]
    })
}

fn rounds(keys: &Keys, counter: [u32; 4]) -> [u32; 4] {
    keys.iter().fold(counter, |[a, b, c, d], key| {
        let first = u64::from(a) * u64::from(MULTIPLIERS[0]);
        let second = u64::from(c) * u64::from(MULTIPLIERS[1]);
        [(second >> 32) as u32 ^ b ^ key[0], second as u32, (first >> 32) as u32 ^ d ^ key[1], first as u32]
    })
}

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
    project_with(&kernels(), gradients, projected, n, key, first_row)
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
    matrices_with(&kernels(), gradients, shape, projected, n, key)
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
    outer_with(&kernels(), delta, x, shape, offsets, projected, key)
}

fn project_with(
    kernels: &Kernels,
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
    let keys = keys(key);
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
        // SAFETY: `kernels` holds functions whose instructions this processor has.
        unsafe { (kernels.dense)(&keys, first_row, (column / COLUMNS) as u32, gradients, samples, &mut totals) };
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
    kernels: &Kernels,
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
    let keys = keys(key);
    add_sketches(projected, n, [out, inputs], |sample, rows, sketch| {
        let matrix = &gradients[sample * out * inputs..][..out * inputs];
        // SAFETY: `kernels` holds functions whose instructions this processor has.
        unsafe { (kernels.matrix)(&keys, matrix, inputs, rows, sketch) }
    })
}

fn outer_with(
    kernels: &Kernels,
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
    let keys = keys(key);
    add_sketches(projected, n, [out, inputs], |sample, rows, sketch| {
        let tokens = offsets[sample] as usize..offsets[sample + 1] as usize;
        let delta = &delta[tokens.start * out..tokens.end * out];
        let x = &x[tokens.start * inputs..tokens.end * inputs];
        // SAFETY: `kernels` holds functions whose instructions this processor has.
        unsafe { (kernels.outer)(&keys, delta, x, [out, inputs], rows, sketch) }
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

/// One block of a sketch: one line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; GROUP]);

/// The functions of one instruction set; those of all sets give the same bits. Each needs the instructions of its set.
#[derive(Clone, Copy)]
struct Kernels {
    /// Adds the products of some samples with some blocks of columns, unscaled: keys, first row, first block, `[n, p]`
    /// gradients, n, `[n, columns]` totals.
    dense: unsafe fn(&Keys, u64, u32, &[f32], usize, &mut [f64]),
    /// Adds some rows of one matrix to a sketch: keys, matrix, its columns, rows, sketch.
    matrix: unsafe fn(&Keys, &[f32], usize, Range<usize>, &mut [Line]),
    /// Adds some rows of a sum of outer products to a sketch.
    outer: Outer,
}

/// Keys, `[t, out]` delta, `[t, in]` x, `[out, in]`, rows, sketch.
type Outer = unsafe fn(&Keys, &[f32], &[f32], [usize; 2], Range<usize>, &mut [Line]);

/// The fastest kernels that this processor runs.
fn kernels() -> Kernels {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            return x86::AVX512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return x86::AVX2;
        }
    }
    PORTABLE
}

const PORTABLE: Kernels =
    Kernels { dense: dense::<Portable, 2, 4>, matrix: matrix::<Portable>, outer: outer::<Portable, 2> };

/// Some neighbouring lanes of float32, and what else differs between instruction sets.
///
/// Every function is unsafe for the same two reasons: the processor must have the register's instructions, and pointers
/// must be valid for what is read or written there (of any alignment).
trait Register: Copy {
    const WIDTH: usize;
    unsafe fn zero() -> Self;
    /// `WIDTH` numbers.
    unsafe fn load(from: *const f32) -> Self;
    /// The number at `from` in all lanes.
    unsafe fn splat(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a * b`, rounded once.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The words of `RANDOM` counters; the first two words of counter `i` are the low and the high half of
    /// `counters[i]`.
    unsafe fn random(keys: &Keys, counters: &[u64; RANDOM], last: [u32; 2], words: &mut [[u32; 4]; RANDOM]);
    /// Adds a group of 16 numbers to the block of `sketch`, of `blocks`, that the words `a` and `b` choose.
    unsafe fn scatter(group: *const f32, ab: [u32; 2], blocks: usize, sketch: *mut f32);
}

/// What sums of signed numbers need, where they are made one by one. As unsafe as [`Register`].
trait Signed: Register {
    unsafe fn add(self, other: Self) -> Self;
    /// `self + value * signs`; the product is exact.
    unsafe fn add_signed(self, value: Self, signs: Self) -> Self;
    /// -1 in each lane whose bit is set, +1 in the others; `WIDTH` bits.
    unsafe fn signs(bits: *const u8) -> Self;
}

/// The block that the word `a` chooses.
#[inline(always)]
fn block(a: u32, blocks: usize) -> usize {
    ((u64::from(a) * blocks as u64) >> 32) as usize
}

/// A function of [`Kernels`]. `WIDE` registers of columns make a tile of several samples, `LONE` one of a lone sample.
///
/// # Safety
/// The processor must have the instructions of `R`.
#[inline(always)]
unsafe fn dense<R: Signed, const WIDE: usize, const LONE: usize>(
    keys: &Keys,
    first_row: u64,
    first_block: u32,
    gradients: &[f32],
    n: usize,
    totals: &mut [f64],
) {
    let (p, columns) = (gradients.len() / n, totals.len() / n);
    let mut words = [[0; 4]; SPAN];
    let mut packed = [[0.0; SPAN]; 3];
    for start in (0..p).step_by(SPAN) {
        let rows = SPAN.min(p - start);
        for block in 0..columns.div_ceil(COLUMNS) {
            // SAFETY: the caller promises the instructions.
            unsafe {
                sign_words::<R>(
                    keys,
                    first_row.wrapping_add(start as u64),
                    first_block + block as u32,
                    rows,
                    &mut words,
                )
            }
            let first = block * COLUMNS;
            let width = COLUMNS.min(columns - first);
            for sample in (0..n).step_by(packed.len()) {
                let samples = packed.len().min(n - sample);
                for (s, packed) in packed[..samples].iter_mut().enumerate() {
                    pack(&gradients[(sample + s) * p + start..][..rows], packed);
                }
                let tile = Tile { gradients: &packed, words: &words, rows, columns };
                let totals = &mut totals[sample * columns + first..];
                // SAFETY: the caller's promise is passed on; the totals of all samples of the tile follow.
                unsafe {
                    match samples {
                        1 => tile.add::<R, 1, LONE>(width, totals),
                        2 => tile.add::<R, 2, WIDE>(width, totals),
                        _ => tile.add::<R, 3, WIDE>(width, totals),
                    }
                }
            }
        }
    }
}

/// Makes the words of some rows of one block, and of the rows that fill up the last hash.
///
/// # Safety
/// The processor must have the instructions of `R`.
#[inline(always)]
unsafe fn sign_words<R: Register>(keys: &Keys, first: u64, block: u32, rows: usize, words: &mut [[u32; 4]; SPAN]) {
    let chunks = words.as_chunks_mut::<RANDOM>().0;
    for (chunk, words) in chunks[..rows.div_ceil(RANDOM)].iter_mut().enumerate() {
        let mut counters = [0; RANDOM];
        for (lane, counter) in counters.iter_mut().enumerate() {
            *counter = first.wrapping_add((chunk * RANDOM + lane) as u64);
        }
        // SAFETY: the caller promises the instructions.
        unsafe { R::random(keys, &counters, [block, 0], words) }
    }
}

/// Copies the numbers of some rows, and zeros up to the next whole eight rows.
#[inline(always)]
fn pack(numbers: &[f32], packed: &mut [f32; SPAN]) {
    packed[..numbers.len()].copy_from_slice(numbers);
    packed[numbers.len()..numbers.len().next_multiple_of(2 * SUM)].fill(0.0);
}

/// Some rows of one block of columns, and the gradients of a few samples there.
struct Tile<'a> {
    gradients: &'a [[f32; SPAN]; 3],
    words: &'a [[u32; 4]; SPAN],
    rows: usize,
    /// Columns from the totals of one sample to those of the next.
    columns: usize,
}

impl Tile<'_> {
    /// Adds the products of `S` samples with the first `width` columns to their totals.
    ///
    /// # Safety
    /// The processor must have the instructions of `R`.
    #[inline(always)]
    unsafe fn add<R: Signed, const S: usize, const W: usize>(&self, width: usize, totals: &mut [f64]) {
        let mut column = 0;
        while column < width {
            // SAFETY: the caller's promise is passed on.
            column += unsafe {
                if column + W * R::WIDTH <= width {
                    self.sum::<R, S, W>(column, totals)
                } else {
                    self.sum::<R, S, 1>(column, totals)
                }
            }
        }
    }

    /// [`Tile::add`] for `W` registers of columns; returns how many columns they are.
    ///
    /// # Safety
    /// As for [`Tile::add`].
    #[inline(always)]
    unsafe fn sum<R: Signed, const S: usize, const W: usize>(&self, column: usize, totals: &mut [f64]) -> usize {
        assert!(column + W * R::WIDTH <= COLUMNS);
        let mut lanes = [0.0f32; GROUP];
        // SAFETY: the caller promises the instructions; each row has a bit for each column of the block; a register has
        // at most GROUP lanes.
        unsafe {
            let mut sums = [[R::zero(); W]; S];
            for row in (0..self.rows).step_by(SUM) {
                let mut fours = [[R::zero(); W]; S];
                for row in row..row + SUM {
                    let bits = self.words[row].as_ptr().cast::<u8>().add(column / 8);
                    for w in 0..W {
                        let signs = R::signs(bits.add(w * R::WIDTH / 8));
                        for (fours, gradient) in fours.iter_mut().zip(self.gradients) {
                            fours[w] = fours[w].add_signed(R::splat(&gradient[row]), signs);
                        }
                    }
                }
                for (sums, fours) in sums.iter_mut().zip(fours) {
                    for (sum, four) in sums.iter_mut().zip(fours) {
                        *sum = sum.add(four);
                    }
                }
            }
            for (s, sums) in sums.into_iter().enumerate() {
                for (w, sum) in sums.into_iter().enumerate() {
                    sum.store(lanes.as_mut_ptr());
                    let totals = &mut totals[s * self.columns + column + w * R::WIDTH..][..R::WIDTH];
                    for (total, &lane) in totals.iter_mut().zip(&lanes) {
                        *total += f64::from(lane);
                    }
                }
            }
        }
        W * R::WIDTH
    }
}

/// A function of [`Kernels`].
///
/// # Safety
/// The processor must have the instructions of `R`.
#[inline(always)]
unsafe fn matrix<R: Register>(keys: &Keys, matrix: &[f32], inputs: usize, rows: Range<usize>, sketch: &mut [Line]) {
    assert!(rows.end * inputs <= matrix.len());
    let pairs = inputs.div_ceil(2 * GROUP);
    let blocks = sketch.len();
    let sketch = sketch.as_mut_ptr().cast();
    // hashes of different counters overlap, so many are made in one go
    const CHUNK: usize = 8 * RANDOM;
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
        let chunks = counters.as_chunks::<RANDOM>().0.iter().zip(words.as_chunks_mut::<RANDOM>().0);
        for (counters, words) in chunks.take(count.div_ceil(RANDOM)) {
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

/// A function of [`Kernels`]. `Q` registers of columns make a tile; they divide a panel, and `R::WIDTH * Q` is a
/// multiple of a group.
///
/// # Safety
/// The processor must have the instructions of `R`.
#[inline(always)]
unsafe fn outer<R: Register, const Q: usize>(
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
                let chunks = words.as_chunks_mut::<RANDOM>().0;
                for (chunk, words) in chunks[..(count * PAIRS).div_ceil(RANDOM)].iter_mut().enumerate() {
                    let mut counters = [0; RANDOM];
                    for (lane, counter) in counters.iter_mut().enumerate() {
                        let (row, pair) = ((chunk * RANDOM + lane) / PAIRS, (chunk * RANDOM + lane) % PAIRS);
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
                let delta = R::splat(delta);
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

/// Lanes without any instruction in mind.
#[derive(Clone, Copy)]
struct Portable([f32; 8]);

impl Register for Portable {
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Portable {
        Portable([0.0; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Portable {
        // SAFETY: the caller promises WIDTH numbers.
        Portable(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Portable {
        // SAFETY: the caller promises a number.
        Portable([unsafe { from.read_unaligned() }; 8])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises WIDTH numbers.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Portable, b: Portable) -> Portable {
        Portable(std::array::from_fn(|lane| a.0[lane].mul_add(b.0[lane], self.0[lane])))
    }

    #[inline(always)]
    unsafe fn random(keys: &Keys, counters: &[u64; RANDOM], last: [u32; 2], words: &mut [[u32; 4]; RANDOM]) {
        for (words, &counter) in words.iter_mut().zip(counters) {
            *words = rounds(keys, [counter as u32, (counter >> 32) as u32, last[0], last[1]]);
        }
    }

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

impl Signed for Portable {
    #[inline(always)]
    unsafe fn add(self, other: Portable) -> Portable {
        Portable(std::array::from_fn(|lane| self.0[lane] + other.0[lane]))
    }

    #[inline(always)]
    unsafe fn add_signed(self, value: Portable, signs: Portable) -> Portable {
        Portable(std::array::from_fn(|lane| self.0[lane] + value.0[lane] * signs.0[lane]))
    }

    #[inline(always)]
    unsafe fn signs(bits: *const u8) -> Portable {
        // SAFETY: the caller promises WIDTH bits.
        let bits = unsafe { *bits };
        Portable(std::array::from_fn(|lane| if bits >> lane & 1 == 1 { -1.0 } else { 1.0 }))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use super::{
        COLUMNS, GROUP, Kernels, Keys, Line, MULTIPLIERS, RANDOM, Register, SPAN, SUM, Signed, block, dense, matrix,
        outer, pack, sign_words,
    };

    /// For processors with AVX2 and FMA.
    pub(super) const AVX2: Kernels = Kernels { dense: avx2_dense, matrix: avx2_matrix, outer: avx2_outer };
    /// For processors with AVX-512F and AVX-512BW.
    pub(super) const AVX512: Kernels = Kernels { dense: avx512_dense, matrix: avx512_matrix, outer: avx512_outer };

    #[target_feature(enable = "avx2,fma")]
    fn avx2_dense(keys: &Keys, first: u64, block: u32, gradients: &[f32], n: usize, totals: &mut [f64]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { dense::<Avx2, 2, 8>(keys, first, block, gradients, n, totals) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2_matrix(keys: &Keys, values: &[f32], inputs: usize, rows: Range<usize>, sketch: &mut [Line]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { matrix::<Avx2>(keys, values, inputs, rows, sketch) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2_outer(keys: &Keys, delta: &[f32], x: &[f32], shape: [usize; 2], rows: Range<usize>, sketch: &mut [Line]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { outer::<Avx2, 2>(keys, delta, x, shape, rows, sketch) }
    }

    /// Rows that one byte of codes holds the signs of.
    const OCTET: usize = 2 * SUM;
    /// Samples of a tile.
    const TILE: usize = 4;

    /// The four signs of four rows are one of 16 patterns, so each sum of four is one of 16 numbers: a register, from
    /// which one permutation takes the sums of 16 columns. The tables are shared by all columns, the patterns by all
    /// samples.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn avx512_dense(keys: &Keys, first_row: u64, first_block: u32, gradients: &[f32], n: usize, totals: &mut [f64]) {
        let (p, columns) = (gradients.len() / n, totals.len() / n);
        let blocks = columns.div_ceil(COLUMNS);
        let mut words = [[0; 4]; SPAN];
        let mut packed = [0.0; SPAN];
        let mut codes = vec![[[0u8; COLUMNS]; SPAN / OCTET]; blocks];
        let mut tables = vec![[Line([0.0; 16]); SPAN / SUM]; TILE.min(n)];
        for start in (0..p).step_by(SPAN) {
            let rows = SPAN.min(p - start);
            let octets = rows.div_ceil(OCTET);
            for (block, codes) in codes.iter_mut().enumerate() {
                let first = first_row.wrapping_add(start as u64);
                // SAFETY: this function has the instructions of its register.
                unsafe { sign_words::<Avx512>(keys, first, first_block + block as u32, rows, &mut words) }
                for (words, codes) in words.as_chunks::<OCTET>().0[..octets].iter().zip(codes) {
                    transpose(words, codes);
                }
            }
            for sample in (0..n).step_by(TILE) {
                let samples = TILE.min(n - sample);
                for (s, tables) in tables[..samples].iter_mut().enumerate() {
                    pack(&gradients[(sample + s) * p + start..][..rows], &mut packed);
                    for (four, table) in packed.as_chunks::<SUM>().0[..2 * octets].iter().zip(tables) {
                        signed_sums(four, table);
                    }
                }
                let totals = &mut totals[sample * columns..];
                for (block, codes) in codes.iter().enumerate() {
                    let first = block * COLUMNS;
                    let width = COLUMNS.min(columns - first);
                    let codes = &codes[..octets];
                    let mut column = 0;
                    while column < width {
                        let at = first + column;
                        let wide = column + 4 * GROUP <= width;
                        column += match (samples, wide) {
                            (1, false) => tile::<1, 1>(codes, column, &tables, totals, at, columns),
                            (1, true) if column + COLUMNS <= width => {
                                tile::<1, 8>(codes, column, &tables, totals, at, columns)
                            }
                            (1, true) => tile::<1, 4>(codes, column, &tables, totals, at, columns),
                            (2, false) => tile::<2, 1>(codes, column, &tables, totals, at, columns),
                            (2, true) => tile::<2, 4>(codes, column, &tables, totals, at, columns),
                            (3, false) => tile::<3, 1>(codes, column, &tables, totals, at, columns),
                            (3, true) => tile::<3, 4>(codes, column, &tables, totals, at, columns),
                            (_, false) => tile::<4, 1>(codes, column, &tables, totals, at, columns),
                            (_, true) => tile::<4, 4>(codes, column, &tables, totals, at, columns),
                        };
                    }
                }
            }
        }
    }

    /// Bit `r` of byte `c` becomes the sign of column `c` in row `r`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn transpose(words: &[[u32; 4]; OCTET], codes: &mut [u8; COLUMNS]) {
        for half in 0..2 {
            let mut code = _mm512_setzero_si512();
            for (pair, words) in words.as_chunks::<2>().0.iter().enumerate() {
                const OR: i32 = 0b1111_1110;
                let bits = |row: usize| {
                    let signs = u64::from(words[row][2 * half]) | u64::from(words[row][2 * half + 1]) << 32;
                    _mm512_maskz_mov_epi8(signs, _mm512_set1_epi8(1 << (2 * pair + row)))
                };
                code = _mm512_ternarylogic_epi32::<OR>(code, bits(0), bits(1));
            }
            // SAFETY: half of 128 bytes is 64.
            unsafe { _mm512_storeu_si512(codes.as_mut_ptr().add(half * 64).cast(), code) }
        }
    }

    /// All sums of four numbers and their negatives; bit `j` of the index is the sign of number `j`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn signed_sums(four: &[f32; SUM], sums: &mut Line) {
        let mut sum = _mm512_setzero_ps();
        for (j, number) in four.iter().enumerate() {
            let negative = std::array::from_fn::<i32, 16, _>(|index| if index >> j & 1 == 1 { i32::MIN } else { 0 });
            // SAFETY: the array is 16 numbers.
            let negative = unsafe { _mm512_loadu_epi32(negative.as_ptr()) };
            let number = _mm512_xor_si512(_mm512_castps_si512(_mm512_set1_ps(*number)), negative);
            sum = _mm512_add_ps(sum, _mm512_castsi512_ps(number));
        }
        // SAFETY: a line is 16 numbers.
        unsafe { _mm512_storeu_ps(sums.0.as_mut_ptr(), sum) }
    }

    /// Adds the sums of `S` samples in `W` registers of columns to the totals from `at` on; returns how many columns
    /// they are.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn tile<const S: usize, const W: usize>(
        codes: &[[u8; COLUMNS]],
        column: usize,
        tables: &[[Line; SPAN / SUM]],
        totals: &mut [f64],
        at: usize,
        columns: usize,
    ) -> usize {
        assert!(column + W * GROUP <= COLUMNS && codes.len() <= SPAN / OCTET && tables.len() >= S);
        // SAFETY: an octet has a byte for each column of the block, and each table two lines for each octet.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); W]; S];
            for (octet, codes) in codes.iter().enumerate() {
                let mut low = [_mm512_setzero_si512(); W];
                let mut high = [_mm512_setzero_si512(); W];
                for w in 0..W {
                    low[w] = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().add(column + w * GROUP).cast()));
                    high[w] = _mm512_srli_epi32::<4>(low[w]);
                }
                for (s, sums) in sums.iter_mut().enumerate() {
                    let lines = tables.as_ptr().add(s).cast::<Line>().add(2 * octet);
                    let first = _mm512_loadu_ps(lines.cast());
                    let second = _mm512_loadu_ps(lines.add(1).cast());
                    for w in 0..W {
                        // the upper bits of an index do not count
                        sums[w] = _mm512_add_ps(sums[w], _mm512_permutexvar_ps(low[w], first));
                        sums[w] = _mm512_add_ps(sums[w], _mm512_permutexvar_ps(high[w], second));
                    }
                }
            }
            for (s, sums) in sums.into_iter().enumerate() {
                let totals = &mut totals[s * columns + at..][..W * GROUP];
                for (sum, totals) in sums.into_iter().zip(totals.as_chunks_mut::<8>().0.as_chunks_mut::<2>().0) {
                    let halves = [
                        _mm512_castps512_ps256(sum),
                        _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0b11_10>(sum, sum)),
                    ];
                    for (half, totals) in halves.into_iter().zip(totals) {
                        let total = _mm512_add_pd(_mm512_loadu_pd(totals.as_ptr()), _mm512_cvtps_pd(half));
                        _mm512_storeu_pd(totals.as_mut_ptr(), total);
                    }
                }
            }
        }
        W * GROUP
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn avx512_matrix(keys: &Keys, values: &[f32], inputs: usize, rows: Range<usize>, sketch: &mut [Line]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { matrix::<Avx512>(keys, values, inputs, rows, sketch) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn avx512_outer(keys: &Keys, delta: &[f32], x: &[f32], shape: [usize; 2], rows: Range<usize>, sketch: &mut [Line]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { outer::<Avx512, 4>(keys, delta, x, shape, rows, sketch) }
    }

    /// Which counter goes into which lane, so that interleaving the words leaves the counters in order; the index is
    /// `register * lanes + lane`.
    const fn order<const LANES: usize>() -> [usize; RANDOM] {
        let mut order = [0; RANDOM];
        let mut i = 0;
        while i < RANDOM {
            let (register, lane) = (i / LANES, i % LANES);
            order[i] = register * LANES + lane / 2 + lane % 2 * (LANES / 2);
            i += 1;
        }
        order
    }

    /// Eight lanes.
    #[derive(Clone, Copy)]
    struct Avx2(__m256);

    impl Register for Avx2 {
        const WIDTH: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_setzero_ps()) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_loadu_ps(from)) }
        }

        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_set1_ps(*from)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise is passed on.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Avx2, b: Avx2) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_fmadd_ps(a.0, b.0, self.0)) }
        }

        #[inline(always)]
        unsafe fn random(keys: &Keys, counters: &[u64; RANDOM], last: [u32; 2], words: &mut [[u32; 4]; RANDOM]) {
            // SAFETY: the caller's promise is passed on; 16 counters are four registers of four, and their words 8 of
            // them.
            unsafe {
                const ORDER: [usize; RANDOM] = order::<4>();
                let multipliers = MULTIPLIERS.map(|multiplier| _mm256_set1_epi64x(i64::from(multiplier)));
                for half in 0..2 {
                    let mut state = [[_mm256_setzero_si256(); 4]; 2];
                    for (register, state) in state.iter_mut().enumerate() {
                        let at = |lane: usize| counters[ORDER[half * 8 + register * 4 + lane]] as i64;
                        state[0] = _mm256_setr_epi64x(at(0), at(1), at(2), at(3));
                        state[1] = _mm256_srli_epi64::<32>(state[0]);
                        state[2] = _mm256_set1_epi32(last[0] as i32);
                        state[3] = _mm256_set1_epi32(last[1] as i32);
                    }
                    // only the low half of each lane counts; what is in the high half is never read
                    for key in keys {
                        let key = [_mm256_set1_epi32(key[0] as i32), _mm256_set1_epi32(key[1] as i32)];
                        for [a, b, c, d] in &mut state {
                            let first = _mm256_mul_epu32(*a, multipliers[0]);
                            let second = _mm256_mul_epu32(*c, multipliers[1]);

                            *a = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(second), *b), key[0]);
                            *c = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(first), *d), key[1]);
                            *b = second;
                            *d = first;
                        }
                    }
                    let to = words.as_mut_ptr().add(half * 8).cast::<__m256i>();
                    for (register, [a, b, c, d]) in state.into_iter().enumerate() {
                        let front = _mm256_blend_epi32::<0b1010_1010>(a, _mm256_slli_epi64::<32>(b));
                        let back = _mm256_blend_epi32::<0b1010_1010>(c, _mm256_slli_epi64::<32>(d));
                        _mm256_storeu_si256(to.add(register * 2), _mm256_unpacklo_epi64(front, back));
                        _mm256_storeu_si256(to.add(register * 2 + 1), _mm256_unpackhi_epi64(front, back));
                    }
                }
            }
        }

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

    impl Signed for Avx2 {
        #[inline(always)]
        unsafe fn add(self, other: Avx2) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_add_ps(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn add_signed(self, value: Avx2, signs: Avx2) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { self.add_product(value, signs) }
        }

        #[inline(always)]
        unsafe fn signs(bits: *const u8) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe {
                // every byte holds the bits, so a shift brings the bit of each lane to its sign
                let bits = _mm256_set1_epi8(*bits as i8);
                let signs = _mm256_castsi256_ps(_mm256_sllv_epi32(bits, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0)));
                Avx2(_mm256_blendv_ps(_mm256_set1_ps(1.0), _mm256_set1_ps(-1.0), signs))
            }
        }
    }

    /// Sixteen lanes.
    #[derive(Clone, Copy)]
    struct Avx512(__m512);

    impl Register for Avx512 {
        const WIDTH: usize = 16;

        #[inline(always)]
        unsafe fn zero() -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_setzero_ps()) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_loadu_ps(from)) }
        }

        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_set1_ps(*from)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise is passed on.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Avx512, b: Avx512) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_fmadd_ps(a.0, b.0, self.0)) }
        }

        #[inline(always)]
        unsafe fn random(keys: &Keys, counters: &[u64; RANDOM], last: [u32; 2], words: &mut [[u32; 4]; RANDOM]) {
            // SAFETY: the caller's promise is passed on; 16 counters are two registers of eight, and their words four.
            unsafe {
                const ORDER: [usize; RANDOM] = order::<8>();
                let multipliers = MULTIPLIERS.map(|multiplier| _mm512_set1_epi64(i64::from(multiplier)));
                let mut state = [[_mm512_setzero_si512(); 4]; 2];
                for (register, state) in state.iter_mut().enumerate() {
                    let order = _mm512_loadu_epi64(ORDER.as_ptr().cast());
                    let values = _mm512_loadu_epi64(counters.as_ptr().add(register * 8).cast());
                    state[0] = _mm512_permutexvar_epi64(order, values);
                    state[1] = _mm512_srli_epi64::<32>(state[0]);
                    state[2] = _mm512_set1_epi32(last[0] as i32);
                    state[3] = _mm512_set1_epi32(last[1] as i32);
                }
                // only the low half of each lane counts; what is in the high half is never read
                for key in keys {
                    let key = [_mm512_set1_epi32(key[0] as i32), _mm512_set1_epi32(key[1] as i32)];
                    for [a, b, c, d] in &mut state {
                        const XOR: i32 = 0b1001_0110;
                        let first = _mm512_mul_epu32(*a, multipliers[0]);
                        let second = _mm512_mul_epu32(*c, multipliers[1]);

                        *a = _mm512_ternarylogic_epi32::<XOR>(_mm512_srli_epi64::<32>(second), *b, key[0]);
                        *c = _mm512_ternarylogic_epi32::<XOR>(_mm512_srli_epi64::<32>(first), *d, key[1]);
                        *b = second;
                        *d = first;
                    }
                }
                let to = words.as_mut_ptr().cast::<__m512i>();
                for (register, [a, b, c, d]) in state.into_iter().enumerate() {
                    const HIGH: __mmask16 = 0b1010_1010_1010_1010;
                    const LOW_TWICE: i32 = 0b10_10_00_00;
                    let front = _mm512_mask_shuffle_epi32::<LOW_TWICE>(a, HIGH, b);
                    let back = _mm512_mask_shuffle_epi32::<LOW_TWICE>(c, HIGH, d);
                    _mm512_storeu_si512(to.add(register * 2), _mm512_unpacklo_epi64(front, back));
                    _mm512_storeu_si512(to.add(register * 2 + 1), _mm512_unpackhi_epi64(front, back));
                }
            }
        }

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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_kernels() -> Vec<(&'static str, Kernels)> {
        #[allow(unused_mut)]
        let mut all = vec![("portable", PORTABLE)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(("avx2", x86::AVX2));
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                all.push(("avx512", x86::AVX512));
            }
        }
        all
    }

    fn number(i: usize) -> f32 {
        ((i * 2_654_435_761) % 1009) as f32 / 1009.0 - 0.5
    }

    fn bits(projected: &[f32]) -> Vec<u32> {
        projected.iter().map(|number| number.to_bits()).collect()
    }

    /// Checks that all kernels add the same to the same start.
    fn check(what: &str, len: usize, add: impl Fn(&Kernels, &mut [f32])) {
        let results = all_kernels().into_iter().map(|(name, kernels)| {
            let mut projected: Vec<f32> = (0..len).map(|i| number(i + 77)).collect();
            add(&kernels, &mut projected);
            (name, bits(&projected))
        });
        let results: Vec<_> = results.collect();
        for (name, result) in &results[1..] {
            assert!(*result == results[0].1, "{what}: {name} differs from portable");
        }
    }

    // the other kernels cannot be reached through the public functions on one machine
    #[test]
    fn every_kernel_projects_to_the_same_bits() {
        for (n, p, dim) in
            [(1, 1, 16), (2, 63, 48), (3, 512, 128), (7, 513, 144), (13, 137, 272), (65, 17, 128), (6, 70, 2096)]
        {
            let gradients: Vec<f32> = (0..n * p).map(number).collect();
            check(&format!("{n} {p} {dim}"), n * dim, |kernels, projected| {
                // rows on both sides of 2^32
                project_with(kernels, &gradients, projected, n, 0x1234_5678_9ABC_DEF0, (1 << 32) - 20).unwrap();
            });
        }
    }

    #[test]
    fn every_kernel_sketches_to_the_same_bits() {
        for (out, inputs, dim) in [(1, 1, 16), (7, 63, 48), (13, 137, 64), (200, 65, 128), (5, 16, 4096), (17, 15, 32)]
        {
            let n = 3;
            let gradients: Vec<f32> = (0..n * out * inputs).map(number).collect();
            check(&format!("matrices {out} {inputs} {dim}"), n * dim, |kernels, projected| {
                matrices_with(kernels, &gradients, [out, inputs], projected, n, u64::MAX - 5).unwrap();
            });
            let tokens = 2 * TOKENS + 3;
            let delta: Vec<f32> = (0..tokens * out).map(number).collect();
            let x: Vec<f32> = (0..tokens * inputs).map(|i| number(i + 5)).collect();
            let offsets = [0, 1, 1, tokens as i64];
            check(&format!("outer {out} {inputs} {dim}"), n * dim, |kernels, projected| {
                outer_with(kernels, &delta, &x, [tokens, out, inputs], &offsets, projected, 42).unwrap();
            });
        }
    }
}
