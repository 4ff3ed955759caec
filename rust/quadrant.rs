//! The quadrant of a sample: is it difficult, and does it help the validation set?
//!
//! Source: arXiv 2508.01450, Algorithm 1.

use crate::key::Score;

/// Quadrant number of a sample whose dot or difficulty is not finite.
pub const UNSCORED: u8 = 0;

/// The two cuts that make four quadrants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Cut of the difficulty, in units of the difficulty.
    pub tau: f64,
    /// Cut of the dot: the median of the scored rows, in units of the dot.
    pub median: f64,
}

impl Thresholds {
    /// The same cuts in the types of the columns, which compare as the exact ones do.
    pub fn cuts<D: Score, F: Score>(&self) -> Cuts<D, F> {
        Cuts { tau: F::at_least(self.tau), median: D::at_least(self.median) }
    }
}

/// [`Thresholds`] for a dot of type `D` and a difficulty of type `F`.
#[derive(Clone, Copy, Debug)]
pub struct Cuts<D, F> {
    tau: F,
    median: D,
}

impl<D: Score, F: Score> Cuts<D, F> {
    /// Quadrant of one sample:
    ///
    /// | | difficulty >= tau | difficulty < tau |
    /// | --- | --- | --- |
    /// | dot >= median | 1 | 2 |
    /// | dot < median | 3 | 4 |
    ///
    /// and [`UNSCORED`] where the dot or the difficulty is NaN or infinite.
    #[inline(always)]
    pub fn quadrant(&self, dot: D, difficulty: F) -> u8 {
        let scored = u8::from(dot.is_finite() & difficulty.is_finite());
        scored * (1 + u8::from(difficulty < self.tau) + 2 * u8::from(dot < self.median))
    }
}
