//! Dots of stored gradients with a few vectors, at the speed of memory for one vector.
//!
//! Each row is read once for up to four vectors. Products are summed in float32 over 32 lanes, one lane every 32nd
//! column, and after every 4096 columns the lanes are added in a fixed order in float64. Multiplication and addition
//! round separately, so all instruction sets, and all numbers of threads, give the same bits.

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
/// vector `j`. A dot that meets NaN or an infinity is not finite.
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
    Ok(dots)
}

/// Dots of one gradient with `dots.len()` vectors, at most [`TILE`], each as long as the gradient.
type Kernel = unsafe fn(gradient: &[u8], vectors: &[f32], dots: &mut [f32]);

/// The fastest kernel that this processor runs; all give the same result.
fn kernel(element: Element) -> Kernel {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("f16c") {
        if is_x86_feature_detected!("avx512f") {
            return match element {
                Element::F32 => x86::avx512::<F32>,
                Element::F16 => x86::avx512::<x86::F16>,
                Element::Bf16 => x86::avx512::<Bf16>,
            };
        }
        if is_x86_feature_detected!("avx2") {
            return match element {
                Element::F32 => x86::avx2::<F32>,
                Element::F16 => x86::avx2::<x86::F16>,
                Element::Bf16 => x86::avx2::<Bf16>,
            };
        }
    }
    match element {
        Element::F32 => tile::<F32>,
        Element::F16 => tile::<F16>,
        Element::Bf16 => tile::<Bf16>,
    }
}

/// How stored elements become float32; exact for every type.
trait Widen {
    /// Bytes of [`LANES`] elements.
    type Bytes: Copy + AsRef<[u8]> + AsMut<[u8]> + for<'a> TryFrom<&'a [u8]>;
    const ZEROS: Self::Bytes;

    /// # Safety
    /// The processor must have the instructions that the implementation names.
    unsafe fn widen(bytes: &Self::Bytes) -> [f32; LANES];
}

struct F32;
struct F16;
struct Bf16;

impl Widen for F32 {
    type Bytes = [u8; 4 * LANES];
    const ZEROS: Self::Bytes = [0; 4 * LANES];

    #[inline(always)]
    unsafe fn widen(bytes: &Self::Bytes) -> [f32; LANES] {
        let (elements, _) = bytes.as_chunks::<4>();
        std::array::from_fn(|lane| f32::from_le_bytes(elements[lane]))
    }
}

impl Widen for F16 {
    type Bytes = [u8; 2 * LANES];
    const ZEROS: Self::Bytes = [0; 2 * LANES];

    #[inline(always)]
    unsafe fn widen(bytes: &Self::Bytes) -> [f32; LANES] {
        let (elements, _) = bytes.as_chunks::<2>();
        std::array::from_fn(|lane| half::f16::from_le_bytes(elements[lane]).to_f32())
    }
}

impl Widen for Bf16 {
    type Bytes = [u8; 2 * LANES];
    const ZEROS: Self::Bytes = [0; 2 * LANES];

    #[inline(always)]
    unsafe fn widen(bytes: &Self::Bytes) -> [f32; LANES] {
        let (elements, _) = bytes.as_chunks::<2>();
        std::array::from_fn(|lane| f32::from_bits(u32::from(u16::from_le_bytes(elements[lane])) << 16))
    }
}

/// A [`Kernel`].
///
/// # Safety
/// As for [`Widen::widen`].
#[inline(always)]
unsafe fn tile<E: Widen>(gradient: &[u8], vectors: &[f32], dots: &mut [f32]) {
    let dim = vectors.len() / dots.len();
    // SAFETY: the caller's promise is passed on.
    unsafe {
        match dots {
            [a] => [*a] = sums::<E, 1>(gradient, [vectors]),
            [a, b] => [*a, *b] = sums::<E, 2>(gradient, [&vectors[..dim], &vectors[dim..]]),
            _ => {
                // the last vector stands in for those that are missing
                let vector = |i: usize| &vectors[i.min(dots.len() - 1) * dim..][..dim];
                let sums = sums::<E, TILE>(gradient, std::array::from_fn(vector));
                dots.copy_from_slice(&sums[..dots.len()]);
            }
        }
    }
}

/// Dots of one gradient with `M` vectors.
///
/// # Safety
/// As for [`Widen::widen`].
#[inline(always)]
unsafe fn sums<E: Widen, const M: usize>(gradient: &[u8], vectors: [&[f32]; M]) -> [f32; M] {
    let group = size_of::<E::Bytes>();
    let mut totals = [0.0f64; M];
    let spans = gradient.chunks(SPAN / LANES * group).enumerate();
    for (span, gradient) in spans {
        let vectors = vectors.map(|vector| &vector[span * SPAN..vector.len().min((span + 1) * SPAN)]);
        let mut lanes = [[0.0f32; LANES]; M];
        let groups = gradient.chunks_exact(group);
        let (rest, whole) = (groups.remainder(), groups.len());
        for (i, bytes) in groups.enumerate() {
            let Ok(bytes) = E::Bytes::try_from(bytes) else { unreachable!("chunks_exact gives whole groups") };
            // SAFETY: the caller's promise is passed on.
            let values = unsafe { E::widen(&bytes) };
            for j in 0..M {
                let vector = &vectors[j][i * LANES..][..LANES];
                for lane in 0..LANES {
                    lanes[j][lane] += values[lane] * vector[lane];
                }
            }
        }
        if !rest.is_empty() {
            let mut bytes = E::ZEROS;
            bytes.as_mut()[..rest.len()].copy_from_slice(rest);
            // SAFETY: the caller's promise is passed on.
            let values = unsafe { E::widen(&bytes) };
            for j in 0..M {
                for (lane, &number) in vectors[j][whole * LANES..].iter().enumerate() {
                    lanes[j][lane] += values[lane] * number;
                }
            }
        }
        for (total, lanes) in totals.iter_mut().zip(&lanes) {
            *total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
        }
    }
    totals.map(|total| total as f32)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};

    use super::{LANES, Widen, tile};

    /// Widened by the F16C instruction.
    pub(super) struct F16;

    impl Widen for F16 {
        type Bytes = [u8; 2 * LANES];
        const ZEROS: Self::Bytes = [0; 2 * LANES];

        #[inline(always)]
        unsafe fn widen(bytes: &Self::Bytes) -> [f32; LANES] {
            let mut values = [0.0; LANES];
            for i in (0..LANES).step_by(8) {
                // SAFETY: 8 elements are 16 bytes of `bytes` and 32 bytes of `values`, neither needs alignment, and the
                // caller promises F16C.
                unsafe {
                    let halves = _mm_loadu_si128(bytes.as_ptr().add(2 * i).cast::<__m128i>());
                    _mm256_storeu_ps(values.as_mut_ptr().add(i), _mm256_cvtph_ps(halves));
                }
            }
            values
        }
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn avx2<E: Widen>(gradient: &[u8], vectors: &[f32], dots: &mut [f32]) {
        // SAFETY: the features of this function are all that an implementation of `Widen` names.
        unsafe { tile::<E>(gradient, vectors, dots) }
    }

    #[target_feature(enable = "avx512f,avx2,f16c")]
    pub(super) fn avx512<E: Widen>(gradient: &[u8], vectors: &[f32], dots: &mut [f32]) {
        // SAFETY: as above.
        unsafe { tile::<E>(gradient, vectors, dots) }
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
            let vectors: Vec<f32> = (0..3 * dim).map(number).collect();
            for element in [Element::F32, Element::F16, Element::Bf16] {
                let gradient: Vec<u8> = (0..dim)
                    .flat_map(|i| match element {
                        Element::F32 => number(i + 7).to_le_bytes().to_vec(),
                        Element::F16 => half::f16::from_f32(number(i + 7)).to_le_bytes().to_vec(),
                        Element::Bf16 => half::bf16::from_f32(number(i + 7)).to_le_bytes().to_vec(),
                    })
                    .collect();
                let portable: Kernel = match element {
                    Element::F32 => tile::<F32>,
                    Element::F16 => tile::<F16>,
                    Element::Bf16 => tile::<Bf16>,
                };
                let mut kernels = vec![portable, kernel(element)];
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("f16c") && is_x86_feature_detected!("avx2") {
                    kernels.push(match element {
                        Element::F32 => x86::avx2::<F32>,
                        Element::F16 => x86::avx2::<x86::F16>,
                        Element::Bf16 => x86::avx2::<Bf16>,
                    });
                }
                for m in 1..=3 {
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
