"""Options as data: one record gives the Python signature, the checks, the command and the pages."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, FrozenInstanceError, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest

import diq
from conftest import refused, stdout_of
from diq.base.errors import UsageError, as_keywords
from diq.base.options import BadValueError, Excludes, InStore, Needs, Option, Options, fields_of, verb
from diq.base.text import Ratio
from diq.cli.options import keywords, options_of
from diq.evaluation.options import EvaluateOptions
from diq.training.options import TrainOptions


@dataclass(frozen=True)
class Oven(Options):
    """Where it is baked."""

    degrees: Annotated[int, Option("How hot.", least=50, most=300)] = 180
    fan: Annotated[float | None, Option("Speed of the fan.", above=0, below=1, none="off")] = 0.5


@dataclass(frozen=True)
class BakeOptions(InStore):
    """Options of a verb that takes one of each kind."""

    cake: Annotated[str, Option("Its name.", positional=True)]
    _: KW_ONLY
    share: Annotated[str | float | Decimal, Option("How much.", check=Ratio.parse)]
    oven: Annotated[Oven, Option("The oven.")] = Oven()
    icing: Annotated[Literal["sugar", "cocoa"] | None, Option("On top.")] = None
    layers: Annotated[Sequence[Literal["cream", "jam"]], Option("Between; repeat.")] = ()
    guests: Annotated[Sequence[str], Option("Who comes; repeat.", metavar="NAME")] = ()
    recipes: Annotated[Sequence[str | os.PathLike[str]], Option("Files.")] = ()
    map: Annotated[Mapping[str, str] | None, Option("Flour by cake.")] = None
    shares: Annotated[tuple[float, float], Option("Of two tins.", least=0)] = (0.5, 0.5)
    minutes: Annotated[int | None, Option("How long.", least=1, default="until it is done", short="m")] = None
    output: Annotated[str | os.PathLike[str] | None, Option("Where it goes.")] = None
    slow: Annotated[bool, Option("Take your time.")] = False
    taste: Annotated[bool, Option("Try it.")] = True
    crumbs: Annotated[int, Option("To put on it.", least=0), Needs("icing", ("cocoa",))] = 3
    aid: Annotated[
        Sequence[str], Option("FILE of somebody, as NAME=FILE.", named=True, reads="path"), Needs("guests")
    ] = ()
    watch: Annotated[bool, Option("Look at it."), Excludes("slow")] = False


@verb(BakeOptions)
def bake(options: BakeOptions) -> BakeOptions:
    """Bake a cake.

    Returns:
        What was asked.

    Raises:
        UsageError: there is no such cake.
    """
    return options


def test_values_are_converted() -> None:
    made = bake("plum", share=0.25, guests="Ann", layers="jam", recipes=Path("a"), output="out", map={"x": 1})  # type: ignore[dict-item]
    assert made.guests == ("Ann",)
    assert made.layers == ("jam",)
    assert made.recipes == ("a",)
    assert made.output == Path("out")
    assert made.share == "0.25"
    assert made.map == {"x": "1"}
    assert bake("plum", share="1%", guests=["a", "b"], shares=[0.1, 0.9]).shares == (0.1, 0.9)  # type: ignore[arg-type]
    assert isinstance(bake("plum", share=1, recipes=["a", Path("b")]).recipes, tuple)
    assert bake("plum", share=Decimal("0.10")).share == "0.10"


def test_the_store_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIQ_STORE", raising=False)
    assert bake("plum", share=1).store_file == Path("diq.duckdb")
    monkeypatch.setenv("DIQ_STORE", "other.duckdb")
    assert bake("plum", share=1).store_file == Path("other.duckdb")
    assert bake("plum", share=1, store="mine.duckdb").store_file == Path("mine.duckdb")


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"icing": "salt"}, "--icing `salt` is not known", "known: `cocoa`, `sugar`"),
        ({"layers": ["jam", "jem"]}, "--layers `jem` is not known", "did you mean `jam`?"),
        ({"minutes": 0}, "--minutes 0 is out of range", "give 1 or more"),
        ({"minutes": 2.5}, "--minutes needs a whole number, not `2.5`", "How long."),
        ({"minutes": True}, "--minutes needs a whole number, not `True`", "How long."),
        ({"slow": "yes"}, "--slow needs true or false, not `yes`", "Take your time."),
        ({"slow": None}, "--slow needs a value", "Take your time."),
        ({"shares": (0.5, -1.0)}, "--shares -1.0 is out of range", "give 0 or more"),
        ({"shares": (0.5, float("nan"))}, "--shares nan is out of range", "give 0 or more"),
        ({"shares": (0.5, 0.2, 0.3)}, "--shares needs 2 numbers, not `(0.5, 0.2, 0.3)`", "Of two tins."),
        ({"guests": 5.5j}, "--guests needs a text or a list of texts, not `5.5j`", "Who comes; repeat."),
        ({"output": 5}, "--output needs a path, not `5`", "Where it goes."),
        ({"share": 0}, "the ratio 0 is outside (0, 1]", "give a number in (0, 1]"),
        ({"map": ["a"]}, "--map needs names with values, not `['a']`", "Flour by cake."),
    ],
)
def test_bad_values_are_one_line(given: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        bake("plum", **{"share": "0.5", **given})
    assert caught.value.message == message
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"crumbs": 3}, "--crumbs has no effect without --icing cocoa", "leave it out, or give --icing cocoa"),
        ({"crumbs": 0, "icing": "sugar"}, "--crumbs has no effect with --icing sugar", "leave it out, or give --icing"),
        ({"aid": "a=b"}, "--aid has no effect without --guests", "leave it out, or give --guests"),
        ({"watch": True, "slow": True}, "--watch has no effect with --slow", "leave out one of the two"),
    ],
)
def test_an_option_without_effect_is_refused_where_it_was_given(given: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        bake("plum", share=1, **given)
    assert caught.value.message == message
    assert caught.value.hint.startswith(hint)


def test_a_default_or_nothing_is_never_without_effect() -> None:
    assert bake("plum", share=1).crumbs == 3
    assert bake("plum", share=1, aid=[], watch=False, slow=True).given == {"share", "aid", "watch", "slow"}
    assert bake("plum", share=1, icing="cocoa", crumbs=3, aid="a=b", guests="Ann", watch=True).crumbs == 3


def test_what_options_need_is_there() -> None:
    records = {getattr(getattr(diq, name), "record", None) for name in diq.__all__} - {None}
    assert len(records) > 20
    rules = [(record, rule) for record in records for one in fields_of(record).values() for rule in one.beside]
    assert len(rules) > 50
    for record, rule in rules:
        other = fields_of(record)[rule.option]
        if other.option.choices:
            assert set(rule.values) <= set(other.option.choices), (record, rule)


def test_an_error_calls_options_as_the_face_does() -> None:
    with pytest.raises(UsageError) as caught:
        bake("plum", share=1, minutes=0)
    assert caught.value.message == "--minutes 0 is out of range"
    assert str(caught.value) == "minutes=0 is out of range\nhint: give 1 or more"
    assert as_keywords("give --model FOLDER, or run `diq x --model a`; --few-shot `2`, --top-p -0.5, no --dry-run") == (
        "give model=FOLDER, or run `diq x --model a`; few_shot `2`, top_p=-0.5, no dry_run"
    )


def test_a_home_folder_is_found_wherever_a_path_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = bake(
        "~",
        share=1,
        output="~/out",
        recipes=["~/a", Path("~/b"), "c~"],
        guests="~/Ann",
        aid="x=~/f",
        store="~/s.duckdb",
    )
    assert (made.cake, made.guests) == ("~", ("~/Ann",))
    assert made.output == tmp_path / "out"
    assert made.recipes == (f"{tmp_path}/a", f"{tmp_path}/b", "c~")
    assert made.aid == (f"x={tmp_path}/f",)
    assert made.store_file == tmp_path / "s.duckdb"
    monkeypatch.setenv("DIQ_STORE", "~/t.duckdb")
    assert bake("plum", share=1).store_file == tmp_path / "t.duckdb"
    assert run("bake", "plum", "--share", "1", "--output", "~/out", "--store", "~/s").store_file == tmp_path / "s"
    # a name that may be a path, and one that is none
    trained = TrainOptions("~/top.jsonl", model="~/m", output="~/o", report_to=())
    assert (trained.selection, trained.model) == (f"{tmp_path}/top.jsonl", f"{tmp_path}/m")
    assert EvaluateOptions(model="m", sources={"medqa": "~/q"}).sources == {"medqa": f"{tmp_path}/q"}


@pytest.mark.parametrize(("degrees", "fan"), [(49, 0.5), (301, 0.5), (180, 0.0), (180, 1.0), (180, float("inf"))])
def test_ranges_of_a_nested_record(degrees: int, fan: float) -> None:
    with pytest.raises(UsageError, match="is out of range"):
        Oven(degrees=degrees, fan=fan)
    assert Oven(degrees=50, fan=None).fan is None


def test_wrong_keywords_name_the_right_one() -> None:
    with pytest.raises(TypeError, match=r"bake\(\) has no option `minute`; did you mean `minutes`\?"):
        bake("plum", share=1, minute=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"bake\(\): missing a required (keyword-only )?argument: 'share'"):
        bake("plum")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"bake\(\): too many positional arguments"):
        bake("plum", 3)  # type: ignore[misc]


def test_a_record_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        bake("plum", share=1).cake = "other"  # type: ignore[misc]


def test_the_signature_and_help_are_the_records() -> None:
    found = inspect.signature(bake)
    assert [*found.parameters] == [*fields_of(BakeOptions)]
    assert found.parameters["minutes"].annotation == int | None
    assert found.parameters["taste"].default is True
    assert found.parameters["share"].default is inspect.Parameter.empty
    assert found.parameters["cake"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    doc = inspect.getdoc(bake) or ""
    assert doc.index("Args:") < doc.index("Returns:") < doc.index("Raises:")
    assert "    minutes: How long. Range: 1 or more. Default: until it is done.\n" in doc
    assert "    icing: On top. One of sugar, cocoa.\n" in doc
    assert bake.__name__ == "bake"


def test_read_says_what_is_wrong_without_the_name() -> None:
    with pytest.raises(BadValueError) as caught:
        fields_of(Oven)["degrees"].read(1000)
    assert (caught.value.text, caught.value.hint) == ("1000 is out of range", "give 50 to 300")


# the command -------------------------------------------------------------------------------------------------------


@click.group()
@click.option("--store", type=click.Path(path_type=Path))
def kitchen(store: Path | None) -> None:
    """The group before the command."""


@kitchen.command(name="bake")
@options_of(BakeOptions)
def bake_command(**given: Any) -> None:
    """Bake."""
    BAKED.append(bake(**keywords(BakeOptions, given)))


BAKED: list[BakeOptions] = []


def run(*words: str) -> BakeOptions:
    stdout_of(kitchen, *words)
    return BAKED.pop()


def test_the_command_line_makes_the_same_record() -> None:
    words = (
        "bake plum --share 0.5 --degrees 200 --fan off --icing cocoa --layers jam --layers cream --guests Ann "
        "--recipes a.txt --map x=1,y=2 --map z=3 --shares 0.25 0.75 -m 3 --output out --slow --no-taste "
        "--store s.duckdb"
    )
    assert run(*words.split()) == bake(
        "plum",
        share="0.5",
        oven=Oven(degrees=200, fan=None),
        icing="cocoa",
        layers=["jam", "cream"],
        guests="Ann",
        recipes=["a.txt"],
        map={"x": "1", "y": "2", "z": "3"},
        shares=(0.25, 0.75),
        minutes=3,
        output="out",
        slow=True,
        taste=False,
        store="s.duckdb",
    )


def test_the_command_line_knows_what_was_given() -> None:
    error = refused(kitchen, "bake", "plum", "--share", "1", "--crumbs", "3")
    assert error.message == "--crumbs has no effect without --icing cocoa"
    assert run("bake", "plum", "--share", "1", "--slow").crumbs == 3


def test_what_is_left_out_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIQ_STORE", raising=False)
    assert run("bake", "plum", "--share", "1") == bake("plum", share="1")


def test_the_store_may_stand_before_the_command() -> None:
    assert run("--store", "a.duckdb", "bake", "plum", "--share", "1").store_file == Path("a.duckdb")
    words = ("--store", "a.duckdb", "bake", "plum", "--share", "1", "--store", "b.duckdb")
    assert run(*words).store_file == Path("b.duckdb")


def test_help_has_defaults_and_choices() -> None:
    text = " ".join(stdout_of(kitchen, "bake", "--help").split())
    assert "[default: until it is done]" in text
    assert "[sugar|cocoa]" in text
    assert "How hot. [default: 180]" in text
    assert "progress" not in text
