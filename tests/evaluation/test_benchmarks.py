"""The nine benchmarks: their names, groups, averages, and which rows belong to them."""

from __future__ import annotations

import pytest

from diq.base.errors import UsageError
from diq.evaluation.benchmarks import BENCHMARKS, MORE_BENCHMARKS, averages, benchmark


def test_the_nine_and_their_groups() -> None:
    groups = {
        name: [one.label for one in BENCHMARKS.values() if one.group == name] for name in ("standard", "challenging")
    }
    assert groups == {
        "standard": ["MedQ", "MedM", "MMLU"],
        "challenging": ["HLE", "MeB4", "MeB5", "MedX", "MedG", "MetM"],
    }
    assert all(one.name == name for name, one in {**BENCHMARKS, **MORE_BENCHMARKS}.items())
    assert all(one.hub and one.group is None for one in MORE_BENCHMARKS.values())
    assert all(one.hub and 2 <= one.n_options[0] <= one.n_options[1] <= 26 for one in BENCHMARKS.values())


def test_averages_count_each_benchmark_once_and_need_all_of_them() -> None:
    accuracies = {name: place / 10 for place, name in enumerate(BENCHMARKS)}
    found = averages(accuracies)
    assert found.standard == pytest.approx((0.0 + 0.1 + 0.2) / 3)
    assert found.challenging == pytest.approx((0.3 + 0.4 + 0.5 + 0.6 + 0.7 + 0.8) / 6)
    assert found.all == pytest.approx(0.4)
    # what is beside the nine counts for nothing
    assert averages({**accuracies, "mmlu_medical": 1.0}) == found
    del accuracies["medguide"]
    assert averages(accuracies).standard == found.standard
    assert averages(accuracies).challenging is None
    assert averages(accuracies).all is None
    assert averages({}).standard is None


def test_a_wrong_name_is_an_error_with_a_suggestion() -> None:
    assert benchmark("mmlu_medical").label == "MMLU-Med"
    with pytest.raises(UsageError, match="there is no benchmark `medxpert`") as error:
        benchmark("medxpert")
    assert error.value.hint == "did you mean `medxpertqa`?"


@pytest.mark.parametrize(
    ("name", "row", "belongs"),
    [
        ("mmlu_pro", {"category": "health"}, True),
        ("mmlu_pro", {"category": "law"}, False),
        # a file of the medical rows alone needs no such column
        ("mmlu_pro", {}, True),
        ("hle", {"category": "Biology/Medicine", "answer_type": "multipleChoice", "image": ""}, True),
        ("hle", {"category": "Biology/Medicine", "answer_type": "multipleChoice", "image": None}, True),
        ("hle", {"category": "Biology/Medicine", "answer_type": "multipleChoice", "image": "data:image/png"}, False),
        ("hle", {"category": "Biology/Medicine", "answer_type": "exactMatch", "image": ""}, False),
        ("hle", {"category": "Math", "answer_type": "multipleChoice", "image": ""}, False),
        ("medqa", {"category": "law"}, True),
    ],
)
def test_which_rows_belong(name: str, row: dict[str, object], belongs: bool) -> None:
    assert benchmark(name).holds(row) is belongs


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("medqa", 1273),
        ("medmcqa", 4183),
        ("mmlu_pro", 1089),
        ("hle", 103),
        ("medbullets4", 308),
        ("medbullets5", 308),
        ("medxpertqa", 2450),
        ("medguide", 7747),
        ("metamedqa", 1373),
    ],
)
def test_how_many_questions_the_papers_columns_count(name: str, n: int) -> None:
    """Most printed values are whole numbers of n-ths, as docs/evaluate.md says; of MMLU-Pro's 1,535 they are not."""
    from diq.evaluation.published import rows

    values = [row.accuracies[name] for row in rows() if name in row.accuracies]

    def share(questions: int) -> float:
        whole = [abs(round(value * questions / 100) / questions * 100 - value) < 0.00501 for value in values]
        return sum(whole) / len(values)

    assert share(n) > 0.88
    # some value of two decimals in every n-th is one by chance
    if name == "mmlu_pro":
        assert share(1535) < 0.2
