"""The page in a real browser: brushing, sliding, paging and saving by hand, and texts that try to do harm."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diq
from diq.store.store import Store
from explorer.conftest import Page, make_store

Serve = Callable[..., Page]
Open = Callable[..., Any]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens a served page and waits for its first view; whatever the page logs as an error fails the test."""
    tabs: list[Any] = []
    errors: list[str] = []

    def visit(page: Page, *, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab = context.new_page()
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        tab.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}") or dialog.dismiss())
        inside = (page.origin, "blob:", "data:")
        tab.on("request", lambda asked: None if asked.url.startswith(inside) else errors.append(asked.url))
        tab.goto(page.server.address)
        tab.wait_for_selector("body[data-paged]")
        tabs.append(context)
        return tab

    yield visit
    for one in tabs:
        one.close()
    assert errors == []


def until(tab: Any, condition: str) -> None:
    """Wait for a condition; the policy of the page forbids what playwright's own waiting does (eval)."""
    deadline = time.monotonic() + 60
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        tab.wait_for_timeout(10)


def after(tab: Any, act: Callable[[], None]) -> None:
    """Act, and wait until the page has shown what came of it last."""
    before = int(tab.evaluate("document.body.dataset.paged"))
    act()
    until(tab, f"Number(document.body.dataset.paged) > {before} && document.body.ariaBusy === 'false'")


def drag(tab: Any, selector: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over an element, between two places of it in shares of its width and height."""
    tab.locator(selector).scroll_into_view_if_needed()
    box = tab.locator(selector).bounding_box()
    tab.mouse.move(box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"])
    tab.mouse.down()
    tab.mouse.move(box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"], steps=5)
    tab.mouse.up()


def slide(tab: Any, selector: str, value: float) -> None:
    """Move a slider to a value, as a hand does: with an event for it."""
    tab.locator(selector).evaluate(
        "(node, value) => { node.value = value; node.dispatchEvent(new Event('input', { bubbles: true })); }", value
    )


def passing(tab: Any) -> int:
    return int(tab.locator("#brushed").inner_text().split(" of ")[0].replace(",", ""))


def taken(tab: Any) -> int:
    return int(tab.locator("#taken strong").inner_text().replace(",", ""))


def column(tab: Any, number: int) -> list[str]:
    return [str(one) for one in tab.locator(f"#samples tbody tr td:nth-child({number})").all_inner_texts()]


def test_brushes_link_all_views(pool: Path, serve: Serve, visit: Open) -> None:
    page = serve(pool)
    tab = visit(page)
    table = page.session.table
    assert passing(tab) == 600
    assert "token" not in tab.url
    # on the plane: difficult and influential ones
    after(tab, lambda: drag(tab, "#plane", (0.7, 0.1), (0.98, 0.45)))
    brushed = passing(tab)
    assert 0 < brushed < 300
    assert {float(one) for one in column(tab, 2)} <= {4.0, 5.0}
    assert tab.locator('[data-column="difficulty"] canvas').get_attribute("aria-valuetext") == "4 to 5"
    # on a histogram, beside it
    after(tab, lambda: drag(tab, '[data-column="task:0"] canvas', (0.02, 0.5), (0.5, 0.5)))
    assert passing(tab) < brushed
    after(tab, lambda: tab.locator("#clear").click())
    assert passing(tab) == 600
    # a strip by a click, a name by a button, a range by keys
    strip = tab.locator('[data-column="difficulty"] canvas')
    box = strip.bounding_box()
    after(tab, lambda: strip.click(position={"x": box["width"] * 0.5, "y": 20}))
    assert passing(tab) == np.sum(table.level == 3)
    after(tab, lambda: tab.locator('[data-column="source"] button').nth(1).click())
    assert passing(tab) == np.sum((table.level == 3) & (table.source == 1))
    after(tab, lambda: strip.press("Escape"))
    assert passing(tab) == np.sum(table.source == 1)
    after(tab, lambda: strip.press("ArrowRight"))
    assert 0 < passing(tab) < np.sum(table.source == 1)


def test_a_part_gives_way_to_all_samples_under_the_same_brush(
    pool: Path, serve: Serve, visit: Open, gate: threading.Event
) -> None:
    page = serve(pool, wait=False)
    tab = visit(page)
    part = len(page.session.table)
    assert passing(tab) == part
    assert f"{part} of 600 samples until all are read" in tab.locator("#status").inner_text()
    assert tab.locator("#progress").is_visible()
    strip = tab.locator('[data-column="difficulty"] canvas')
    box = strip.bounding_box()
    after(tab, lambda: strip.click(position={"x": box["width"] * 0.5, "y": 20}))
    assert passing(tab) == np.sum(page.session.table.level == 3)
    after(tab, gate.set)
    assert passing(tab) == np.sum(page.session.table.level == 3)
    assert len(page.session.table) == 600
    assert "600 samples" in tab.locator("#status").inner_text()
    assert tab.locator("#progress").is_hidden()


def test_sliders_show_what_a_selection_becomes_and_saving_makes_it(
    pool: Path, tmp_path: Path, serve: Serve, visit: Open
) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(pool.read_bytes())
    page = serve(path)
    tab = visit(page)
    scored = page.view()[0]["n_scored"]
    assert taken(tab) == scored // 10
    after(tab, lambda: slide(tab, "#ratio", np.log10(0.3)))
    assert taken(tab) == int(scored * 0.3)
    before = tab.locator("#quadrants tbody").inner_text()
    after(tab, lambda: slide(tab, "#percentile", 0.9))
    after(tab, lambda: slide(tab, "#weight-0", 0.0))
    assert tab.locator("#quadrants tbody").inner_text() != before
    after(tab, lambda: slide(tab, "#weight-0", 2.0))
    # what is shown as selected is what is saved
    after(tab, lambda: tab.locator('[data-column="selected"] button').nth(1).click())
    after(tab, lambda: tab.locator("#samples th button", has_text="position").click())
    shown: list[str] = []
    while True:
        shown += column(tab, 1)
        if tab.locator("#next").is_disabled():
            break
        after(tab, lambda: tab.locator("#next").click())
    assert len(shown) == taken(tab)
    tab.locator("#name").fill("by hand")
    tab.locator("#save button").click()
    tab.wait_for_selector("#saved pre")
    command = tab.locator("#saved pre").inner_text()
    assert command.startswith("diq select --store ")
    assert " --model 'mo<b>del' --ratio 0.3 " in command
    assert "--difficulty-percentile 0.9" in command
    with Store(path, read_only=True) as opened:
        number = opened.selection("by hand")["selection_id"]
        read = "SELECT position FROM selection_samples WHERE selection_id = ? ORDER BY position"
        saved = [row[0] for row in opened.connection.execute(read, [number]).fetchall()]
    assert saved == [int(one.replace(",", "")) for one in shown]
    # and from then on it can be compared with
    until(tab, "document.querySelectorAll('#compare option').length > 1")
    after(tab, lambda: tab.locator("#compare").select_option(index=1))
    assert f"in both {len(saved)}" in tab.locator("#overlap").inner_text()


def test_a_threshold_is_set_as_a_value_in_place_of_a_percentile(
    pool: Path, tmp_path: Path, serve: Serve, visit: Open
) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(pool.read_bytes())
    page = serve(path)
    tab = visit(page)
    after(tab, lambda: slide(tab, "#percentile", 0.9))
    after(tab, lambda: tab.locator("#cut").select_option("threshold"))
    assert tab.locator("#percentile").is_hidden()
    assert tab.locator("#threshold-text").input_value() == "5", "it starts where the percentile was"

    def quadrants() -> list[int]:
        found = tab.locator("#quadrants tbody td:nth-child(2)").all_inner_texts()
        return [int(one.replace(",", "")) for one in found]

    assert quadrants() == page.view(percentile=0.9)[0]["quadrants"]
    after(tab, lambda: slide(tab, "#threshold", 2))
    assert quadrants() == page.view(threshold=2)[0]["quadrants"]
    tab.locator("#threshold-text").fill("2.5")
    after(tab, lambda: tab.locator("#threshold-text").press("Enter"))
    assert quadrants() == page.view(threshold=3)[0]["quadrants"], "no level lies between"
    # what no level reaches becomes the nearest one
    tab.locator("#threshold-text").fill("70")
    after(tab, lambda: tab.locator("#threshold-text").press("Enter"))
    assert tab.locator("#threshold-text").input_value() == "5"
    after(tab, lambda: slide(tab, "#threshold", 4))
    tab.locator("#save button").click()
    tab.wait_for_selector("#saved pre")
    command = tab.locator("#saved pre").inner_text()
    assert "--difficulty-threshold 4" in command
    assert "percentile" not in command
    after(tab, lambda: tab.locator("#cut").select_option("percentile"))
    assert quadrants() == page.view(percentile=0.9)[0]["quadrants"]
    assert tab.locator("#threshold-text").is_hidden()


def test_the_table_sorts_pages_and_opens_texts_by_keys(pool: Path, serve: Serve, visit: Open) -> None:
    page = serve(pool)
    tab = visit(page)
    order = np.argsort(-page.session.table.dots["medqa"], kind="stable")
    head = tab.locator("#samples th button", has_text="dot: medqa")
    after(tab, head.click)
    assert column(tab, 1) == [str(one) for one in order[:25]]
    assert tab.locator('#samples th[aria-sort="descending"]').count() == 1
    after(tab, lambda: tab.locator("#next").click())
    assert column(tab, 1) == [str(one) for one in order[25:50]]
    tab.locator("#page").fill("24")
    after(tab, lambda: tab.locator("#page").press("Enter"))
    assert column(tab, 1) == [str(one) for one in order[575:]]
    assert tab.locator("#next").is_disabled()
    after(tab, head.click)
    assert column(tab, 1) != [str(one) for one in order[:25]]
    tab.locator("#samples tbody tr").first.focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#conversation .said")
    position = column(tab, 1)[1]
    assert tab.locator("#conversation .said").first.inner_text().startswith(f"question {position} ")
    tab.keyboard.press("Escape")
    assert tab.locator("#text").is_hidden()


def test_scales_colours_and_exports(pool: Path, serve: Serve, visit: Open) -> None:
    tab = visit(serve(pool))
    for kind in ("linear", "rank", "symlog"):
        after(tab, lambda kind=kind: tab.locator('[data-column="influence"] select').select_option(kind))
    for kind in ("rank", "linear"):
        after(tab, lambda kind=kind: tab.locator('[data-column="difficulty"] select').select_option(kind))
    after(tab, lambda: tab.locator("#height").select_option("task:1"))
    for colour in ("quadrant", "selected", "density"):
        tab.locator("#colour").select_option(colour)
    after(tab, lambda: drag(tab, "#plane", (0.3, 0.2), (0.9, 0.8)))
    n = passing(tab)
    with tab.expect_download() as download:
        tab.locator("#export").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == n
    tab.locator("#as-sql").click()
    tab.wait_for_selector("#exported pre")
    assert "FROM diq_scores('pool', 'mo<b>del'" in tab.locator("#exported pre").inner_text()


def shown(tab: Any) -> dict[str, Any]:
    """What a reader sees of the state of the page."""
    values = (
        "ratio-text",
        "cut",
        "percentile",
        "threshold-text",
        "height",
        "colour",
        "compare",
        "weight-0",
        "weight-1",
    )
    return {
        "inputs": {name: tab.locator(f"#{name}").input_value() for name in values},
        "scales": {
            one.get_attribute("data-column"): one.locator("select").input_value()
            for one in tab.locator("#histogram-list .histogram").all()
        },
        "brushes": [
            one.get_attribute("aria-valuetext") for one in tab.locator("#histogram-list canvas[role=slider]").all()
        ],
        "pressed": tab.locator('.choice[aria-pressed="true"]').all_inner_texts(),
        "rows": [column(tab, number) for number in (1, 3)],
        "counts": (passing(tab), taken(tab), tab.locator("#overlap").inner_text()),
    }


def test_a_reload_shows_the_same_view(pool: Path, tmp_path: Path, serve: Serve, visit: Open) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(pool.read_bytes())
    diq.select("pool", ratio="0.3", strategy="influence", model="mo<b>del", name="other", store=path)
    page = serve(path)
    tab = visit(page)
    until(tab, "document.querySelectorAll('#compare option').length > 1")
    fresh = shown(tab)
    after(tab, lambda: slide(tab, "#ratio", np.log10(0.35)))
    after(tab, lambda: slide(tab, "#percentile", 0.7))
    after(tab, lambda: tab.locator("#cut").select_option("threshold"))
    after(tab, lambda: slide(tab, "#threshold", 4))
    after(tab, lambda: slide(tab, "#weight-1", 2.5))
    after(tab, lambda: tab.locator('[data-column="influence"] select').select_option("rank"))
    after(tab, lambda: tab.locator("#height").select_option("task:1"))
    after(tab, lambda: tab.locator("#compare").select_option(index=1))
    after(tab, lambda: drag(tab, '[data-column="task:0"] canvas', (0.3, 0.5), (0.9, 0.5)))
    after(tab, lambda: tab.locator('[data-column="source"] button').nth(1).click())
    after(tab, lambda: tab.locator("#samples th button", has_text="loss").click())
    tab.locator("#colour").select_option("quadrant")
    tab.wait_for_timeout(400)
    before = shown(tab)
    assert before != fresh
    assert "token" not in tab.url
    tab.reload()
    tab.wait_for_selector("body[data-paged]")
    until(tab, "document.querySelectorAll('#compare option').length > 1 && document.body.ariaBusy === 'false'")
    assert shown(tab) == before
    # and what it shows is what a save would take
    assert taken(tab) == page.view(ratio="0.35", threshold=4, weights={"medqa": 1, "pub'qa": 2.5})[0]["n_selected"]
    after(tab, lambda: tab.locator("#weights-reset").click())
    assert tab.locator("#weight-1").input_value() == fresh["inputs"]["weight-1"]
    # an address without a view is a fresh page
    tab.goto(page.origin)
    tab.wait_for_selector("body[data-paged]")
    until(tab, "document.querySelectorAll('#compare option').length > 1")
    assert shown(tab) == fresh


@pytest.mark.parametrize(
    ("view", "told"),
    [
        ('{"filters": {"<img src=x onerror=canary=1>": {"low": 1}}}', "names no column `<img src=x onerror=canary=1>`"),
        ('{"ratio": "7"}', "the ratio 7 is outside (0, 1]"),
        ('{"height": "task:9", "threshold": 3}', "names no column `task:9`"),
        ("[1]", "no object"),
        ("{", "JSON"),
        ("%E0%A4%A", "URI"),
    ],
)
def test_a_view_in_the_address_that_is_wrong_is_told_and_left_out(
    pool: Path, serve: Serve, browser: Any, view: str, told: str
) -> None:
    tab = browser.new_page()
    tab.goto(f"{serve(pool).server.address}#{view}")
    tab.wait_for_selector("body[data-paged]")
    assert "The view in the address cannot be shown" in tab.locator("#notes li").first.inner_text()
    assert told in tab.locator("#notes").inner_text()
    assert passing(tab) == 600
    assert tab.locator("#notes img").count() == 0
    assert tab.evaluate("typeof canary") == "undefined"
    # what is done from there on is remembered
    after(tab, lambda: slide(tab, "#ratio", np.log10(0.5)))
    tab.wait_for_timeout(400)
    tab.reload()
    tab.wait_for_selector("body[data-paged]")
    assert tab.locator("#ratio-text").input_value() == "0.5"
    assert "cannot be shown" not in tab.locator("body").inner_text()
    tab.close()


def test_a_view_that_is_put_into_the_address_is_shown(pool: Path, serve: Serve, visit: Open) -> None:
    page = serve(pool)
    tab = visit(page)
    with tab.expect_event("load"):
        tab.goto(f'{page.origin}/#{{"ratio": "0.25", "compare": 99, "weights": {{"medqa": 7}}, "colour": "none"}}')
    tab.wait_for_selector("body[data-paged]")
    assert tab.locator("#ratio-text").input_value() == "0.25"
    assert (tab.locator("#weight-0").input_value(), tab.locator("#weight-1").input_value()) == ("7", "0")
    assert taken(tab) == page.view(ratio="0.25", weights={"medqa": 7})[0]["n_selected"]
    assert tab.locator("#colour").input_value() == "density"
    # a selection that is not there is not compared with
    until(tab, "document.querySelector('#overlap').textContent === '' && document.body.ariaBusy === 'false'")


HARM = [
    "<script>window.canary = 1</script>",
    "</script><script>window.canary = 2</script>",
    "<img src=x onerror='window.canary = 3'>",
    "<a href='javascript:window.canary = 4'>click</a> javascript:window.canary=5",
    "line\u2028window.canary = 6\u2029 end",
    "abc\u202edcba\u2066\u200b\u200d\ufeff\u0000\u0007\u00ad\U000e0041 end",
    "</td></tr></table><svg onload='window.canary = 7'>",
    "{{constructor.constructor('window.canary = 8')()}} ${window.canary = 9}",
    "A" * 1_000_000 + "the end",
    "<style>*{display:none}</style><base href='http://evil.example/'>",
]
NAME = "<img src=x onerror='window.canary = 10'>\u202e"


def test_texts_and_names_stay_text(tmp_path: Path, serve: Serve, visit: Open) -> None:
    columns = dict.fromkeys(("medqa", "pub'qa")) | {NAME: np.arange(10.0), "</script>": np.arange(10.0) ** 2}
    # source files are named by people, too
    folder = tmp_path / "<img src=x onerror=canary=11>"
    folder.mkdir()
    page = serve(make_store(folder / "s.duckdb", HARM, **columns))
    tab = visit(page)
    until(tab, "[...document.querySelectorAll('td.start div')].every((one) => one.textContent)")
    for row in range(len(HARM)):
        tab.locator(f'#samples tbody tr[data-position="{row}"]').click()
        until(tab, f"document.querySelector('#facts dd:nth-of-type(2)')?.textContent === '{row}'")
        said = tab.locator("#conversation .said").first
        if row == 8:
            assert len(said.inner_text()) < 10_000
            said.locator("button", has_text="show all 1,000,007 characters").click()
            assert said.text_content() == HARM[row]
        elif row == 5:
            marks = said.locator(".mark").all_inner_texts()
            assert marks == ["U+202E", "U+2066", "U+200B", "U+200D", "U+FEFF", "U+0000", "U+0007", "U+00AD", "U+E0041"]
        elif row == 4:
            assert said.locator(".mark").all_inner_texts() == ["U+2028", "U+2029"]
        else:
            assert said.inner_text() == HARM[row]
    # nothing of it became a part of the page
    assert tab.locator("main img, main svg, main script, main style, main a, body base").count() == 0
    shown = tab.locator("body").inner_text()
    assert "\u202e" not in shown
    assert "U+202E" in shown
    assert tab.evaluate("typeof window.canary") == "undefined"
    assert tab.evaluate("typeof canary") == "undefined"


def test_the_policy_of_the_page_stops_what_would_run(pool: Path, serve: Serve, browser: Any) -> None:
    """The second wall, should a text ever become markup: what is put into the page by force does not run."""
    page = serve(pool)
    tab = browser.new_page()
    tab.goto(page.server.address)
    tab.wait_for_selector("body[data-paged]")
    made = tab.evaluate(
        """async () => {
            const told = [];
            const markup = "<img src=x onerror='window.canary = 1'>";
            try { document.body.innerHTML += markup; } catch { told.push("markup"); }
            const script = document.createElement("script");
            try {
                script.textContent = "window.canary = 2";
                document.body.append(script);
            } catch { told.push("script"); }
            await fetch("http://127.0.0.1:1/").catch(() => told.push("fetch"));
            return [told, typeof window.canary];
        }"""
    )
    tab.close()
    assert made == [["markup", "script", "fetch"], "undefined"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_no_sideways_scroll(pool: Path, serve: Serve, visit: Open, scheme: str) -> None:
    tab = visit(serve(pool), width=390, scheme=scheme)
    tab.locator("#samples tbody tr").first.click()
    tab.wait_for_selector("#conversation .said")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    after(tab, lambda: drag(tab, "#plane", (0.3, 0.2), (0.9, 0.8)))
    assert 0 < passing(tab) < 600
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_one_sample_is_one_sample(tmp_path: Path, serve: Serve, visit: Open) -> None:
    tab = visit(serve(make_store(tmp_path / "s.duckdb", ["only"])))
    after(tab, lambda: slide(tab, "#ratio", 0))
    assert tab.locator("#status").inner_text() == "1 sample, 1 in quadrants"
    assert tab.locator("#taken").inner_text().startswith("1 of 1 sample (")
    assert tab.locator("#plane").get_attribute("aria-label").startswith("1 sample by ")
    tab.locator("#save button").click()
    tab.wait_for_selector("#saved pre")
    assert "Saved 1 sample as" in tab.locator("#saved").inner_text()


def test_every_control_has_a_name(pool: Path, serve: Serve, visit: Open) -> None:
    tab = visit(serve(pool))
    nameless = tab.evaluate(
        """() => [...document.querySelectorAll("main button, main input, main select, main canvas[tabindex]")]
            .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []


def test_scores_that_cannot_be_read_are_told(pool: Path, tmp_path: Path, browser: Any, monkeypatch: Any) -> None:
    from diq.base.errors import StoreError
    from diq.explorer import session

    def held(*_: object) -> None:
        raise StoreError("the store `x` is held by process 1", "wait until it has finished")

    monkeypatch.setattr(session, "read_table", held)
    page = Page(pool)
    try:
        tab = browser.new_page()
        tab.goto(page.server.address)
        tab.wait_for_selector("#trouble p")
        assert tab.locator("#trouble").inner_text().startswith("the store `x` is held by process 1")
        tab.close()
    finally:
        page.close()
