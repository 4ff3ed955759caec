//! Which row of a dataset a sample id belongs to: a hash index of 128-bit ids, for joins of millions of scores.
//!
//! Ids are the first bits of a hash, so a multiplication spreads them well enough.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use crate::error::DiqError;

/// No row, in a slot and in an answer.
const EMPTY: u32 = u32::MAX;
/// Rows that a thread takes at once.
const BATCH: usize = 1 << 14;

/// A 128-bit id as its upper and lower half.
pub type Id = (u64, u64);

/// The rows of a column of ids.
pub struct IdIndex {
    ids: Vec<Id>,
    slots: Vec<AtomicU32>,
    shift: u32,
    /// Whether no id comes twice.
    distinct: bool,
}

impl IdIndex {
    /// Indexes `ids`; of equal ids the first row counts. 16 bytes a row for the ids, and 6 to 12 for the slots.
    ///
    /// # Errors
    /// [`DiqError::Length`] when the halves differ in length, [`DiqError::TooManyRows`] from 2**32 - 1 rows on.
    pub fn new(high: &[u64], low: &[u64]) -> Result<IdIndex, DiqError> {
        check(high, low)?;
        if high.len() >= EMPTY as usize {
            return Err(DiqError::TooManyRows { rows: high.len() });
        }
        let ids: Vec<Id> = high.iter().copied().zip(low.iter().copied()).collect();
        // two thirds full at most
        let bits = (ids.len() * 3 / 2 + 2).next_power_of_two().trailing_zeros();
        let mut slots = Vec::new();
        slots.resize_with(1 << bits, || AtomicU32::new(EMPTY));
        let mut index = IdIndex { ids, slots, shift: 64 - bits, distinct: true };
        let rows = (0..index.ids.len()).into_par_iter().with_min_len(BATCH);
        index.distinct = rows.map(|row| index.insert(row as u32)).reduce(|| true, |one, other| one & other);
        Ok(index)
    }

    fn slot(&self, id: Id) -> usize {
        ((id.0 ^ id.1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// Puts a row into its slot; false where another row has the same id.
    fn insert(&self, row: u32) -> bool {
        let id = self.ids[row as usize];
        let mut slot = self.slot(id);
        loop {
            match self.slots[slot].compare_exchange(EMPTY, row, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(other) if self.ids[other as usize] == id => {
                    self.slots[slot].fetch_min(row, Relaxed);
                    return false;
                }
                Err(_) => slot = (slot + 1) & (self.slots.len() - 1),
            }
        }
    }

    fn find(&self, id: Id) -> u32 {
        let mut slot = self.slot(id);
        loop {
            let row = self.slots[slot].load(Relaxed);
            if row == EMPTY || self.ids[row as usize] == id {
                return row;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// The row of each id; -1 where there is none.
    ///
    /// # Errors
    /// [`DiqError::Length`] when the halves differ in length.
    pub fn rows(&self, high: &[u64], low: &[u64]) -> Result<Vec<i64>, DiqError> {
        check(high, low)?;
        let mut rows = vec![0; high.len()];
        rows.par_chunks_mut(BATCH).zip(high.par_chunks(BATCH).zip(low.par_chunks(BATCH))).for_each(
            |(rows, (high, low))| {
                // scores are often in the order of the dataset, and then need no search
                let mut next = 0;
                for (row, id) in rows.iter_mut().zip(high.iter().copied().zip(low.iter().copied())) {
                    let ordered = self.distinct && self.ids.get(next) == Some(&id);
                    let found = if ordered { next as u32 } else { self.find(id) };
                    *row = if found == EMPTY { -1 } else { i64::from(found) };
                    next = found as usize + 1;
                }
            },
        );
        Ok(rows)
    }
}

fn check(high: &[u64], low: &[u64]) -> Result<(), DiqError> {
    if high.len() != low.len() {
        return Err(DiqError::Length { argument: "low", found: low.len(), other: "high", expected: high.len() });
    }
    Ok(())
}
