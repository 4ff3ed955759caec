//! Exact quantiles with linear interpolation, by selection: O(n) time, no sort, no copy of the column.
//!
//! One histogram over the cells of [`crate::key`] says in which cell the wanted order statistic lies; only the values of
//! that cell are looked at again.
//!
//! Source: Hyndman and Fan (1996), definition 7; numpy `quantile(method="linear")`.

use std::ops::Range;

use rayon::prelude::*;

use crate::column::{Column, pieces};
use crate::error::DiqError;
use crate::key::{CELLS, Score};

/// So many candidates are copied out and selected from directly; more are narrowed by another histogram first.
const GATHERED: usize = 1 << 18;

/// Values that one task scans for a window of keys, and values that it tests at once.
const SCANNED: usize = 1 << 16;
const LINE: usize = 32;

/// The `q`-quantile of `values`: with `h = q * (n - 1)`, the value at `h` on the straight line between the order
/// statistics `floor(h)` and `floor(h) + 1` (0-based). Equal order statistics give exactly that value, and the result
/// never leaves the interval between the two.
///
/// `values`: `[n]`, finite, in any order. `q`: 0 to 1. O(n) time, O(1) memory a row.
///
/// # Errors
/// [`DiqError::OutOfRange`] for `q`, [`DiqError::Empty`] for no values, [`DiqError::NonFinite`] with the first row that
/// is NaN or infinite.
pub fn quantile<T: Score>(values: &[T], q: f64) -> Result<f64, DiqError> {
    quantile_column(&Column::from(values), q)
}

/// [`quantile`] of a column in several pieces; a null is not finite.
///
/// # Errors
/// As [`quantile`].
pub fn quantile_column<T: Score>(values: &Column<T>, q: f64) -> Result<f64, DiqError> {
    check_fraction("q", q)?;
    if values.is_empty() {
        return Err(DiqError::Empty { argument: "values" });
    }
    let cells = blocks(values.len())
        .into_par_iter()
        .map(|block| {
            let mut cells = Cells::new();
            for (first, chunk, _) in pieces(values, values, block) {
                for (i, value) in chunk.values().iter().enumerate() {
                    if !chunk.is_scored(i) {
                        return Err(first + i);
                    }
                    cells.add::<T>(value.key());
                }
            }
            Ok(cells)
        })
        // the smallest row wins, whichever block reports first
        .reduce_with(|a, b| match (a, b) {
            (Ok(a), Ok(b)) => Ok(a.merge(b)),
            (Err(a), Err(b)) => Err(a.min(b)),
            (Err(row), _) | (_, Err(row)) => Err(row),
        })
        .expect("at least one block")
        .map_err(|row| DiqError::NonFinite { argument: "values", row })?;
    Ok(cells.quantile(values, values, q))
}

/// The point at `t` on the line from `lo` to `hi`; `lo <= hi` are finite, `t` is in [0, 1].
///
/// The result is within `[lo, hi]`, exactly `lo` where the two are equal, and grows with `t`.
pub fn interpolate(lo: f64, hi: f64, t: f64) -> f64 {
    let span = hi - lo;
    // huge values of opposite sign: the span overflows, its half does not
    let point = if span.is_finite() { lo + span * t } else { 2.0 * (lo / 2.0 + (hi / 2.0 - lo / 2.0) * t) };
    point.clamp(lo, hi)
}

/// # Errors
/// [`DiqError::OutOfRange`] when `value` is not in [0, 1].
pub(crate) fn check_fraction(argument: &'static str, value: f64) -> Result<(), DiqError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(DiqError::OutOfRange { argument, allowed: "in [0, 1]", found: value.to_string() })
    }
}

/// Cuts `0..n` into a few ranges for each thread of the current pool.
///
/// Every block owns histograms, so blocks are few and never small: their memory stays a small part of the column's.
pub(crate) fn blocks(n: usize) -> Vec<Range<usize>> {
    let count = (2 * rayon::current_num_threads()).min(n >> 18).max(1);
    (0..count).map(|i| n * i / count..n * (i + 1) / count).collect()
}

/// How many values of a column fall into each cell.
pub(crate) struct Cells {
    /// One count a cell, and one for values that do not count.
    counts: Vec<u32>,
    /// All the distances of keys from the start of their cell, or-ed: zero when every value is the first of its cell.
    offsets: u64,
}

impl Cells {
    pub(crate) fn new() -> Cells {
        Cells { counts: vec![0; CELLS + 1], offsets: 0 }
    }

    #[inline(always)]
    pub(crate) fn add<T: Score>(&mut self, key: u64) {
        let cell = T::cell(key);
        self.counts[cell] += 1;
        self.offsets |= key - T::cell_start(cell);
    }

    /// Writes the cell of each value that is scored in both columns, [`CELLS`] for the others; [`Self::count`] counts them.
    #[inline(always)]
    pub(crate) fn locate<T: Score, U: Score>(&mut self, values: &[T], others: &[U], cells: &mut [u32]) {
        let mut offsets = T::Offset::default();
        for ((value, other), cell) in values.iter().zip(others).zip(cells) {
            let scored = value.is_finite() & other.is_finite();
            let (at, offset) = value.place();
            offsets = offsets | if scored { offset } else { T::Offset::default() };
            *cell = if scored { at } else { CELLS as u32 };
        }
        self.offsets |= offsets.into();
    }

    /// Counts values by their cells, as [`Self::locate`] wrote them.
    #[inline(always)]
    pub(crate) fn count(&mut self, cells: &[u32]) {
        for &cell in cells {
            self.counts[cell as usize] += 1;
        }
    }

    pub(crate) fn merge(mut self, other: Cells) -> Cells {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.offsets |= other.offsets;
        self
    }

    /// Number of values counted.
    pub(crate) fn total(&self) -> usize {
        self.counts[..CELLS].iter().map(|&count| count as usize).sum()
    }

    /// Zero bits in which the keys of all values end, as far as keys of one cell can differ.
    pub(crate) fn trailing_zeros<T: Score>(&self) -> u32 {
        self.offsets.trailing_zeros().min(T::CELL_BITS)
    }

    /// The cells in use, ascending, when each of them holds a single distinct value; `None` otherwise.
    pub(crate) fn distinct(&self) -> Option<Vec<usize>> {
        let used = || (0..CELLS).filter(|&cell| self.counts[cell] > 0);
        (self.offsets == 0).then(|| used().collect())
    }

    /// The `q`-quantile of the rows of `values` that are scored there and in `other`; these are the rows that were added,
    /// at least one.
    pub(crate) fn quantile<T: Score, U: Score>(&self, values: &Column<T>, other: &Column<U>, q: f64) -> f64 {
        let h = q * (self.total() - 1) as f64;
        let k = h.floor();
        let (lo, hi) = self.order_statistics(values, other, k as usize);
        interpolate(T::from_key(lo).into(), T::from_key(hi).into(), h - k)
    }

    /// Keys of the rows scored in both columns, at the 0-based positions `k` and `k + 1` of ascending order (twice the
    /// last, at the end).
    fn order_statistics<T: Score, U: Score>(&self, values: &Column<T>, other: &Column<U>, k: usize) -> (u64, u64) {
        let total = self.total();
        let mut window = Window::new(&self.counts[..CELLS], 0, k);
        let (mut first, mut last) = (T::cell_start(window.cell), T::cell_last(window.cell));
        if self.offsets == 0 {
            last = first;
        }
        while window.count > GATHERED && first < last {
            let shift = (64 - (last - first).leading_zeros()).saturating_sub(16);
            let counts = keys_within(values, other, first, last)
                .fold(
                    || vec![0u32; CELLS],
                    |mut counts, key| {
                        counts[((key - first) >> shift) as usize] += 1;
                        counts
                    },
                )
                .reduce_with(|mut a, b| {
                    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                    a
                })
                .unwrap_or_default();
            window = Window::new(&counts, window.before, k);
            first += (window.cell as u64) << shift;
            last = last.min(first + ((1 << shift) - 1));
        }
        let next = (k + 1).min(total - 1);
        let here = next < window.before + window.count;
        let (lo, hi) = if first == last {
            (first, first)
        } else {
            let mut keys: Vec<u64> = keys_within(values, other, first, last).collect();
            let (_, &mut lo, above) = keys.select_nth_unstable(k - window.before);
            (lo, if here { above.iter().copied().min().unwrap_or(lo) } else { lo })
        };
        if here { (lo, hi) } else { (lo, keys_within(values, other, last + 1, u64::MAX).min().unwrap_or(lo)) }
    }
}

/// A cell of a histogram, with what lies before it.
struct Window {
    cell: usize,
    count: usize,
    before: usize,
}

impl Window {
    /// The cell that holds position `k`, when `before` values precede the histogram.
    fn new(counts: &[u32], mut before: usize, k: usize) -> Window {
        for (cell, &count) in counts.iter().enumerate() {
            let count = count as usize;
            if k < before + count {
                return Window { cell, count, before };
            }
            before += count;
        }
        unreachable!("position {k} is beyond the {before} values counted")
    }
}

/// Keys that lie in `first..=last`, of the rows of `values` that are scored there and in `other`.
fn keys_within<'a, T: Score, U: Score>(
    values: &'a Column<'a, T>,
    other: &'a Column<'a, U>,
    first: u64,
    last: u64,
) -> impl ParallelIterator<Item = u64> {
    // beyond these keys lie the infinities and NaN
    let (first, last) = (T::from_key(first.max(T::MIN.key())), T::from_key(last.min(T::MAX.key())));
    let within = move |value: &T| (first <= *value) & (*value <= last);
    let n = values.len();
    (0..n.div_ceil(SCANNED)).into_par_iter().flat_map_iter(move |i| {
        let rows = i * SCANNED..n.min((i + 1) * SCANNED);
        pieces(values, other, rows).flat_map(move |(_, chunk, other)| {
            let lines = chunk.values().chunks(LINE).enumerate();
            // most lines hold nothing of the window, which a few vector instructions find out
            let lines = lines.filter(move |(_, line)| line.iter().fold(false, |any, value| any | within(value)));
            lines.flat_map(move |(i, line)| {
                let hits = line
                    .iter()
                    .zip(i * LINE..)
                    .filter(move |(value, i)| within(value) && chunk.is_scored(*i) && other.is_scored(*i));
                hits.map(|(value, _)| value.key())
            })
        })
    })
}
