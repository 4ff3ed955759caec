"""Memory that runs out: what says so on any device, what is then done and said, and how much goes through at once."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar, get_args

from diq.base.errors import DiqError, RunFailedError

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Part = TypeVar("Part")
Work = Literal["gradients", "training", "perplexity", "fitting", "encoder", "embedding"]
WORK: tuple[Work, ...] = get_args(Work)

# padded tokens of a batch where nothing else was asked for, on a CPU and on a GPU
_TOKEN_BUDGETS: dict[Work, tuple[int, int]] = {
    # about where a CPU's matrix products stop getting faster
    "gradients": (2048, 16384),
    # of a language model, and the validation losses beside it
    "training": (4096, 16384),
    # without a backward pass little is kept
    "perplexity": (4096, 32768),
    # training of an encoder: a step of more texts adds up the gradients of parts
    "fitting": (4096, 32768),
    # what an encoder with a head says; on a CPU more of them leave its caches
    "encoder": (1024, 65536),
    "embedding": (4096, 65536),
}

# tokens of the batches that are measured, and the share of free memory that is planned with
_SMALL = (256, 1024)
_FILLED = 0.85

# the allocators of the CPU and of Apple's GPUs raise a plain RuntimeError, as do CUDA and its libraries where torch's
# own allocator is not asked; the last is what a mapped file says
_SIGNS = re.compile(
    r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|std::bad_alloc|\bout of memory\b"
    r"|(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT)\w*_ALLOC(?:ATION)?_FAILED|Cannot allocate memory",
    re.IGNORECASE,
)


def default_budget(work: Work, kind: str) -> int:
    """Padded tokens of a batch where nothing else was asked for.

    Args:
        work: what the batch is for.
        kind: kind of device, such as ``cuda``.
    """
    cpu, gpu = _TOKEN_BUDGETS[work]
    return gpu if kind == "cuda" else cpu


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that memory is short, on any device.

    An error of ours is never one: it says in one line what the memory was too small for.
    """
    if isinstance(error, DiqError):
        return False
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        if _is_sign(one):
            return True
        seen.add(id(one))
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return False


def _is_sign(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # where torch is not loaded, none of its errors is met
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None


def raise_if_out_of_memory(error: BaseException, what: str, hint: str) -> None:
    """Say in one line what memory was too small for, where an error means that; else return.

    Raises:
        RunFailedError: memory is short.
    """
    if is_out_of_memory(error):
        raise _too_small(what, hint) from error


class TooSmallError(RunFailedError):
    """The memory is too small for the least that can be computed at a time."""


def _too_small(what: str, hint: str) -> TooSmallError:
    return TooSmallError(f"out of memory on {what}", hint)


def fitting_tokens(used: Callable[[int], int], free: Callable[[], int], most: int) -> int:
    """Tokens of a batch that fit into the memory that is free, from what two small batches took.

    Args:
        used: bytes that a batch of so many tokens takes at its peak, beside what is there before and after it.
        free: bytes that are free after these.
        most: tokens that are wanted.

    Returns:
        ``most``, or as many as take 85 % of what is free, if that is less; what was tried fits in any case.
    """
    low, high = used(_SMALL[0]), used(_SMALL[1])
    each = max(1.0, (high - low) / (_SMALL[1] - _SMALL[0]))
    fixed = max(0.0, low - _SMALL[0] * each)
    return min(most, max(_SMALL[1], int((_FILLED * free() - fixed) / each)))


@contextlib.contextmanager
def one_line_of_memory(what: str, hint: str) -> Iterator[None]:
    """Memory that runs out in the block as one line with a hint.

    Raises:
        RunFailedError: it does.
    """
    try:
        yield
    except Exception as error:
        raise_if_out_of_memory(error, what, hint)
        raise


def halving(
    attempt: Callable[[int], Result],
    size: int,
    *,
    what: str,
    one: str,
    hint: str,
    least: int = 1,
    smaller: Callable[[int], int] = lambda size: size // 2,
) -> Result:
    """Try with a size, and where memory runs out with half of it, and so on.

    Args:
        attempt: called with a size, from the beginning each time.
        size: the first.
        what: a size counts, such as ``samples``; for the log.
        one: what did not fit with the least size, such as ``one sample of 8 tokens``.
        hint: what to do about that.
        least: a size that is not made smaller, nor any below it.
        smaller: the size after one that did not fit.

    Raises:
        RunFailedError: not even the least size fits.
    """
    while True:
        try:
            return attempt(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if size <= least:
                raise _too_small(one, hint) from error
        # outside of the handler: the error holds on to the tensors of the frames it came through
        before, size = size, smaller(size)
        log.warning("out of memory with %d %s at a time: going on with %d", before, what, size)
        release()


def in_halves(
    batch: Sequence[Part], compute: Callable[[Sequence[Part]], Result], *, what: str, one: str, hint: str
) -> list[Result]:
    """Results of a batch as a whole, or where memory runs out of its halves, its quarters, and so on.

    Args:
        batch: one or more of something that has rows.
        compute: the result of some of them.
        what: they are; for the log.
        one: of them, for the error.
        hint: what to do where one alone does not fit.

    Raises:
        RunFailedError: one alone does not fit.
    """

    def attempt(n: int) -> list[Result]:
        return [compute(batch[at : at + n]) for at in range(0, len(batch), n)]

    return halving(attempt, len(batch), what=what, one=one, hint=hint)


def release() -> None:
    """Give memory that nobody uses back to the device, so that the next who asks can have it in one piece."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
