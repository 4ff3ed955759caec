//! Taking turns: one order out of several lists of the same rows.

use crate::error::DiqError;

/// The rows of several lists, one a turn: each list in its turn gives its first row that no list has given yet; a list
/// that has none left is passed over from then on. Every row of any list comes once.
///
/// `rows`: the lists, one behind the other; `ends`: where each of them ends, ascending; `n`: rows are below it.
///
/// O(rows + lists) time; `n` bits and 8 bytes a returned row of memory.
///
/// # Errors
/// [`DiqError::OutOfRange`] when a row is not below `n`, or an end is not one.
pub fn take_turns(rows: &[i64], ends: &[i64], n: usize) -> Result<Vec<i64>, DiqError> {
    let mut lists = cut(rows, ends)?;
    let mut given = vec![0u64; n.div_ceil(64)];
    let mut order = Vec::with_capacity(n.min(rows.len()));
    while !lists.is_empty() {
        // the order of the lists stays, whichever of them ends
        let mut failed = None;
        lists.retain_mut(|list| {
            while let Some((&row, rest)) = list.split_first() {
                *list = rest;
                let Some(word) = usize::try_from(row).ok().filter(|&i| i < n).map(|i| &mut given[i / 64]) else {
                    failed = Some(row);
                    return false;
                };
                let bit = 1 << (row % 64);
                if *word & bit == 0 {
                    *word |= bit;
                    order.push(row);
                    return true;
                }
            }
            false
        });
        if let Some(row) = failed {
            return Err(DiqError::OutOfRange {
                argument: "rows",
                allowed: "0 or more and below n",
                found: row.to_string(),
            });
        }
    }
    Ok(order)
}

fn cut<'a>(rows: &'a [i64], ends: &[i64]) -> Result<Vec<&'a [i64]>, DiqError> {
    let mut first = 0;
    ends.iter()
        .map(|&end| {
            let list = usize::try_from(end).ok().and_then(|end| rows.get(first..end)).ok_or_else(|| {
                let allowed = "ascending, and no more than there are rows";
                DiqError::OutOfRange { argument: "ends", allowed, found: end.to_string() }
            })?;
            first += list.len();
            Ok(list)
        })
        .collect()
}
