//! Taking turns against a form that looks at everything again for each row.

use diq_core::error::DiqError;
use diq_core::turns::take_turns;
use proptest::collection::vec;
use proptest::prelude::*;

fn naive(lists: &[Vec<i64>]) -> Vec<i64> {
    let mut order: Vec<i64> = vec![];
    loop {
        let before = order.len();
        for list in lists {
            if let Some(&row) = list.iter().find(|row| !order.contains(row)) {
                order.push(row);
            }
        }
        if order.len() == before {
            return order;
        }
    }
}

fn flat(lists: &[Vec<i64>]) -> (Vec<i64>, Vec<i64>) {
    let mut ends = vec![];
    let mut rows = vec![];
    for list in lists {
        rows.extend(list);
        ends.push(rows.len() as i64);
    }
    (rows, ends)
}

proptest! {
    #[test]
    fn equals_the_slow_form(lists in vec(vec(0i64..40, 0..60), 0..6)) {
        let (rows, ends) = flat(&lists);
        prop_assert_eq!(take_turns(&rows, &ends, 40).unwrap(), naive(&lists));
    }
}

#[test]
fn lists_that_end_are_passed_over() {
    let lists = [vec![0, 1, 2, 3], vec![], vec![0, 5], vec![7, 2]];
    let (rows, ends) = flat(&lists);
    assert_eq!(take_turns(&rows, &ends, 8).unwrap(), [0, 5, 7, 1, 2, 3]);
}

#[test]
fn rows_and_ends_out_of_range_are_refused() {
    for (rows, ends) in [(vec![0, 3], vec![2]), (vec![-1], vec![1]), (vec![0, 1], vec![3]), (vec![0, 1], vec![2, 1])] {
        assert!(matches!(take_turns(&rows, &ends, 3), Err(DiqError::OutOfRange { .. })), "{rows:?} {ends:?}");
    }
}
