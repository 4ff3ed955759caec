//! Philox4x32-10, a hash of a 64-bit key and a counter of four words: random words in any order, on any device.
//!
//! Source: Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.

use crate::simd::{Portable, Register};

/// Counters that are hashed at once.
pub const COUNTERS: usize = 16;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];

/// The keys of all ten rounds.
pub type Keys = [[u32; 2]; 10];

/// The random words of one counter: Philox4x32-10.
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    rounds(&keys(key), counter)
}

pub fn keys(key: u64) -> Keys {
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let [low, high] = [key as u32, (key >> 32) as u32];
    std::array::from_fn(|round| {
        let steps = round as u32;
        [low.wrapping_add(steps.wrapping_mul(WEYL[0])), high.wrapping_add(steps.wrapping_mul(WEYL[1]))]
    })
}

fn rounds(keys: &Keys, counter: [u32; 4]) -> [u32; 4] {
    keys.iter().fold(counter, |[a, b, c, d], key| {
        let first = u64::from(a) * u64::from(MULTIPLIERS[0]);
        let second = u64::from(c) * u64::from(MULTIPLIERS[1]);
        [(second >> 32) as u32 ^ b ^ key[0], second as u32, (first >> 32) as u32 ^ d ^ key[1], first as u32]
    })
}

/// A register whose instruction set hashes many counters at once. As unsafe as [`Register`].
pub trait Random: Register {
    /// The words of all counters; the first two words of counter `i` are the low and the high half of `counters[i]`.
    unsafe fn random(keys: &Keys, counters: &[u64; COUNTERS], last: [u32; 2], words: &mut [[u32; 4]; COUNTERS]);
}

impl Random for Portable {
    #[inline(always)]
    unsafe fn random(keys: &Keys, counters: &[u64; COUNTERS], last: [u32; 2], words: &mut [[u32; 4]; COUNTERS]) {
        for (words, &counter) in words.iter_mut().zip(counters) {
            *words = rounds(keys, [counter as u32, (counter >> 32) as u32, last[0], last[1]]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{COUNTERS, Keys, MULTIPLIERS, Random};
    use crate::simd::{Avx2, Avx512};

    /// Which counter goes into which lane, so that interleaving the words leaves the counters in order; the index is
    /// `register * lanes + lane`.
    const fn order<const LANES: usize>() -> [usize; COUNTERS] {
        let mut order = [0; COUNTERS];
        let mut i = 0;
        while i < COUNTERS {
            let (register, lane) = (i / LANES, i % LANES);
            order[i] = register * LANES + lane / 2 + lane % 2 * (LANES / 2);
            i += 1;
        }
        order
    }

    impl Random for Avx2 {
        #[inline(always)]
        unsafe fn random(keys: &Keys, counters: &[u64; COUNTERS], last: [u32; 2], words: &mut [[u32; 4]; COUNTERS]) {
            // SAFETY: the caller's promise is passed on; 16 counters are four registers of four, and their words 8 of
            // them.
            unsafe {
                const ORDER: [usize; COUNTERS] = order::<4>();
                let multipliers = MULTIPLIERS.map(|multiplier| _mm256_set1_epi64x(i64::from(multiplier)));
                for half in 0..2 {
                    let mut state = [[_mm256_setzero_si256(); 4]; 2];
                    for (register, state) in state.iter_mut().enumerate() {
                        let at = |lane: usize| counters[ORDER[half * 8 + register * 4 + lane]] as i64;
                        state[0] = _mm256_setr_epi64x(at(0), at(1), at(2), at(3));
                        state[1] = _mm256_srli_epi64::<32>(state[0]);
                        state[2] = _mm256_set1_epi32(last[0] as i32);
                        state[3] = _mm256_set1_epi32(last[1] as i32);
                    }
                    // only the low half of each lane counts; what is in the high half is never read
                    for key in keys {
                        let key = [_mm256_set1_epi32(key[0] as i32), _mm256_set1_epi32(key[1] as i32)];
                        for [a, b, c, d] in &mut state {
                            let first = _mm256_mul_epu32(*a, multipliers[0]);
                            let second = _mm256_mul_epu32(*c, multipliers[1]);

                            *a = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(second), *b), key[0]);
                            *c = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(first), *d), key[1]);
                            *b = second;
                            *d = first;
                        }
                    }
                    let to = words.as_mut_ptr().add(half * 8).cast::<__m256i>();
                    for (register, [a, b, c, d]) in state.into_iter().enumerate() {
                        let front = _mm256_blend_epi32::<0b1010_1010>(a, _mm256_slli_epi64::<32>(b));
                        let back = _mm256_blend_epi32::<0b1010_1010>(c, _mm256_slli_epi64::<32>(d));
                        _mm256_storeu_si256(to.add(register * 2), _mm256_unpacklo_epi64(front, back));
                        _mm256_storeu_si256(to.add(register * 2 + 1), _mm256_unpackhi_epi64(front, back));
                    }
                }
            }
        }
    }

    impl Random for Avx512 {
        #[inline(always)]
        unsafe fn random(keys: &Keys, counters: &[u64; COUNTERS], last: [u32; 2], words: &mut [[u32; 4]; COUNTERS]) {
            // SAFETY: the caller's promise is passed on; 16 counters are two registers of eight, and their words four.
            unsafe {
                const ORDER: [usize; COUNTERS] = order::<8>();
                let multipliers = MULTIPLIERS.map(|multiplier| _mm512_set1_epi64(i64::from(multiplier)));
                let mut state = [[_mm512_setzero_si512(); 4]; 2];
                for (register, state) in state.iter_mut().enumerate() {
                    let order = _mm512_loadu_epi64(ORDER.as_ptr().cast());
                    let values = _mm512_loadu_epi64(counters.as_ptr().add(register * 8).cast());
                    state[0] = _mm512_permutexvar_epi64(order, values);
                    state[1] = _mm512_srli_epi64::<32>(state[0]);
                    state[2] = _mm512_set1_epi32(last[0] as i32);
                    state[3] = _mm512_set1_epi32(last[1] as i32);
                }
                // only the low half of each lane counts; what is in the high half is never read
                for key in keys {
                    let key = [_mm512_set1_epi32(key[0] as i32), _mm512_set1_epi32(key[1] as i32)];
                    for [a, b, c, d] in &mut state {
                        const XOR: i32 = 0b1001_0110;
                        let first = _mm512_mul_epu32(*a, multipliers[0]);
                        let second = _mm512_mul_epu32(*c, multipliers[1]);

                        *a = _mm512_ternarylogic_epi32::<XOR>(_mm512_srli_epi64::<32>(second), *b, key[0]);
                        *c = _mm512_ternarylogic_epi32::<XOR>(_mm512_srli_epi64::<32>(first), *d, key[1]);
                        *b = second;
                        *d = first;
                    }
                }
                let to = words.as_mut_ptr().cast::<__m512i>();
                for (register, [a, b, c, d]) in state.into_iter().enumerate() {
                    const HIGH: __mmask16 = 0b1010_1010_1010_1010;
                    const LOW_TWICE: i32 = 0b10_10_00_00;
                    let front = _mm512_mask_shuffle_epi32::<LOW_TWICE>(a, HIGH, b);
                    let back = _mm512_mask_shuffle_epi32::<LOW_TWICE>(c, HIGH, d);
                    _mm512_storeu_si512(to.add(register * 2), _mm512_unpacklo_epi64(front, back));
                    _mm512_storeu_si512(to.add(register * 2 + 1), _mm512_unpackhi_epi64(front, back));
                }
            }
        }
    }
}
