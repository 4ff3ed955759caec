"""Recipes: what is wrong is found before anything runs, what is done is not done again, a kill changes nothing."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import duckdb
import pytest
import yaml

from chat_server import ScriptedServer, Step, difficulty_reply
from conftest import Commit, run_killed, write_jsonl
from diq.base.errors import InputError, RunFailedError, UsageError
from diq.base.options import Field, Needs
from diq.costs.flops import exact_flops, training_flops
from diq.costs.lengths import Lengths, read_file_lengths
from diq.costs.sizes import find_size
from diq.recipes import text as reading
from diq.recipes.run import RecipeSummary, load, run_recipe, shipped
from diq.recipes.text import Recipe
from diq.recipes.verbs import VERBS, command, given, keywords, look_up, parameters

SamplesMaker = Callable[..., list[list[dict[str, str]]]]


def read(text: str, *, settings: Sequence[str] = (), output: str = "out") -> Recipe:
    return reading.read(text, source="`r.yaml`", name="r", settings=settings, output=output)


def problems(text: str, *, settings: Sequence[str] = (), output: str = "out") -> list[str]:
    """What reading and checking find, without a store."""
    from diq.recipes.check import check_steps

    found = read(text, settings=settings, output=output)
    check_steps(found, None)
    return [str(one) for one in found.problems.found]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# reading -----------------------------------------------------------------------------------------------------------


def test_loops_unroll_in_order_and_placeholders_keep_types() -> None:
    found = read("""
vars:
  ratios: [0.01, 0.5]
  sets: {a: {file: x}, b: {file: y}}
  flag: true
  folder: "{output}/data"
steps:
  - for: {ratio: "{ratios}", strategy: [diq, random]}
    select: {dataset: pool, ratio: "{ratio}", strategy: "{strategy}", name: "s-{strategy}-{ratio}"}
  - for: {one: "{sets}"}
    steps:
      - ingest: {sources: "{folder}/{one.value.file}.jsonl", dataset: "{one.key}", validation: "{flag}"}
      - for: {n: [1, 2]}
        score perplexity: {dataset: "{one.key}", model: "{{m}}-{flag}-{n}"}
  - for: {nothing: []}
    train: {}
""")
    assert not found.problems.found
    steps = [(step.number, step.verb, step.options) for step in found.steps]
    selects = [
        {"dataset": "pool", "ratio": ratio, "strategy": strategy, "name": f"s-{strategy}-{ratio}"}
        for ratio in (0.01, 0.5)
        for strategy in ("diq", "random")
    ]
    rest = []
    for name, file in (("a", "x"), ("b", "y")):
        rest.append({"sources": f"out/data/{file}.jsonl", "dataset": name, "validation": True})
        rest += [{"dataset": name, "model": f"{{m}}-true-{n}"} for n in (1, 2)]
    assert [options for _, _, options in steps] == selects + rest
    assert [number for number, _, _ in steps] == list(range(1, 11))


def test_defaults_fill_what_a_step_leaves_out() -> None:
    found = read("""
vars: {n: 3}
defaults:
  train: {epochs: "{n}", seed: 1}
steps:
  - train: {selection: a, model: m, output: o}
  - for: {n2: [5]}
    train: {selection: a, model: m, output: o, epochs: "{n2}", seed: null}
""")
    assert not found.problems.found
    assert [(one.options["epochs"], one.options["seed"]) for one in found.steps] == [(3, 1), (5, None)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("5", 5), ("-2", -2), ("010", 10), ("1.", 1.0), (".5", 0.5), ("true", True), ("null", None),
        ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("0x1f", "0x1f"), ("'7'", "7"),
        ("1_000", "1_000"),
    ],
)  # fmt: skip
def test_plain_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = read(f"vars: {{a: {text}}}\nsteps: [{{x: {{b: '{{a}}'}}}}]").variables["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        (["n=5"], "n", 5),
        (["n=abc: d"], "n", "abc: d"),
        (["n=*.jsonl"], "n", "*.jsonl"),
        (["n=[1, a]"], "n", [1, "a"]),
        (["n={output}/x"], "n", "out/x"),
        (["n="], "n", None),
        (["n=a=b"], "n", "a=b"),
        (["m.k=2", "m.new=3"], "m", {"k": 2, "l": 1, "new": 3}),
        (["m={z: 1}"], "m", {"z": 1}),
        (["n='5'"], "n", "5"),
    ],
)
def test_settings_replace_variables(settings: list[str], name: str, value: Any) -> None:
    found = read("vars: {n: 1, m: {k: 1, l: 1}, later: '{n}'}\nsteps: [{x: {}}]", settings=settings)
    assert not found.problems.found
    assert found.variables[name] == value
    assert found.variables["later"] == found.variables["n"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("steps:\n  - a: [1", "line 2, column 10"),
        ("steps:\n  - train: {output: {output}/x}", "line 2"),
        ("a: 1\n b: 2", "line 2, column 3"),
        ("vars: &x {a: 1}", "anchors and aliases"),
        ("vars: {a: *x}", "anchors and aliases"),
        ("", "not a mapping"),
        ("- 1", "not a mapping"),
        ("a: \x00", "not YAML"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_yaml_mapping_is_one_line_with_its_place(text: str, where: str) -> None:
    with pytest.raises(InputError, match=re.escape(where)) as caught:
        read(text)
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stesp: []", "stesp (line 1): no such key; did you mean `steps`?"),
        ("vars: {a: 1}", "steps: a recipe needs steps"),
        ("steps: 5", "steps (line 1): steps are a list: each begins with `- `"),
        ("vars: [a]\nsteps: [{x: {}}]", "vars (line 1): variables are names with values"),
        ("vars: {a: 1, a: 2}\nsteps: [{x: {}}]", "vars.a (line 1): the key is there twice"),
        ("vars: {output: 1}\nsteps: [{x: {}}]", "vars.output (line 1): this name stands for the output folder; "
         "the key `output` sets it"),
        ("vars: {a-b: 1}\nsteps: [{x: {}}]", "vars.a-b (line 1): a variable's name is made of letters, digits and _"),
        ("vars: {a: '{b}', b: 1}\nsteps: [{x: {}}]", "vars.a (line 1): nothing is called `b`; known: `output`"),
        ("vars: {a: !!python/name:os.system x}\nsteps: [{x: {}}]", "vars.a (line 1): the tag tag:yaml.org,2002:python"),
        ("vars: {a: null}\nsteps: [{x: {b: 'c-{a}'}}]", "steps[1].x.b (line 2): `a` has no value"),
        ("vars: {a: [1]}\nsteps: [{x: {b: 'c-{a}'}}]", "steps[1].x.b (line 2): `a` is a list"),
        ("vars: {aa: {k: 1}}\nsteps: [{x: {b: '{aa.kk}'}}]", "nothing is called `aa.kk`; did you mean `k`?"),
        ("steps: [{}]", "steps[1] (line 1): a step is a verb with its options"),
        ("steps: [{a: {}, b: {}}]", "steps[1] (line 1): a step has one verb; here are `a`, `b`"),
        ("steps: [{for: {a: [1]}}]", "a step has one verb; here are none"),
        ("steps: [{steps: []}]", "steps[1] (line 1): `steps` belongs to a `for`"),
        ("steps: [{for: {a: [1]}, steps: [], x: {}}]", "`steps` belongs to a `for` and stands alone with it"),
        ("steps: [{x: [1]}]", "steps[1].x (line 1): the options of a step are keys with values"),
        ("steps: [{for: [1], x: {}}]", "steps[1].for (line 1): a loop is names with lists"),
        ("steps: [{for: {a: 3}, x: {}}]", "steps[1].for.a (line 1): `3` is neither a list nor a mapping to loop over"),
        ("vars: {a: 1}\nsteps: [{for: {a: [1]}, x: {}}]", "there is already a variable of this name"),
        ("steps: [{for: {a: []}, x: {}}]", "steps (line 1): every loop is empty"),
        ("recipe: [1]\nsteps: [{x: {}}]", "recipe (line 1): `[1]` is not a text"),
        ("defaults: [1]\nsteps: [{x: {}}]", "defaults (line 1): defaults are verbs with options"),
    ],
    ids=range(24),
)  # fmt: skip
def test_what_is_wrong_with_the_file_is_told_with_its_place(text: str, expected: str) -> None:
    assert any(one.startswith(expected) or expected in one for one in problems(text)), problems(text)


def test_wrong_settings_are_told() -> None:
    found = problems("vars: {rate: 1}\nsteps: [{x: {}}]", settings=["rte=2", "rate.a=1", "rate=[1", "rate"])
    assert "--set rte: the recipe has no such variable; did you mean `rate`?" in found
    assert "--set rate.a: the recipe has no such variable; did you mean `rate`?" in found
    assert "--set rate: `[1` is neither a list nor a mapping in YAML" in found
    assert "--set rate: is not of the form NAME=VALUE" in found


def test_loops_cannot_explode() -> None:
    loops = ", ".join(f"{name}: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]" for name in "abcdefgh")
    found = read(f"steps: [{{for: {{{loops}}}, train: {{selection: s, model: m, output: 'o{{a}}'}}}}]").problems.found
    assert any("the loops make more than 10,000 steps" in str(one) for one in found)


def nested(last: int, one: str) -> str:
    """Variables, each made of ten of the one before it."""
    lines = [f"  v{i}: {one.format(*[f'v{i - 1}'] * 10)}" for i in range(1, last + 1)]
    return "\n".join(["vars:", "  v0: aaaaaaaaaa", *lines])


TEXTS = '"' + "{{{}}}" * 10 + '"'
LISTS = "[" + ", ".join(['"{{{}}}"'] * 10) + "]"


@pytest.mark.parametrize("one", [TEXTS, LISTS], ids=["texts", "lists"])
def test_variables_of_variables_cannot_explode(one: str, tmp_path: Path) -> None:
    bomb = nested(11, one) + '\nsteps: [{ingest: {sources: "{v11}", dataset: p}}]'
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            run_recipe(write(tmp_path / "bomb.yaml", bomb), dry_run=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert re.search(
        r"bomb.yaml`: vars\.v[67](\[\d+\])? \(line [89]\): .* more than 16,777,216 characters", str(caught.value)
    )
    assert "\n" not in caught.value.message
    assert peak < 200 * 2**20


def test_what_loops_make_of_one_long_variable_cannot_explode() -> None:
    loops = "for: {a: [1, 2, 3, 4, 5, 6, 7, 8, 9], b: [1, 2, 3, 4, 5, 6, 7, 8, 9]}"
    long = f"{nested(5, TEXTS)}\nsteps: [{{{loops}, sql: {{query: 'OF', output: 'o{{a}}{{b}}'}}}}]"
    for text in ("{v5}{a}", "{v5}", "x" * 10**6):
        with pytest.raises(InputError, match=r"steps\[1\]\.sql\.query .* more than 16,777,216 characters"):
            read(long.replace("OF", text))
    assert not read(long.replace("OF", "{v3}{a}")).problems.found


def test_lists_in_lists_cannot_be_too_deep() -> None:
    text = "\n".join(["vars:", "  v0: [1]", *(f'  v{i}: ["{{v{i - 1}}}"]' for i in range(1, 2000))])
    with pytest.raises(InputError, match=r"vars\.v5\d\[1\] \(line \d+\): lists and mappings are nested deeper than 50"):
        read(f"{text}\nsteps: [{{sql: {{query: x}}}}]")


# verbs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(VERBS))
def test_the_options_of_a_verb_are_those_of_its_stage(name: str) -> None:
    verb = VERBS[name]
    assert look_up(verb.stage).record is look_up(verb.record)
    assert verb.fixed.keys() <= verb.options.keys()
    assert not parameters(name).keys() & {*verb.fixed, *given(name)}


def click_command(name: str) -> click.Command:
    first, *rest = VERBS[name].command
    found = getattr(importlib.import_module(f"diq.cli.{first}"), first)
    if rest:
        assert isinstance(found, click.Group)
        found = found.commands[rest[0]]
    return found


# a value for each kind of option, as YAML has it
SAMPLES: dict[str, Any] = {
    "int": 3, "float": 0.25, "flag": True, "text": "0.5", "name": "some/model", "path": "some/path",
    "texts": ["x", "y"], "paths": ["x"], "mapping": {"a": "b", "c": "d"}, "numbers": [0.5, 0.25, 0.25],
}  # fmt: skip


def value_for(one: Field) -> Any:
    if one.option.choices:
        return [one.option.choices[-1]] if one.kind == "texts" else one.option.choices[-1]
    return False if one.default is True else SAMPLES[one.kind]


@pytest.mark.parametrize("name", sorted(one for one in VERBS if VERBS[one].command))
def test_the_command_line_of_a_step_is_understood_by_the_command(name: str) -> None:
    target = click_command(name)
    for key in parameters(name):
        known = parameters(name)
        options = {one.name: value_for(one) for one in known.values() if one.required}
        options[key] = value_for(known[key])
        needs = [rule for rule in known[key].beside if isinstance(rule, Needs)]
        while needs:
            rule = needs.pop()
            # what it needs must be asked for, also where it is on by default
            if rule.option in options and not rule.values:
                # two may need each other
                continue
            options[rule.option] = rule.values[-1] if rule.values else value_for(known[rule.option]) or True
            needs += [one for one in known[rule.option].beside if isinstance(one, Needs)]
        words = command(name, options, Path("s.duckdb"))
        assert words[: 1 + len(VERBS[name].command)] == ["diq", *VERBS[name].command]
        context = target.make_context("x", words[1 + len(VERBS[name].command) :])
        told = {
            one.name
            for one in target.params
            if one.name and context.get_parameter_source(one.name) is not click.core.ParameterSource.DEFAULT
        }
        # each option of the step by its own name, the store, and nothing else
        assert told == {*options, "store"}, (key, words)


# checking ----------------------------------------------------------------------------------------------------------

GOOD = """
steps:
  - ingest: {sources: FILE, dataset: pool}
  - ingest: {sources: FILE, dataset: val, validation: true}
  - score difficulty: {dataset: pool, columns: {overall: level}}
  - score influence: {dataset: pool, model: owner/model, validation_set: val}
  - select: {dataset: pool, model: owner/model, ratio: 0.5, name: half}
  - train: {selection: half, model: owner/model, output: "{output}/adapter"}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", [{"instruction": "a", "output": "b"}])


def test_a_good_recipe_has_no_problems(data: Path) -> None:
    assert problems(GOOD.replace("FILE", str(data))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  - train:", "  - evaluate: {model: owner/model, benchmark: [hle, medqa=missing.jsonl]}\n  - train:",
         "evaluate.benchmark (line 8): no such file or folder: `missing.jsonl`"),
        ("train:", "tran:", "steps[6].tran (line 8): no such verb; did you mean `train`?"),
        ("selection: half", "selecton: half", "steps[6].train.selecton (line 8): `train` has no such option; "
         "did you mean `selection`?"),
        ("selection: half", "selection: half, epochs: many", "steps[6].train.epochs (line 8): needs a number, not"),
        ("  - train:", "  - report: {datasets: pool}\n  - train:", "report (line 8): `output` is missing"),
        ("  - train:", "  - report: {output: report.md}\n  - train:",
         "report.output (line 8): the output `report.md` is no .html file"),
        ("  - train:", "  - report: {output: r.html, selection: [half, hlf], validation_set: val=2}\n  - train:",
         "report.selection (line 8): no step before this one makes the selection `hlf`, and the store has none; "
         "did you mean `half`?"),
        ("selection: half", "selection: half, epochs: 0", "epochs (line 8): 0.0 is out of range; give more than 0"),
        ("selection: half", "selection: half, batch_size: -1", "-1 is out of range; give 1 or more"),
        ("selection: half", "selection: half, max_length: 1", "1 is out of range; give 2 or more"),
        ("selection: half", "selection: half, warmup_ratio: 1.5", "1.5 is out of range; give 0 to 1"),
        ("selection: half", "selection: half, scheduler: cosin", "`cosin` is not known; did you mean `cosine`?"),
        ("selection: half", "selection: half, store: x", "steps[6].train.store (line 8): the recipe gives this itself"),
        ("selection: half, ", "", "steps[6].train (line 8): `selection` is missing"),
        ("selection: half", "selection: hlf", "makes the selection `hlf`, and the store has none; did you mean `half`"),
        ("name: half", "name: half, difficulty-threshold: 3", "did you mean `difficulty_threshold`?"),
        ("ratio: 0.5", "ratio: 1.5", "steps[5].select.ratio (line 7): the ratio 1.5 is outside (0, 1]"),
        ("ratio: 0.5", "ratio: 0.5, output: x.txt", "steps[5].select.output (line 7): "),
        ("  - train:", "  - sql: {query: from pool, output: x.txt}\n  - train:", "sql.output (line 8): the output"),
        ("  - train:", "  - results: {output: x.txt}\n  - train:", "steps[6].results.output (line 8): the output"),
        ("ratio: 0.5", "ratio: 0.5, output: /proc/a.jsonl", "(line 7): the output `/proc` cannot be"),
        ("ratio: 0.5", "ratio: 0.5, output: FILE/a.jsonl", "data.jsonl` cannot be a folder: is a file"),
        ("{output}/adapter", "FILE", "steps[6].train.output (line 8): the output `"),
        ("ratio: 0.5", "ratio: 0.5, strategy: dic", "`dic` is not known; did you mean `diq`?"),
        ("ratio: 0.5", "ratio: 0.5, strategy: perplexity", "computes perplexity scores of `pool` with the model"),
        ("select: {dataset: pool, model: owner/model", "select: {dataset: pool, model: owner/modl",
         "scores of `pool` with the model `owner/modl`, and the store has none; did you mean `owner/model`?"),
        ("select: {dataset: pool", "select: {dataset: pol", "makes the dataset `pol`, and the store has none; did you"),
        ("validation_set: val", "validation_set: [vl]", "makes the validation set `vl`, and the store has none"),
        ("columns: {overall: level}", "columns: {overall: level}, model: a/b", "either `model` or `columns`"),
        ("  - score difficulty: {dataset: pool, columns: {overall: level}}\n", "",
         "no step before this one computes difficulty scores of `pool`"),
        ("{sources: FILE, dataset: pool}", "{sources: missing.jsonl, dataset: pool}", "no such file or folder"),
        ("{sources: FILE, dataset: pool}", "{sources: \"{output}/a.jsonl\", dataset: pool}",
         "`out/a.jsonl` is not there, and no step before this one makes it"),
        ("model: owner/model, output", "model: ./nowhere, output", "there is no folder `./nowhere`"),
        ("{output}/adapter",
         "{output}/adapter\"}\n  - train: {selection: pool, model: owner/model, output: \"{output}/adapter",
         "is also made by step 6; put the loop's variables in"),
        ("ratio: 0.5", "ratio: 0.5, seed: 1", "steps[5].select.seed (line 7): has no effect with strategy diq; leave "
         "it out, or give strategy random"),
        ("dataset: val, validation: true", "dataset: val, validation: true, seed: 1", "has no effect without sample"),
        ("selection: half", "selection: half, params: full, lora_rank: 4", "has no effect with params full"),
        ("name: half", "name: 5", "steps[5].select.name (line 7): `5` reads as a number"),
    ],
    ids=range(38),
)  # fmt: skip
def test_mistakes_in_steps_are_told_with_their_place(data: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    found = problems(GOOD.replace(old, new, 1).replace("FILE", str(data)))
    assert any(expected in one for one in found), found
    # one mistake is told once, and nothing else
    assert len(found) == 1, found


def test_what_one_line_says_of_many_steps_is_left_out_where_it_has_no_effect(data: Path) -> None:
    """Where the strategy is a variable, or the option a default, as in the shipped recipes."""
    text = "defaults: {select: {seed: 3}}" + GOOD.replace("FILE", str(data)).replace(
        "  - select: {dataset: pool, model: owner/model, ratio: 0.5, name: half}",
        "  - for: {strategy: [diq, random]}\n"
        '    select: {dataset: pool, model: owner/model, ratio: 0.5, name: "{strategy}", strategy: "{strategy}"}',
    ).replace("selection: half", "selection: diq")
    assert problems(text) == []
    by_dots, chance = read(text).steps[4:6]
    assert " ".join(command(by_dots.verb, by_dots.options, Path("s"))) == (
        "diq select pool --model owner/model --ratio 0.5 --name diq --strategy diq --store s"
    )
    assert keywords(chance.verb, chance.options) == {
        "dataset": "pool", "ratio": 0.5, "name": "random", "strategy": "random", "seed": 3,
    }  # fmt: skip


def test_a_variable_of_a_loop_is_not_named_to_be_set(data: Path) -> None:
    text = GOOD.replace("FILE", str(data)).replace(
        "  - train: {selection: half", "  - for: {e: [0]}\n    train: {selection: half"
    )
    (found,) = problems(text.replace("selection: half", 'selection: half, epochs: "{e}"'))
    assert found.endswith("epochs (line 9): 0.0 is out of range; give more than 0")
    (found,) = problems(
        "vars: {e: 0}" + GOOD.replace("FILE", str(data)).replace("selection: half", 'selection: half, epochs: "{e}"')
    )
    assert found.endswith("give more than 0 (it is the variable `e`: --set e=VALUE)")


def test_a_home_folder_is_found_in_a_recipe(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(data.parent))
    text = "output: ~/out" + GOOD.replace("FILE", f"~/{data.name}")
    assert problems(text, output="") == []
    assert reading.read(text, source="x", name="x").output == data.parent / "out"
    (found,) = problems(
        text.replace("FILE", "x").replace(f"~/{data.name}, dataset: pool", "~/none.jsonl, dataset: pool")
    )
    assert "no such file or folder" in found


def test_defaults_are_checked_at_their_own_place(data: Path) -> None:
    text = "defaults:\n  train: {epochz: 3}\n  judge clinical: {seed: 1, sampel: 3}\n  tran: {}" + GOOD.replace(
        "FILE", str(data)
    )
    found = problems(text)
    assert "defaults.train.epochz (line 2): `train` has no such option; did you mean `epochs`?" in found
    assert (
        "defaults.judge clinical.sampel (line 3): `judge clinical` has no such option; did you mean `sample`?" in found
    )
    assert "defaults.tran (line 4): no such verb; did you mean `train`?" in found


def test_what_an_empty_loop_leaves_out_is_checked_too(data: Path) -> None:
    text = GOOD.replace("FILE", str(data)) + "  - for: {x: []}\n    train: {selecton: half}\n"
    assert problems(text) == [
        "steps[7].train.selecton (line 10): `train` has no such option; did you mean `selection`?"
    ]


def test_all_problems_are_told_at_once(tmp_path: Path, data: Path) -> None:
    text = GOOD.replace("ratio: 0.5", "ratio: 7").replace("selection: half", "selection: half, epochs: -1, seeed: 1")
    file = write(tmp_path / "r.yaml", text.replace("FILE", str(data)) + "more: 1\n")
    with pytest.raises(InputError, match="has 4 problems:") as caught:
        run_recipe(file, output=tmp_path / "out")
    lines = caught.value.message.splitlines()
    assert [line.split(" (line")[0].strip() for line in lines[1:]] == [
        "steps[5].select.ratio",
        "steps[6].train.seeed",
        "steps[6].train.epochs",
        "more",
    ]
    assert not (tmp_path / "out").exists()


def test_a_missing_variable_is_named(data: Path) -> None:
    text = GOOD.replace("FILE", str(data)).replace("columns: {overall: level}", 'model: "{classifier}"')
    for value in ("null", '"{output}/classifier"'):
        (found,) = problems(f"vars: {{classifier: {value}}}" + text)
        assert "(it is the variable `classifier`: --set classifier=VALUE)" in found


def test_unknown_recipes_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no recipe `dmeo`") as caught:
        load("dmeo")
    assert "did you mean `demo`?" in caught.value.hint
    with pytest.raises(UsageError, match="there is no recipe file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "bytes.yaml")


# running -----------------------------------------------------------------------------------------------------------

SMALL = """
vars: {data: null, tasks: null, model: null, ratios: [0.25], trained: [], epochs: 1, seed: 0}
defaults:
  train: {model: "{model}", model_name: tiny, epochs: "{epochs}", max_length: 64, learning_rate: 1e-3, device: cpu}
steps:
  - ingest: {sources: "{data}", dataset: pool}
  - ingest: {sources: "{tasks}", dataset: task, validation: true, sample: 6, seed: "{seed}"}
  - score difficulty: {dataset: pool, columns: {overall: level}}
  - score influence: {dataset: pool, model: "{model}", model_name: tiny, max_length: 64, device: cpu}
  - for: {ratio: "{ratios}", strategy: [diq, random]}
    select:
      dataset: pool
      model: tiny
      ratio: "{ratio}"
      strategy: "{strategy}"
      name: "{strategy}-{ratio}"
      output: "{output}/selections/{strategy}-{ratio}.jsonl"
  - for: {name: "{trained}"}
    train: {selection: "{name}", output: "{output}/adapters/{name}"}
"""
BOTH = "trained=[diq-0.25, random-0.25]"


def write_files(folder: Path, make_samples: SamplesMaker) -> dict[str, Path]:
    """A pool with levels, a validation file and the recipe."""
    rows = [{"messages": one, "level": 1 + i % 5} for i, one in enumerate(make_samples(24, seed=1, longest=12))]
    return {
        "data": write_jsonl(folder / "pool.jsonl", rows),
        "tasks": write_jsonl(folder / "task.jsonl", [{"messages": one} for one in make_samples(8, seed=2, longest=12)]),
        "recipe": write(folder / "small.yaml", SMALL),
    }


class Small:
    """The small recipe in a folder."""

    def __init__(self, files: dict[str, Path], model: Path, output: Path) -> None:
        self.files, self.file, self.output, self.store = files, files["recipe"], output, output / "diq.duckdb"
        self.settings = [f"data={files['data']}", f"tasks={files['tasks']}", f"model={model}"]

    def run(self, *more: str, dry_run: bool = False) -> RecipeSummary:
        return run_recipe(self.file, set=[*self.settings, *more], output=self.output, dry_run=dry_run)

    def states(self, *more: str) -> list[str]:
        return [step.state for step in self.run(*more, dry_run=True).steps]

    def ran(self, *more: str) -> list[int]:
        """Numbers of the steps that were run now."""
        return [step.number for step in self.run(*more).steps if not step.was_done]


@pytest.fixture
def small(tmp_path: Path, make_samples: SamplesMaker, tiny_llama_folder: Path) -> Small:
    return Small(write_files(tmp_path, make_samples), tiny_llama_folder, tmp_path / "out")


@pytest.fixture(scope="module")
def ran_once(
    tmp_path_factory: pytest.TempPathFactory, make_samples: SamplesMaker, tiny_llama_folder: Path
) -> tuple[Small, Path, Path]:
    """The small recipe after a run, its folder, and a copy of that."""
    folder = tmp_path_factory.mktemp("ran")
    made = Small(write_files(folder, make_samples), tiny_llama_folder, folder / "out")
    made.run()
    return made, folder, Path(shutil.copytree(folder, folder.with_name("kept")))


@pytest.fixture
def ran(ran_once: tuple[Small, Path, Path]) -> Small:
    """The small recipe after a run, whatever the test before did to it; its record knows folders by their names."""
    made, folder, kept = ran_once
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    return made


def rows_of(store: Path) -> dict[str, Any]:
    """What a store holds that must not depend on a stop: scores, rankings and selections."""
    queries = {
        "datasets": "SELECT name, kind FROM datasets ORDER BY ALL",
        "samples": "SELECT dataset_id, position, sample_id FROM dataset_samples ORDER BY ALL",
        "dots": "SELECT sample_id, validation_set_id, dot, fold_dots FROM influence_scores ORDER BY ALL",
        "difficulty": "SELECT sample_id, overall FROM difficulty_scores ORDER BY ALL",
        "selections": "SELECT name, strategy, ratio, n FROM selections ORDER BY ALL",
        "trainings": "SELECT r.config FROM runs AS r WHERE kind = 'train' ORDER BY ALL",
        "runs": "SELECT kind, method, count(*) FROM runs GROUP BY ALL ORDER BY ALL",
        "models": "SELECT model_id, name FROM models ORDER BY ALL",
    }
    with duckdb.connect(str(store), read_only=True) as connection:
        return {name: connection.execute(query).fetchall() for name, query in queries.items()}


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_a_run_is_done_once(small: Small) -> None:
    plan = small.run(dry_run=True)
    assert not small.output.exists()
    assert [step.state for step in plan.steps] == ["to do"] * 6
    assert plan.steps[4].command.startswith("diq select pool --model tiny --ratio 0.25 --strategy diq --name diq-0.25")
    done = small.run()
    assert [step.state for step in done.steps] == ["done"] * 6
    assert [step.was_done for step in done.steps] == [False] * 6
    assert done.steps[0].told == "24 samples, 0 duplicates, 0 rejects"
    assert done.run_id is not None
    before = rows_of(small.store)
    stamps = {path: path.stat().st_mtime_ns for path in small.output.rglob("*.jsonl")}
    assert len(stamps) == 2
    assert small.states() == ["done"] * 6
    assert small.ran() == []
    assert rows_of(small.store) == before
    assert {path: path.stat().st_mtime_ns for path in small.output.rglob("*.jsonl")} == stamps
    with duckdb.connect(str(small.store), read_only=True) as connection:
        ((method, config, result),) = connection.execute(
            "SELECT method, config, result FROM runs WHERE kind = 'recipe'"
        ).fetchall()
    assert method == "small"
    assert json.loads(config)["variables"]["ratios"] == [0.25]
    assert [one["state"] for one in json.loads(result)["steps"]] == ["done"] * 6


def test_a_recipe_ends_with_a_report_of_what_is_there(tmp_path: Path) -> None:
    rows = [{"question": f"q {i}?", "answer": "a"} for i in range(30)]
    scores = [{"position": i, "overall": i % 5 + 1, "dot": float(i % 7)} for i in range(30)]
    text = f"""
        vars: {{ratio: 0.2}}
        steps:
          - ingest: {{sources: {write_jsonl(tmp_path / "rows.jsonl", rows)}, dataset: pool}}
          - ingest:
              {{sources: {write_jsonl(tmp_path / "s.jsonl", scores)}, dataset: pool, scores: true, model: m,
               validation_set: task}}
          - select: {{dataset: pool, model: m, ratio: "{{ratio}}", name: best}}
          - report: {{datasets: pool, selection: best, text: false, output: "{{output}}/pages/report.html"}}
    """
    recipe, page = write(tmp_path / "r.yaml", text), tmp_path / "out" / "pages" / "report.html"

    def run(*settings: str) -> list[str]:
        """The verbs that ran now; the page tells the rest."""
        return [step.verb for step in run_recipe(recipe, set=settings, output=tmp_path / "out").steps
                if not step.was_done]  # fmt: skip

    plan = run_recipe(recipe, output=tmp_path / "out", dry_run=True)
    assert plan.steps[-1].title.startswith("report pool")
    assert plan.steps[-1].command.startswith(f"diq report pool --selection best --no-text --output {page} --store ")
    assert run() == ["ingest", "ingest", "select", "report"]
    assert "keeps 6 of 30 scored samples" in page.read_text(encoding="utf-8")
    # it shows what is there, so it is made each time
    assert run() == ["report"]
    assert run("ratio=0.5") == ["select", "report"]
    assert "keeps 15 of 30 scored samples" in page.read_text(encoding="utf-8")


def test_a_password_in_the_address_of_a_server_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, key = "pass-word-0123456789", "sk-very-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"question": f"q {i}?", "answer": "a"} for i in range(4)])
    text = f"""
        vars: {{server: {{url: null}}, rest: []}}
        steps:
          - ingest: {{sources: {rows}, dataset: pool}}
          - difficulty annotate: {{dataset: pool, model: m, base_url: "{{server.url}}", retries: 0}}
    """
    recipe, out = write(tmp_path / "r.yaml", text), tmp_path / "out"
    said = []
    # a server that repeats all that it was sent, in an error and in its replies
    for step in (Step(status=400, body={"error": f"{secret} {key}"}), f"{difficulty_reply(1, 2, 3)} {secret} {key}"):
        with ScriptedServer(lambda *_, step=step: step) as server:
            url = server.url.replace("://", f"://me:{secret}@")
            settings = [f"server.url={url}", f"rest=['{url}?token={secret}']"]
            for dry_run in (True, False):
                try:
                    said.append(str(run_recipe(recipe, set=settings, output=out, dry_run=dry_run).to_dict()))
                except RunFailedError as error:
                    said += [error.message, error.hint]
            assert server.n_requests
    assert f"--base-url {server.url} " in said[-1]
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file()) + " ".join(said).encode()
    assert secret.encode() not in everything
    assert key.encode() not in everything
    assert b"[key]" in everything


@pytest.mark.slow
def test_what_changed_runs_again_and_all_that_depends_on_it(ran: Small) -> None:
    one = "trained=[diq-0.25]"
    ran.run(one)
    # another ratio adds its own steps and leaves the others
    assert ran.states(one, "ratios=[0.25, 0.5]") == ["done"] * 6 + ["to do"] * 2 + ["done"]
    # other epochs are another training; the stage itself refuses to mix the two in one folder
    assert ran.states(one, "epochs=2") == ["done"] * 6 + ["to do"]
    with pytest.raises(RunFailedError, match=r"^step 7 of 7 \(train diq-0.25 to "):
        ran.run(one, "epochs=2")
    # another draw of the validation set: everything that reads it
    assert ran.states(one, "seed=1") == ["done", "to do", "done", "to do", "to do", "done", "to do"]
    assert ran.states(one) == ["done"] * 7
    # a file that was edited or removed is written again
    selection = ran.output / "selections" / "diq-0.25.jsonl"
    good = selection.read_bytes()
    selection.write_text("broken\n", encoding="utf-8")
    assert ran.ran(one) == [5]
    assert selection.read_bytes() == good
    selection.unlink()
    assert ran.states(one) == ["done"] * 4 + ["to do"] + ["done"] * 2
    # without the record everything is looked at, and nothing is computed
    before = rows_of(ran.store)
    (ran.output / "recipe.json").unlink()
    assert ran.ran(one) == list(range(1, 8))
    assert rows_of(ran.store) == before


@pytest.mark.slow
def test_changed_data_is_not_mixed_into_what_was_read_before(ran: Small) -> None:
    with ran.files["data"].open("a", encoding="utf-8") as file:
        file.write(ran.files["data"].read_text(encoding="utf-8").splitlines()[0].replace("the", "a") + "\n")
    with pytest.raises(InputError, match="changed since it was read into the dataset `pool`; name another output"):
        ran.run()
    with pytest.raises(InputError, match=r"also holds `.*pool\.jsonl`, which this recipe does not read"):
        ran.run(f"data={ran.files['tasks']}")


@pytest.mark.slow
def test_results_that_vanished_from_the_store_are_made_again(ran: Small) -> None:
    before = rows_of(ran.store)
    with duckdb.connect(str(ran.store)) as connection:
        connection.execute("DELETE FROM run_datasets WHERE run_id = (SELECT run_id FROM runs WHERE kind = 'influence')")
        connection.execute("DELETE FROM influence_scores")
    assert 4 in ran.ran()
    after = rows_of(ran.store)
    assert after["dots"] == before["dots"]
    assert after["selections"] == before["selections"]
    ran.store.unlink()
    assert ran.states() == ["to do"] * 6


@pytest.mark.slow
def test_a_failing_step_is_named_and_the_same_call_goes_on(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("diq.selection.select")
    real = module.select

    def broken(*arguments: Any, **options: Any) -> Any:
        if options["strategy"] == "random":
            raise UsageError("no such thing", "do otherwise")
        return real(*arguments, **options)

    monkeypatch.setattr(module, "select", broken)
    with pytest.raises(RunFailedError) as caught:
        small.run()
    assert caught.value.message == "step 6 of 6 (select pool random 0.25): no such thing"
    assert caught.value.hint == "do otherwise; then the same command goes on"
    assert caught.value.exit_code == 1
    record = json.loads((small.output / "recipe.json").read_text(encoding="utf-8"))
    states = [record["steps"][mark]["state"] for mark in record["order"] if mark in record["steps"]]
    assert states == ["done"] * 5 + ["failed"]
    monkeypatch.undo()
    assert small.ran() == [6]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug")], ids=["ctrl-c", "bug"])
def test_a_stop_is_recorded_and_passed_on(
    small: Small, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(importlib.import_module("diq.difficulty.score"), "score_difficulty", stop)
    with caplog.at_level("WARNING"), pytest.raises(type(error)):
        small.run()
    assert "step" in caplog.text
    assert "3 of 6 (score difficulty pool)" in caplog.text
    record = json.loads((small.output / "recipe.json").read_text(encoding="utf-8"))
    assert [one["state"] for one in record["steps"].values()] == ["done", "done", "failed"]


def test_a_damaged_record_is_refused(small: Small) -> None:
    small.output.mkdir()
    (small.output / "recipe.json").write_text('{"format": "diq recipe 1"', encoding="utf-8")
    with pytest.raises(UsageError, match="is no record of a recipe"):
        small.run()


def test_a_folder_has_one_recipe_at_a_time(small: Small) -> None:
    from diq.recipes.state import held

    with held(small.output), pytest.raises(UsageError, match="another recipe is running in"):
        small.run()


def test_an_output_that_is_a_file_is_refused(small: Small) -> None:
    small.output.write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be a folder"):
        small.run()


@pytest.mark.slow
def test_two_recipes_of_one_store_score_once(ran: Small, tmp_path: Path) -> None:
    other = run_recipe(ran.file, set=ran.settings, output=tmp_path / "second", store=ran.store)
    assert other.steps[3].told.startswith("0 scored now, 24 in the store before")


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(small: Small, tmp_path: Path) -> None:
    small.settings.append("trained=[diq-0.25]")
    small.run()
    killed = tmp_path / "killed"
    # killed again and again, each time in another step: in a scoring, and in the training
    for commit, states in (
        (Commit("before", 9), ["done", "done", "running"]),
        (Commit("before", 16), ["done"] * 6 + ["running"]),
    ):
        run_killed(run_recipe, small.file, commit=commit, set=small.settings, output=killed)
        record = json.loads((killed / "recipe.json").read_text(encoding="utf-8"))
        assert [one["state"] for one in record["steps"].values()] == states
    again = Small({"recipe": small.file, "data": Path(), "tasks": Path()}, Path(), killed)
    again.settings = small.settings
    again.run()
    first, second = rows_of(small.store), rows_of(again.store)
    # folders are part of a training's place, not of its settings
    assert first == second
    for name in ("diq-0.25", "random-0.25"):
        files = [folder / "selections" / f"{name}.jsonl" for folder in (small.output, killed)]
        assert files[0].read_bytes() == files[1].read_bytes()
    weights = [folder / "adapters" / "diq-0.25" / "adapter_model.safetensors" for folder in (small.output, killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


# shipped recipes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_recipe_says_what_it_is(name: str) -> None:
    text = shipped()[name]
    found = yaml.safe_load(text)
    assert found["recipe"] == name
    assert 20 < len(found["about"]) < 120
    assert all(len(line) <= 120 for line in text.splitlines())


# what makes a recipe of the paper small, beside the model and the data
TINY = (
    "benchmarks=[medqa]", "validation_sample=4", "splits={}", "max_length=400", "epochs=1", "repeat=1",
    "temperature=0.0", "max_tokens=4", "limit=2", "ratios=[0.25]",
)  # fmt: skip
# of each recipe: its own settings, and how many steps it then has
SHIPPED = {
    "huatuo-llama31-8b": (
        ["similarity_encoder={encoder}", "strategies=[diq]", "baseline_ratios=[0.25]", "baselines=[less]",
         "warmup=[0.25]"],
        19,
    ),
    "huatuo-qwen3-8b": (
        ["similarity_encoder={encoder}", "strategies=[]", "baseline_ratios=[0.25]", "baselines=[similarity]",
         "warmup=[]"],
        14,
    ),
    "finemed-qwen3-8b-dpo": (["preference_data={pairs}", "strategies=[diq]"], 15),
    "ultramedical-rater": (
        ["medium={a: {source: {other}, split: null}}", "sample=1", "rater_encoder={encoder}", "rater_epochs=1",
         "shares=[0.5, 0.25, 0.25]", "strategies=[diq]"],
        16,
    ),
    "ablation-difficulty-dimension": (["alone=[reasoning]", "dimensions=[knowledge]"], 12),
    "ablation-validation-size": (["ratio=0.25", "sizes=[2, 4]"], 14),
    "transfer-llama-to-qwen": (["scorers={a: {model}, b: {second}}", "targets={b: {second}}"], 16),
    "pilot-quadrants": (["ratio=0.05", "threshold=2.5", "quadrants=[q1, q2]"], 12),
    "qa-only": ([], 12),
}  # fmt: skip
# variables that only some recipes have
OPTIONAL = ("validation_sample", "splits", "ratios", "epochs")


# between them they run every verb: baselines and warm-up, a rater; the demo's recipe trains by preference
RUN = ("huatuo-llama31-8b", "ultramedical-rater")


def test_every_shipped_recipe_is_exercised() -> None:
    assert set(shipped()) == {*SHIPPED, "demo"}
    assert set(RUN) <= set(SHIPPED)


@pytest.fixture
def small_settings(
    tmp_path: Path,
    make_samples: SamplesMaker,
    tiny_llama_chat_folder: Path,
    tiny_llama_folder: Path,
    tiny_classifier_folder: Path,
    tiny_encoder_folder: Path,
) -> Callable[[str], list[str]]:
    """Makes the settings by which a shipped recipe runs on made-up data and small models."""
    samples = make_samples(64, seed=3, reasoning=True, longest=12)
    pairs = [{"prompt": one[0]["content"], "chosen": one[1]["content"], "rejected": "the"} for one in samples[:8]]
    questions = [
        {
            "question": f"{one[0]['content']}?",
            "options": {"A": "aspirin", "B": "insulin", "C": "metformin", "D": f"dose {i}"},
            "answer_idx": "ABCD"[i % 4],
            "answer": ["aspirin", "insulin", "metformin", f"dose {i}"][i % 4],
            "meta_info": "step1",
        }
        for i, one in enumerate(make_samples(8, seed=4, longest=8))
    ]
    places = {
        "model": tiny_llama_chat_folder,
        "second": tiny_llama_folder,
        "encoder": tiny_encoder_folder,
        "pairs": write_jsonl(tmp_path / "pairs.jsonl", pairs),
        "other": write_jsonl(tmp_path / "other.jsonl", [{"messages": one} for one in samples]),
    }
    data = write_jsonl(tmp_path / "data.jsonl", [{"messages": one} for one in samples[:40]])
    exam = write_jsonl(tmp_path / "medqa.jsonl", questions)

    def settings(name: str) -> list[str]:
        own, _ = SHIPPED[name]
        for key, place in places.items():
            own = [one.replace(f"{{{key}}}", str(place)) for one in own]
        variables = yaml.safe_load(shipped()[name])["vars"]
        return [
            *(one for one in TINY if one.partition("=")[0] in variables or one.partition("=")[0] not in OPTIONAL),
            *([f"model={tiny_llama_chat_folder}", "model_name=tiny"] if "model" in variables else []),
            f"data={data}",
            f"sources.medqa={exam}",
            f"classifier={tiny_classifier_folder}",
            *own,
        ]

    return settings


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_recipe_is_planned(name: str, small_settings: Callable[[str], list[str]], tmp_path: Path) -> None:
    plan = run_recipe(name, set=small_settings(name), output=tmp_path / "out", dry_run=True)
    assert [step.state for step in plan.steps] == ["to do"] * SHIPPED[name][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=() if one in RUN else pytest.mark.exhaustive) for one in sorted(SHIPPED)]
)
def test_a_shipped_recipe_runs_small(name: str, small_settings: Callable[[str], list[str]], tmp_path: Path) -> None:
    settings, output = small_settings(name), tmp_path / "out"
    done = run_recipe(name, set=settings, output=output)
    assert [step.state for step in done.steps] == ["done"] * SHIPPED[name][1]
    table = (output / "results.md").read_text(encoding="utf-8")
    assert table.count("**") >= 2
    again = run_recipe(name, set=settings, output=output)
    assert [step.verb for step in again.steps if not step.was_done] == ["results"]


def exam_file(path: Path) -> Path:
    rows = [
        {"question": f"q {i}?", "options": ["a", "b", f"c {i}"], "answer": "ABC"[i % 3], "answer_index": i % 3,
         "category": ["health", "law"][i % 2], "question_id": i, "cot_content": "", "src": "x"}
        for i in range(20)
    ]  # fmt: skip
    return write_jsonl(path, rows)


def test_questions_of_a_benchmark_leave_other_subjects_out(tmp_path: Path) -> None:
    from diq import ingest
    from diq.recipes.questions import write_questions

    source = exam_file(tmp_path / "mmlu.jsonl")
    drawn = {}
    for n in (3, 6, None):
        output = tmp_path / f"{n}.jsonl"
        found = write_questions(
            "mmlu_pro", output=output, sources={"mmlu_pro": str(source), "medqa": "nowhere"}, sample=n
        )
        assert (found.n, found.n_available) == (n or 10, 10)
        drawn[n] = {json.loads(line)["question"] for line in output.read_text(encoding="utf-8").splitlines()}
    # a larger draw holds the smaller one
    assert drawn[3] < drawn[6] < drawn[None] == {f"q {i}?" for i in range(0, 20, 2)}
    other = write_questions(
        "mmlu_pro", output=tmp_path / "o.jsonl", sources={"mmlu_pro": str(source)}, sample=3, seed=1
    )
    assert other.n == 3
    assert (tmp_path / "o.jsonl").read_bytes() != (tmp_path / "3.jsonl").read_bytes()
    # and it is a layout that is known
    made = ingest(str(tmp_path / "3.jsonl"), dataset="v", store=tmp_path / "s.duckdb", validation=True)
    assert (made.n_samples, made.n_rejects) == (3, 0)
    with pytest.raises(UsageError, match="11 questions of mmlu_pro were asked for, the source has 10"):
        write_questions("mmlu_pro", output=tmp_path / "x.jsonl", sources={"mmlu_pro": str(source)}, sample=11)
    with pytest.raises(UsageError, match="did you mean `mmlu_pro`"):
        write_questions("mmlu_por", output=tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


# costs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_costs_are_those_of_diq_cost(small: Small, ran: Small, tiny_llama_folder: Path) -> None:
    more = ["trained=[diq-0.25, random-0.25]", "epochs=3"]
    plan = small.run(*more, dry_run=True)
    size = find_size(str(tiny_llama_folder))
    lengths = read_file_lengths(str(small.files["data"]), max_length=64)
    training = training_flops(size, lengths.scaled(0.25), epochs=3)
    influence = exact_flops(size, lengths, Lengths.same(6, lengths.mean))
    assert [step.cost for step in plan.steps] == [
        "", "", "", f"{influence:.2e} FLOPs", "", "", *[f"{training:.2e} FLOPs"] * 2
    ]  # fmt: skip
    assert plan.cost.startswith(f"{influence + 2 * training:.2e} FLOPs; `diq cost")
    # what is done costs nothing, and the store knows lengths as well as the files
    plan = ran.run(*more, dry_run=True)
    assert [step.cost for step in plan.steps] == [*[""] * 6, *[f"{training:.2e} FLOPs"] * 2]


def test_a_cost_that_cannot_be_known_is_said_to_be_unknown(tmp_path: Path) -> None:
    text = """
steps:
  - ingest: {sources: owner/data, dataset: pool}
  - score perplexity: {dataset: pool, model: Qwen/Qwen3-8B}
  - train: {selection: pool, model: owner/unknown, output: "{output}/a"}
"""
    plan = run_recipe(write(tmp_path / "r.yaml", text), output=tmp_path / "out", dry_run=True)
    assert [step.cost for step in plan.steps] == ["", "cost not known", "cost not known"]
    assert plan.cost == ""


def test_the_light_parts_load_no_model_library() -> None:
    code = (
        "import sys; from diq.recipes import run as recipe; from diq.recipes.verbs import VERBS, parameters\n"
        "[parameters(name) for name in VERBS]; recipe.run_recipe('demo', dry_run=True)\n"
        "print({'torch', 'transformers', 'openai', 'lm_eval', 'scipy', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_a_recipe_validates_and_goes_on_with_what_is_left(
    tmp_path: Path, tiny_llama_chat_folder: Path, make_samples: Any
) -> None:
    made = [{"messages": one} for one in make_samples(30, seed=2, longest=8)]
    write_jsonl(tmp_path / "pool.jsonl", made[:24])
    write_jsonl(tmp_path / "val.jsonl", made[24:])
    text = f"""
        recipe: validated
        about: whether dots tell what helps
        output: {tmp_path}/out
        defaults:
          score influence: {{dtype: float32, device: cpu, max_length: 256}}
          validate: {{dtype: float32, device: cpu, max_length: 256, batch_size: 2, learning_rate: 1e-2}}
        steps:
          - ingest: {{sources: {tmp_path}/pool.jsonl, dataset: pool}}
          - ingest: {{sources: {tmp_path}/val.jsonl, dataset: val, validation: true}}
          - score influence: {{dataset: pool, model: {tiny_llama_chat_folder}, validation_set: val}}
          - validate: {{dataset: pool, model: {tiny_llama_chat_folder}, ratio: 0.25, subsets: 1, seeds: 1, runs: 2}}
        """
    recipe = write(tmp_path / "r.yaml", text)
    first, second = (run_recipe(recipe).steps[-1] for _ in range(2))
    assert "2 trainings" in str(first.told)
    assert "1 left" in str(first.told)
    assert "3 trainings" in str(second.told)
    assert "1 of them now" in str(second.told)
