//! Dots of stored gradients with a few vectors, at the speed of memory for one vector.
//!
//! Some rows are multiplied with some vectors at once, so that each number that is loaded is used several times, and a
//! block of columns at a time, so that it stays in the innermost cache: the gradients are read from memory once, for any
//! number of vectors. Products are added up in float32 over 64 lanes, one lane every 64th column, with one rounding each
//! (fused), and after every 4096 columns the lanes are added in a fixed order, the last 16 in float64. The order of
//! additions of a dot depends on its columns alone, so all instruction sets, all numbers of threads and all numbers of
//! vectors give the same bits. A row's scale multiplies its finished dots.

use rayon::prelude::*;

use crate::error::DiqError;
use crate::shard::{Element, Shard};

/// Columns that are multiplied at once.
const LANES: usize = 64;
/// Columns that are summed in float32.
const SPAN: usize = 4096;
/// Columns that all rows of a group meet all vectors in, before the next ones are touched.
const BLOCK: usize = 1024;
/// How far before they are multiplied the numbers of a single stream are asked for, in bytes.
const AHEAD: usize = 8192;
/// Gradients that one task reads, in bytes.
const TASK: usize = 1 << 20;

/// Dots of every gradient of a shard with every vector.
///
/// `vectors`: `[m, dim]`, row-major. Returns `[rows, m]`, row-major: `result[r * m + j]` is the dot of gradient `r` with
/// vector `j`, times the scale of gradient `r` where the shard has one. A dot that meets NaN or an infinity is not
/// finite.
///
/// O(rows * dim * m) time; the gradients are read from the map once, and nothing is copied.
///
/// # Errors
/// [`DiqError::Dim`] when `vectors` is not `m` times as long as a gradient.
pub fn shard_dots(shard: &Shard, vectors: &[f32], m: usize) -> Result<Vec<f32>, DiqError> {
    let dim = shard.dim();
    if vectors.len() != m * dim {
        return Err(DiqError::Dim { path: shard.path().into(), found: vectors.len() / m.max(1), expected: dim });
    }
    let mut dots = vec![0.0; shard.rows() * m];
    if dots.is_empty() || dim == 0 {
        return Ok(dots);
    }
    let row_bytes = dim * shard.element().bytes();
    let rows = TASK.div_ceil(row_bytes);
    let kernel = kernel(shard.element());
    shard.data().par_chunks(rows * row_bytes).zip(dots.par_chunks_mut(rows * m)).for_each(|(gradients, dots)| {
        // SAFETY: `kernel` chose a function whose instructions this processor has.
        unsafe { kernel(gradients, vectors, dim, dots) }
    });
    if let Some(scale) = shard.scale() {
        for (dots, scale) in dots.chunks_exact_mut(m).zip(scale) {
            dots.iter_mut().for_each(|dot| *dot *= scale);
        }
    }
    Ok(dots)
}

/// Dots `[rows, m]` of gradients `[rows, dim]` with vectors `[m, dim]`.
type Kernel = unsafe fn(gradients: &[u8], vectors: &[f32], dim: usize, dots: &mut [f32]);

/// The fastest kernel that this processor runs; all give the same result.
fn kernel(element: Element) -> Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return x86::avx512_kernel(element);
        }
        if x86::has_avx2() {
            return x86::avx2_kernel(element);
        }
    }
    portable_kernel(element)
}

fn portable_kernel(element: Element) -> Kernel {
    match element {
        Element::F32 => multiply::<Portable, F32, 2, 2, 1, 8>,
        Element::F16 => multiply::<Portable, F16, 2, 2, 1, 8>,
        Element::Bf16 => multiply::<Portable, Bf16, 2, 2, 1, 8>,
        Element::I8 => multiply::<Portable, I8, 2, 2, 1, 8>,
    }
}

/// Some neighbouring lanes. Widening is exact, so all registers compute the same.
///
/// Every function is unsafe for the same two reasons: the processor must have the register's instructions, and pointers
/// must be valid for `WIDTH` elements (of any alignment).
trait Register: Copy {
    const WIDTH: usize;
    unsafe fn load_f32(from: *const u8) -> Self;
    unsafe fn load_f16(from: *const u8) -> Self;
    unsafe fn load_bf16(from: *const u8) -> Self;
    unsafe fn load_i8(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Asks for the cache line at an address, which may lie anywhere; only a hint.
    unsafe fn prefetch(_line: *const u8) {}
    /// `self + a * b`, rounded once.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
}

/// An element type as a type.
trait Stored {
    const BYTES: usize;

    /// # Safety
    /// As for [`Register`].
    unsafe fn load<R: Register>(from: *const u8) -> R;
}

struct F32;
struct F16;
struct Bf16;
struct I8;

impl Stored for F32 {
    const BYTES: usize = Element::F32.bytes();

    #[inline(always)]
    unsafe fn load<R: Register>(from: *const u8) -> R {
        // SAFETY: the caller's promise is passed on.
        unsafe { R::load_f32(from) }
    }
}

impl Stored for F16 {
    const BYTES: usize = Element::F16.bytes();

    #[inline(always)]
    unsafe fn load<R: Register>(from: *const u8) -> R {
        // SAFETY: the caller's promise is passed on.
        unsafe { R::load_f16(from) }
    }
}

impl Stored for Bf16 {
    const BYTES: usize = Element::Bf16.bytes();

    #[inline(always)]
    unsafe fn load<R: Register>(from: *const u8) -> R {
        // SAFETY: the caller's promise is passed on.
        unsafe { R::load_bf16(from) }
    }
}

impl Stored for I8 {
    const BYTES: usize = Element::I8.bytes();

    #[inline(always)]
    unsafe fn load<R: Register>(from: *const u8) -> R {
        // SAFETY: the caller's promise is passed on.
        unsafe { R::load_i8(from) }
    }
}

/// A [`Kernel`] over groups of `ROWS` rows and `M` vectors, with the sums of `N` registers of lanes at a time. A single
/// vector meets one row after another, in `ALONE` registers: memory is read fastest in one stream.
///
/// # Safety
/// The processor must have the instructions of `R`.
#[inline(always)]
unsafe fn multiply<R: Register, E: Stored, const ROWS: usize, const M: usize, const N: usize, const ALONE: usize>(
    gradients: &[u8],
    vectors: &[f32],
    dim: usize,
    dots: &mut [f32],
) {
    let m = vectors.len() / dim;
    let row_bytes = dim * E::BYTES;
    // lanes and totals of a group: the lanes of one row after another, of each vector in turn
    let (mut lanes, mut totals) = (vec![[0.0f32; LANES]; ROWS * m], vec![0.0f64; ROWS * m]);
    for (rows, dots) in gradients.chunks(ROWS * row_bytes).zip(dots.chunks_mut(ROWS * m)) {
        // SAFETY: the caller's promise is passed on.
        unsafe {
            if m == 1 {
                for (row, dot) in rows.chunks(row_bytes).zip(dots.chunks_mut(1)) {
                    group::<R, E, 1, 1, ALONE>(row, vectors, dim, &mut lanes[..1], &mut totals[..1], dot);
                }
            } else if dots.len() == ROWS * m {
                group::<R, E, ROWS, M, N>(rows, vectors, dim, &mut lanes, &mut totals, dots);
            } else {
                for (row, dots) in rows.chunks(row_bytes).zip(dots.chunks_mut(m)) {
                    group::<R, E, 1, M, N>(row, vectors, dim, &mut lanes[..m], &mut totals[..m], dots);
                }
            }
        }
    }
}

/// Dots of `ROWS` gradients with all vectors, `M` of them at once; `lanes` and `totals` are room to work in.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn group<R: Register, E: Stored, const ROWS: usize, const M: usize, const N: usize>(
    rows: &[u8],
    vectors: &[f32],
    dim: usize,
    lanes: &mut [[f32; LANES]],
    totals: &mut [f64],
    dots: &mut [f32],
) {
    let m = vectors.len() / dim;
    let gradients: [&[u8]; ROWS] = std::array::from_fn(|row| &rows[row * dim * E::BYTES..][..dim * E::BYTES]);
    // a single pass over the columns reads memory in longer runs
    let step = if m <= M { SPAN } else { BLOCK };
    totals.fill(0.0);
    for span in (0..dim).step_by(SPAN) {
        let end = dim.min(span + SPAN);
        lanes.fill([0.0; LANES]);
        for start in (span..end).step_by(step) {
            let columns = start..end.min(start + step);
            for first in (0..m).step_by(M) {
                // SAFETY: the caller's promise is passed on; fewer than M vectors are left only at the end.
                unsafe {
                    match m - first {
                        1 => block::<R, E, ROWS, 1, N>(gradients, vectors, dim, first, columns.clone(), lanes),
                        2 if M > 2 => block::<R, E, ROWS, 2, N>(gradients, vectors, dim, first, columns.clone(), lanes),
                        _ => block::<R, E, ROWS, M, N>(gradients, vectors, dim, first, columns.clone(), lanes),
                    }
                }
            }
        }
        for (total, lanes) in totals.iter_mut().zip(&*lanes) {
            *total += sum(lanes);
        }
    }
    dots.iter_mut().zip(&*totals).for_each(|(dot, &total)| *dot = total as f32);
}

/// Adds the products of `ROWS` gradients and `M` vectors, from the vector `first` on, in these columns to the lanes.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn block<R: Register, E: Stored, const ROWS: usize, const M: usize, const N: usize>(
    gradients: [&[u8]; ROWS],
    vectors: &[f32],
    dim: usize,
    first: usize,
    columns: std::ops::Range<usize>,
    lanes: &mut [[f32; LANES]],
) {
    let m = vectors.len() / dim;
    let chosen: [&[f32]; M] = std::array::from_fn(|j| &vectors[(first + j) * dim..][..dim]);
    assert!(columns.end <= dim && gradients.iter().all(|gradient| gradient.len() == dim * E::BYTES));
    let whole = columns.start + columns.len() / LANES * LANES;
    // some registers hold all lanes or a part of them
    for lane in (0..LANES).step_by(N * R::WIDTH) {
        // SAFETY: the caller promises the instructions. N * WIDTH divides LANES, and columns below `whole` come in groups
        // of LANES, so every register ends within the gradients, the vectors and the lanes.
        unsafe {
            let mut sums: [[[R; N]; M]; ROWS] = std::array::from_fn(|row| {
                std::array::from_fn(|j| {
                    std::array::from_fn(|n| {
                        R::load_f32(lanes[row * m + first + j][lane + n * R::WIDTH..].as_ptr().cast())
                    })
                })
            });
            for group in (columns.start + lane..whole).step_by(LANES) {
                if ROWS * M == 1 {
                    // one stream at full speed needs its lines before the processor itself asks for them
                    let ahead = gradients[0].as_ptr().wrapping_add(group * E::BYTES + AHEAD);
                    (0..E::BYTES * LANES).step_by(64).for_each(|line| R::prefetch(ahead.wrapping_add(line)));
                }
                for (n, column) in (group..).step_by(R::WIDTH).take(N).enumerate() {
                    let values: [R; ROWS] =
                        std::array::from_fn(|row| E::load(gradients[row].as_ptr().add(column * E::BYTES)));
                    for (j, vector) in chosen.iter().enumerate() {
                        let numbers = R::load_f32(vector.as_ptr().add(column).cast());
                        for (sums, value) in sums.iter_mut().zip(values) {
                            sums[j][n] = sums[j][n].add_product(value, numbers);
                        }
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (j, sums) in sums.into_iter().enumerate() {
                    for (n, sum) in sums.into_iter().enumerate() {
                        sum.store(lanes[row * m + first + j][lane + n * R::WIDTH..].as_mut_ptr());
                    }
                }
            }
        }
    }
    if whole < columns.end {
        // the last columns of a gradient, filled up with zeros
        let rest = columns.end - whole;
        for (row, gradient) in gradients.iter().enumerate() {
            let mut bytes = [0u8; 4 * LANES];
            bytes[..rest * E::BYTES].copy_from_slice(&gradient[whole * E::BYTES..columns.end * E::BYTES]);
            for (j, vector) in chosen.iter().enumerate() {
                let mut numbers = [0.0f32; LANES];
                numbers[..rest].copy_from_slice(&vector[whole..columns.end]);
                let lanes = &mut lanes[row * m + first + j];
                for lane in (0..LANES).step_by(R::WIDTH) {
                    // SAFETY: as above; all three arrays hold LANES elements.
                    unsafe {
                        let sum = R::load_f32(lanes[lane..].as_ptr().cast());
                        let values = E::load::<R>(bytes.as_ptr().add(lane * E::BYTES));
                        let numbers = R::load_f32(numbers[lane..].as_ptr().cast());
                        sum.add_product(values, numbers).store(lanes[lane..].as_mut_ptr());
                    }
                }
            }
        }
    }
}

/// The sum of the lanes, always in this order: in float32 down to 16, then in float64, halves onto halves.
fn sum(lanes: &[f32; LANES]) -> f64 {
    let folded: [f64; 16] =
        std::array::from_fn(|i| f64::from((lanes[i] + lanes[i + 16]) + (lanes[i + 32] + lanes[i + 48])));
    let eight: [f64; 8] = std::array::from_fn(|i| folded[i] + folded[i + 8]);
    let four: [f64; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Lanes without any instruction in mind.
#[derive(Clone, Copy)]
struct Portable([f32; 8]);

impl Portable {
    /// # Safety
    /// As for [`Register`].
    #[inline(always)]
    unsafe fn load<const BYTES: usize>(from: *const u8, widen: impl Fn([u8; BYTES]) -> f32) -> Portable {
        // SAFETY: the caller promises WIDTH elements; bytes need no alignment.
        let elements = unsafe { from.cast::<[[u8; BYTES]; Self::WIDTH]>().read() };
        Portable(elements.map(widen))
    }
}

impl Register for Portable {
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Portable {
        // SAFETY: the caller's promise is passed on.
        unsafe { Portable::load(from, f32::from_ne_bytes) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Portable {
        // SAFETY: the caller's promise is passed on.
        unsafe { Portable::load(from, |bytes| half::f16::from_le_bytes(bytes).to_f32()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Portable {
        // SAFETY: the caller's promise is passed on.
        unsafe { Portable::load(from, |bytes| half::bf16::from_le_bytes(bytes).to_f32()) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Portable {
        // SAFETY: the caller's promise is passed on.
        unsafe { Portable::load(from, |bytes| f32::from(i8::from_le_bytes(bytes))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises WIDTH elements.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Portable, b: Portable) -> Portable {
        Portable(std::array::from_fn(|lane| a.0[lane].mul_add(b.0[lane], self.0[lane])))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Bf16, Element, F16, F32, I8, Kernel, Register, Stored, multiply};

    /// Whether [`avx2_kernel`] runs here.
    pub(super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") && is_x86_feature_detected!("fma")
    }

    /// For processors with AVX2, F16C and FMA.
    pub(super) fn avx2_kernel(element: Element) -> Kernel {
        match element {
            Element::F32 => avx2::<F32>,
            Element::F16 => avx2::<F16>,
            Element::Bf16 => avx2::<Bf16>,
            Element::I8 => avx2::<I8>,
        }
    }

    /// For processors with AVX-512F.
    pub(super) fn avx512_kernel(element: Element) -> Kernel {
        match element {
            Element::F32 => avx512::<F32>,
            Element::F16 => avx512::<F16>,
            Element::Bf16 => avx512::<Bf16>,
            Element::I8 => avx512::<I8>,
        }
    }

    #[target_feature(enable = "avx2,f16c,fma")]
    fn avx2<E: Stored>(gradients: &[u8], vectors: &[f32], dim: usize, dots: &mut [f32]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { multiply::<Avx2, E, 2, 3, 1, 8>(gradients, vectors, dim, dots) }
    }

    #[target_feature(enable = "avx512f")]
    fn avx512<E: Stored>(gradients: &[u8], vectors: &[f32], dim: usize, dots: &mut [f32]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { multiply::<Avx512, E, 4, 3, 2, 4>(gradients, vectors, dim, dots) }
    }

    /// Eight lanes.
    #[derive(Clone, Copy)]
    struct Avx2(__m256);

    impl Register for Avx2 {
        const WIDTH: usize = 8;

        #[inline(always)]
        unsafe fn load_f32(from: *const u8) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_loadu_ps(from.cast())) }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const u8) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const u8) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
            }
        }

        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise is passed on.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn prefetch(line: *const u8) {
            // SAFETY: the caller's promise is passed on; a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Avx2, b: Avx2) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_fmadd_ps(a.0, b.0, self.0)) }
        }
    }

    /// Sixteen lanes.
    #[derive(Clone, Copy)]
    struct Avx512(__m512);

    impl Register for Avx512 {
        const WIDTH: usize = 16;

        #[inline(always)]
        unsafe fn load_f32(from: *const u8) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_loadu_ps(from.cast())) }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const u8) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const u8) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
            }
        }

        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise is passed on.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn prefetch(line: *const u8) {
            // SAFETY: the caller's promise is passed on; a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Avx512, b: Avx512) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_fmadd_ps(a.0, b.0, self.0)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(dots: &[f32]) -> Vec<u32> {
        dots.iter().map(|dot| dot.to_bits()).collect()
    }

    /// Seven rows, so that there are whole groups and rows that are left.
    const ROWS: usize = 7;
    const MOST_VECTORS: usize = 10;

    fn number(i: usize) -> f32 {
        ((i * 2_654_435_761) % 1009) as f32 / 1009.0 - 0.5
    }

    fn stored(element: Element, n: usize) -> Vec<u8> {
        let encode = |i: usize| match element {
            Element::F32 => number(i + 7).to_le_bytes().to_vec(),
            Element::F16 => half::f16::from_f32(number(i + 7)).to_le_bytes().to_vec(),
            Element::Bf16 => half::bf16::from_f32(number(i + 7)).to_le_bytes().to_vec(),
            Element::I8 => ((number(i + 7) * 254.0) as i8).to_le_bytes().to_vec(),
        };
        (0..n).flat_map(encode).collect()
    }

    // the other kernels cannot be reached through `shard_dots` on one machine
    #[test]
    fn every_kernel_and_number_of_vectors_gives_the_same_bits() {
        for dim in [1, 15, 31, 63, 64, 65, 137, 1023, 1040, 4096, 4097, 9001] {
            let vectors: Vec<f32> = (0..MOST_VECTORS * dim).map(number).collect();
            for element in [Element::F32, Element::F16, Element::Bf16, Element::I8] {
                let gradients = stored(element, ROWS * dim);
                let mut kernels = vec![portable_kernel(element), kernel(element)];
                #[cfg(target_arch = "x86_64")]
                if x86::has_avx2() {
                    kernels.push(x86::avx2_kernel(element));
                }
                let run = |kernel: Kernel, m: usize| {
                    let mut dots = vec![f32::NAN; ROWS * m];
                    // SAFETY: each kernel is portable or was checked for above.
                    unsafe { kernel(&gradients, &vectors[..m * dim], dim, &mut dots) };
                    dots
                };
                let all = run(kernels[0], MOST_VECTORS);
                for m in 1..=MOST_VECTORS {
                    // the first m columns of the dots with all vectors
                    let expected: Vec<f32> = all.chunks(MOST_VECTORS).flat_map(|row| row[..m].to_vec()).collect();
                    for (k, &kernel) in kernels.iter().enumerate() {
                        assert_eq!(bits(&run(kernel, m)), bits(&expected), "{element:?} {dim} {m}: kernel {k}");
                    }
                }
            }
        }
    }
}
