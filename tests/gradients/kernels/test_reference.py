"""The random matrices: published vectors, the page that defines them, and the laws they obey."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from diq.gradients.kernels import reference
from gradients.kernels.oracle import KEY, NAME

PAGE = (ROOT / "docs" / "projections.md").read_text(encoding="utf-8")
VECTORS = [
    ("00000000 00000000 00000000 00000000", 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", 0x299F31D0A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.asarray([[int(word, 16) for word in text.split()]], np.uint32)


@pytest.mark.parametrize(("counter", "key", "wanted"), VECTORS)
def test_philox_gives_the_published_vectors(counter: str, key: int, wanted: str) -> None:
    assert reference.philox(key, words(counter)).tolist() == words(wanted).tolist()


def test_keys_depend_on_seed_and_name() -> None:
    assert reference.parameter_key(0, NAME) == 0xC3E7018A7BC8D252
    assert len({reference.parameter_key(seed, name) for seed in range(4) for name in ("a", "b", "c")}) == 12


def test_rows_can_be_made_in_parts() -> None:
    whole = reference.rademacher_matrix(KEY, 300, 144, first_row=2**32 - 150)
    parts = [reference.rademacher_matrix(KEY, 100, 144, first_row=2**32 - 150 + at) for at in (0, 100, 200)]
    assert (whole == np.concatenate(parts)).all()


def test_an_empty_batch_is_an_empty_result() -> None:
    assert reference.project_rademacher(np.zeros((0, 5)), 32, key=KEY).shape == (0, 32)
    assert reference.sketch_matrices(np.zeros((0, 5, 3)), 32, key=KEY).shape == (0, 32)
    assert reference.sketch_outer(np.zeros((4, 5)), np.zeros((4, 3)), np.asarray([0]), 32, key=KEY).shape == (0, 32)


# the page ------------------------------------------------------------------------------------------------------------


def page_code() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    return found


def test_the_code_on_the_page_rebuilds_both_matrices() -> None:
    page = page_code()
    key = page["key"](0, NAME)
    assert key == KEY
    row, column = np.meshgrid(2**32 - 3 + np.arange(37), np.arange(272), indexing="ij")
    wanted = reference.rademacher_matrix(KEY, 37, 272, first_row=2**32 - 3)
    np.testing.assert_array_equal(page["rademacher"](key, row, column, 272), wanted)
    o, i = np.meshgrid(np.arange(5), np.arange(137), indexing="ij")
    bucket, sign = page["sparse"](key, o, i, 4096)
    np.testing.assert_array_equal(np.stack([bucket, sign]), np.stack(reference.sparse_buckets(KEY, 5, 137, 4096)))


def test_the_numbers_on_the_page_are_right() -> None:
    for counter, _key, wanted in VECTORS:
        assert f"`{counter}`" in PAGE
        assert f"`{wanted}`" in PAGE
    assert f"{KEY:#x}" in PAGE
    matrix = reference.rademacher_matrix(KEY, 2, 4096)
    for row in range(2):
        shown = "".join("+" if entry > 0 else "-" for entry in matrix[row, :32])
        assert f"row {row}: `{shown}`" in PAGE
    bucket, sign = reference.sparse_buckets(KEY, 2, 32, 65536)
    for o, i in ((0, 0), (0, 1), (0, 16), (1, 0), (1, 31)):
        assert f"| {o} | {i} | {bucket[o, i]} | {'+' if sign[o, i] > 0 else '-'} |" in PAGE


# laws: fixed seeds, so that a right law never fails by chance ---------------------------------------------------------

SEEDS = 300
DIM = 64
SHAPES = [(17, 16), (1, 272), (136, 2), (272, 1)]


def energy(out: int, inner: int, where: str) -> tuple[reference.Matrix, reference.Matrix]:
    """Two correlated gradients of length 1; most of their energy everywhere, in one column or in one row."""
    rng = np.random.default_rng(7)
    first = rng.normal(size=(out, inner))
    second = 0.5 * first + rng.normal(size=(out, inner))
    for one in (first, second):
        if where == "one column":
            one[:, inner // 2] *= 30
        elif where == "one row":
            one[out // 2] *= 30
        one /= np.linalg.norm(one)
    return first, second


def projections_of(kind: str, pair: tuple[reference.Matrix, reference.Matrix], dim: int = DIM) -> reference.Matrix:
    """Both projections under every seed: ``[seeds, 2, dim]``."""
    found = []
    for seed in range(SEEDS):
        key = reference.parameter_key(seed, "law")
        if kind == "rademacher":
            found.append(reference.project_rademacher(np.stack([one.ravel() for one in pair]), dim, key=key))
        else:
            found.append(reference.sketch_matrices(np.stack(pair), dim, key=key))
    return np.stack(found)


def theory(kind: str, first: reference.Matrix, second: reference.Matrix, dim: int) -> float:
    """Variance of the dot of two projections; in the sparse kind two of one run of 16 neighbours never collide."""
    if kind == "rademacher":
        never = 2 * (first**2 * second**2).sum()
    else:
        padded = [np.pad(one, ((0, 0), (0, -one.shape[1] % 16))).reshape(-1, 16) for one in (first, second)]
        never = ((padded[0] ** 2).sum(1) * (padded[1] ** 2).sum(1) + (padded[0] * padded[1]).sum(1) ** 2).sum()
    return float(((first**2).sum() * (second**2).sum() + (first * second).sum() ** 2 - never) / dim)


@pytest.mark.parametrize("where", ["everywhere", "one column", "one row"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["rademacher", "sparse"])
def test_dots_are_kept_in_expectation_with_the_variance_of_theory(
    kind: str, shape: tuple[int, int], where: str
) -> None:
    first, second = energy(*shape, where)
    projected = projections_of(kind, (first, second))
    dots = (projected[:, 0] * projected[:, 1]).sum(axis=1)
    true, variance = float((first * second).sum()), theory(kind, first, second, DIM)
    if variance < 1e-12:
        # all in one run: nothing can collide, and the dot is exact
        np.testing.assert_allclose(dots, true, rtol=1e-12)
        return
    assert abs(dots.mean() - true) < 4 * np.sqrt(variance / SEEDS)
    # chi-square with SEEDS degrees of freedom, by Wilson and Hilferty's normal approximation
    ratio = float(((dots - true) ** 2).sum() / variance) / SEEDS
    z = (np.cbrt(ratio) - (1 - 2 / (9 * SEEDS))) / np.sqrt(2 / (9 * SEEDS))
    assert abs(z) < 4


@pytest.mark.parametrize("kind", ["rademacher", "sparse"])
def test_modules_of_every_shape_weigh_the_same(kind: str) -> None:
    # E[P P^T] = I for each module: the squared length of a unit gradient stays 1 on average, whatever the shape
    for shape in SHAPES:
        unit, _ = energy(*shape, "everywhere")
        lengths = (projections_of(kind, (unit, unit))[:, 0] ** 2).sum(axis=1)
        assert abs(lengths.mean() - 1) < 4 * np.sqrt(theory(kind, unit, unit, DIM) / SEEDS)


@pytest.mark.parametrize("kind", ["rademacher", "sparse"])
def test_two_modules_add_up_like_one_gradient(kind: str) -> None:
    # other keys, so the cross terms between modules vanish on average
    one, other = energy(17, 16, "everywhere")[0], energy(136, 2, "everywhere")[1]
    found = []
    for seed in range(SEEDS):
        parts = []
        for name, gradient in (("one", one), ("other", other)):
            key = reference.parameter_key(seed, name)
            flat = gradient.reshape(1, -1)
            parts.append(
                reference.project_rademacher(flat, DIM, key=key)
                if kind == "rademacher"
                else reference.sketch_matrices(gradient[None], DIM, key=key)
            )
        found.append(float((parts[0] * parts[1]).sum()))
    assert abs(np.mean(found)) < 4 / np.sqrt(DIM * SEEDS)


def test_every_bucket_and_sign_is_as_likely_as_any_other() -> None:
    dim, shape = 48, (64, 512)
    bucket, sign = reference.sparse_buckets(KEY, *shape, dim)
    counts = np.bincount(bucket.ravel(), minlength=dim)
    # runs of 16 land together, so a block's count has 16 times the variance
    z = (counts - bucket.size / dim) / np.sqrt(16 * bucket.size / dim)
    assert np.abs(z).max() < 4
    assert abs(sign.sum()) < 4 * np.sqrt(sign.size)


def test_neighbours_never_share_a_bucket_and_others_seldom() -> None:
    dim = 256
    hits = pairs = 0
    for seed in range(40):
        bucket, _ = reference.sparse_buckets(reference.parameter_key(seed, "pairs"), 4, 64, dim)
        runs = bucket.reshape(-1, 16)
        assert all(len(set(run)) == 16 for run in runs.tolist())
        assert (runs // 16 == runs[:, :1] // 16).all()
        flat = bucket.ravel()
        same_run = np.arange(flat.size)[:, None] // 16 == np.arange(flat.size)[None, :] // 16
        hits += int(((flat[:, None] == flat[None, :]) & ~same_run).sum())
        pairs += int((~same_run).sum())
    # a block that two runs share collides in 16 ordered pairs of 256
    assert abs(hits / pairs - 1 / dim) < 4 * np.sqrt(32 / (dim * pairs))
