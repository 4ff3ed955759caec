"""Made-up files in the layouts of real data, ingested without a word about them: tests/data/make_layouts.py."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest

from conftest import TESTS
from diq.formats import Parsed, open_source
from diq.samples.ingest import ingest

FOLDER = TESTS / "data" / "layouts"

CASE = "Ward {}, bed 6: vertigo at 38.6 °C. What is given?"
LINES = CASE + "\nA. atropine\nB. lithium\nC. quinine\nD. aspirin"
MORE = "\nE. zinc\nF. insulin\nG. heparin\nH. digoxin\nI. iron"
INLINE = CASE + "\nAnswer Choices: (A) atropine (B) lithium (C) quinine (D) aspirin"
WHY = "With vertigo it is quinine."
RIGHT = "The answer is C. quinine"
TRACE = " Let's think. With vertigo it is heparin. The answer is (G).\n"
MEDQUAD = (
    "What are the symptoms of fever of type 6 ?",
    '\n            Mostly vertigo.  \n            - Then "atropine" helps.',
)

# file to layout and to the prompt, the answer and the reasoning of its seventh row
FILES: dict[str, tuple[str, str, str, str | None]] = {
    "finemed_dpo.parquet": ("preference", CASE.format("dpo"), WHY, None),
    "finemed_sft.jsonl": ("finemed", CASE.format("sft"), WHY, None),
    "hle_biomed.jsonl": ("hle_options", LINES.format("hle") + "\nE. zinc", "The answer is B. lithium", None),
    "huatuo_o1_demo.json": ("huatuo", CASE.format("demo"), "The answer is (C).", WHY),
    "huatuo_o1_sft.json": ("huatuo", LINES.format("huatuo"), "quinine", WHY),
    "m23k_rows.jsonl": ("m23k", LINES.format("notebook"), "quinine is right.", f"Okay. {WHY}"),
    "m23k_tokenized.parquet": ("m23k", LINES.format("m23k"), "The answer is (C).", WHY),
    "medbullets.csv": ("medbullets", LINES.format("bullets").replace("?", '?\nHe says, "now".'), RIGHT, WHY),
    "medbullets.json": ("medbullets", LINES.format("bullets").replace("?", '?\nHe says, "now".'), RIGHT, WHY),
    "medguide.jsonl": ("medguide", LINES.format("guide"), RIGHT, None),
    "medmcqa.jsonl": ("medmcqa", LINES.format("hub"), RIGHT, None),
    "medmcqa_options.jsonl": ("medmcqa_options", LINES.format("mcqa"), RIGHT, None),
    "medmcqa_pool.jsonl": ("choices_inline", INLINE.format("pool"), RIGHT, WHY),
    "medqa.jsonl": ("medqa", LINES.format("medqa"), RIGHT, None),
    "medqa_5options.jsonl": ("medqa", LINES.format("five") + "\nE. zinc", "The answer is B. lithium", None),
    "medqa_inline.jsonl": ("choices_inline", INLINE.format("inline"), RIGHT, None),
    "medquad.csv": ("question_answer", *MEDQUAD, None),
    "medquad_alpaca.jsonl.gz": ("alpaca", *MEDQUAD, None),
    "medreason.jsonl": ("medreason", LINES.format("reason").replace("\nA", "\nAnswer Choices:\nA"), "quinine", WHY),
    "medxpertqa.jsonl": (
        "medxpertqa",
        INLINE.format("expert") + " (E) zinc (F) insulin (G) heparin (H) digoxin (I) iron (J) morphine",
        "The answer is G. heparin",
        None,
    ),
    "medxpertqa_plain.jsonl": (
        "medxpertqa", LINES.format("plain") + MORE + "\nJ. morphine", "The answer is G. heparin", None
    ),
    "messages.jsonl": ("messages", CASE.format("chat") + " (0)", "quinine 0", None),
    "metamedqa.parquet": (
        "metamedqa",
        LINES.format("meta") + "\nE. None of the above\nF. I don't know or cannot answer",
        RIGHT,
        None,
    ),
    "mmlu_medical.jsonl": ("choices_inline", INLINE.format("mmlu"), RIGHT, None),
    "mmlu_pro.jsonl": ("mmlu_pro", LINES.format("pro") + MORE, "The answer is G. heparin", None),
    "mmlu_pro_traces.json": ("mmlu_pro_trace", LINES.format("traces") + MORE, TRACE, None),
    "mmlu_pro_traces.jsonl.gz": ("mmlu_pro_trace", LINES.format("traced") + MORE, TRACE, None),
    "mmlu_pro_traces.parquet": ("mmlu_pro_trace", LINES.format("trace") + MORE, TRACE, None),
    "pairs.jsonl.gz": (
        "preference",
        CASE.format("pairs") + "\n(A) atropine\n(B) lithium\n(C) quinine\n(D) aspirin",
        f"{WHY} The answer is (C).",
        None,
    ),
    "pubmedqa.json": (
        "pubmedqa", f"6 were treated.\n\n{WHY}\n\n{CASE.format('pubmed')}", "The answer is yes.", "All got quinine."
    ),
    "sharegpt.json": ("sharegpt", CASE.format("share") + " (0)", "quinine (0)", None),
    "ultrafeedback.jsonl": ("preference", CASE.format("feedback"), WHY, None),
    "ultramedical.json": ("ultramedical", LINES.format("ultra"), WHY, None),
}  # fmt: skip

# messages by role, where they are not 50 of the user and 50 of the assistant
ROLES = {
    "messages.jsonl": {"system": 25, "user": 99, "assistant": 99},
    "sharegpt.json": {"user": 75, "assistant": 75},
}
# samples with reasoning, where it is neither all nor none
SOME = {"m23k_rows.jsonl": 25, "medmcqa.jsonl": 25}


def samples(file: str) -> list[Any]:
    reader = open_source(FOLDER / file)
    assert reader.layout.name == FILES[file][0]
    rows = list(reader)
    found = [row.sample for row in rows if isinstance(row, Parsed)]
    assert len(found) == len(rows) == 50, rows
    return found


@pytest.mark.parametrize("file", FILES)
def test_a_file_reads_as_it_is_meant(file: str) -> None:
    layout, prompt, answer, reasoning = FILES[file]
    found = samples(file)
    said = {"role": "assistant", "content": answer}
    if reasoning:
        said["reasoning_content"] = reasoning
    assert found[6].messages == [{"role": "user", "content": prompt}, said]
    roles = Counter(message["role"] for one in found for message in one.messages)
    assert roles == ROLES.get(file, {"user": 50, "assistant": 50})
    n_reasoning = sum("reasoning_content" in one.messages[-1] for one in found)
    assert n_reasoning == SOME.get(file, 50 if reasoning else 0)
    assert sum(one.rejected is not None for one in found) == (50 if layout == "preference" else 0)


def test_the_folder_in_one_call(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    summary = ingest(FOLDER, dataset="all", store=store)
    # one file has a row twice; the CSV and the JSON of one set hold the same samples
    twice = {"medquad.csv": (49, 1), "medquad_alpaca.jsonl.gz": (0, 50), "medbullets.json": (0, 50)}
    assert {
        Path(one.path).name: (one.layout, one.n_rows, one.n_samples, one.n_duplicates, one.n_rejects)
        for one in summary.sources
    } == {file: (layout, 50, *twice.get(file, (50, 0)), 0) for file, (layout, *_) in FILES.items()}
    # the store has what the readers gave, each once
    with duckdb.connect(str(store), read_only=True) as connection:
        rows = connection.execute(
            "SELECT messages FROM dataset_samples JOIN samples USING (sample_id) ORDER BY position"
        ).fetchall()
    given = [one.messages for source in summary.sources for one in samples(Path(source.path).name)]
    assert [json.loads(text) for (text,) in rows] == [json.loads(one) for one in dict.fromkeys(map(json.dumps, given))]
