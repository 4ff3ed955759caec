//! The index of ids against a search from the first row on.

use diq_core::ids::IdIndex;
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    // few ids, so that some come twice and some are missing; in order or not
    #[test]
    fn rows_match_a_search(ids in vec((0u64..40, 0u64..3), 0..200), asked in vec((0u64..50, 0u64..3), 0..200), same in any::<bool>()) {
        let asked = if same { ids.clone() } else { asked };
        let (high, low): (Vec<u64>, Vec<u64>) = ids.iter().copied().unzip();
        let (asked_high, asked_low): (Vec<u64>, Vec<u64>) = asked.iter().copied().unzip();
        let expected: Vec<i64> =
            asked.iter().map(|id| ids.iter().position(|other| other == id).map_or(-1, |row| row as i64)).collect();
        let index = IdIndex::new(&high, &low).unwrap();
        prop_assert_eq!(index.rows(&asked_high, &asked_low).unwrap(), expected);
    }
}

#[test]
fn many_ids_in_another_order_are_found() {
    let n = 100_000u64;
    let id = |i: u64| i.wrapping_mul(0x2545_F491_4F6C_DD1D);
    let high: Vec<u64> = (0..n).map(id).collect();
    let low: Vec<u64> = (0..n).map(|i| id(i + 7)).collect();
    let index = IdIndex::new(&high, &low).unwrap();
    let order: Vec<u64> = (0..n).map(|i| i * 7_919 % n).collect();
    let (asked_high, asked_low): (Vec<u64>, Vec<u64>) = order.iter().map(|&i| (id(i), id(i + 7))).unzip();
    let rows = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let rows = rows.install(|| index.rows(&asked_high, &asked_low).unwrap());
    assert_eq!(rows, order.iter().map(|&i| i as i64).collect::<Vec<i64>>());
    assert_eq!(index.rows(&high, &low).unwrap(), (0..n as i64).collect::<Vec<i64>>());
}

#[test]
fn halves_of_two_lengths_are_refused() {
    assert!(IdIndex::new(&[1], &[]).is_err());
    assert!(IdIndex::new(&[], &[]).unwrap().rows(&[1], &[]).is_err());
}
