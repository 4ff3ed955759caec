//! What a ranking needs beside its columns: at most 12 bytes a row, the result included.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use diq_core::column::{Chunk, Column};
use diq_core::key::Score;
use diq_core::rank::{Cut, Ratio, rank_columns};

/// The system's allocator, with a count of the bytes in use and of the most since the last reset.
struct Meter;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    PEAK.fetch_max(USED.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is the system allocator's own; counting does not touch the memory.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) };
        USED.fetch_sub(layout.size(), Relaxed);
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // one that shrinks stays where it is; one that grows may be there twice for a while
        add(if size > layout.size() { size } else { 0 });
        // SAFETY: the caller keeps the contract of `realloc`.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        USED.fetch_sub(if size > layout.size() { layout.size() } else { layout.size() - size }, Relaxed);
        moved
    }
}

#[global_allocator]
static METER: Meter = Meter;

const ROWS: usize = 2_000_000;

/// Peak of a ranking over what was in use before, in bytes.
fn peak<D: Score, F: Score>(dot: &Column<'_, D>, difficulty: &Column<'_, F>, ratio: Ratio) -> usize {
    let before = USED.load(Relaxed);
    PEAK.store(before, Relaxed);
    let ranking = rank_columns(dot, difficulty, Cut::Percentile(0.5), ratio).unwrap();
    assert_eq!(ranking.rows.len(), ratio.of(ranking.n_scored));
    PEAK.load(Relaxed) - before
}

// one test, since the meter counts every thread
#[test]
fn at_most_twelve_bytes_a_row() {
    let mix = |i: usize| (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let dot: Vec<f32> = (0..ROWS).map(|i| mix(i) as f32).collect();
    let ratings: Vec<f32> = (0..ROWS).map(|i| (mix(7 * i) % 5 + 1) as f32).collect();
    // no two alike, and all in one cell: what a quantile and a sort need most for
    let close: Vec<f64> = (0..ROWS).map(|i| 1.0 + mix(i) as f64 * 1e-16).collect();
    let bits: Vec<u8> = (0..ROWS.div_ceil(8)).map(|i| mix(i) as u8 | 1).collect();
    let nulls = |(i, values)| Chunk::with_validity(values, &bits, i * 8000).unwrap();
    let chunked: Column<'_, f32> = dot.chunks(8000).enumerate().map(nulls).collect();
    let (dot, ratings, close) = (Column::from(&dot[..]), Column::from(&ratings[..]), Column::from(&close[..]));

    for (percent, threads) in [1, 10, 50, 99, 100].into_iter().flat_map(|percent| [(percent, 2), (percent, 16)]) {
        let ratio = Ratio::new(percent, 100).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let peaks = pool.install(|| {
            let ratings = [peak(&dot, &ratings, ratio), peak(&chunked, &ratings, ratio)];
            [ratings, [peak(&close, &dot, ratio), peak(&dot, &close, ratio)]].concat()
        });
        let most = peaks.iter().max().unwrap();
        assert!(*most <= 12 * ROWS, "{percent} %, {threads} threads: {peaks:?} bytes");
    }
}
