"""Where a model's thinking begins and ends in what it wrote: the one table of delimiters, for marking and for ratings.

A family may write tags, special tokens, channels or a line of text. A closing delimiter of any family ends thinking of
any other, for models mix them, and chat templates write the opening one into the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from diq.base.errors import UsageError

Tag = tuple[str, str]
"""What opens and what closes thinking, as the model writes it."""

_NAME = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratch[ _-]?pad|(?:inner|internal)[ _-]monologue|"
    r"chain[ _-]of[ _-]thought)"
)
# a vendor's prefix: <seed:think>, <longcat_think>, <antthinking>; <end_think> and <no_think> open nothing
_PREFIXED = rf"(?!end[ _-]|no[ _-])(?:ant|[\w.-]{{1,30}}[:_.-])?{_NAME}"
_BEGIN, _END = rf"(?:begin|start)(?:[ _-]of)?[ _-]{_NAME}", rf"end(?:[ _-]of)?[ _-]{_NAME}"

_TABLE: tuple[Tag, ...] = (
    # <think>, <reasoning>, <seed:think>: Qwen, DeepSeek, Seed, EXAONE, prompts that ask for tags
    (rf"<\s*{_PREFIXED}(?:\s[^<>\n]{{0,100}})?>", rf"<\s?/\s*{_PREFIXED}\s*>|<{_END}>"),
    # <|thinking|>, <|begin_of_thought|>, <|START_THINKING|>: Sky-T1, Command A
    (
        rf"<\|\s*(?:{_PREFIXED}|{_BEGIN}|{_NAME}[ _-](?:begin|start))\s*\|>",
        rf"<\|\s*(?:/\s*{_PREFIXED}|{_END}|{_NAME}[ _-]end|START_(?:RESPONSE|TEXT))\s*\|>",
    ),
    # square brackets hold headings too, so the plain name counts for `think` alone: Magistral
    (rf"\[(?:think(?:ing)?|{_BEGIN})\]", rf"\[(?:/think(?:ing)?|{_END})\]"),
    # Kimi
    (r"◁think▷", r"◁/think▷"),
    # MedGemma; Gemma 4, and gpt-oss, whose other channel is the answer
    (r"<unused94>", r"<unused95>"),
    (
        r"<\|channel\|?>\s*(?:thought|analysis|commentary)\b",
        r"<channel\|>|<\|channel\|>\s*final\b[^\n]{0,60}?<\|message\|>",
    ),
    # the same where the special tokens were taken out on the way
    (r"\A\s*(?-i:thought)[^\S\n]*\n|\A\s*(?-i:analysis(?=[A-Z]))", r"(?-i:assistantfinal)"),
    # Apertus
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    # Granite
    (r"\A\W{0,6}here(?:'s| is) my thought process:", r"^\W{0,6}here(?:'s| is) my response:"),
)  # fmt: skip

# a heading opens what the next heading of its level closes
_HEADING = r"^(?P<marks>#+) *(?P<title>thinking[ :]*$)?"


def read_tags(texts: Sequence[str]) -> tuple[Tag, ...]:
    """Tags of a user, each ``OPEN=CLOSE``, sorted and without repetitions.

    Raises:
        UsageError: a text of another form.
    """
    found = []
    for text in texts:
        opens, _, closes = (part.strip() for part in text.partition("="))
        if not (re.search(r"\w", opens) and re.search(r"\w", closes)):
            raise UsageError(
                f"the thinking tags `{text}` are not of the form OPEN=CLOSE, with a word in each",
                "give them like --thinking-tags '<analysis>=</analysis>'",
            )
        found.append((opens, closes))
    return tuple(sorted(set(found)))


@lru_cache(maxsize=64)
def delimiters(more: tuple[Tag, ...] = ()) -> re.Pattern[str]:
    """A pattern of every delimiter: groups ``open``, ``close``, and ``marks`` and ``title`` of a heading.

    Args:
        more: further tags, taken as they are written, in any case.
    """
    rows = [*_TABLE, *((re.escape(opens), re.escape(closes)) for opens, closes in more)]
    opens, closes = ("|".join(column) for column in zip(*rows, strict=True))
    return re.compile(rf"(?P<open>{opens})|(?P<close>{closes})|{_HEADING}", re.IGNORECASE | re.MULTILINE)


def without_thinking(text: str, more: tuple[Tag, ...] = ()) -> tuple[str, bool]:
    """What lies outside thinking, and whether the text ends inside it.

    A closing delimiter without an opening one ends thinking that the chat template opened.
    """
    kept, start, level = list[str](), 0, 0
    is_inside = False
    for tag in delimiters(more).finditer(text):
        if tag["open"] or tag["title"]:
            if not is_inside:
                kept.append(text[start : tag.start()])
                level = len(tag["marks"] or "")
            is_inside = True
        elif tag["close"]:
            if not is_inside:
                kept.clear()
            is_inside, start = False, tag.end()
        elif is_inside and 0 < len(tag["marks"]) <= level:
            is_inside, start = False, tag.start()
    if not is_inside:
        kept.append(text[start:])
    return "\n".join(kept), is_inside


def after_thinking(text: str) -> str:
    """What follows thinking at the beginning; the whole text where there is none, nothing where it does not end.

    For replies about texts that may hold tags themselves: tags further on, in the order of a pair or in quotes, are
    quoted from there.
    """
    tags = [one for one in delimiters().finditer(text) if one["open"] or one["close"]]
    begins = bool(tags) and bool(tags[0]["open"]) and not text[: tags[0].start()].strip()
    for place, tag in enumerate(tags):
        is_quoted = text[tag.start() - 1 : tag.start()] in ("`", '"', "'") or text[tag.end() : tag.end() + 1] in (
            "`", '"', "'",
        )  # fmt: skip
        if tag["close"] and not (is_quoted and tag.start()):
            if not begins and any(one["open"] for one in tags[:place]):
                return text
            return text[tag.end() :].strip()
    return "" if begins else text
