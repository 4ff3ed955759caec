//! Bins, linked counts and pages against loops over all rows.

use diq_core::crossfilter::{BINS, CLASSES, Counts, Filters, NONE, Sort, bin, count, page};
use proptest::collection::vec;
use proptest::prelude::*;

/// A table of three columns of a few bins, filters that refuse some of them, and a class for each row.
fn tables() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>, Vec<u8>)> {
    let bins = prop_oneof![0u8..6, Just(NONE)];
    (0usize..300).prop_flat_map(move |n| {
        (vec(vec(bins.clone(), n), 3), vec(prop_oneof![3 => Just(1u8), 1 => Just(0)], 3 * BINS), vec(0u8..4, n))
    })
}

fn lets_through(columns: &[Vec<u8>], allowed: &[u8], row: usize, but: &[usize]) -> bool {
    (0..columns.len()).all(|c| but.contains(&c) || allowed[c * BINS + usize::from(columns[c][row])] != 0)
}

fn naive(columns: &[Vec<u8>], allowed: &[u8], plane: (usize, usize), classes: &[u8]) -> Counts {
    let mut found = Counts {
        histograms: vec![0; columns.len() * BINS * CLASSES],
        plane: vec![0; BINS * BINS * CLASSES],
        passing: [0; CLASSES],
    };
    for (row, &class) in classes.iter().enumerate() {
        let class = usize::from(class);
        for (c, column) in columns.iter().enumerate() {
            let place = (c * BINS + usize::from(column[row])) * CLASSES + class;
            found.histograms[place] += u32::from(lets_through(columns, allowed, row, &[c]));
        }
        let (x, y) = (usize::from(columns[plane.0][row]), usize::from(columns[plane.1][row]));
        found.plane[(y * BINS + x) * CLASSES + class] +=
            u32::from(lets_through(columns, allowed, row, &[plane.0, plane.1]));
        found.passing[class] += u32::from(lets_through(columns, allowed, row, &[]));
    }
    found
}

fn slices(columns: &[Vec<u8>]) -> Vec<&[u8]> {
    columns.iter().map(Vec::as_slice).collect()
}

proptest! {
    #[test]
    fn bins_count_the_cuts_below(values in vec(prop_oneof![-9i8..9, Just(100)], 0..99), raw in vec(-9i8..9, 0..254)) {
        let mut cuts: Vec<f64> = raw.iter().map(|&x| f64::from(x) / 2.0).collect();
        cuts.sort_by(f64::total_cmp);
        let values: Vec<f64> = values.iter().map(|&x| if x == 100 { f64::NAN } else { f64::from(x) / 2.0 }).collect();
        let expected: Vec<u8> = values
            .iter()
            .map(|&x| if x.is_nan() { NONE } else { cuts.iter().filter(|&&cut| cut <= x).count() as u8 })
            .collect();
        prop_assert_eq!(bin(&values, &cuts).unwrap(), expected);
    }

    #[test]
    fn counts_match_a_loop((columns, allowed, classes) in tables(), x in 0usize..3, y in 0usize..3) {
        let filters = Filters::new(slices(&columns), &allowed).unwrap();
        prop_assert_eq!(count(&filters, (x, y), &classes).unwrap(), naive(&columns, &allowed, (x, y), &classes));
    }

    #[test]
    fn pages_match_a_full_sort(
        (columns, allowed, _) in tables(),
        way in 0usize..3,
        descending in any::<bool>(),
        first in 0usize..40,
        wanted in 0usize..40,
        seed in any::<u64>(),
    ) {
        let n = columns[0].len();
        // within a bin in an order of their own, with ties; in a missing bin they mean nothing
        let values: Vec<f32> = (0..n)
            .map(|row| f32::from(columns[1][row]) + ((seed.rotate_left(row as u32) & 3) as f32) / 8.0)
            .map(|value| if value >= f32::from(NONE) { f32::NAN } else { value })
            .collect();
        let filters = Filters::new(slices(&columns), &allowed).unwrap();
        let sort = [Sort::Row, Sort::Bins(1), Sort::Values(1, &values)][way];
        let mut rows: Vec<usize> = (0..n).filter(|&row| lets_through(&columns, &allowed, row, &[])).collect();
        let number = |row: usize| match way {
            0 => row as f32,
            1 => f32::from(columns[1][row]),
            _ => values[row],
        };
        rows.sort_by(|&a, &b| {
            let missing = |row: usize| way > 0 && columns[1][row] == NONE;
            let order = if missing(a) && missing(b) { std::cmp::Ordering::Equal } else { number(a).total_cmp(&number(b)) };
            let order = if descending { order.reverse() } else { order };
            missing(a).cmp(&missing(b)).then(order).then(a.cmp(&b))
        });
        let expected: Vec<i64> = rows.into_iter().skip(first).take(wanted).map(|row| row as i64).collect();
        prop_assert_eq!(page(&filters, sort, descending, first, wanted).unwrap(), expected);
    }
}

/// Many blocks, whatever the number of threads.
#[test]
fn threads_change_nothing() {
    let n = 3 << 18;
    let mut state = 7u32;
    let mut draw = |most: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % most
    };
    let columns: Vec<Vec<u8>> = (0..3).map(|_| (0..n).map(|_| draw(200) as u8).collect()).collect();
    let classes: Vec<u8> = (0..n).map(|_| draw(4) as u8).collect();
    let allowed: Vec<u8> = (0..3 * BINS).map(|_| u8::from(draw(10) > 0)).collect();
    let values: Vec<f64> = columns[2].iter().map(|&bin| f64::from(bin)).collect();
    let answer = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let filters = Filters::new(slices(&columns), &allowed).unwrap();
            let pages: Vec<Vec<i64>> = [Sort::Row, Sort::Bins(1), Sort::Values(2, &values)]
                .into_iter()
                .flat_map(|sort| [false, true].map(|descending| page(&filters, sort, descending, 70_000, 50).unwrap()))
                .collect();
            (count(&filters, (0, 1), &classes).unwrap(), pages)
        })
    };
    let one = answer(1);
    assert_eq!(one.0, naive(&columns, &allowed, (0, 1), &classes));
    assert_eq!(one, answer(5));
}

#[test]
fn what_does_not_fit_is_refused() {
    let (column, other) = (vec![0u8; 3], vec![0u8; 2]);
    let all = vec![1u8; BINS];
    let message = |error: diq_core::error::DiqError| error.to_string();
    assert!(message(Filters::new(vec![], &[]).err().unwrap()).contains("columns is empty"));
    assert!(
        message(Filters::new(vec![&column, &other], &[all.clone(), all.clone()].concat()).err().unwrap())
            .contains("2 rows")
    );
    assert!(message(Filters::new(vec![&column], &all[1..]).err().unwrap()).contains("allowed"));
    assert!(Filters::new(vec![&column[..]; 33], &[1; 33 * BINS]).is_err());
    let filters = Filters::new(vec![&column], &all).unwrap();
    assert!(message(count(&filters, (0, 1), &[0; 3]).unwrap_err()).contains("plane"));
    assert!(message(count(&filters, (0, 0), &[0; 2]).unwrap_err()).contains("classes"));
    assert!(page(&filters, Sort::<f64>::Bins(1), false, 0, 1).is_err());
    assert!(page(&filters, Sort::Values(0, &[1.0, 2.0]), false, 0, 1).is_err());
    assert!(message(bin(&[1.0], &[2.0, 1.0]).unwrap_err()).contains("ascending"));
    assert!(bin(&[1.0], &[f64::NAN]).is_err());
    assert!(bin(&[1.0], &[0.0; 255]).is_err());
    assert_eq!(page(&filters, Sort::<f64>::Row, false, usize::MAX, usize::MAX).unwrap(), Vec::<i64>::new());
    assert_eq!(page(&filters, Sort::<f64>::Row, true, 1, usize::MAX).unwrap(), [1, 0]);
}
