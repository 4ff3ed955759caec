//! Columns of scores as Arrow keeps them: in one piece or in several, perhaps with nulls; borrowed, never copied.

use std::ops::Range;

use crate::error::DiqError;
use crate::key::Score;

/// Most rows that are read at once.
pub(crate) const BATCH: usize = 1024;

/// Which values of a chunk are there: value `i` is where bit `offset + i` is set, bits counted from the least significant
/// one of the first byte.
///
/// Source: Arrow columnar format 1.5, "Validity bitmaps".
#[derive(Clone, Copy, Debug)]
struct Validity<'a> {
    bits: &'a [u8],
    offset: usize,
}

impl Validity<'_> {
    #[inline(always)]
    fn is_set(&self, i: usize) -> bool {
        let bit = self.offset + i;
        self.bits[bit / 8] >> (bit % 8) & 1 != 0
    }

    /// The bits of the values from `i` on, 64 at most; zero beyond the end of the bitmap.
    #[inline(always)]
    fn word(&self, i: usize) -> u64 {
        let bit = self.offset + i;
        let bytes = &self.bits[bit / 8..];
        // 64 bits that start within a byte end in the ninth
        let mut word = [0; 16];
        let len = bytes.len().min(9);
        word[..len].copy_from_slice(&bytes[..len]);
        (u128::from_le_bytes(word) >> (bit % 8)) as u64
    }
}

/// A piece of a column: values that lie side by side in memory.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a, T> {
    values: &'a [T],
    validity: Option<Validity<'a>>,
}

impl<'a, T: Score> Chunk<'a, T> {
    /// A chunk without nulls.
    pub fn new(values: &'a [T]) -> Chunk<'a, T> {
        Chunk { values, validity: None }
    }

    /// A chunk whose value `i` is null unless bit `offset + i` of `bits` is set, bits counted from the least significant
    /// one of the first byte, as in Arrow. A null is unscored, like NaN; the value beneath it may be anything.
    ///
    /// # Errors
    /// [`DiqError::Validity`] when `bits` has fewer bits than that.
    pub fn with_validity(values: &'a [T], bits: &'a [u8], offset: usize) -> Result<Chunk<'a, T>, DiqError> {
        // by rows, so that nothing overflows
        if (bits.len() * 8).checked_sub(offset).is_none_or(|rows| rows < values.len()) {
            return Err(DiqError::Validity { bits: bits.len() * 8, offset, rows: values.len() });
        }
        Ok(Chunk { values, validity: Some(Validity { bits, offset }) })
    }

    /// The values; what lies under a null is arbitrary.
    pub(crate) fn values(&self) -> &'a [T] {
        self.values
    }

    /// Whether value `i` is neither null nor NaN nor infinite.
    #[inline(always)]
    pub(crate) fn is_scored(&self, i: usize) -> bool {
        self.values[i].is_finite() && self.validity.is_none_or(|validity| validity.is_set(i))
    }

    fn slice(&self, rows: Range<usize>) -> Chunk<'a, T> {
        let validity = self.validity.map(|Validity { bits, offset }| Validity { bits, offset: offset + rows.start });
        Chunk { values: &self.values[rows], validity }
    }

    /// The values of `rows`, at most [`BATCH`], with NaN for null; copied to `batch` only where there are bits to heed.
    fn read<'b>(&self, rows: Range<usize>, batch: &'b mut [T; BATCH]) -> &'b [T]
    where
        'a: 'b,
    {
        let values = &self.values[rows.clone()];
        let Some(validity) = self.validity else { return values };
        let batch = &mut batch[..values.len()];
        batch.copy_from_slice(values);
        for (places, i) in batch.chunks_mut(64).zip(rows.step_by(64)) {
            let mut nulls = !validity.word(i) & u64::MAX >> (64 - places.len());
            while nulls != 0 {
                places[nulls.trailing_zeros() as usize] = T::NAN;
                nulls &= nulls - 1;
            }
        }
        batch
    }
}

/// A column of scores, one value a row.
#[derive(Clone, Debug)]
pub struct Column<'a, T> {
    /// None of them empty.
    chunks: Vec<Chunk<'a, T>>,
    /// First row of each chunk.
    starts: Vec<usize>,
    len: usize,
}

impl<'a, T: Score> FromIterator<Chunk<'a, T>> for Column<'a, T> {
    fn from_iter<I: IntoIterator<Item = Chunk<'a, T>>>(chunks: I) -> Column<'a, T> {
        let mut column = Column { chunks: vec![], starts: vec![], len: 0 };
        for chunk in chunks.into_iter().filter(|chunk| !chunk.values.is_empty()) {
            column.starts.push(column.len);
            column.len += chunk.values.len();
            column.chunks.push(chunk);
        }
        column
    }
}

impl<'a, T: Score> From<&'a [T]> for Column<'a, T> {
    fn from(values: &'a [T]) -> Column<'a, T> {
        Column::from_iter([Chunk::new(values)])
    }
}

impl<'a, T: Score> Column<'a, T> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a row; arbitrary under a null.
    #[inline(always)]
    pub(crate) fn value(&self, row: usize) -> T {
        match &self.chunks[..] {
            [only] => only.values[row],
            chunks => {
                let i = self.chunk_of(row);
                chunks[i].values[row - self.starts[i]]
            }
        }
    }

    fn chunk_of(&self, row: usize) -> usize {
        self.starts.partition_point(|&start| start <= row) - 1
    }

    /// The chunk that holds `row`, from there on.
    fn rest(&self, row: usize) -> Chunk<'a, T> {
        let i = self.chunk_of(row);
        self.chunks[i].slice(row - self.starts[i]..self.chunks[i].values.len())
    }
}

/// `rows` of two columns of equal length in as many pieces as their edges make: the first row and both chunks of each.
pub(crate) fn pieces<'a, A: Score, B: Score>(
    a: &Column<'a, A>,
    b: &Column<'a, B>,
    rows: Range<usize>,
) -> impl Iterator<Item = (usize, Chunk<'a, A>, Chunk<'a, B>)> {
    let mut start = rows.start;
    std::iter::from_fn(move || {
        if start == rows.end {
            return None;
        }
        let (a, b) = (a.rest(start), b.rest(start));
        let first = start;
        let len = a.values.len().min(b.values.len()).min(rows.end - first);
        start += len;
        Some((first, a.slice(0..len), b.slice(0..len)))
    })
}

/// Reads `rows` of two columns of equal length: calls `visit(first row, values, values)` for at most [`BATCH`] rows at
/// once, with NaN for null.
#[inline(always)]
pub(crate) fn read<A: Score, B: Score>(
    a: &Column<'_, A>,
    b: &Column<'_, B>,
    rows: Range<usize>,
    mut visit: impl FnMut(usize, &[A], &[B]),
) {
    let (mut batch_a, mut batch_b) = ([A::NAN; BATCH], [B::NAN; BATCH]);
    for (first, a, b) in pieces(a, b, rows) {
        for start in (0..a.values.len()).step_by(BATCH) {
            let rows = start..a.values.len().min(start + BATCH);
            visit(first + start, a.read(rows.clone(), &mut batch_a), b.read(rows, &mut batch_b));
        }
    }
}
