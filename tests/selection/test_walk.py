"""`--diverse` end to end: the walk in the store against a double loop, ratios that grow, kills, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from conftest import fill_store, invoke, stdout_of
from diq.base.errors import DiqError, ModelError, RunFailedError, UsageError
from diq.cli.select import select as command
from diq.gradient_index.index import GradientIndex
from diq.reporting.contents import select_command
from diq.selection import walk
from diq.selection.compare import compare
from diq.selection.select import Selection
from diq.selection.select import select as verb
from diq.store.store import Store

N, DIM = 240, 6


def vectors(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, DIM))
    rows = centres[rng.integers(0, 12, N)] + 0.25 * rng.standard_normal((N, DIM))
    return rows.astype(np.float32) * rng.uniform(0.5, 5, (N, 1)).astype(np.float32)


def make_index(folder: Path, ids: list[str], rows: np.ndarray) -> Path:
    index = GradientIndex.create(folder, {"dim": rows.shape[1], "test": "walk"}, element="float32")
    order = np.random.default_rng(7).permutation(len(ids))
    for number, part in enumerate(np.array_split(order, 5)):
        index.write_shard(number, rows[part], [ids[i] for i in part], np.zeros(len(part)), np.ones(len(part)))
    return folder


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """A store, an index of its samples, and their unit vectors."""
    rng = np.random.default_rng(3)
    path = tmp_path / "s.duckdb"
    folds = rng.normal(size=(N, 2))
    ids = fill_store(
        path,
        dots={"a": folds.mean(axis=1)},
        difficulty=rng.integers(1, 6, N),
        folds={"a": folds},
        fold_sizes={"a": [5, 5]},
    )
    rows = vectors()
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return path, make_index(tmp_path / "index", ids, rows), (rows / norms).astype(np.float32)


def order(path: Path, made: Selection) -> list[int]:
    with duckdb.connect(str(path), read_only=True) as connection:
        query = "SELECT position FROM selection_samples WHERE selection_id = ? ORDER BY rank"
        return [p for (p,) in connection.execute(query, [made.selection_id]).fetchall()]


def excluded(path: Path, made: Selection) -> dict[int, tuple[str, int, float]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute(
            "SELECT d.position, e.reason, k.position, e.similarity FROM exclusions AS e "
            "JOIN dataset_samples AS d USING (sample_id) "
            "JOIN dataset_samples AS k ON CAST(k.sample_id AS VARCHAR) = e.matched "
            "WHERE e.run_id = ?",
            [made.guards[-1]["run_id"]],
        ).fetchall()
    return {p: (reason, kept, similarity) for p, reason, kept, similarity in rows}


def slow(plain: list[int], unit: np.ndarray, threshold: float) -> tuple[list[int], dict[int, tuple[int, float]]]:
    taken: list[int] = []
    out: dict[int, tuple[int, float]] = {}
    for p in plain:
        cosines = [(other, float(unit[p].astype(np.float64) @ unit[other].astype(np.float64))) for other in taken]
        near = next((one for one in cosines if one[1] > threshold), None)
        if near is None:
            taken.append(p)
        else:
            out[p] = near
    return taken, out


def take(path: Path, ratio: Any = "0.1", *, by: Path, **options: Any) -> Selection:
    given = {"diverse": 0.9, "strategy": "influence", **options}
    model = {} if given["strategy"] == "random" else {"model": "model"}
    return verb("pool", ratio=ratio, store=path, diverse_by=by, **model, **given)


def everything(path: Path) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(
            "SELECT r.rank, r.position, r.quadrant, r.difficulty, r.dot FROM ranking_samples AS r "
            "JOIN rankings AS k USING (ranking_id) WHERE k.base_ranking IS NOT NULL ORDER BY r.rank"
        ).fetchall()


@pytest.mark.parametrize("strategy", ["influence", "diq", "q2", "random"])
def test_the_walk_is_the_double_loop(
    filled: tuple[Path, Path, np.ndarray], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, index, unit = filled
    monkeypatch.setattr(walk, "_FEWEST", 16)
    model = {} if strategy == "random" else {"model": "model"}
    plain = order(path, verb("pool", ratio=1, store=path, strategy=strategy, **model))
    expected, out = slow(plain, unit, 0.9)
    made = take(path, 1, by=index, strategy=strategy)
    assert order(path, made) == expected
    assert 20 < len(out) < len(plain) - 5
    found = excluded(path, made)
    assert {p: one[1] for p, one in found.items()} == {p: kept for p, (kept, _) in out.items()}
    for p, (kept, cosine) in out.items():
        assert found[p][0] == f"nearer than 0.9 to position {kept}, taken before (cosine {cosine:.4f})"
        assert found[p][2] == pytest.approx(cosine, abs=1e-6)
    # N is that of the ranking: what is too near is scored
    assert (made.n, made.n_target, made.n_scored, made.n_excluded) == (len(expected), N, N, 0)
    assert made.flip_share is None
    assert made.guards[-1]["n_excluded"] == len(out)
    if made.counts:
        assert sum(made.counts["selection"].values()) == made.n
        assert sum(made.counts["dataset"].values()) == N


@pytest.mark.slow
@pytest.mark.parametrize("steps", [("0.02", "0.05", "0.2", "1"), ("0.2", "0.02", "1")])
def test_a_walk_that_grows_ends_as_one_that_went_at_once(
    filled: tuple[Path, Path, np.ndarray], steps: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, index, unit = filled
    once = path.with_name("once.duckdb")
    shutil.copy(path, once)
    whole = take(once, 1, by=index)
    monkeypatch.setattr(walk, "_FEWEST", 8)
    monkeypatch.setattr(walk, "_MOST", 40)
    expected, _ = slow(order(path, verb("pool", ratio=1, store=path, strategy="influence", model="model")), unit, 0.9)
    depth = 0
    for ratio in steps:
        made = take(path, ratio, by=index)
        # a prefix, whatever was walked before
        assert order(path, made) == expected[: made.n_target]
        assert made.guards[-1]["details"]["n_walked"] >= depth
        depth = made.guards[-1]["details"]["n_walked"]
    assert everything(path) == everything(once)
    assert excluded(path, made) == excluded(once, whole)
    again = take(path, 1, by=index)
    assert (again.ranking, again.selection_id) == ("stored", made.selection_id)


def test_no_more_is_walked_than_is_asked_for(
    filled: tuple[Path, Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, index, _ = filled
    monkeypatch.setattr(walk, "_FEWEST", 8)
    made = take(path, "0.02", by=index)
    assert made.guards[-1]["details"]["n_walked"] == 8
    with duckdb.connect(str(path), read_only=True) as connection:
        stored = connection.execute(
            "SELECT n_scored, n_stored, current FROM ranking_states WHERE ranking_id = ?", [made.ranking_id]
        )
        assert stored.fetchall() == [(N, made.guards[-1]["details"]["n_taken"], True)]


def test_a_walk_that_was_stopped_goes_on(
    filled: tuple[Path, Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, index, unit = filled
    monkeypatch.setattr(walk, "_FEWEST", 32)
    monkeypatch.setattr(walk, "_MOST", 32)
    plain = order(path, verb("pool", ratio=1, store=path, strategy="influence", model="model"))
    written = walk._write

    def stop(*args: Any) -> None:
        if args[2] >= 64:
            raise KeyboardInterrupt
        written(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(walk, "_write", stop)
        take(path, 1, by=index)
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT depth FROM rankings WHERE base_ranking IS NOT NULL").fetchall() == [(64,)]
    assert order(path, take(path, 1, by=index)) == slow(plain, unit, 0.9)[0]


def test_two_that_walk_at_once_do_not_mix(
    filled: tuple[Path, Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, index, _ = filled
    monkeypatch.setattr(walk, "_FEWEST", 16)
    written = walk._write

    def meanwhile(*args: Any) -> None:
        monkeypatch.setattr(walk, "_write", written)
        take(path, "0.02", by=index)
        written(*args)

    monkeypatch.setattr(walk, "_write", meanwhile)
    with pytest.raises(RunFailedError, match="another process goes on with the same walk"):
        take(path, "0.02", by=index)
    assert take(path, "0.02", by=index).n == 4


def test_a_changed_score_walks_again(filled: tuple[Path, Path, np.ndarray]) -> None:
    path, index, unit = filled
    first = take(path, 1, by=index)
    with Store(path) as store:
        store.connection.execute("UPDATE influence_scores SET dot = -dot, fold_dots = NULL")
    second = take(path, 1, by=index)
    assert (second.ranking, second.ranking_id != first.ranking_id) == ("renewed", True)
    plain = order(path, verb("pool", ratio=1, store=path, strategy="influence", model="model"))
    assert order(path, second) == slow(plain, unit, 0.9)[0]
    # the old selection keeps what it took
    assert len(order(path, first)) == first.n


def test_it_combines_with_the_other_modifiers(filled: tuple[Path, Path, np.ndarray]) -> None:
    path, index, unit = filled
    source = np.arange(N) % 3 + 1
    with Store(path) as store:
        store.connection.execute("UPDATE dataset_samples SET source_id = 1 + position % 3")
        store.connection.execute("UPDATE influence_scores SET gradient_norm = abs(dot) + 1")
    options = {"balance": "sources", "drop_outliers": "norm=0.9"}
    plain = order(path, verb("pool", ratio=1, store=path, strategy="influence", model="model", **options))
    made = take(path, 1, by=index, **options)
    assert order(path, made) == slow(plain, unit, 0.9)[0]
    assert [guard["method"] for guard in made.guards] == ["outliers", "diverse"]
    assert source[plain[:3]].tolist() == [1, 2, 3]
    # the command that is told makes it again
    with Store(path, read_only=True) as store:
        row = store.row("store/ranking_of_selection", selection_id=made.selection_id)
        assert row is not None
        told = select_command(store, row)
    for words in ("--diverse 0.9", f"--diverse-by {index}", "--balance sources", "--drop-outliers norm=0.9"):
        assert words in told, told


def test_a_whole_dataset_is_never_measured_by_a_walk(filled: tuple[Path, Path, np.ndarray]) -> None:
    path, index, _ = filled
    take(path, "0.1", by=index, strategy="diq", name="thin")
    verb("pool", ratio="0.1", store=path, strategy="random", name="chance")
    found = compare(["thin", "chance"], store=path)
    (data,) = found.datasets
    assert data.scores["dot"]["n"] == N
    assert sum(one["n"] for one in data.quadrants) == N


# embeddings ---------------------------------------------------------------------------------------------------------


def test_embeddings_are_made_once_and_only_where_the_walk_goes(
    tmp_path: Path, tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diq.encoders import kept

    rng = np.random.default_rng(0)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": rng.normal(size=60)}, difficulty=rng.integers(1, 6, 60))
    monkeypatch.setattr(walk, "_FEWEST", 8)
    embedded: list[int] = []
    embed = kept.Encoder.embed_in_batches

    def counted(self: Any, texts: Any, **options: Any) -> Any:
        embedded.append(len(texts))
        return embed(self, texts, **options)

    monkeypatch.setattr(kept.Encoder, "embed_in_batches", counted)
    made = take(path, "0.05", by=tiny_encoder_folder, diverse=0.999)
    assert sum(embedded) == made.guards[-1]["details"]["n_walked"] < 60
    whole = take(path, 1, by=tiny_encoder_folder, diverse=0.999)
    assert sum(embedded) == 60
    # another order and another threshold read what is kept; no encoder is loaded
    monkeypatch.setattr(kept, "Encoder", None)
    other = take(path, 1, by=tiny_encoder_folder, diverse=0.99, strategy="random")
    monkeypatch.undo()
    # against embeddings made anew, all of them at once
    from diq.baselines.similarity import find_encoder
    from diq.encoders.embeddings import Encoder
    from diq.models.device import pick_device

    texts = [f"q {i} of pool\n\na" for i in range(60)]
    unit = Encoder(find_encoder(tiny_encoder_folder), device=pick_device("cpu")).embed_in_batches(
        texts, token_budget=999
    )
    for one, threshold, strategy in ((whole, 0.999, "influence"), (other, 0.99, "random")):
        model = {} if strategy == "random" else {"model": "model"}
        plain = order(path, verb("pool", ratio=1, store=path, strategy=strategy, **model))
        taken, out = slow(plain, unit.astype(np.float32), threshold)
        assert order(path, one) == taken
        assert out


def test_a_damaged_shard_is_embedded_again(tmp_path: Path, tiny_encoder_folder: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": rng.normal(size=40)}, difficulty=rng.integers(1, 6, 40))
    first = order(path, take(path, 1, by=tiny_encoder_folder, diverse=0.99))
    (shard,) = Path(f"{path}.embeddings").rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1000] ^= 1
    shard.write_bytes(content)
    with Store(path) as store:
        store.connection.execute("DELETE FROM ranking_samples WHERE ranking_id = 2")
        store.connection.execute("UPDATE rankings SET depth = 0 WHERE ranking_id = 2")
    assert order(path, take(path, 1, by=tiny_encoder_folder, diverse=0.99)) == first


# refusals -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused_in_one_line(filled: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    path, index, _ = filled
    with pytest.raises(UsageError, match="run 1 has no gradient index"):
        take(path, by=Path("1"))
    with pytest.raises(ModelError, match="there is no encoder folder `nothing`"):
        take(path, by=Path("nothing"))
    with pytest.raises(ModelError, match="is no encoder"):
        take(path, by=tmp_path)
    with pytest.raises(UsageError, match="diverse has no effect without diverse_by"):
        verb("pool", ratio="0.1", store=path, strategy="random", diverse=0.9)
    with pytest.raises(UsageError, match="diverse_by has no effect without diverse"):
        verb("pool", ratio="0.1", store=path, strategy="random", diverse_by=index)
    for bad in (0, 1, -0.5, 1.5, "near"):
        with pytest.raises(DiqError, match="diverse"):
            take(path, by=index, diverse=bad)
    done = invoke(
        command,
        "pool",
        "--ratio",
        "0.1",
        "--strategy",
        "random",
        "--diverse",
        "2",
        "--diverse-by",
        index,
        "--store",
        path,
    )
    assert done.exit_code != 0


def test_the_command_says_what_it_left_out(filled: tuple[Path, Path, np.ndarray]) -> None:
    path, index, _ = filled
    said = stdout_of(
        command,
        "pool",
        "--ratio",
        "0.1",
        "--strategy",
        "random",
        "--diverse",
        "0.9",
        "--diverse-by",
        index,
        "--store",
        path,
    )
    assert "diverse" in said
    assert "`pool-random-0.1-diverse0.9-index`" in said
