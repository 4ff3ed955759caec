//! Words that texts share: runs of a benchmark's questions in training texts ([`Table`]), and near copies of texts
//! ([`shingle_hashes`], [`groups`], [`near_copies`]).
//!
//! Texts come normalised (NFKC, case folded); a word is a maximal run of alphanumeric characters. Hashes only propose:
//! whatever is reported was compared word by word, so no collision can exclude a sample.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use rayon::prelude::*;

use crate::error::DiqError;

/// A hash of few instructions for the lookups of every word; maps compare their keys, so it decides nothing but speed.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.write_u64(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
        let mut last = [0; 8];
        last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.write_u64(u64::from_le_bytes(last));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn finish(&self) -> u64 {
        mixed(self.0)
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// Every bit of the result depends on every bit of `x`: the finalizer of splitmix64 (Steele, Lea and Flood, 2014).
fn mixed(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

/// The words of a text: its maximal runs of alphanumeric characters (Unicode Alphabetic, Nd, Nl, No).
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// Whether a character is of a script that puts no spaces between words, so that a run of them is no word.
fn stands_alone(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{fff}'        // Thai, Lao, Tibetan
        | '\u{1000}'..='\u{109f}'    // Myanmar
        | '\u{1780}'..='\u{17ff}'    // Khmer
        | '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}' // kana
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// The words of a text for its shingles: as [`words`], but each character of a script without spaces is one.
pub fn small_words(text: &str) -> impl Iterator<Item = &str> {
    words(text).flat_map(|word| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let first = rest.chars().next()?;
            let end = if rest.is_ascii() {
                rest.len()
            } else if stands_alone(first) {
                first.len_utf8()
            } else {
                rest.find(stands_alone).unwrap_or(rest.len())
            };
            let (piece, after) = rest.split_at(end);
            rest = after;
            Some(piece)
        })
    })
}

/// Numbers for things, in the order of their first appearance.
fn number_of<'a>(numbers: &mut Map<&'a str, u32>, word: &'a str) -> u32 {
    let next = numbers.len() as u32;
    *numbers.entry(word).or_insert(next)
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Checked {
    /// Some run of its words is looked for.
    Yes = 0,
    /// It has too few words.
    TooShort = 1,
    /// Every run of its words is common to many questions.
    TooCommon = 2,
}

/// A question that shares a run of words with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Row of the text.
    pub row: usize,
    /// Number of the question.
    pub question: usize,
    /// Words of the question that lie in shared runs.
    pub shared: usize,
    /// Words of the question.
    pub total: usize,
    /// The first shared run of the question, one space between two words.
    pub run: String,
}

/// The runs of `n` words of many questions, to be looked for in texts.
///
/// A question of fewer than `n` words, but at least `shortest`, is one run itself; a shorter one has none. Runs that
/// many questions have are boilerplate and not looked for: those in more than `most` different questions, or in more
/// than half of the different questions of one benchmark (and in two at least).
pub struct Table {
    numbers: HashMap<String, u32, BuildHasherDefault<Quick>>,
    words: Vec<String>,
    /// words of each question
    questions: Vec<Vec<u32>>,
    n: usize,
    /// run to the questions that have it, ascending; of equal questions the first
    runs: Map<Box<[u32]>, Vec<u32>>,
    /// lengths of runs
    lengths: Vec<usize>,
    /// what became of each question
    pub checked: Vec<Checked>,
    /// different runs that are boilerplate
    pub n_ignored: usize,
}

/// How many questions have a run.
#[derive(Default)]
struct Count {
    total: u32,
    /// number of the question that was counted last, plus one
    counted: u32,
    benchmark: u32,
    in_benchmark: u32,
    common: bool,
}

impl Table {
    /// `questions`: normalised texts. `benchmarks`: the benchmark of each, not descending.
    ///
    /// # Errors
    /// [`DiqError::Length`] when the two differ in length; [`DiqError::OutOfRange`] for descending `benchmarks`, or
    /// when `n` or `shortest` is 0 or `shortest` is above `n`.
    pub fn new<T: AsRef<str>>(
        questions: &[T],
        benchmarks: &[u32],
        n: usize,
        shortest: usize,
        most: u32,
    ) -> Result<Table, DiqError> {
        if benchmarks.len() != questions.len() {
            let (found, expected) = (benchmarks.len(), questions.len());
            return Err(DiqError::Length { argument: "benchmarks", found, other: "questions", expected });
        }
        if !benchmarks.is_sorted() {
            let found = "a descending pair".to_owned();
            return Err(DiqError::OutOfRange { argument: "benchmarks", allowed: "ascending", found });
        }
        check_n(n)?;
        if !(1..=n).contains(&shortest) {
            return Err(DiqError::OutOfRange {
                argument: "shortest",
                allowed: "in [1, n]",
                found: shortest.to_string(),
            });
        }
        let mut numbers = Map::default();
        let questions: Vec<Vec<u32>> = questions
            .iter()
            .map(|text| words(text.as_ref()).map(|word| number_of(&mut numbers, word)).collect())
            .collect();

        let runs_of = |question: &[u32]| (question.len() >= shortest).then(|| question.len().min(n));
        let mut counts: Map<&[u32], Count> = Map::default();
        for question in &questions {
            for run in runs_of(question).into_iter().flat_map(|length| question.windows(length)) {
                counts.entry(run).or_default();
            }
        }
        let lengths: Vec<usize> = counts.keys().map(|run| run.len()).collect::<HashSet<_>>().into_iter().collect();

        // a question that is there twice, in one benchmark or in two, tells nothing about boilerplate
        let mut different = HashSet::new();
        let per_benchmark: HashSet<(u32, &[u32])> =
            benchmarks.iter().zip(&questions).map(|(&benchmark, question)| (benchmark, question.as_slice())).collect();
        let mut sizes: HashMap<u32, u32> = HashMap::new();
        for (benchmark, _) in &per_benchmark {
            *sizes.entry(*benchmark).or_default() += 1;
        }
        let mut met = HashSet::new();
        for ((&benchmark, question), stamp) in benchmarks.iter().zip(&questions).zip(1..) {
            if !met.insert((benchmark, question.as_slice())) {
                continue;
            }
            let new = different.insert(question.as_slice());
            let half = (sizes[&benchmark] / 2).max(1);
            for run in lengths.iter().flat_map(|&length| question.windows(length)) {
                let Some(count) = counts.get_mut(run) else { continue };
                if count.counted == stamp {
                    continue;
                }
                if count.counted == 0 || count.benchmark != benchmark {
                    (count.benchmark, count.in_benchmark) = (benchmark, 0);
                }
                count.counted = stamp;
                count.total += u32::from(new);
                count.in_benchmark += 1;
                count.common |= count.total > most || count.in_benchmark > half;
            }
        }

        let mut runs: Map<Box<[u32]>, Vec<u32>> = Map::default();
        let mut checked = Vec::with_capacity(questions.len());
        different.clear();
        for (question, number) in questions.iter().zip(0..) {
            let Some(length) = runs_of(question) else {
                checked.push(Checked::TooShort);
                continue;
            };
            let first = different.insert(question.as_slice());
            let mut any = false;
            for run in question.windows(length).filter(|&run| !counts[run].common) {
                any = true;
                // a short question is also a run of longer ones
                let owners = runs.entry(run.into()).or_default();
                if first && owners.last() != Some(&number) {
                    owners.push(number);
                }
            }
            checked.push(if any { Checked::Yes } else { Checked::TooCommon });
        }
        let n_ignored = counts.values().filter(|count| count.common).count();
        let mut names = vec![String::new(); numbers.len()];
        numbers.iter().for_each(|(&word, &number)| names[number as usize] = word.to_owned());
        let numbers = numbers.into_iter().map(|(word, number)| (word.to_owned(), number)).collect();
        Ok(Table { numbers, words: names, questions, n, runs, lengths, checked, n_ignored })
    }

    /// Different runs that are looked for.
    pub fn n_runs(&self) -> usize {
        self.runs.len()
    }

    /// The question of which each text shares the largest part (the first of equal parts), where it shares any run.
    pub fn scan<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<Match> {
        texts.par_iter().enumerate().filter_map(|(row, text)| self.best(row, text.as_ref())).collect()
    }

    fn best(&self, row: usize, text: &str) -> Option<Match> {
        let mut known: Vec<u32> = Vec::new();
        let mut shared: Map<&[u32], ()> = Map::default();
        let mut met: Vec<u32> = Vec::new();
        for word in words(text) {
            let Some(&number) = self.numbers.get(word) else {
                known.clear();
                continue;
            };
            known.push(number);
            for &length in self.lengths.iter().filter(|&&length| length <= known.len()) {
                if let Some((run, questions)) = self.runs.get_key_value(&known[known.len() - length..]) {
                    shared.insert(run, ());
                    met.extend(questions);
                }
            }
        }
        met.sort_unstable();
        met.dedup();
        let parts = met.into_iter().map(|question| {
            let all = &self.questions[question as usize];
            let length = all.len().min(self.n);
            let (mut words, mut end, mut first) = (0, 0, None);
            for (start, run) in all.windows(length).enumerate().filter(|(_, run)| shared.contains_key(run)) {
                words += start + length - end.max(start);
                end = start + length;
                first = first.or(Some(run));
            }
            (question, words, all.len(), first)
        });
        let (question, shared, total, first) =
            parts.reduce(|a, b| if b.1 as u64 * a.2 as u64 > a.1 as u64 * b.2 as u64 { b } else { a })?;
        let run: Vec<&str> = first?.iter().map(|&number| self.words[number as usize].as_str()).collect();
        Some(Match { row, question: question as usize, shared, total, run: run.join(" ") })
    }
}

fn check_n(n: usize) -> Result<(), DiqError> {
    if n == 0 {
        return Err(DiqError::OutOfRange { argument: "n", allowed: "1 or more", found: n.to_string() });
    }
    Ok(())
}

/// The words of a text, or the text itself where it has none, so that every text has a shingle.
fn words_or_text(text: &str) -> Vec<&str> {
    let found: Vec<&str> = small_words(text).collect();
    if found.is_empty() { vec![text] } else { found }
}

/// Hashes of the different shingles (runs of `n` [`small_words`]; all of a shorter text) of each text, ascending.
///
/// Returns the hashes of all texts, one text after the other, and `texts.len() + 1` offsets. The same hashes in every
/// process, on every machine.
///
/// # Errors
/// [`DiqError::OutOfRange`] when `n` is 0.
pub fn shingle_hashes<T: AsRef<str> + Sync>(texts: &[T], n: usize) -> Result<(Vec<u64>, Vec<u64>), DiqError> {
    check_n(n)?;
    let each: Vec<Vec<u64>> = texts
        .par_iter()
        .map(|text| {
            let hashed: Vec<u64> = words_or_text(text.as_ref()).into_iter().map(hash_of).collect();
            let mut found: Vec<u64> = hashed
                .windows(n.min(hashed.len()))
                .map(|run| {
                    let mut hasher = Quick::default();
                    run.iter().for_each(|&word| hasher.write_u64(word));
                    hasher.finish()
                })
                .collect();
            found.sort_unstable();
            found.dedup();
            found
        })
        .collect();
    Ok(joined(&each))
}

/// Hashes of the [`small_words`] of each text in their order, repeats included; none for a text without a word.
///
/// Returns and promises as [`shingle_hashes`].
pub fn word_hashes<T: AsRef<str> + Sync>(texts: &[T]) -> (Vec<u64>, Vec<u64>) {
    let each: Vec<Vec<u64>> = texts.par_iter().map(|text| small_words(text.as_ref()).map(hash_of).collect()).collect();
    joined(&each)
}

fn hash_of(word: &str) -> u64 {
    let mut hasher = Quick::default();
    hasher.write(word.as_bytes());
    hasher.write_usize(word.len());
    hasher.finish()
}

/// All hashes, and where those of each text begin; the last offset is their number.
fn joined(each: &[Vec<u64>]) -> (Vec<u64>, Vec<u64>) {
    let mut offsets = Vec::with_capacity(each.len() + 1);
    offsets.push(0);
    offsets.extend(each.iter().scan(0, |total, hashes| {
        *total += hashes.len() as u64;
        Some(*total)
    }));
    (each.concat(), offsets)
}

/// The group of each row: the first row that it is connected with by equal keys in equal columns.
///
/// `keys`: `[rows, bands]`, row-major. O(rows * bands) time, about 40 bytes a row of scratch.
///
/// # Errors
/// [`DiqError::Ragged`] when `keys` is not a multiple of `bands`, [`DiqError::TooManyRows`] beyond 32 bits.
pub fn groups(keys: &[u64], bands: usize) -> Result<Vec<u32>, DiqError> {
    let rows = rows_of(keys, bands)?;
    let mut parents: Vec<u32> = (0..rows as u32).collect();
    // roots are first rows, since the later root always hangs below the earlier
    fn root(parents: &mut [u32], mut row: u32) -> u32 {
        while parents[row as usize] != row {
            parents[row as usize] = parents[parents[row as usize] as usize];
            row = parents[row as usize];
        }
        row
    }
    for band in 0..bands {
        let mut first: Map<u64, u32> = Map::default();
        for (row, key) in (0..rows as u32).zip(keys.iter().skip(band).step_by(bands)) {
            let other = *first.entry(*key).or_insert(row);
            let (a, b) = (root(&mut parents, row), root(&mut parents, other));
            parents[a.max(b) as usize] = a.min(b);
        }
    }
    Ok((0..rows as u32).map(|row| root(&mut parents, row)).collect())
}

fn rows_of(keys: &[u64], bands: usize) -> Result<usize, DiqError> {
    if bands == 0 || !keys.len().is_multiple_of(bands) {
        return Err(DiqError::Ragged { argument: "keys", len: keys.len(), rows: bands });
    }
    let rows = keys.len() / bands;
    if rows > u32::MAX as usize {
        return Err(DiqError::TooManyRows { rows });
    }
    Ok(rows)
}

/// A text that repeats an earlier one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NearCopy {
    /// Its row.
    pub row: usize,
    /// The first kept row that it repeats.
    pub kept: usize,
    /// Jaccard similarity of their shingle sets.
    pub similarity: f64,
}

/// Rows in turn: one is dropped when the exact Jaccard similarity of its shingle set with that of an earlier kept row
/// is `threshold` or more; only rows that share a key in one column are compared.
///
/// `texts`: normalised. `keys`: `[texts, bands]`, row-major. Shingles as in [`shingle_hashes`], but compared as words.
/// A pair is compared in full only where the places of its rarest shared shingle leave room for enough shared ones, so
/// that texts of one template cost little.
///
/// Source: Xiao, Wang, Lin and Yu (2008), Efficient similarity joins for near duplicate detection (PPJoin).
///
/// # Errors
/// [`DiqError::OutOfRange`] when `n` is 0 or `threshold` not in (0, 1]; [`DiqError::Ragged`], [`DiqError::Length`] when
/// `keys` does not fit `texts`.
pub fn near_copies<T: AsRef<str>>(
    texts: &[T],
    keys: &[u64],
    bands: usize,
    n: usize,
    threshold: f64,
) -> Result<Vec<NearCopy>, DiqError> {
    check_n(n)?;
    if !(threshold > 0.0 && threshold <= 1.0) {
        let found = threshold.to_string();
        return Err(DiqError::OutOfRange { argument: "threshold", allowed: "in (0, 1]", found });
    }
    let rows = rows_of(keys, bands)?;
    if rows != texts.len() {
        return Err(DiqError::Length { argument: "keys", found: rows, other: "texts", expected: texts.len() });
    }
    let sets = shingle_sets(texts, n);
    let own = |row: usize| &keys[row * bands..][..bands];
    // the rarest shingles of each kept row: a template's, which all of its texts have, are hardly ever among them
    let mut kept: Map<u32, Vec<Place>> = Map::default();
    let mut copies = Vec::new();
    for (row, set) in sets.iter().enumerate() {
        let size = set.len();
        // what follows is all that can be shared with a set that has none of the shingles before
        let rarest = || set.iter().enumerate().take_while(|(at, _)| part(size - at, size, size - at) >= threshold);
        let mut candidates: Vec<u32> = Vec::new();
        for (at, shingle) in rarest() {
            let places = kept.get(shingle).map_or(&[][..], Vec::as_slice);
            let possible = places
                .iter()
                .filter(|other| part((size - at).min(other.left as usize), size, other.size as usize) >= threshold);
            candidates.extend(possible.map(|other| other.row));
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|&other| own(row).iter().zip(own(other as usize)).any(|(a, b)| a == b));
        let found = candidates.par_iter().with_min_len(256).find_map_first(|&other| {
            let other = other as usize;
            let similarity = jaccard(set, &sets[other]);
            (similarity >= threshold).then_some(NearCopy { row, kept: other, similarity })
        });
        match found {
            Some(copy) => copies.push(copy),
            None => {
                for (at, shingle) in rarest() {
                    let place = Place { row: row as u32, size: size as u32, left: (size - at) as u32 };
                    kept.entry(*shingle).or_default().push(place);
                }
            }
        }
    }
    Ok(copies)
}

/// Where a kept set has a shingle.
struct Place {
    row: u32,
    size: u32,
    /// shingles of the set from this one on
    left: u32,
}

/// The shingles of each text as numbers, ascending; equal numbers are equal words, and smaller ones are in fewer texts.
fn shingle_sets<T: AsRef<str>>(texts: &[T], n: usize) -> Vec<Vec<u32>> {
    let mut numbers = Map::default();
    let mut shingles: Map<Box<[u32]>, u32> = Map::default();
    let mut counts: Vec<u32> = Vec::new();
    let mut sets: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| {
            let numbered: Vec<u32> =
                words_or_text(text.as_ref()).into_iter().map(|word| number_of(&mut numbers, word)).collect();
            let mut set = Vec::with_capacity(numbered.len());
            for run in numbered.windows(n.min(numbered.len())) {
                let next = shingles.len() as u32;
                set.push(match shingles.get(run) {
                    Some(&number) => number,
                    None => *shingles.entry(run.into()).or_insert(next),
                });
            }
            set.sort_unstable();
            set.dedup();
            counts.resize(shingles.len(), 0);
            set.iter().for_each(|&number| counts[number as usize] += 1);
            set
        })
        .collect();
    let mut rarest: Vec<u32> = (0..counts.len() as u32).collect();
    rarest.sort_unstable_by_key(|&number| (counts[number as usize], number));
    let mut ranks = vec![0; rarest.len()];
    rarest.iter().zip(0..).for_each(|(&number, rank)| ranks[number as usize] = rank);
    sets.par_iter_mut().for_each(|set| {
        set.iter_mut().for_each(|number| *number = ranks[*number as usize]);
        set.sort_unstable();
    });
    sets
}

/// The Jaccard similarity of sets of two sizes that share so many members.
fn part(shared: usize, a: usize, b: usize) -> f64 {
    shared as f64 / (a + b - shared) as f64
}

/// The Jaccard similarity of two ascending sets.
fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        shared += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    part(shared, a.len(), b.len())
}
