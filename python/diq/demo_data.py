"""What the demo works on: an invented medical world, questions about it, and two small models made from its text.

Everything is a pure function of a seed. The drugs, conditions, tests and doses exist nowhere else: this is no medical
knowledge, and no answer in it must be used for a patient.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from diq.records import Progress

Example = dict[str, Any]

FIGURES = "training.json"

NOTICE = "Every drug, condition and dose here is invented by a program: this is not medical knowledge."
TASKS = ("drug-safety", "diagnosis")
NOISE = ("wrong answer", "off-topic", "truncated")

_CLASSES = ("velin", "toran", "quade", "mirex", "zolan", "pethine")
_ORGANS = ("kidney failure", "liver failure", "asthma", "epilepsy", "heart failure", "glaucoma")
_EFFECTS = ("bleeding", "a slow pulse", "seizures", "low sodium", "fainting", "muscle damage")
_SYMPTOMS = (
    "night sweats", "joint pain", "blurred vision", "a dry cough", "numb fingers", "a stiff neck", "swollen ankles",
    "dark urine", "ringing ears", "a red rash", "chest pain", "weight loss", "muscle cramps", "a sore throat",
    "hair loss", "pale skin", "tremor", "hiccups",
)  # fmt: skip
_LABS = ("caldrin", "ortase", "ferulin", "bromate", "sitrol", "amylene", "lutase", "tridine")
_COLOURS = ("white", "blue", "green", "yellow", "pink", "brown")
_WARDS = ("day clinic", "night desk", "north ward", "south ward", "pharmacy", "reception")
_WRONG_WAYS = ("I am sure: ", "Without doubt: ", "")
_CHATTER = (
    ("What shall we have for lunch?", "Soup again, I think, and the bread from the corner shop was good."),
    ("Did you see the match last night?", "Yes! Two goals in the last minute, the whole street was awake."),
    ("How was the holiday?", "Lovely, we walked by the sea every day and it rained only twice."),
    ("Can you write a poem about autumn?", "Leaves are falling, red and gold, winds are rising, days grow cold."),
    ("Which film should I watch?", "Try the old one with the train, it is slow but beautiful."),
    ("My cat sleeps all day, is that normal?", "Cats do that. Mine has the sofa, I have the chair."),
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the demo is; the defaults take about a minute and a half on two CPU cores.

    Attributes:
        samples: distinct usable rows of the training file, noise included.
        duplicates: rows that repeat an earlier one exactly.
        broken: rows that cannot be used.
        validation: samples of each validation set; its file holds half as many again, of which they are drawn.
        held_out: further samples of each task, which the selection never sees.
        noise: share of the samples that are noise, 0 to 1.
        hidden: width of the language model.
        layers: its layers.
        vocabulary: its tokens.
        model_samples: questions that it is trained on, beside the facts.
        model_steps: steps of its training.
        classifier_samples: questions with difficulty labels, for the classifier.
        classifier_epochs: at most so many epochs of its training.
        epochs: epochs of each fine-tuning.
    """

    samples: int = 2000
    duplicates: int = 60
    broken: int = 12
    validation: int = 32
    held_out: int = 64
    noise: float = 0.24
    hidden: int = 128
    layers: int = 4
    vocabulary: int = 1024
    model_samples: int = 3000
    model_steps: int = 110
    classifier_samples: int = 1500
    classifier_epochs: int = 5
    epochs: int = 3


# the world ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drug:
    """A drug; its class, with all that follows from it, is its name's ending."""

    name: str
    kind: int
    per_kg: int
    doses: int
    limit: int
    colour: str
    shelf: int


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition; it shares two symptoms and a test with its twin, whose test goes the other way."""

    name: str
    shared: tuple[str, str]
    own: str
    lab: str
    raised: bool
    first: Drug
    second: Drug


@dataclass(frozen=True, slots=True)
class World:
    """All facts. Neighbouring classes (a ring) interact; each class is bad for one organ problem."""

    drugs: list[Drug]
    twins: list[tuple[Condition, Condition]]

    @property
    def conditions(self) -> list[Condition]:
        """Both conditions of every pair."""
        return [one for pair in self.twins for one in pair]

    def of_class(self, kind: int) -> list[Drug]:
        """Drugs of a class."""
        return [drug for drug in self.drugs if drug.kind == kind % len(_CLASSES)]


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


def make_world(seed: int) -> World:
    """The world of a seed: 36 drugs in six classes, 24 conditions in twelve look-alike pairs."""
    rng = random.Random(f"{seed}/world")
    stems = _names(rng, 36)
    drugs = []
    for i, stem in enumerate(stems):
        kind = i % len(_CLASSES)
        per_kg, doses = rng.choice((2, 4, 6, 8)), rng.choice((2, 4))
        limit = per_kg * rng.choice((60, 80))
        name = stem + _CLASSES[kind]
        drugs.append(Drug(name, kind, per_kg, doses, limit, rng.choice(_COLOURS), rng.choice((2, 5, 8, 12, 20))))
    pairs: list[tuple[str, str]] = []
    while len(pairs) < 12:
        a, b = rng.sample(_SYMPTOMS, 2)
        if (a, b) not in pairs and (b, a) not in pairs:
            pairs.append((a, b))
    twins = []
    names = [name.capitalize() for name in _names(rng, 24)]
    for i, shared in enumerate(pairs):
        # a third symptom that makes neither condition look like another pair
        taken = {one for pair in pairs if set(pair) & set(shared) for one in pair}
        own = rng.sample([one for one in _SYMPTOMS if one not in taken], 2)
        lab, raised = rng.choice(_LABS), rng.random() < 0.5
        made = []
        for j in range(2):
            kind = rng.randrange(len(_CLASSES))
            other = (kind + rng.randrange(1, len(_CLASSES))) % len(_CLASSES)
            first, second = (rng.choice([one for one in drugs if one.kind == which]) for which in (kind, other))
            ending = rng.choice(("syndrome", "fever", "disease", "palsy"))
            made.append(
                Condition(f"{names[2 * i + j]} {ending}", shared, own[j], lab, raised != bool(j), first, second)
            )
        twins.append((made[0], made[1]))
    return World(drugs, twins)


def _names(rng: random.Random, n: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < n:
        found[rng.choice("bdfglmnprstv") + rng.choice("aeiou") + rng.choice("bdlmnrst") + rng.choice("aeiou")] = None
    return list(found)


def facts(world: World) -> list[str]:
    """The world as a textbook would say it, one sentence or two a fact."""
    lines = []
    for drug in world.drugs:
        lines.append(f"{drug.name} is a {_CLASSES[drug.kind]}.")
        lines.append(f"{drug.name} is given at {drug.per_kg} mg per kg a day in {drug.doses} doses.")
        lines.append(f"The limit of {drug.name} is {drug.limit} mg a day.")
        lines.append(f"{drug.name} is {drug.colour} and is kept at {drug.shelf} degrees.")
    for kind, name in enumerate(_CLASSES):
        lines.append(f"A {name} is bad in {_ORGANS[kind]}.")
        lines.append(f"A {name} and a {_CLASSES[(kind + 1) % len(_CLASSES)]} together cause {_EFFECTS[kind]}.")
    for one in world.conditions:
        lines.append(f"{one.name} causes {', '.join(one.shared)} and {one.own}.")
        lines.append(f"In {one.name} the {one.lab} is {_level(one.raised)}.")
        lines.append(f"{one.name} is treated with {one.first.name}; second choice is {one.second.name}.")
    return lines


# questions ---------------------------------------------------------------------------------------------------------


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)


def _level(raised: bool) -> str:
    return "high" if raised else "low"


def _interact(a: Drug, b: Drug) -> int | None:
    """Which effect two drugs have together; None when they can be combined."""
    for one, two in ((a, b), (b, a)):
        if (one.kind + 1) % len(_CLASSES) == two.kind:
            return one.kind
    return None


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
        f"{drug.name} is a {_CLASSES[drug.kind]}.",
        f"{drug.name} is a {_CLASSES[(drug.kind + 2) % len(_CLASSES)]}.",
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
    answer = f"{drug.name} is a {_CLASSES[drug.kind]}; it is bad in {{}}."
    return Item(
        TASKS[0],
        "avoid",
        (3, 2, 2),
        asked.format(drug.name),
        "",
        answer.format(_ORGANS[drug.kind]),
        answer.format(_ORGANS[(drug.kind + 2) % len(_ORGANS)]),
    )


def _pair(world: World, rng: random.Random) -> Item:
    a, b = rng.sample(world.drugs, 2)
    if rng.random() < 0.5:
        b = rng.choice(world.of_class(a.kind + rng.choice((1, -1))))
    asked = rng.choice(("Can {} be given with {}?", "Is it safe to add {} to {}?", "May {} and {} be combined?"))
    effect = _interact(a, b)
    why = f"{a.name} is a {_CLASSES[a.kind]}. {b.name} is a {_CLASSES[b.kind]}. "
    if effect is None:
        return Item(
            TASKS[0],
            "pair",
            (3, 3, 3),
            asked.format(a.name, b.name),
            f"{why}The two classes do not interact.",
            "Yes, they can be combined.",
            f"No, together they cause {rng.choice(_EFFECTS)}.",
        )
    return Item(
        TASKS[0],
        "pair",
        (3, 3, 3),
        asked.format(a.name, b.name),
        f"{why}Together they cause {_EFFECTS[effect]}.",
        f"No, together they cause {_EFFECTS[effect]}.",
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
    n = len(_CLASSES)
    left = [kind for kind in range(n) if (kind - current.kind) % n not in (0, 1, n - 1)]
    bad_kind, good_kind = rng.sample(left, 2)
    bad, good = rng.choice(world.of_class(bad_kind)), rng.choice(world.of_class(good_kind))
    options = [clash, bad, good]
    rng.shuffle(options)
    organ = _ORGANS[bad_kind]
    why = {
        clash.name: f"{clash.name} is a {_CLASSES[clash.kind]} and causes {_EFFECTS[_interact(current, clash) or 0]} "
        f"with the {_CLASSES[current.kind]} {current.name}.",
        bad.name: f"{bad.name} is a {_CLASSES[bad.kind]} and bad in {organ}.",
        good.name: f"{good.name} is a {_CLASSES[good.kind]} and safe here.",
    }
    names = tuple(one.name for one in options)
    asked = f"{_person(rng)} with {organ} takes {current.name}. Which drug can be added?"
    reasoning = " ".join(why[name] for name in names)
    return Item(TASKS[0], "add-on", (4, 5, 5), asked, reasoning, good.name, rng.choice([clash.name, bad.name]), names)


def _sign(world: World, rng: random.Random) -> Item:
    one = rng.choice(world.conditions)
    asked = rng.choice(("What does {} cause?", "Name the symptoms of {}.", "How does {} show?"))
    answer = f"{one.name} causes {', '.join(one.shared)} and {{}}."
    wrong = rng.choice([symptom for symptom in _SYMPTOMS if symptom not in (*one.shared, one.own)])
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
        f"{answer}{_level(one.raised)}.",
        f"{answer}{_level(not one.raised)}.",
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
    shown = f"has {_and(signs)}. The {one.lab} is {_level(one.raised)}."
    first, second = sorted(pair, key=lambda condition: condition.name)
    why = (
        f"{_and(signs)} fit {first.name} and {second.name}. In {other.name} the {other.lab} is {_level(other.raised)}. "
        f"So it is {one.name}."
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
    n, first, second = len(_CLASSES), one.first.kind, one.second.kind
    fits = [kind for kind in range(n) if (kind - second) % n not in (0, 1, n - 1) and kind != first]
    clash = [kind for kind in fits if (kind - first) % n in (1, n - 1)]
    calm = [kind for kind in fits if kind not in clash] or clash
    taken = rng.choice(world.of_class(rng.choice(clash if rng.random() < 0.5 else calm)))
    effect = _interact(one.first, taken)
    right, wrong = (one.first, one.second) if effect is None else (one.second, one.first)
    why += f" It is treated with {one.first.name}. "
    with_taken = f"With {taken.name}, a {_CLASSES[taken.kind]}, "
    if effect is None:
        why += f"{with_taken}it is safe."
    else:
        why += f"{with_taken}it causes {_EFFECTS[effect]}. Second choice is {right.name}."
    asked = f"{_person(rng)} takes {taken.name} and {shown} Which drug?"
    return Item(TASKS[1], "treatment", (5, 5, 5), asked, why, f"Give {right.name}.", f"Give {wrong.name}.")


def _tablet(world: World, rng: random.Random) -> Item:
    drug = rng.choice(world.drugs)
    ward = rng.choice(_WARDS)
    asked = rng.choice(("The {} asks: which colour is {}?", "For the {}: what does {} look like?"))
    wrong = rng.choice([one for one in _COLOURS if one != drug.colour])
    answer = f"{drug.name} is {{}}."
    return Item(
        "ward", "tablet", (2, 1, 1), asked.format(ward, drug.name), "", answer.format(drug.colour), answer.format(wrong)
    )


def _shelf(world: World, rng: random.Random) -> Item:
    drug = rng.choice(world.drugs)
    ward = rng.choice(_WARDS)
    asked = rng.choice(("The {} asks: how cold is {} kept?", "For the {}: where does {} go?"))
    answer = f"{drug.name} is kept at {{}} degrees."
    return Item(
        "ward", "shelf", (3, 1, 2), asked.format(ward, drug.name), "", answer.format(drug.shelf), answer.format(40)
    )


def _roster(world: World, rng: random.Random) -> Item:
    start, hours, ward = rng.randrange(1, 12), rng.randrange(2, 12), rng.choice(_WARDS)
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
    ward, rooms, each, full = rng.choice(_WARDS), rng.randrange(3, 13), rng.randrange(2, 7), rng.randrange(2, 6)
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


_Template = Callable[[World, random.Random], Item]
_RECALL: tuple[_Template, ...] = (_class_of, _limit, _avoid, _sign, _lab, _tablet, _shelf, _roster, _beds)
# how often each template makes a sample of the training file
_POOL: dict[_Template, int] = {
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
_ASKED: dict[str, tuple[_Template, ...]] = {TASKS[0]: (_add_on,), TASKS[1]: (_differential, _treatment)}


@dataclass(slots=True)
class Drawing:
    """Draws questions that were not drawn before, so that no two uses share one."""

    world: World
    rng: random.Random
    seen: set[str] = field(default_factory=set)

    def draw(self, n: int, templates: Sequence[_Template], *, fresh: bool = True) -> list[Item]:
        """``n`` questions from templates taken in turn at random; ``fresh`` ones are asked for the first time."""
        found: list[Item] = []
        misses = 0
        while len(found) < n:
            item = self.rng.choice(templates)(self.world, self.rng)
            if fresh and item.prompt in self.seen:
                # the small templates run dry: their every question has been asked
                misses += 1
                if misses > 1000 * n:
                    raise AssertionError(f"the demo's world has no {n} further questions")
                continue
            self.seen.add(item.prompt)
            found.append(item)
        return found


def spoil(item: Item, noise: str, rng: random.Random) -> Item:
    """The item with one kind of noise."""
    if noise == "wrong answer":
        return replace(item, reasoning="", answer=rng.choice(_WRONG_WAYS) + item.wrong, noise=noise)
    if noise == "truncated":
        words = (item.reasoning or item.answer).split()
        cut = " ".join(words[: max(1, len(words) // 3)])
        # the reasoning ended too early and stands where the answer should be
        return replace(item, reasoning="", answer=cut, noise=noise)
    if rng.random() < 0.5:
        return _small_talk(item, rng)
    return replace(item, reasoning="", answer=rng.choice(_CHATTER)[1], noise=noise)


def _small_talk(item: Item, rng: random.Random) -> Item:
    """Small talk in place of the item; a time of day keeps it distinct, as in a real log."""
    question, answer = rng.choice(_CHATTER)
    question = f"{rng.randrange(24)}:{rng.randrange(10, 60)} {question}"
    return replace(
        item, question=question, options=(), reasoning="", answer=answer, levels=(1, 1, 1), noise="off-topic"
    )


@dataclass(frozen=True, slots=True)
class Data:
    """Everything that is drawn for a demo.

    Attributes:
        world: the facts.
        pool: rows of the training file in order, duplicates included; the broken ones as text.
        validation: samples of each task, of which those for the influence are drawn.
        held_out: further samples of each task.
        model: what the language model has read before, beside the facts: mostly easy questions.
        classifier: labelled questions for the difficulty classifier.
    """

    world: World
    pool: list[Item | str]
    validation: dict[str, list[Item]]
    held_out: dict[str, list[Item]]
    model: list[Item]
    classifier: list[Item]


def make_data(sizes: Sizes, seed: int) -> Data:
    """Draw the world and all questions; no two of pool, validation and held-out samples share a question."""
    world = make_world(seed)
    rng = random.Random(f"{seed}/data")
    drawing = Drawing(world, rng)
    validation = {task: drawing.draw(sizes.validation * 3 // 2, _ASKED[task]) for task in TASKS}
    held_out = {task: drawing.draw(sizes.held_out, _ASKED[task]) for task in TASKS}
    weighted = [template for template, count in _POOL.items() for _ in range(count)]
    n_noise = round(sizes.samples * sizes.noise)
    pool: list[Item] = drawing.draw(sizes.samples - n_noise, weighted)
    distinct = {_identity(item) for item in pool}
    while len(pool) < sizes.samples:
        item = spoil(drawing.draw(1, weighted)[0], NOISE[len(pool) % len(NOISE)], rng)
        if _identity(item) not in distinct:
            distinct.add(_identity(item))
            pool.append(item)
    rng.shuffle(pool)
    rows: list[Item | str] = [*pool, *(rng.choice(pool) for _ in range(sizes.duplicates))]
    # a duplicate stands behind its original, anywhere; a broken row anywhere
    for i in range(sizes.broken):
        rows.insert(rng.randrange(1, len(rows)), _broken(i, rng.choice(pool)))
    easy = Drawing(world, random.Random(f"{seed}/model"), set(drawing.seen))
    graded = Drawing(world, random.Random(f"{seed}/classifier"), set(drawing.seen))
    # small templates have few questions, all of them asked before; for these two uses they may be asked again
    return Data(
        world,
        rows,
        validation,
        held_out,
        _read_before(easy, sizes.model_samples, weighted),
        _graded(graded, sizes.classifier_samples, weighted),
    )


def _identity(item: Item) -> tuple[str, str, str]:
    return item.prompt, item.reasoning, item.response


def _read_before(drawing: Drawing, n: int, templates: Sequence[_Template]) -> list[Item]:
    """What the model is trained on: mostly recall, some of everything that is asked, and small talk."""
    some, talk = n // 5, n // 10
    items = drawing.draw(n - some - talk, _RECALL, fresh=False) + drawing.draw(some, templates, fresh=False)
    chatter = drawing.draw(talk, templates, fresh=False)
    return items + [_small_talk(item, drawing.rng) for item in chatter]


def _graded(drawing: Drawing, n: int, templates: Sequence[_Template]) -> list[Item]:
    items = drawing.draw(n, templates, fresh=False)
    return [spoil(item, "off-topic", drawing.rng) if i % 12 == 0 else item for i, item in enumerate(items)]


def _broken(i: int, item: Item) -> str:
    """A row that cannot be used, one of four kinds."""
    line = json.dumps(chat_row(item))
    if i % 4 == 0:
        return line[: len(line) // 2]
    if i % 4 == 1:
        return json.dumps({"messages": [{"role": "user", "content": item.prompt}]})
    if i % 4 == 2:
        return json.dumps(
            {"messages": [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": ""}]}
        )
    return json.dumps({"messages": item.prompt})


# files -------------------------------------------------------------------------------------------------------------


def messages(item: Item) -> list[dict[str, str]]:
    """The item as chat messages."""
    answer = {"role": "assistant", "content": item.response}
    if item.reasoning:
        answer["reasoning_content"] = item.reasoning
    return [{"role": "user", "content": item.prompt}, answer]


def chat_row(item: Item) -> Example:
    """OpenAI layout; the truth about the item goes along as columns, to be looked at with SQL afterwards."""
    knowledge, reasoning, overall = item.levels
    return {
        "messages": messages(item),
        "task": item.task,
        "kind": item.kind,
        "noise": item.noise,
        "true_knowledge": knowledge,
        "true_reasoning": reasoning,
        "true_overall": overall,
    }


def choice_row(item: Item) -> Example:
    """Multiple-choice layout."""
    options = dict(zip("ABCD", item.options, strict=False))
    row = {"question": item.question, "options": options, "answer_idx": item.letter, "answer": item.answer}
    return {**row, "rationale": item.reasoning}


def huatuo_row(item: Item) -> Example:
    """HuatuoGPT-o1 layout."""
    return {"Question": item.prompt, "Complex_CoT": item.reasoning, "Response": item.response}


def write_files(data: Data, folder: Path) -> dict[str, Path]:
    """Write the training file and the validation files, each appearing whole.

    Returns:
        File of each dataset, by its name: ``demo``, ``graded``, the tasks, and the tasks with ``-held-out``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"demo": folder / "train.jsonl", "graded": folder / "graded.jsonl"}
    _write(files["graded"], (json.dumps(chat_row(item)) for item in data.classifier))
    _write(files["demo"], (one if isinstance(one, str) else json.dumps(chat_row(one)) for one in data.pool))
    layouts = dict(zip(TASKS, (choice_row, huatuo_row), strict=True))
    for task, layout in layouts.items():
        for name, items in ((task, data.validation[task]), (f"{task}-held-out", data.held_out[task])):
            files[name] = folder / f"{name}.jsonl"
            _write(files[name], (json.dumps(layout(item)) for item in items))
    _write(folder / "NOTICE.txt", [NOTICE])
    return files


def _write(path: Path, lines: Iterable[str]) -> None:
    pending = path.with_name(f".{path.name}.part")
    pending.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    pending.replace(path)


# models ------------------------------------------------------------------------------------------------------------

_PAD, _END = "<|pad|>", "<|end|>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
_THINK = ("<think>", "</think>")
# the shortest template that does all that templates do: roles, reasoning, the generation prompt
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['reasoning_content'] %}<think>{{ message['reasoning_content'] }}</think>{% endif %}"
    "{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CONTEXT = 8192
_BLOCK = 192
_BLOCKS = 16
_BATCH = 32
_HEAD = 32


def make_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with digits apart, learned on the texts, with a chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_PAD, _END, *_ROLES, *_THINK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=_PAD,
        eos_token=_END,
        chat_template=_TEMPLATE,
        model_max_length=_CONTEXT,
        padding_side="right",
    )


def make_language_model(data: Data, sizes: Sizes, seed: int, folder: Path, progress: Progress | None = None) -> None:
    """Train a small Llama on the world's facts and on easy questions, and save it as a normal model folder.

    Most of what is hard is left for the fine-tuning to teach. ``FIGURES`` beside the weights holds parameters, tokens
    seen, and the mean loss of the first and the last ten steps, nats a token.
    """
    told = [f"{line}{_END}" for line in facts(data.world)]
    asked = [messages(item) for item in data.model]
    hard = [messages(item) for item in data.classifier]
    plain = [" ".join(part[key] for part in one for key in part if key != "role") for one in (*asked, *hard)]
    tokenizer = make_tokenizer([*told, *plain], vocabulary=sizes.vocabulary)
    chats = [tokenizer.apply_chat_template(one, tokenize=False) for one in asked]
    rng = random.Random(f"{seed}/order")
    # every fact often, in another order each time
    repeats = max(1, sum(map(len, chats)) // sum(map(len, told)))
    lines = chats + told * repeats
    rng.shuffle(lines)
    ids = torch.tensor([one for line in tokenizer(lines, add_special_tokens=False)["input_ids"] for one in line])
    heads = max(1, sizes.hidden // _HEAD)
    with _seeded(seed):
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.hidden,
            intermediate_size=sizes.hidden * 5 // 2,
            num_hidden_layers=sizes.layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            head_dim=_HEAD,
            max_position_embeddings=_CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = transformers.LlamaForCausalLM(config)

        def batches() -> Iterator[torch.Tensor]:
            block = min(_BLOCK, len(ids) - 1)
            while True:
                starts = torch.randint(len(ids) - block, (_BLOCKS,))
                yield torch.stack([ids[start : start + block] for start in starts])

        losses = _train(
            model,
            batches(),
            lambda batch: model(input_ids=batch, labels=batch).loss,
            sizes.model_steps,
            4e-3,
            lambda done: progress("training the language model", done, sizes.model_steps) if progress else None,
        )
    tokens = sizes.model_steps * _BLOCKS * min(_BLOCK, len(ids) - 1)
    _save(folder, model, tokenizer, {"tokens": tokens, **_ends(losses)})


def make_encoder(data: Data, sizes: Sizes, seed: int, folder: Path, _progress: Progress | None = None) -> None:
    """Save a small BERT that has learnt nothing, with its tokenizer: what the difficulty classifier is trained from.

    ``FIGURES`` beside the weights holds its parameters.
    """
    tokenizer = make_tokenizer([item.prompt for item in data.classifier], vocabulary=sizes.vocabulary)
    tokenizer.chat_template = None
    with _seeded(seed + 1):
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=256,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = transformers.BertModel(config)
    tokenizer.model_max_length = 256
    _save(folder, model, tokenizer, {})


def _train(
    model: torch.nn.Module,
    batches: Iterator[torch.Tensor],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    steps: int,
    learning_rate: float,
    report: Callable[[int], None],
) -> list[float]:
    """AdamW, a short warm-up, then down to nothing; a fixed number of steps, so that a seed always gives one model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    model.train()
    losses = []
    for step in range(steps):
        loss = loss_of(next(batches))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        report(step + 1)
    model.eval()
    return losses


def _ends(losses: Sequence[float]) -> dict[str, float]:
    first, last = losses[:10], losses[-10:]
    return {"first_loss": sum(first) / len(first), "last_loss": sum(last) / len(last)}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers from a seed, and as they were before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _save(folder: Path, model: Any, tokenizer: Any, figures: dict[str, float]) -> None:
    """Save a model, its tokenizer and its figures as a folder that appears whole."""
    pending = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(pending, ignore_errors=True)
    model.save_pretrained(pending)
    tokenizer.save_pretrained(pending)
    figures = {"parameters": sum(one.numel() for one in model.parameters()), **figures}
    (pending / FIGURES).write_text(json.dumps(figures) + "\n", encoding="utf-8")
    pending.replace(folder)
