"""The Triton kernels: their results in the interpreter, and what they become on a Hopper GPU, compiled without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton comes with torch on Linux alone")

HERE = Path(__file__).parent


@pytest.mark.slow
def test_interpreted() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "DIQ_KERNELS": "triton", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-v", "-x", "-p", "no:cacheprovider", str(HERE / "interpreted.py")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for kernel in ("philox", "rademacher", "sketch_matrices", "sketch_outer", "token_dots"):
        assert re.search(rf"::test_{kernel}.* PASSED", done.stdout), kernel


@pytest.mark.slow
def test_importing_the_kernels_does_not_import_triton() -> None:
    # torch looks whether there is a triton, but does not import it
    code = (
        "import sys, torch\n"
        "from diq.gradients.kernels import dots, projections, reference, resolve, torch_forms\n"
        "projections.sketch_matrices(torch.ones(1, 2, 3), torch.zeros(1, 16), key=1)\n"
        "dots.token_dots(torch.ones(1, 2), torch.ones(1, 3), torch.ones(2, 3), 1)\n"
        "assert 'triton' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"DIQ_KERNELS": "torch"})


def compiled(kernel: Any, pointers: dict[str, str], numbers: list[str], constants: dict[str, Any], warps: int) -> str:
    """PTX of a kernel for sm_90 with aligned pointers; no GPU is asked."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: pointers.get(name, "i32" if name in numbers else "constexpr") for name in names}
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
    )
    options = {"num_warps": warps, "num_stages": 3, "enable_fp_fusion": True}
    ptx: str = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    return ptx


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(("samples", "warps"), [(16, 4), (64, 8)])
def test_dense_projection_on_hopper(samples: int, warps: int, dtype: str) -> None:
    from diq.gradients.kernels import triton_rademacher

    numbers = ["n", "p", "dim", "blocks_per_part", "first_row", "key_low", "key_high"]
    ptx = compiled(
        triton_rademacher._project,
        {"gradients": f"*{dtype}", "partial": "*fp32"},
        numbers,
        {"SAMPLES": samples, "ROWS": 128, "TENSOR_CORES": True},
        warps,
    )
    # one hash for 128 signs (20 high products at most), not one for each thread that needs a bit of it
    assert 0 < ptx.count("mul.hi.u32") <= 20
    assert "wgmma.mma_async" in ptx
    assert ".bf16.bf16" in ptx
    assert ".tf32" not in ptx


@pytest.mark.parametrize(("dtype", "tokens"), [("bf16", 64), ("fp32", 32)])
def test_sketch_on_hopper(dtype: str, tokens: int) -> None:
    from diq.gradients.kernels import triton_sketch

    ptx = compiled(
        triton_sketch._sketch_outer,
        {"delta": f"*{dtype}", "x": f"*{dtype}", "offsets": "*i64", "projected": "*fp32"},
        ["n_tokens", "n_out", "n_inner", "dim", "key_low", "key_high"],
        {"OUT": 128, "INNER": 128, "TOKENS": tokens, "TENSOR_CORES": True},
        8,
    )
    assert "wgmma.mma_async" in ptx
    # no address waits for the other's result
    assert re.search(r"(red|atom)\.global\S*\.relaxed\S*\.add\.f32", ptx)


def test_token_dots_on_hopper() -> None:
    from diq.gradients.kernels import triton_dots

    ptx = compiled(
        triton_dots._token_dots,
        {"delta": "*bf16", "x": "*bf16", "stacked": "*bf16", "partial": "*fp32"},
        ["n_tokens", "n_sets", "n_out", "n_inner"],
        {"TOKENS": 256, "OUT": 128, "INNER": 64, "GROUP": 8, "EVEN": True, "TENSOR_CORES": True},
        8,
    )
    assert "wgmma.mma_async" in ptx
    # the product is not written: what is stored is one float for a token and block
    stores = re.findall(r"st\.global\S*", ptx)
    assert 0 < len(stores) <= 4
