//! Which row of a dataset a sample id belongs to: a hash index of 128-bit ids, for joins of millions of scores.
//!
//! A probe of one big table waits for memory, and for the page that the memory is in. So ids are cut by the first bits
//! of their hash into partitions whose tables fit the cache, and probes are sorted by partition before they are made.
//! Ids are the first bits of a hash themselves, so a multiplication spreads them well enough.

use rayon::prelude::*;

use crate::error::DiqError;

/// No row, in a slot and in an answer.
const EMPTY: u32 = u32::MAX;
/// Aimed ids of a partition, as a power of two: a table of a few hundred kilobytes.
const PARTITION_BITS: u32 = 14;
/// Most partitions, as a power of two: more could not be written to side by side.
const MOST_BITS: u32 = 9;
/// Ids that a thread sorts by partition at once: few enough for every thread to have some.
const CHUNK: usize = 1 << 18;
/// Ids that are looked for in the order of the dataset before they are searched.
const RUN: usize = 1 << 10;

/// A 128-bit id as its upper and lower half.
pub type Id = (u64, u64);

/// An id and a number that belongs to it.
#[derive(Clone, Copy)]
struct Record {
    id: Id,
    number: u32,
}

/// Numbers sorted by partition, and where each partition starts.
type Sorted = (Vec<u32>, Vec<u32>);

/// The rows of a column of ids.
pub struct IdIndex {
    ids: Vec<Id>,
    bits: u32,
    /// The table of each partition: a power of two of slots, two thirds full at most.
    tables: Vec<Vec<Record>>,
    /// Whether no id comes twice.
    distinct: bool,
}

fn hash(id: Id) -> u64 {
    (id.0 ^ id.1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl IdIndex {
    /// Indexes `ids`; of equal ids the first row counts. 16 bytes a row for the ids and 36 to 72 for the tables.
    ///
    /// # Errors
    /// [`DiqError::Length`] when the halves differ in length, [`DiqError::TooManyRows`] from 2**32 - 1 rows on.
    pub fn new(high: &[u64], low: &[u64]) -> Result<IdIndex, DiqError> {
        check(high, low)?;
        let n = high.len();
        if n >= EMPTY as usize {
            return Err(DiqError::TooManyRows { rows: n });
        }
        let ids: Vec<Id> = high.iter().copied().zip(low.iter().copied()).collect();
        let bits = n.max(1).ilog2().saturating_sub(PARTITION_BITS).min(MOST_BITS);
        let chunks: Vec<Sorted> = (0..n.div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| {
                let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(n);
                let rows: Vec<u32> = rows.map(|row| row as u32).collect();
                sort(&rows, |row| ids[row as usize], bits)
            })
            .collect();
        let made: Vec<(Vec<Record>, bool)> =
            (0..1usize << bits).into_par_iter().map(|partition| table(&chunks, &ids, partition, bits)).collect();
        let distinct = made.iter().all(|&(_, distinct)| distinct);
        Ok(IdIndex { ids, bits, tables: made.into_iter().map(|(table, _)| table).collect(), distinct })
    }

    fn find(&self, id: Id) -> u32 {
        let hash = hash(id);
        let table = &self.tables[partition(hash, self.bits)];
        table[slot(table, id, hash, self.bits)].number
    }

    /// The row of each id; -1 where there is none.
    ///
    /// # Errors
    /// [`DiqError::Length`] when the halves differ in length.
    pub fn rows(&self, high: &[u64], low: &[u64]) -> Result<Vec<i64>, DiqError> {
        check(high, low)?;
        let mut rows = vec![0; high.len()];
        rows.par_chunks_mut(CHUNK).zip(high.par_chunks(CHUNK).zip(low.par_chunks(CHUNK))).for_each(
            |(rows, (high, low))| {
                let mut searched = vec![];
                for start in (0..rows.len()).step_by(RUN) {
                    let end = (start + RUN).min(rows.len());
                    let ordered = self.run(&mut rows[start..end], &high[start..end], &low[start..end]);
                    searched.extend((start + ordered..end).map(|i| i as u32));
                }
                let id = |i: u32| (high[i as usize], low[i as usize]);
                for i in sort(&searched, id, self.bits).0 {
                    rows[i as usize] = answer(self.find(id(i)));
                }
            },
        );
        Ok(rows)
    }

    /// Fills in the rows of the first ids that are in the order of the dataset, as scores often are; returns how many.
    fn run(&self, rows: &mut [i64], high: &[u64], low: &[u64]) -> usize {
        let first = self.find((high[0], low[0]));
        rows[0] = answer(first);
        if first == EMPTY || !self.distinct {
            return 1;
        }
        let following = &self.ids[first as usize..];
        let same = following.iter().zip(high.iter().zip(low)).take_while(|(id, (high, low))| **id == (**high, **low));
        let ordered = same.count();
        (0..).zip(&mut rows[..ordered]).for_each(|(i, row)| *row = i64::from(first) + i);
        ordered
    }
}

fn answer(row: u32) -> i64 {
    if row == EMPTY { -1 } else { i64::from(row) }
}

fn partition(hash: u64, bits: u32) -> usize {
    // a shift by 64 is none
    hash.checked_shr(64 - bits).unwrap_or(0) as usize
}

/// The slot of a table that holds an id, or the empty one where it would be.
fn slot(table: &[Record], id: Id, hash: u64, bits: u32) -> usize {
    // the bits behind those of the partition
    let mut slot = ((hash << bits) >> (64 - table.len().trailing_zeros())) as usize;
    while table[slot].number != EMPTY && table[slot].id != id {
        slot = (slot + 1) & (table.len() - 1);
    }
    slot
}

/// Sorts numbers by the partition of their ids, those of one in their order; and tells where each partition starts.
///
/// Only the numbers move: their ids are read where they are, near enough to be in the cache, and memory that is touched
/// for the first time costs more than that.
fn sort(numbers: &[u32], id: impl Fn(u32) -> Id, bits: u32) -> Sorted {
    let mut starts = vec![0u32; (1 << bits) + 1];
    for &number in numbers {
        starts[partition(hash(id(number)), bits) + 1] += 1;
    }
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    let mut next = starts.clone();
    let mut sorted = vec![0; numbers.len()];
    for &number in numbers {
        let place = &mut next[partition(hash(id(number)), bits)];
        sorted[*place as usize] = number;
        *place += 1;
    }
    (sorted, starts)
}

/// The table of a partition, and whether its ids are distinct.
fn table(chunks: &[Sorted], ids: &[Id], partition: usize, bits: u32) -> (Vec<Record>, bool) {
    let parts = chunks.iter().map(|(rows, starts)| &rows[starts[partition] as usize..starts[partition + 1] as usize]);
    let n: usize = parts.clone().map(<[u32]>::len).sum();
    let mut table = vec![Record { id: (0, 0), number: EMPTY }; (n * 3 / 2 + 2).next_power_of_two()];
    let mut distinct = true;
    for &row in parts.flatten() {
        let id = ids[row as usize];
        let slot = slot(&table, id, hash(id), bits);
        // rows ascend, so the first one stays
        if table[slot].number == EMPTY {
            table[slot] = Record { id, number: row };
        } else {
            distinct = false;
        }
    }
    (table, distinct)
}

fn check(high: &[u64], low: &[u64]) -> Result<(), DiqError> {
    if high.len() != low.len() {
        return Err(DiqError::Length { argument: "low", found: low.len(), other: "high", expected: high.len() });
    }
    Ok(())
}
