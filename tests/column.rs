//! Columns in several pieces with nulls, against the same rows in one piece with NaN.

use diq_core::column::{Chunk, Column};
use diq_core::error::DiqError;
use diq_core::key::Score;
use diq_core::quantile::{quantile, quantile_column};
use diq_core::rank::{Cut, Ranking, Ratio, rank, rank_columns};
use proptest::collection::vec;
use proptest::prelude::*;

const MEDIAN: Cut = Cut::Percentile(0.5);

/// A column as a producer may hand it over.
struct Pieces<T>(Vec<Piece<T>>);

struct Piece<T> {
    values: Vec<T>,
    /// A bitmap and the bit of the first value.
    validity: Option<(Vec<u8>, usize)>,
}

impl<T: Score> Pieces<T> {
    /// Pieces of `lengths` rows in turn, and one of the rows that are left; a row of `None` is null, with `garbage` under
    /// it. Every bitmap starts at another bit.
    fn new(rows: &[Option<T>], lengths: &[usize], garbage: &[T]) -> Pieces<T> {
        let (mut pieces, mut rest) = (vec![], rows);
        for &len in lengths.iter().chain([&usize::MAX]) {
            let (piece, tail) = rest.split_at(len.min(rest.len()));
            rest = tail;
            let values = piece.iter().zip(garbage.iter().cycle()).map(|(row, &other)| row.unwrap_or(other)).collect();
            let offset = pieces.len() * 5 % 67;
            // the bits around those of the rows say nothing
            let mut bits = vec![0b0101_1010; (offset + piece.len()).div_ceil(8)];
            for (i, row) in piece.iter().enumerate() {
                let (byte, bit) = ((offset + i) / 8, (offset + i) % 8);
                bits[byte] = bits[byte] & !(1 << bit) | u8::from(row.is_some()) << bit;
            }
            let needless = pieces.len().is_multiple_of(2) && piece.iter().all(Option::is_some);
            pieces.push(Piece { values, validity: (!needless).then_some((bits, offset)) });
        }
        Pieces(pieces)
    }

    fn column(&self) -> Column<'_, T> {
        let chunks = self.0.iter().map(|Piece { values, validity }| match validity {
            None => Chunk::new(values),
            Some((bits, offset)) => Chunk::with_validity(values, bits, *offset).unwrap(),
        });
        chunks.collect()
    }
}

/// The same rows in one piece.
fn one_piece<T: Score>(rows: &[Option<T>]) -> Vec<T> {
    rows.iter().map(|row| row.unwrap_or(T::NAN)).collect()
}

fn threads<R: Send>(count: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

/// Equal in every bit; the thresholds of no rows are NaN.
fn same(a: &Ranking, b: &Ranking) -> bool {
    let bits = |r: &Ranking| (r.thresholds.tau.to_bits(), r.thresholds.median.to_bits());
    bits(a) == bits(b) && (&a.rows, &a.quadrant, a.n_scored, a.counts) == (&b.rows, &b.quadrant, b.n_scored, b.counts)
}

/// Rows of two columns, and how each is cut.
struct Table<D, F> {
    dot: Vec<Option<D>>,
    difficulty: Vec<Option<F>>,
    lengths: [Vec<usize>; 2],
}

impl<D: Score, F: Score> Table<D, F> {
    fn check(&self, garbage: (&[D], &[F]), cut: Cut, ratio: Ratio) {
        let expected = rank(&one_piece(&self.dot), &one_piece(&self.difficulty), cut, ratio).unwrap();
        let dot = Pieces::new(&self.dot, &self.lengths[0], garbage.0);
        let difficulty = Pieces::new(&self.difficulty, &self.lengths[1], garbage.1);
        for count in 1..=3 {
            let ranking = threads(count, || rank_columns(&dot.column(), &difficulty.column(), cut, ratio)).unwrap();
            assert!(same(&ranking, &expected), "{count} threads: {} rows, {cut:?}, {ratio:?}", self.dot.len());
        }
    }
}

const GARBAGE: [f32; 7] = [0.0, f32::NAN, 1.0, f32::INFINITY, -3.0, f32::NEG_INFINITY, f32::MAX];

/// Small integers, so that ties are common, among them -0.0, infinities, NaN and null.
fn row() -> impl Strategy<Value = Option<f32>> {
    prop_oneof![
        8 => (-4i8..5).prop_map(|x| Some(f32::from(x))),
        1 => Just(Some(-0.0)),
        1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)].prop_map(Some),
        2 => Just(None),
    ]
}

/// Many short pieces, some of them empty, and a few long ones.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![0usize..4, 0usize..200], 0..12)
}

fn cut() -> impl Strategy<Value = Cut> {
    prop_oneof![(0.0..=1.0).prop_map(Cut::Percentile), (-4i8..5).prop_map(|tau| Cut::Threshold(f64::from(tau)))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_rank_as_one(
        rows in vec((row(), row()), 0..400),
        lengths in [lengths(), lengths()],
        cut in cut(),
        (a, b) in (1u64..=60, 1u64..=60),
    ) {
        let ratio = Ratio::new(a.min(b), a.max(b)).unwrap();
        let (dot, difficulty): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let wide: Vec<_> = dot.iter().map(|row| row.map(f64::from)).collect();
        let table = Table { dot: wide, difficulty: difficulty.clone(), lengths: lengths.clone() };
        table.check((&GARBAGE.map(f64::from), &GARBAGE), cut, ratio);
        Table { dot, difficulty, lengths }.check((&GARBAGE, &GARBAGE), cut, ratio);
    }

    #[test]
    fn pieces_have_the_quantile_of_one(values in vec(-4i8..5, 1..300), lengths in lengths(), q in 0.0..=1.0) {
        let rows: Vec<_> = values.iter().map(|&x| Some(f32::from(x))).collect();
        let pieces = Pieces::new(&rows, &lengths, &GARBAGE);
        prop_assert_eq!(quantile_column(&pieces.column(), q).unwrap(), quantile(&one_piece(&rows), q).unwrap());
    }
}

/// Bits that look random.
fn mix(i: usize) -> u64 {
    let z = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 27)
}

// large enough for several blocks of rows, many partitions, and windows of a quantile that are narrowed
const MANY: usize = 600_000;

fn many<T>(seed: usize, nulls: u64, value: impl Fn(u64) -> T) -> Vec<Option<T>> {
    let row = |bits: u64| if bits.is_multiple_of(nulls) { None } else { Some(value(bits >> 8)) };
    (0..MANY).map(|i| row(mix(i + seed))).collect()
}

/// Edges everywhere: within a batch, on its ends, and far apart.
fn uneven() -> [Vec<usize>; 2] {
    [vec![1, 0, 1023, 1024, 1025, 7, 200_000, 65_536, 3], (0..300).map(|i| (mix(i) % 3000) as usize).collect()]
}

#[test]
fn many_rows_with_ratings() {
    let (dot, difficulty) = (many(0, 97, |x| (x % 20_011) as f32 / 1000.0), many(MANY, 2, |x| (x % 5) as f32));
    let table = Table { dot, difficulty, lengths: uneven() };
    for percent in [1, 10, 100] {
        table.check((&GARBAGE, &GARBAGE), MEDIAN, Ratio::new(percent, 100).unwrap());
    }
}

#[test]
fn many_rows_close_together() {
    // all in one cell, where only later digits and the difficulty of a tied row decide
    let dot = many(0, 3, |x| 1.0 + (x % 300_007) as f64 * 1e-12);
    let difficulty = many(MANY, 1000, |x| 3.0 + (x % 1009) as f32 * 1e-6);
    let table = Table { dot, difficulty, lengths: uneven() };
    // the garbage lies within the cell, too
    let garbage = (&[1.0 + 1e-7, 1.0][..], &[3.0 + 1e-4][..]);
    for percent in [10, 100] {
        table.check(garbage, MEDIAN, Ratio::new(percent, 100).unwrap());
    }
    let Table { dot, difficulty, lengths: [a, b] } = table;
    Table { dot: difficulty, difficulty: dot, lengths: [b, a] }.check((garbage.1, garbage.0), MEDIAN, Ratio::ALL);
}

#[test]
fn every_row_may_be_null_or_absent() {
    let empty: Column<'_, f32> = [].into_iter().collect();
    assert!(empty.is_empty() && rank_columns(&empty, &empty, MEDIAN, Ratio::ALL).unwrap().rows.is_empty());
    let nulls = Chunk::with_validity(&[1.0f32, 2.0], &[0], 3).unwrap();
    let ranking =
        rank_columns(&Column::from_iter([nulls]), &Column::from(&[1.0, 2.0][..]), MEDIAN, Ratio::ALL).unwrap();
    assert_eq!((ranking.rows, ranking.quadrant, ranking.n_scored), (vec![], vec![0, 0], 0));
    assert!(ranking.thresholds.tau.is_nan());
}

#[test]
fn wrong_arguments_are_named() {
    let values = [1.0f32; 9];
    let message =
        |result: Result<_, DiqError>| -> String { result.map(|_: Chunk<'_, f32>| ()).unwrap_err().to_string() };
    assert!(Chunk::with_validity(&values, &[0; 2], 7).is_ok());
    let short = message(Chunk::with_validity(&values, &[0; 2], 8));
    assert_eq!(short, "a validity bitmap of 16 bits is too short for 9 rows from bit 8 on");
    assert!(Chunk::with_validity(&values, &[0; 2], usize::MAX).is_err());

    let column: Column<'_, f32> =
        [Chunk::new(&values), Chunk::with_validity(&values, &[247, 1], 0).unwrap()].into_iter().collect();
    assert_eq!(column.len(), 18);
    let found = rank_columns(&column, &Column::from(&values[..]), MEDIAN, Ratio::ALL).unwrap_err().to_string();
    assert_eq!(found, "difficulty has 9 rows, but dot has 18");
    assert_eq!(quantile_column(&column, 0.5).unwrap_err().to_string(), "values is not finite at row 12");
}
