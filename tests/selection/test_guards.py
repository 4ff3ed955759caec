"""Guards against slow forms that look at every pair, and the laws of what they leave out."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TESTS
from diq.base.errors import UsageError
from diq.selection import guards
from diq.selection.guards import ExactCopies, Exclusion, NearCopies, Overlaps, Question

pytest.importorskip("rensa", reason="the guard against near repeats needs `pip install 'diq[dedupe]'`")


def sample(prompt: str, answer: str, reasoning: str = "") -> list[dict[str, str]]:
    last = {"role": "assistant", "content": answer} | ({"reasoning_content": reasoning} if reasoning else {})
    return [{"role": "user", "content": prompt}, last]


def words(text: str) -> list[str]:
    """Runs of alphanumerics, a character at a time."""
    return "".join(c if c.isalnum() else " " for c in text).split()


def small_words(text: str) -> list[str]:
    """The same, with each character of the scripts without spaces that the tests use on its own."""
    return words("".join(f" {c} " if "\u3040" <= c <= "\u9fff" or "\u0e00" <= c <= "\u0e7f" else c for c in text))


def shingles(text: str) -> set[tuple[str, ...]]:
    found = small_words(text) or [text]
    return {tuple(found[i : i + 5]) for i in range(max(1, len(found) - 4))}


def runs(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text) or [text]
    n = min(n, len(found))
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def near_texts(n: int, seed: int) -> list[str]:
    """Texts of which half are made from an earlier one by changing a few words."""
    rng = random.Random(seed)
    found: list[list[str]] = []
    for _ in range(n):
        if found and rng.random() < 0.5:
            text = list(rng.choice(found))
            for _ in range(rng.choice([0, 0, 1, 1, 2, 4, 8])):
                text[rng.randrange(len(text))] = f"w{rng.randrange(5000)}"
        else:
            text = [f"w{rng.randrange(5000)}" for _ in range(rng.choice([1, 3, 20, 60, 200]))]
        found.append(text)
    return [" ".join(text) for text in found]


def near(texts: list[str], threshold: float, *, order: list[int] | None = None, batch: int = 7) -> list[Exclusion]:
    """What the guard says of texts at positions 10, 12, 14, ..., added in some order."""
    order = list(range(len(texts))) if order is None else order
    finder = NearCopies(threshold)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        finder.add(np.array([10 + 2 * row for row in rows], np.int64), [texts[row] for row in rows])
    found = []
    for positions, keys in finder.candidates():
        found += finder.found(positions, keys, [texts[(position - 10) // 2] for position in positions])
    return sorted(found, key=lambda one: one.position)


def naive_near(texts: list[str], threshold: float) -> list[tuple[int, int, float]]:
    kept: list[int] = []
    found = []
    sets = [shingles(text) for text in texts]
    for row, own in enumerate(sets):
        for other in kept:
            similarity = len(own & sets[other]) / len(own | sets[other])
            if similarity >= threshold:
                found.append((10 + 2 * row, 10 + 2 * other, similarity))
                break
        else:
            kept.append(row)
    return found


def test_text_without_spaces_is_compared_by_character() -> None:
    question = (
        "患者男性六十二岁因反复胸闷气短三年加重一周入院既往有高血压病史十年规律服用降压药物查体双肺底可闻及湿啰音下肢轻度水肿"
        "心界向左下扩大请问最可能的诊断是什么"
    )
    other = question.replace("六十二", "六十三")
    apart = "儿童发热伴皮疹三天应首先考虑哪一种疾病并说明需要做哪些检查以及治疗原则和家庭护理的注意事项还有复诊时间"
    (found,) = near([question, apart, other], 0.8)
    assert (found.position, found.kept) == (14, 10)
    # 5 of the shingles hold the character that differs
    n = len(question) - 4
    assert found.similarity == pytest.approx((n - 5) / (n + 5))
    # a word of another script in it stays one
    assert small_words("体温38度abc用药") == ["体", "温", "38", "度", "abc", "用", "药"]


# texts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("ASPIRIN 75 MG", "aspirin 75 mg"),
        ("ＡＳＰＩＲＩＮ", "aspirin"),
        ("Straße", "STRASSE"),
        ("ﬁbrosis", "Fibrosis"),
        ("Ménière", "Me\u0301nie\u0300re"),
        ("10 µg", "10 \u03bcg"),
        ("Α ΟΔΟΣ", "α οδος"),
        ("H₂O", "h2o"),
    ],
)
def test_what_counts_as_the_same_text(text: str, same: str) -> None:
    assert guards.normalized(text) == guards.normalized(same)
    assert guards.exact_text(sample(text, "a")) == guards.exact_text(sample(f"  {same}\n", "A"))


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = guards.normalized(text)
    assert guards.normalized(once) == once
    assert unicodedata.is_normalized("NFKC", once)


def test_exact_text_keeps_roles_reasoning_and_messages_apart() -> None:
    different = [
        sample("a b", "c"),
        sample("a", "b c"),
        sample("a b", "c", "d"),
        sample("a b", "d c"),
        [{"role": "system", "content": "a b"}, {"role": "assistant", "content": "c"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}],
        sample("a\x1eassistant\x1fb", "c"),
    ]
    assert len({guards.exact_text(messages) for messages in different}) == len(different)


# exact ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.text("aAßs ", max_size=3), st.text("aA", max_size=1)), max_size=30), st.randoms())
@settings(max_examples=200, deadline=None)
def test_exact_matches_a_dictionary(pairs: list[tuple[str, str]], rng: random.Random) -> None:
    first: dict[Any, int] = {}
    expected = []
    for row, (prompt, answer) in enumerate(pairs):
        key = (prompt.casefold().split(), answer.casefold().split())
        kept = first.setdefault(str(key), row)
        if kept != row:
            expected.append((3 * row, 3 * kept))
    finder = ExactCopies()
    order = list(range(len(pairs)))
    rng.shuffle(order)
    for start in range(0, len(order), 4):
        rows = order[start : start + 4]
        finder.add(np.array([3 * row for row in rows], np.int64), [sample(*pairs[row]) for row in rows])
    assert [(one.position, one.kept) for one in finder.found()] == expected


# near -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_near_matches_all_pairs(threshold: float, seed: int) -> None:
    texts = near_texts(240, seed)
    found = near(texts, threshold)
    assert [(one.position, one.kept, one.similarity) for one in found] == naive_near(texts, threshold)
    assert len(found) > 20


def test_near_keeps_the_earliest_and_no_excluded_sample_represents_another() -> None:
    found = near(near_texts(300, 5), 0.6)
    excluded = [one.position for one in found]
    assert len(set(excluded)) == len(excluded)
    assert not set(excluded) & {one.kept for one in found}
    assert all(one.kept is not None and one.kept < one.position for one in found)


@pytest.mark.parametrize("threshold", [0.2, 1.0])
def test_near_includes_every_exact_repeat(threshold: float) -> None:
    rng = random.Random(3)
    texts = [rng.choice(["", "?", "!", "one", "one two", "a b c d e f", "天 地"]) for _ in range(60)]
    repeats = [10 + 2 * row for row, text in enumerate(texts) if text in texts[:row]]
    excluded = {one.position for one in near(texts, threshold)}
    assert excluded >= set(repeats)
    if threshold == 1:
        assert excluded == set(repeats)


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_near_depends_on_no_batch_order_or_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = near_texts(150, 7)
    expected = near(texts, 0.7)
    order = list(range(150))
    random.Random(1).shuffle(order)
    monkeypatch.setattr(guards, "CHUNK", chunk)
    assert near(texts, 0.7, order=order, batch=40) == expected


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9])
def test_pairs_at_the_threshold_become_candidates_as_often_as_said(threshold: float) -> None:
    n, size = 2000, 100
    n_shared = round(2 * size * threshold / (1 + threshold))
    finder = NearCopies(threshold)

    def text(pair: int, side: str) -> str:
        # the two of a pair share their first words, and no other pair has any of them
        return " ".join(f"p{pair}{'' if i < n_shared + 4 else side}w{i}" for i in range(size + 4))

    texts = [text(pair, side) for pair in range(n) for side in "ab"]
    similarity = len(set(runs(texts[0], 5)) & set(runs(texts[1], 5))) / len(set(runs(texts[0], 5) + runs(texts[1], 5)))
    finder.add(np.arange(2 * n), texts)
    met = {int(position) // 2 for positions, _ in finder.candidates() for position in positions}
    expected = guards.recall(similarity, finder.bands, finder.length)
    assert abs(len(met) / n - expected) < 0.02
    assert guards.recall(threshold, finder.bands, finder.length) >= guards.RECALL


def test_bands_keep_the_recall_and_never_more_hashes_than_there_are() -> None:
    for threshold in np.linspace(0.04, 1, 97):
        bands, length = guards.plan_bands(float(threshold))
        assert bands * length <= guards.N_HASHES
        assert guards.recall(float(threshold), bands, length) >= guards.RECALL
    assert guards.plan_bands(1.0) == (1, 128)
    assert guards.plan_bands(0.001) == (128, 1)


def test_nothing_to_compare() -> None:
    assert near([], 0.8) == []
    assert near(["one text"], 0.8) == []
    assert ExactCopies().found() == []
    assert Overlaps([], [], 13).found() == []


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(UsageError, match="needs the package `rensa`") as caught:
        NearCopies(0.8)
    assert caught.value.hint == "run `pip install 'diq[dedupe]'`"


# questions ------------------------------------------------------------------------------------------------------------


def overlaps(questions: list[str], texts: list[str], ngram: int = 13, min_share: float = 0.0) -> Overlaps:
    asked = [Question(0, f"position {row}", row, guards.normalized(text)) for row, text in enumerate(questions)]
    finder = Overlaps(asked, ["bench"], ngram, min_share)
    finder.add(np.arange(len(texts)), [guards.normalized(text) for text in texts])
    return finder


def test_overlaps_match_sets_of_runs() -> None:
    rng = random.Random(11)
    stock = [" ".join(f"s{i}{j}" for j in range(14)) for i in range(3)]
    questions = [
        " ".join(f"w{rng.randrange(60)}" for _ in range(rng.choice([4, 9, 12, 13, 30]))) + ", " + rng.choice(stock)
        for _ in range(60)
    ] + ["too short", "eight words are enough to be looked for"]
    texts = []
    for _ in range(200):
        text = " ".join(f"w{rng.randrange(60)}" for _ in range(40))
        if rng.random() < 0.5:
            cut = words(rng.choice(questions))
            start = rng.randrange(len(cut))
            text += " -- " + " ... ".join(cut[start : start + rng.choice([8, 12, 13, 14, 30])]) + " ?! end"
        texts.append(text)
    n = {question: min(13, len(words(question))) for question in questions}
    wanted = {
        question: [
            run
            for run in runs(question, 13)
            if n[question] >= 8 and sum(run in runs(other, len(run)) for other in set(questions)) <= 10
        ]
        for question in questions
    }
    expected = {}
    for row, text in enumerate(texts):
        for question in questions:
            if set(wanted[question]) & set(runs(text, n[question])):
                expected.setdefault(row, []).append(question)
    found = overlaps(questions, texts).found()
    assert [one.position for one in found] == sorted(expected)
    assert 20 < len(found) < 180
    for one in found:
        assert one.matched is not None
        row = int(one.matched.removeprefix("bench:"))
        assert questions[row] in expected[one.position]
        assert one.reason.startswith("shares ")
        assert f"with position {row} of `bench`: " in one.reason


def test_unicode_case_and_punctuation_hide_no_question() -> None:
    question = (
        "Ein 45-jähriger Mann mit Ménière-Krankheit, Größe 180 cm, kommt wegen Schwindels; was hilft ihm am besten?"
    )
    hidden = "... EIN 45 JÄHRIGER MANN (mit Me\u0301nie\u0300re Krankheit): "
    hidden += "GRÖSSE １８０ ㎝ kommt\nwegen\tSchwindels, was hilft ihm"
    (one,) = overlaps([question], ["something else", hidden]).found()
    assert (one.position, one.matched) == (1, "bench:0")
    assert "ein 45 jähriger mann mit ménière krankheit grösse 180 cm kommt wegen schwindels" in one.reason
    assert one.similarity == pytest.approx(16 / 18)


def test_twelve_words_in_a_row_are_no_overlap_and_thirteen_are() -> None:
    question = " ".join(f"w{i}" for i in range(30))
    texts = [" ".join(f"w{i}" for i in range(4, 4 + n)) for n in (12, 13)]
    broken = " ".join(f"w{i}" + (" x" if i % 12 == 11 else "") for i in range(30))
    assert [one.position for one in overlaps([question], [*texts, broken]).found()] == [1]


def test_short_questions_are_looked_for_as_a_whole_or_counted() -> None:
    questions = ["what is the first line treatment of gout", "what is gout", "of what does a gouty knee consist then"]
    finder = overlaps(questions, ["Q: What is the first-line treatment of gout? A: rest", "what is gout really"])
    assert [one.matched for one in finder.found()] == ["bench:0"]
    (counts,) = finder.counts()["benchmarks"]
    assert (counts["n_questions"], counts["n_too_short"], counts["n_excluded"]) == (3, 1, 1)


@pytest.mark.parametrize("n", [2, 5, 40])
def test_a_common_instruction_marks_nothing(n: int) -> None:
    instruction = "Read the question with care and answer with the letter of the one best option and nothing else. "
    questions = [instruction + " ".join(f"q{i}w{j}" for j in range(20)) for i in range(n)]
    finder = overlaps(questions, [instruction + "an unrelated question", instruction + questions[1][-90:]])
    assert [(one.position, one.matched) for one in finder.found()] == [(1, "bench:1")]
    assert finder.counts()["n_ignored_runs"] == 6


def test_questions_that_are_all_boilerplate_are_counted() -> None:
    text = "which of the following is the most likely diagnosis"
    finder = overlaps([text, *(f"{'a' * i} case {i}: {text} of this patient" for i in range(1, 15))], [text])
    assert finder.found() == []
    assert finder.counts()["benchmarks"][0]["n_too_common"] == 1


def test_the_share_separates_copies_from_stock_phrases() -> None:
    question = " ".join(f"w{i}" for i in range(100))
    texts = [" ".join(f"w{i}" for i in range(13)), " ".join(f"w{i}" for i in range(60))]
    assert [one.similarity for one in overlaps([question], texts).found()] == [0.13, 0.6]
    assert [one.position for one in overlaps([question], texts, min_share=0.5).found()] == [1]
    # of two questions the one that is shared most is named, however the text begins
    other = " ".join(f"w{i}" for i in range(13)) + " " + " ".join(f"v{i}" for i in range(30))
    third = " ".join(f"w{i}" for i in range(13)) + " " + " ".join(f"u{i}" for i in range(90))
    (one,) = overlaps([third, other, "x"], [other]).found()
    assert one.matched == "bench:1"


# threads --------------------------------------------------------------------------------------------------------------

_DIGEST = """
import sys; sys.path.insert(0, {tests!r})
import hashlib
from selection.test_guards import near, near_texts, overlaps
texts = near_texts(400, 2)
found = [near(texts, 0.5, batch=100), overlaps(texts[:50], texts).found()]
assert found[0] and found[1]
print(hashlib.sha1(repr(found).encode()).hexdigest())
"""


def test_no_result_depends_on_the_process_or_its_threads() -> None:
    seen = set()
    for threads, seed in (("1", "0"), ("2", "1"), ("5", "2")):
        variables = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST.format(tests=str(TESTS))],
            capture_output=True,
            text=True,
            check=True,
            env=variables,
        )
        seen.add(done.stdout)
    assert len(seen) == 1
