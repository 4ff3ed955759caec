//! Shared runs and near copies against slow forms that look at every pair.

use std::collections::BTreeSet;

use diq_core::error::DiqError;
use diq_core::ngram::{
    Checked, Match, NearCopy, Table, groups, near_copies, shingle_hashes, small_words, word_hashes, words,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Sentences over few words, so that shared runs are common; punctuation and double spaces between them.
fn sentence(longest: usize) -> impl Strategy<Value = String> {
    vec(("[abcdé]", prop_oneof![Just(" "), Just(", "), Just("  "), Just("-")]), 0..longest)
        .prop_map(|parts| parts.into_iter().map(|(word, gap)| word + gap).collect())
}

fn split(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for c in text.chars() {
        if c.is_alphanumeric() {
            found.last_mut().unwrap().push(c);
        } else if !found.last().unwrap().is_empty() {
            found.push(String::new());
        }
    }
    found.retain(|word| !word.is_empty());
    found
}

fn has(question: &[String], run: &[String]) -> bool {
    question.windows(run.len()).any(|one| one == run)
}

/// Whether a run is boilerplate, by counting questions.
fn common(run: &[String], questions: &[(u32, Vec<String>)], most: usize) -> bool {
    let different: BTreeSet<_> = questions.iter().map(|(_, question)| question).collect();
    if different.iter().filter(|question| has(question, run)).count() > most {
        return true;
    }
    let benchmarks: BTreeSet<u32> = questions.iter().map(|(benchmark, _)| *benchmark).collect();
    benchmarks.into_iter().any(|benchmark| {
        let own: BTreeSet<_> = questions.iter().filter(|(one, _)| *one == benchmark).map(|(_, words)| words).collect();
        own.iter().filter(|question| has(question, run)).count() > (own.len() / 2).max(1)
    })
}

fn naive_runs(question: &[String], n: usize, shortest: usize) -> Vec<Vec<String>> {
    match question.len() {
        length if length < shortest => Vec::new(),
        length => question.windows(length.min(n)).map(<[String]>::to_vec).collect(),
    }
}

fn naive_scan(
    questions: &[(u32, Vec<String>)],
    texts: &[String],
    [n, shortest, most]: [usize; 3],
) -> (Vec<Match>, Vec<Checked>) {
    let mut wanted = Vec::new();
    let mut checked = Vec::new();
    for (_, question) in questions {
        let all = naive_runs(question, n, shortest);
        let own: Vec<_> = all.iter().filter(|run| !common(run, questions, most)).cloned().collect();
        checked.push(match (all.is_empty(), own.is_empty()) {
            (true, _) => Checked::TooShort,
            (_, true) => Checked::TooCommon,
            _ => Checked::Yes,
        });
        wanted.push(own);
    }
    let mut found = Vec::new();
    for (row, text) in texts.iter().enumerate() {
        let text = split(text);
        let mut best: Option<Match> = None;
        for (number, (_, question)) in questions.iter().enumerate() {
            let mut covered = BTreeSet::new();
            let mut first = None;
            for (start, run) in naive_runs(question, n, shortest).iter().enumerate() {
                if wanted[number].contains(run) && has(&text, run) {
                    covered.extend(start..start + run.len());
                    first = first.or(Some(run.join(" ")));
                }
            }
            let (shared, total) = (covered.len(), question.len());
            let better = |best: &Match| shared * best.total > best.shared * total;
            if let Some(run) = first.filter(|_| best.as_ref().is_none_or(better)) {
                best = Some(Match { row, question: number, shared, total, run });
            }
        }
        found.extend(best);
    }
    (found, checked)
}

fn naive_shingles(text: &str, n: usize) -> BTreeSet<Vec<String>> {
    let mut found = split(text);
    if found.is_empty() {
        found.push(text.to_owned());
    }
    found.windows(n.min(found.len())).map(<[String]>::to_vec).collect()
}

fn naive_copies(texts: &[String], keys: &[u64], bands: usize, n: usize, threshold: f64) -> Vec<NearCopy> {
    let sets: Vec<_> = texts.iter().map(|text| naive_shingles(text, n)).collect();
    let (mut kept, mut found) = (Vec::new(), Vec::new());
    for row in 0..texts.len() {
        let copy = kept.iter().find_map(|&other: &usize| {
            let meet = (0..bands).any(|band| keys[row * bands + band] == keys[other * bands + band]);
            let shared = sets[row].intersection(&sets[other]).count();
            let similarity = shared as f64 / (sets[row].len() + sets[other].len() - shared) as f64;
            (meet && similarity >= threshold).then_some(NearCopy { row, kept: other, similarity })
        });
        match copy {
            Some(copy) => found.push(copy),
            None => kept.push(row),
        }
    }
    found
}

proptest! {
    #[test]
    fn words_are_runs_of_alphanumerics(text in ".*") {
        prop_assert_eq!(words(&text).collect::<Vec<_>>(), split(&text));
    }

    #[test]
    fn small_words_are_words_cut_between_characters_without_spaces(text in "[a-z0-9 \u{e01}-\u{e2e}\u{4e00}-\u{4eff}ß。]{0,40}") {
        let alone = |c: char| ('\u{e01}'..='\u{e2e}').contains(&c) || ('\u{4e00}'..='\u{4eff}').contains(&c);
        let apart: String = text.chars().map(|c| if alone(c) { format!(" {c} ") } else { c.to_string() }).collect();
        prop_assert_eq!(small_words(&text).collect::<Vec<_>>(), split(&apart));
    }

    #[test]
    fn scan_finds_what_every_pair_shows(
        mut questions in vec((0u32..3, sentence(12)), 0..14),
        texts in vec(sentence(20), 0..12),
        n in 1usize..6,
        less in 0usize..5,
        most in 1usize..5,
    ) {
        questions.sort_by_key(|(benchmark, _)| *benchmark);
        let shortest = n.saturating_sub(less).max(1);
        let (benchmarks, plain): (Vec<u32>, Vec<String>) = questions.iter().cloned().unzip();
        let table = Table::new(&plain, &benchmarks, n, shortest, most as u32).unwrap();
        let questions: Vec<_> = questions.iter().map(|(benchmark, text)| (*benchmark, split(text))).collect();
        let (found, checked) = naive_scan(&questions, &texts, [n, shortest, most]);
        prop_assert_eq!(table.scan(&texts), found);
        prop_assert_eq!(&table.checked, &checked);
        let all: BTreeSet<_> = questions.iter().flat_map(|(_, words)| naive_runs(words, n, shortest)).collect();
        let ignored = all.iter().filter(|run| common(run, &questions, most)).count();
        prop_assert_eq!((table.n_runs(), table.n_ignored), (all.len() - ignored, ignored));
    }

    #[test]
    fn near_copies_match_all_pairs(
        texts in vec(sentence(9), 0..25),
        raw in vec(0u64..4, 50),
        n in 1usize..4,
        threshold in prop_oneof![Just(0.1), Just(0.5), Just(2.0 / 3.0), Just(1.0)],
    ) {
        let keys = &raw[..2 * texts.len()];
        prop_assert_eq!(near_copies(&texts, keys, 2, n, threshold).unwrap(), naive_copies(&texts, keys, 2, n, threshold));
    }

    #[test]
    fn equal_shingles_have_equal_hashes(texts in vec(sentence(9), 0..20), n in 1usize..4) {
        let (hashes, offsets) = shingle_hashes(&texts, n).unwrap();
        prop_assert_eq!(offsets.len(), texts.len() + 1);
        let own: Vec<&[u64]> = offsets.windows(2).map(|two| &hashes[two[0] as usize..two[1] as usize]).collect();
        for (a, text) in texts.iter().enumerate() {
            prop_assert_eq!(own[a].len(), naive_shingles(text, n).len());
            for (b, other) in texts.iter().enumerate() {
                let equal = naive_shingles(text, n) == naive_shingles(other, n);
                prop_assert_eq!(own[a] == own[b], equal);
            }
        }
    }

    #[test]
    fn groups_are_what_can_be_reached(keys in vec(0u64..12, 0..40)) {
        let rows = keys.len() / 2;
        let keys = &keys[..2 * rows];
        let meet = |a: usize, b: usize| keys[2 * a] == keys[2 * b] || keys[2 * a + 1] == keys[2 * b + 1];
        let mut naive: Vec<u32> = (0..rows as u32).collect();
        for _ in 0..rows {
            for a in 0..rows {
                for b in 0..rows {
                    if meet(a, b) {
                        naive[a] = naive[a].min(naive[b]);
                    }
                }
            }
        }
        prop_assert_eq!(groups(keys, 2).unwrap(), naive);
    }
}

#[test]
fn no_result_depends_on_threads() {
    let texts: Vec<String> =
        (0..900u64).map(|i| (0..40).map(|j| format!("w{} ", (i / 3 * 7 + j * j) % 97)).collect::<String>()).collect();
    let keys: Vec<u64> = (0..900).flat_map(|i| [i / 50, i / 7]).collect();
    let mut seen = Vec::new();
    for count in 1..=3 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
        seen.push(pool.install(|| {
            let table = Table::new(&texts[..60], &[0; 60], 5, 5, 10).unwrap();
            let copies = near_copies(&texts, &keys, 2, 5, 0.3).unwrap();
            (table.scan(&texts), copies, shingle_hashes(&texts, 5).unwrap())
        }));
    }
    assert!(!seen[0].0.is_empty() && !seen[0].1.is_empty());
    assert!(seen.windows(2).all(|two| two[0] == two[1]));
}

proptest! {
    #[test]
    fn word_hashes_tell_words_apart_and_keep_their_order(texts in vec(sentence(30), 0..8)) {
        let (hashes, offsets) = word_hashes(&texts);
        let each: Vec<Vec<&str>> = texts.iter().map(|text| small_words(text).collect()).collect();
        let counts: Vec<usize> = offsets.windows(2).map(|two| (two[1] - two[0]) as usize).collect();
        prop_assert_eq!(counts, each.iter().map(Vec::len).collect::<Vec<_>>());
        let words = each.concat();
        prop_assert_eq!(hashes.len(), words.len());
        for (i, one) in words.iter().enumerate() {
            for (j, other) in words.iter().enumerate() {
                prop_assert_eq!(one == other, hashes[i] == hashes[j]);
            }
        }
    }
}

// pinned: another hash would propose other pairs, and a run found in a store must be what a new one would be
#[test]
fn known_hashes() {
    let (hashes, offsets) = shingle_hashes(&["a patient with fever", "", "a patient with fever and more"], 5).unwrap();
    assert_eq!(offsets, [0, 1, 2, 4]);
    assert_eq!(hashes, [4297822932647383953, 0, 4619304849551126818, 8651972447998908836]);
    let (hashes, offsets) = word_hashes(&["体温 38", "..."]);
    assert_eq!(offsets, [0, 3, 3]);
    assert_eq!(hashes.len(), 3);
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    let error = |result: Result<Table, DiqError>| result.err().unwrap().to_string();
    assert!(error(Table::new(&["a"], &[], 1, 1, 1)).contains("benchmarks has 0 rows, but questions has 1"));
    assert!(error(Table::new(&["a", "b"], &[1, 0], 1, 1, 1)).contains("benchmarks must be ascending"));
    assert!(error(Table::new(&["a"], &[0], 0, 1, 1)).contains("n must be 1 or more"));
    assert!(error(Table::new(&["a"], &[0], 2, 3, 1)).contains("shortest must be in [1, n], got 3"));
    assert!(matches!(near_copies(&["a"], &[0], 1, 1, f64::NAN), Err(DiqError::OutOfRange { .. })));
    assert!(matches!(near_copies(&["a"], &[0, 0], 1, 1, 0.5), Err(DiqError::Length { .. })));
    assert!(matches!(groups(&[0], 0), Err(DiqError::Ragged { .. })));
    assert!(matches!(shingle_hashes(&["a"], 0), Err(DiqError::OutOfRange { .. })));
}
