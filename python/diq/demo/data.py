"""What the demo works on: an invented medical world, questions about it, and two small models made from its text.

Everything is a pure function of a seed. The drugs, conditions, tests and doses exist nowhere else: this is no medical
knowledge, and no answer in it must be used for a patient.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diq.base.files import write_text
from diq.demo.options import Sizes
from diq.demo.questions import ASKED, POOL, RECALL, Item, Template
from diq.demo.world import CHATTER, NOISE, NOTICE, TASKS, WRONG_WAYS, World, make_world

Example = dict[str, Any]

FIGURES = "training.json"


@dataclass(slots=True)
class Drawing:
    """Draws questions that were not drawn before, so that no two uses share one."""

    world: World
    rng: random.Random
    seen: set[str] = field(default_factory=set)

    def draw(self, n: int, templates: Sequence[Template], *, fresh: bool = True) -> list[Item]:
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
        return replace(item, reasoning="", answer=rng.choice(WRONG_WAYS) + item.wrong, noise=noise)
    if noise == "truncated":
        words = (item.reasoning or item.answer).split()
        cut = " ".join(words[: max(1, len(words) // 3)])
        # the reasoning ended too early and stands where the answer should be
        return replace(item, reasoning="", answer=cut, noise=noise)
    if rng.random() < 0.5:
        return _small_talk(item, rng)
    return replace(item, reasoning="", answer=rng.choice(CHATTER)[1], noise=noise)


def _small_talk(item: Item, rng: random.Random) -> Item:
    """Small talk in place of the item; a time of day keeps it distinct, as in a real log."""
    question, answer = rng.choice(CHATTER)
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
    validation = {task: drawing.draw(sizes.validation * 3 // 2, ASKED[task]) for task in TASKS}
    held_out = {task: drawing.draw(sizes.held_out, ASKED[task]) for task in TASKS}
    weighted = [template for template, count in POOL.items() for _ in range(count)]
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


def _read_before(drawing: Drawing, n: int, templates: Sequence[Template]) -> list[Item]:
    """What the model is trained on: mostly recall, some of everything that is asked, and small talk."""
    some, talk = n // 5, n // 10
    items = drawing.draw(n - some - talk, RECALL, fresh=False) + drawing.draw(some, templates, fresh=False)
    chatter = drawing.draw(talk, templates, fresh=False)
    return items + [_small_talk(item, drawing.rng) for item in chatter]


def _graded(drawing: Drawing, n: int, templates: Sequence[Template]) -> list[Item]:
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
    write_text(path, "".join(f"{line}\n" for line in lines))


ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
THINK = ("<think>", "</think>")
