//! Claim: a selection from 10 million rows costs a few reads of the two columns of scores, not a sort of them.
//!
//! `cargo bench --features bench --bench selection`; `RAYON_NUM_THREADS` sets the threads. Each ratio is timed with both thresholds
//! included, next to the floor (a plain read of the two columns) and to the naive rival (a full sort). The answer is
//! checked before any time is taken. The second table has the same columns as a DuckDB result stream brings them, in chunks
//! of 131,072 rows, without nulls and with a validity bitmap.

// criterion's macros make public functions without docs
#![allow(missing_docs)]

use std::cmp::Reverse;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use diq_core::column::{Chunk, Column};
use diq_core::key::Score;
use diq_core::rank::{Cut, Ranking, Ratio, rank, rank_columns};
use rayon::prelude::*;

const ROWS: usize = 10_000_000;
const MEDIAN: Cut = Cut::Percentile(0.5);

/// Source: Steele, Lea and Flood (2014), SplitMix.
fn split_mix(row: usize) -> u64 {
    let mut z = (row as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// About normal: the sum of four uniform numbers, standard deviation 1.
fn normal(row: usize) -> f32 {
    let bits = split_mix(row);
    let sum: u64 = (0..4).map(|i| bits >> (16 * i) & 0xFFFF).sum();
    (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt()
}

/// Ratings from 1 to 5, the middle ones more often.
fn rating(row: usize) -> f32 {
    [1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 5.0, 3.0][(split_mix(row ^ 0x5555_5555) % 10) as usize]
}

fn full_sort<T: Score + PartialOrd>(dot: &[T], difficulty: &[T], ranking: &Ranking) -> Vec<i64> {
    let mut rows: Vec<i64> = (0..dot.len() as i64).collect();
    rows.par_sort_unstable_by_key(|&row| {
        let i = row as usize;
        (ranking.quadrant[i], Reverse(dot[i].key()), Reverse(difficulty[i].key()), row)
    });
    rows
}

fn read<T: Score>(dot: &[T], difficulty: &[T]) -> (f64, f64) {
    let largest = |column: &[T]| {
        let blocks = column.par_chunks(1 << 16);
        let largest = |block: &[T]| {
            let mut lanes = [f64::MIN; 16];
            for values in block.chunks_exact(16) {
                lanes.iter_mut().zip(values).for_each(|(lane, &value)| *lane = lane.max(value.into()));
            }
            lanes.into_iter().fold(f64::MIN, f64::max)
        };
        blocks.map(largest).reduce(|| f64::MIN, f64::max)
    };
    (largest(dot), largest(difficulty))
}

fn table<T: Score + PartialOrd>(c: &mut Criterion, name: &str, dot: &[T], difficulty: &[T]) {
    let all = rank(dot, difficulty, MEDIAN, Ratio::ALL).expect("valid scores");
    assert_eq!(all.rows, full_sort(dot, difficulty, &all), "{name}: not the order of a full sort");

    let mut group = c.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat).sample_size(15);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group.bench_function("floor: read both columns", |b| b.iter(|| read(black_box(dot), black_box(difficulty))));
    for percent in [1, 10, 50, 100] {
        let ratio = Ratio::new(percent, 100).expect("a valid ratio");
        let ranking = rank(dot, difficulty, MEDIAN, ratio).expect("valid scores");
        assert_eq!(ranking.rows, all.rows[..ratio.of(dot.len())], "{name}: {percent} % is not a prefix");
        group.bench_function(format!("rank {percent} %"), |b| {
            b.iter(|| rank(black_box(dot), black_box(difficulty), MEDIAN, ratio));
        });
    }
    group.sample_size(10);
    group.bench_function("rival: full sort, quadrants given", |b| {
        b.iter(|| full_sort(black_box(dot), black_box(difficulty), &all));
    });
    group.finish();
}

fn chunked(c: &mut Criterion, dot: &[f32], difficulty: &[f32]) {
    const CHUNK: usize = 131_072;
    let plain = |values| -> Column<'_, f32> { <[f32]>::chunks(values, CHUNK).map(Chunk::new).collect() };
    // one null in a hundred, in other rows of each column
    let bits = |seed: usize| -> Vec<u8> {
        let bit = |row: usize| u8::from(!split_mix(row ^ seed).is_multiple_of(100)) << (row % 8);
        (0..ROWS.div_ceil(8)).into_par_iter().map(|byte| (8 * byte..8 * byte + 8).map(bit).sum()).collect()
    };
    let bitmaps = [bits(1 << 40), bits(1 << 41)];
    let nulls = |values, bits| -> Column<'_, f32> {
        let chunk = |(i, values)| Chunk::with_validity(values, bits, i * CHUNK).expect("a bit for every row");
        <[f32]>::chunks(values, CHUNK).enumerate().map(chunk).collect()
    };
    let with_nan = |values: &[f32], bits: &[u8]| -> Vec<f32> {
        let value = |(row, &value)| if bits[row / 8] >> (row % 8) & 1 == 0 { f32::NAN } else { value };
        values.par_iter().enumerate().map(value).collect()
    };
    let names = ["chunks", "chunks, 1 % nulls"];
    let dots = [plain(dot), nulls(dot, &bitmaps[0])];
    let difficulties = [plain(difficulty), nulls(difficulty, &bitmaps[1])];
    let same = [
        rank(dot, difficulty, MEDIAN, Ratio::ALL),
        rank(&with_nan(dot, &bitmaps[0]), &with_nan(difficulty, &bitmaps[1]), MEDIAN, Ratio::ALL),
    ];
    let mut group = c.benchmark_group("10M float32 in chunks");
    group.sampling_mode(SamplingMode::Flat).sample_size(15);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for (((name, dot), difficulty), same) in names.iter().zip(&dots).zip(&difficulties).zip(same) {
        let all = rank_columns(dot, difficulty, MEDIAN, Ratio::ALL).expect("valid scores");
        assert_eq!(all, same.expect("valid scores"), "{name}: not the order of one chunk");
        for percent in [1, 10, 50, 100] {
            let ratio = Ratio::new(percent, 100).expect("a valid ratio");
            group.bench_function(format!("{name}: rank {percent} %"), |b| {
                b.iter(|| rank_columns(black_box(dot), black_box(difficulty), MEDIAN, ratio));
            });
        }
    }
    group.finish();
}

fn selection(c: &mut Criterion) {
    let difficulty: Vec<f32> = (0..ROWS).into_par_iter().map(rating).collect();
    let dot: Vec<f32> = (0..ROWS).into_par_iter().map(normal).collect();
    table(c, "10M float32", &dot, &difficulty);
    chunked(c, &dot, &difficulty);

    let rounded: Vec<f32> = dot.iter().map(|dot| (dot * 1000.0).round() / 1000.0).collect();
    table(c, "10M float32, dots of 3 decimals", &rounded, &difficulty);

    let few: Vec<f32> = dot.iter().map(|dot| dot.round()).collect();
    table(c, "10M float32, dots of 0 decimals", &few, &difficulty);

    let wide: Vec<f64> =
        (0..ROWS).into_par_iter().map(|row| f64::from(normal(row)) + f64::from(dot[row]) * 1e-7).collect();
    let difficulty: Vec<f64> = difficulty.into_iter().map(f64::from).collect();
    table(c, "10M float64", &wide, &difficulty);
}

criterion_group!(benches, selection);
criterion_main!(benches);
