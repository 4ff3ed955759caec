"""The demo's data: a function of the seed, no question used twice, and answers that follow from the facts."""

from __future__ import annotations

import pytest

from diq.demo import data as demo_data
from diq.demo.options import Sizes
from diq.demo.questions import Item
from diq.demo.world import NOISE, TASKS, facts

TINY = Sizes(samples=130, duplicates=7, broken=5, validation=4, held_out=3, model_samples=120, classifier_samples=200)


def test_data_is_a_function_of_the_seed() -> None:
    assert demo_data.make_data(TINY, 3) == demo_data.make_data(TINY, 3)
    assert demo_data.make_data(TINY, 3).pool != demo_data.make_data(TINY, 4).pool


@pytest.mark.parametrize("seed", range(3))
def test_no_two_uses_share_a_question(seed: int) -> None:
    data = demo_data.make_data(Sizes(), seed)
    pool = {item.prompt for item in data.pool if isinstance(item, Item)}
    parts = [pool]
    for task in TASKS:
        parts += [{item.prompt for item in part[task]} for part in (data.validation, data.held_out)]
        assert len(parts[-1]) == Sizes().held_out
    assert len(set().union(*parts)) == sum(map(len, parts))


@pytest.mark.parametrize("seed", range(3))
def test_the_pool_has_every_level_and_kind_of_noise(seed: int) -> None:
    sizes = Sizes()
    items = [item for item in demo_data.make_data(sizes, seed).pool if isinstance(item, Item)]
    distinct = {(item.prompt, item.reasoning, item.response): item for item in items}
    assert len(distinct) == sizes.samples
    assert len(items) == sizes.samples + sizes.duplicates
    assert {item.noise for item in items} == {"none", *NOISE}
    assert sum(item.noise != "none" for item in distinct.values()) == round(sizes.samples * sizes.noise)
    for dimension in range(3):
        assert {item.levels[dimension] for item in items} == {1, 2, 3, 4, 5}


def test_right_answers_are_right() -> None:
    # told apart from the generator's own words: a right option neither interacts nor is bad for the patient
    data = demo_data.make_data(Sizes(), 0)
    world = data.world
    drugs = {drug.name: drug for drug in world.drugs}
    told = facts(world)
    for item in data.held_out["drug-safety"]:
        organ, current = item.question.split(" with ")[1].split(" takes ")
        taken = drugs[current.split(".")[0]]
        fits = []
        for name in item.options:
            classes = {name.removesuffix(kind) and kind for kind in _classes(told) if name.endswith(kind)}
            (own,) = classes
            (other,) = (kind for kind in _classes(told) if taken.name.endswith(kind))
            pairs = {f"A {own} and a {other} together", f"A {other} and a {own} together"}
            clash = any(line.startswith(tuple(pairs)) for line in told)
            if not clash and f"A {own} is bad in {organ}." not in told:
                fits.append(name)
        assert fits == [item.answer]
    for item in data.held_out["diagnosis"]:
        if item.kind == "differential":
            shown, lab = item.question.split(" has ")[1].split(". The ")
            signs, level = shown.split(" and "), lab.split(". ")[0]
            fitting = [
                one.name
                for one in world.conditions
                if set(signs) <= {*one.shared, one.own} and f"In {one.name} the {level}." in told
            ]
            assert [f"It is {name}." for name in fitting] == [item.answer]


def _classes(told: list[str]) -> list[str]:
    return sorted({line.removesuffix(".").split()[-1] for line in told if " is a " in line})
