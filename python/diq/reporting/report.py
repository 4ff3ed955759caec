"""The stage ``diq report``: what was asked of a store and what came out of it, as one page and as figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from diq.base.files import check_file, check_folder, disk_errors, write_text
from diq.base.options import verb
from diq.base.summary import Summary
from diq.plot.ground import opened
from diq.reporting import contents
from diq.reporting.blocks import Figure, Section, Words
from diq.reporting.options import ReportOptions
from diq.reporting.page import page
from diq.store.store import now


@dataclass(frozen=True, slots=True, repr=False)
class Report(Summary):
    """A report that was written.

    Attributes:
        output: the page.
        size_bytes: its size.
        sections: titles of its parts.
        figures: files of the charts, SVG and PDF of each.
        notes: what is missing or not as it was, a line each.
    """

    output: str
    size_bytes: int
    sections: list[str]
    figures: list[str]
    notes: list[str]


@verb(ReportOptions)
def report(options: ReportOptions) -> Report:
    """Write a page that shows datasets, scores and selections: in words, in charts, in tables and sample by sample.

    The store is only read. Where scores are missing the page says which command makes them, and shows what there is.

    Raises:
        UsageError: unknown names, a place that cannot be written, or the extra `report` is not installed.
        StoreError: the store is missing or held by another process.
        RunFailedError: the page could not be written.
    """
    # told at once where it is missing, not behind the minutes of counting
    import vl_convert  # noqa: F401

    output = Path(options.output)
    check_file(output, store=options.store_file)
    if options.figures is not None:
        check_folder(Path(options.figures))
    with opened(options.store_file) as store:
        made = list(contents.sections(store, options))
    title = "DIQ report: " + ", ".join(options.datasets or [one.title for one in made[:1]])
    about = f"store {options.store_file}, {now():%Y-%m-%d %H:%M} UTC, diq {version('diq')}"
    text = page(title, about, made)
    write_text(output, text)
    figures = [] if options.figures is None else _write_figures(Path(options.figures), made)
    notes = [one.text for part in made for one in part.blocks if isinstance(one, Words) and one.is_note]
    return Report(
        output=str(output),
        size_bytes=len(text.encode("utf-8")),
        sections=[one.title for one in made],
        figures=figures,
        # several parts may lack the same
        notes=list(dict.fromkeys(notes)),
    )


def _write_figures(folder: Path, made: Sequence[Section]) -> list[str]:
    """Every chart as SVG and PDF."""
    import vl_convert

    found = []
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for block in (one for part in made for one in part.blocks if isinstance(one, Figure)):
            name = re.sub(r"[^\w.-]+", "-", block.key).strip("-.") or "chart"
            spec = dict(block.spec)
            for suffix, content in (
                ("svg", vl_convert.vegalite_to_svg(spec).encode("utf-8")),
                ("pdf", vl_convert.vegalite_to_pdf(spec)),
            ):
                place = folder / f"{name}.{suffix}"
                place.write_bytes(content)
                found.append(str(place))
    return found
