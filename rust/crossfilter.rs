//! Linked histograms: what every column of a table looks like under the filters of all the others, in one pass.
//!
//! Columns are bins, one byte a value ([`bin`]), so that ten columns of ten million rows are 100 MB and a pass over them
//! is a matter of memory, not of arithmetic. A filter says of each of the 256 bins of a column whether it is let through,
//! which serves ranges and sets alike. Counts are integers, so no schedule of threads shows in them.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::DiqError;
use crate::key::Score;
use crate::quantile::blocks;

/// Bins of a column, that of missing values included.
pub const BINS: usize = 256;
/// The bin of values that are NaN or infinite.
pub const NONE: u8 = 255;
/// Most cuts between bins: one bin is for what lies above them all, and one for missing values.
pub const MOST_CUTS: usize = 254;
/// Classes that rows are counted by.
pub const CLASSES: usize = 4;
/// Most columns of one pass.
pub const MOST_COLUMNS: usize = 32;

/// Rows whose refusals are worked out together.
const BATCH: usize = 2048;
/// Counters of one histogram.
const HISTOGRAM: usize = BINS * CLASSES;
/// Histograms of a column that its rows are counted in by turns: a counter that was just written is not ready for the
/// next row, and a column of five values would wait for one again and again.
const LANES: usize = 4;
/// Counters of a plane.
const PLANE: usize = BINS * BINS * CLASSES;

/// The bin of each value: how many of the ascending `cuts` are at or below it, or [`NONE`] where it is not finite.
///
/// # Errors
/// [`DiqError::OutOfRange`] when there are more than [`MOST_CUTS`] cuts, or they descend or hold a NaN.
pub fn bin<T: Score>(values: &[T], cuts: &[f64]) -> Result<Vec<u8>, DiqError> {
    if cuts.len() > MOST_CUTS {
        let found = cuts.len().to_string();
        return Err(DiqError::OutOfRange { argument: "cuts", allowed: "at most 254", found });
    }
    if let Some(i) = (1..cuts.len()).find(|&i| cuts[i - 1] > cuts[i]).or(cuts.iter().position(|cut| cut.is_nan())) {
        return Err(DiqError::OutOfRange {
            argument: "cuts",
            allowed: "ascending",
            found: format!("{} at {i}", cuts[i]),
        });
    }
    // above every finite value, so that the search has a fixed number of steps and no branch
    let mut padded = [f64::INFINITY; BINS - 1];
    padded[..cuts.len()].copy_from_slice(cuts);
    let place = |value: &T| {
        let number: f64 = (*value).into();
        let mut at = 0;
        for step in [128, 64, 32, 16, 8, 4, 2, 1] {
            at += if padded[at + step - 1] <= number { step } else { 0 };
        }
        if number.is_finite() { at as u8 } else { NONE }
    };
    Ok(values.par_iter().with_min_len(BATCH).map(place).collect())
}

/// The least and the largest finite value, and whether all finite ones are whole numbers; `None` where none is finite.
pub fn extent<T: Score>(values: &[T]) -> Option<(f64, f64, bool)> {
    let of_part = |values: &[T]| {
        let (mut low, mut high, mut whole) = (f64::INFINITY, f64::NEG_INFINITY, true);
        for &value in values {
            let number: f64 = value.into();
            if number.is_finite() {
                low = low.min(number);
                high = high.max(number);
                whole &= number.floor() == number;
            }
        }
        (low, high, whole)
    };
    let both =
        |one: (f64, f64, bool), other: (f64, f64, bool)| (one.0.min(other.0), one.1.max(other.1), one.2 & other.2);
    let found = values.par_chunks(1 << 16).map(of_part).reduce_with(both)?;
    (found.0 <= found.1).then_some(found)
}

/// Columns of bins, and of each which bins are let through.
pub struct Filters<'a> {
    columns: Vec<&'a [u8]>,
    /// Of each column and bin: the column's bit where the bin is refused.
    refused: Vec<[u32; BINS]>,
    /// Columns that refuse any bin.
    active: Vec<usize>,
    n: usize,
}

impl<'a> Filters<'a> {
    /// `columns`: `[n]` bins each; `allowed`: `[columns * 256]`, zero where a bin is refused.
    ///
    /// # Errors
    /// [`DiqError::Empty`] without a column, [`DiqError::Length`] where columns or `allowed` differ in length,
    /// [`DiqError::OutOfRange`] of more than [`MOST_COLUMNS`], [`DiqError::TooManyRows`] from 2**32 rows on.
    pub fn new(columns: Vec<&'a [u8]>, allowed: &[u8]) -> Result<Filters<'a>, DiqError> {
        let Some(n) = columns.first().map(|column| column.len()) else {
            return Err(DiqError::Empty { argument: "columns" });
        };
        if columns.len() > MOST_COLUMNS {
            let found = columns.len().to_string();
            return Err(DiqError::OutOfRange { argument: "columns", allowed: "at most 32", found });
        }
        if u32::try_from(n).is_err() {
            return Err(DiqError::TooManyRows { rows: n });
        }
        if let Some(column) = columns.iter().find(|column| column.len() != n) {
            let found = column.len();
            return Err(DiqError::Length { argument: "columns", found, other: "the first of them", expected: n });
        }
        if allowed.len() != columns.len() * BINS {
            let expected = columns.len() * BINS;
            return Err(DiqError::Length { argument: "allowed", found: allowed.len(), other: "the columns", expected });
        }
        let refused: Vec<[u32; BINS]> = (0..columns.len())
            .map(|column| std::array::from_fn(|bin| u32::from(allowed[column * BINS + bin] == 0) << column))
            .collect();
        let active = (0..columns.len()).filter(|&column| refused[column].iter().any(|&bits| bits != 0)).collect();
        Ok(Filters { columns, refused, active, n })
    }

    /// Which columns refuse each of `rows`, at most [`BATCH`], as bits.
    #[inline(always)]
    fn refusals<'b>(&self, rows: &Range<usize>, batch: &'b mut [u32; BATCH]) -> &'b [u32] {
        let batch = &mut batch[..rows.len()];
        batch.fill(0);
        for &column in &self.active {
            let table = &self.refused[column];
            for (bits, &bin) in batch.iter_mut().zip(&self.columns[column][rows.clone()]) {
                *bits |= table[usize::from(bin)];
            }
        }
        batch
    }

    /// Calls `each` with every row of a block that all filters let through, in order.
    fn passing(&self, block: Range<usize>, mut each: impl FnMut(usize)) {
        let mut batch = [0; BATCH];
        for rows in batches(block) {
            for (i, &bits) in self.refusals(&rows, &mut batch).iter().enumerate() {
                if bits == 0 {
                    each(rows.start + i);
                }
            }
        }
    }
}

fn batches(block: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = block.end;
    block.step_by(BATCH).map(move |start| start..(start + BATCH).min(end))
}

/// How many rows are where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// `[columns * 256 * 4]`: rows of each column, bin and class that all filters but the column's own let through.
    pub histograms: Vec<u32>,
    /// `[256 * 256 * 4]`: rows of each bin of the second, bin of the first column of the plane, and class, that all
    /// filters but those of these two columns let through.
    pub plane: Vec<u32>,
    /// Rows of each class that all filters let through.
    pub passing: [u32; CLASSES],
}

impl Counts {
    fn zero(columns: usize) -> Counts {
        Counts { histograms: vec![0; columns * HISTOGRAM], plane: vec![0; PLANE], passing: [0; CLASSES] }
    }

    fn plus(mut self, other: &Counts) -> Counts {
        let add = |mine: &mut [u32], others: &[u32]| mine.iter_mut().zip(others).for_each(|(a, b)| *a += b);
        add(&mut self.histograms, &other.histograms);
        add(&mut self.plane, &other.plane);
        add(&mut self.passing, &other.passing);
        self
    }
}

/// Counts the rows of every column under the filters of the others.
///
/// `plane`: the columns that are also counted together; `classes`: `[n]`, below 4, what each row is counted as.
/// O(n * columns); beside the columns, some MB a thread.
///
/// # Errors
/// [`DiqError::Length`] when `classes` has another length, [`DiqError::OutOfRange`] when `plane` names no column.
pub fn count(filters: &Filters, plane: (usize, usize), classes: &[u8]) -> Result<Counts, DiqError> {
    let columns = filters.columns.len();
    if classes.len() != filters.n {
        let found = classes.len();
        return Err(DiqError::Length { argument: "classes", found, other: "columns", expected: filters.n });
    }
    if plane.0.max(plane.1) >= columns {
        let found = format!("{plane:?}");
        return Err(DiqError::OutOfRange { argument: "plane", allowed: "two numbers of columns", found });
    }
    let counted = |block: Range<usize>| count_block(filters, plane, classes, block);
    let zero = || Counts::zero(columns);
    Ok(blocks(filters.n).into_par_iter().map(counted).reduce_with(|one, other| one.plus(&other)).unwrap_or_else(zero))
}

fn count_block(filters: &Filters, plane: (usize, usize), classes: &[u8], block: Range<usize>) -> Counts {
    let mut tally = Tally {
        plane,
        counts: Counts::zero(filters.columns.len()),
        lanes: vec![[0; HISTOGRAM]; filters.columns.len() * LANES],
    };
    let of_plane = tally.of_plane();
    let (mut batch, mut near) = ([0; BATCH], [0u16; BATCH]);
    for rows in batches(block) {
        if filters.active.is_empty() {
            tally.add(filters, classes, &rows, 0..rows.len(), |_| 0);
            continue;
        }
        let refusals = filters.refusals(&rows, &mut batch);
        // most rows count nowhere once a filter is narrow: those that two columns refuse, unless both are the plane's
        let mut n_near = 0;
        for (i, &bits) in refusals.iter().enumerate() {
            near[n_near] = i as u16;
            n_near += usize::from(bits & bits.wrapping_sub(1) == 0 || bits & of_plane == 0);
        }
        let near = near[..n_near].iter().map(|&i| usize::from(i));
        tally.add(filters, classes, &rows, near, |i| refusals[i]);
    }
    tally.total()
}

/// Counts of the rows of a block so far.
struct Tally {
    plane: (usize, usize),
    counts: Counts,
    /// [`LANES`] histograms of each column.
    lanes: Vec<[u32; HISTOGRAM]>,
}

impl Tally {
    /// The bits of all columns but those of the plane.
    fn of_plane(&self) -> u32 {
        !(1 << self.plane.0 | 1 << self.plane.1)
    }

    /// Counts the rows `at` of a batch; `refused`: the columns that refuse each, as bits.
    #[inline(always)]
    fn add(
        &mut self,
        filters: &Filters,
        classes: &[u8],
        batch: &Range<usize>,
        at: impl Iterator<Item = usize> + Clone,
        refused: impl Fn(usize) -> u32,
    ) {
        let classes = &classes[batch.clone()];
        let class = |i: usize| usize::from(classes[i] & 3);
        for (column, lanes) in self.lanes.chunks_exact_mut(LANES).enumerate() {
            let (bins, others) = (&filters.columns[column][batch.clone()], !(1u32 << column));
            for (turn, i) in at.clone().enumerate() {
                lanes[turn % LANES][usize::from(bins[i]) * CLASSES + class(i)] += u32::from(refused(i) & others == 0);
            }
        }
        let (x, y) = (&filters.columns[self.plane.0][batch.clone()], &filters.columns[self.plane.1][batch.clone()]);
        let of_plane = self.of_plane();
        // 16 bits for each class: a batch is shorter than they count
        let mut passing = 0u64;
        for i in at {
            let cell = (usize::from(y[i]) * BINS + usize::from(x[i])) * CLASSES + class(i);
            self.counts.plane[cell] += u32::from(refused(i) & of_plane == 0);
            passing += u64::from(refused(i) == 0) << (16 * class(i));
        }
        for (class, count) in self.counts.passing.iter_mut().enumerate() {
            *count += (passing >> (16 * class) & 0xFFFF) as u32;
        }
    }

    fn total(mut self) -> Counts {
        let histograms = self.counts.histograms.chunks_exact_mut(HISTOGRAM);
        for (histogram, lanes) in histograms.zip(self.lanes.chunks_exact(LANES)) {
            for (i, count) in histogram.iter_mut().enumerate() {
                *count = lanes.iter().map(|lane| lane[i]).sum();
            }
        }
        self.counts
    }
}

/// What rows are put in order by; equal rows are in the order of their numbers.
#[derive(Clone, Copy, Debug)]
pub enum Sort<'a, T> {
    /// The number of the row.
    Row,
    /// The bins of a column.
    Bins(usize),
    /// The values that the bins of a column were made of.
    Values(usize, &'a [T]),
}

/// The rows from `first` on, at most `wanted`, of those that all filters let through, in order. Missing values come last
/// whichever way the order goes.
///
/// Only the bins that hold the page are sorted: O(n * columns) and the sort of a page, unless one bin holds everything.
///
/// # Errors
/// [`DiqError::OutOfRange`] when `sort` names no column, [`DiqError::Length`] when its values have another length.
pub fn page<T: Score>(
    filters: &Filters,
    sort: Sort<T>,
    descending: bool,
    first: usize,
    wanted: usize,
) -> Result<Vec<i64>, DiqError> {
    if let Sort::Bins(column) | Sort::Values(column, _) = sort
        && column >= filters.columns.len()
    {
        let found = column.to_string();
        return Err(DiqError::OutOfRange { argument: "sort", allowed: "the number of a column", found });
    }
    if let Sort::Values(_, values) = sort
        && values.len() != filters.n
    {
        let found = values.len();
        return Err(DiqError::Length { argument: "values", found, other: "columns", expected: filters.n });
    }
    let bins = match sort {
        Sort::Row => None,
        Sort::Bins(column) | Sort::Values(column, _) => Some(filters.columns[column]),
    };
    // slots in the order of the page: blocks of rows, or bins
    let blocks = blocks(filters.n);
    let tallies: Vec<Vec<usize>> = blocks
        .par_iter()
        .map(|block| {
            let mut tally = vec![0; if bins.is_some() { BINS } else { 1 }];
            filters.passing(block.clone(), |row| tally[bins.map_or(0, |bins| place(bins[row], descending))] += 1);
            tally
        })
        .collect();
    let Some(bins) = bins else {
        let sizes: Vec<usize> = tallies.iter().map(|tally| tally[0]).collect();
        return Ok(rows_in_order(filters, &blocks, &sizes, descending, first, wanted));
    };
    let sizes: Vec<usize> = (0..BINS).map(|slot| tallies.iter().map(|tally| tally[slot]).sum()).collect();
    let (slots, skipped) = span(&sizes, first, wanted);
    let key = |row: usize| match sort {
        Sort::Values(_, values) if bins[row] != NONE => {
            let key = values[row].key();
            if descending { u64::MAX - 1 - key } else { key }
        }
        _ => {
            if bins[row] == NONE {
                u64::MAX
            } else {
                place(bins[row], descending) as u64
            }
        }
    };
    let mut found: Vec<(u64, u32)> = blocks
        .par_iter()
        .flat_map_iter(|block| {
            let mut found = vec![];
            filters.passing(block.clone(), |row| {
                if slots.contains(&place(bins[row], descending)) {
                    found.push((key(row), row as u32));
                }
            });
            found
        })
        .collect();
    let start = (first - skipped.min(first)).min(found.len());
    let mut rest = &mut found[..];
    if start > 0 && start < rest.len() {
        rest.select_nth_unstable(start);
    }
    rest = &mut rest[start..];
    if wanted < rest.len() {
        rest.select_nth_unstable(wanted);
        rest = &mut rest[..wanted];
    }
    rest.sort_unstable();
    Ok(rest.iter().map(|&(_, row)| i64::from(row)).collect())
}

/// Where a bin comes in the order; missing values are last.
#[inline(always)]
fn place(bin: u8, descending: bool) -> usize {
    usize::from(if descending && bin != NONE { NONE - 1 - bin } else { bin })
}

/// The slots that hold `wanted` places from `first` on, and how many places are in the slots before.
fn span(sizes: &[usize], first: usize, wanted: usize) -> (Range<usize>, usize) {
    let (mut slots, mut skipped, mut seen) = (0..0, 0, 0);
    for (slot, &size) in sizes.iter().enumerate() {
        if size > 0 && seen + size > first && seen < first.saturating_add(wanted) {
            if slots.is_empty() {
                (slots.start, skipped) = (slot, seen);
            }
            slots.end = slot + 1;
        }
        seen += size;
    }
    (slots, skipped)
}

fn rows_in_order(
    filters: &Filters,
    blocks: &[Range<usize>],
    sizes: &[usize],
    descending: bool,
    first: usize,
    wanted: usize,
) -> Vec<i64> {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    if descending {
        order.reverse();
    }
    let sizes: Vec<usize> = order.iter().map(|&block| sizes[block]).collect();
    let (slots, skipped) = span(&sizes, first, wanted);
    let parts = order[slots].par_iter().map(|&block| {
        let mut found = vec![];
        filters.passing(blocks[block].clone(), |row| found.push(row as i64));
        if descending {
            found.reverse();
        }
        found
    });
    let parts: Vec<Vec<i64>> = parts.collect();
    parts.into_iter().flatten().skip(first - skipped.min(first)).take(wanted).collect()
}
