//! Kernels of the dense projection: products with a matrix of signs, which are made for some rows and columns at a time.
//!
//! A sum adds four signed rows, then those sums of four in float32 over 512 rows, then those in float64. With AVX-512 the
//! 16 possible sums of four are looked up, which takes fewer instructions than multiplications would.

use crate::philox::{COUNTERS, Keys, Random};
use crate::simd::{InstructionSet, LINE, Portable};

/// Columns that one Philox counter signs.
pub const COLUMNS: usize = 128;
/// Rows that are summed in float32.
const SPAN: usize = 512;
/// Rows that are summed before they are added to the sum of a span.
const SUM: usize = 4;

/// Adds the products of some samples with some blocks of columns, unscaled: keys, first row, first block, `[n, p]`
/// gradients, n, `[n, columns]` totals. Needs the instructions of its set.
pub type Kernel = unsafe fn(&Keys, u64, u32, &[f32], usize, &mut [f64]);

/// The kernel of an instruction set; those of all sets give the same bits.
pub fn kernel(set: InstructionSet) -> Kernel {
    match set {
        InstructionSet::Portable => dense::<Portable, 2, 4>,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2(_) => x86::avx2,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512(_) => x86::avx512,
    }
}

/// A register that sums signed numbers one by one. As unsafe as [`Random`].
trait Signed: Random {
    /// `self + value * signs`; the product is exact.
    unsafe fn add_signed(self, value: Self, signs: Self) -> Self;
    /// -1 in each lane whose bit is set, +1 in the others; `WIDTH` bits.
    unsafe fn signs(bits: *const u8) -> Self;
}

impl Signed for Portable {
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

/// A [`Kernel`]. `WIDE` registers of columns make a tile of several samples, `LONE` one of a lone sample.
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
unsafe fn sign_words<R: Random>(keys: &Keys, first: u64, block: u32, rows: usize, words: &mut [[u32; 4]; SPAN]) {
    let chunks = words.as_chunks_mut::<COUNTERS>().0;
    for (chunk, words) in chunks[..rows.div_ceil(COUNTERS)].iter_mut().enumerate() {
        let mut counters = [0; COUNTERS];
        for (lane, counter) in counters.iter_mut().enumerate() {
            *counter = first.wrapping_add((chunk * COUNTERS + lane) as u64);
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
        let mut lanes = [0.0f32; LINE];
        // SAFETY: the caller promises the instructions; each row has a bit for each column of the block; a register has
        // at most LINE lanes.
        unsafe {
            let mut sums = [[R::zero(); W]; S];
            for row in (0..self.rows).step_by(SUM) {
                let mut fours = [[R::zero(); W]; S];
                for row in row..row + SUM {
                    let bits = self.words[row].as_ptr().cast::<u8>().add(column / 8);
                    for w in 0..W {
                        let signs = R::signs(bits.add(w * R::WIDTH / 8));
                        for (fours, gradient) in fours.iter_mut().zip(self.gradients) {
                            fours[w] = fours[w].add_signed(R::splat(gradient[row]), signs);
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{COLUMNS, Keys, SPAN, SUM, Signed, dense, pack, sign_words};
    use crate::simd::{Avx2, Avx512, LINE, Line, Register};

    impl Signed for Avx2 {
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

    #[target_feature(enable = "avx2,f16c,fma")]
    pub fn avx2(keys: &Keys, first: u64, block: u32, gradients: &[f32], n: usize, totals: &mut [f64]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { dense::<Avx2, 2, 8>(keys, first, block, gradients, n, totals) }
    }

    /// Rows that one byte of codes holds the signs of.
    const OCTET: usize = 2 * SUM;
    /// Samples of a tile.
    const TILE: usize = 4;

    /// The four signs of four rows are one of 16 patterns, so each sum of four is one of 16 numbers: a register, from
    /// which one permutation takes the sums of 16 columns. The tables are shared by all columns, the patterns by all
    /// samples.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn avx512(keys: &Keys, first_row: u64, first_block: u32, gradients: &[f32], n: usize, totals: &mut [f64]) {
        let (p, columns) = (gradients.len() / n, totals.len() / n);
        let blocks = columns.div_ceil(COLUMNS);
        let mut words = [[0; 4]; SPAN];
        let mut packed = [0.0; SPAN];
        let mut codes = vec![[[0u8; COLUMNS]; SPAN / OCTET]; blocks];
        let mut tables = vec![[Line([0.0; LINE]); SPAN / SUM]; TILE.min(n)];
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
                        let wide = column + 4 * LINE <= width;
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
        assert!(column + W * LINE <= COLUMNS && codes.len() <= SPAN / OCTET && tables.len() >= S);
        // SAFETY: an octet has a byte for each column of the block, and each table two lines for each octet.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); W]; S];
            for (octet, codes) in codes.iter().enumerate() {
                let mut low = [_mm512_setzero_si512(); W];
                let mut high = [_mm512_setzero_si512(); W];
                for w in 0..W {
                    low[w] = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().add(column + w * LINE).cast()));
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
                let totals = &mut totals[s * columns + at..][..W * LINE];
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
        W * LINE
    }
}
