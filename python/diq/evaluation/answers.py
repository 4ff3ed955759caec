"""Reading which option a model's output chooses, and marking it: pure functions of text, no model and no store.

`extract` reads a letter; `mark` adds the paper's two steps (arXiv 2508.01450, section 4.1). docs/answers.md has the
rules in order, and what they agree on with the letters that a benchmark's authors extracted.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

from diq.base import thinking
from diq.base.errors import UsageError
from diq.base.thinking import Tag

SCORING = "2"
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
    _plain_tags(tags)
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
    known, plain_tags = _Options(options), _plain_tags(tuple(tags))
    answer, is_cut = thinking.without_thinking(_plain(output), plain_tags)
    if not answer.strip():
        if is_cut:
            return Extraction(None, "cut thinking")
        # thinking that was closed and followed by nothing: only what it states as the answer counts
        answer = thinking.delimiters(plain_tags).sub("\n", _plain(output))
        return _statements(_LINE_MARKS.sub("", answer), known) or Extraction(None, "nothing")
    first = _TURN.search(answer)
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
    if all(word in _COMMON or len(word) == 1 or re.fullmatch(r"-?\d{1,2}", word) for word in words):
        return False
    text = _spaced(normalise(thinking.without_thinking(_plain(output), _plain_tags(tuple(tags)))[0]).split())
    target = _spaced(words)
    longer = {_spaced(other) for other in known.words.values() if len(other) > len(words)}
    for other in sorted(longer, key=len, reverse=True):
        if target in other:
            text = text.replace(other, " | ")
    return target in text


def _spaced(words: Sequence[str]) -> str:
    # a space on both sides of every word, so that neighbours share none and a replacement misses none
    return "".join(f" {word} " for word in words)


_OPEN, _CLOSE = "\ue000", "\ue001"
_SUPERSCRIPT = re.compile(r"(?<=\d)[⁰¹²³⁴-⁹⁺⁻]+")
_CHARACTERS = {
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad" + _OPEN + _CLOSE),
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


def _plain(text: str) -> str:
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
    text = text.replace("<|begin_of_box|>", _OPEN).replace("<|end_of_box|>", _CLOSE)
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
            parts.append(_CLOSE if boxes and boxes.pop() else "")
        elif brace[0].endswith("{"):
            boxes.append(brace[0] != "{")
            parts.append(_OPEN if boxes[-1] else "")
        else:
            parts.append(_OPEN)
    return "".join([*parts, text[start:]])


@lru_cache(maxsize=64)
def _plain_tags(tags: tuple[Tag, ...]) -> tuple[Tag, ...]:
    """Tags as they stand in plain text.

    Raises:
        UsageError: nothing of one is left there.
    """
    found = tuple((_plain(opens).strip(), _plain(closes).strip()) for opens, closes in tags)
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
    text = _plain(text).replace("&", " and ").replace(_OPEN, " ").replace(_CLOSE, " ")
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    text = "".join(char for char in text if not unicodedata.combining(char))
    text = unicodedata.normalize("NFKC", text).translate(_GREEK_TRANSLATION)
    text = re.sub(r"(?<!\d)\^|(?<=[^\W_])_+(?=[^\W_])|'", "", text)
    words = " ".join(found[0].replace(",", "") for found in _WORD.finditer(text))
    return re.sub(r"(?<=\d) %", "%", words)


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
        self._none = self._only([key for key, text in self.words.items() if _NONE.fullmatch(" ".join(text))])
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
            if rest and rest[0] not in _CONNECTIVES and self._is_light(key):
                return None
            return self._only([other for other in self.words if self.words[other] == text])
        return None

    def negated(self, clause: Sequence[str], line: Sequence[str]) -> str | None:
        """The option that words give whose text begins with a negation; all that say "none of them" say the same."""
        key = self.equal(clause) or self.equal(line) or self.beginning(line)
        if key in self._negated:
            return key
        return self._none if _NONE.fullmatch(" ".join(clause)) else None

    def mentioned(self, words: Sequence[str]) -> str | None:
        """The only option whose text is among these words, or else the only one whose text holds all of them."""
        heavy = [key for key in self._longest_first if not all(w in _COMMON or len(w) < 3 for w in self.words[key])]
        rest, found = _spaced(words), list[str]()
        for key in heavy:
            text = _spaced(self.words[key])
            if text not in rest:
                continue
            after = rest[rest.index(text) + len(text) :].split()
            if not (after and after[0] not in _CONNECTIVES and self._is_light(key)):
                found += [other for other in heavy if self.words[other] == self.words[key]]
            rest = rest.replace(text, " | ")
        if found:
            return self._only(found)
        if len(words) < 2 and not any(len(word) >= 5 for word in words):
            return None
        return self._only([key for key in heavy if _spaced(words) in _spaced(self.words[key])])

    def begins(self, key: str, words: Sequence[str]) -> bool:
        """Whether these words begin as the text of an option does."""
        text = self.words[key]
        n = min(len(text), 3)
        return n > 0 and tuple(_without_article(words)[:n]) == text[:n]

    def _is_light(self, key: str) -> bool:
        """Whether a text may be the beginning of another: "no" of "no longer", "potassium" of "potassium chloride"."""
        text = self.words[key]
        return len(text) < (3 if key in self._negated else 2) or all(word in _COMMON for word in text)

    @staticmethod
    def _only(found: list[str]) -> str | None:
        return found[0] if len(found) == 1 else None


_NONE = re.compile(
    r"(?:none|neither)(?: of (?:the|these|those|them))?(?: (?:above|options?|choices?|answers?|alternatives?"
    r"|listed|given|"
    r"other|others|provided|mentioned|statements?))*|no (?:correct|right) (?:answer|option)"
    r"|(?:以 上 |上 述 )?(?:(?:选 项|答 案) )?(?:都|皆|均|全) (?:不 是|非|不 对|不 正 确|不 选|错 误|错)"
    r"|(?:以 上 |上 述 )?(?:都 )?没 有(?: 正 确)?(?: 答 案)?|无 正 确 (?:选 项|答 案)"
)


def _is_negated(words: Sequence[str]) -> bool:
    """Whether a text begins as a rejection does."""
    return bool(_NEGATION.match(words[0]) or _NONE.fullmatch(" ".join(words)))


def _without_article(words: Sequence[str]) -> Sequence[str]:
    return words[1:] if len(words) > 1 and words[0] in ("the", "a", "an") else words


_TURN = re.compile(
    r"<\|(?:im_end|eot_id|endoftext|end|end_of_text|return|eom_id|END_RESPONSE|END_OF_TURN_TOKEN)\|>|<end_of_turn>|</s>"
    r"|^[ \t]*(?:#+ *)?(?:question|problem|q|user|human|instruction)(?: ?\d{1,3})?(?: ?:|[ \t]*$)"
    r"|^[^\n]{0,60}\b(?:summari[sz]|combin|compil)(?:e|ing)\b[^\n]{0,30}\banswers\b",
    re.IGNORECASE | re.MULTILINE,
)
_LINE_MARKS = re.compile(r"^ ?(?:[#>•●▪◦✓✔✅➡→]+ ?|[-+] )+|\|", re.MULTILINE)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_COMMON = _set(
    "a above all always an and answer any are as at be both by can correct false following for from if in is it many "
    "maybe more never neither no none nor not of on one only or other some than that the them there these this those "
    "to true two was with yes"
)
# words that may follow a letter without a stop between: the letter is the answer, and what follows is about it
_CONNECTIVES = _set(
    "and as at because by but due follows following for from given however in instead is not on or per rather since so "
    "that then therefore thus under using when where which while who with"
)
_SENTENCE_END = re.compile(r"[.!?](?=[\s\"')\]\ue001]|$)|[。！？]|\n")
_LETTER_WORD = r"(?:option|choice|letter|answer|statement|response|alternative)s?"
_VERB = r"(?:is|was|are|be|becomes?|remains|seems|appears)"
_FITTING = (
    r"(?:correct|right|best|closest|nearest|(?:most |least |only )?(?:appropriate|likely|accurate|suitable|relevant|"
    r"probable|plausible|reasonable|logical|consistent|fitting|effective|important|common))"
)
# other languages have the same cues: a noun, then a verb, a colon, a line end or a letter behind it
_FOREIGN_VERB = r"(?:ist|lautet|wäre|es|ser[íi]a|est|serait|é|seria|è|sarebbe|jest|là)"
_FOREIGN_LETTER_WORD = (
    r"(?:opci[óo]n|op[çc][ãa]o|alternativa|opzione|letra|lettre|lettera|buchstabe|option|proposition|choix|antwort|"
    r"respuesta|r[ée]ponse|resposta|risposta)"
)
_FOREIGN_ANSWER = (
    r"\b(?:antwort|lösung|gabarito|respuesta|r[ée]ponse|resposta|risposta|antwoord|odpowied[źz]|ответ|đáp án"
    r"|jawaban|cevap)\b(?:"
    rf"[\s\"'()]{{0,3}}[:=]|[^.:;?!\n{_OPEN}]{{0,60}}?(?:\b{_FOREIGN_VERB}\b|:)|[^\w\n]{{0,3}}\n"
    r"|\.? ?(?=(?-i:\(?[A-Z]\)?(?:[.,;!?](?: |$)|[ \t]*$)))"
    r")"
    r"|(?:정답|최종 ?답안?|(?<![가-힣])답안?)(?:[은는이:=\s]{0,3})|(?:答え|正解|解答|回答|正答)(?:[はが:=\s]{0,3})"
)
_FOREIGN_CHOICE = (
    r"\b(?:(?:richtige|korrekte|beste) (?:option|wahl|auswahl)|(?:bonne|meilleure) (?:option|proposition)|"
    r"(?:bon|meilleur) choix|(?:opci[óo]n|op[çc][ãa]o|alternativa|opzione|option|proposition) "
    r"(?:corre[ct]?t[aeo]?|cert[ao]|(?:m[áa]s|mais|più|la plus) \w+))\b"
    rf"[^.:;?!\n{_OPEN}]{{0,60}}?(?:\b{_FOREIGN_VERB}\b|:)"
    r"|\b(?:ich (?:wähle|nehme|würde mich für|entscheide mich für)|(?:yo )?(?:elijo|escojo)|je choisis"
    r"|(?:eu )?escolho|scelgo)\b"
    r"|(?:올바른|옳은|맞는|적절한) (?:선택지|보기|것)[은는:\s]{1,3}"
    r"|(?:正しい|適切な)(?:選択肢|もの)[は:\s]{1,3}"
)
_CHINESE_CHOICE = (
    r"(?:(?:正确|正確|最佳|最终|参考)?答案|正[确確]的?选项|正[确確]的是|最(?:佳|合适|恰当|适当)的?选项|"
    r"[应應](?:[该該当])?(?:选择?|選擇?|是|为|為)|故选择?|改选|选择|選擇|选(?!项|择)|選(?!項|擇)|"
    r"我(?:认为|觉得|判断)(?:答案|应该)?是|即(?=选项))"
    r"(?:[^。\nA-Za-z:]{0,12}?(?:是|为|為|选项|選項|选择|選擇|选|選))?"
)
_STANDS = (
    # a letter alone where a correction gives one: what goes on is another sentence, or says that it is right
    r"(?=[\s\"'(\[:]{0,3}(?:(?:option|choice|answer) )?(?-i:[\"'(\[]?[A-Z])[)\]\"']{0,2}"
    r"(?:\s?[.,;:!](?!\w)|\s*$|\s+(?:because|since|as|rather|instead|not)\b|\s+[-(]|\s+is (?:\w+ )?(?:correct"
    r"|right|best)\b))"
)
_IT_IS = (
    r"(?:(?:it|that|this)(?:'s| is| was| should be| must be| would be| has to be| should have been)|(?:should|must) be)"
)
_CORRECTION = (
    # "sorry, I meant C", "on reflection it should be C", "scratch that, C"
    r"(?:\b(?:correction|i meant?|make (?:that|it)|(?:scratch|strike) that|i stand corrected|"
    r"(?:up)?on (?:second thoughts?|(?:\w+ )?(?:reflection|inspection|look|reading|review|consideration"
    r"|reconsideration))|"
    r"edit|revised(?: to| answer)?|corrected(?: to)?|my (?:mistake|bad|error)|i take (?:that|it) back|"
    r"(?:no|nope|wait|sorry|actually|oops|hmm+|rather|apologies)(?:[\s,.!-]{1,3}(?:no|nope|wait|sorry|actually"
    r"|rather)){1,3})"
    r"\b[\s,.:;!-]{0,4}"
    r"|\b(?:actually|sorry|oops|apologies)\b[ ,:-]{0,3})"
    rf"(?:(?:so|then|i (?:now )?(?:think|believe)(?: that)?) )?(?:{_IT_IS}|i meant?|the answer is)?{_STANDS}"
    # "no, it is C", "they are wrong; it is C"
    r"|\b(?:no|wait|hmm+|hold on|wrong|incorrect|mistaken|outdated|false|not (?:right|correct|true|so|it)"
    r"|correct myself)\b"
    r"[\s,.:;!-]{1,4}(?:(?:so|but|rather|actually|instead|i (?:now )?(?:think|believe)(?: that)?),? )?"
    rf"{_IT_IS}{_STANDS}"
    # "may be A, but I think it's C"; what is said under a condition is none
    r"|\b(?:but|however|yet)\b(?:(?!\b(?:if|unless|when|would|could|might|may|were|argue|choose)\b)[^.;:?!\n]){0,80}?"
    rf"(?:\b{_IT_IS}|\b(?:points?|leads?)(?: me| us)? to|\bso|\btherefore|\bhence|\bin fact|\bi (?:think"
    rf"|believe|choose|pick)|"
    r"\bthe (?:\w+ )?(?:likely|best|correct|right|likeliest)(?: one| option| choice| diagnosis| answer)? is)"
    rf"(?: (?:actually|really|likely|probably|rather|still))?{_STANDS}"
    r"|\b(?:but|however|yet),? (?=(?:option )?[(\[]?(?-i:[A-Z])[)\]]? is (?:the )?(?:\w+ )?(?:correct|right"
    r"|best|better|answer)\b"
    r"\s*(?:[.,;!]|$|answer|option|choice|one|because|since))"
    # "it must be C" as a sentence; "this is C" may speak of a part of it
    rf"|(?:^|[.!?] )(?:(?:so|yes|therefore|thus|hence|then|now),? )?(?!(?:this|that)(?:'s| is| was)\b){_IT_IS}{_STANDS}"
    # the same in Chinese
    r"|(?:更正|不对|不對|不,|等等|等一下|错了|抱歉|其实|实际上|但我?(?:认为|觉得)?|而)[,。!:\s]{0,3}(?:正确)?(?:答案)?"
    r"(?:[应應][该該当]?|更?可能)?(?:[是为為选選]|:)(?=[\s(\[\"]{0,2}(?:选项)?(?-i:[A-Z]))"
    r"|但(?=(?:选项)?(?-i:[A-Z])(?:选?项)?(?:更|才|最))"
)
_CUE = re.compile(
    rf"(?P<boxed>{_OPEN})"
    r"|(?P<tag><\s*(?:final[\s_-]*)?(?:answer|ans|choice|option)\s*>|\[\s*(?:final[\s_-]*)?answer\s*\])"
    r"|(?P<json>[\"'](?:[a-z]{1,12}[\s_-]?){0,3}(?:answer|choice|option"
    r"|prediction)(?:[\s_-]?[a-z]{1,12}){0,2}[\"']\s*:)"
    r"|(?P<answer>\b(?:answers?|ans)\b(?:"
    r"(?: choice| option| letter| key)?\.?[\s\"'()]{0,3}(?:[:=]|-(?= ))"
    # in "one might answer A, but C is right" the verb is another's
    rf"|(?:(?!, but \(?[A-Z]\)? is\b)[^.:;?!\n{_OPEN}]){{0,80}}?\b{_VERB}\b"
    r"|'s\b|[^\w\n]{0,3}\n"
    r"|\.? ?(?=(?-i:\(?[A-Z]\)?(?:[.,;!?](?: |$)|[ \t]*$)))"
    rf")|{_FOREIGN_ANSWER})"
    rf"|(?P<choice>\b(?:{_FITTING}|final|chosen|selected|my|our|only)\s+(?:possible |matching |answer )?"
    r"(?:option|choice|response|selection|alternative|match|letter|pick)s?\b"
    rf"[^.:;?!\n{_OPEN}]{{0,160}}?(?:\b{_VERB}\b|[:=])"
    rf"|{_FOREIGN_CHOICE}"
    r"|\b(?:choose|select|pick|chose|selected|choosing|selecting|picking|opt for|settle on|answer with|"
    r"go(?:ing)? with|vote for)\b"
    r"|\b(?:correction|i mean|make that|(?:wait|actually|sorry|no),? it(?:'s| is| should be| must be))\b"
    rf"|{_CHINESE_CHOICE})"
    rf"|(?P<correction>{_CORRECTION})",
    re.IGNORECASE | re.MULTILINE,
)
_FILLERS = re.compile(
    rf"(?:[\s:=\"'()\[\]<>#,{_OPEN}→➡-]"
    rf"|(?:the )?(?:(?:correct|right|best|final) )?\b{_LETTER_WORD}\b"
    r"|\b(?:is|are|be|most|likely|probably|clearly|definitely|indeed|therefore|thus|actually|simply|only|still|now|"
    r"either|both|again|given by|represented by|as follows|a combination of|would|should|must)\b"
    r"|选项|選項|是|为|為|应该|應該|项|："
    rf"|(?:(?:la|el|le|die|der|das|a|o) |l')?\b{_FOREIGN_LETTER_WORD}\b"
    r"|\b(?:donc|also|daher|somit|logo|portanto|entonces)\b"
    r"|\b(?:la|el|le|die|a) (?=(?-i:\(?[A-Z](?:[.,;!)]|\s*$))))*",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:not|never|cannot|neither|nor|unlikely|unclear|none|nicht|keine?[nmrs]?|unklar|"
    r"no(?= (?:es|son|era|ser[íi]a)\b)|pas|n'est|não|nao|non(?= [èe]\b)|не)\b|n't\b|不|非",
    re.IGNORECASE,
)
_BEFORE_NEGATED = re.compile(
    r"\b(?:incorrect|wrong|not|never|if|suppose|assume|assuming|whether|unless|had)\s+(?:\w+\s+){0,2}$"
    # what others say is not what this output says
    r"|\b(?:many|some|others|students|people|textbooks?|clinicians|beginners)\s+(?:\w+\s+){0,3}$"
    r"|不(?:能|[应應]|[该該]|可|会)?$",
    re.IGNORECASE,
)
_UNREAL = re.compile(r"\b(?:if (?!(?:i|we|you|one|forced|pressed)\b)|had |were )[^.!?\n]*$", re.IGNORECASE)
_INSTEAD = re.compile(
    r"\bbut(?: rather)?\b|\brather\b,?|[;,]\s*it(?:'s| is)\b|\binstead\b:?|"
    r"\b(?:sondern|sino|mais|mas(?: sim)?|bensì)\b|而是|[应應][该該当]?[是为為选選]",
    re.IGNORECASE,
)
# "B가 아니라 C", "BではなくC": the rejected letter comes first
_NOT_BUT = re.compile(r"\W{0,3}[A-Z]\W{0,2}(?:[이가은는]? ?아니라|(?:では|じゃ)なく(?:て)?)[\s,、]{0,2}")
_LATER_VERB = re.compile(rf"\b{_VERB}\b|:", re.IGNORECASE)
_AND = re.compile(
    r"(?:[\s,;/&+、和或与及]|[)\]](?=[\s,;/&+(\[]))*(?:\b(?:and|or|as well as|along with|versus|vs)\b\W{0,3})*"
    rf"(?:{_LETTER_WORD} )?[(\[\"']?(?P<letter>[A-Z])(?![\w'-])"
    rf"(?!\W{{0,3}}(?:{_VERB}|would|should|could|can|can't|cannot|does|do|has|have|describes|refers|represents)\b)"
)
_OTHER_CLAUSE = re.compile(
    rf"{_SENTENCE_END.pattern}|\b(?:since|because|as|while|whereas|but|not|unlike|rather|although|however|than)\b",
    re.IGNORECASE,
)
_AND_BRACKETED = re.compile(r"\b(?:and|or)\s+(?:option )?[(\[](?P<letter>[A-Z])[)\]]")
_ADVERB = r"(?:(?:also|indeed|clearly|thus|therefore|most likely|likely|probably|definitely|actually|then|hence) )?"
_NAMED = re.compile(
    rf"(?:\b(?:{_VERB}|being|as)\s+{_ADVERB}|(?<=[A-Z)\]] ))(?:the|our|my) "
    r"(?:(?:only|single|most|best|correct|right|final|likely|appropriate|accurate|closest|possible|suitable|logical|"
    r"reasonable|plausible|probable) ){0,4}(?:answer|option|choice|response)s?\b(?! (?:if|choice))"
    r"|\b(?:ist|es|est|é|è) (?:die|la|le|a|l') ?(?:\w+ ){0,2}(?:antwort|respuesta|r[ée]ponse|resposta|risposta)\b"
    r"|(?<=[A-Z)\]] )(?:die|la|a) (?:\w+ )?(?:antwort|respuesta|r[ée]ponse|resposta|risposta)\b"
    r"|[是为](?:正[确確]|最佳)的?(?:答案|选项)|[이가] 정답|が(?:正解|正しい)",
    re.IGNORECASE,
)
_SAID_CORRECT = re.compile(
    rf"(?:\b{_VERB}\s+{_ADVERB}|[:(-] ?)(?:correct|right)\b"
    r"(?=\s*(?:[.,;:!)\]✓✔✅]|$|(?:because|since|as|and)\b))|是?正确(?!的?(?:答案|选项))|最?符合(?:题意)?|最(?:恰当|合适|适当)"
    r"|(?:\b(?:ist|es|est|está|é|è)|(?<=[^A-Za-z](?-i:[A-Z]))) (?:richtig|korrekt|corre[ct]?t[aeo]?|cert[ao])\b",
    re.IGNORECASE | re.MULTILINE,
)
_MENTION = re.compile(
    rf"(?:\b(?i:{_LETTER_WORD}|{_FOREIGN_LETTER_WORD}) [\"'(\[]?|选项 ?)(?P<named>[A-Z])(?![A-Za-z0-9_'-])"
    r"|(?<![A-Za-z0-9])(?P<chinese>[A-Z])(?=选?项|選?項)"
    r"|[(\[](?P<bracketed>[A-Z])[)\]]"
    r"|^ ?(?P<label>[A-Z])[.):] ",
    re.MULTILINE,
)
_BARE_END = re.compile(
    r"(?:^|[,;:(\"'\n]|\b(?:therefore|thus|so|hence|that|then|and|only|conclude|but|means|leaves|leaving|"
    r"identify|makes|making|believe|think|say|suspect|"
    r"ist|es|est|la|donc|logo|portanto|daher|somit|entonces|quindi)"
    r"\b|因此|所以|故|综上|따라서|그러므로|즉|よって|したがって)\W*(?P<letter>[A-Z])[\W]*$",
    re.IGNORECASE,
)
_IS_WRONG = re.compile(
    rf"\W{{0,3}}{_VERB}\s+(?:not|incorrect|wrong|false)\b"
    rf"|\W{{0,3}}{_FOREIGN_VERB} (?:nicht|falsch|incorrect[ao]?|fausse?)\b"
    r"|[)\]\"']?\s?(?:[이가은는]? ?아[니닙]|(?:では|じゃ)(?:な|あり)|(?:选项|選項|项)?(?:是?错|是?錯|不[正对對是符]))",
    re.IGNORECASE,
)
_VERB_FIRST = re.compile(rf"[)\]]? (?:{_VERB}|can|could|does|has|would)\b")
_JOINED_BEFORE = re.compile(
    rf"\b(?P<letter>[A-Z])[)\]\"']?\s*(?:,|and|or|&)\s*(?:and |or )?(?:{_LETTER_WORD} ?)?[(\[\"']?$"
)
# several letters without a space between: "(BD)", "(A-E)"
_RUN = re.compile(r"[A-Z](?:-?[A-Z]){1,9}(?=[)\].\s,\ue001]|$)")
_ROMAN = re.compile(r"[\s,]*(?:\b(?:and|or)\b|&)?\s*(?:II|III|IV|VI{0,3}|IX)\b")
_TEXT_FILLERS = re.compile(
    r"(?:[\s:=\"'(\[<>#,\ue000-]|\b(?:most likely|likely|probably|clearly|definitely|therefore|thus|"
    r"approximately|about|roughly|around|that|to|option|choice)\b)*",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[,;:(\n\"\ue001]|[.!?](?=\s|$)|[。！？]| - |</")
_CONCLUDING = re.compile(
    r"\b(?:therefore|thus|hence|so|consequently|in conclusion|conclude|in summary|overall|based on|"
    r"given (?:this|these|the|that)|as a result|best|closest|most likely|most appropriate|correct)\b|因此|所以|综上",
    re.IGNORECASE,
)
_LEAD = re.compile(
    rf"\b(?:{_FITTING}\s+(?:\w[\w'-]*\s+){{1,8}}?{_VERB}|it(?:'s| is| must be| should be| would be))\b"
    r"|\b(?:diagnosis|conclusion|solution|decision) ?:"
    r"|最(?:有)?可能的?[^。\nA-Za-z:,]{0,12}?(?:是|为|為|:)",
    re.IGNORECASE,
)
_REJECTED = re.compile(
    r"\b(?:not|incorrect|wrong|false|rules? out|ruled out|eliminat\w+|exclud\w+|unlikely|cannot|except|neither|if|"
    r"could)\b|n't\b",
    re.IGNORECASE,
)
_BRACKETED_END = re.compile(r"[(\[](?:option )?[A-Z][)\]]\W*$", re.IGNORECASE)
_LONE = re.compile(rf"\W*(?:{_LETTER_WORD}\W{{0,3}})?(?P<letter>[A-Za-z])\W*", re.IGNORECASE)
_LABELLED = re.compile(rf"\W{{0,3}}(?:{_LETTER_WORD} )?(?P<letter>[A-Z])(?:\s?[.):\]]|,| -) ?(?=\S)", re.IGNORECASE)


def _read(text: str, known: _Options) -> Extraction:
    text = _LINE_MARKS.sub("", text)
    for rule in (_statements, _by_shape, _by_mention, _by_said_correct, _by_lead, _by_conclusion):
        found = rule(text, known)
        if found is not None:
            return found
    return Extraction(None, "nothing")


def _statements(text: str, known: _Options) -> Extraction | None:
    """The last place where the output says what its answer is."""
    cues = list(_CUE.finditer(text))
    limits = [*(cue.start() for cue in cues), len(text)][1:]
    places: list[tuple[int, Callable[[], Extraction | None]]] = [
        (cue.end(), partial(_at_cue, text, cue, limit, known)) for cue, limit in zip(cues, limits, strict=False)
    ]
    places += [
        (named.end(), partial(_before_predicate, text, named.start(), "named the answer", known))
        for named in _NAMED.finditer(text)
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
        if _BEFORE_NEGATED.search(text, max(0, cue.start() - 40), cue.start()):
            return None
        if "would" in cue[0].lower() and _UNREAL.search(text, max(0, cue.start() - 200), cue.start()):
            return None
        stop = _SENTENCE_END.search(text, start, end)
        key = _negated_text_at(text, cue, end, known)
        if key is not None:
            return Extraction(key, "text answer", quote.replace(_OPEN, "").replace(_CLOSE, "").strip())
        not_but = _NOT_BUT.match(text, start, end)
        start = not_but.end() if not_but else start
        is_rejected = cue.lastgroup != "correction" and _NEGATION.search(cue[0])
        if is_rejected or _NEGATION.match(text, start + _spaces(text, start, end), end):
            instead = _INSTEAD.search(text, start, stop.start() if stop else end)
            if instead is None:
                return None
            start = instead.end()
    found = _at(text, start, end, how, quote, known)
    if cue.lastgroup == "correction":
        # a correction gives one letter
        return found if found is not None and found.letter is not None else None
    if found is None and how in ("answer phrase", "choice phrase"):
        # "the answer that fits best is (B)": the first verb was not the one
        stop = _SENTENCE_END.search(text, start + _spaces(text, start, end), end)
        for verb in _LATER_VERB.finditer(text, start, stop.start() if stop else end):
            if _NEGATION.search(text, start, verb.end()):
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
    quote = quote.replace(_OPEN, "").replace(_CLOSE, "").strip()[:160]
    if len(distinct) > 1:
        return Extraction(None, "several", quote)
    key = known.keys.get(distinct[0])
    return Extraction(key, how, quote) if key is not None else Extraction(None, "no such option", quote)


def _letters_at(text: str, start: int, end: int, known: _Options) -> tuple[list[str], bool]:
    """The letters that stand at a place, and whether the first could as well begin words ("A decrease", "B cells")."""
    fillers = _FILLERS.match(text, start, end)
    at = fillers.end() if fillers else start
    if at >= end or not _is_latin(text[at]) or (at and _is_latin(text[at - 1])):
        return [], False
    run = _RUN.match(text, at, end)
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
        more = _AND.match(text, at, min(end, at + 60))
        if more is None:
            break
        gap = text[at : more.start("letter")]
        # a gap of nothing but spaces joins nothing, but "(A)(B)" is two answers
        are_bracketed = gap.replace(" ", "") in (")(", "][") and text[more.end() : more.end() + 1] in (")", "]")
        if not are_bracketed and not re.search(r"\w|[,;/&+、]", gap):
            break
        letters.append(more["letter"])
        at = more.end()
    stop = _OTHER_CLAUSE.search(text, min(at + 3, end), end)
    letters += [more["letter"] for more in _AND_BRACKETED.finditer(text, at, stop.start() if stop else end)]
    return letters, standing == "weak"


def _standing(text: str, start: int, at: int, end: int, known: _Options) -> Literal["strong", "weak"] | None:
    """Whether a character stands for an option; ``weak`` where it may begin words, None where it does."""
    letter, rest = text[at], text[at + 1 : end]
    line = rest.split("\n", 1)[0]
    key = known.keys.get(letter.upper())
    if _IS_WRONG.match(line):
        return None
    if key is not None and known.begins(key, normalise(line[:120]).split()):
        return "strong"
    if letter.islower() and re.search(r"\([b-z]\)", line):
        # "(a) 0.2, (b) 0.3" counts parts
        return None
    if text[at - 1 : at] in ("(", "[", "<", '"', _OPEN) and (not line or line[0] in ')]>"<' + _CLOSE):
        return "strong"
    if line[:1].isascii() and (line[:1].isalnum() or re.match(r"['+%^_=(-]\w|/(?![A-Z]\b)\w|[+%^=]", line)):
        return None
    if letter.upper() == "I" and _ROMAN.match(rest):
        return None
    if letter in "ai" and not rest.strip() and re.search(rf"{_VERB}\W*$", text[max(0, start - 20) : at]):
        # the output was cut behind an article
        return None
    following = line.lstrip(" ")
    if line[:1] == " " and following:
        if _is_latin(following[0]):
            word = re.match(r"[A-Za-z']*", following)
            return "weak" if word and word[0].lower() in _CONNECTIVES and letter not in "ai" else None
        return None if letter in "ai" or following[0] in "+=<>%^/" else "strong"
    if re.match(r"\.\s*[a-z]", line):
        # "E. coli", "i.e.", but "B. because"
        word = re.match(r"\.\s+([a-z]+)", line)
        return "strong" if word and word[1] in _CONNECTIVES else None
    return "strong"


def _is_latin(char: str) -> bool:
    return "a" <= char <= "z" or "A" <= char <= "Z"


def _text_at(text: str, start: int, end: int, known: _Options) -> str | None:
    """The option whose text is given at a place."""
    plain = start + _spaces(text, start, end)
    # a sign belongs to its number
    plain -= text[plain - 1 : plain] == "-" and plain > start
    fillers = _TEXT_FILLERS.match(text, start, end)
    for at in dict.fromkeys((plain, fillers.end() if fillers else start)):
        line = re.split(r"[\n\ue001]|</", text[at:end], maxsplit=1)[0]
        words = _without_article(normalise(line).split())
        stop = _CLAUSE_END.search(line)
        clause = _without_article(normalise(line[: stop.start()] if stop else line).split())
        key = known.equal(words) or known.beginning(words) or known.equal(clause)
        if key is not None:
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
        line = line.lstrip(" :=\"'([>#,-" + _OPEN)
        stop = _CLAUSE_END.search(line)
        clause = line[: stop.start()] if stop else line
        key = known.negated(normalise(clause).split(), normalise(line).split())
        if key is not None:
            return key
    return None


def _before_predicate(text: str, at: int, how: How, known: _Options) -> Extraction | None:
    """What is said to be the answer, or correct, by a predicate that begins at a place."""
    start = max(0, at - 200)
    line_start = text.rfind("\n", start, at) + 1 or start
    ends = [stop.end() for stop in _SENTENCE_END.finditer(text, line_start, at)]
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
    if _NEGATION.search(clause[-25:]) or re.search(r"\b(?:if|whether|suppose|unless)\b[^,]*$", clause, re.IGNORECASE):
        return None
    quote = text[clause_start : at + 60]
    spans = {found.span(found.lastgroup or 0) for found in _MENTION.finditer(clause)}
    bare = _BARE_END.search(clause)
    if bare and bare["letter"].isupper():
        spans.add(bare.span("letter"))
    if spans:
        first, last = max(spans)
        joined = _JOINED_BEFORE.search(clause, 0, first)
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
            and not any(_LABELLED.match(one[0]) or _LONE.fullmatch(one[0][:30]) for one in neighbours)
        ):
            lone = _LONE.fullmatch(text, line[0].start(), line[0].end())
            if lone:
                yield lone


def _by_shape(text: str, known: _Options) -> Extraction | None:
    """The whole output is an option's text, or its first or last line alone is labelled with a letter."""
    lines = _lines(text)
    if not lines:
        return None
    if len(lines) == 1 and len(text) < 2000:
        key = known.equal(_without_article(normalise(text).split()))
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
    found = _LABELLED.match(line)
    if not found:
        return None
    letter, rest = found["letter"], line[found.end() :]
    key = known.keys.get(letter.upper())
    is_own = key is not None and known.begins(key, normalise(rest[:120]).split())
    first = rest.split(" ", 1)[0].strip(",.").lower()
    if is_own:
        return letter
    if _VERB_FIRST.match(line, found.end("letter")):
        return None
    if first in _CONNECTIVES and letter.isupper():
        return letter
    is_sure = letter.isupper() and (line[: found.end()].rstrip()[-1:] in (")", "]", ":") or rest[:1].isupper())
    return letter if is_sure and rest[1:2] != "." else None


def _by_mention(text: str, known: _Options) -> Extraction | None:
    """The last answer phrase mentions the text of one option, or a part that one option alone has."""
    for cue in reversed([cue for cue in _CUE.finditer(text) if cue.lastgroup == "answer"][-20:]):
        start = cue.end() + _spaces(text, cue.end(), len(text))
        stop = _SENTENCE_END.search(text, start, start + 300)
        sentence = text[start : stop.start() if stop else start + 300]
        if _NEGATION.search(f"{cue[0]} {sentence}") or _BEFORE_NEGATED.search(
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
    for said in list(_SAID_CORRECT.finditer(text))[-200:]:
        one = _before_predicate(text, said.start(), "said correct", known)
        if one is not None:
            found.append(one)
    if not found:
        return None
    if len({one.letter for one in found}) == 1 or _CONCLUDING.search(found[-1].quote[:-60]):
        return found[-1]
    return Extraction(None, "several", found[-1].quote)


def _by_lead(text: str, known: _Options) -> Extraction | None:
    """The last letter behind words such as "the most likely diagnosis is"."""
    for lead in list(_LEAD.finditer(text))[-200:][::-1]:
        letters, is_weak = _letters_at(text, lead.end(), min(len(text), lead.end() + 400), known)
        if letters and not is_weak:
            return _of_letters(letters, "conclusion", text[lead.start() : lead.end() + 60], known)
    return None


def _by_conclusion(text: str, known: _Options) -> Extraction | None:
    """The last sentence concludes, rejects nothing and mentions one letter."""
    tail = text.rstrip()[-500:]
    ends = [0] + [
        stop.end()
        for stop in _SENTENCE_END.finditer(tail)
        if stop.end() < len(tail) and not re.search(r"(?:^|[\s(:])[A-Z]\.$", tail[: stop.end()])
    ]
    sentence = tail[ends[-1] :].strip()
    mentions = {found[found.lastgroup or 0] for found in _MENTION.finditer(sentence)}
    bare = _BARE_END.search(sentence)
    if bare and bare["letter"].isupper():
        mentions.add(bare["letter"])
    if len(mentions) != 1 or _REJECTED.search(sentence):
        return None
    (letter,) = mentions
    if not _CONCLUDING.search(sentence):
        # "Iron deficiency anemia (B)" needs no word that concludes
        key = known.keys.get(letter)
        if key is None or not _BRACKETED_END.search(sentence):
            return None
        if _spaced(known.words[key]) not in _spaced(normalise(sentence).split()):
            return None
    return _of_letters([letter], "conclusion", sentence, known)
