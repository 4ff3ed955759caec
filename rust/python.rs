//! The module `diq._core`: the core for Python. Arrays are borrowed, never copied, and other Python threads run while
//! the core works, so the caller must not write to them meanwhile. Signatures: `python/diq/_core.pyi`.

use std::path::PathBuf;

use numpy::{
    BorrowError, Element, IntoPyArray, PyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray, PyReadonlyArray1,
    PyReadwriteArray2, PyUntypedArray, PyUntypedArrayMethods,
    ndarray::{Dimension, Ix1, Ix2, Ix3},
};
use pyo3::exceptions::{PyOSError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyList, PyTuple};

use crate::column;
use crate::error::DiqError;
use crate::key::Score;
use crate::rank::{Cut, Ratio};
use crate::{
    crossfilter as cross, dot, hash, ids, ngram, projection, quantile as quantiles, rank as ranks, shard, turns,
};

impl From<DiqError> for PyErr {
    fn from(error: DiqError) -> PyErr {
        let message = error.to_string();
        match error {
            // python picks the subclass (FileNotFoundError, PermissionError) by the number, and writes the path itself
            DiqError::Io { path, source } => match source.raw_os_error() {
                Some(number) => {
                    let reason = source.to_string();
                    let reason = reason.split(" (os error").next().unwrap_or_default().to_owned();
                    PyOSError::new_err((number, reason, path.into_os_string()))
                }
                None => PyOSError::new_err(message),
            },
            DiqError::Type { .. } => PyTypeError::new_err(message),
            DiqError::Empty { .. }
            | DiqError::NonFinite { .. }
            | DiqError::Length { .. }
            | DiqError::Ragged { .. }
            | DiqError::Offsets { .. }
            | DiqError::OutOfRange { .. }
            | DiqError::Validity { .. }
            | DiqError::TooManyRows { .. }
            | DiqError::Strided { .. }
            | DiqError::ReadOnly { .. }
            | DiqError::InUse { .. }
            | DiqError::Dimensions { .. }
            | DiqError::Dim { .. }
            | DiqError::ShardTruncated { .. }
            | DiqError::ShardCorrupt { .. }
            | DiqError::ShardTensor { .. }
            | DiqError::ShardShape { .. }
            | DiqError::ShardDtype { .. }
            | DiqError::ShardScale { .. }
            | DiqError::ShardUnscaled { .. } => PyValueError::new_err(message),
        }
    }
}

/// A borrowed piece of a column: values, and where there are nulls, the bitmap of those that are there, with the bit of
/// the first value.
struct Chunk<'py, T: Element> {
    values: PyReadonlyArray1<'py, T>,
    validity: Option<(PyReadonlyArray1<'py, u8>, usize)>,
}

/// A borrowed column of scores.
enum Column<'py> {
    F32(Vec<Chunk<'py, f32>>),
    F64(Vec<Chunk<'py, f64>>),
}

/// An array of `ndim` dimensions that can be borrowed as one slice in row-major order.
fn array<'a, 'py>(
    argument: &'static str,
    expected: &'static str,
    ndim: usize,
    value: &'a Bound<'py, PyAny>,
) -> Result<&'a Bound<'py, PyUntypedArray>, DiqError> {
    let Ok(array) = value.cast::<PyUntypedArray>() else {
        return Err(DiqError::Type { argument, expected, found: value.get_type().to_string() });
    };
    if array.ndim() != ndim {
        return Err(DiqError::Dimensions { argument, expected: ndim, found: array.ndim() });
    }
    if !array.is_c_contiguous() || !array.is_aligned() {
        return Err(DiqError::Strided { argument });
    }
    Ok(array)
}

/// A column: one array, or a list of chunks of one type, each an array or a tuple of array, bitmap and offset.
fn column<'py>(argument: &'static str, value: &Bound<'py, PyAny>) -> Result<Column<'py>, DiqError> {
    let chunks = match value.cast::<PyList>() {
        Ok(list) => list.iter().collect(),
        Err(_) => vec![value.clone()],
    };
    let Some(first) = chunks.first() else { return Ok(Column::F32(vec![])) };
    let values = first.cast::<PyTuple>().ok().and_then(|tuple| tuple.get_item(0).ok()).unwrap_or_else(|| first.clone());
    let expected = "a numpy array of float32 or float64";
    if values.cast::<PyArray1<f32>>().is_ok() {
        Ok(Column::F32(borrowed_chunks(argument, "a numpy array of float32", &chunks)?))
    } else if values.cast::<PyArray1<f64>>().is_ok() {
        Ok(Column::F64(borrowed_chunks(argument, "a numpy array of float64", &chunks)?))
    } else {
        let array = array(argument, expected, 1, &values)?;
        Err(DiqError::Type { argument, expected, found: array.dtype().to_string() })
    }
}

fn borrowed_chunks<'py, T: Element>(
    argument: &'static str,
    expected: &'static str,
    chunks: &[Bound<'py, PyAny>],
) -> Result<Vec<Chunk<'py, T>>, DiqError> {
    let chunk = |chunk: &Bound<'py, PyAny>| {
        let Ok(tuple) = chunk.cast::<PyTuple>() else {
            return Ok(Chunk { values: borrowed(argument, expected, chunk)?, validity: None });
        };
        let expected_tuple = "an array, or a tuple of array, validity bitmap and offset";
        let (values, bits, offset) = tuple
            .extract::<(Bound<'py, PyAny>, Bound<'py, PyAny>, usize)>()
            .map_err(|_| DiqError::Type { argument, expected: expected_tuple, found: tuple.to_string() })?;
        let bits = borrowed(argument, "a validity bitmap of uint8", &bits)?;
        Ok(Chunk { values: borrowed(argument, expected, &values)?, validity: Some((bits, offset)) })
    };
    chunks.iter().map(chunk).collect()
}

/// The borrowed chunks as the core knows them.
fn core_column<'a, T: Element + Score>(
    argument: &'static str,
    chunks: &'a [Chunk<'_, T>],
) -> Result<column::Column<'a, T>, DiqError> {
    let strided = |_| DiqError::Strided { argument };
    let chunk = |chunk: &'a Chunk<'_, T>| {
        let values = chunk.values.as_slice().map_err(strided)?;
        match &chunk.validity {
            None => Ok(column::Chunk::new(values)),
            Some((bits, offset)) => column::Chunk::with_validity(values, bits.as_slice().map_err(strided)?, *offset),
        }
    };
    chunks.iter().map(chunk).collect()
}

const F32: &str = "a numpy array of float32";
const U64: &str = "a numpy array of uint64";
const I64: &str = "a numpy array of int64";

/// A borrowed array of one element type, whose dimensions `D` counts.
fn borrowed<'py, T: Element, D: Dimension>(
    argument: &'static str,
    expected: &'static str,
    value: &Bound<'py, PyAny>,
) -> Result<PyReadonlyArray<'py, T, D>, DiqError> {
    let array = array(argument, expected, D::NDIM.unwrap_or_default(), value)?;
    let Ok(array) = value.cast::<PyArray<T, D>>() else {
        return Err(DiqError::Type { argument, expected, found: array.dtype().to_string() });
    };
    array.try_readonly().map_err(|_| DiqError::InUse { argument })
}

/// A matrix that is written in place.
fn written<'py>(argument: &'static str, value: &Bound<'py, PyAny>) -> Result<PyReadwriteArray2<'py, f32>, DiqError> {
    let array = array(argument, F32, 2, value)?;
    let Ok(array) = value.cast::<PyArray2<f32>>() else {
        return Err(DiqError::Type { argument, expected: F32, found: array.dtype().to_string() });
    };
    array.try_readwrite().map_err(|error| match error {
        BorrowError::NotWriteable => DiqError::ReadOnly { argument },
        _ => DiqError::InUse { argument },
    })
}

/// An integer of 64 bits.
fn unsigned(argument: &'static str, value: &Bound<'_, PyAny>) -> Result<u64, DiqError> {
    value.extract().map_err(|error: PyErr| {
        let found = value.to_string();
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            DiqError::OutOfRange { argument, allowed: "in [0, 2**64)", found }
        } else {
            DiqError::Type { argument, expected: "an integer", found }
        }
    })
}

fn key(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    Ok(unsigned("key", value)?)
}

fn first_row(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    Ok(unsigned("first_row", value)?)
}

/// Checks that each gradient has a row of `projected`.
fn check_rows(found: usize, expected: usize) -> Result<(), DiqError> {
    if found != expected {
        return Err(DiqError::Length { argument: "projected", found, other: "gradients", expected });
    }
    Ok(())
}

fn ratio(value: &Bound<'_, PyAny>) -> Result<Ratio, DiqError> {
    let found = || value.to_string();
    let (numerator, denominator) = value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            DiqError::OutOfRange { argument: "ratio", allowed: "in (0, 1], of integers below 2**64", found: found() }
        } else {
            DiqError::Type { argument: "ratio", expected: "a tuple of two integers", found: found() }
        }
    })?;
    Ratio::new(numerator, denominator)
}

#[pyfunction]
fn sample_ids(py: Python<'_>, texts: Vec<PyBackedStr>) -> Vec<String> {
    py.detach(|| hash::sample_ids(&texts))
}

#[pyfunction]
fn file_hash(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    Ok(py.detach(|| hash::file_hash(path))?)
}

#[pyfunction]
fn quantile(py: Python<'_>, values: &Bound<'_, PyAny>, q: f64) -> PyResult<f64> {
    Ok(match column("values", values)? {
        Column::F32(values) => {
            let values = core_column("values", &values)?;
            py.detach(|| quantiles::quantile_column(&values, q))
        }
        Column::F64(values) => {
            let values = core_column("values", &values)?;
            py.detach(|| quantiles::quantile_column(&values, q))
        }
    }?)
}

/// The first rows of a ranking, and what the order was made from.
#[pyclass(frozen, get_all, module = "diq._core")]
struct Ranking {
    rows: Py<PyArray1<i64>>,
    quadrant: Py<PyArray1<u8>>,
    tau: f64,
    median: f64,
    n_scored: usize,
    counts: (usize, usize, usize, usize),
}

#[pymethods]
impl Ranking {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (rows, Ranking { tau, median, n_scored, counts, .. }) = (self.rows.bind(py).as_any().len()?, self);
        Ok(format!("Ranking({rows} rows, tau={tau:?}, median={median:?}, n_scored={n_scored}, counts={counts:?})"))
    }
}

#[pyfunction]
#[pyo3(signature = (dot, difficulty, *, percentile = 0.5, threshold = None, ratio = None))]
fn rank(
    py: Python<'_>,
    dot: &Bound<'_, PyAny>,
    difficulty: &Bound<'_, PyAny>,
    percentile: f64,
    threshold: Option<f64>,
    ratio: Option<&Bound<'_, PyAny>>,
) -> PyResult<Ranking> {
    // checked even where a threshold replaces it: a wrong argument is never ignored
    quantiles::check_fraction("percentile", percentile)?;
    let cut = threshold.map_or(Cut::Percentile(percentile), Cut::Threshold);
    let ratio = ratio.map_or(Ok(Ratio::ALL), self::ratio)?;
    macro_rules! ranked {
        ($dot:expr, $difficulty:expr) => {{
            let dot = core_column("dot", &$dot)?;
            let difficulty = core_column("difficulty", &$difficulty)?;
            py.detach(|| ranks::rank_columns(&dot, &difficulty, cut, ratio))
        }};
    }
    let ranking = match (column("dot", dot)?, column("difficulty", difficulty)?) {
        (Column::F32(dot), Column::F32(difficulty)) => ranked!(dot, difficulty),
        (Column::F32(dot), Column::F64(difficulty)) => ranked!(dot, difficulty),
        (Column::F64(dot), Column::F32(difficulty)) => ranked!(dot, difficulty),
        (Column::F64(dot), Column::F64(difficulty)) => ranked!(dot, difficulty),
    }?;
    Ok(Ranking {
        rows: ranking.rows.into_pyarray(py).unbind(),
        quadrant: ranking.quadrant.into_pyarray(py).unbind(),
        tau: ranking.thresholds.tau,
        median: ranking.thresholds.median,
        n_scored: ranking.n_scored,
        counts: ranking.counts.into(),
    })
}

#[pyfunction]
#[pyo3(signature = (rows, ends, *, n))]
fn take_turns<'py>(
    py: Python<'py>,
    rows: &Bound<'py, PyAny>,
    ends: &Bound<'py, PyAny>,
    n: usize,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let rows = borrowed::<i64, Ix1>("rows", I64, rows)?;
    let ends = borrowed::<i64, Ix1>("ends", I64, ends)?;
    let rows = rows.as_slice().map_err(|_| DiqError::Strided { argument: "rows" })?;
    let ends = ends.as_slice().map_err(|_| DiqError::Strided { argument: "ends" })?;
    let order = py.detach(|| turns::take_turns(rows, ends, n))?;
    Ok(order.into_pyarray(py))
}

#[pyfunction]
fn shard_dots<'py>(py: Python<'py>, path: PathBuf, vectors: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let vectors = borrowed::<f32, Ix2>("vectors", F32, vectors)?;
    let [m, dim] = [vectors.shape()[0], vectors.shape()[1]];
    let numbers = vectors.as_slice().map_err(|_| DiqError::Strided { argument: "vectors" })?;
    let (rows, dots) = py.detach(|| {
        let shard = shard::Shard::open(&path)?;
        if dim != shard.dim() {
            return Err(DiqError::Dim { path, found: dim, expected: shard.dim() });
        }
        Ok((shard.rows(), dot::shard_dots(&shard, numbers, m)?))
    })?;
    dots.into_pyarray(py).reshape([rows, m])
}

#[pyfunction]
fn philox<'py>(
    py: Python<'py>,
    #[pyo3(from_py_with = key)] key: u64,
    counters: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray2<u32>>> {
    let counters = borrowed::<u32, Ix2>("counters", "a numpy array of uint32", counters)?;
    if counters.shape()[1] != 4 {
        let found = format!("{} columns", counters.shape()[1]);
        return Err(DiqError::OutOfRange { argument: "counters", allowed: "[n, 4]", found }.into());
    }
    let numbers = counters.as_slice().map_err(|_| DiqError::Strided { argument: "counters" })?;
    let words =
        numbers.as_chunks::<4>().0.iter().flat_map(|&counter| projection::philox(key, counter)).collect::<Vec<_>>();
    words.into_pyarray(py).reshape([counters.shape()[0], 4])
}

#[pyfunction]
#[pyo3(signature = (gradients, projected, *, key, first_row = 0))]
fn project_rademacher(
    py: Python<'_>,
    gradients: &Bound<'_, PyAny>,
    projected: &Bound<'_, PyAny>,
    #[pyo3(from_py_with = key)] key: u64,
    #[pyo3(from_py_with = first_row)] first_row: u64,
) -> PyResult<()> {
    let mut projected = written("projected", projected)?;
    let gradients = borrowed::<f32, Ix2>("gradients", F32, gradients)?;
    let n = gradients.shape()[0];
    check_rows(projected.shape()[0], n)?;
    let projected = projected.as_slice_mut().map_err(|_| DiqError::Strided { argument: "projected" })?;
    let gradients = gradients.as_slice().map_err(|_| DiqError::Strided { argument: "gradients" })?;
    Ok(py.detach(|| projection::project_rademacher(gradients, projected, n, key, first_row))?)
}

#[pyfunction]
#[pyo3(signature = (gradients, projected, *, key))]
fn sketch_matrices(
    py: Python<'_>,
    gradients: &Bound<'_, PyAny>,
    projected: &Bound<'_, PyAny>,
    #[pyo3(from_py_with = key)] key: u64,
) -> PyResult<()> {
    let mut projected = written("projected", projected)?;
    let gradients = borrowed::<f32, Ix3>("gradients", F32, gradients)?;
    let [n, out, inputs] = [0, 1, 2].map(|axis| gradients.shape()[axis]);
    check_rows(projected.shape()[0], n)?;
    let projected = projected.as_slice_mut().map_err(|_| DiqError::Strided { argument: "projected" })?;
    let gradients = gradients.as_slice().map_err(|_| DiqError::Strided { argument: "gradients" })?;
    Ok(py.detach(|| projection::sketch_matrices(gradients, [out, inputs], projected, n, key))?)
}

#[pyfunction]
#[pyo3(signature = (delta, x, offsets, projected, *, key))]
fn sketch_outer(
    py: Python<'_>,
    delta: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    projected: &Bound<'_, PyAny>,
    #[pyo3(from_py_with = key)] key: u64,
) -> PyResult<()> {
    let mut projected = written("projected", projected)?;
    let delta = borrowed::<f32, Ix2>("delta", F32, delta)?;
    let x = borrowed::<f32, Ix2>("x", F32, x)?;
    let offsets = borrowed::<i64, Ix1>("offsets", "a numpy array of int64", offsets)?;
    let [tokens, out, inputs] = [delta.shape()[0], delta.shape()[1], x.shape()[1]];
    if x.shape()[0] != tokens {
        let found = x.shape()[0];
        return Err(DiqError::Length { argument: "x", found, other: "delta", expected: tokens }.into());
    }
    let offsets = offsets.as_slice().map_err(|_| DiqError::Strided { argument: "offsets" })?;
    if offsets.len() != projected.shape()[0] + 1 {
        let found = format!("{} offsets for {} rows", offsets.len(), projected.shape()[0]);
        let allowed = "one more than projected has rows";
        return Err(DiqError::OutOfRange { argument: "offsets", allowed, found }.into());
    }
    let projected = projected.as_slice_mut().map_err(|_| DiqError::Strided { argument: "projected" })?;
    let delta = delta.as_slice().map_err(|_| DiqError::Strided { argument: "delta" })?;
    let x = x.as_slice().map_err(|_| DiqError::Strided { argument: "x" })?;
    Ok(py.detach(|| projection::sketch_outer(delta, x, [tokens, out, inputs], offsets, projected, key))?)
}

/// The runs of words of many questions, to be looked for in texts.
#[pyclass(frozen, module = "diq._core")]
struct NgramTable(ngram::Table);

#[pymethods]
impl NgramTable {
    #[new]
    #[pyo3(signature = (questions, benchmarks, *, n, shortest, most))]
    fn new(
        py: Python<'_>,
        questions: Vec<PyBackedStr>,
        benchmarks: Vec<u32>,
        n: usize,
        shortest: usize,
        most: u32,
    ) -> PyResult<Self> {
        Ok(Self(py.detach(|| ngram::Table::new(&questions, &benchmarks, n, shortest, most))?))
    }

    #[getter]
    fn checked<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u8>> {
        self.0.checked.iter().map(|&one| one as u8).collect::<Vec<_>>().into_pyarray(py)
    }

    #[getter]
    fn n_runs(&self) -> usize {
        self.0.n_runs()
    }

    #[getter]
    fn n_ignored(&self) -> usize {
        self.0.n_ignored
    }

    fn scan(&self, py: Python<'_>, texts: Vec<PyBackedStr>) -> Vec<(usize, usize, usize, usize, String)> {
        let found = py.detach(|| self.0.scan(&texts));
        found.into_iter().map(|one| (one.row, one.question, one.shared, one.total, one.run)).collect()
    }
}

/// Hashes of all texts and where each text's begin, as arrays.
type Hashes<'py> = (Bound<'py, PyArray1<u64>>, Bound<'py, PyArray1<u64>>);

#[pyfunction]
fn shingle_hashes(py: Python<'_>, texts: Vec<PyBackedStr>, n: usize) -> PyResult<Hashes<'_>> {
    let (hashes, offsets) = py.detach(|| ngram::shingle_hashes(&texts, n))?;
    Ok((hashes.into_pyarray(py), offsets.into_pyarray(py)))
}

#[pyfunction]
fn word_hashes(py: Python<'_>, texts: Vec<PyBackedStr>) -> Hashes<'_> {
    let (hashes, offsets) = py.detach(|| ngram::word_hashes(&texts));
    (hashes.into_pyarray(py), offsets.into_pyarray(py))
}

#[pyfunction]
fn candidate_groups<'py>(py: Python<'py>, keys: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<u32>>> {
    let keys = borrowed::<u64, Ix2>("keys", U64, keys)?;
    let bands = keys.shape()[1];
    let numbers = keys.as_slice().map_err(|_| DiqError::Strided { argument: "keys" })?;
    Ok(py.detach(|| ngram::groups(numbers, bands))?.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (texts, keys, *, n, threshold))]
fn near_copies<'py>(
    py: Python<'py>,
    texts: Vec<PyBackedStr>,
    keys: &Bound<'py, PyAny>,
    n: usize,
    threshold: f64,
) -> PyResult<Vec<(usize, usize, f64)>> {
    let keys = borrowed::<u64, Ix2>("keys", U64, keys)?;
    let bands = keys.shape()[1];
    let numbers = keys.as_slice().map_err(|_| DiqError::Strided { argument: "keys" })?;
    let found = py.detach(|| ngram::near_copies(&texts, numbers, bands, n, threshold))?;
    Ok(found.into_iter().map(|one| (one.row, one.kept, one.similarity)).collect())
}

#[pyclass(frozen, module = "diq._core")]
struct IdIndex(ids::IdIndex);

#[pymethods]
impl IdIndex {
    #[new]
    fn new(py: Python<'_>, high: &Bound<'_, PyAny>, low: &Bound<'_, PyAny>) -> PyResult<IdIndex> {
        let (high, low) = (borrowed::<u64, Ix1>("high", U64, high)?, borrowed::<u64, Ix1>("low", U64, low)?);
        let high = high.as_slice().map_err(|_| DiqError::Strided { argument: "high" })?;
        let low = low.as_slice().map_err(|_| DiqError::Strided { argument: "low" })?;
        Ok(IdIndex(py.detach(|| ids::IdIndex::new(high, low))?))
    }

    fn rows<'py>(
        &self,
        py: Python<'py>,
        high: &Bound<'py, PyAny>,
        low: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let (high, low) = (borrowed::<u64, Ix1>("high", U64, high)?, borrowed::<u64, Ix1>("low", U64, low)?);
        let high = high.as_slice().map_err(|_| DiqError::Strided { argument: "high" })?;
        let low = low.as_slice().map_err(|_| DiqError::Strided { argument: "low" })?;
        Ok(py.detach(|| self.0.rows(high, low))?.into_pyarray(py))
    }
}

const U8: &str = "a numpy array of uint8";

#[pyfunction]
fn bin_column<'py>(
    py: Python<'py>,
    values: &Bound<'py, PyAny>,
    cuts: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    let cuts = borrowed::<f64, Ix1>("cuts", "a numpy array of float64", cuts)?;
    let cuts = cuts.as_slice().map_err(|_| DiqError::Strided { argument: "cuts" })?;
    macro_rules! binned {
        ($values:expr) => {{
            let borrowed = $values;
            let values = borrowed.as_slice().map_err(|_| DiqError::Strided { argument: "values" })?;
            py.detach(|| cross::bin(values, cuts))?
        }};
    }
    let bins = if values.cast::<PyArray1<f32>>().is_ok() {
        binned!(borrowed::<f32, Ix1>("values", F32, values)?)
    } else {
        binned!(borrowed::<f64, Ix1>("values", "a numpy array of float32 or float64", values)?)
    };
    Ok(bins.into_pyarray(py))
}

#[pyfunction]
fn extent(py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<Option<(f64, f64, bool)>> {
    let values = borrowed::<f64, Ix1>("values", "a numpy array of float64", values)?;
    let values = values.as_slice().map_err(|_| DiqError::Strided { argument: "values" })?;
    Ok(py.detach(|| cross::extent(values)))
}

/// Borrowed columns of bins, and which bins are let through.
struct Bins<'py> {
    columns: Vec<PyReadonlyArray1<'py, u8>>,
    allowed: PyReadonlyArray<'py, u8, Ix2>,
}

impl<'py> Bins<'py> {
    fn new(columns: &[Bound<'py, PyAny>], allowed: &Bound<'py, PyAny>) -> Result<Bins<'py>, DiqError> {
        let columns = columns.iter().map(|column| borrowed("columns", U8, column)).collect::<Result<_, _>>()?;
        Ok(Bins { columns, allowed: borrowed("allowed", U8, allowed)? })
    }

    fn filters(&self) -> Result<cross::Filters<'_>, DiqError> {
        let slices =
            self.columns.iter().map(|one| one.as_slice().map_err(|_| DiqError::Strided { argument: "columns" }));
        let allowed = self.allowed.as_slice().map_err(|_| DiqError::Strided { argument: "allowed" })?;
        cross::Filters::new(slices.collect::<Result<_, _>>()?, allowed)
    }
}

/// Histograms `[columns, 256, 4]`, plane `[256, 256, 4]`, and the passing rows of each class.
type Crossed<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, (u32, u32, u32, u32));

#[pyfunction]
#[pyo3(signature = (columns, allowed, *, plane, classes))]
fn crossfilter<'py>(
    py: Python<'py>,
    columns: Vec<Bound<'py, PyAny>>,
    allowed: &Bound<'py, PyAny>,
    plane: (usize, usize),
    classes: &Bound<'py, PyAny>,
) -> PyResult<Crossed<'py>> {
    let bins = Bins::new(&columns, allowed)?;
    let classes = borrowed::<u8, Ix1>("classes", U8, classes)?;
    let classes = classes.as_slice().map_err(|_| DiqError::Strided { argument: "classes" })?;
    let filters = bins.filters()?;
    let counts = py.detach(|| cross::count(&filters, plane, classes))?;
    Ok((
        counts.histograms.into_pyarray(py).reshape([columns.len(), cross::BINS, cross::CLASSES])?.into_any(),
        counts.plane.into_pyarray(py).reshape([cross::BINS, cross::BINS, cross::CLASSES])?.into_any(),
        counts.passing.into(),
    ))
}

#[pyfunction]
#[pyo3(signature = (columns, allowed, *, column = None, values = None, descending = false, first = 0, count))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
fn page_rows<'py>(
    py: Python<'py>,
    columns: Vec<Bound<'py, PyAny>>,
    allowed: &Bound<'py, PyAny>,
    column: Option<usize>,
    values: Option<&Bound<'py, PyAny>>,
    descending: bool,
    first: usize,
    count: usize,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let bins = Bins::new(&columns, allowed)?;
    let filters = bins.filters()?;
    macro_rules! page {
        ($sort:expr) => {{
            let sort = $sort;
            py.detach(|| cross::page(&filters, sort, descending, first, count))?
        }};
    }
    let rows = match (column, values) {
        (None, _) => page!(cross::Sort::<f64>::Row),
        (Some(column), None) => page!(cross::Sort::<f64>::Bins(column)),
        (Some(column), Some(values)) if values.cast::<PyArray1<f32>>().is_ok() => {
            let values = borrowed::<f32, Ix1>("values", F32, values)?;
            page!(cross::Sort::Values(column, values.as_slice().map_err(|_| DiqError::Strided { argument: "values" })?))
        }
        (Some(column), Some(values)) => {
            let values = borrowed::<f64, Ix1>("values", "a numpy array of float32 or float64", values)?;
            page!(cross::Sort::Values(column, values.as_slice().map_err(|_| DiqError::Strided { argument: "values" })?))
        }
    };
    Ok(rows.into_pyarray(py))
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Ranking>()?;
    module.add_class::<IdIndex>()?;
    module.add_function(wrap_pyfunction!(bin_column, module)?)?;
    module.add_function(wrap_pyfunction!(crossfilter, module)?)?;
    module.add_function(wrap_pyfunction!(extent, module)?)?;
    module.add_function(wrap_pyfunction!(page_rows, module)?)?;
    module.add_class::<NgramTable>()?;
    module.add_function(wrap_pyfunction!(sample_ids, module)?)?;
    module.add_function(wrap_pyfunction!(shingle_hashes, module)?)?;
    module.add_function(wrap_pyfunction!(word_hashes, module)?)?;
    module.add_function(wrap_pyfunction!(candidate_groups, module)?)?;
    module.add_function(wrap_pyfunction!(near_copies, module)?)?;
    module.add_function(wrap_pyfunction!(file_hash, module)?)?;
    module.add_function(wrap_pyfunction!(quantile, module)?)?;
    module.add_function(wrap_pyfunction!(rank, module)?)?;
    module.add_function(wrap_pyfunction!(take_turns, module)?)?;
    module.add_function(wrap_pyfunction!(shard_dots, module)?)?;
    module.add_function(wrap_pyfunction!(philox, module)?)?;
    module.add_function(wrap_pyfunction!(project_rademacher, module)?)?;
    module.add_function(wrap_pyfunction!(sketch_matrices, module)?)?;
    module.add_function(wrap_pyfunction!(sketch_outer, module)?)
}
