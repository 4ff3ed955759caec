"""How numbers of gradients are stored: float32, float16, bfloat16, int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from diq.gradient_index.options import Element

"""How the numbers of a gradient are stored."""

# names of safetensors; bfloat16 is the upper half of a float32, which numpy can only carry as an integer
ELEMENTS: dict[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8"}

_TINY = np.float32(2.0**-126)
_FLOAT32_MAX = np.finfo(np.float32).max
# a row of float16 is scaled by a power of two, so that its largest number is in [2**14, 2**15)
_FLOAT16_EXPONENT = 15
_FLOAT16_PEAK = np.float32(2.0**15 - 2.0**4)
_BFLOAT16_MAX = np.uint16(0x7F7F)
_INT8_PEAK = np.float32(127)
# the largest scale whose 127-fold is still finite
_INT8_SCALE_MAX = np.nextafter(_FLOAT32_MAX / _INT8_PEAK, np.float32(0))


def quantize(
    gradients: npt.NDArray[np.float32], peaks: npt.NDArray[np.float32], element: Element
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Numbers as stored, and the scale of each row: a gradient is ``stored[r] * scale[r]``, always finite.

    Args:
        gradients: ``[rows, dim]`` float32, finite.
        peaks: ``[rows]``, the largest magnitude of each row.
        element: of ``stored``; bfloat16 as its bits, uint16.
    """
    ones = np.ones(len(gradients), "<f4")
    if element == "float32":
        return np.ascontiguousarray(gradients, dtype="<f4"), ones
    if element == "bfloat16":
        return _to_bfloat16(gradients), ones
    if element == "float16":
        # powers of two: scaling rounds nothing, so a number above 2**-29 of the peak keeps all 11 bits
        exponents = np.frexp(peaks)[1] - _FLOAT16_EXPONENT
        scale = np.ldexp(np.float32(1), np.maximum(exponents, -126))
        scaled = gradients / scale[:, None]
        # a peak that rounds up could leave float32 when it is read
        np.clip(scaled, -_FLOAT16_PEAK, _FLOAT16_PEAK, out=scaled)
        return scaled.astype("<f2"), scale.astype("<f4")
    # below 127 * 2**-126 the scale would lose its own bits
    scale = np.clip(peaks / _INT8_PEAK, _TINY, _INT8_SCALE_MAX)
    scaled = gradients / scale[:, None]
    np.rint(scaled, out=scaled)
    np.clip(scaled, -_INT8_PEAK, _INT8_PEAK, out=scaled)
    return scaled.astype(np.int8), scale.astype("<f4")


def _to_bfloat16(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even; what would round up to an infinity stays the largest number."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += bits
    rounded += np.uint32(0x7FFF)
    rounded >>= 16
    upper = rounded.astype("<u2")
    sign = upper & np.uint16(0x8000)
    upper &= np.uint16(0x7FFF)
    np.minimum(upper, _BFLOAT16_MAX, out=upper)
    upper |= sign
    return upper


def dequantize(stored: npt.NDArray[Any], scale: npt.NDArray[np.float32], element: Element) -> npt.NDArray[np.float32]:
    """``[rows, dim]`` float32 from what `_quantize` made."""
    if element == "bfloat16":
        gradients = (stored.astype(np.uint32) << 16).view(np.float32)
    else:
        gradients = stored.astype(np.float32)
    gradients *= scale[:, None]
    return gradients
