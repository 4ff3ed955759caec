//! Quantiles against a sort.

use diq_core::error::DiqError;
use diq_core::key::{CELLS, Score};
use diq_core::quantile::{interpolate, quantile};
use proptest::collection::vec;
use proptest::prelude::*;

fn naive<T: Score>(values: &[T], q: f64) -> f64 {
    let mut values: Vec<f64> = values.iter().map(|&x| x.into()).collect();
    values.sort_by(f64::total_cmp);
    let h = q * (values.len() - 1) as f64;
    interpolate(values[h.floor() as usize], values[h.ceil() as usize], h - h.floor())
}

fn finite() -> impl Strategy<Value = f64> {
    let bits = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |x| x.is_finite());
    prop_oneof![(-4i8..5).prop_map(f64::from), Just(-0.0), (-1.0f64..1.0), bits]
}

fn fraction() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(0.5), Just(1.0), 0.0..=1.0]
}

proptest! {
    #[test]
    fn quantile_matches_a_sort(values in vec(finite(), 1..200), q in fraction()) {
        prop_assert_eq!(quantile(&values, q).unwrap(), naive(&values, q));
        let values: Vec<f32> = values.iter().map(|&x| x as f32).filter(|x| x.is_finite()).collect();
        if !values.is_empty() {
            prop_assert_eq!(quantile(&values, q).unwrap(), naive(&values, q));
        }
    }

    #[test]
    fn interpolation_stays_between_and_grows(a in finite(), b in finite(), t in 0.0..=1.0, u in 0.0..=1.0) {
        let (lo, hi) = (a.min(b), a.max(b));
        let (first, second) = (interpolate(lo, hi, f64::min(t, u)), interpolate(lo, hi, f64::max(t, u)));
        prop_assert!(lo <= first && first <= second && second <= hi);
        prop_assert_eq!(interpolate(lo, lo, t), lo);
        prop_assert_eq!(interpolate(lo, hi, 0.0), lo);
    }

    #[test]
    fn keys_order_as_values_do(a in finite(), b in finite()) {
        prop_assert_eq!(a.partial_cmp(&b), Some(a.key().cmp(&b.key())));
        prop_assert_eq!(f64::from_key(a.key()), a);
        check_cell::<f64>(a.key());
        let (a, b) = (a as f32, b as f32);
        prop_assert_eq!(a.partial_cmp(&b), Some(a.key().cmp(&b.key())));
        prop_assert_eq!(f32::from_key(a.key()), a);
        check_cell::<f32>(a.key());
    }

    #[test]
    fn at_least_is_the_first_that_reaches(bound in finite(), x in finite()) {
        let x = x as f32;
        prop_assert_eq!(x < f32::at_least(bound), f64::from(x) < bound);
    }
}

fn check_cell<T: Score>(key: u64) {
    let cell = T::cell(key);
    assert!(T::cell_start(cell) <= key && key <= T::cell_last(cell));
}

#[test]
fn cells_tile_all_keys() {
    fn check<T: Score>() {
        assert_eq!((T::cell_start(0), T::cell_last(CELLS - 1)), (0, u64::MAX >> (64 - T::KEY_BITS)));
        for cell in 0..CELLS {
            assert_eq!((T::cell(T::cell_start(cell)), T::cell(T::cell_last(cell))), (cell, cell));
            assert!(cell == 0 || T::cell_last(cell - 1) + 1 == T::cell_start(cell));
        }
    }
    check::<f32>();
    check::<f64>();
}

#[test]
fn one_value_and_all_ties() {
    for n in [1, 2, 63, 600_000] {
        for q in [0.0, 0.3, 0.5, 1.0] {
            assert_eq!(quantile(&vec![0.1f64; n], q).unwrap(), 0.1);
            assert_eq!(quantile(&vec![0.1f32; n], q).unwrap(), f64::from(0.1f32));
        }
    }
}

#[test]
fn many_values_in_one_cell() {
    let values: Vec<f64> = (0..700_001u64).map(|i| 1.0 + (i * 7919 % 700_001) as f64 * 1e-13).collect();
    for q in [0.0, 0.1, 0.5, 0.900_000_1, 1.0] {
        assert_eq!(quantile(&values, q).unwrap(), naive(&values, q));
    }
}

#[test]
fn huge_values_of_opposite_sign_do_not_overflow() {
    assert_eq!(quantile(&[f64::MIN, f64::MAX], 0.5).unwrap(), 0.0);
}

#[test]
fn wrong_arguments_are_named() {
    let message = |result: Result<f64, DiqError>| result.unwrap_err().to_string();
    assert_eq!(message(quantile(&[] as &[f32], 0.5)), "values is empty");
    assert_eq!(message(quantile(&[1.0f32], 1.5)), "q must be in [0, 1], got 1.5");
    assert_eq!(message(quantile(&[1.0f32, f32::NAN, f32::INFINITY], 0.5)), "values is not finite at row 1");
    let mut values = vec![0.0f32; 900_000];
    (values[400_000], values[899_999]) = (f32::INFINITY, f32::NAN);
    assert_eq!(message(quantile(&values, 0.5)), "values is not finite at row 400000");
}
