//! The module `diq._core`: the core for Python. Arrays are borrowed, never copied, and other Python threads run while
//! the core works, so the caller must not write to them meanwhile. Signatures: `python/diq/_core.pyi`.

use std::path::PathBuf;

use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyOSError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::error::DiqError;
use crate::rank::{Cut, Ratio};
use crate::{dot, hash, quantile as quantiles, rank as ranks, shard};

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
            | DiqError::OutOfRange { .. }
            | DiqError::TooManyRows { .. }
            | DiqError::Strided { .. }
            | DiqError::Dimensions { .. }
            | DiqError::Dim { .. }
            | DiqError::ShardTruncated { .. }
            | DiqError::ShardCorrupt { .. }
            | DiqError::ShardTensor { .. }
            | DiqError::ShardShape { .. }
            | DiqError::ShardDtype { .. } => PyValueError::new_err(message),
        }
    }
}

/// A borrowed column of scores.
enum Column<'py> {
    F32(PyReadonlyArray1<'py, f32>),
    F64(PyReadonlyArray1<'py, f64>),
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

fn column<'py>(argument: &'static str, value: &Bound<'py, PyAny>) -> Result<Column<'py>, DiqError> {
    let expected = "a numpy array of float32 or float64";
    let array = array(argument, expected, 1, value)?;
    if let Ok(array) = value.cast::<PyArray1<f32>>() {
        Ok(Column::F32(array.readonly()))
    } else if let Ok(array) = value.cast::<PyArray1<f64>>() {
        Ok(Column::F64(array.readonly()))
    } else {
        Err(DiqError::Type { argument, expected, found: array.dtype().to_string() })
    }
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
    let strided = |_| DiqError::Strided { argument: "values" };
    Ok(match column("values", values)? {
        Column::F32(values) => {
            let values = values.as_slice().map_err(strided)?;
            py.detach(|| quantiles::quantile(values, q))
        }
        Column::F64(values) => {
            let values = values.as_slice().map_err(strided)?;
            py.detach(|| quantiles::quantile(values, q))
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
            let dot = $dot.as_slice().map_err(|_| DiqError::Strided { argument: "dot" })?;
            let difficulty = $difficulty.as_slice().map_err(|_| DiqError::Strided { argument: "difficulty" })?;
            py.detach(|| ranks::rank(dot, difficulty, cut, ratio))
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
fn shard_dots<'py>(py: Python<'py>, path: PathBuf, vectors: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let expected = "a numpy array of float32";
    let array = array("vectors", expected, 2, vectors)?;
    let Ok(vectors) = vectors.cast::<PyArray2<f32>>() else {
        return Err(DiqError::Type { argument: "vectors", expected, found: array.dtype().to_string() }.into());
    };
    let vectors: PyReadonlyArray2<'_, f32> = vectors.readonly();
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

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Ranking>()?;
    module.add_function(wrap_pyfunction!(sample_ids, module)?)?;
    module.add_function(wrap_pyfunction!(file_hash, module)?)?;
    module.add_function(wrap_pyfunction!(quantile, module)?)?;
    module.add_function(wrap_pyfunction!(rank, module)?)?;
    module.add_function(wrap_pyfunction!(shard_dots, module)?)
}
