"""What a model wrote as plain text and as words, so that two ways to write one thing are equal."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from diq.base.errors import UsageError
from diq.base.thinking import Tag


def spaced(words: Sequence[str]) -> str:
    # a space on both sides of every word, so that neighbours share none and a replacement misses none
    return "".join(f" {word} " for word in words)


BOX_OPEN, BOX_CLOSE = "\ue000", "\ue001"
_SUPERSCRIPT = re.compile(r"(?<=\d)[⁰¹²³⁴-⁹⁺⁻]+")
_CHARACTERS = {
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad" + BOX_OPEN + BOX_CLOSE),
    **dict.fromkeys("“”„«»『』「」″", '"'),
    **dict.fromkeys("‘’‚`´′", "'"),
    **dict.fromkeys("‐‑−", "-"),
    **dict.fromkeys("–—―", " - "),
    **dict.fromkeys("【〔《〈", "["),
    **dict.fromkeys("】〕》〉", "]"),
    "×": " x ",
    "·": " ",
}
_TRANSLATION = str.maketrans(_CHARACTERS)
_FRACTION = re.compile(r"\\[dtc]?frac\s*\{([^{}\n]{0,60})\}\s*\{([^{}\n]{0,60})\}")
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|cal|bb|normal)|mbox|hbox|operatorname|emph"
    r"|underline|rm|bf|ce)"
    r"(?![A-Za-z])\*?\s*"
)
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\boxed(?![A-Za-z])|[{}]")
_SPACING = re.compile(r"\\(?:[()\[\],;:! ]|(?:q?quad|left|right|displaystyle|big|Big)(?![A-Za-z]))|\$")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_MARKUP_TAG = re.compile(
    r"</?(?P<name>(?P<block>p|br|div|li|ul|ol|tr|h[1-6])|b|i|u|em|strong|span|sub|sup|code|font|mark|center)"
    r"(?:\s[^<>\n]{0,100})?/?>",
    re.IGNORECASE,
)


def plain_text(text: str) -> str:
    """The text without the marks of HTML, LaTeX and Markdown; case, lines and punctuation stay.

    A LaTeX box becomes two private characters round its content.
    """
    text = html.unescape(text)
    text = _SUPERSCRIPT.sub(lambda found: "^" + found[0], text)
    text = unicodedata.normalize("NFKC", text.translate(_TRANSLATION)).translate(_TRANSLATION)
    if "\\" in text:
        text = re.sub(r"\\n(?![a-z])", "\n", text)
        text = re.sub(r"\\[{}]", "", text)
        text = _FRACTION.sub(r" \1/\2 ", _FONT.sub("", text))
        text = re.sub(r"\\(?:times|cdot)(?![A-Za-z])", " x ", text)
    text = _without_braces(text)
    # the box of GLM
    text = text.replace("<|begin_of_box|>", BOX_OPEN).replace("<|end_of_box|>", BOX_CLOSE)
    text = _COMMAND.sub(r" \1 ", _SPACING.sub(" ", text)).replace("\\", "")
    text = _without_tags(text)
    text = re.sub(r"(?<=\d) ?\* ?(?=\d)", " x ", text)
    text = re.sub(r"\*|~~|(?<![^\W_])_+|_+(?![^\W_])", "", text)
    return re.sub(r"[^\S\n]+", " ", text)


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    # "<B>" alone is an answer; as a tag it is closed
    closed = {letter for letter in "biu" if f"</{letter}>" in text.lower()}

    def replace(tag: re.Match[str]) -> str:
        name = tag["name"].lower()
        return tag[0] if len(name) == 1 and name not in {*closed, "p"} else "\n" if tag["block"] else ""

    return _MARKUP_TAG.sub(replace, text)


def _without_braces(text: str) -> str:
    parts, start, boxes = list[str](), 0, list[bool]()
    for brace in _BRACE.finditer(text):
        parts.append(text[start : brace.start()])
        start = brace.end()
        if brace[0] == "}":
            parts.append(BOX_CLOSE if boxes and boxes.pop() else "")
        elif brace[0].endswith("{"):
            boxes.append(brace[0] != "{")
            parts.append(BOX_OPEN if boxes[-1] else "")
        else:
            parts.append(BOX_OPEN)
    return "".join([*parts, text[start:]])


@lru_cache(maxsize=64)
def plain_tags(tags: tuple[Tag, ...]) -> tuple[Tag, ...]:
    """Tags as they stand in plain text.

    Raises:
        UsageError: nothing of one is left there.
    """
    found = tuple((plain_text(opens).strip(), plain_text(closes).strip()) for opens, closes in tags)
    for tag, plain in zip(tags, found, strict=True):
        if not all(plain):
            raise UsageError(
                f"the thinking tags `{'='.join(tag)}` are markup, which is taken out of outputs before", "name others"
            )
    return found


_GREEK = {
    chr(code): f" {unicodedata.name(chr(code)).removeprefix('GREEK SMALL LETTER ').lower()} "
    for code in range(0x3B1, 0x3CA)
    if code != 0x3C2
} | {"ς": " sigma "}
_GREEK_TRANSLATION = str.maketrans(_GREEK)
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(
    r"(?:(?<!\w)-)?\d+(?:,\d{3}(?!\d))*(?:\.\d+)?(?:/\d+)?(?:\^[-+]?\d+)?%?"
    rf"|[{_IDEOGRAPHS}]|[^\W\d_{_IDEOGRAPHS}][^\W_{_IDEOGRAPHS}]*|[+=<>%°±]"
)


def normalise(text: str) -> str:
    """A text as words with one space between, so that two ways to write one text are equal.

    Case, accents, punctuation, markup, HTML entities, kinds of quotes and dashes, and spacing do not matter; Greek
    letters are spelled out; numbers keep sign, decimals, fraction and percent sign, and lose separators of thousands.
    Applying it twice changes nothing.
    """
    text = plain_text(text).replace("&", " and ").replace(BOX_OPEN, " ").replace(BOX_CLOSE, " ")
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    text = "".join(char for char in text if not unicodedata.combining(char))
    text = unicodedata.normalize("NFKC", text).translate(_GREEK_TRANSLATION)
    text = re.sub(r"(?<!\d)\^|(?<=[^\W_])_+(?=[^\W_])|'", "", text)
    words = " ".join(found[0].replace(",", "") for found in _WORD.finditer(text))
    return re.sub(r"(?<=\d) %", "%", words)
