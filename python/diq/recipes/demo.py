"""What the recipe ``demo`` starts from: the invented data and two small models, as files in a folder.

The same as ``diq demo`` makes, with preference pairs beside (the true answer against a wrong one), and the held-out
questions of the first task as a benchmark's file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diq.base.errors import UsageError
from diq.base.files import check_folder, whole_folder
from diq.base.progress import Progress

if TYPE_CHECKING:
    from diq.demo.options import Sizes

MODEL, ENCODER = "demo-llama", "demo-encoder"
PAIRS, QUESTIONS = "preference", "questions"
_PAIRS = 200
_MARKER = "demo_data.json"


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """What was made.

    Attributes:
        folder: that holds everything.
        files: of each dataset, by name.
        models: figures of the two models' making.
        made: whether anything was made now.
    """

    folder: str
    files: dict[str, str]
    models: dict[str, dict[str, Any]]
    made: bool

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def make_demo_data(folder: Path, *, sizes: Sizes, seed: int = 0, progress: Progress | None = None) -> DemoFiles:
    """Write the demo's data to ``folder/data`` and its two models beside, each file and model appearing whole.

    Args:
        folder: new, empty, or made by this function before.
        sizes: how large everything is.
        seed: of data and models, 0 to 2**31 - 1; with the sizes it gives one demo.
        progress: called while the language model is trained.

    Raises:
        UsageError: the folder holds a demo of other sizes or another seed.
    """
    # loads torch
    from transformers.utils import logging as transformers_logging

    from diq.demo import data as demo_data
    from diq.demo.models import make_encoder, make_language_model
    from diq.demo.world import TASKS

    # nobody waits for these models to be saved
    transformers_logging.disable_progress_bar()
    check_folder(folder)
    wanted = {"seed": seed, "sizes": asdict(sizes)}
    marker = folder / "data" / _MARKER
    if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) != wanted:
        raise UsageError(
            f"`{folder}` holds data of another seed or other sizes", "name another output folder for this demo"
        )
    data = demo_data.make_data(sizes, seed)
    made = not marker.exists()
    if made:
        pairs = [
            {"prompt": item.prompt, "chosen": item.response, "rejected": item.wrong}
            for item in data.classifier
            if item.noise == "none"
        ][:_PAIRS]
        # the layout of MMLU-Pro, which takes questions of three options
        questions = [
            {
                "question_id": i,
                "question": item.question,
                "options": list(item.options),
                "answer": item.letter,
                "answer_index": item.options.index(item.answer),
                "cot_content": item.reasoning,
                "category": "health",
                "src": "invented",
            }
            for i, item in enumerate(data.held_out[TASKS[0]])
        ]
        with whole_folder(folder / "data") as part:
            demo_data.write_files(data, part)
            for name, rows in ((PAIRS, pairs), (QUESTIONS, questions)):
                text = "".join(json.dumps(row) + "\n" for row in rows)
                (part / f"{name}.jsonl").write_text(text, encoding="utf-8")
            (part / _MARKER).write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    models = {}
    for name, make in ((ENCODER, make_encoder), (MODEL, make_language_model)):
        place = folder / name
        if not place.exists():
            make(data, sizes, seed, place, progress)
            made = True
        models[name] = json.loads((place / demo_data.FIGURES).read_text(encoding="utf-8"))
    files = {path.stem: str(path) for path in sorted((folder / "data").glob("*.jsonl"))}
    return DemoFiles(str(folder), files, models, made)
