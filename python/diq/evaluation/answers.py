"""Reading which option a model's output chooses, and marking it: pure functions of text, no model and no store.

`extract` reads a letter; `mark` adds the paper's two steps (arXiv 2508.01450, section 4.1). docs/answers.md has the
rules in order, and what they agree on with the letters that a benchmark's authors extracted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from diq.base import thinking
from diq.base.thinking import Tag
from diq.evaluation import cues
from diq.evaluation.wording import BOX_CLOSE, BOX_OPEN, normalise, plain_tags, plain_text, spaced

SCORING = "3"
"""Version of the rules, kept with every number: raise it with any change that can change a mark."""


def scoring(tags: Sequence[Tag] = ()) -> str:
    """What a number was marked by: the version of the rules, and the thinking tags that a user added."""
    return " ".join([SCORING, *("=".join(tag) for tag in tags)])


How = Literal[
    "boxed",
    "tag",
    "json",
    "answer phrase",
    "choice phrase",
    "named the answer",
    "lone letter",
    "text answer",
    "labelled line",
    "said correct",
    "conclusion",
    "several",
    "no such option",
    "cut thinking",
    "nothing",
]


@dataclass(frozen=True, slots=True)
class Extraction:
    """What an output chooses.

    Attributes:
        letter: a key of the options, or None.
        how: the rule that read the letter; without a letter, why there is none: ``several`` letters in one answer, a
            letter that is ``no such option``, ``cut thinking`` (the output ends before the thinking does), ``nothing``.
        quote: the words that decided, at most 160 characters, as they were read; empty for ``nothing``.
    """

    letter: str | None
    how: How
    quote: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """Whether an output is right.

    Attributes:
        letter: the option that was read, or None.
        how: the rule that read it, as in `Extraction`.
        is_right: by the paper's rule: the right option was read, or its text is in the output.
        is_right_strict: the right option was read, or none was and the text of the right one is in the output.
        step: which step made it right by the paper's rule; None: wrong.
    """

    letter: str | None
    how: How
    is_right: bool
    is_right_strict: bool
    step: Literal["option", "text"] | None


def read_tags(texts: Sequence[str]) -> tuple[Tag, ...]:
    """Thinking tags that a user adds, each ``OPEN=CLOSE``.

    Raises:
        UsageError: a text of another form, or tags of which nothing is left in plain text.
    """
    tags = thinking.read_tags(texts)
    plain_tags(tags)
    return tags


def mark(output: str, options: Mapping[str, str], right: str, tags: Sequence[Tag] = ()) -> Mark:
    """Mark an output by the paper's two steps.

    Step 1: the option that `extract` reads is the right one. Step 2, where step 1 does not hold: `contains` finds the
    text of the right option in the output. As the paper words it, step 2 also takes an output that clearly chose
    another option and only discusses the right one; ``is_right_strict`` does not.

    Args:
        output: what the model wrote.
        options: letter to text.
        right: letter of the right option.
        tags: what opens and closes thinking, beside the table of `diq.base.thinking`.

    Source: arXiv 2508.01450, section 4.1.
    """
    read = extract(output, options, tags)
    by_option = read.letter == right
    by_text = not by_option and contains(output, options, right, tags)
    return Mark(
        letter=read.letter,
        how=read.how,
        is_right=by_option or by_text,
        is_right_strict=by_option or (by_text and read.letter is None),
        step="option" if by_option else "text" if by_text else None,
    )


def extract(output: str, options: Mapping[str, str], tags: Sequence[Tag] = ()) -> Extraction:
    """Which option an output chooses. Total: any text gives an answer, in time linear in its length.

    Args:
        output: what the model wrote; thinking (``<think>``, ``## Thinking``) does not count where an answer follows it.
        options: letter (A to Z) to text.
        tags: as for `mark`.
    """
    known, own = _Options(options), plain_tags(tuple(tags))
    answer, is_cut = thinking.without_thinking(plain_text(output), own)
    if not answer.strip():
        if is_cut:
            return Extraction(None, "cut thinking")
        # thinking that was closed and followed by nothing: only what it states as the answer counts
        answer = thinking.delimiters(own).sub("\n", plain_text(output))
        return _statements(cues.LINE_MARKS.sub("", answer), known) or Extraction(None, "nothing")
    first = cues.TURN.search(answer)
    if first and answer[: first.start()].strip():
        # a base model goes on with a question of its own; what it answers there is not the answer here
        read = _read(answer[: first.start()], known)
        if read.how != "nothing":
            return read
    return _read(answer, known)


def contains(output: str, options: Mapping[str, str], right: str, tags: Sequence[Tag] = ()) -> bool:
    """Whether the text of the right option is in the output, outside its thinking.

    Both are normalised, and the text must be there as whole words: ``Iron`` is not in "environment", ``5`` not in "15"
    or "0.5". Longer options that hold the text are taken out first: "Iron deficiency" is no mention of ``Iron`` where
    both are options. A text of common words, single letters or whole numbers below 100 alone is in most outputs by
    accident (``No``, ``5``), so it is not looked for.
    """
    known = _Options(options)
    key = known.keys.get(right.strip().upper())
    if key is None:
        return False
    words = known.words[key]
    if all(word in cues.COMMON or len(word) == 1 or re.fullmatch(r"-?\d{1,2}", word) for word in words):
        return False
    text = spaced(normalise(thinking.without_thinking(plain_text(output), plain_tags(tuple(tags)))[0]).split())
    target = spaced(words)
    longer = {spaced(other) for other in known.words.values() if len(other) > len(words)}
    for other in sorted(longer, key=len, reverse=True):
        if target in other:
            text = text.replace(other, " | ")
    return target in text


class _Options:
    """The options, with their texts as words.

    Attributes:
        keys: upper-case letter to the caller's key.
        words: key to the words of its text, without the letter and article before it.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        self.keys = {key.strip().upper(): key for key in options}
        labels = {key: re.compile(rf"\s*\(?{re.escape(key.strip())}[.):]\s*(?=\S)", re.IGNORECASE) for key in options}
        texts = dict(options)
        # one text may begin with what looks like its letter ("E. coli"); if all do, they are letters
        if len(options) > 1 and all(labels[key].match(text) for key, text in options.items()):
            texts = {key: labels[key].sub("", text, count=1) for key, text in options.items()}
        self.words = {key: tuple(_without_article(normalise(text).split())) for key, text in texts.items()}
        self._negated = {key for key, text in self.words.items() if text and _is_negated(text)}
        self._set_off = {key for key, text in texts.items() if cues.SET_OFF.match(plain_text(text))}
        self._none = self._only([key for key, text in self.words.items() if cues.NONE.fullmatch(" ".join(text))])
        self.has_negated = bool(self._negated)
        self._longest_first = sorted((key for key in self.words if self.words[key]), key=lambda k: -len(self.words[k]))

    def equal(self, words: Sequence[str]) -> str | None:
        """The only option whose text is exactly these words."""
        return self._only([key for key, text in self.words.items() if text and list(text) == list(words)])

    def beginning(self, words: Sequence[str]) -> str | None:
        """The only option whose text these words begin with; the longest one counts."""
        for key in self._longest_first:
            text = self.words[key]
            if tuple(words[: len(text)]) != text:
                continue
            rest = words[len(text) :]
            if rest and rest[0] not in cues.CONNECTIVES and self._is_light(key):
                return None
            return self._only([other for other in self.words if self.words[other] == text])
        return None

    def negated(self, clause: Sequence[str], line: Sequence[str]) -> str | None:
        """The option that words give whose text begins with a negation; all that say "none of them" say the same."""
        key = self.equal(clause) or self.equal(line) or self.beginning(line)
        if key in self._negated:
            return key
        return self._none if cues.NONE.fullmatch(" ".join(clause)) else None

    def spans(self, key: str | None, line: str) -> bool:
        """Whether a text stands over a stop behind a first yes or no that it lacks: "No, treatment needed is"."""
        return (
            key is not None
            and len(self.words[key]) > 1
            and key not in self._set_off
            and cues.SET_OFF.match(line) is not None
        )

    def mentioned(self, words: Sequence[str]) -> str | None:
        """The only option whose text is among these words, or else the only one whose text holds all of them."""
        heavy = [key for key in self._longest_first if not all(w in cues.COMMON or len(w) < 3 for w in self.words[key])]
        rest, found = spaced(words), list[str]()
        for key in heavy:
            text = spaced(self.words[key])
            if text not in rest:
                continue
            after = rest[rest.index(text) + len(text) :].split()
            if not (after and after[0] not in cues.CONNECTIVES and self._is_light(key)):
                found += [other for other in heavy if self.words[other] == self.words[key]]
            rest = rest.replace(text, " | ")
        if found:
            return self._only(found)
        if len(words) < 2 and not any(len(word) >= 5 for word in words):
            return None
        return self._only([key for key in heavy if spaced(words) in spaced(self.words[key])])

    def begins(self, key: str, words: Sequence[str]) -> bool:
        """Whether these words begin as the text of an option does."""
        text = self.words[key]
        n = min(len(text), 3)
        return n > 0 and tuple(_without_article(words)[:n]) == text[:n]

    def _is_light(self, key: str) -> bool:
        """Whether a text may be the beginning of another: "no" of "no longer", "potassium" of "potassium chloride"."""
        text = self.words[key]
        return len(text) < (3 if key in self._negated else 2) or all(word in cues.COMMON for word in text)

    @staticmethod
    def _only(found: list[str]) -> str | None:
        return found[0] if len(found) == 1 else None


def _is_negated(words: Sequence[str]) -> bool:
    """Whether a text begins as a rejection does."""
    return bool(cues.NEGATION.match(words[0]) or cues.NONE.fullmatch(" ".join(words)))


def _without_article(words: Sequence[str]) -> Sequence[str]:
    return words[1:] if len(words) > 1 and words[0] in ("the", "a", "an") else words


def _read(text: str, known: _Options) -> Extraction:
    text = cues.LINE_MARKS.sub("", text)
    for rule in (_statements, _by_shape, _by_mention, _by_said_correct, _by_lead, _by_conclusion, _by_lead_to_text):
        found = rule(text, known)
        if found is not None:
            return found
    return Extraction(None, "nothing")


def _statements(text: str, known: _Options) -> Extraction | None:
    """The last place where the output says what its answer is."""
    found_cues = list(cues.CUE.finditer(text))
    limits = [*(cue.start() for cue in found_cues), len(text)][1:]
    places: list[tuple[int, Callable[[], Extraction | None]]] = [
        (cue.end(), partial(_at_cue, text, cue, limit, known)) for cue, limit in zip(found_cues, limits, strict=False)
    ]
    places += [
        (named.end(), partial(_before_predicate, text, named.start(), "named the answer", known))
        for named in cues.NAMED.finditer(text)
    ]
    places += [
        (lone.start(), partial(_of_letters, [lone["letter"]], "lone letter", lone[0], known))
        for lone in _lone_lines(text)
    ]
    for _, read in sorted(places, key=lambda place: place[0], reverse=True):
        found = read()
        if found is not None:
            return found
    return None


_HOW_OF_CUE: dict[str, How] = {
    "boxed": "boxed",
    "tag": "tag",
    "json": "json",
    "answer": "answer phrase",
    "choice": "choice phrase",
    "correction": "choice phrase",
}


def _at_cue(text: str, cue: re.Match[str], limit: int, known: _Options) -> Extraction | None:
    """What is said behind a cue such as "the answer is", a box or a tag."""
    start, end = cue.end(), min(limit, cue.end() + 400)
    how = _HOW_OF_CUE[cue.lastgroup or ""]
    quote = text[cue.start() : min(end, cue.start() + 160)]
    if how in ("answer phrase", "choice phrase"):
        if cues.BEFORE_NEGATED.search(text, max(0, cue.start() - 40), cue.start()):
            return None
        if "would" in cue[0].lower() and cues.UNREAL.search(text, max(0, cue.start() - 200), cue.start()):
            return None
        stop = cues.SENTENCE_END.search(text, start, end)
        key = _negated_text_at(text, cue, end, known)
        if key is not None:
            return Extraction(key, "text answer", quote.replace(BOX_OPEN, "").replace(BOX_CLOSE, "").strip())
        not_but = cues.NOT_BUT.match(text, start, end)
        start = not_but.end() if not_but else start
        is_rejected = cue.lastgroup != "correction" and cues.NEGATION.search(cue[0])
        if is_rejected or cues.NEGATION.match(text, start + _spaces(text, start, end), end):
            instead = cues.INSTEAD.search(text, start, stop.start() if stop else end)
            if instead is None:
                return None
            start = instead.end()
    found = _at(text, start, end, how, quote, known)
    if cue.lastgroup == "correction":
        # a correction gives one letter
        return found if found is not None and found.letter is not None else None
    if found is None and how in ("answer phrase", "choice phrase"):
        # "the answer that fits best is (B)": the first verb was not the one
        stop = cues.SENTENCE_END.search(text, start + _spaces(text, start, end), end)
        for verb in cues.LATER_VERB.finditer(text, start, stop.start() if stop else end):
            if cues.NEGATION.search(text, start, verb.end()):
                break
            found = _at(text, verb.end(), end, how, quote, known)
            if found is not None:
                break
    if found is None and how == "answer phrase":
        # "the answer, B, is common": the letter is between the noun and the verb
        noun = re.match(r"\w*", cue[0])
        letters, is_weak = _letters_at(text, cue.start() + (noun.end() if noun else 0), cue.end(), known)
        if letters and not is_weak:
            return _of_letters(letters, how, quote, known)
    return found


def _spaces(text: str, start: int, end: int) -> int:
    at = start
    while at < end and not text[at].isalnum():
        at += 1
    return at - start


def _at(text: str, start: int, end: int, how: How, quote: str, known: _Options) -> Extraction | None:
    """Letters at a place, or the text of an option there."""
    letters, is_weak = _letters_at(text, start, end, known)
    if letters and not is_weak:
        return _of_letters(letters, how, quote, known)
    key = _text_at(text, start, end, known)
    if key is not None:
        return Extraction(key, "text answer", quote)
    return _of_letters(letters, how, quote, known) if letters else None


def _of_letters(letters: Sequence[str], how: How, quote: str, known: _Options) -> Extraction:
    distinct = list(dict.fromkeys(letter.upper() for letter in letters))
    quote = quote.replace(BOX_OPEN, "").replace(BOX_CLOSE, "").strip()[:160]
    if len(distinct) > 1:
        return Extraction(None, "several", quote)
    key = known.keys.get(distinct[0])
    return Extraction(key, how, quote) if key is not None else Extraction(None, "no such option", quote)


def _letters_at(text: str, start: int, end: int, known: _Options) -> tuple[list[str], bool]:
    """The letters that stand at a place, and whether the first could as well begin words ("A decrease", "B cells")."""
    fillers = cues.FILLERS.match(text, start, end)
    at = fillers.end() if fillers else start
    if at >= end or not _is_latin(text[at]) or (at and _is_latin(text[at - 1])):
        return [], False
    run = cues.RUN.match(text, at, end)
    joined = run[0].replace("-", "") if run else ""
    if joined and len({*joined}) == len(joined) and all(one in known.keys for one in joined):
        # weak, since "AB" may be the text of an option
        return list(joined), True
    standing = _standing(text, start, at, end, known)
    if standing is None:
        return [], False
    letters = [text[at]]
    at += 1
    while len(letters) < 30:
        more = cues.AND.match(text, at, min(end, at + 60))
        if more is None:
            break
        gap = text[at : more.start("letter")]
        # a gap of nothing but spaces joins nothing, but "(A)(B)" is two answers
        are_bracketed = gap.replace(" ", "") in (")(", "][") and text[more.end() : more.end() + 1] in (")", "]")
        if not are_bracketed and not re.search(r"\w|[,;/&+、]", gap):
            break
        letters.append(more["letter"])
        at = more.end()
    stop = cues.OTHER_CLAUSE.search(text, min(at + 3, end), end)
    letters += [more["letter"] for more in cues.AND_BRACKETED.finditer(text, at, stop.start() if stop else end)]
    return letters, standing == "weak"


def _standing(text: str, start: int, at: int, end: int, known: _Options) -> Literal["strong", "weak"] | None:
    """Whether a character stands for an option; ``weak`` where it may begin words, None where it does."""
    letter, rest = text[at], text[at + 1 : end]
    line = rest.split("\n", 1)[0]
    key = known.keys.get(letter.upper())
    if cues.IS_WRONG.match(line):
        return None
    if key is not None and known.begins(key, normalise(line[:120]).split()):
        return "strong"
    if letter.islower() and re.search(r"\([b-z]\)", line):
        # "(a) 0.2, (b) 0.3" counts parts
        return None
    if text[at - 1 : at] in ("(", "[", "<", '"', BOX_OPEN) and (not line or line[0] in ')]>"<' + BOX_CLOSE):
        return "strong"
    if line[:1].isascii() and (line[:1].isalnum() or re.match(r"['+%^_=(-]\w|/(?![A-Z]\b)\w|[+%^=]", line)):
        return None
    if letter.upper() == "I" and cues.ROMAN.match(rest):
        return None
    if letter in "ai" and not rest.strip() and re.search(rf"{cues.VERB}\W*$", text[max(0, start - 20) : at]):
        # the output was cut behind an article
        return None
    following = line.lstrip(" ")
    if line[:1] == " " and following:
        if _is_latin(following[0]):
            word = re.match(r"[A-Za-z']*", following)
            return "weak" if word and word[0].lower() in cues.CONNECTIVES and letter not in "ai" else None
        return None if letter in "ai" or following[0] in "+=<>%^/" else "strong"
    if re.match(r"\.\s*[a-z]", line):
        # "E. coli", "i.e.", but "B. because"
        word = re.match(r"\.\s+([a-z]+)", line)
        return "strong" if word and word[1] in cues.CONNECTIVES else None
    return "strong"


def _is_latin(char: str) -> bool:
    return "a" <= char <= "z" or "A" <= char <= "Z"


def _text_at(text: str, start: int, end: int, known: _Options) -> str | None:
    """The option whose text is given at a place."""
    plain = start + _spaces(text, start, end)
    # a sign belongs to its number
    plain -= text[plain - 1 : plain] == "-" and plain > start
    fillers = cues.TEXT_FILLERS.match(text, start, end)
    for at in dict.fromkeys((plain, fillers.end() if fillers else start)):
        line = re.split(r"[\n\ue001]|</", text[at:end], maxsplit=1)[0]
        words = _without_article(normalise(line).split())
        stop = cues.CLAUSE_END.search(line)
        clause = _without_article(normalise(line[: stop.start()] if stop else line).split())
        key = known.equal(words) or known.beginning(words) or known.equal(clause)
        if key is not None and not known.spans(key, line):
            return key
    return None


def _negated_text_at(text: str, cue: re.Match[str], end: int, known: _Options) -> str | None:
    """The option behind a cue that begins with a negation; "none of the above" rejects nothing where it is one."""
    if not known.has_negated:
        return None
    # a cue may have swallowed the beginning of such a text: "选以上都不是"
    starts = range(cue.start() + 1, cue.end() + 1) if re.search(r"[不非]", cue[0]) else (cue.end(),)
    for start in starts:
        line = re.split(r"[\n\ue001]|</", text[start:end], maxsplit=1)[0]
        line = line.lstrip(" :=\"'([>#,-" + BOX_OPEN)
        stop = cues.CLAUSE_END.search(line)
        clause = line[: stop.start()] if stop else line
        key = known.negated(normalise(clause).split(), normalise(line).split())
        if key is not None and not known.spans(key, line):
            return key
    return None


def _before_predicate(text: str, at: int, how: How, known: _Options) -> Extraction | None:
    """What is said to be the answer, or correct, by a predicate that begins at a place."""
    start = max(0, at - 200)
    line_start = text.rfind("\n", start, at) + 1 or start
    ends = [stop.end() for stop in cues.SENTENCE_END.finditer(text, line_start, at)]
    # the stop of a label ("B. Iron") ends no sentence
    ends = [stop for stop in ends if not re.search(r"(?:^|[\s(])[A-Z]\.$", text[line_start:stop])]
    clause_start = max([line_start, *ends])
    clause = text[clause_start:at]
    if not re.sub(r"(?i)\b(?:this|that|it|which|the|statement|option|one|choice)\b|\W", "", clause):
        # "B. Iron. This is correct."
        clause = text[line_start:at]
    said = normalise(re.split(r"[,;:]", clause)[-1]).split()
    for n in range(min(len(said), 30) if known.has_negated else 0):
        key = known.negated(said[n:], said[n:])
        if key is not None:
            return Extraction(key, "text answer", text[clause_start : at + 60].strip()[:160])
    # "not A, but B is correct"
    instead = [found.end() for found in cues.INSTEAD.finditer(clause) if cues.NEGATION.search(clause, 0, found.start())]
    clause = clause[instead[-1] :] if instead else clause
    if cues.NEGATION.search(clause[-25:]) or re.search(
        r"\b(?:if|whether|suppose|unless)\b[^,]*$", clause, re.IGNORECASE
    ):
        return None
    quote = text[clause_start : at + 60]
    spans = {found.span(found.lastgroup or 0) for found in cues.MENTION.finditer(clause)}
    bare = cues.BARE_END.search(clause)
    if bare and bare["letter"].isupper():
        spans.add(bare.span("letter"))
    if spans:
        first, last = max(spans)
        joined = cues.JOINED_BEFORE.search(clause, 0, first)
        letters = [clause[first:last], *([joined["letter"]] if joined else [])]
        return _of_letters(letters, how, quote, known)
    if how == "named the answer":
        words = normalise(re.split(r"[,;:]", clause)[-1]).split()
        for n in range(min(len(words), 30)):
            key = known.equal(words[n:])
            if key is not None:
                return Extraction(key, "text answer", quote.strip())
    return None


def _lines(text: str) -> list[re.Match[str]]:
    return [line for line in re.finditer(r"[^\n]+", text) if re.search(r"\w", line[0])]


def _lone_lines(text: str) -> Iterator[re.Match[str]]:
    """The first and the last line, if they are a letter and nothing else, and no part of a list of options."""
    lines = _lines(text)
    for line, neighbours in ((lines[:1], lines[1:2]), (lines[1:][-1:], lines[:-1][-1:])):
        if (
            line
            and len(line[0][0]) <= 30
            and not any(cues.LABELLED.match(one[0]) or cues.LONE.fullmatch(one[0][:30]) for one in neighbours)
        ):
            lone = cues.LONE.fullmatch(text, line[0].start(), line[0].end())
            if lone:
                yield lone


def _by_shape(text: str, known: _Options) -> Extraction | None:
    """The whole output is an option's text, or its first or last line alone is labelled with a letter."""
    lines = _lines(text)
    if not lines:
        return None
    if len(lines) == 1 and len(text) < 2000:
        # "A. Copper" begins with a letter, "A copper coin" with an article
        is_labelled = re.match(r"\W{0,3}[aA][.):\]]", text)
        key = None if is_labelled else known.equal(_without_article(normalise(text).split()))
        if key is not None:
            return Extraction(key, "text answer", text.strip()[:160])
        letters, _ = _letters_at(text, lines[0].start(), min(len(text), 400), known)
        if len(set(letters)) > 1 and len(text.strip()) < 60:
            return _of_letters(letters, "lone letter", text, known)
    labelled = [line for line in lines if _label(line[0], known)]
    if len(labelled) == 1 and labelled[0] in (lines[0], lines[-1]):
        return _of_letters([_label(labelled[0][0], known) or ""], "labelled line", labelled[0][0], known)
    return None


def _label(line: str, known: _Options) -> str | None:
    found = cues.LABELLED.match(line)
    if not found:
        return None
    letter, rest = found["letter"], line[found.end() :]
    key = known.keys.get(letter.upper())
    is_own = key is not None and known.begins(key, normalise(rest[:120]).split())
    first = rest.split(" ", 1)[0].strip(",.").lower()
    if is_own:
        return letter
    if cues.REJECTS.match(rest) or cues.ACCEPTS.match(rest):
        return None
    if cues.VERB_FIRST.match(line, found.end("letter")):
        return None
    if first in cues.CONNECTIVES and letter.isupper():
        return letter
    is_sure = letter.isupper() and (line[: found.end()].rstrip()[-1:] in (")", "]", ":") or rest[:1].isupper())
    return letter if is_sure and rest[1:2] != "." else None


def _by_mention(text: str, known: _Options) -> Extraction | None:
    """The last answer phrase mentions the text of one option, or a part that one option alone has."""
    for cue in reversed([cue for cue in cues.CUE.finditer(text) if cue.lastgroup == "answer"][-20:]):
        start = cue.end() + _spaces(text, cue.end(), len(text))
        stop = cues.SENTENCE_END.search(text, start, start + 300)
        sentence = text[start : stop.start() if stop else start + 300]
        if cues.NEGATION.search(f"{cue[0]} {sentence}") or cues.BEFORE_NEGATED.search(
            text, max(0, cue.start() - 40), cue.start()
        ):
            continue
        key = known.mentioned(normalise(sentence).split())
        if key is not None:
            return Extraction(key, "text answer", text[cue.start() : start + 100][:160])
    return None


def _by_said_correct(text: str, known: _Options) -> Extraction | None:
    """Options that are said to be correct: the only one, or the last if it is concluded."""
    found = []
    for said in list(cues.SAID_CORRECT.finditer(text))[-200:]:
        one = _before_predicate(text, said.start(), "said correct", known)
        if one is not None:
            found.append(one)
    if not found:
        return None
    if len({one.letter for one in found}) == 1 or cues.CONCLUDING.search(found[-1].quote[:-60]):
        return found[-1]
    return Extraction(None, "several", found[-1].quote)


def _leads(text: str) -> list[re.Match[str]]:
    return list(cues.LEAD.finditer(text))[-200:][::-1]


def _by_lead(text: str, known: _Options) -> Extraction | None:
    """The last letter behind words such as "the most likely diagnosis is"."""
    for lead in _leads(text):
        letters, is_weak = _letters_at(text, lead.end(), min(len(text), lead.end() + 400), known)
        if letters and not is_weak:
            return _of_letters(letters, "conclusion", text[lead.start() : lead.end() + 60], known)
    return None


def _by_lead_to_text(text: str, known: _Options) -> Extraction | None:
    """The last text of an option behind such words, where no letter is concluded."""
    for lead in _leads(text):
        if cues.UNREAL.search(text, max(0, lead.start() - 200), lead.start()):
            continue
        key = _text_at(text, lead.end(), min(len(text), lead.end() + 400), known)
        if key is not None:
            return Extraction(key, "text answer", text[lead.start() : lead.end() + 60].strip()[:160])
    return None


def _by_conclusion(text: str, known: _Options) -> Extraction | None:
    """The last sentence concludes, rejects nothing and mentions one letter."""
    tail = text.rstrip()[-500:]
    ends = [0] + [
        stop.end()
        for stop in cues.SENTENCE_END.finditer(tail)
        if stop.end() < len(tail) and not re.search(r"(?:^|[\s(:])[A-Z]\.$", tail[: stop.end()])
    ]
    sentence = tail[ends[-1] :].strip()
    mentions = {found[found.lastgroup or 0] for found in cues.MENTION.finditer(sentence)}
    bare = cues.BARE_END.search(sentence)
    if bare and bare["letter"].isupper():
        mentions.add(bare["letter"])
    if len(mentions) != 1 or cues.REJECTED.search(sentence):
        return None
    (letter,) = mentions
    if not cues.CONCLUDING.search(sentence):
        # "Iron deficiency anemia (B)" needs no word that concludes
        key = known.keys.get(letter)
        if key is None or not cues.BRACKETED_END.search(sentence):
            return None
        if spaced(known.words[key]) not in spaced(normalise(sentence).split()):
            return None
    return _of_letters([letter], "conclusion", sentence, known)
