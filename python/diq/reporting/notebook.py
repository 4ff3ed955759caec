"""A store as Python and notebooks meet it: tables that any library reads, samples, and charts as methods."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from diq import plot
from diq.base import config
from diq.base.config import DIFFICULTY_DIMENSIONS, Dimension
from diq.base.errors import UsageError
from diq.base.sample import Message
from diq.base.summary import Summary
from diq.base.text import amount, check_choice, did_you_mean
from diq.reporting.markup import escaped, marked
from diq.samples.find import find_sample, sample_at
from diq.selection.status import Status, status
from diq.store import queries
from diq.store import store as stores

if TYPE_CHECKING:
    import altair as alt
    import pyarrow as pa

    from diq.evaluation.groups import Results

_SHOWN = 20


class Rows:
    """A table: ``.df()``, ``.pl()``, ``.arrow()``, or whatever reads Arrow (``pl.DataFrame(rows)``, ``duckdb``).

    Args:
        table: what it holds.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def arrow(self) -> pa.Table:
        """As a PyArrow table."""
        return self._table

    def df(self) -> Any:
        """As a pandas data frame.

        Raises:
            UsageError: pandas is not installed.
        """
        with _bring_your_own("df", "pandas"):
            return self._table.to_pandas()

    def pl(self) -> Any:
        """As a polars data frame.

        Raises:
            UsageError: polars is not installed.
        """
        with _bring_your_own("pl", "polars"):
            import polars  # type: ignore[import-not-found, unused-ignore]
        return polars.from_arrow(self._table)

    def to_dicts(self) -> list[dict[str, Any]]:
        """As one dict a row."""
        return self._table.to_pylist()  # type: ignore[no-any-return]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_dicts())

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        return f"Rows({amount(len(self), 'row')} of {', '.join(self._table.column_names)})"

    def _repr_html_(self) -> str:
        names = self._table.column_names
        head = "".join(f"<th style='text-align:left'>{escaped(name)}</th>" for name in names)
        body = "".join(
            "<tr>"
            + "".join(f"<td style='text-align:left'>{escaped(_cell(row[name]))}</td>" for name in names)
            + "</tr>"
            for row in self._table.slice(0, _SHOWN).to_pylist()
        )
        more = f"<p>{amount(len(self), 'row')}; the first {_SHOWN} are shown</p>" if len(self) > _SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


@contextlib.contextmanager
def _bring_your_own(method: str, package: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"`.{method}()` needs the package `{package}`, which is not installed",
            f"run `pip install {package}`, or take `.arrow()`",
        ) from error


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True, repr=False)
class Sample(Summary):
    """One sample.

    Attributes:
        sample_id: its id.
        messages: the conversation, which ends with the answer.
        rejected: the refused answer of a preference pair; else None.
        scores: every score that the store has of it, with its run.
    """

    sample_id: str
    messages: list[Message]
    rejected: list[Message] | None
    scores: list[dict[str, Any]]

    def _repr_html_(self) -> str:
        said = "".join(
            f"<p style='opacity:.7;margin:.4em 0 0'>{escaped(one['role'])}</p>"
            f"<div style='white-space:pre-wrap' dir='auto'>{marked(str(one['content']))}</div>"
            for one in self.messages
        )
        rows = "".join(
            f"<tr><td>{escaped(one['score'])}</td><td>{escaped(one['of'] or '')}</td>"
            f"<td>{escaped(_cell(one['value']))}</td><td>run {one['run_id']}</td></tr>"
            for one in self.scores
        )
        return f"<p><code>{escaped(self.sample_id)}</code></p>{said}<table><tbody>{rows}</tbody></table>"


class Store:
    """A store of datasets, scores and selections, to be looked at: every call opens the file for reading, for a moment.

    So other processes can score and select meanwhile. What changes a store are the verbs (``diq.select`` and so on).

    Args:
        path: the store file; None takes ``$DIQ_STORE``, else ``diq.duckdb``.

    Raises:
        StoreError: there is none.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = config.store_path(path)
        self._open().close()

    def _open(self) -> stores.Store:
        return stores.Store(self.path, read_only=True)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()

    def _rows(self, query: str, **params: Any) -> Rows:
        with self._open() as opened:
            return Rows(opened.arrow(query, **params))

    # tables ----------------------------------------------------------------------------------------------------------

    def status(self, *, scores: bool = False) -> Status:
        """What the store holds, as ``diq.status``."""
        return status(store=self.path, scores=scores)

    def datasets(self) -> Rows:
        """Datasets with the counts of their rows."""
        return self._rows("store/list_datasets")

    def selections(self) -> Rows:
        """Selections, latest first."""
        return self._rows("store/list_selections")

    def scores(self, dataset: str, model: str, *, run: int | None = None, difficulty_run: int | None = None) -> Rows:
        """One row a sample with its difficulty and influence: the macro ``diq_scores``.

        Args:
            dataset: its name.
            model: name of a scored model.
            run: influence run, where there are several.
            difficulty_run: difficulty run, where there are several.

        Raises:
            UsageError: an unknown name, several runs to choose from, or a value out of range.
        """
        params = {"dataset": dataset, "model": model, "run": run, "difficulty_run": difficulty_run}
        return self._of_macro("reporting/scores", params)

    def ranking(
        self,
        dataset: str,
        model: str,
        *,
        difficulty: Dimension = "overall",
        percentile: float = 0.5,
        threshold: float | None = None,
        influence: Literal["dot", "cosine"] = "dot",
        run: int | None = None,
        difficulty_run: int | None = None,
    ) -> Rows:
        """The order of Algorithm 1, best first: the macro ``diq_ranking``, whose parameters these are.

        Raises:
            UsageError: as for `scores`.
        """
        if not 0 <= percentile <= 1:
            raise UsageError(f"the percentile {percentile} is outside [0, 1]", "give 0.5 for the median")
        check_choice("difficulty", difficulty, DIFFICULTY_DIMENSIONS)
        check_choice("influence", influence, ("dot", "cosine"))
        params = {
            "dataset": dataset,
            "model": model,
            "difficulty": difficulty,
            "percentile": percentile,
            "threshold": threshold,
            "influence": influence,
            "run": run,
            "difficulty_run": difficulty_run,
        }
        return self._of_macro("reporting/ranking", params)

    def _of_macro(self, query: str, params: Mapping[str, Any]) -> Rows:
        """The answer of a macro; what it refuses is told in one line."""
        with self._open() as opened:
            opened.dataset(params["dataset"])
            known = [row["name"] for row in opened.rows("store/list_models")]
        if params["model"] not in known:
            raise UsageError(
                f"no model named `{params['model']}` in `{self.path}`",
                did_you_mean(params["model"], known) or "run `diq score influence` first",
            )
        return self.sql(queries.query(query), dict(params))

    def selection(self, name: str | int) -> Rows:
        """The samples of a selection, best first.

        Args:
            name: its name, of which the latest counts, or its number.

        Raises:
            UsageError: there is none.
        """
        with self._open() as opened:
            row = opened.selection(str(name))
            return Rows(opened.arrow("reporting/selected", selection_id=row["selection_id"]))

    def results(self, **options: Any) -> Results:
        """Benchmark tables, as ``diq.results`` with its options."""
        from diq.evaluation.results import results

        return results(store=self.path, **options)

    def sql(self, query: str, params: Any = None) -> Rows:
        """The answer to a query that reads, as ``diq.sql``."""
        from diq.store.sql import sql

        return Rows(sql(query, params, store=self.path))

    def sample(
        self, sample_id: str | None = None, *, dataset: str | None = None, position: int | None = None
    ) -> Sample:
        """A sample by its id (its first 6 or more digits), or by its position in a dataset.

        Raises:
            UsageError: there is no such sample, or neither is given.
        """
        import orjson

        with self._open() as opened:
            if sample_id is not None:
                found = find_sample(opened, sample_id)
            elif dataset is not None and position is not None:
                found = sample_at(opened, dataset, position)
            else:
                raise TypeError("sample() needs a sample_id, or a dataset and a position")
            scores = opened.rows("reporting/scores_of_sample", sample_id=found["sample_id"])
        rejected = orjson.loads(found["rejected"]) if found["rejected"] else None
        return Sample(found["sample_id"], orjson.loads(found["messages"]), rejected, scores)

    # charts ----------------------------------------------------------------------------------------------------------

    def quadrants(self, dataset: str | None = None, model: str | None = None, **options: Any) -> alt.Chart:
        """As ``diq.plot.quadrants``."""
        return plot.quadrants(self.path, dataset, model, **options)

    def difficulty_levels(
        self, dataset: str | Sequence[str] | None = None, model: str | None = None, **options: Any
    ) -> alt.Chart:
        """As ``diq.plot.difficulty_levels``."""
        return plot.difficulty_levels(self.path, dataset, model, **options)

    def influence(self, dataset: str | None = None, model: str | None = None, **options: Any) -> alt.Chart:
        """As ``diq.plot.influence``."""
        return plot.influence(self.path, dataset, model, **options)

    def length_bias(self, dataset: str | None = None, model: str | None = None, **options: Any) -> alt.Chart:
        """As ``diq.plot.length_bias``."""
        return plot.length_bias(self.path, dataset, model, **options)

    def stability(self, dataset: str | None = None, model: str | None = None, **options: Any) -> alt.Chart:
        """As ``diq.plot.stability``."""
        return plot.stability(self.path, dataset, model, **options)

    def tasks(self, selection: str | int | None = None, **options: Any) -> alt.Chart:
        """As ``diq.plot.tasks``."""
        return plot.tasks(self.path, selection, **options)

    def overlap(self, selections: Sequence[str | int] = ()) -> alt.Chart:
        """As ``diq.plot.overlap``."""
        return plot.overlap(self.path, selections)

    def ratios(self, dataset: str | None = None, model: str | None = None, **options: Any) -> alt.Chart:
        """As ``diq.plot.ratios``."""
        return plot.ratios(self.path, dataset, model, **options)

    def losses(self, runs: Sequence[int] | None = None) -> alt.Chart:
        """As ``diq.plot.losses``."""
        return plot.losses(self.path, runs)
