//! Registers of neighbouring float32 lanes, one for each instruction set.
//!
//! A kernel is written once, over any [`Register`], with everything in it inlined. For each set there is a function that
//! has its instructions (`target_feature`) and calls the kernel with the register of the set, so all of the kernel is
//! compiled for it. [`InstructionSet::fastest`] chooses between these functions.

/// Numbers of a line of the cache, and lanes of the widest register.
pub const LINE: usize = 16;

/// One line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [f32; LINE]);

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug)]
pub enum InstructionSet {
    /// Every processor has what [`Portable`] needs.
    Portable,
    /// "avx2,f16c,fma", for [`Avx2`].
    #[cfg(target_arch = "x86_64")]
    Avx2(Detected),
    /// "avx512f,avx512bw", for [`Avx512`].
    #[cfg(target_arch = "x86_64")]
    Avx512(Detected),
}

/// Proof of having looked; nobody else can make one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Detected(());

impl InstructionSet {
    /// All that this processor has, the fastest first; kernels give the same bits with each.
    pub fn all() -> impl Iterator<Item = InstructionSet> {
        [
            #[cfg(target_arch = "x86_64")]
            (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"))
                .then_some(InstructionSet::Avx512(Detected(()))),
            #[cfg(target_arch = "x86_64")]
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") && is_x86_feature_detected!("fma"))
                .then_some(InstructionSet::Avx2(Detected(()))),
            Some(InstructionSet::Portable),
        ]
        .into_iter()
        .flatten()
    }

    /// The set that kernels run on.
    pub fn fastest() -> InstructionSet {
        InstructionSet::all().next().unwrap_or(InstructionSet::Portable)
    }
}

/// Some neighbouring lanes. Widening is exact and a product is rounded with its sum, so all registers compute the same.
///
/// Every function is unsafe for the same two reasons: the processor must have the register's instructions, and pointers
/// must be valid for `WIDTH` elements (of any alignment).
pub trait Register: Copy {
    /// A divisor of [`LINE`].
    const WIDTH: usize;
    unsafe fn zero() -> Self;
    /// The number in all lanes.
    unsafe fn splat(number: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_f16(from: *const u8) -> Self;
    unsafe fn load_bf16(from: *const u8) -> Self;
    unsafe fn load_i8(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Asks for the cache line at an address, which may lie anywhere; only a hint.
    unsafe fn prefetch(_line: *const u8) {}
    unsafe fn add(self, other: Self) -> Self;
    /// `self + a * b`, rounded once.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
}

/// Lanes without any instruction in mind.
#[derive(Clone, Copy)]
pub struct Portable(pub [f32; 8]);

impl Portable {
    /// # Safety
    /// As for [`Register`].
    #[inline(always)]
    unsafe fn widen<const BYTES: usize>(from: *const u8, widen: impl Fn([u8; BYTES]) -> f32) -> Portable {
        // SAFETY: the caller promises WIDTH elements; bytes need no alignment.
        let elements = unsafe { from.cast::<[[u8; BYTES]; Self::WIDTH]>().read() };
        Portable(elements.map(widen))
    }
}

impl Register for Portable {
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Portable {
        Portable([0.0; 8])
    }

    #[inline(always)]
    unsafe fn splat(number: f32) -> Portable {
        Portable([number; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Portable {
        // SAFETY: the caller promises WIDTH elements.
        Portable(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Portable {
        // SAFETY: the caller's promise is passed on.
        unsafe { Portable::widen(from, |bytes| half::f16::from_le_bytes(bytes).to_f32()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Portable {
        // SAFETY: the caller's promise is passed on.
        unsafe { Portable::widen(from, |bytes| half::bf16::from_le_bytes(bytes).to_f32()) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Portable {
        // SAFETY: the caller's promise is passed on.
        unsafe { Portable::widen(from, |bytes| f32::from(i8::from_le_bytes(bytes))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises WIDTH elements.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Portable) -> Portable {
        Portable(std::array::from_fn(|lane| self.0[lane] + other.0[lane]))
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Portable, b: Portable) -> Portable {
        Portable(std::array::from_fn(|lane| a.0[lane].mul_add(b.0[lane], self.0[lane])))
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Register;

    /// Eight lanes; needs "avx2,f16c,fma".
    #[derive(Clone, Copy)]
    pub struct Avx2(pub __m256);

    impl Register for Avx2 {
        const WIDTH: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_setzero_ps()) }
        }

        #[inline(always)]
        unsafe fn splat(number: f32) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_set1_ps(number)) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_loadu_ps(from)) }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const u8) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const u8) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
            }
        }

        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise is passed on.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn prefetch(line: *const u8) {
            // SAFETY: the caller's promise is passed on; a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Avx2) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_add_ps(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Avx2, b: Avx2) -> Avx2 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx2(_mm256_fmadd_ps(a.0, b.0, self.0)) }
        }
    }

    /// Sixteen lanes; needs "avx512f,avx512bw".
    #[derive(Clone, Copy)]
    pub struct Avx512(pub __m512);

    impl Register for Avx512 {
        const WIDTH: usize = 16;

        #[inline(always)]
        unsafe fn zero() -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_setzero_ps()) }
        }

        #[inline(always)]
        unsafe fn splat(number: f32) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_set1_ps(number)) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_loadu_ps(from)) }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const u8) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const u8) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
            }
        }

        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise is passed on.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn prefetch(line: *const u8) {
            // SAFETY: the caller's promise is passed on; a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Avx512) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Avx512, b: Avx512) -> Avx512 {
            // SAFETY: the caller's promise is passed on.
            unsafe { Avx512(_mm512_fmadd_ps(a.0, b.0, self.0)) }
        }
    }
}
