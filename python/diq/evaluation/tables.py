"""Results as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from diq.base.fingerprint import canonical_json
from diq.base.text import short
from diq.evaluation.benchmarks import BENCHMARKS
from diq.evaluation.groups import AVERAGES, CLOSE, Cell, Group, Results

HEADS = {**{one.name: one.label for one in BENCHMARKS.values()}, **AVERAGES}
"""Head of each column."""


def title(group: Group) -> str:
    """What a table holds, on one line."""
    if group.base_model_id is None:
        return f"published (arXiv 2508.01450): {group.base}"
    return f"{group.base}, {group.backend}"


def footnotes(group: Group) -> list[str]:
    """What a reader of a table must know, a line each."""
    notes = []
    if group.base_model_id is not None:
        notes.append(f"protocol: {_told(group.protocol) or 'unknown'}")
        if group.differs:
            apart = _told(group.differs, silent=True)
            notes.append(f"not to be compared with the other tables of this model; apart from them: {apart}")
        counts = {name: cell.n for row in group.rows for name, cell in row.cells.items() if name in BENCHMARKS}
        notes.append(
            "questions: " + ", ".join(f"{HEADS[name]} {counts[name]:,}" for name in group.columns if name in counts)
        )
        for row in group.rows:
            # a number is worth no more than what could be read
            unread = [
                f"{HEADS[name]} {100 * (row.cells[name].unanswered or 0.0):.1f} %"
                for name in group.columns
                if name in BENCHMARKS and name in row.cells
            ]
            notes.append(f"outputs without a readable answer, {row.label}: {', '.join(unread)}")
    for row in group.rows:
        for name, cell in row.cells.items():
            if cell.expected is not None:
                notes.append(
                    f"{MARKS['slip']} {row.label}, {row.dataset}, Table {row.table}: {HEADS[name]} is printed as "
                    f"{percent(cell.accuracy)}, the row's own accuracies give {percent(cell.expected)}"
                )
    return notes


def _told(settings: Mapping[str, Any], *, silent: bool = False) -> str:
    """Settings on one line; ``silent``: also those without a value."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            flat[name] = value
    if "prompt_version" in flat and not silent:
        # the whole prompt is in the exports
        flat.pop("prompt", None)
    shown = {name: value for name, value in flat.items() if silent or value not in (None, [], "")}
    return ", ".join(f"{name} {short(value, width=32)}" for name, value in sorted(shown.items()))


MARKS = {"best": "*", "second": "+", "close": "~", "slip": "!"}
"""Marks behind a number where there is no bold and underline."""


def percent(share: float) -> str:
    """Two decimals, as the paper has them."""
    return f"{100 * share:.2f}"


def error_text(cell: Cell, sign: str) -> str:
    """The standard error, and the standard deviation over repeats where there are several; empty when unknown."""
    if cell.standard_error is None:
        return ""
    text = f"{sign}{percent(cell.standard_error)}"
    return text if cell.spread is None else f"{text} sd {percent(cell.spread)}"


def markdown(results: Results) -> str:
    """Tables for a page: best in bold, second best underlined, ``~`` where a number is not told apart from the best."""
    parts = []
    for group in [*results.groups, *results.published]:
        heads = ["model", "trained on", *(HEADS[name] for name in group.columns)]
        lines = [
            f"**{_plain_markdown(title(group))}**",
            "",
            _bar(heads),
            _bar(["---", "---", *["---:"] * len(group.columns)]),
        ]
        for row in group.rows:
            cells = [_markdown_cell(row.cells.get(name)) for name in group.columns]
            lines.append(_bar([_plain_markdown(row.label), _plain_markdown(row.dataset or ""), *cells]))
        notes = [f"- {_plain_markdown(one)}" for one in [*footnotes(group), *_legend(group, "bold", "underlined")]]
        parts.append("\n".join([*lines, "", *notes]))
    return "\n\n".join(parts) + "\n"


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain_markdown(text: str) -> str:
    """Text in which nothing means anything to Markdown."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", text)


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    number = percent(cell.accuracy)
    text = f"**{number}**" if cell.best else f"<u>{number}</u>" if cell.second else number
    text += (" \\~" if cell.close else "") + (" !" if cell.expected is not None else "")
    error = error_text(cell, "±")
    return f"{text} {error}".rstrip()


def latex(results: Results) -> str:
    """One ``table`` each for the packages booktabs and graphicx: best in bold, second best underlined."""
    parts = []
    for group in [*results.groups, *results.published]:
        columns = group.columns
        lines = [
            r"\begin{table}",
            r"\centering",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{ll{'r' * len(columns)}}}",
            r"\toprule",
            " & ".join(["Model", "Trained on", *(_escape(HEADS[name]) for name in columns)]) + r" \\",
            r"\midrule",
        ]
        for row in group.rows:
            cells = [_latex_cell(row.cells.get(name)) for name in columns]
            lines.append(" & ".join([_escape(row.label), _escape(row.dataset or ""), *cells]) + r" \\")
        notes = [*footnotes(group), *_legend(group, "bold", "underlined")]
        caption = " ".join(f"{_escape(one)}." for one in [title(group), *notes])
        lines += [r"\bottomrule", r"\end{tabular}}", rf"\caption{{{caption}}}", r"\end{table}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    **{one: f"\\{one}" for one in "&%$#_{}"},
}


def _escape(text: str) -> str:
    """Text in which nothing means anything to LaTeX."""
    return "".join(_LATEX.get(one, one) for one in text)


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    number = percent(cell.accuracy)
    text = rf"\textbf{{{number}}}" if cell.best else rf"\underline{{{number}}}" if cell.second else number
    text += (r"\textsuperscript{\textasciitilde{}}" if cell.close else "") + (
        r"\textsuperscript{!}" if cell.expected is not None else ""
    )
    error = error_text(cell, "±")
    return rf"{text} {{\scriptsize {_escape(error)}}}" if error else text


def _legend(group: Group, best: str, second: str) -> list[str]:
    """What the marks of an export mean, where there are any."""
    cells = [cell for row in group.rows for cell in row.cells.values()]
    notes = []
    if any(cell.best for cell in cells):
        notes.append(f"best in {best}, second best {second}")
    if any(cell.close for cell in cells):
        notes.append(close_note())
    if any(cell.standard_error is not None for cell in cells):
        notes.append(error_note())
    return notes


def close_note() -> str:
    """What the mark ``~`` says."""
    return (
        f"{MARKS['close']} within {CLOSE:g} standard errors of the difference from the best: not told apart by these "
        "questions"
    )


def error_note() -> str:
    """What stands behind a number."""
    return "± standard error (questions), sd standard deviation over repeats"


CSV_COLUMNS = (
    "source", "table", "base_model", "base_model_id", "model", "model_id", "label", "setting", "dataset", "ratio",
    "preference", "selection_id", "train_run_id", "run_ids", "backend", "protocol", "scoring", "column", "questions",
    "n", "repeats", "accuracy", "standard_error", "spread", "strict", "unanswered", "best", "second", "close",
    "expected",
)  # fmt: skip
"""Columns of :func:`csv_text`; ``table`` counts the tables from 1, ``column`` is a benchmark or an average."""


def csv_text(results: Results) -> str:
    """One row a number, unrounded, for other programs; an empty cell is unknown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for number, group in enumerate([*results.groups, *results.published], start=1):
        for row in group.rows:
            about = {
                "source": "store" if row.table is None else f"arXiv 2508.01450, Table {row.table}",
                "table": number,
                "base_model": group.base,
                "base_model_id": group.base_model_id,
                "model": row.model,
                "model_id": row.model_id,
                "label": row.label,
                "setting": row.setting,
                "dataset": row.dataset,
                "ratio": row.ratio,
                "preference": row.preference,
                "selection_id": row.selection_id,
                "train_run_id": row.train_run_id,
                "run_ids": " ".join(str(one) for one in row.run_ids),
                "backend": group.backend,
                "protocol": canonical_json(group.protocol) if group.protocol else None,
                "scoring": results.scoring if row.table is None else None,
            }
            for name in group.columns:
                if name in row.cells:
                    writer.writerow(
                        {**about, "column": name, "questions": group.questions.get(name), **asdict(row.cells[name])}
                    )
    return text.getvalue()


EXPORTS: dict[str, Callable[[Results], str]] = {"markdown": markdown, "csv": csv_text, "latex": latex}
"""What makes the text of a file, by its format."""
