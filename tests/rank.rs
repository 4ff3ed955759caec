//! The ranking against a full sort with a comparator.

use std::cmp::Ordering;

use diq_core::error::DiqError;
use diq_core::key::Score;
use diq_core::quadrant::Thresholds;
use diq_core::quantile::quantile;
use diq_core::rank::{Cut, Ranking, Ratio, rank};
use proptest::collection::vec;
use proptest::prelude::*;

const MEDIAN: Cut = Cut::Percentile(0.5);

/// The order of DESIGN section 4, word by word.
fn naive<D: Score, F: Score>(dot: &[D], difficulty: &[F], cut: Cut, ratio: Ratio) -> Ranking {
    let dot: Vec<f64> = dot.iter().map(|&x| x.into()).collect();
    let difficulty: Vec<f64> = difficulty.iter().map(|&x| x.into()).collect();
    let mut rows: Vec<usize> = (0..dot.len()).filter(|&i| dot[i].is_finite() && difficulty[i].is_finite()).collect();
    let column = |of: &[f64]| rows.iter().map(|&row| of[row]).collect::<Vec<f64>>();
    let n_scored = rows.len();
    let thresholds = if n_scored == 0 {
        Thresholds { tau: f64::NAN, median: f64::NAN }
    } else {
        let tau = match cut {
            Cut::Percentile(q) => naive_quantile(column(&difficulty), q),
            Cut::Threshold(tau) => tau,
        };
        Thresholds { tau, median: naive_quantile(column(&dot), 0.5) }
    };
    let mut quadrant = vec![0; dot.len()];
    let mut counts = [0; 4];
    for &row in &rows {
        quadrant[row] = match (difficulty[row] >= thresholds.tau, dot[row] >= thresholds.median) {
            (true, true) => 1,
            (false, true) => 2,
            (true, false) => 3,
            (false, false) => 4,
        };
        counts[usize::from(quadrant[row]) - 1] += 1;
    }
    let descending = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
    rows.sort_by(|&a, &b| {
        let quadrants = quadrant[a].cmp(&quadrant[b]);
        let dots = descending(dot[a], dot[b]);
        quadrants.then(dots).then(descending(difficulty[a], difficulty[b])).then(a.cmp(&b))
    });
    rows.truncate(ratio.of(n_scored));
    Ranking { rows: rows.into_iter().map(|row| row as i64).collect(), quadrant, thresholds, n_scored, counts }
}

fn naive_quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let h = q * (values.len() - 1) as f64;
    let (lo, hi) = (values[h.floor() as usize], values[h.ceil() as usize]);
    (lo + (hi - lo) * (h - h.floor())).clamp(lo, hi)
}

fn threads<R: Send>(count: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

/// Equal in every bit; NaN thresholds are equal to themselves.
fn same(a: &Ranking, b: &Ranking) -> bool {
    let bits = |r: &Ranking| (r.thresholds.tau.to_bits(), r.thresholds.median.to_bits());
    // -0.0 and 0.0 cut alike
    let cuts = bits(a) == bits(b) || a.thresholds == b.thresholds;
    cuts && (&a.rows, &a.quadrant, a.n_scored, a.counts) == (&b.rows, &b.quadrant, b.n_scored, b.counts)
}

fn compare<D: Score, F: Score>(expected: &Ranking, dot: &[D], difficulty: &[F], cut: Cut, ratio: Ratio) {
    for count in 1..=3 {
        let ranking = threads(count, || rank(dot, difficulty, cut, ratio)).unwrap();
        assert!(same(&ranking, expected), "{count} threads: {} rows, {cut:?}, {ratio:?}", dot.len());
    }
}

fn check<D: Score, F: Score>(dot: &[D], difficulty: &[F], cut: Cut, ratio: Ratio) {
    compare(&naive(dot, difficulty, cut, ratio), dot, difficulty, cut, ratio);
}

/// Every mix of column types; `f32` holds the test's numbers exactly.
fn check_types(dot: &[f32], difficulty: &[f32], cut: Cut, ratio: Ratio) {
    let wide = |column: &[f32]| column.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let expected = naive(dot, difficulty, cut, ratio);
    compare(&expected, dot, difficulty, cut, ratio);
    compare(&expected, dot, &wide(difficulty), cut, ratio);
    compare(&expected, &wide(dot), difficulty, cut, ratio);
    compare(&expected, &wide(dot), &wide(difficulty), cut, ratio);
}

/// Small integers, so that ties are common, among them -0.0, infinities and NaN.
fn score() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => (-4i8..5).prop_map(f32::from),
        1 => Just(-0.0),
        1 => (-20i8..20).prop_map(|x| f32::from(x) / 8.0),
        1 => prop_oneof![Just(f32::NAN), Just(-f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ]
}

/// Any bit pattern: subnormals, both ends of the range, NaN with every payload.
fn pattern() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        any::<u32>().prop_map(|bits| f64::from(f32::from_bits(bits))),
        prop_oneof![Just(0.0), Just(-0.0), Just(1.0), Just(f64::MAX), Just(f64::MIN), Just(f64::MIN_POSITIVE)],
    ]
}

fn cut() -> impl Strategy<Value = Cut> {
    prop_oneof![
        prop_oneof![Just(0.0), Just(0.5), Just(1.0), 0.0..=1.0].prop_map(Cut::Percentile),
        (-4i8..5).prop_map(|tau| Cut::Threshold(f64::from(tau))),
    ]
}

fn ratio() -> impl Strategy<Value = Ratio> {
    (1u64..=60, 1u64..=60).prop_map(|(a, b)| Ratio::new(a.min(b), a.max(b)).unwrap())
}

fn rows<S: Strategy + 'static>(
    dot: S,
    difficulty: impl Strategy<Value = S::Value>,
) -> impl Strategy<Value = (Vec<S::Value>, Vec<S::Value>)> {
    vec((dot, difficulty), 0..300).prop_map(|pairs| pairs.into_iter().unzip())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rank_matches_a_full_sort((dot, difficulty) in rows(score(), score()), cut in cut(), ratio in ratio()) {
        check_types(&dot, &difficulty, cut, ratio);
    }

    #[test]
    fn rank_matches_a_full_sort_of_any_floats(
        (dot, difficulty) in rows(pattern(), pattern()),
        cut in cut(),
        ratio in ratio(),
    ) {
        // the naive median of huge values of opposite sign overflows
        let dot: Vec<f64> = dot.iter().map(|x| x / 2.0).collect();
        let difficulty: Vec<f64> = difficulty.iter().map(|x| x / 2.0).collect();
        check(&dot, &difficulty, cut, ratio);
        let narrow = |column: &[f64]| column.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        check(&narrow(&dot), &narrow(&difficulty), cut, ratio);
        check(&dot, &narrow(&difficulty), cut, ratio);
    }

    #[test]
    fn a_selection_is_a_prefix_of_the_ranking(
        (dot, difficulty) in rows(score(), score()),
        cut in cut(),
        ratio in ratio(),
    ) {
        let all = rank(&dot, &difficulty, cut, Ratio::ALL).unwrap();
        let some = rank(&dot, &difficulty, cut, ratio).unwrap();
        prop_assert_eq!(all.rows.len(), all.n_scored);
        prop_assert_eq!(&some.rows[..], &all.rows[..ratio.of(all.n_scored)]);
        prop_assert_eq!(some.quadrant, all.quadrant);
    }

    #[test]
    fn ratios_are_exact(n in 0usize..1 << 40, a in 1u64.., b in 1u64..) {
        let ratio = Ratio::new(a.min(b), a.max(b)).unwrap();
        let floor = ratio.of(n) as u128;
        let (num, den) = (u128::from(a.min(b)), u128::from(a.max(b)));
        prop_assert!(floor * den <= n as u128 * num && n as u128 * num < (floor + 1) * den);
    }
}

/// Bits that look random.
fn mix(i: usize) -> u64 {
    let z = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 27)
}

// large enough for several blocks of rows, many partitions, and a parallel sort
const MANY: usize = 600_000;

fn percent(percent: u64) -> Ratio {
    Ratio::new(percent, 100).unwrap()
}

#[test]
fn many_rows_without_ties() {
    let dot: Vec<f64> = (0..MANY).map(|i| (mix(i) >> 11) as f64 / (1u64 << 53) as f64 - 0.5).collect();
    let difficulty: Vec<f64> = (0..MANY).map(|i| (mix(i + MANY) >> 11) as f64).collect();
    for ratio in [percent(1), percent(50), Ratio::ALL] {
        check(&dot, &difficulty, MEDIAN, ratio);
    }
}

#[test]
fn many_rows_with_ratings() {
    let dot: Vec<f32> = (0..MANY).map(|i| (mix(i) % 20_011) as f32 / 1000.0 - 10.0).collect();
    let difficulty: Vec<f32> =
        (0..MANY).map(|i| if mix(i).is_multiple_of(97) { f32::NAN } else { (mix(i + MANY) % 5 + 1) as f32 }).collect();
    for ratio in [percent(1), percent(10), percent(77)] {
        check_types(&dot, &difficulty, MEDIAN, ratio);
    }
}

#[test]
fn many_rows_with_few_dots() {
    let dot: Vec<f32> = (0..MANY).map(|i| (mix(i) % 3) as f32).collect();
    let ratings: Vec<f32> = (0..MANY).map(|i| (mix(i + MANY) % 5 + 1) as f32).collect();
    // more distinct values than a code tells apart, and not a whole cell each
    let means: Vec<f32> = (0..MANY).map(|i| (mix(i + MANY) % 4001) as f32 / 3.0 - 600.0).collect();
    for ratio in [percent(1), percent(34), Ratio::ALL] {
        check_types(&dot, &ratings, MEDIAN, ratio);
        check_types(&dot, &means, Cut::Percentile(0.3), ratio);
    }
}

#[test]
fn many_rows_close_together() {
    // all in one cell, above more candidates than a quantile copies out
    let dot: Vec<f64> = (0..MANY).map(|i| 1.0 + (mix(i) % 300_007) as f64 * 1e-12).collect();
    let difficulty: Vec<f32> = (0..MANY).map(|i| 3.0 + (mix(i + MANY) % 1009) as f32 * 1e-6).collect();
    check(&dot, &difficulty, MEDIAN, percent(10));
    check(&difficulty, &dot, MEDIAN, percent(60));
}

#[test]
fn all_ties() {
    for n in [1, 2, 63, 137, MANY] {
        let ones = vec![1.0f32; n];
        for ratio in [percent(1), percent(57), Ratio::ALL] {
            check_types(&ones, &ones, MEDIAN, ratio);
        }
    }
}

#[test]
fn a_ratio_is_taken_as_typed() {
    assert_eq!(percent(57).of(100), 57);
    assert_eq!(percent(1).of(99), 0);
    assert_eq!(Ratio::new(u64::MAX - 1, u64::MAX).unwrap().of(usize::MAX), usize::MAX - 1);
}

#[test]
fn no_scored_row() {
    for (dot, difficulty) in [(vec![], vec![]), (vec![f32::NAN, 1.0], vec![1.0f32, f32::INFINITY])] {
        let ranking = rank(&dot, &difficulty, Cut::Threshold(3.0), Ratio::ALL).unwrap();
        assert!(ranking.rows.is_empty() && ranking.thresholds.tau.is_nan() && ranking.thresholds.median.is_nan());
        assert_eq!((ranking.quadrant, ranking.n_scored, ranking.counts), (vec![0; dot.len()], 0, [0; 4]));
    }
}

#[test]
fn zeros_are_equal() {
    let ranking = rank(&[-0.0f32, 0.0, -0.0], &[0.0f32, -0.0, 0.0], MEDIAN, Ratio::ALL).unwrap();
    assert_eq!((ranking.rows, ranking.quadrant), (vec![0, 1, 2], vec![1; 3]));
}

#[test]
fn thresholds_are_those_of_quantile() {
    let dot: Vec<f32> = (0..10_000).map(|i| (mix(i) % 7001) as f32 / 7.0 - 500.0).collect();
    let ranking = rank(&dot, &dot, Cut::Percentile(0.3), percent(1)).unwrap();
    assert_eq!(ranking.thresholds.tau, quantile(&dot, 0.3).unwrap());
    assert_eq!(ranking.thresholds.median, quantile(&dot, 0.5).unwrap());
}

#[test]
fn wrong_arguments_are_named() {
    let one = [1.0f32];
    let message = |result: Result<Ranking, DiqError>| result.unwrap_err().to_string();
    assert_eq!(message(rank(&one, &[] as &[f32], MEDIAN, Ratio::ALL)), "difficulty has 0 rows, but dot has 1");
    for percentile in [-0.1, 1.1, f64::NAN] {
        let found = message(rank(&one, &one, Cut::Percentile(percentile), Ratio::ALL));
        assert_eq!(found, format!("percentile must be in [0, 1], got {percentile}"));
    }
    let infinite = Cut::Threshold(f64::INFINITY);
    assert_eq!(message(rank(&one, &one, infinite, Ratio::ALL)), "threshold must be finite, got inf");
    for (a, b) in [(0, 1), (2, 1), (0, 0), (1, 0)] {
        assert_eq!(Ratio::new(a, b).unwrap_err().to_string(), format!("ratio must be in (0, 1], got {a}/{b}"));
    }
}
