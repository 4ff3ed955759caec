//! The numeric core of DIQ: which samples come first, and what their gradients say.
//!
//! | module | holds |
//! | --- | --- |
//! | [`column`] | columns of scores in several pieces, with nulls, borrowed |
//! | [`key`] | order-preserving integer keys of float scores |
//! | [`quantile`] | exact quantiles by selection |
//! | [`quadrant`] | the quadrant of a sample from its dot and its difficulty |
//! | [`rank`] | the ranking, or only its first rows |
//! | [`shard`] | gradient shards on disk, memory-mapped |
//! | [`dot`] | dots of a mapped shard with a few vectors |
//! | [`projection`] | random projections of gradients, their matrices made on the fly |
//! | [`ngram`] | words that texts share: benchmark questions in training texts, near copies |
//! | [`crossfilter`] | histograms of many columns under filters, in one pass |
//! | [`hash`] | content hashes: sample ids and file hashes |
//! | [`ids`] | which row a sample id belongs to |
//! | [`turns`] | one order out of several lists that take turns |
//! | [`error`] | everything that can go wrong |
//!
//! [`dot`] and [`projection`] run on the instructions of the processor at hand: `simd.rs` holds the registers that their
//! kernels are written over, `dense.rs`, `sketch.rs` and `philox.rs` the kernels of the projections.
//!
//! Nothing here knows of Python; `python.rs`, behind the feature `python`, is the only file that does. Work is spread
//! over the current rayon pool, and no result depends on how many threads that pool has.

// safetensors files are little-endian, and mapped gradients are read as they are
#[cfg(target_endian = "big")]
compile_error!("diq-core reads little-endian files in place, and needs a little-endian processor");

pub mod column;
pub mod crossfilter;
mod dense;
pub mod dot;
pub mod error;
pub mod hash;
pub mod ids;
pub mod key;
pub mod ngram;
mod philox;
pub mod projection;
pub mod quadrant;
pub mod quantile;
pub mod rank;
pub mod shard;
mod simd;
mod sketch;
pub mod turns;

#[cfg(feature = "python")]
mod python;
