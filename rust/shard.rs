//! Gradient shards: safetensors files with a tensor `gradients`, read by memory map, and perhaps a `scale` for each
//! row.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};

use crate::error::DiqError;

/// Name of the tensor that holds the gradients.
pub const TENSOR: &str = "gradients";
/// Name of the tensor that holds the factor of each row: F32, `[rows]`; integers need it, others may have it.
pub const SCALE: &str = "scale";

/// Element type of stored gradients, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single precision float.
    Bf16,
    /// Signed bytes; a row's numbers are these times its scale.
    I8,
}

impl Element {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::I8 => 1,
        }
    }
}

/// A mapped shard: `gradients`, `[rows, dim]`, row-major, each row times its `scale` where there is one.
///
/// The file must not change while it is mapped. Shards appear by atomic rename and are never written again, so this
/// holds for every file of a gradient index.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    data: Range<usize>,
    rows: usize,
    dim: usize,
    element: Element,
    scale: Option<Vec<f32>>,
}

impl Shard {
    /// Maps a shard, checks its header and reads its `scale`; no gradient is read yet.
    ///
    /// # Errors
    /// [`DiqError::Io`] when the file cannot be opened; [`DiqError::ShardTruncated`] when its size is not what its
    /// header announces; [`DiqError::ShardCorrupt`] when its header is not one of safetensors;
    /// [`DiqError::ShardTensor`], [`DiqError::ShardShape`] and [`DiqError::ShardDtype`] when it holds something else
    /// than `gradients`, `[rows, dim]`, in F32, F16, BF16 or I8; [`DiqError::ShardScale`] and
    /// [`DiqError::ShardUnscaled`] when its `scale` is not F32, `[rows]`, or is missing where the gradients are I8.
    pub fn open(path: impl AsRef<Path>) -> Result<Shard, DiqError> {
        let path = path.as_ref().to_path_buf();
        let io = |source| DiqError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the map is read-only and private to this value; that nobody changes the file meanwhile is the
        // documented contract of shards.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        // only a hint for the read-ahead, so its failure changes nothing
        #[cfg(unix)]
        map.advise(memmap2::Advice::Sequential).ok();

        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| match error {
            SafeTensorError::HeaderTooSmall
            | SafeTensorError::InvalidHeaderLength
            | SafeTensorError::MetadataIncompleteBuffer => {
                DiqError::ShardTruncated { path: path.clone(), bytes: map.len() }
            }
            error => DiqError::ShardCorrupt { path: path.clone(), reason: error.to_string() },
        })?;
        let Some(info) = metadata.info(TENSOR) else {
            let mut names = metadata.offset_keys();
            names.sort();
            return Err(DiqError::ShardTensor { path, found: names.join(", ") });
        };
        let &[rows, dim] = info.shape.as_slice() else {
            return Err(DiqError::ShardShape { path, found: info.shape.clone() });
        };
        let element = match info.dtype {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            Dtype::I8 => Element::I8,
            other => return Err(DiqError::ShardDtype { path, found: other.to_string() }),
        };
        // the data starts behind the length of the header, 8 bytes, and the header
        let start = 8 + header;
        let data = start + info.data_offsets.0..start + info.data_offsets.1;
        let scale = match metadata.info(SCALE) {
            Some(scale) if scale.dtype == Dtype::F32 && scale.shape == [rows] => {
                let bytes = &map[start + scale.data_offsets.0..start + scale.data_offsets.1];
                Some(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
            }
            Some(scale) => {
                let found = format!("{} of shape {:?}", scale.dtype, scale.shape);
                return Err(DiqError::ShardScale { path, rows, found });
            }
            None if element == Element::I8 => return Err(DiqError::ShardUnscaled { path, rows }),
            None => None,
        };
        Ok(Shard { path, map, data, rows, dim, element, scale })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of samples.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers a gradient.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Element type on disk.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Factor of each row, of which there are as many as samples.
    pub fn scale(&self) -> Option<&[f32]> {
        self.scale.as_deref()
    }

    /// All gradients as stored, not scaled: `rows * dim` elements, row-major, of no particular alignment.
    pub fn data(&self) -> &[u8] {
        &self.map[self.data.clone()]
    }
}
