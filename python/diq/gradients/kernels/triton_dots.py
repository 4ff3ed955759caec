"""``<delta_t, V_s x_t>`` in Triton: a matrix product whose result is used up in registers.

Triton is imported here, so this module is imported only when a kernel runs.
"""

# triton ships no types; what @triton.jit sees is typed by its own compiler
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diq.gradients.kernels.resolve import interpreted

# blocks of tokens that share a strip of V while it is in the L2 cache
_GROUP = 8


@triton.jit(do_not_specialize=["n_tokens", "n_sets"])
def _token_dots(
    delta,  # [n_tokens, n_out]
    x,  # [n_tokens, n_inner]
    stacked,  # [n_sets * n_out, n_inner]
    partial,  # [n_tokens, n_sets, out_blocks] float32
    n_tokens,
    n_sets,
    n_out,
    n_inner,
    TOKENS: tl.constexpr,  # noqa: N803
    OUT: tl.constexpr,  # noqa: N803
    INNER: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    EVEN: tl.constexpr,  # noqa: N803
    TENSOR_CORES: tl.constexpr,  # noqa: N803
):
    """``partial[t, s, b] = sum over o in block b of delta[t, o] * (V_s x_t)[o]``."""
    token_blocks, out_blocks = tl.cdiv(n_tokens, TOKENS), tl.cdiv(n_out, OUT)
    pid, chosen = tl.program_id(0), tl.program_id(1)
    in_group = GROUP * out_blocks
    first_block = (pid // in_group) * GROUP
    height = tl.minimum(token_blocks - first_block, GROUP)
    token_block = first_block + (pid % in_group) % height
    out_block = (pid % in_group) // height

    tokens = (token_block * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    outs = (out_block * OUT + tl.arange(0, OUT)).to(tl.int64)
    inner = tl.arange(0, INNER)
    # lanes beyond the edge read the last row again, so that the loop needs no masks for them; they are dropped below
    x_at = x + tl.minimum(tokens, n_tokens - 1)[:, None] * n_inner + inner[None, :]
    v_row = chosen.to(tl.int64) * n_out + tl.minimum(outs, n_out - 1)
    v_at = stacked + v_row[None, :] * n_inner + inner[:, None]
    product = tl.zeros([TOKENS, OUT], tl.float32)
    for at in range(0, n_inner, INNER):
        if EVEN:
            a, b = tl.load(x_at + at), tl.load(v_at + at)
        else:
            inside = inner < n_inner - at
            a = tl.load(x_at + at, mask=inside[None, :], other=0.0)
            b = tl.load(v_at + at, mask=inside[:, None], other=0.0)
        if TENSOR_CORES:
            product = tl.dot(a, b, product, input_precision="ieee")
        else:
            # the interpreter's dot knows no bfloat16
            product += tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    mask = (tokens < n_tokens)[:, None] & (outs < n_out)[None, :]
    d = tl.load(delta + tokens[:, None] * n_out + outs[None, :], mask=mask, other=0.0)
    terms = tl.sum(tl.where(mask, product * d.to(tl.float32), 0.0), axis=1)
    tl.store(partial + (tokens * n_sets + chosen) * out_blocks + out_block, terms, mask=tokens < n_tokens)


def token_dots(delta: Tensor, x: Tensor, stacked: Tensor, n_sets: int) -> Tensor:
    """See :func:`diq.gradients.kernels.dots.token_dots`.

    Args:
        delta: ``[t, out]`` float16, bfloat16 or float32, contiguous.
        x: ``[t, in]`` of the same dtype, contiguous.
        stacked: ``[sets * out, in]`` of the same dtype, contiguous.
        n_sets: validation sets.
    """
    (n_tokens, n_out), n_inner = delta.shape, x.shape[1]
    if delta.element_size() == 4:
        tokens, out, inner, warps, stages = 128, 128, 32, 8, 2
    elif delta.is_cuda and torch.cuda.get_device_capability(delta.device)[0] in (9, 10) and n_tokens > 128:
        # needs the shared memory of a data-centre card since Hopper
        tokens, out, inner, warps, stages = 256, 128, 64, 8, 3
    else:
        tokens, out, inner, warps, stages = 128, 128, 32, 8, 3
    partial = torch.empty(n_tokens, n_sets, triton.cdiv(n_out, out), dtype=torch.float32, device=delta.device)
    if n_tokens and n_sets:
        _token_dots[(triton.cdiv(n_tokens, tokens) * partial.shape[2], n_sets)](
            delta, x, stacked, partial, n_tokens, n_sets, n_out, n_inner,
            TOKENS=tokens, OUT=out, INNER=inner, GROUP=_GROUP, EVEN=n_inner % inner == 0,
            TENSOR_CORES=not interpreted(), num_warps=warps, num_stages=stages,
        )  # fmt: skip
    # no float atomics: the blocks are added in one order
    return partial.sum(dim=2)
