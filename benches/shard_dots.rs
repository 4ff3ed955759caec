//! Claim: dots of stored gradients with one vector run at the speed of memory, and more vectors share the read.
//!
//! `cargo bench --features bench --bench shard_dots`; `RAYON_NUM_THREADS` sets the threads. Each table stands next to the floor (a plain
//! read of the mapped bytes) and the naive rival (widen, then one running sum). The answer is checked before any time is
//! taken.

use std::hint::black_box;
use std::time::Instant;

use diq_core::dot::shard_dots;
use diq_core::shard::{Element, SCALE, Shard, TENSOR};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

const ROWS: usize = 32_768;
const DIM: usize = 4_096;
const MOST_VECTORS: usize = 9;
/// How often each is timed.
const ROUNDS: usize = 15;
/// The number 1 in int8 shards.
const ONE: f32 = 254.0;

/// A number in [-0.5, 0.5) that looks random.
fn number(i: usize) -> f32 {
    let bits = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((bits ^ (bits >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f32 / (1 << 24) as f32 - 0.5
}

fn widen(element: Element, bytes: &[u8]) -> f32 {
    match element {
        Element::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        Element::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        Element::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        Element::I8 => f32::from(bytes[0] as i8),
    }
}

fn naive(shard: &Shard, vector: &[f32]) -> Vec<f32> {
    let (element, size) = (shard.element(), shard.element().bytes());
    let dot = |(row, gradient): (usize, &[u8])| {
        let products = gradient.chunks(size).zip(vector).map(|(bytes, number)| widen(element, bytes) * number);
        products.sum::<f32>() * shard.scale().map_or(1.0, |scale| scale[row])
    };
    shard.data().par_chunks(DIM * size).enumerate().map(dot).collect()
}

fn read(shard: &Shard) -> u64 {
    let fold = |block: &[u8]| block.as_chunks::<8>().0.iter().fold(0, |all, &bytes| all ^ u64::from_le_bytes(bytes));
    shard.data().par_chunks(1 << 20).map(fold).reduce(|| 0, |a, b| a ^ b)
}

fn table(name: &str, dtype: Dtype, encode: impl Fn(f32) -> Vec<u8> + Sync) {
    let path = std::env::temp_dir().join(format!("diq-bench-{}-{name}.safetensors", std::process::id()));
    let bytes: Vec<u8> = (0..ROWS * DIM).into_par_iter().flat_map_iter(|i| encode(number(i))).collect();
    let view = TensorView::new(dtype, vec![ROWS, DIM], &bytes).expect("a valid tensor");
    // the scale that makes bytes of the numbers; the others do without
    let scale = (1.0 / ONE).to_le_bytes().repeat(if dtype == Dtype::I8 { ROWS } else { 0 });
    let mut tensors = vec![(TENSOR, view)];
    if dtype == Dtype::I8 {
        tensors.push((SCALE, TensorView::new(Dtype::F32, vec![ROWS], &scale).expect("a valid tensor")));
    }
    serialize_to_file(tensors, None, &path).expect("a writable folder for temporary files");
    drop(bytes);
    let shard = Shard::open(&path).expect("the shard just written");
    let vectors: Vec<f32> = (0..MOST_VECTORS * DIM).map(|i| number(i ^ 0x5555)).collect();

    let slow = naive(&shard, &vectors[..DIM]);
    let fast = shard_dots(&shard, &vectors[..DIM], 1).expect("vectors of the shard's dim");
    // 8,192 products of at most 1/4, added one by one in float32
    assert!(slow.iter().zip(&fast).all(|(slow, fast)| (slow - fast).abs() < 1e-2), "{name}: wrong dots");

    // in turn, so that a change of the machine's speed meets all of them
    let mut ways: Vec<(String, Box<dyn Fn()>)> =
        vec![("floor: read the map".into(), Box::new(|| _ = black_box(read(&shard))))];
    for m in [1, 2, 4, MOST_VECTORS] {
        let (shard, vectors) = (&shard, &vectors[..m * DIM]);
        let dots = move || drop(black_box(shard_dots(shard, vectors, m).expect("vectors of the shard's dim")));
        ways.push((format!("{m} vectors"), Box::new(dots)));
    }
    ways.push(("rival: naive, 1 vector".into(), Box::new(|| drop(black_box(naive(&shard, &vectors[..DIM]))))));
    let mut seconds = vec![vec![]; ways.len()];
    for _ in 0..ROUNDS {
        for ((_, way), seconds) in ways.iter().zip(&mut seconds) {
            let start = Instant::now();
            way();
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let median = |seconds: &mut Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[ROUNDS / 2]
    };
    let medians: Vec<f64> = seconds.iter_mut().map(median).collect();
    println!("{ROWS} x {DIM} {name}");
    for ((name, _), median) in ways.iter().zip(&medians) {
        let (rate, share) = (shard.data().len() as f64 / median / 1e9, 100.0 * medians[0] / median);
        println!("  {name:24} {rate:6.1} GB/s, {share:3.0} % of the floor");
    }
    drop(ways);
    drop(shard);
    std::fs::remove_file(path).expect("the shard just read");
}

fn main() {
    table("int8", Dtype::I8, |number| ((number * ONE).round() as i8).to_le_bytes().to_vec());
    table("float16", Dtype::F16, |number| f16::from_f32(number).to_le_bytes().to_vec());
    table("bfloat16", Dtype::BF16, |number| bf16::from_f32(number).to_le_bytes().to_vec());
    table("float32", Dtype::F32, |number| number.to_le_bytes().to_vec());
}
