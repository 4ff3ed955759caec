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
use crate::simd::{InstructionSet, Portable, Register};

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
    let kernel = kernel(InstructionSet::fastest(), shard.element());
    shard.data().par_chunks(rows * row_bytes).zip(dots.par_chunks_mut(rows * m)).for_each(|(gradients, dots)| {
        // SAFETY: this processor has the instructions of its fastest set.
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

/// The kernel of an instruction set; those of all sets give the same bits.
fn kernel(set: InstructionSet, element: Element) -> Kernel {
    match element {
        Element::F32 => kernel_of::<F32>(set),
        Element::F16 => kernel_of::<F16>(set),
        Element::Bf16 => kernel_of::<Bf16>(set),
        Element::I8 => kernel_of::<I8>(set),
    }
}

fn kernel_of<E: Stored>(set: InstructionSet) -> Kernel {
    match set {
        InstructionSet::Portable => multiply::<Portable, E, 2, 2, 1, 8>,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2(_) => x86::avx2::<E>,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512(_) => x86::avx512::<E>,
    }
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
        unsafe { R::load(from.cast()) }
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
                    std::array::from_fn(|n| R::load(lanes[row * m + first + j][lane + n * R::WIDTH..].as_ptr()))
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
                        let numbers = R::load(vector.as_ptr().add(column));
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
                        let sum = R::load(lanes[lane..].as_ptr());
                        let values = E::load::<R>(bytes.as_ptr().add(lane * E::BYTES));
                        let numbers = R::load(numbers[lane..].as_ptr());
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Stored, multiply};
    use crate::simd::{Avx2, Avx512};

    #[target_feature(enable = "avx2,f16c,fma")]
    pub fn avx2<E: Stored>(gradients: &[u8], vectors: &[f32], dim: usize, dots: &mut [f32]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { multiply::<Avx2, E, 2, 3, 1, 8>(gradients, vectors, dim, dots) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn avx512<E: Stored>(gradients: &[u8], vectors: &[f32], dim: usize, dots: &mut [f32]) {
        // SAFETY: this function has the instructions of its register.
        unsafe { multiply::<Avx512, E, 4, 3, 2, 4>(gradients, vectors, dim, dots) }
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
                let run = |set: InstructionSet, m: usize| {
                    let mut dots = vec![f32::NAN; ROWS * m];
                    // SAFETY: this processor has the instructions of `set`.
                    unsafe { kernel(set, element)(&gradients, &vectors[..m * dim], dim, &mut dots) };
                    dots
                };
                let all = run(InstructionSet::Portable, MOST_VECTORS);
                for m in 1..=MOST_VECTORS {
                    // the first m columns of the dots with all vectors
                    let expected: Vec<f32> = all.chunks(MOST_VECTORS).flat_map(|row| row[..m].to_vec()).collect();
                    for set in InstructionSet::all() {
                        assert_eq!(bits(&run(set, m)), bits(&expected), "{element:?} {dim} {m}: {set:?}");
                    }
                }
            }
        }
    }
}
