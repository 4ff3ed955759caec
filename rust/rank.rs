//! The ranking: which samples to train on first.
//!
//! Order: quadrant ascending, dot descending, difficulty descending, row ascending; -0.0 equals 0.0. A selection of any
//! ratio is a prefix of this order, so only the rows of the prefix are ever sorted:
//!
//! 1. count the rows of each cell (see [`crate::key`]) of both columns, which gives both thresholds;
//! 2. write the quadrant of every row, and count the rows of each cell of each quadrant; these counts say where in the
//!    order a row will be, up to the order within its cell;
//! 3. cut the cells of the prefix into partitions of a few thousand rows and write each row straight to its partition,
//!    as one 64-bit record: 32 bits of order above 32 bits of row;
//! 4. sort each partition, and where records tie, let the next 32 bits of order decide.
//!
//! Every step is parallel, and since the order is total, no step's schedule shows in the result.
//!
//! Source: arXiv 2508.01450, Algorithm 1.

use std::ops::Range;
use std::slice::IterMut;

use rayon::prelude::*;

use crate::column::{BATCH, Column, read};
use crate::error::DiqError;
use crate::key::{CELLS, Score};
use crate::quadrant::{Cuts, Thresholds, UNSCORED};
use crate::quantile::{Cells, blocks, check_fraction};

/// Aimed number of partitions of a prefix: enough to keep each in the cache, few enough to write to all of them at once.
const PARTITIONS: usize = 512;
/// No partition is cut smaller than this, in rows.
const PARTITION_ROWS: usize = 2048;
/// Rows that are skipped together when the prefix holds none of them.
const GROUP: usize = 32;
/// A run of records longer than this is sorted by all threads.
const PARALLEL_SORT: usize = 1 << 17;
/// Most distinct difficulties that are folded into a record.
const CODES: usize = 256;

/// How the difficulty is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// At this quantile of the scored rows' difficulty, 0 to 1.
    Percentile(f64),
    /// At this difficulty.
    Threshold(f64),
}

/// How much of the ranking is wanted: `numerator / denominator`, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    numerator: u64,
    denominator: u64,
}

impl Ratio {
    /// The whole ranking.
    pub const ALL: Ratio = Ratio { numerator: 1, denominator: 1 };

    /// # Errors
    /// [`DiqError::OutOfRange`] unless `0 < numerator / denominator <= 1`.
    pub fn new(numerator: u64, denominator: u64) -> Result<Ratio, DiqError> {
        if (1..=denominator).contains(&numerator) {
            Ok(Ratio { numerator, denominator })
        } else {
            let found = format!("{numerator}/{denominator}");
            Err(DiqError::OutOfRange { argument: "ratio", allowed: "in (0, 1]", found })
        }
    }

    /// `floor(n * numerator / denominator)`, without rounding on the way.
    pub fn of(self, n: usize) -> usize {
        // both factors are below 2**64, and the quotient is at most n
        (n as u128 * u128::from(self.numerator) / u128::from(self.denominator)) as usize
    }
}

/// The first rows of the order, and what the order was made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// `[k]`, row numbers in order, best first; `k = ratio.of(n_scored)`.
    pub rows: Vec<i64>,
    /// `[n]`, quadrant of every row, 1 to 4, or [`UNSCORED`].
    pub quadrant: Vec<u8>,
    /// The cuts; both NaN when no row is scored.
    pub thresholds: Thresholds,
    /// Rows whose dot and difficulty are finite.
    pub n_scored: usize,
    /// Scored rows of the quadrants 1, 2, 3 and 4.
    pub counts: [usize; 4],
}

/// Ranks the rows of two columns of scores, and returns the first `ratio` of them.
///
/// `dot`, `difficulty`: `[n]`, one value a row; a row where either is NaN or infinite is unscored: in no quadrant, never
/// returned and not counted in the ratio. The dot is cut at the median of the scored rows, the difficulty as `cut` says.
///
/// O(n + k log k) time for k rows returned; at most 12 bytes a row of memory beside the columns, the result included.
///
/// # Errors
/// [`DiqError::Length`] when the columns differ in length, [`DiqError::OutOfRange`] when `cut` is a percentile outside
/// [0, 1] or a threshold that is not finite, [`DiqError::TooManyRows`] from 2**32 rows on.
///
/// Source: arXiv 2508.01450, Algorithm 1.
pub fn rank<D: Score, F: Score>(dot: &[D], difficulty: &[F], cut: Cut, ratio: Ratio) -> Result<Ranking, DiqError> {
    rank_columns(&Column::from(dot), &Column::from(difficulty), cut, ratio)
}

/// [`rank`] of columns in several pieces, which may be cut differently and have nulls in different rows; a null is
/// unscored, like NaN. No piece is copied. An edge costs a binary search for each pass over the columns, and a tie that
/// the first 32 bits of order leave open one for each of its rows.
///
/// # Errors
/// As [`rank`].
pub fn rank_columns<D: Score, F: Score>(
    dot: &Column<D>,
    difficulty: &Column<F>,
    cut: Cut,
    ratio: Ratio,
) -> Result<Ranking, DiqError> {
    let n = dot.len();
    if difficulty.len() != n {
        return Err(DiqError::Length { argument: "difficulty", found: difficulty.len(), other: "dot", expected: n });
    }
    if u32::try_from(n).is_err() {
        return Err(DiqError::TooManyRows { rows: n });
    }
    match cut {
        Cut::Percentile(percentile) => check_fraction("percentile", percentile)?,
        Cut::Threshold(threshold) if !threshold.is_finite() => {
            let found = threshold.to_string();
            return Err(DiqError::OutOfRange { argument: "threshold", allowed: "finite", found });
        }
        Cut::Threshold(_) => {}
    }

    let columns = Columns { dot, difficulty, blocks: blocks(n) };
    let (dots, difficulties) = columns.census();
    let n_scored = dots.total();
    if n_scored == 0 {
        let thresholds = Thresholds { tau: f64::NAN, median: f64::NAN };
        return Ok(Ranking { rows: vec![], quadrant: vec![UNSCORED; n], thresholds, n_scored, counts: [0; 4] });
    }
    let thresholds = Thresholds {
        tau: match cut {
            Cut::Percentile(percentile) => difficulties.quantile(difficulty, dot, percentile),
            Cut::Threshold(threshold) => threshold,
        },
        median: dots.quantile(dot, difficulty, 0.5),
    };

    let mut quadrant = vec![UNSCORED; n];
    let slots = columns.assign(&thresholds, &mut quadrant);
    let counts = std::array::from_fn(|q| {
        slots.iter().map(|block| block[q * CELLS..(q + 1) * CELLS].iter().map(|&c| c as usize).sum::<usize>()).sum()
    });

    let k = ratio.of(n_scored);
    let plan = Plan::new(&slots, k, dots.trailing_zeros::<D>(), Codes::new(&difficulties));
    drop(slots);
    let mut rows = columns.scatter(&plan, &quadrant);
    columns.sort(&plan, &mut rows, k);
    rows.truncate(k);
    rows.shrink_to_fit();
    Ok(Ranking { rows, quadrant, thresholds, n_scored, counts })
}

/// One count for each cell of each quadrant, in the order of the ranking.
type Slots = Vec<u32>;
const SLOTS: usize = 4 * CELLS;

/// The slot of a row of `quadrant` with this dot; [`SLOTS`] for an unscored row.
#[inline(always)]
fn slot<D: Score>(quadrant: u8, dot: D) -> u32 {
    let above = CELLS as u32 - 1 - dot.place().0.min(CELLS as u32 - 1);
    // an unscored row wraps around
    (u32::from(quadrant).wrapping_sub(1).wrapping_mul(CELLS as u32).wrapping_add(above)).min(SLOTS as u32)
}

/// The key that ascends where scores descend.
#[inline(always)]
fn descending<T: Score>(key: u64) -> u64 {
    (u64::MAX >> (64 - T::KEY_BITS)) - key
}

/// A record sorts by `digit`, then by `row`; masked by [`ROW`] it is the row.
#[inline(always)]
fn record(digit: u32, row: usize) -> i64 {
    // the sign bit is flipped, so that signed records ascend as the unsigned digits do
    i64::from((digit ^ 1 << 31) as i32) << 32 | row as i64
}

const ROW: i64 = 0xFFFF_FFFF;

/// Distinct difficulties as small numbers, descending, for columns that have only a few (ratings from 1 to 5).
struct Codes {
    /// Code of each cell of the difficulty; all zero when there are too many difficulties.
    codes: Vec<u8>,
    /// Bits of a code; `None` when there are too many difficulties.
    bits: Option<u32>,
}

impl Codes {
    fn new(difficulties: &Cells) -> Codes {
        let mut codes = vec![0; CELLS];
        let distinct = difficulties.distinct().filter(|cells| cells.len() <= CODES);
        let bits = distinct.map(|cells| {
            for (code, &cell) in cells.iter().rev().enumerate() {
                codes[cell] = code as u8;
            }
            cells.len().next_power_of_two().trailing_zeros()
        });
        Codes { codes, bits }
    }
}

/// Neighbouring slots, whose rows are written together and sorted together. All of one quadrant.
struct Partition {
    /// Descending key of the dot where the partition starts.
    base: u64,
    /// Bits of the distance from `base` that the first digit leaves out.
    shift: u32,
    /// Bits of the difficulty's code in the first digit; zero when it is not there.
    code_bits: u32,
    /// Ones for those bits.
    code_mask: u8,
    /// The orders that break ties of the first digit, in turn.
    ties: &'static [Tie],
}

/// 32 bits of order that records are compared by, once all before are equal.
#[derive(Clone, Copy)]
enum Tie {
    /// What the first digit left out of the dot.
    Dot,
    /// The same above the difficulty's code.
    DotAndCode,
    /// The upper bits of the difficulty.
    Difficulty,
    /// The lower bits of an f64 difficulty.
    DifficultyLow,
}

/// Where the rows of a prefix go.
struct Plan<D> {
    /// Last quadrant that is part of the prefix, from 0, and the least dot of it that is.
    last: u8,
    least: D,
    partitions: Vec<Partition>,
    /// Partition of each slot that is part of the prefix.
    partition_of: Vec<u16>,
    /// Rows that each block of the columns adds to each partition: `lengths[partition][block]`.
    lengths: Vec<Vec<usize>>,
    codes: Codes,
}

impl<D: Score> Plan<D> {
    /// Whether the plan has a place for a row.
    #[inline(always)]
    fn holds(&self, quadrant: u8, dot: D) -> bool {
        // an unscored row wraps around to the last
        let quadrant = quadrant.wrapping_sub(1);
        (quadrant < self.last) | ((quadrant == self.last) & (dot >= self.least))
    }

    /// Cuts the slots that hold the first `k` rows into partitions; all keys of dots end in so many `zeros`.
    fn new(blocks: &[Slots], k: usize, zeros: u32, codes: Codes) -> Plan<D> {
        let mut plan =
            Plan { partitions: vec![], partition_of: vec![], lengths: vec![], codes, last: 0, least: D::MAX };
        let wanted = (k / PARTITIONS).max(PARTITION_ROWS);
        let mut planned = 0;
        // the partition that is being filled: its rows, of each block and in all, and its first to last used slot
        let (mut lengths, mut filled, mut used) = (vec![0; blocks.len()], 0, None::<Range<usize>>);
        for slot in 0..SLOTS {
            if planned >= k {
                break;
            }
            plan.partition_of.push(plan.partitions.len() as u16);
            let count: usize = blocks.iter().map(|slots| slots[slot] as usize).sum();
            if count > 0 {
                lengths.iter_mut().zip(blocks).for_each(|(length, slots)| *length += slots[slot] as usize);
                used = Some(used.map_or(slot, |used| used.start)..slot + 1);
                planned += count;
                filled += count;
            }
            let full = planned >= k || filled >= wanted;
            let ends_quadrant = (slot + 1) % CELLS == 0;
            if (full || ends_quadrant)
                && let Some(used) = used.take()
            {
                plan.partitions.push(Partition::new::<D>(used, zeros, plan.codes.bits));
                plan.lengths.push(std::mem::replace(&mut lengths, vec![0; blocks.len()]));
                filled = 0;
            }
        }
        if let Some(slot) = plan.partition_of.len().checked_sub(1) {
            let key = D::cell_start(CELLS - 1 - slot % CELLS);
            // below these keys lie minus infinity and NaN
            (plan.last, plan.least) = ((slot / CELLS) as u8, D::from_key(key.max(D::MIN.key())));
        }
        plan
    }
}

impl Partition {
    /// `slots`: of one quadrant. `zeros`: in which all keys of dots end. `code_bits`: of a difficulty with few values.
    fn new<D: Score>(slots: Range<usize>, zeros: u32, code_bits: Option<u32>) -> Partition {
        // slots ascend where cells descend
        let first = CELLS - 1 - slots.start % CELLS;
        let last = CELLS - 1 - (slots.end - 1) % CELLS;
        let base = descending::<D>(D::cell_last(first));
        let span = descending::<D>(D::cell_start(last)) - base;
        let bits = 64 - span.leading_zeros();
        let exact = bits.saturating_sub(zeros) <= 32;
        let shift = if exact { zeros.min(bits) } else { bits - 32 };
        let (code_bits, ties): (_, &[Tie]) = match code_bits {
            Some(code_bits) if exact && bits - shift + code_bits <= 32 => (code_bits, &[]),
            Some(code_bits) if shift + code_bits <= 32 => (0, &[Tie::DotAndCode]),
            _ if exact => (0, &[Tie::Difficulty, Tie::DifficultyLow]),
            _ => (0, &[Tie::Dot, Tie::Difficulty, Tie::DifficultyLow]),
        };
        Partition { base, shift, code_bits, code_mask: ((1u32 << code_bits) - 1) as u8, ties }
    }
}

/// A loop over a block of rows, compiled twice: for any processor, and with the wider vectors of AVX2. Nothing in it
/// depends on the width.
macro_rules! on_wide_vectors {
    ($(#[$doc:meta])* fn $name:ident = $body:ident($($argument:ident: $type:ty),*) -> $result:ty) => {
        $(#[$doc])*
        fn $name<D: Score, F: Score>($($argument: $type),*) -> $result {
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                #[target_feature(enable = "avx2")]
                fn wide<D: Score, F: Score>($($argument: $type),*) -> $result {
                    $body($($argument),*)
                }
                // SAFETY: the processor has the instructions.
                return unsafe { wide($($argument),*) };
            }
            $body($($argument),*)
        }
    };
}

on_wide_vectors! {
    /// Counts the cells of both columns over the rows that are scored in both.
    fn count_cells = count_cells_of(dot: &Column<D>, difficulty: &Column<F>, rows: Range<usize>) -> (Cells, Cells)
}

#[inline(always)]
fn count_cells_of<D: Score, F: Score>(dot: &Column<D>, difficulty: &Column<F>, rows: Range<usize>) -> (Cells, Cells) {
    let (mut dots, mut difficulties) = (Cells::new(), Cells::new());
    let mut cells = [[0; BATCH]; 2];
    read(dot, difficulty, rows, |_, dot, difficulty| {
        let [dot_cells, difficulty_cells] = &mut cells;
        // first what vector instructions can do, then what they cannot
        dots.locate(dot, difficulty, dot_cells);
        difficulties.locate(difficulty, dot, difficulty_cells);
        dots.count(&dot_cells[..dot.len()]);
        difficulties.count(&difficulty_cells[..dot.len()]);
    });
    (dots, difficulties)
}

on_wide_vectors! {
    /// Writes the quadrant of every row of a block, and counts its slots.
    fn count_slots = count_slots_of(
        dot: &Column<D>, difficulty: &Column<F>, rows: Range<usize>, cuts: &Cuts<D, F>, quadrant: &mut [u8]
    ) -> Slots
}

#[inline(always)]
fn count_slots_of<D: Score, F: Score>(
    dot: &Column<D>,
    difficulty: &Column<F>,
    rows: Range<usize>,
    cuts: &Cuts<D, F>,
    quadrant: &mut [u8],
) -> Slots {
    // one more for the unscored rows
    let (mut slots, mut at) = (vec![0; SLOTS + 1], [0u32; BATCH]);
    let start = rows.start;
    read(dot, difficulty, rows, |first, dot, difficulty| {
        let quadrant = &mut quadrant[first - start..][..dot.len()];
        for (((&dot, &difficulty), quadrant), at) in dot.iter().zip(difficulty).zip(quadrant).zip(&mut at) {
            *quadrant = cuts.quadrant(dot, difficulty);
            *at = slot(*quadrant, dot);
        }
        for &at in &at[..dot.len()] {
            slots[at as usize] += 1;
        }
    });
    slots
}

on_wide_vectors! {
    /// Writes a record of every row of a block that the plan has a place for.
    fn write_records = write_records_of(
        dot: &Column<D>, difficulty: &Column<F>, rows: Range<usize>, plan: &Plan<D>, quadrant: &[u8],
        homes: Vec<IterMut<i64>>
    ) -> ()
}

#[inline(always)]
fn write_records_of<D: Score, F: Score>(
    dot: &Column<D>,
    difficulty: &Column<F>,
    rows: Range<usize>,
    plan: &Plan<D>,
    quadrant: &[u8],
    mut homes: Vec<IterMut<i64>>,
) {
    let (mut within, mut chosen) = ([0u8; BATCH], [0u32; BATCH]);
    let start = rows.start;
    read(dot, difficulty, rows, |first, dot, difficulty| {
        let quadrant = &quadrant[first - start..][..dot.len()];
        for ((&quadrant, &dot), within) in quadrant.iter().zip(dot).zip(&mut within) {
            *within = u8::from(plan.holds(quadrant, dot));
        }
        // chosen without a branch: at a ratio of 50 % one would be mispredicted every other row
        let mut count = 0;
        for (group, within) in within[..dot.len()].chunks(GROUP).enumerate() {
            // but at a small ratio most groups hold nothing
            if within.iter().fold(0, |any, within| any | within) == 0 {
                continue;
            }
            for (i, &within) in within.iter().enumerate() {
                chosen[count] = (group * GROUP + i) as u32;
                count += usize::from(within);
            }
        }
        for &i in &chosen[..count] {
            let i = i as usize;
            let partition = usize::from(plan.partition_of[slot(quadrant[i], dot[i]) as usize]);
            let Partition { base, shift, code_bits, code_mask, .. } = plan.partitions[partition];
            let code = plan.codes.codes[F::cell(difficulty[i].key())] & code_mask;
            let digit = ((descending::<D>(dot[i].key()) - base) >> shift) << code_bits | u64::from(code);
            // the plan counted these very rows
            *homes[partition].next().expect("a place for every row") = record(digit as u32, first + i);
        }
    });
}

/// The scores that are ranked.
struct Columns<'a, D, F> {
    dot: &'a Column<'a, D>,
    difficulty: &'a Column<'a, F>,
    blocks: Vec<Range<usize>>,
}

impl<D: Score, F: Score> Columns<'_, D, F> {
    /// Counts the scored rows of each cell of the dot and of the difficulty.
    fn census(&self) -> (Cells, Cells) {
        let merge = |a: (Cells, Cells), b: (Cells, Cells)| (a.0.merge(b.0), a.1.merge(b.1));
        let count = |block: &Range<usize>| count_cells(self.dot, self.difficulty, block.clone());
        self.blocks.par_iter().map(count).reduce_with(merge).expect("at least one block")
    }

    /// Writes the quadrant of every row, and counts the slots of each block.
    fn assign(&self, thresholds: &Thresholds, quadrant: &mut [u8]) -> Vec<Slots> {
        let cuts = thresholds.cuts::<D, F>();
        let mut rest = quadrant;
        let parts: Vec<_> = self
            .blocks
            .iter()
            .map(|block| {
                let (part, tail) = std::mem::take(&mut rest).split_at_mut(block.len());
                rest = tail;
                (block.clone(), part)
            })
            .collect();
        parts.into_par_iter().map(|(block, part)| count_slots(self.dot, self.difficulty, block, &cuts, part)).collect()
    }

    /// A record of every row of the plan, partition after partition, in row order within each.
    fn scatter(&self, plan: &Plan<D>, quadrant: &[u8]) -> Vec<i64> {
        let mut records = vec![0; plan.lengths.iter().flatten().sum()];
        let mut rest = &mut records[..];
        let mut homes: Vec<Vec<IterMut<i64>>> = self.blocks.iter().map(|_| vec![]).collect();
        for lengths in &plan.lengths {
            for (homes, &length) in homes.iter_mut().zip(lengths) {
                let (home, tail) = std::mem::take(&mut rest).split_at_mut(length);
                rest = tail;
                homes.push(home.iter_mut());
            }
        }
        self.blocks.par_iter().zip(homes).for_each(|(block, homes)| {
            write_records(self.dot, self.difficulty, block.clone(), plan, &quadrant[block.clone()], homes);
        });
        records
    }

    /// Turns records into rows, of which the first `k` are in order.
    fn sort(&self, plan: &Plan<D>, records: &mut [i64], k: usize) {
        let mut rest = records;
        let mut before = 0;
        let parts: Vec<_> = plan
            .partitions
            .iter()
            .zip(&plan.lengths)
            .map(|(partition, lengths)| {
                let (part, tail) = std::mem::take(&mut rest).split_at_mut(lengths.iter().sum());
                rest = tail;
                let wanted = part.len().min(k - before);
                before += wanted;
                (partition, part, wanted)
            })
            .collect();
        parts.into_par_iter().for_each(|(partition, part, wanted)| {
            self.settle(plan, partition, partition.ties, part, wanted);
            for record in part {
                *record &= ROW;
            }
        });
    }

    /// Brings the first `wanted` of `records`, at least one, into their final order; `ties` are the orders that are not
    /// yet in the records.
    fn settle(&self, plan: &Plan<D>, partition: &Partition, ties: &[Tie], mut records: &mut [i64], wanted: usize) {
        if wanted < records.len() {
            let digit = *records.select_nth_unstable(wanted - 1).1 >> 32;
            if ties.is_empty() {
                records = &mut records[..wanted];
            } else {
                // what equals the last wanted digit may lie on both sides of the cut, and only its ties say what is in
                let sure = gather(records, |record| record >> 32 < digit);
                let (records, open) = records.split_at_mut(sure);
                let tied = gather(open, |record| record >> 32 == digit);
                self.settle(plan, partition, ties, records, sure);
                return self.break_ties(plan, partition, ties, &mut open[..tied], wanted - sure);
            }
        }
        if records.len() > PARALLEL_SORT {
            records.par_sort_unstable();
        } else {
            records.sort_unstable();
        }
        if ties.is_empty() {
            return;
        }
        for run in records.chunk_by_mut(|a, b| a >> 32 == b >> 32) {
            if run.len() > 1 {
                let wanted = run.len();
                self.break_ties(plan, partition, ties, run, wanted);
            }
        }
    }

    /// Orders the first `wanted` of `run`, records of one digit, by the next digit.
    fn break_ties(&self, plan: &Plan<D>, partition: &Partition, ties: &[Tie], run: &mut [i64], wanted: usize) {
        let Some((tie, ties)) = ties.split_first() else { return };
        for r in &mut *run {
            let row = (*r & ROW) as usize;
            *r = record(self.digit(plan, partition, *tie, row), row);
        }
        self.settle(plan, partition, ties, run, wanted);
    }

    fn digit(&self, plan: &Plan<D>, partition: &Partition, tie: Tie, row: usize) -> u32 {
        let difficulty = self.difficulty.value(row).key();
        let dot = || (descending::<D>(self.dot.value(row).key()) - partition.base) & ((1 << partition.shift) - 1);
        match tie {
            Tie::Dot => dot() as u32,
            Tie::DotAndCode => {
                let code = u64::from(plan.codes.codes[F::cell(difficulty)]);
                (dot() << plan.codes.bits.unwrap_or(0) | code) as u32
            }
            Tie::Difficulty => (descending::<F>(difficulty) >> (F::KEY_BITS - 32)) as u32,
            // all of an f32 was in the digit before
            Tie::DifficultyLow if F::KEY_BITS == 32 => 0,
            Tie::DifficultyLow => descending::<F>(difficulty) as u32,
        }
    }
}

/// Moves what `first` holds for to the front, in any order, and returns how many there are.
fn gather(records: &mut [i64], first: impl Fn(i64) -> bool) -> usize {
    let mut count = 0;
    for i in 0..records.len() {
        if first(records[i]) {
            records.swap(count, i);
            count += 1;
        }
    }
    count
}
