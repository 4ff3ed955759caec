"""Charts of aggregates, as Vega-Lite: one look, one set of words; no store is asked here.

Each function gives the specification of one chart, with the data in it; `diq.plot` makes Altair charts of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diq.base.text import amount
from diq.costs.account import Account
from diq.evaluation.groups import Group, Results
from diq.plot.data import Drawn
from diq.selection.quadrants import QUADRANTS

Spec = dict[str, Any]

# Okabe and Ito's palette, which colour-blind people tell apart; never red against green
QUADRANT_COLOURS = dict(zip(QUADRANTS, ("#0072B2", "#56B4E9", "#E69F00", "#999999"), strict=True))
_BLUE, _ORANGE, _GREY, _RED = "#0072B2", "#E69F00", "#999999", "#D55E00"
_STRATEGY_COLOURS = {
    "diq": _BLUE,
    "random": _GREY,
    "influence": _ORANGE,
    "less": _RED,
    "perplexity": "#CC79A7",
    "similarity": "#F0E442",
    "length": "#DDCC77",
    "ifd": "#AA4499",
    "bm25": "#117733",
    "rds": "#88CCEE",
    "pass_rate": "#6699CC",
    "knowledge": "#332288",
    "reasoning": "#882255",
    "overall": "#44AA99",
}
_SERIES = [_BLUE, _ORANGE, "#CC79A7", "#56B4E9", _GREY, "#F0E442", "#882255", "#44AA99"]
# without the darkest quarter, which a dark page swallows
_DENSITY = {"type": "log", "scheme": {"name": "viridis", "extent": [0.25, 1]}}
_MEANINGS = {"Q1": "hard, helpful", "Q2": "easy, helpful", "Q3": "hard, less helpful", "Q4": "easy, less helpful"}
_WIDTH = 420

# words and lines take the colour of the page that they lie in, so one chart serves light, dark and paper
_INK = "currentColor"
_DASHED = {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.2, "color": _INK}
_CONFIG: Spec = {
    "font": "system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _INK,
        "titleColor": _INK,
        "domainColor": _INK,
        "tickColor": _INK,
        "gridColor": _INK,
        "gridOpacity": 0.12,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
    },
    "legend": {"labelColor": _INK, "titleColor": _INK, "titleFontWeight": "normal", "labelFontSize": 11},
    "title": {
        "color": _INK,
        "subtitleColor": _INK,
        "anchor": "start",
        "fontSize": 14,
        "subtitleFontSize": 11.5,
        "subtitlePadding": 4,
        "offset": 10,
    },
    "header": {"labelColor": _INK, "titleColor": _INK, "labelFontSize": 11},
    "text": {"color": _INK, "fontSize": 11},
}


def _chart(title: str, subtitle: str | Sequence[str], **body: Any) -> Spec:
    lines = [subtitle] if isinstance(subtitle, str) else list(subtitle)
    told = {"text": title, **({"subtitle": lines} if any(lines) else {})}
    return {"background": "transparent", "title": told, "config": _CONFIG, **body}


def _values(rows: Sequence[Mapping[str, Any]]) -> Spec:
    return {"values": [dict(one) for one in rows]}


def _number(field: str, title: str | None = None, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _name(field: str, title: str | None = None, **more: Any) -> Spec:
    return {"field": field, "type": "nominal", "title": title, **more}


def _tips(**formats: str) -> list[Spec]:
    """Tooltips: field to its title, and behind a bar its format."""
    found = []
    for field, told in formats.items():
        title, _, form = told.partition("|")
        kind = "quantitative" if form else "nominal"
        found.append({"field": field, "type": kind, "title": title, **({"format": form} if form else {})})
    return found


def _signed(field: str, title: str, facts: Mapping[str, Any], **scale: Any) -> Spec:
    """A channel of dots: logarithmic on both sides of zero, with powers of ten as ticks."""
    if facts["scale"] is None:
        return _number(field, title, scale={"zero": False, **scale})
    shown = facts["ticks"]
    if len(shown) > 9:
        # every second or third power of ten, and zero
        powers = sorted({abs(one) for one in shown if one}, reverse=True)[:: math.ceil(len(shown) / 9)]
        shown = [one for one in shown if one == 0 or abs(one) in powers]
    symlog = {"type": "symlog", "constant": facts["scale"], "zero": False, "nice": False, **scale}
    return _number(field, title, scale=symlog, axis={"values": shown, "format": ".6~g"})


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


# the plane -----------------------------------------------------------------------------------------------------------


def quadrants(drawn: Drawn, name: str, model: str | None, selection: str | None) -> Spec:
    """The heat map of the plane with its thresholds, the counts of the quadrants and the outline of a selection."""
    facts = drawn.facts
    (left, right), (low, high) = facts["levels"], facts["dots"]
    axis = {"format": ".6~g", "grid": False, **({"tickMinStep": 1} if facts["is_whole"] else {})}
    x = _number(
        "level",
        f"{facts['dimension']} difficulty",
        scale={"domain": [left, right], "nice": False, "zero": False},
        axis=axis,
    )
    kind = facts["influence"]
    # the padding is for the names of the quadrants
    y = _signed(
        "dot",
        f"influence: {facts['influence']} with the validation gradient of {model}",
        facts,
        domain=[low, high],
        padding=20,
    )
    ends = {"x2": {"field": "level_end"}, "y2": {"field": "dot_end"}}
    tips = _tips(level="difficulty from|.3g", dot="influence from|.3g", n="samples|,", taken="selected|,")
    layers: list[Spec] = [
        {
            "data": _values(drawn.rows),
            "mark": {"type": "rect", "stroke": None},
            "encoding": {"x": x, "y": y, **ends, "color": _number("n", "samples", scale=_DENSITY), "tooltip": tips},
        }
    ]
    if facts["outline"]:
        layers.append(
            {
                "data": _values(facts["outline"]),
                "mark": {"type": "rule", "color": _RED, "strokeWidth": 1.6},
                "encoding": {"x": x, "y": y, **ends},
            }
        )
    layers.append({"data": _values([{"level": facts["tau"]}]), "mark": _DASHED, "encoding": {"x": x}})
    layers.append({"data": _values([{"dot": facts["median"]}]), "mark": _DASHED, "encoding": {"y": y}})
    for quadrant, (level, dot) in {
        "Q1": (right, high),
        "Q2": (left, high),
        "Q3": (right, low),
        "Q4": (left, low),
    }.items():
        text = f"{quadrant} {facts['counts'][quadrant]:,}"
        if facts["taken"] is not None:
            text += f", {facts['taken'][quadrant]:,} selected"
        mark = {"type": "text", "fontWeight": 600, "align": "right" if level == right else "left"}
        mark |= {"baseline": "bottom" if dot == high else "top", "dx": -2 if level == right else 2}
        mark["dy"] = -5 if dot == high else 5
        layers.append(
            {
                "data": _values([{"level": level, "dot": dot, "text": text}]),
                "mark": mark,
                "encoding": {"x": x, "y": y, "text": _name("text")},
            }
        )
    cuts = f"tau = {facts['tau']:.4g} and the median {kind}, {facts['median']:.3g}"
    lines = [f"{amount(facts['n'], 'sample')}; dashed: {cuts}"]
    if selection is not None:
        lines.append(f"outlined: cells of which {selection} takes more than half")
    return _chart(f"Difficulty and influence of {name}", lines, layer=layers, width=_WIDTH, height=340)


def difficulty_levels(drawn: Drawn) -> Spec:
    """Bars of the levels of each dimension, by dataset and quadrant."""
    dimensions = drawn.facts["dimensions"]
    datasets = list(dict.fromkeys(one["dataset"] for one in drawn.rows))
    rows = [{**one, "quadrant": one["quadrant"] or "not ranked"} for one in drawn.rows]
    colours = {**QUADRANT_COLOURS, "not ranked": "#444444"}
    shown = [name for name in colours if any(one["quadrant"] == name for one in rows)]
    scale = {"domain": shown, "range": [colours[one] for one in shown]}
    bars = {
        "mark": "bar",
        "width": max(90, _WIDTH // len(dimensions) - 24),
        "height": 130,
        "encoding": {
            "x": {"field": "level", "type": "ordinal", "title": "level", "axis": {"labelAngle": 0}},
            "y": _number("share", "share of the samples", axis={"format": "%"}),
            "color": _name("quadrant", scale=scale, legend={"orient": "bottom"}),
            "order": {"field": "quadrant", "type": "ordinal"},
            "tooltip": _tips(dataset="dataset", dimension="dimension", level="level|d", quadrant="quadrant")
            + _tips(n="samples|,", share="share|.1%"),
        },
    }
    facet = {
        "column": _name("dimension", sort=dimensions),
        "row": _name("dataset", sort=datasets, header={"labelAngle": 0, "labelAlign": "left", "labelLimit": 120}),
    }
    if len(datasets) == 1:
        del facet["row"]
    meaning = "; ".join(f"{name} {_MEANINGS[name]}" for name in shown if name in _MEANINGS)
    return _chart("Levels of difficulty", meaning, data=_values(rows), facet=facet, spec=bars)


# dots ----------------------------------------------------------------------------------------------------------------


def influence(drawn: Drawn, name: str, model: str | None) -> Spec:
    """A histogram of the dots for each validation set, with the median and a standard error."""
    parts = []
    for task, facts in drawn.facts["sets"].items():
        x = _signed("dot", "dot", facts)
        words = [f"median {facts['median']:.3g}"]
        layers: list[Spec] = []
        if facts["standard_error"] is not None:
            error = facts["standard_error"]
            layers.append(
                {
                    "data": _values([{"dot": facts["median"] - error, "dot_end": facts["median"] + error}]),
                    "mark": {"type": "rect", "color": _ORANGE, "opacity": 0.45},
                    "encoding": {"x": x, "x2": {"field": "dot_end"}},
                }
            )
            words.append(f"shaded: one standard error of a dot, {error:.2g}, on each side")
        layers.append(
            {
                "data": _values([one for one in drawn.rows if one["validation_set"] == task]),
                "mark": {"type": "rect", "color": _BLUE, "stroke": None},
                "encoding": {
                    "x": x,
                    "x2": {"field": "dot_end"},
                    "y": _number("n", "samples", axis={"format": "~s", "tickCount": 4}),
                    "y2": {"datum": 0},
                    "tooltip": _tips(dot="from|.3g", dot_end="to|.3g", n="samples|,"),
                },
            }
        )
        layers.append({"data": _values([{"dot": facts["median"]}]), "mark": _DASHED, "encoding": {"x": x}})
        if facts["n_without"]:
            words.append(f"{facts['n_without']:,} without a finite dot")
        size = f" ({amount(facts['n_samples'], 'sample')})" if facts["n_samples"] else ""
        title = {"text": f"{task}{size}", "subtitle": "; ".join(words), "fontSize": 12}
        parts.append({"title": title, "layer": layers, "width": _WIDTH, "height": 110})
    subtitle = "bins of equal width on the axis, which is logarithmic away from zero"
    return _chart(f"Influence of {name} on each validation set, by {model}", subtitle, vconcat=parts, spacing=20)


def length_bias(drawn: Drawn, name: str, selection: str | None) -> Spec:
    """Dots by the number of answer tokens, and below how much of each length a selection takes."""
    facts = drawn.facts
    rows = [{**one, "end": one["high"] + 1} for one in drawn.rows]
    x = _number("low", "answer tokens", scale={"type": "log", "nice": False}, axis={"format": "~s"})
    tips = _tips(low="tokens from|,", high="to|,", n="samples|,", median="median|.3g", taken="selected|,")

    def span(low: str, high: str, opacity: float) -> Spec:
        places = {"x": x, "x2": {"field": "end"}, "y": _signed(low, facts["influence"], facts), "y2": {"field": high}}
        return {
            "mark": {"type": "rect", "color": _BLUE, "opacity": opacity, "stroke": None},
            "encoding": {**places, "tooltip": tips},
        }

    middle = {
        "mark": {"type": "rule", "color": _INK, "strokeWidth": 2},
        "encoding": {
            "x": x,
            "x2": {"field": "end"},
            "y": _signed("median", facts["influence"], facts),
            "tooltip": tips,
        },
    }
    layers = [span("p10", "p90", 0.25), span("p25", "p75", 0.45), middle]
    parts: list[Spec] = [{"layer": layers, "width": _WIDTH, "height": 180}]
    words = ["line: median; dark: middle half; light: middle 80 % of the samples of that length"]
    if selection is not None:
        bars = {
            "mark": {"type": "rect", "color": _ORANGE, "stroke": None},
            "encoding": {
                "x": x,
                "x2": {"field": "end"},
                "y": _number("taken_share", "selected", axis={"format": "%", "tickCount": 4}),
                "y2": {"datum": 0},
                "tooltip": [*tips, *_tips(taken_share="share selected|.2%")],
            },
        }
        line = {
            "data": _values([{"taken_share": facts["taken_share"]}]),
            "mark": _DASHED,
            "encoding": {"y": _number("taken_share", "selected")},
        }
        parts.append({"layer": [bars, line], "width": _WIDTH, "height": 90})
        words.append(f"below: the share that {selection} takes; dashed: of all lengths together")
    return _chart(f"Length and influence of {name}", words, data=_values(rows), vconcat=parts, spacing=12)


def stability(drawn: Drawn, name: str) -> Spec:
    """Places in the rankings of the two halves of the validation samples."""
    facts = drawn.facts
    one, other = facts["half_sizes"]
    plain = {"format": "%", "grid": False}
    x = _number("one", f"place by one half ({amount(one, 'sample')}); 0 % is best", axis=plain)
    y = _number("other", f"place by the other half ({other:,})", axis=plain, scale={"reverse": True})
    cells = {
        "data": _values(drawn.rows),
        "mark": {"type": "rect", "stroke": None},
        "encoding": {
            "x": x,
            "x2": {"field": "one_end"},
            "y": y,
            "y2": {"field": "other_end"},
            "color": _number("n", "samples", scale=_DENSITY),
            "tooltip": _tips(one="one half|.0%", other="other half|.0%", n="samples|,"),
        },
    }
    thin = {**_DASHED, "strokeWidth": 0.8}
    layers = [
        cells,
        {"data": _values([{"one": end} for end in facts["ends"][0]]), "mark": thin, "encoding": {"x": x}},
        {"data": _values([{"other": end} for end in facts["ends"][1]]), "mark": thin, "encoding": {"y": y}},
    ]
    subtitle = [
        "two halves of the validation samples rank the same data: the nearer to the diagonal, the less is chance;",
        f"dashed: where Q1, Q2 and Q3 end. A {facts['influence']} across the median moves by two quadrants",
    ]
    flips = "; ".join(f"{_percent(share)} at {100 * float(text):g} %" for text, share in facts["flips"].items())
    if flips:
        subtitle.append(f"share of a selection that differs between them: {flips}")
    return _chart(f"How stable the ranking of {name} is", subtitle, layer=layers, width=320, height=320)


def tasks(drawn: Drawn, name: str, selection: str) -> Spec:
    """Share of each task in a selection against its share in the dataset."""
    order = [one["task"] for one in sorted(drawn.rows, key=lambda one: -one["share"])]
    rows = [
        {"task": one["task"], "of": of, "share": one[field], "n": one[count]}
        for one in drawn.rows
        for of, field, count in (("dataset", "dataset_share", "n_dataset"), ("selection", "share", "n"))
    ]
    y = _name("task", sort=order)
    x = _number("share", "share of the samples", axis={"format": "%"})
    of = ["dataset", "selection"]
    layers = [
        {
            "data": _values(drawn.rows),
            "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.4, "color": _INK},
            "encoding": {"y": y, "x": _number("dataset_share", "share of the samples"), "x2": {"field": "share"}},
        },
        {
            "data": _values(rows),
            "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
            "encoding": {
                "y": y,
                "x": x,
                "color": _name("of", scale={"domain": of, "range": [_GREY, _BLUE]}),
                "shape": _name("of", scale={"domain": of}),
                "tooltip": _tips(task="task", of="of", n="samples|,", share="share|.1%"),
            },
        },
    ]
    subtitle = f"the task that each sample of {name} is closest to"
    return _chart(f"Tasks that {selection} prefers", subtitle, layer=layers, width=_WIDTH, height={"step": 26})


# selections, models, costs -------------------------------------------------------------------------------------------


def overlap(drawn: Drawn) -> Spec:
    """What each two selections share."""
    names = drawn.facts["names"]
    colour = _number("share", "of the smaller", scale={"domain": [0, 1], "scheme": "blues"}, legend={"format": "%"})
    cells = {
        "mark": "rect",
        "encoding": {"color": colour, "tooltip": _tips(a="one", b="other", shared="shared|,", share="share|.1%")},
    }
    dark = {"condition": {"test": "datum.share > 0.55", "value": "white"}, "value": "#222222"}
    words = {"mark": "text", "encoding": {"text": _number("share", format=".0%"), "color": dark}}
    return _chart(
        "What selections share",
        "samples in both, as a share of the smaller selection",
        data=_values(drawn.rows),
        layer=[cells, words],
        encoding={
            "x": _name("a", sort=names, axis={"labelAngle": -40, "labelLimit": 220}),
            "y": _name("b", sort=names, axis={"labelLimit": 220}),
        },
        width={"step": 56},
        height={"step": 34},
    )


def ratios(results: Results, average: str = "all") -> Spec | None:
    """Average accuracy against the ratio kept, a panel a base model; None where no row has the average."""
    groups = [(one, "measured here") for one in results.groups] + [(one, "the paper") for one in results.published]
    rows = [row for group, source in groups for row in _ratio_rows(group, average, source)]
    if not rows:
        return None
    used = {one["strategy"] for one in rows if one["ratio"] is not None}
    strategies = [name for name in _STRATEGY_COLOURS if name in used]
    strategies += sorted(used - set(strategies))
    colours = [_STRATEGY_COLOURS.get(name, "#666666") for name in strategies]
    colour = _name("strategy", scale={"domain": strategies, "range": colours})
    sources = [name for name in ("measured here", "the paper") if any(one["source"] == name for one in rows)]
    models = list(dict.fromkeys(one["model"] for one in rows))
    panels = [_ratio_panel(name, [one for one in rows if one["model"] == name], colour, sources) for name in models]
    over = {"all": "all", "standard": "the standard", "challenging": "the challenging"}[average]
    return _chart(
        f"Accuracy over {over} benchmarks and ratio kept",
        [
            *(["bars: one standard error on each side"] if any(one["low"] < one["accuracy"] for one in rows) else []),
            *(["beside a line: the model whose dots chose"] if any(one["by"] for one in rows) else []),
        ],
        vconcat=panels,
        resolve={"scale": {"color": "shared"}},
    )


def _ratio_panel(model: str, rows: Sequence[Mapping[str, Any]], colour: Spec, sources: Sequence[str]) -> Spec:
    """The lines of one base model, and as rules across what has no ratio: not trained, and trained on everything."""
    ticks = [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    x = _number("ratio", "ratio kept", scale={"type": "log"}, axis={"format": "~%", "values": ticks})
    y = _number("accuracy", "average accuracy", axis={"format": "%"}, scale={"zero": False})
    tips = _tips(model="model", label="trained on", source="from", ratio="ratio|~%", accuracy="accuracy|.2%")
    source = _name("source", scale={"domain": sources})
    kept = [one for one in rows if one["ratio"] is not None]
    flat = [one for one in rows if one["ratio"] is None]
    layers: list[Spec] = []
    if kept:
        places = {"x": x, "y": y, "color": colour}
        point = {"type": "point", "filled": True, "size": 60, "opacity": 1}
        line = {**places, "strokeDash": source, "detail": _name("series")}
        ends = {"y": _number("low", "average accuracy"), "y2": {"field": "high"}}
        data = _values(kept)
        layers += [
            {"data": data, "mark": "line", "encoding": line},
            {"data": data, "mark": "rule", "encoding": {**places, **ends}},
            {"data": data, "mark": point, "encoding": {**places, "shape": source, "tooltip": tips}},
        ]
        # lines of one colour are told apart by whose dots they are
        last: dict[str, Mapping[str, Any]] = {}
        for one in sorted(kept, key=lambda one: one["ratio"]):
            last[one["series"]] = one
        if named := [one for one in last.values() if one["by"]]:
            word = {"type": "text", "align": "left", "dx": 7, "fontSize": 10}
            layers.append({"data": _values(named), "mark": word, "encoding": {"x": x, "y": y, "text": _name("by")}})
    if flat:
        # on the right, where a ratio of 100 % would be
        word = {"type": "text", "align": "right", "dx": -4, "dy": -6, "limit": _WIDTH}
        data = _values(flat)
        layers += [
            {"data": data, "mark": {**_DASHED, "strokeDash": [2, 3]}, "encoding": {"y": y, "tooltip": tips}},
            {"data": data, "mark": word, "encoding": {"x": {"value": _WIDTH}, "y": y, "text": _name("label")}},
        ]
    title = {"text": model, "fontSize": 12, "fontWeight": "normal"}
    return {"title": title, "layer": layers, "width": _WIDTH, "height": 200 if kept else 90}


def _ratio_rows(group: Group, average: str, source: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in group.rows:
        cell = line.cells.get(average)
        if cell is None:
            continue
        error = cell.standard_error or 0.0
        strategy = {"base": "not trained", "full": "everything"}.get(line.setting, line.setting)
        more = f", then DPO{f' on {line.preference}' if line.preference else ''}" if line.preference is not None else ""
        by = f", by dots of {line.influence}" if line.influence else ""
        told = f"{strategy}{f' of {line.dataset}' if line.dataset else ''}{by}{more} ({source})"
        found.append(
            {
                "model": group.base,
                "source": source,
                "strategy": strategy,
                # a line of the paper may be one of several with the same settings, by other models' dots
                "series": f"{line.dataset} {strategy} {line.preference} {source} {line.influence}",
                "by": line.influence or "",
                "table": line.table,
                "label": told,
                "ratio": float(line.ratio) if line.ratio is not None and line.setting != "full" else None,
                "accuracy": cell.accuracy,
                "low": cell.accuracy - error,
                "high": cell.accuracy + error,
            }
        )
    # tables that repeat a line in other numbers are two lines
    places: dict[tuple[Any, Any], set[Any]] = {}
    for row in found:
        places.setdefault((row["series"], row["ratio"]), set()).add(row["accuracy"])
    differing = {series for (series, _), values in places.items() if len(values) > 1}
    for row in found:
        if row["series"] in differing:
            row["series"] += f" {row['table']}"
    return found


def cost(found: Account) -> Spec:
    """FLOPs of every step, counted in full and by the paper's formulas."""
    hows = {"counted in full": "flops", "the paper's formula": "paper"}
    rows = [
        {"step": step.name, "how": how, "flops": getattr(step, field), "share": step.of_full_training}
        for step in found.steps
        for how, field in hows.items()
        if getattr(step, field)
    ]
    encoding = {
        "y": _name("step", sort=[step.name for step in found.steps], axis={"labelLimit": 260}),
        "x": _number("flops", "FLOPs", scale={"type": "log"}, axis={"format": ".0e", "tickCount": 6}),
        "color": _name("how", scale={"domain": list(hows), "range": [_BLUE, _ORANGE]}, legend={"orient": "bottom"}),
        "shape": _name("how", scale={"domain": list(hows)}, legend={"orient": "bottom"}),
        "tooltip": _tips(step="step", how="how", flops="FLOPs|.3e", share="of training on everything|.2%"),
    }
    return _chart(
        f"What it costs with {found.plan.size.name}",
        f"{amount(int(found.plan.lengths.n), 'sample')}",
        data=_values(rows),
        mark={"type": "point", "filled": True, "size": 90, "opacity": 1},
        encoding=encoding,
        width=_WIDTH,
        height={"step": 26},
    )


def losses(drawn: Drawn) -> Spec:
    """Loss curves of trainings."""
    trainings = list(dict.fromkeys(one["training"] for one in drawn.rows))
    legend = {"orient": "bottom", "columns": 1, "labelLimit": 400}
    encoding = {
        "x": _number("step", "optimizer step"),
        "y": _number("loss", "loss (nats a token)", scale={"zero": False}),
        "color": _name("training", sort=trainings, scale={"range": _SERIES}, legend=legend),
        "tooltip": _tips(training="training", curve="curve", step="step|d", loss="loss|.4f"),
    }
    # points of their own: those of a line take the dashes out of its legend
    dashes = {"strokeDash": _name("curve", legend={"orient": "bottom", "symbolType": "stroke", "symbolSize": 600})}
    curves = {**encoding, "detail": _name("curve")}
    return _chart(
        "Losses of trainings",
        "each point is the mean since the point before",
        data=_values(drawn.rows),
        layer=[
            {"mark": "line", "encoding": {**encoding, **dashes}},
            {"mark": {"type": "point", "filled": True, "size": 16}, "encoding": curves},
        ],
        width=_WIDTH,
        height=240,
    )
