"""What the recipe ``demo`` starts from: the invented data and two small models, as files in a folder.

Beside pool and validation questions there are preference pairs (the true answer against a wrong one), and the held-out
questions of the first task as a benchmark's file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diq.base.errors import UsageError
from diq.base.files import check_folder, whole_folder
from diq.base.options import verb
from diq.base.summary import Summary
from diq.demo.options import DemoDataOptions, Sizes

MODEL, ENCODER = "demo-llama", "demo-encoder"
PAIRS, QUESTIONS = "preference", "questions"
_PAIRS = 200
_MARKER = "demo_data.json"


@dataclass(frozen=True, slots=True, repr=False)
class DemoFiles(Summary):
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


def has_data(folder: Path, sizes: Sizes, seed: int) -> bool:
    """Whether the data of a demo are in a folder.

    Raises:
        UsageError: they are, of another seed or of other sizes.
    """
    marker = folder / "data" / _MARKER
    if not marker.exists():
        return False
    found = json.loads(marker.read_text(encoding="utf-8"))
    if found["seed"] != seed:
        raise UsageError(
            f"`{folder}` holds a demo of seed {found['seed']}, not {seed}",
            f"give the seed {found['seed']}, or another folder",
        )
    if found["sizes"] != asdict(sizes):
        raise UsageError(f"`{folder}` holds a demo of other sizes", "name another folder")
    return True


@verb(DemoDataOptions)
def make_demo_data(options: DemoDataOptions) -> DemoFiles:
    """Write the demo's data to ``folder/data`` and its two models beside, each appearing whole.

    Raises:
        UsageError: the folder holds a demo of other sizes or another seed.
    """
    # loads torch
    from diq.demo import data as demo_data
    from diq.demo.models import make_encoder, make_language_model
    from diq.demo.world import TASKS
    from diq.models.device import quiet_libraries

    folder = Path(options.folder)
    check_folder(folder)
    made = not has_data(folder, options.sizes, options.seed)
    data = demo_data.make_data(options.sizes, options.seed)
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
            about = {"seed": options.seed, "sizes": asdict(options.sizes)}
            (part / _MARKER).write_text(json.dumps(about) + "\n", encoding="utf-8")
    models = {}
    for name, make in ((ENCODER, make_encoder), (MODEL, make_language_model)):
        place = folder / name
        if not place.exists():
            with quiet_libraries():
                make(data, options.sizes, options.seed, place, options.progress)
            made = True
        models[name] = json.loads((place / demo_data.FIGURES).read_text(encoding="utf-8"))
    files = {path.stem: str(path) for path in sorted((folder / "data").glob("*.jsonl"))}
    return DemoFiles(str(folder), files, models, made)
