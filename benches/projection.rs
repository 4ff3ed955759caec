//! Claim: a dense projection of many gradients takes less time than the multiply-adds with a stored matrix of signs,
//! though it makes the signs, and one of a single gradient about twice as much; a fused sketch takes little more than
//! the multiply-adds that form the gradient, and a sketch of a formed one a few reads of it.
//!
//! `cargo bench --features bench --bench projection`; `RAYON_NUM_THREADS` sets the threads. Each line stands next
//! to its floor, measured in the same run: fused multiply-adds that wait for no memory, or one read of the gradients.
//! The answer is checked before any time is taken.

// a bench makes public functions without docs
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use diq_core::projection::{philox, project_rademacher, sketch_matrices, sketch_outer};
use rayon::prelude::*;

const KEY: u64 = 0x0123_4567_89AB_CDEF;
const DENSE: usize = 4096;
const SPARSE: usize = 65_536;
const REPEATS: usize = 15;

/// A number in [-0.5, 0.5) that looks random.
fn number(i: usize) -> f32 {
    let bits = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((bits ^ (bits >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f32 / (1 << 24) as f32 - 0.5
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).into_par_iter().map(number).collect()
}

/// Seconds of each repeat, ascending.
fn time(mut call: impl FnMut()) -> Vec<f64> {
    call();
    let mut seconds: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

fn quantile(seconds: &[f64], quantile: f64) -> f64 {
    seconds[((seconds.len() - 1) as f64 * quantile).round() as usize]
}

fn line(what: &str, unit: &str, units: usize, seconds: &[f64], floor: f64) {
    let each = |part: f64| quantile(seconds, part) * 1e9 / units as f64;
    let floor = floor * 1e9 / units as f64;
    println!(
        "{what:<44} {:>8.4} {:>8.4} {:>8.4} ns per {unit:<16} floor {floor:>7.4}  {:>5.2} x",
        each(0.5),
        each(0.2),
        each(0.8),
        each(0.5) / floor
    );
}

/// Sums that run side by side: enough to hide the latency of a multiply-add.
const SUMS: usize = 12;

/// `count` multiply-adds, in registers alone.
fn multiply_adds(count: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return unsafe { multiply_adds_avx512(count) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            return unsafe { multiply_adds_avx2(count) };
        }
    }
    let (a, b) = (black_box(0.999f32), black_box(0.001f32));
    let mut sums = [[0.0f32; 8]; SUMS];
    for _ in 0..count / (8 * SUMS) {
        for sum in sums.as_flattened_mut() {
            *sum = sum.mul_add(a, b);
        }
    }
    sums.as_flattened().iter().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn multiply_adds_avx512(count: usize) -> f32 {
    use std::arch::x86_64::*;
    let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..count / (16 * SUMS) {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, a, b);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_adds_avx2(count: usize) -> f32 {
    use std::arch::x86_64::*;
    let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
    let mut sums = [_mm256_setzero_ps(); SUMS];
    for _ in 0..count / (8 * SUMS) {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, b);
        }
    }
    sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
}

/// Seconds of one multiply-add with all threads at work; the best of the repeats, since the floor is what can be.
fn multiply_add_seconds() -> f64 {
    const COUNT: usize = 1 << 28;
    let threads = rayon::current_num_threads();
    let tries = time(|| {
        black_box(rayon::broadcast(|_| multiply_adds(black_box(COUNT))));
    });
    tries[0] / (COUNT * threads) as f64
}

fn read(values: &[f32]) -> u32 {
    let fold = |block: &[f32]| block.iter().fold(0, |all, value| all ^ value.to_bits());
    values.par_chunks(1 << 16).map(fold).reduce(|| 0, |a, b| a ^ b)
}

fn check(what: &str, found: f32, expected: f64) {
    assert!((f64::from(found) - expected).abs() < 1e-3 * expected.abs().max(1.0), "{what}: {found} is not {expected}");
}

fn dense(multiply_add: f64) {
    for (n, p) in [(1, 65_536), (8, 65_536), (64, 16_384)] {
        let gradients = numbers(n * p);
        let mut projected = vec![0.0; n * DENSE];
        project_rademacher(&gradients, &mut projected, n, KEY, 0).expect("a valid shape");
        let column = 1234;
        let sign = |row: usize| {
            let words = philox(KEY, [row as u32, 0, (column / 128) as u32, 0]);
            if words[column % 128 / 32] >> (column % 32) & 1 == 1 { -1.0 } else { 1.0 }
        };
        let sum: f64 = gradients[..p].iter().enumerate().map(|(row, &value)| f64::from(value) * sign(row)).sum();
        check("rademacher", projected[column], sum / (DENSE as f64).sqrt());

        let seconds = time(|| {
            project_rademacher(black_box(&gradients), &mut projected, n, KEY, 0).expect("a valid shape");
        });
        let products = n * p * DENSE;
        let what = format!("rademacher n {n}, p {p}, dim {DENSE}");
        line(&what, "element x column", products, &seconds, multiply_add * products as f64);
    }
}

fn matrices() {
    for (n, out, inputs) in [(1, 4096, 4096), (8, 1024, 1024), (64, 1024, 1024)] {
        let gradients = numbers(n * out * inputs);
        let mut projected = vec![0.0; n * SPARSE];
        sketch_matrices(&gradients, [out, inputs], &mut projected, n, KEY).expect("a valid shape");
        // every element is somewhere, with its sign
        let sum: f64 = projected[..SPARSE].iter().map(|&number| f64::from(number)).sum();
        let signed = |(at, &value): (usize, &f32)| {
            let (o, i) = (at / inputs, at % inputs);
            let words = philox(KEY, [o as u32, (i / 32) as u32, 0, 1]);
            let sign = words[i / 16 % 2 * 2 + 1] >> (i % 16) & 1;
            f64::from(value) * if sign == 1 { -1.0 } else { 1.0 }
        };
        check("matrices", sum as f32, gradients[..out * inputs].par_iter().enumerate().map(signed).sum());

        let floor = time(|| {
            black_box(read(black_box(&gradients)));
        });
        let seconds = time(|| {
            sketch_matrices(black_box(&gradients), [out, inputs], &mut projected, n, KEY).expect("a valid shape");
        });
        let what = format!("sketch n {n}, [{out}, {inputs}], dim {SPARSE}");
        line(&what, "element", n * out * inputs, &seconds, floor[0]);
    }
}

fn outer(multiply_add: f64) {
    for (n, length, out, inputs) in
        [(1, 200, 4096, 4096), (8, 200, 1024, 1024), (64, 30, 1024, 1024), (8, 200, 256, 256)]
    {
        let tokens = n * length;
        let (delta, x) = (numbers(tokens * out), numbers(tokens * inputs));
        let offsets: Vec<i64> = (0..=n).map(|sample| (sample * length) as i64).collect();
        let mut projected = vec![0.0; n * SPARSE];
        let shape = [out, inputs];
        sketch_outer(&delta, &x, [tokens, out, inputs], &offsets, &mut projected, KEY).expect("a valid shape");
        let mut gradient = vec![0.0; out * inputs];
        gradient.par_chunks_mut(inputs).enumerate().for_each(|(o, row)| {
            for (x, delta) in x.chunks(inputs).zip(delta.chunks(out)).take(length) {
                row.iter_mut().zip(x).for_each(|(value, x)| *value += delta[o] * x);
            }
        });
        let mut expected = vec![0.0; SPARSE];
        sketch_matrices(&gradient, shape, &mut expected, 1, KEY).expect("a valid shape");
        for (&found, &expected) in projected.iter().zip(&expected) {
            check("outer", found, f64::from(expected));
        }

        let seconds = time(|| {
            sketch_outer(black_box(&delta), black_box(&x), [tokens, out, inputs], &offsets, &mut projected, KEY)
                .expect("a valid shape");
        });
        let products = tokens * out * inputs;
        let what = format!("outer n {n} x {length} tokens, [{out}, {inputs}]");
        line(&what, "token x element", products, &seconds, multiply_add * products as f64);
    }
}

fn main() {
    let multiply_add = multiply_add_seconds();
    println!("{} threads, {:.5} ns per multiply-add", rayon::current_num_threads(), multiply_add * 1e9);
    println!("{:<44} {:>8} {:>8} {:>8}    of {REPEATS} repeats", "", "median", "p20", "p80");
    dense(multiply_add);
    matrices();
    outer(multiply_add);
}
