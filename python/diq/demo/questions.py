"""Questions about the invented world, with answers and difficulty."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from diq.demo.world import (
    CLASSES,
    COLOURS,
    EFFECTS,
    ORGANS,
    SYMPTOMS,
    TASKS,
    WARDS,
    Condition,
    World,
    interaction,
    joined,
    raised_or_lowered,
)


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its true answer and difficulty.

    Attributes:
        task: one of ``TASKS``, or ``ward`` for what neither validation task asks.
        kind: template that made it.
        levels: knowledge, reasoning and overall, 1 to 5.
        question: without options.
        reasoning: empty for what is only recalled.
        answer: the right answer.
        wrong: a wrong one.
        options: of a multiple-choice question, in their order; empty otherwise.
        noise: what was done to it: ``none`` or one of ``NOISE``.
    """

    task: str
    kind: str
    levels: tuple[int, int, int]
    question: str
    reasoning: str
    answer: str
    wrong: str
    options: tuple[str, ...] = ()
    noise: str = "none"

    @property
    def prompt(self) -> str:
        """The question with its options, as ``diq ingest`` words them."""
        return "\n".join(
            [self.question, *(f"{letter}. {one}" for letter, one in zip("ABCD", self.options, strict=False))]
        )

    @property
    def response(self) -> str:
        """The answer as a sample has it."""
        if self.options and self.answer in self.options:
            return f"The answer is {self.letter}. {self.answer}"
        return self.answer

    @property
    def letter(self) -> str:
        """Letter of the right option."""
        return "ABCD"[self.options.index(self.answer)]


def _person(rng: random.Random) -> str:
    return f"A {rng.randrange(19, 90)}-year-old {rng.choice(('man', 'woman'))}"


def _class_of(world: World, rng: random.Random) -> Item:
    drug = rng.choice(world.drugs)
    asked = rng.choice(("Which class does {} belong to?", "What kind of drug is {}?", "Name the class of {}."))
    return Item(
        TASKS[0],
        "class",
        (1, 1, 1),
        asked.format(drug.name),
        "",
        f"{drug.name} is a {CLASSES[drug.kind]}.",
        f"{drug.name} is a {CLASSES[(drug.kind + 2) % len(CLASSES)]}.",
    )


def _limit(world: World, rng: random.Random) -> Item:
    drug = rng.choice(world.drugs)
    asked = rng.choice(
        ("What is the limit of {}?", "How much {} is allowed a day?", "Give the highest daily amount of {}.")
    )
    return Item(
        TASKS[0],
        "limit",
        (2, 1, 1),
        asked.format(drug.name),
        "",
        f"The limit of {drug.name} is {drug.limit} mg a day.",
        f"The limit of {drug.name} is {drug.limit * 3} mg a day.",
    )


def _avoid(world: World, rng: random.Random) -> Item:
    drug = rng.choice(world.drugs)
    asked = rng.choice(("When is {} bad?", "Who must not be given {}?", "In which patients is {} avoided?"))
    answer = f"{drug.name} is a {CLASSES[drug.kind]}; it is bad in {{}}."
    return Item(
        TASKS[0],
        "avoid",
        (3, 2, 2),
        asked.format(drug.name),
        "",
        answer.format(ORGANS[drug.kind]),
        answer.format(ORGANS[(drug.kind + 2) % len(ORGANS)]),
    )


def _pair(world: World, rng: random.Random) -> Item:
    a, b = rng.sample(world.drugs, 2)
    if rng.random() < 0.5:
        b = rng.choice(world.of_class(a.kind + rng.choice((1, -1))))
    asked = rng.choice(("Can {} be given with {}?", "Is it safe to add {} to {}?", "May {} and {} be combined?"))
    effect = interaction(a, b)
    why = f"{a.name} is a {CLASSES[a.kind]}. {b.name} is a {CLASSES[b.kind]}. "
    if effect is None:
        return Item(
            TASKS[0],
            "pair",
            (3, 3, 3),
            asked.format(a.name, b.name),
            f"{why}The two classes do not interact.",
            "Yes, they can be combined.",
            f"No, together they cause {rng.choice(EFFECTS)}.",
        )
    return Item(
        TASKS[0],
        "pair",
        (3, 3, 3),
        asked.format(a.name, b.name),
        f"{why}Together they cause {EFFECTS[effect]}.",
        f"No, together they cause {EFFECTS[effect]}.",
        "Yes, they can be combined.",
    )


def _dose(world: World, rng: random.Random, *, given: bool) -> Item:
    drug, kg = rng.choice(world.drugs), rng.randrange(40, 101, 2)
    total = kg * drug.per_kg
    amount = min(total, drug.limit)
    rule = f"{drug.per_kg} mg per kg a day in {drug.doses} doses"
    asked = f"{_person(rng)} of {kg} kg gets {drug.name}"
    asked += f" at {rule}, limit {drug.limit} mg a day. How much is one dose?" if given else ". How much is one dose?"
    why = "" if given else f"{drug.name} is given at {rule}. The limit is {drug.limit} mg. "
    why += f"{kg} kg times {drug.per_kg} mg is {total} mg. "
    why += f"That is above the limit, so {drug.limit} mg. " if total > drug.limit else "That is within the limit. "
    why += f"{amount} mg in {drug.doses} doses is {amount // drug.doses} mg."
    return Item(
        TASKS[0],
        "dose given" if given else "dose",
        (1, 3, 2) if given else (4, 4, 4),
        asked,
        why,
        f"One dose is {amount // drug.doses} mg.",
        f"One dose is {total * 2} mg.",
    )


def _dose_given(world: World, rng: random.Random) -> Item:
    return _dose(world, rng, given=True)


def _dose_recalled(world: World, rng: random.Random) -> Item:
    return _dose(world, rng, given=False)


def _add_on(world: World, rng: random.Random) -> Item:
    # one option is bad for the organ, one interacts with the present drug, one is right
    current = rng.choice(world.drugs)
    clash = rng.choice(world.of_class(current.kind + rng.choice((1, -1))))
    n = len(CLASSES)
    left = [kind for kind in range(n) if (kind - current.kind) % n not in (0, 1, n - 1)]
    bad_kind, good_kind = rng.sample(left, 2)
    bad, good = rng.choice(world.of_class(bad_kind)), rng.choice(world.of_class(good_kind))
    options = [clash, bad, good]
    rng.shuffle(options)
    organ = ORGANS[bad_kind]
    why = {
        clash.name: f"{clash.name} is a {CLASSES[clash.kind]} and causes {EFFECTS[interaction(current, clash) or 0]} "
        f"with the {CLASSES[current.kind]} {current.name}.",
        bad.name: f"{bad.name} is a {CLASSES[bad.kind]} and bad in {organ}.",
        good.name: f"{good.name} is a {CLASSES[good.kind]} and safe here.",
    }
    names = tuple(one.name for one in options)
    asked = f"{_person(rng)} with {organ} takes {current.name}. Which drug can be added?"
    reasoning = " ".join(why[name] for name in names)
    return Item(TASKS[0], "add-on", (4, 5, 5), asked, reasoning, good.name, rng.choice([clash.name, bad.name]), names)


def _sign(world: World, rng: random.Random) -> Item:
    one = rng.choice(world.conditions)
    asked = rng.choice(("What does {} cause?", "Name the symptoms of {}.", "How does {} show?"))
    answer = f"{one.name} causes {', '.join(one.shared)} and {{}}."
    wrong = rng.choice([symptom for symptom in SYMPTOMS if symptom not in (*one.shared, one.own)])
    return Item(
        TASKS[1], "symptoms", (1, 1, 1), asked.format(one.name), "", answer.format(one.own), answer.format(wrong)
    )


def _lab(world: World, rng: random.Random) -> Item:
    one = rng.choice(world.conditions)
    asked = rng.choice(("Which test changes in {}?", "What does the blood show in {}?", "Name the test for {}."))
    answer = f"In {one.name} the {one.lab} is "
    return Item(
        TASKS[1],
        "test",
        (2, 1, 2),
        asked.format(one.name),
        "",
        f"{answer}{raised_or_lowered(one.raised)}.",
        f"{answer}{raised_or_lowered(not one.raised)}.",
    )


def _three_signs(world: World, rng: random.Random) -> Item:
    one = rng.choice(world.conditions)
    signs = [*one.shared, one.own]
    rng.shuffle(signs)
    asked = f"{_person(rng)} has {signs[0]}, {signs[1]} and {signs[2]}. What is it?"
    other = rng.choice([two for two in world.conditions if two is not one])
    return Item(
        TASKS[1],
        "three symptoms",
        (3, 2, 3),
        asked,
        f"{one.name} causes {', '.join(one.shared)} and {one.own}. All three fit.",
        f"It is {one.name}.",
        f"It is {other.name}.",
    )


def _elimination(world: World, rng: random.Random) -> tuple[Condition, str, str]:
    pair = list(rng.choice(world.twins))
    rng.shuffle(pair)
    one, other = pair
    signs = list(one.shared)
    rng.shuffle(signs)
    shown = f"has {joined(signs)}. The {one.lab} is {raised_or_lowered(one.raised)}."
    first, second = sorted(pair, key=lambda condition: condition.name)
    why = (
        f"{joined(signs)} fit {first.name} and {second.name}. "
        f"In {other.name} the {other.lab} is {raised_or_lowered(other.raised)}. So it is {one.name}."
    )
    return one, shown, why[0].upper() + why[1:]


def _differential(world: World, rng: random.Random) -> Item:
    one, shown, why = _elimination(world, rng)
    twin = next(b if a is one else a for a, b in world.twins if one in (a, b))
    return Item(
        TASKS[1],
        "differential",
        (4, 4, 4),
        f"{_person(rng)} {shown} What is it?",
        why,
        f"It is {one.name}.",
        f"It is {twin.name}.",
    )


def _treatment(world: World, rng: random.Random) -> Item:
    one, shown, why = _elimination(world, rng)
    # half of the time the first choice does not go with what the patient takes already; the second choice always does
    n, first, second = len(CLASSES), one.first.kind, one.second.kind
    fits = [kind for kind in range(n) if (kind - second) % n not in (0, 1, n - 1) and kind != first]
    clash = [kind for kind in fits if (kind - first) % n in (1, n - 1)]
    calm = [kind for kind in fits if kind not in clash] or clash
    taken = rng.choice(world.of_class(rng.choice(clash if rng.random() < 0.5 else calm)))
    effect = interaction(one.first, taken)
    right, wrong = (one.first, one.second) if effect is None else (one.second, one.first)
    why += f" It is treated with {one.first.name}. "
    with_taken = f"With {taken.name}, a {CLASSES[taken.kind]}, "
    if effect is None:
        why += f"{with_taken}it is safe."
    else:
        why += f"{with_taken}it causes {EFFECTS[effect]}. Second choice is {right.name}."
    asked = f"{_person(rng)} takes {taken.name} and {shown} Which drug?"
    return Item(TASKS[1], "treatment", (5, 5, 5), asked, why, f"Give {right.name}.", f"Give {wrong.name}.")


def _tablet(world: World, rng: random.Random) -> Item:
    drug = rng.choice(world.drugs)
    ward = rng.choice(WARDS)
    asked = rng.choice(("The {} asks: which colour is {}?", "For the {}: what does {} look like?"))
    wrong = rng.choice([one for one in COLOURS if one != drug.colour])
    answer = f"{drug.name} is {{}}."
    return Item(
        "ward", "tablet", (2, 1, 1), asked.format(ward, drug.name), "", answer.format(drug.colour), answer.format(wrong)
    )


def _shelf(world: World, rng: random.Random) -> Item:
    drug = rng.choice(world.drugs)
    ward = rng.choice(WARDS)
    asked = rng.choice(("The {} asks: how cold is {} kept?", "For the {}: where does {} go?"))
    answer = f"{drug.name} is kept at {{}} degrees."
    return Item(
        "ward", "shelf", (3, 1, 2), asked.format(ward, drug.name), "", answer.format(drug.shelf), answer.format(40)
    )


def _roster(world: World, rng: random.Random) -> Item:
    start, hours, ward = rng.randrange(1, 12), rng.randrange(2, 12), rng.choice(WARDS)
    asked = f"A shift at the {ward} starts at {start} and takes {hours} hours. When does it end?"
    return Item(
        "ward",
        "roster",
        (1, 2, 2),
        asked,
        f"{start} plus {hours} is {start + hours}.",
        f"It ends at {start + hours}.",
        f"It ends at {start + hours + 3}.",
    )


def _beds(world: World, rng: random.Random) -> Item:
    ward, rooms, each, full = rng.choice(WARDS), rng.randrange(3, 13), rng.randrange(2, 7), rng.randrange(2, 6)
    asked = f"The {ward} has {rooms} rooms of {each} beds. {full} beds are taken. How many are free?"
    total = rooms * each
    return Item(
        "ward",
        "beds",
        (1, 3, 2),
        asked,
        f"{rooms} times {each} is {total}. {total} minus {full} is {total - full}.",
        f"There are {total - full} free beds.",
        f"There are {total + full} free beds.",
    )


Template = Callable[[World, random.Random], Item]
RECALL: tuple[Template, ...] = (_class_of, _limit, _avoid, _sign, _lab, _tablet, _shelf, _roster, _beds)
# how often each template makes a sample of the training file
POOL: dict[Template, int] = {
    _class_of: 4,
    _limit: 4,
    _avoid: 4,
    _pair: 9,
    _dose_given: 7,
    _dose_recalled: 8,
    _add_on: 8,
    _sign: 3,
    _lab: 3,
    _three_signs: 8,
    _differential: 8,
    _treatment: 8,
    _tablet: 6,
    _shelf: 6,
    _roster: 7,
    _beds: 7,
}
ASKED: dict[str, tuple[Template, ...]] = {TASKS[0]: (_add_on,), TASKS[1]: (_differential, _treatment)}
