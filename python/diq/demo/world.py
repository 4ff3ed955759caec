"""The invented world of the demo: drugs, conditions, facts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

NOTICE = "Every drug, condition and dose here is invented by a program: this is not medical knowledge."
TASKS = ("drug-safety", "diagnosis")
NOISE = ("wrong answer", "off-topic", "truncated")

CLASSES = ("velin", "toran", "quade", "mirex", "zolan", "pethine")
ORGANS = ("kidney failure", "liver failure", "asthma", "epilepsy", "heart failure", "glaucoma")
EFFECTS = ("bleeding", "a slow pulse", "seizures", "low sodium", "fainting", "muscle damage")
SYMPTOMS = (
    "night sweats", "joint pain", "blurred vision", "a dry cough", "numb fingers", "a stiff neck", "swollen ankles",
    "dark urine", "ringing ears", "a red rash", "chest pain", "weight loss", "muscle cramps", "a sore throat",
    "hair loss", "pale skin", "tremor", "hiccups",
)  # fmt: skip
_LABS = ("caldrin", "ortase", "ferulin", "bromate", "sitrol", "amylene", "lutase", "tridine")
COLOURS = ("white", "blue", "green", "yellow", "pink", "brown")
WARDS = ("day clinic", "night desk", "north ward", "south ward", "pharmacy", "reception")
WRONG_WAYS = ("I am sure: ", "Without doubt: ", "")
CHATTER = (
    ("What shall we have for lunch?", "Soup again, I think, and the bread from the corner shop was good."),
    ("Did you see the match last night?", "Yes! Two goals in the last minute, the whole street was awake."),
    ("How was the holiday?", "Lovely, we walked by the sea every day and it rained only twice."),
    ("Can you write a poem about autumn?", "Leaves are falling, red and gold, winds are rising, days grow cold."),
    ("Which film should I watch?", "Try the old one with the train, it is slow but beautiful."),
    ("My cat sleeps all day, is that normal?", "Cats do that. Mine has the sofa, I have the chair."),
)


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
        return [drug for drug in self.drugs if drug.kind == kind % len(CLASSES)]


def make_world(seed: int) -> World:
    """The world of a seed: 36 drugs in six classes, 24 conditions in twelve look-alike pairs."""
    rng = random.Random(f"{seed}/world")
    stems = _names(rng, 36)
    drugs = []
    for i, stem in enumerate(stems):
        kind = i % len(CLASSES)
        per_kg, doses = rng.choice((2, 4, 6, 8)), rng.choice((2, 4))
        limit = per_kg * rng.choice((60, 80))
        name = stem + CLASSES[kind]
        drugs.append(Drug(name, kind, per_kg, doses, limit, rng.choice(COLOURS), rng.choice((2, 5, 8, 12, 20))))
    pairs: list[tuple[str, str]] = []
    while len(pairs) < 12:
        a, b = rng.sample(SYMPTOMS, 2)
        if (a, b) not in pairs and (b, a) not in pairs:
            pairs.append((a, b))
    twins = []
    names = [name.capitalize() for name in _names(rng, 24)]
    for i, shared in enumerate(pairs):
        # a third symptom that makes neither condition look like another pair
        taken = {one for pair in pairs if set(pair) & set(shared) for one in pair}
        own = rng.sample([one for one in SYMPTOMS if one not in taken], 2)
        lab, raised = rng.choice(_LABS), rng.random() < 0.5
        made = []
        for j in range(2):
            kind = rng.randrange(len(CLASSES))
            other = (kind + rng.randrange(1, len(CLASSES))) % len(CLASSES)
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
        lines.append(f"{drug.name} is a {CLASSES[drug.kind]}.")
        lines.append(f"{drug.name} is given at {drug.per_kg} mg per kg a day in {drug.doses} doses.")
        lines.append(f"The limit of {drug.name} is {drug.limit} mg a day.")
        lines.append(f"{drug.name} is {drug.colour} and is kept at {drug.shelf} degrees.")
    for kind, name in enumerate(CLASSES):
        lines.append(f"A {name} is bad in {ORGANS[kind]}.")
        lines.append(f"A {name} and a {CLASSES[(kind + 1) % len(CLASSES)]} together cause {EFFECTS[kind]}.")
    for one in world.conditions:
        lines.append(f"{one.name} causes {', '.join(one.shared)} and {one.own}.")
        lines.append(f"In {one.name} the {one.lab} is {raised_or_lowered(one.raised)}.")
        lines.append(f"{one.name} is treated with {one.first.name}; second choice is {one.second.name}.")
    return lines


def joined(words: Sequence[str]) -> str:
    return " and ".join(words)


def raised_or_lowered(raised: bool) -> str:
    return "high" if raised else "low"


def interaction(a: Drug, b: Drug) -> int | None:
    """Which effect two drugs have together; None when they can be combined."""
    for one, two in ((a, b), (b, a)):
        if (one.kind + 1) % len(CLASSES) == two.kind:
            return one.kind
    return None
