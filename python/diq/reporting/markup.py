"""Text as HTML in which nothing runs and nothing is hidden."""

from __future__ import annotations

import html
import re
import unicodedata

# controls but for the line feed and the tab, and what is there without being seen: marks of direction, of width zero,
# tags, separators. Joiners inside of words and emoji are how some scripts are written.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
    r"|(?<![^\W\d_])[\u200c\u200d]|[\u200c\u200d](?![^\W\d_\u200d]|[\u2190-\u2bff\U0001f000-\U0001faff])"
)
_JOINED_EMOJI = re.compile(
    "(?<=[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])\u200d(?=[\u2190-\u2bff\U0001f000-\U0001faff])"
)
_KEPT = "\ue07f"


def escaped(text: object) -> str:
    """A text for the inside of an element or of a quoted attribute.

    Characters that cannot be seen, and those that turn the order of others round, become their code points: a reader
    of data must see what a model would read.
    """
    told = str(text).encode("utf-8", "backslashreplace").decode("utf-8").replace("\r\n", "\n")
    told = _JOINED_EMOJI.sub(_KEPT, told)
    told = html.escape(_HIDDEN.sub(lambda found: f"⟦U+{ord(found[0]):04X}⟧", told))
    return told.replace(_KEPT, "\u200d")


def marked(text: str) -> str:
    """As `escaped`, with each code point that was made visible set apart and named."""
    return re.sub(r"⟦U\+([0-9A-F]{4,6})⟧", _mark, escaped(text))


def _mark(found: re.Match[str]) -> str:
    name = unicodedata.name(chr(int(found[1], 16)), "control character").lower()
    return f'<span class="hidden" title="{html.escape(name)}">U+{found[1]}</span>'


def cut(text: str, most: int) -> tuple[str, int]:
    """The start of a text, and how many characters were left out."""
    if len(text) <= most + most // 5:
        return text, 0
    return text[:most], len(text) - most
