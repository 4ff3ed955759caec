"""The report in a real browser without a network, against the store's own SQL, and on broken input."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diq
from conftest import fill_store, invoke, stdout_of, write_jsonl
from diq.base.errors import DiqError, StoreError, UsageError
from diq.cli.report import report as command
from diq.cli.select import select
from diq.cli.status import status
from diq.influence.meters import TOLD_TASKS, measure, told
from diq.influence.stored import read_dots
from diq.plot import data
from diq.plot.ground import grounded
from diq.reporting.blocks import Listed, Samples, Section
from diq.reporting.page import page
from diq.store.store import Store

CANARY = "window.canary=1"
NASTY = [
    f"<script>{CANARY}</script>",
    f"</script><script>{CANARY}</script>",
    f"<img src=x onerror='{CANARY}'><svg onload={CANARY}>",
    f'<a href="javascript:{CANARY}">here</a> [here](javascript:{CANARY})',
    f"</details></div></body><iframe srcdoc='<script>parent.{CANARY}</script>'></iframe>",
    "one\u2028two\u2029three \u202egnihtemos\u202c end",
    f"</style><style>*{{display:none}}</style>\"><base href=//x><meta http-equiv=refresh content='0;url=//x'>{CANARY}",
    "a" * 1_000_000,
    "\x00\x1b[31m\ufeff zero\u200bwidth",
]
POOL, SET, MODEL = f"<b onclick={CANARY}>pool</b>", f"set</script><script>{CANARY}</script>", f"<i>m</i>{CANARY}"


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts and names with markup, ingested and scored as anybody would."""
    folder = tmp_path_factory.mktemp("nasty")
    rows = [{"question": f"{number}: {text}", "answer": text} for number, text in enumerate(NASTY * 4)]
    rng = np.random.default_rng(0)
    scores = [
        {"position": number, "overall": float(rng.uniform(1, 5)), "dot": float(rng.normal())}
        for number in range(len(rows))
    ]
    path = folder / "s.duckdb"
    diq.ingest([write_jsonl(folder / "<rows>.jsonl", rows)], dataset=POOL, store=path)
    diq.ingest(
        [write_jsonl(folder / "scores.jsonl", scores)],
        dataset=POOL,
        scores=True,
        model=MODEL,
        validation_set=SET,
        store=path,
    )
    diq.select(POOL, ratio="0.4", model=MODEL, name=f"<u>{CANARY}</u>", store=path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("plain") / "s.duckdb"
    folds = {name: list(rng.standard_t(3, (600, 2))) for name in ("medqa", "pubmedqa")}
    fill_store(
        path,
        dots={name: np.asarray(column).mean(axis=1) for name, column in folds.items()},
        difficulty=rng.uniform(1, 5, 600),
        folds=folds,
        answer_tokens=rng.integers(5, 900, 600),
    )
    diq.select("pool", ratio="0.1", model="model", name="diq", store=path)
    diq.select("pool", ratio="0.1", strategy="random", name="random", store=path)
    return path


def own(path: Path) -> str:
    """A page without its scripts: the library that draws has markup in its texts."""
    return re.sub(r"<script\b.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def specs_of(page: str) -> dict[str, Any]:
    keys = re.findall(r'data-spec="(spec-\d+)" data-key="([^"]+)"', page)
    blocks = dict(re.findall(r'<script type="application/json" id="(spec-\d+)">(.*?)</script>', page, re.DOTALL))
    return {key: json.loads(blocks[number]) for number, key in keys}


@pytest.fixture
def opened(browser: Any) -> Any:
    """Opens a page as a file with the network cut off; gives the page, what it asked for and what it complained of."""
    contexts = []

    def go(path: Path, *, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append("a dialog"))
        page.goto(path.resolve().as_uri())
        charts = "document.querySelectorAll('[data-spec]').length"
        page.wait_for_function(f"{charts} === document.querySelectorAll('[data-drawn] svg').length", timeout=60_000)
        return page, asked, complaints

    yield go
    for context in contexts:
        context.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_opens_offline_and_asks_for_nothing(
    plain: Path, tmp_path: Path, opened: Any, width: int, scheme: str
) -> None:
    made = diq.report(selection=["diq", "random"], output=tmp_path / "r.html", store=plain, published="Huatuo")
    assert made.size_bytes == (tmp_path / "r.html").stat().st_size < 2_000_000
    page, asked, complaints = opened(tmp_path / "r.html", width=width, scheme=scheme)
    assert asked == [(tmp_path / "r.html").resolve().as_uri()]
    assert complaints == []
    assert page.evaluate("document.querySelectorAll('[data-drawn]').length") == 8
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing to scroll sideways"
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == (
        "rgb(15, 18, 22)" if scheme == "dark" else "rgb(255, 255, 255)"
    )
    texts = page.evaluate("[...document.querySelectorAll('svg text')].map(one => getComputedStyle(one).fill)")
    assert max(texts.count(one) for one in texts) > len(texts) / 2
    first = page.locator("details").first
    first.locator("summary").click()
    assert first.locator(".said").first.is_visible()
    page.locator("[data-key='pool-tasks'] svg .mark-symbol path").first.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "medqa" in page.inner_text("#vg-tooltip-element")


@pytest.mark.slow
def test_nothing_of_the_data_runs_and_nothing_is_hidden(nasty: Path, tmp_path: Path, opened: Any) -> None:
    diq.report(output=tmp_path / "r.html", store=nasty)
    page, asked, complaints = opened(tmp_path / "r.html")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    page.wait_for_timeout(300)
    assert page.evaluate("window.canary") is None
    assert len(asked) == 1
    assert complaints == []
    shown = page.inner_text("body")
    assert f"<script>{CANARY}</script>" in shown
    assert f"<img src=x onerror='{CANARY}'>" in shown
    assert "U+202E" in shown
    assert "U+2028" in shown
    assert "U+200B" in shown
    assert POOL in shown
    assert "more characters" in shown
    assert page.evaluate("document.querySelectorAll('iframe, base, img, body script:not([type])').length") == 2
    assert page.evaluate("[...document.querySelectorAll('a')].every(one => one.getAttribute('href').startsWith('#'))")
    assert (tmp_path / "r.html").stat().st_size < 2_000_000


def test_its_policy_allows_its_own_scripts_and_nothing_else(nasty: Path, tmp_path: Path) -> None:
    diq.report(output=tmp_path / "r.html", store=nasty)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    markup = own(tmp_path / "r.html")
    assert not re.search(r"<(?:link|img|iframe|object|embed|base)\b", markup)
    # attributes are quoted, so what stands between quotes is none
    assert not re.search(r"<[^>]*\son[a-z]+\s*=", re.sub(r'="[^"]*"', "", markup))


def test_numbers_of_the_page_are_those_of_the_store(plain: Path, tmp_path: Path) -> None:
    diq.report("pool", selection="diq", output=tmp_path / "r.html", store=plain)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    specs = specs_of(page)
    ranked = diq.sql("FROM diq_ranking('pool', 'model')", store=plain).to_pylist()
    chosen = diq.sql("FROM selection_samples WHERE selection_id = 1 ORDER BY rank", store=plain).to_pylist()
    cells = specs["pool-quadrants"]["layer"][0]["data"]["values"]
    assert (
        (sum(one["n"] for one in cells), sum(one["taken"] for one in cells)) == (len(ranked), len(chosen)) == (600, 60)
    )
    with grounded(plain, selection="diq") as ground:
        drawn = data.dots(ground)
    for part, (name, facts) in zip(specs["pool-influence"]["vconcat"], drawn.facts["sets"].items(), strict=True):
        bars = next(one for one in part["layer"] if len(one["data"]["values"]) > 1)["data"]["values"]
        assert [one["n"] for one in bars] == [row["n"] for row in drawn.rows if row["validation_set"] == name]
        (line,) = part["layer"][-1]["data"]["values"]
        assert line["dot"] == pytest.approx(facts["median"], rel=1e-5)
    ids = re.findall(r"id <code>([0-9a-f-]{36})</code>", page)
    assert ids == [str(row["sample_id"]) for row in ranked[:110]], "the selected ones, and 50 that follow"
    for quadrant in ("Q1", "Q2", "Q3", "Q4"):
        assert f"{quadrant} {sum(row['quadrant'] == quadrant for row in ranked):,}" in page


def test_every_meter_says_what_it_means_where_it_is_read(plain: Path, tmp_path: Path) -> None:
    diq.report("pool", selection="diq", output=tmp_path / "r.html", store=plain)
    page = own(tmp_path / "r.html")
    (run,) = diq.status(store=plain, scores=True).scores or []
    rows = told(run)
    assert len(rows) == 12
    for name, value, says in rows:
        assert says.endswith(".")
        assert f"<td>{html.escape(name)}</td><td>{value}</td><td>{says}</td>" in page
    assert f'<p class="quiet">{TOLD_TASKS}</p>' in page
    assert "chance alone gives 90 %" in page
    # a terminal has no room for it
    printed = stdout_of(status, "--scores", "--store", plain)
    assert "flips between them, top 10 %" in printed
    assert "chance alone" not in printed


def test_its_commands_make_the_selections_again(plain: Path, tmp_path: Path) -> None:
    given = {"difficulty_threshold": 3.2, "validation_set": ["medqa=2"], "name": "a name"}
    diq.select("pool", ratio="0.05", model="model", store=plain, **given)
    diq.report(selection=["a name", "random"], output=tmp_path / "r.html", store=plain)
    (commands,) = re.findall(r"<pre>(.*?)</pre>", own(tmp_path / "r.html"), re.DOTALL)
    before = {one["name"]: one["selection_id"] for one in diq.status(store=plain).selections}
    for line in html.unescape(commands).splitlines():
        words = shlex.split(line)
        assert words[0] == "diq"
        if words[1] == "select":
            done = invoke(select, *words[2:])
            assert done.exit_code == 0, done.output
            assert "read from the store" in done.output, line
    assert {one["name"]: one["selection_id"] for one in diq.status(store=plain).selections} == before


def test_texts_stay_out_where_they_are_not_wanted(nasty: Path, tmp_path: Path) -> None:
    diq.report(output=tmp_path / "r.html", store=nasty, text=False)
    page = own(tmp_path / "r.html")
    assert "onerror" not in page
    assert "aaaaaaaaaa" not in page
    assert page.count("<details>") > 10, "scores and places stay"
    with pytest.raises(UsageError, match="explain has no effect without"):
        diq.report(output=tmp_path / "r.html", store=nasty, text=False, explain=1)


def test_figures_are_written_for_a_paper(plain: Path, tmp_path: Path) -> None:
    made = diq.report(selection=["diq", "random"], output=tmp_path / "r.html", figures=tmp_path / "f", store=plain)
    names = sorted(path.name for path in (tmp_path / "f").iterdir())
    assert sorted(Path(one).name for one in made.figures) == names
    assert {"pool-quadrants.svg", "pool-quadrants.pdf", "overlap.svg", "pool-tasks.pdf"} <= set(names)
    assert all((tmp_path / "f" / name).read_bytes()[:4] in (b"<svg", b"%PDF") for name in names)


def test_tokens_are_coloured_by_what_they_add_and_stay_one_text() -> None:
    tokens = [("<|user|>", None), ("Is", None), (" it", None), ("No", -1.0), (",", 0.0), (" <b>", 4.0), ("\n\n!", 0.25)]
    sample = Listed([("rank", "1")], "id", "place", [{"role": "user", "content": "Is it"}], None, tokens)
    made = page("t", "a", [Section("s", [Samples("t", "a", "pool", [sample])])])
    (shown,) = re.findall(r'<div class="tokens" dir="auto">(.*?)</div>', made, re.DOTALL)
    assert html.unescape(re.sub(r"<[^>]+>", "", shown)) == "".join(text for text, _ in tokens)
    assert re.findall(r'<span(?: class="(..)")?(?: title="([^"]+)")?>', shown) == [
        ("", ""), ("", ""), ("", ""), ("m2", "-1"), ("", "0"), ("p4", "4"), ("p1", "0.25")
    ]  # fmt: skip


# what is missing, and broken input -----------------------------------------------------------------------------------


def test_without_scores_it_says_what_makes_them(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    diq.ingest([write_jsonl(tmp_path / "a.jsonl", [{"question": "Q?", "answer": "A."}])], dataset="pool", store=path)
    made = diq.report(output=tmp_path / "r.html", store=path)
    told = " ".join(made.notes)
    assert "diq score influence pool --model MODEL" in told
    assert "diq score difficulty pool --model CLASSIFIER" in told
    assert "diq select pool --ratio 0.1" in told
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "holds 1 sample." in re.sub("<[^>]+>", "", page)
    assert "<script>" not in page, "no chart, no library"


def test_what_is_no_dot_is_called_what_it_is(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(plain.read_bytes())
    with Store(path) as opened:
        opened.connection.execute("UPDATE runs SET method = 'less' WHERE kind = 'influence'")
    held = "cosines of Adam directions (LESS)"
    made = diq.report(selection=["diq"], output=tmp_path / "r.html", store=path, explain=1)
    words = re.sub("<[^>]+>", "", (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert f"a difficulty and an influence: {held}" in words
    assert f"Its dots are {held}" in words
    assert any(f"Tokens are not coloured: they add up to dots, and these are {held}" in note for note in made.notes)


def test_weights_of_the_validation_sets_are_told_and_metered(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(plain.read_bytes())
    weights = ("medqa=2", "pubmedqa=0.5")
    made = diq.select("pool", ratio="0.3", model="model", store=path, validation_set=weights, name="weighed")
    diq.report(selection=[made.selection_id], output=tmp_path / "r.html", store=path)
    words = re.sub("<[^>]+>", "", (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "The validation sets count medqa 2, pubmedqa 0.5." in words
    # the meters are of the dots that were ranked by
    with grounded(path, selection="weighed") as ground:
        expected = measure(
            read_dots(ground.store, dataset_id=1, run_id=ground.influence_run, weights={"medqa": 2.0, "pubmedqa": 0.5})
        )
    assert f"standard deviation of the dots{told(expected.to_dict())[4][1]}" in re.sub(r"\s+", " ", words)


def external(path: Path, dataset: str, sets: list[str]) -> None:
    """A dataset with scores that were computed elsewhere, of one model whatever the dataset."""
    rng = np.random.default_rng(len(dataset))
    rows = [{"question": f"{dataset} {number}?", "answer": "A."} for number in range(40)]
    diq.ingest([write_jsonl(path.with_name(f"{dataset}.jsonl"), rows)], dataset=dataset, store=path)
    for name in sets:
        scores = [{"position": i, "overall": i % 5 + 1, "dot": float(rng.normal())} for i in range(40)]
        file = write_jsonl(path.with_name(f"{dataset}-{name}.jsonl"), scores)
        diq.ingest([file], dataset=dataset, scores=True, model="model", validation_set=name, store=path)


def test_a_validation_set_that_one_of_two_datasets_lacks_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    external(path, "one", ["a", "b"])
    external(path, "two", ["a"])
    made = diq.report(output=tmp_path / "r.html", store=path)
    notes = " ".join(made.notes)
    assert "`--validation-set a` counts the others alone" in notes
    assert "diq ingest FILE --scores --dataset two --model model --validation-set b" in notes
    assert "two-quadrants" not in specs_of((tmp_path / "r.html").read_text(encoding="utf-8"))
    done = invoke(command, "--store", path, "-o", tmp_path / "r.html", "--validation-set", "a", "--json")
    assert done.exit_code == 0, done.output
    assert not [note for note in json.loads(done.output)["notes"] if "validation set" in note]
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for name in ("one", "two"):
        cells = specs_of(page)[f"{name}-quadrants"]["layer"][0]["data"]["values"]
        assert sum(one["n"] for one in cells) == 40
        # the meters are of the same dots
        with grounded(path, name, validation_set="a") as ground:
            ids = {"dataset_id": ground.data["dataset_id"], "run_id": ground.needs_dots()}
            expected = measure(read_dots(ground.store, **ids, weights={"a": 1.0})).to_dict()
        assert f"standard deviation of the dots</td><td>{told(expected)[4][1]}" in page
    assert "The validation sets count a 1." in re.sub("<[^>]+>", "", page)
    assert "--validation-set a " in html.unescape(page)


def test_options_that_every_selection_overrules_are_refused(plain: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"output": tmp_path / "r.html", "store": plain}
    with pytest.raises(UsageError, match="validation_set changes nothing here: `diq` brings the run"):
        diq.report(selection="diq", validation_set="medqa", **given)
    with pytest.raises(UsageError, match="run changes nothing here"):
        diq.report(selection="diq", run=1, **given)
    diq.report(selection="random", validation_set="medqa=2", run=1, **given)
    assert "The validation sets count medqa 2." in re.sub("<[^>]+>", "", own(tmp_path / "r.html"))
    with pytest.raises(UsageError, match="did you mean `medqa`"):
        diq.report(selection="random", validation_set="medq", **given)


def test_a_validation_set_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    rows = write_jsonl(tmp_path / "a.jsonl", [{"question": "Q?", "answer": "A."}])
    diq.ingest([rows], dataset="v", validation=True, store=path)
    made = diq.report(["v"], output=tmp_path / "r.html", store=path)
    # nobody selects from what others are scored against
    assert made.notes == []
    words = re.sub("<[^>]+>", "", (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "v holds 1 validation sample; no dots are with their gradient: diq score influence DATASET" in words


def test_a_selection_whose_ranking_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": np.arange(40.0)}, difficulty=np.arange(40) % 5 + 1)
    diq.select("pool", ratio="0.5", model="model", name="first", store=path)
    with Store(path) as store:
        store.connection.execute("UPDATE influence_scores SET dot = -dot")
    diq.select("pool", ratio="0.5", model="model", name="second", store=path)
    made = diq.report(selection="first", output=tmp_path / "r.html", store=path)
    assert any("was replaced" in one for one in made.notes)
    assert "The first 20 of 20 selected samples" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("dots", [np.full(30, 0.25), np.r_[np.nan, np.inf, np.arange(28.0)], np.array([1.0])])
def test_odd_dots_are_reported(dots: Any, tmp_path: Path) -> None:
    fill_store(tmp_path / "s.duckdb", dots={"a": dots}, difficulty=np.full(len(dots), 2.0))
    made = diq.report(output=tmp_path / "r.html", store=tmp_path / "s.duckdb")
    assert made.size_bytes > 100_000
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "NaN" not in "".join(map(json.dumps, specs_of(page).values()))
    if not np.isfinite(dots).all():
        assert "2 lack one and are ranked nowhere" in page


def test_wrong_use_is_one_line(plain: Path, tmp_path: Path) -> None:
    def refused(match: str, **given: Any) -> None:
        with pytest.raises(DiqError, match=match):
            diq.report(**{"output": tmp_path / "r.html", "store": plain, **given})
        assert not (tmp_path / "r.html").exists()

    refused("no dataset named `pol`", datasets="pol")
    refused("no selection `none`", selection="none")
    refused("is no .html file", output=tmp_path / "r.txt")
    refused("which was not asked for", datasets="other", selection="diq")
    refused("no model named `modl`", datasets="pool", model="modl")
    with pytest.raises(StoreError):
        diq.report(output=tmp_path / "r.html", store=tmp_path / "none.duckdb")
    with pytest.raises(UsageError, match="store"):
        diq.report(output=plain.with_suffix(".html"), store=plain.with_suffix(".html"))


def test_the_command_says_what_it_wrote(plain: Path, tmp_path: Path) -> None:
    done = invoke(
        command, "pool", "--store", str(plain), "-o", str(tmp_path / "r.html"), "--samples", "3", "--near-misses", "0"
    )
    assert done.exit_code == 0, done.output
    assert f"wrote {tmp_path / 'r.html'}" in done.output
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count("<details>") == 3
    done = invoke(command, "pool", "--store", str(plain), "-o", str(tmp_path / "r.html"), "--json")
    assert json.loads(done.output)["output"] == str(tmp_path / "r.html")


def test_a_decontaminated_selection_is_told_as_it_was_asked_for(tmp_path: Path) -> None:
    rows = [{"question": f"Which drug treats the {number}th kind of a long and rare disease of eyes?", "answer": "A."}
            for number in range(30)]  # fmt: skip
    path = tmp_path / "s.duckdb"
    diq.ingest([write_jsonl(tmp_path / "a.jsonl", rows)], dataset="pool", store=path)
    for name, first in (("exam", 3), ("other", 20)):
        file = write_jsonl(tmp_path / f"{name}.jsonl", rows[first : first + 4])
        diq.ingest([file], dataset=name, validation=True, sample=2, store=path)
    scores = [{"position": number, "overall": number % 5, "dot": float(number)} for number in range(30)]
    file = write_jsonl(tmp_path / "scores.jsonl", scores)
    diq.ingest([file], dataset="pool", scores=True, model="model", validation_set="exam", store=path)
    made = diq.select(
        "pool", ratio="0.3", model="model", decontaminate=["exam"], dedupe="near", name="clean", store=path
    )
    diq.report(selection="clean", output=tmp_path / "r.html", store=path)
    (commands,) = re.findall(r"<pre>(.*?)</pre>", own(tmp_path / "r.html"), re.DOTALL)
    words = shlex.split(html.unescape(commands).splitlines()[0])
    assert words.count("--decontaminate") == 1
    done = invoke(select, *words[2:])
    assert "read from the store" in done.output
    assert diq.status(store=path).selections[0]["selection_id"] == made.selection_id


def test_cosines_are_called_cosines(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": rng.normal(size=60)}, difficulty=rng.uniform(1, 5, 60), norms=rng.uniform(1, 9, 60))
    diq.select("pool", ratio="0.5", model="model", influence="cosine", name="cos", store=path)
    made = diq.report(output=tmp_path / "r.html", store=path)
    plane = specs_of((tmp_path / "r.html").read_text(encoding="utf-8"))["pool-quadrants"]
    assert plane["layer"][0]["encoding"]["y"]["title"] == "influence: cosine with the validation gradient of model"
    assert "the largest cosine first" in own(tmp_path / "r.html")
    assert "The ranking is by cosine; these are of the dots." in made.notes


def test_names_are_quoted_in_what_is_to_be_typed(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    name = "my 'pool' <x>"
    diq.ingest([write_jsonl(tmp_path / "a.jsonl", [{"question": "Q?", "answer": "A."}])], dataset=name, store=path)
    made = diq.report([name, name], output=tmp_path / "r.html", store=path)
    assert made.sections.count(name) == 1
    told = [one for note in made.notes for one in re.findall(r"`(diq (?:select|score)[^`]+)`", note)]
    assert len(told) >= 3
    assert all(name in shlex.split(one) for one in told), told


def test_a_paper_that_is_not_there_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results table, dataset or model `nope`"):
        diq.report("pool", published="nope", output=tmp_path / "r.html", store=plain)
