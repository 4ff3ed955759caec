"""Text for messages and options: shortening, suggestions, and a ratio as it was typed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from diq.base.errors import UsageError


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio as the decimal that was typed: ``floor(100 * 0.57)`` is 57, not the 56 of binary floating point."""

    text: str
    numerator: int
    denominator: int

    @classmethod
    def parse(cls, value: str | float | Decimal) -> Ratio:
        """Read ``0.1``, ``1e-3``, ``10%`` or a number.

        Raises:
            UsageError: not a number, or not in (0, 1].
        """
        text = str(value).strip()
        hint = "give a number in (0, 1], such as 0.1, or a percentage, such as 10%"
        try:
            number = Decimal(text[:-1]) / 100 if text.endswith("%") else Decimal(text)
        except InvalidOperation:
            raise UsageError(f"the ratio `{text}` is not a number", hint) from None
        if not number.is_finite() or not 0 < number <= 1:
            raise UsageError(f"the ratio {text} is outside (0, 1]", hint)
        if number.adjusted() < -18:
            # no dataset has so many samples, and the exact fraction of 1e-999999999 fills memory
            raise UsageError(f"the ratio {text} is below 1e-18", hint)
        numerator, denominator = number.as_integer_ratio()
        return cls(format(number.normalize(), "f"), numerator, denominator)

    def of(self, n: int) -> int:
        """floor(n * ratio), exactly."""
        return n * self.numerator // self.denominator


def short(value: Any, *, width: int = 60) -> str:
    """A value on one line of at most ``width`` characters, for messages, wherever they are shown or kept."""
    text = visible(" ".join(str(value).split()))
    return text if len(text) <= width else text[: width - 1] + "…"


# C0 without tab and line feed, DEL, C1, separators of lines, marks and overrides of direction
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with each character that could steer a terminal, or hide from it, as its code: ``\\x1b``."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


# of an address: its user and password, what may be shown, and the query with what follows
_ADDRESS = re.compile(r"(?<=://)(?:[^\s/?#]*@)?([^\s?#]*)(?:[?#]\S*)?")


def without_secrets(text: str) -> str:
    """The text with each address less what may be secret in it: a user's name and password, and the query."""
    return _ADDRESS.sub(r"\1", text)


def cell(value: Any) -> str:
    """A value of a table as people read it: thousands separators, four significant digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, with the next where it ends in a colon, or its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # some hold a whole document on one line
    return short(" ".join(lines[: 2 if lines[0].endswith(":") else 1]), width=500)


def counted(reasons: Mapping[str, int], *, shown: int = 5) -> str:
    """Reasons with how often each was met, the commonest first; of many, how many others there are."""
    ordered = sorted(reasons.items(), key=lambda one: -one[1])
    rest = sum(n for _, n in ordered[shown:])
    told = [f"{reason} ({n:,})" for reason, n in ordered[:shown]]
    return "; ".join([*told, f"other reasons ({rest:,})"] if rest else told)


def amount(n: int, noun: str, plural: str = "") -> str:
    """A number with what it counts: ``1 sample``, ``2,000 samples``.

    Args:
        n: how many.
        noun: of one.
        plural: of more, where it is not ``noun`` with an s.
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {plural or f'{noun}s'}"


def check_choice(option: str, value: str | None, known: Sequence[str]) -> None:
    """Refuse a value that an option does not know; None is no value.

    Raises:
        UsageError: the value is unknown (the hint names the nearest known one).
    """
    if value is not None and value not in known:
        raise UsageError(f"{option} `{value}` is not known", did_you_mean(value, known))


def named_values(option: str, texts: Sequence[str], example: str, *, bare: bool = False) -> dict[str, str]:
    """``NAME=FILE`` texts by their names, in their order.

    Args:
        option: such as ``--outputs``, for messages.
        texts: as they were given.
        example: one of the right form, for messages.
        bare: whether a name may stand alone; its value is empty.

    Raises:
        UsageError: a text of another form, or a name that comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or bool(equals) != bool(value) or not (equals or bare):
            raise UsageError(f"{option} `{text}` is not of the form NAME=FILE", f"give it like {option} {example}")
        if name in found:
            raise UsageError(f"{option} names `{name}` twice", "name each once")
        found[name] = value
    return found


def did_you_mean(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """``did you mean `x`?`` or the list of known names; empty when nothing is known."""
    # imported here: difflib costs start-up time and only errors need it
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known: {', '.join(f'`{one}`' for one in names)}" if names else ""


def normalized(text: str) -> str:
    """The text in compatibility form (NFKC) and case folded, as words are compared; ``rust/ngram.rs`` splits it."""
    if text.isascii():
        return text.lower()
    # folding can leave what NFKC would compose or split
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
