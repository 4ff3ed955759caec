//! Order-preserving integer keys of float scores, so that selection and sorting need no float comparison.
//!
//! A key is the magnitude bits of an IEEE 754 float, added to or taken from the middle of the integer range: `a < b`
//! exactly when `a.key() < b.key()`, -0.0 and 0.0 share a key, and the trailing zeros of a fraction stay trailing zeros.
//! A cell is a coarse key of 16 bits (sign, 8 bits of exponent, 7 of fraction): histograms count cells.

use std::ops::BitOr;

/// Number of cells that every key falls into.
pub const CELLS: usize = 1 << 16;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A float that a column of scores can hold: `f32` or `f64`.
///
/// Keys and cells mean something for finite values only; for others they are arbitrary, but still in range.
pub trait Score: Copy + PartialOrd + Send + Sync + Into<f64> + sealed::Sealed {
    /// The smallest finite value.
    const MIN: Self;
    /// The largest finite value.
    const MAX: Self;
    /// Not a number.
    const NAN: Self;
    /// Bits of a key; keys are below `2**KEY_BITS`.
    const KEY_BITS: u32;
    /// Bits of a key that tell the keys of one cell apart, outermost cells and that of zero excepted.
    const CELL_BITS: u32;

    /// Holds the distance of a key from the start of its cell.
    type Offset: Copy + Default + BitOr<Output = Self::Offset> + Into<u64>;

    /// Whether the value is neither NaN nor infinite.
    fn is_finite(self) -> bool;

    /// The smallest value that is not below `bound`; infinite when there is none. `bound` is not NaN.
    fn at_least(bound: f64) -> Self;

    /// The key of the value.
    fn key(self) -> u64;

    /// The value of a key; 0.0 for the key that -0.0 and 0.0 share.
    fn from_key(key: u64) -> Self;

    /// The cell of a key, below [`CELLS`]; never smaller for a larger key.
    fn cell(key: u64) -> usize;

    /// The cell of the value, and the distance of its key from the start of that cell: for loops over many values, since
    /// it needs no wider numbers than the value is.
    fn place(self) -> (u32, Self::Offset);

    /// The smallest key of a cell; the keys of `cell` end where those of `cell + 1` start.
    fn cell_start(cell: usize) -> u64;

    /// The largest key of a cell.
    fn cell_last(cell: usize) -> u64 {
        if cell + 1 == CELLS { u64::MAX >> (64 - Self::KEY_BITS) } else { Self::cell_start(cell + 1) - 1 }
    }
}

#[inline(always)]
fn key_of(value: f32) -> u32 {
    let bits = value.to_bits();
    // minus one for negative values, zero for others: the negation of two's complement
    let sign = ((bits as i32) >> 31) as u32;
    let magnitude = bits & !(1 << 31);
    (magnitude ^ sign).wrapping_sub(sign) ^ 1 << 31
}

impl Score for f32 {
    type Offset = u32;
    const MIN: f32 = f32::MIN;
    const MAX: f32 = f32::MAX;
    const NAN: f32 = f32::NAN;
    const KEY_BITS: u32 = 32;
    const CELL_BITS: u32 = 16;

    #[inline(always)]
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }

    fn at_least(bound: f64) -> f32 {
        let nearest = bound as f32;
        if f64::from(nearest) < bound { nearest.next_up() } else { nearest }
    }

    #[inline(always)]
    fn key(self) -> u64 {
        u64::from(key_of(self))
    }

    #[inline(always)]
    fn place(self) -> (u32, u32) {
        let key = key_of(self);
        (key >> Self::CELL_BITS, key & ((1 << Self::CELL_BITS) - 1))
    }

    #[inline(always)]
    fn from_key(key: u64) -> f32 {
        let signed = (key as u32 ^ 1 << 31) as i32;
        let sign = if signed < 0 { 1 << 31 } else { 0 };
        f32::from_bits(signed.unsigned_abs() | sign)
    }

    #[inline(always)]
    fn cell(key: u64) -> usize {
        (key >> Self::CELL_BITS) as usize & (CELLS - 1)
    }

    #[inline(always)]
    fn cell_start(cell: usize) -> u64 {
        (cell as u64) << Self::CELL_BITS
    }
}

// an f64 has 11 bits of exponent. scores live in the range of f32, so the cells of f64 cover that range alone, as finely
// as those of f32; the cell of zero and the two outermost ones take the rest
const F64_CELL_BASE: i64 = (1023 - 127) << 52;
const HALF: i64 = CELLS as i64 / 2;

impl Score for f64 {
    type Offset = u64;
    const MIN: f64 = f64::MIN;
    const MAX: f64 = f64::MAX;
    const NAN: f64 = f64::NAN;
    const KEY_BITS: u32 = 64;
    const CELL_BITS: u32 = 52 - 7;

    #[inline(always)]
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }

    fn at_least(bound: f64) -> f64 {
        bound
    }

    #[inline(always)]
    fn key(self) -> u64 {
        let bits = self.to_bits();
        let sign = ((bits as i64) >> 63) as u64;
        let magnitude = bits & !(1 << 63);
        (magnitude ^ sign).wrapping_sub(sign) ^ 1 << 63
    }

    #[inline(always)]
    fn place(self) -> (u32, u64) {
        let key = self.key();
        let cell = Self::cell(key);
        (cell as u32, key.wrapping_sub(Self::cell_start(cell)))
    }

    #[inline(always)]
    fn from_key(key: u64) -> f64 {
        let signed = (key ^ 1 << 63) as i64;
        let sign = if signed < 0 { 1 << 63 } else { 0 };
        f64::from_bits(signed.unsigned_abs() | sign)
    }

    #[inline(always)]
    fn cell(key: u64) -> usize {
        let signed = (key ^ 1 << 63) as i64;
        // no branch on the sign, which is a coin toss for dots
        let sign = signed >> 63;
        let beyond = signed.unsigned_abs().saturating_sub(F64_CELL_BASE as u64) as i64;
        // rounded away from zero where negative, so that cells hold their smallest key on both sides
        let steps = (beyond + (sign & ((1 << Self::CELL_BITS) - 1))) >> Self::CELL_BITS;
        (((steps.min(HALF - 1 - sign) ^ sign) - sign) + HALF) as usize
    }

    #[inline(always)]
    fn cell_start(cell: usize) -> u64 {
        let beyond = cell as i64 - HALF;
        let sign = (beyond - 1) >> 63;
        let start = (beyond << Self::CELL_BITS) + ((F64_CELL_BASE ^ sign) - sign);
        // the lowest cell reaches down to the lowest key
        if cell == 0 { 0 } else { start as u64 ^ 1 << 63 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Score>(value: T) {
        let (cell, offset) = value.place();
        assert_eq!(cell as usize, T::cell(value.key()));
        assert_eq!(offset.into(), value.key() - T::cell_start(cell as usize));
    }

    #[test]
    fn the_place_of_a_value_is_its_cell_and_the_distance_of_its_key() {
        let exponents =
            (0..2048u64).flat_map(|exponent| [0, 1, (1 << 45) - 1, 1 << 45, (1 << 52) - 1].map(|f| exponent << 52 | f));
        for bits in exponents.chain((0..4096).map(|i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15))) {
            for bits in [bits, bits | 1 << 63] {
                let value = f64::from_bits(bits);
                if Score::is_finite(value) {
                    check(value);
                }
                let value = f32::from_bits((bits >> 32) as u32);
                if Score::is_finite(value) {
                    check(value);
                }
            }
        }
        check(0.0f32);
        check(-0.0f32);
        check(-0.0f64);
    }
}
