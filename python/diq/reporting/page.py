"""A report as one HTML file that opens offline: it holds its charts' data and the library that draws them.

Nothing is fetched and no text of a dataset can run: texts are escaped, and the page's Content-Security-Policy allows
its own two scripts and its style, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diq.base.command import shell
from diq.base.text import amount, cell
from diq.reporting.blocks import Block, Commands, Figure, Listed, Samples, Section, Table, Words
from diq.reporting.markup import cut, escaped, marked

_STATIC = Path(__file__).parent / "static"
# characters of one text of a sample, and of all texts of a page
_MOST_OF_A_TEXT = 4000
_MOST_OF_ALL = 700_000


def page(title: str, about: str, sections: Sequence[Section]) -> str:
    """The whole file.

    Args:
        title: of the page.
        about: a line below it: the store, the date, the version.
        sections: what it shows.
    """
    style = (_STATIC / "report.css").read_text(encoding="utf-8")
    has_charts = any(isinstance(block, Figure) for section in sections for block in section.blocks)
    scripts = [_vega(), (_STATIC / "report.js").read_text(encoding="utf-8")] if has_charts else []
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts)) or _NONE}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        f'<header><h1>{escaped(title)}</h1><p class="quiet">{escaped(about)}</p></header>',
        "<nav><ul>",
        *(f'<li><a href="#part-{number}">{escaped(one.title)}</a></li>' for number, one in enumerate(sections)),
        "</ul></nav>\n<main>",
    ]
    limit = _text_limit(sections)
    numbers = iter(range(10**6))
    for number, one in enumerate(sections):
        parts.append(f'<section><h2 id="part-{number}">{escaped(one.title)}</h2>')
        parts += _blocks(one.blocks, limit, numbers)
        parts.append("</section>")
    parts.append("</main>")
    parts += [f"<script>{one}</script>" for one in scripts]
    if scripts:
        parts.append(
            "<noscript><p>The charts are drawn by a script of this page, which is switched off.</p></noscript>"
        )
    parts.append("</body>\n</html>\n")
    return "\n".join(parts)


_NONE = "'none'"


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _vega() -> str:
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # no text of the library ends the script element that it stands in
    return bundle.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _blocks(blocks: Sequence[Block], limit: int, numbers: Iterator[int]) -> Iterator[str]:
    drawn = False
    for block in blocks:
        if isinstance(block, Figure) != drawn:
            # charts stand side by side where there is room
            drawn = not drawn
            yield '<div class="charts">' if drawn else "</div>"
        if isinstance(block, Figure):
            yield from _figure(block, next(numbers))
        elif isinstance(block, Words):
            yield f"<p{' class=note' if block.is_note else ''}>{_words(block.text)}</p>"
        elif isinstance(block, Table):
            yield from _table(block)
        elif isinstance(block, Commands):
            yield f"<pre>{escaped(chr(10).join(block.lines))}</pre>"
        elif isinstance(block, Samples):
            yield from _samples(block, limit)
    if drawn:
        yield "</div>"


def _words(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped(text))


def _figure(figure: Figure, number: int) -> Iterator[str]:
    spec = json.dumps(_rounded(figure.spec), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # a data block ends at the first end tag, whatever stands round it
    safe = spec.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    name, key = escaped(figure.spec["title"]["text"]), escaped(figure.key)
    yield f'<figure><div data-spec="spec-{number}" data-key="{key}" role="img" aria-label="{name}"></div>'
    yield f'<script type="application/json" id="spec-{number}">{safe}</script></figure>'


def _rounded(value: Any) -> Any:
    """Numbers of a chart at six digits, which is more than a screen shows."""
    if isinstance(value, float):
        short = float(f"{value:.6g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value


def _table(table: Table) -> Iterator[str]:
    columns = list(zip(*table.rows, strict=True))
    is_number = [
        bool(column) and all(isinstance(one, int | float) or one is None for one in column) for column in columns
    ]
    is_number += [False] * (len(table.head) - len(is_number))

    def cells(tag: str, row: Sequence[Any]) -> str:
        return "".join(
            f"<{tag}{' class=number' if number else ''}>{escaped(cell(one))}</{tag}>"
            for one, number in zip(row, is_number, strict=True)
        )

    yield f'<h3>{escaped(table.title)}</h3><div class="scroll"><table>'
    yield f"<thead><tr>{cells('th', table.head)}</tr></thead><tbody>"
    for row in table.rows:
        yield f"<tr>{cells('td', row)}</tr>"
    yield "</tbody></table></div>"
    for note in table.notes:
        yield f'<p class="quiet">{escaped(note)}</p>'


# samples -------------------------------------------------------------------------------------------------------------


def _text_limit(sections: Sequence[Section]) -> int:
    """Characters of each text, so that all of them together stay below the page's share."""
    lengths = sorted(
        len(text)
        for section in sections
        for block in section.blocks
        if isinstance(block, Samples)
        for sample in block.samples
        for _, text in _texts(sample)
    )
    left = _MOST_OF_ALL
    for done, length in enumerate(lengths):
        if length * (len(lengths) - done) > left:
            return min(_MOST_OF_A_TEXT, left // (len(lengths) - done))
        left -= length
    return _MOST_OF_A_TEXT


def _texts(sample: Listed) -> Iterator[tuple[str, str]]:
    """Each text of a sample with whose it is."""
    for messages, refused in ((sample.messages, ""), (sample.rejected, "refused ")):
        for message in messages or ():
            if message.get("reasoning_content"):
                yield f"{refused}{message['role']}, reasoning", message["reasoning_content"]
            if message.get("content"):
                yield f"{refused}{message['role']}", message["content"]
            for key in ("tool_calls", "tools"):
                if message.get(key):
                    yield (
                        f"{refused}{message['role']}, {key.replace('_', ' ')}",
                        json.dumps(message[key], ensure_ascii=False),
                    )


def _samples(block: Samples, limit: int) -> Iterator[str]:
    yield f'<h3>{escaped(block.title)}</h3><p class="quiet">{escaped(block.about)}</p>'
    for sample in block.samples:
        why = "".join(f"<span>{escaped(name)} <b>{escaped(value)}</b></span>" for name, value in sample.why)
        yield f'<details><summary><span class="why">{why}</span></summary><div class="sample">'
        yield f'<p class="quiet">{escaped(sample.place)}; id <code>{escaped(sample.sample_id)}</code></p>'
        left_out = 0
        for role, text in _texts(sample):
            shown, more = cut(text, limit)
            left_out += more
            end = f'<span class="quiet"> … {amount(more, "more character")}</span>' if more else ""
            yield f'<p class="role">{escaped(role)}</p><div class="said" dir="auto">{marked(shown)}{end}</div>'
        if left_out:
            command = escaped(shell(["diq", "show", block.dataset, sample.sample_id]))
            shown = f"<code>{command}</code> shows all"
            yield f'<p class="quiet">Left out: {amount(left_out, "character")}; {shown}.</p>'
        if sample.messages is not None and sample.tokens is not None:
            yield from _tokens(sample.tokens)
        yield "</div></details>"


def _tokens(tokens: Sequence[tuple[str, float | None]]) -> Iterator[str]:
    """Tokens in the colour of what each adds to the dot: blue adds, orange takes away; none of the prompt's has one."""
    largest = max((abs(term) for _, term in tokens if term is not None), default=0.0)
    spans = []
    for text, term in tokens:
        # four steps of each colour, on the square root: one token often carries most
        step = 0 if term is None or not largest else min(4, int(4 * (abs(term) / largest) ** 0.5 + 0.5))
        name = f' class="{"p" if (term or 0) > 0 else "m"}{step}"' if step else ""
        value = "" if term is None else f' title="{term:.3g}"'
        spans.append(f"<span{name}{value}>{marked(text)}</span>")
    yield '<p class="role">tokens by what they add to the dot: blue adds, orange takes away</p>'
    # in one piece: white space between them would be shown
    yield f'<div class="tokens" dir="auto">{"".join(spans)}</div>'
