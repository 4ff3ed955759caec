//! Dots of stored gradients with a few vectors, at the speed of memory for one vector.
//!
//! Each row is read once for up to four vectors. Products are summed in float32 over 32 lanes, one lane every 32nd
//! column, and after every 4096 columns the lanes are added in a fixed order in float64. Multiplication and addition
//! round separately, so all instruction sets, and all numbers of threads, give the same bits. A row's scale multiplies
//! its finished dots.

use rayon::prelude::*;

use crate::error::DiqError;
use crate::shard::{Element, Shard};

/// Columns that are multiplied at once.
const LANES: usize = 32;
/// Columns that are summed in float32.
const SPAN: usize = 4096;
/// Vectors that share one read of a row.
const TILE: usize = 4;
/// Gradients that one task reads, in bytes.
const TASK: usize = 1 << 20;

/// Dots of every gradient of a shard with every vector.
///
/// `vectors`: `[m, dim]`, row-major. Returns `[rows, m]`, row-major: `result[r * m + j]` is the dot of gradient `r` with
/// vector `j`, times the scale of gradient `r` where the shard has one. A dot that meets NaN or an infinity is not
/// finite.
///
/// O(rows * dim * m) time; the gradients are read from the map once for every four vectors, and nothing is copied.
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
        for (gradient, dots) in gradients.chunks_exact(row_bytes).zip(dots.chunks_exact_mut(m)) {
            for (vectors, dots) in vectors.chunks(TILE * dim).zip(dots.chunks_mut(TILE)) {
                // SAFETY: `kernel` chose a function whose instructions this processor has.
                unsafe { kernel(gradient, vectors, dots) }
            }
        }
    });
    if let Some(scale) = shard.scale() {
        for (dots, scale) in dots.chunks_exact_mut(m).zip(scale) {
            dots.iter_mut().for_each(|dot| *dot *= scale);
        }
    }
    Ok(dots)
}

/// Dots of one gradient with `dots.len()` vectors, at most [`TILE`], each as long as the gradient.
type Kernel = unsafe fn(gradient: &[u8], vectors: &[f32], dots: &mut [f32]);

/// The fastest kernel that this processor runs; all give the same result.
fn kernel(element: Element) -> Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return x86::avx512_kernel(element);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
            return x86::avx2_kernel(element);
        }
    }
    portable_kernel(element)
}

fn portable_kernel(element: Element) -> Kernel {
    match element {
        Element::F32 => tile::<Portable, F32>,
        Element::F16 => tile::<Portable, F16>,
        Element::Bf16 => tile::<Portable, Bf16>,
        Element::I8 => tile::<Portable, I8>,
    }
}

/// Some neighbouring lanes. Widening is exact, so all registers compute the same.
///
/// Every function is unsafe for the same two reasons: the processor must have the register's instructions, and pointers
/// must be valid for `WIDTH` elements (of any alignment).
trait Register: Copy {
    const WIDTH: usize;
    unsafe fn zero() -> Self;
    unsafe fn load_f32(from: *const u8) -> Self;
    unsafe fn load_f16(from: *const u8) -> Self;
    unsafe fn load_bf16(from: *const u8) -> Self;
    unsafe fn load_i8(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a * b`, rounded twice.
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

/// A [`Kernel`].
///
/// # Safety
/// The processor must have the instructions of `R`.
#[inline(always)]
unsafe fn tile<R: Register, E: Stored>(gradient: &[u8], vectors: &[f32], dots: &mut [f32]) {
    let dim = gradient.len() / E::BYTES;
    // the last vector stands in for those that are missing
    let vector = |j: usize| &vectors[j.min(dots.len() - 1) * dim..][..dim];
    // SAFETY: the caller's promise is passed on. `N` keeps `M * N` sums within 8 registers, which every x86 has twice.
    unsafe {
        match dots.len() {
            1 => dots.copy_from_slice(&sums::<R, E, 1, 4>(gradient, [vector(0)])),
            2 => dots.copy_from_slice(&sums::<R, E, 2, 4>(gradient, [vector(0), vector(1)])),
            m => dots.copy_from_slice(&sums::<R, E, TILE, 2>(gradient, std::array::from_fn(vector))[..m]),
        }
    }
}

/// Dots of one gradient with `M` vectors of the same dim, by passes over at most `N` registers of lanes.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
unsafe fn sums<R: Register, E: Stored, const M: usize, const N: usize>(
    gradient: &[u8],
    vectors: [&[f32]; M],
) -> [f32; M] {
    let dim = gradient.len() / E::BYTES;
    assert!(vectors.iter().all(|vector| vector.len() == dim));
    let mut totals = [0.0f64; M];
    for start in (0..dim).step_by(SPAN) {
        let columns = SPAN.min(dim - start);
        let (whole, rest) = (columns / LANES, columns % LANES);
        let mut lanes = [[0.0f32; LANES]; M];
        let mut first = 0;
        while first < LANES {
            // SAFETY: the caller promises the instructions. WIDTH divides LANES, so a register that starts below LANES ends
            // there at the latest; columns below `start + whole * LANES` are within `dim`, hence within the gradient
            // and each vector.
            unsafe {
                let mut sums = [[R::zero(); M]; N];
                for group in 0..whole {
                    for (n, sums) in sums.iter_mut().enumerate() {
                        let lane = first + n * R::WIDTH;
                        if lane < LANES {
                            let column = start + group * LANES + lane;
                            let values: R = E::load(gradient.as_ptr().add(column * E::BYTES));
                            for (sum, vector) in sums.iter_mut().zip(&vectors) {
                                *sum = sum.add_product(values, R::load_f32(vector.as_ptr().add(column).cast()));
                            }
                        }
                    }
                }
                for (n, sums) in sums.into_iter().enumerate() {
                    let lane = first + n * R::WIDTH;
                    if lane < LANES {
                        lanes.iter_mut().zip(sums).for_each(|(lanes, sum)| sum.store(lanes.as_mut_ptr().add(lane)));
                    }
                }
            }
            first += N * R::WIDTH;
        }
        if rest > 0 {
            let column = start + whole * LANES;
            // the last columns, filled up with zeros
            let mut bytes = [0u8; 4 * LANES];
            bytes[..rest * E::BYTES].copy_from_slice(&gradient[column * E::BYTES..][..rest * E::BYTES]);
            let mut values = [0.0f32; LANES];
            for first in (0..LANES).step_by(R::WIDTH) {
                // SAFETY: as above; both arrays hold LANES elements.
                unsafe { E::load::<R>(bytes.as_ptr().add(first * E::BYTES)).store(values.as_mut_ptr().add(first)) }
            }
            for (lanes, vector) in lanes.iter_mut().zip(vectors) {
                for ((lane, value), number) in lanes.iter_mut().zip(values).zip(&vector[column..column + rest]) {
                    *lane += value * number;
                }
            }
        }
        for (total, lanes) in totals.iter_mut().zip(&lanes) {
            *total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
        }
    }
    totals.map(|total| total as f32)
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
    unsafe fn zero() -> Portable {
        Portable([0.0; 8])
    }

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
        Portable(std::array::from_fn(|lane| self.0[lane] + a.0[lane] * b.0[lane]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Bf16, Element, F16, F32, I8, Kernel, Register, Stored, tile};

    /// For processors with AVX2 and F16C.
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

    #[target_feature(enable = "avx2,f16c")]
    fn avx2<E: Stored>(gradient: &[u8], vectors: &[f32], dots: &mut [f32]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { tile::<Avx2, E>(gradient, vectors, dots) }
    }

    #[target_feature(enable = "avx512f")]
    fn avx512<E: Stored>(gradient: &[u8], vectors: &[f32], dots: &mut [f32]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { tile::<Avx512, E>(gradient, vectors, dots) }
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
        unsafe fn add_product(self, a: Avx2, b: Avx2) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_add_ps(self.0, _mm256_mul_ps(a.0, b.0))) }
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
        unsafe fn add_product(self, a: Avx512, b: Avx512) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_add_ps(self.0, _mm512_mul_ps(a.0, b.0))) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(dots: &[f32]) -> Vec<u32> {
        dots.iter().map(|dot| dot.to_bits()).collect()
    }

    // the other kernels cannot be reached through `shard_dots` on one machine
    #[test]
    fn every_kernel_gives_the_same_bits() {
        for dim in [1, 31, 32, 63, 137, 4096, 4097, 9001] {
            let number = |i: usize| ((i * 2_654_435_761) % 1009) as f32 / 1009.0 - 0.5;
            let vectors: Vec<f32> = (0..TILE * dim).map(number).collect();
            for element in [Element::F32, Element::F16, Element::Bf16, Element::I8] {
                let gradient: Vec<u8> = (0..dim)
                    .flat_map(|i| match element {
                        Element::F32 => number(i + 7).to_le_bytes().to_vec(),
                        Element::F16 => half::f16::from_f32(number(i + 7)).to_le_bytes().to_vec(),
                        Element::Bf16 => half::bf16::from_f32(number(i + 7)).to_le_bytes().to_vec(),
                        Element::I8 => ((number(i + 7) * 254.0) as i8).to_le_bytes().to_vec(),
                    })
                    .collect();
                let mut kernels = vec![portable_kernel(element), kernel(element)];
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
                    kernels.push(x86::avx2_kernel(element));
                }
                for m in 1..=TILE {
                    let results = kernels.iter().map(|kernel| {
                        let mut dots = vec![0.0; m];
                        // SAFETY: each kernel is portable or was checked for above.
                        unsafe { kernel(&gradient, &vectors[..m * dim], &mut dots) };
                        bits(&dots)
                    });
                    let results: Vec<_> = results.collect();
                    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{element:?} {dim} {m}: {results:?}");
                }
            }
        }
    }
}
