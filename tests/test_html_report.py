"""The HTML report as a reader uses it, in a real Chromium: see, filter, expand, copy, jump."""

import re
from pathlib import Path

import html_support as support
import pytest
from html_support import DESKTOP, PHONE, Open
from playwright.sync_api import Locator, Page, expect

from harness.reporting.html.page import render, write
from harness.verdict import FindingKind

pytest_plugins = ["html_browser"]

MIB = 1 << 20


def in_first_screen(page: Page, found: Locator) -> bool:
    box, size = found.bounding_box(), page.viewport_size
    assert box and size
    return box["y"] >= 0 and box["y"] + box["height"] <= size["height"] and box["x"] + box["width"] <= size["width"]


def rows(page: Page) -> Locator:
    return page.locator("#finding-1 .log-table .vbody .vrow")


def marked(page: Page) -> Locator:
    return page.locator("#finding-1 .log-table .vrow.marked")


def colour(page: Page, selector: str, what: str = "color") -> str:
    return str(page.evaluate(f"getComputedStyle(document.querySelector({selector!r})).{what}"))


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_first_screen_says_what_went_wrong_and_what_to_add(opened: Open, size: tuple[int, int]) -> None:
    page = opened(support.page(support.replace_by_rename()), size)
    for place, text in (
        ("#verdict", "CORRUPTED"),
        ("#scope", "all 212 distinct states that the subset model allows"),
        ("#wrong", "the data of config.new (2 writes) did not"),
        ("#broken", "config holds version 2"),
        ("#add", "fsync(config.new) before rename of config.new -> config"),
        ("#add", "0 of 212 states fail; without it 31 of 212 states fail"),
        (".top .command code", "harness replay reports/ext4-truncated-8c1f0b7a3d.crash"),
    ):
        found = page.locator(place)
        expect(found).to_contain_text(text)
        assert in_first_screen(page, found), place
    assert in_first_screen(page, page.locator(".top .copy"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_the_page_in_one_direction(opened: Open, scheme: str) -> None:
    page = opened(support.page(support.replace_by_rename(), support.replace_by_rename()), PHONE, scheme=scheme)
    page.locator("#finding-2 summary").first.click()
    page.wait_for_selector("#finding-2 .vrow")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    inside = page.locator("#finding-1 .log-table .vtable")
    assert inside.evaluate("box => box.scrollWidth > box.clientWidth && box.clientWidth < 390")


def test_the_chart_shows_operations_flushes_writes_and_the_cut(opened: Open) -> None:
    page = opened(support.page(support.replace_by_rename()))
    chart = page.locator("#finding-1 .timeline")
    expect(chart.locator("canvas").first).to_be_attached()
    drawn = page.evaluate(
        """() => {
          const model = (name) => Bokeh.documents[0].get_model_by_name(name);
          const writes = model("writes source").data;
          return {
            cuts: [...Bokeh.documents[0]._all_models.values()].filter((m) => m.name === "cut").map((m) => m.location),
            flushes: [...model("flushes source").data.x], lost: [...model("lost source").data.x],
            hollow: [...writes.x].filter((_, n) => writes.alpha[n] === 0),
            steps: [...model("durable source").data.text, ...model("cached source").data.text].length,
            shapes: new Set(writes.marker).size, promises: [...model("promises source").data.x],
          };
        }"""
    )
    assert drawn["cuts"] == [26.5, 26.5]
    assert drawn["flushes"] == [7, 9, 20, 22, 28]
    assert drawn["lost"] == drawn["hollow"] == [25, 26]
    assert drawn["promises"] == [10, 24]
    assert drawn["steps"] == 7
    assert drawn["shapes"] >= 6
    # Pixels: the canvas is not blank.
    assert len(chart.screenshot()) > 5_000


def test_filter_chips_and_lost_only_narrow_the_block_log(opened: Open) -> None:
    page = opened(support.page(support.replace_by_rename()))
    box, shown = page.locator("#finding-1 .filter-box"), page.locator("#finding-1 .shown")
    expect(shown).to_have_text("26 of 26 events")
    box.fill("CONFIG.new data lost")
    expect(shown).to_have_text("2 of 26 events")
    expect(rows(page)).to_have_count(3)  # the cut keeps its row
    assert "the power went before event 27" in rows(page).last.inner_text()
    box.fill("nothing has this name")
    expect(page.locator("#finding-1 .log-table .vempty")).to_be_visible()
    box.fill("")
    page.get_by_role("button", name="Lost only").click()
    expect(shown).to_have_text("2 of 26 events")
    page.get_by_role("button", name="Lost only").click()
    page.locator("#finding-1 .chip", has_text="journal commit").click()
    expect(shown).to_have_text("2 of 26 events")
    # A jump to what the filter hides undoes the filter.
    page.get_by_role("button", name="First lost write").click()
    expect(shown).to_have_text("26 of 26 events")
    expect(marked(page)).to_contain_text("data block 0 of /config.new")


def test_a_row_is_marked_in_the_chart_and_a_write_of_the_chart_in_the_table(opened: Open) -> None:
    page = opened(support.page(support.replace_by_rename()))
    page.locator("#finding-1 .log-table .vrow", has_text="superblock").first.click()
    here = "[...Bokeh.documents[0].get_model_by_name('here source').data.x]"
    assert page.evaluate(here) == [15]
    index = "Bokeh.documents[0].get_model_by_name('writes source').data.x.indexOf(26)"
    page.evaluate(f"Bokeh.documents[0].get_model_by_name('writes source').selected.indices = [{index}]")
    expect(marked(page)).to_contain_text("data block 1 of /config.new")
    assert page.evaluate(here) == [26]


def test_a_click_on_a_write_in_the_chart_finds_its_row(opened: Open) -> None:
    page = opened(support.page(support.replace_by_rename()))
    chart = page.locator("#finding-1 .timeline")
    chart.scroll_into_view_if_needed()
    where = page.evaluate(
        """() => {
          const doc = Bokeh.documents[0], data = doc.get_model_by_name("writes source").data;
          const view = Bokeh.index.find_one(doc.get_model_by_name("log"));
          const n = [...data.x].indexOf(25), box = view.el.getBoundingClientRect();
          const [sx, sy] = [view.frame.x_scale.compute(data.x[n]), view.frame.y_scale.compute(data.y[n])];
          return [box.x + sx, box.y + sy];
        }"""
    )
    page.mouse.click(*where)
    expect(marked(page)).to_contain_text("data block 0 of /config.new")
    expect(marked(page)).to_contain_text("lost")


def test_jumps_by_button_and_by_key(opened: Open) -> None:
    page = opened(support.page(support.replace_by_rename()))
    page.get_by_role("button", name="First differing byte").click()
    first = page.locator("#finding-1-side-1-first")
    expect(first).to_be_focused()
    expect(first).to_be_in_viewport()
    page.keyboard.press("n")
    expect(marked(page)).to_contain_text("25")
    page.keyboard.press("n")
    expect(marked(page)).to_contain_text("26")
    page.keyboard.press("n")  # round again
    expect(marked(page)).to_contain_text("25")
    page.keyboard.press("p")
    expect(marked(page)).to_contain_text("26")
    expect(marked(page)).to_be_in_viewport()
    page.keyboard.press("c")
    expect(marked(page)).to_contain_text("the power went before event 27")
    page.keyboard.press("d")
    expect(first).to_be_focused()


def test_keys_filter_findings_help_and_theme(opened: Open) -> None:
    page = opened(support.page(support.replace_by_rename(), support.replace_by_rename(kind=FindingKind.META)))
    page.keyboard.press("/")
    box = page.locator("#finding-1 .filter-box")
    expect(box).to_be_focused()
    page.keyboard.type("jn?t")
    expect(box).to_have_value("jn?t")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.locator("#finding-2")).to_have_attribute("open", "")
    expect(page.locator("#finding-2 .vrow").first).to_be_visible()
    expect(page.locator("#finding-2 summary").first).to_be_focused()
    page.keyboard.press("k")
    expect(page.locator("#finding-1 summary").first).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    light = colour(page, "body", "backgroundColor")
    page.keyboard.press("t")
    assert colour(page, "body", "backgroundColor") != light
    page.keyboard.press("t")
    assert colour(page, "body", "backgroundColor") == light


def test_the_theme_is_the_systems_until_it_is_changed(opened: Open) -> None:
    content = render(support.page(support.replace_by_rename()))
    light, dark = opened(content), opened(content, scheme="dark")
    assert colour(light, "body") != colour(dark, "body")
    axis = "Bokeh.documents[0].get_model_by_name('by kind').major_label_text_color"
    assert light.evaluate(axis) != dark.evaluate(axis)
    before = light.evaluate(axis)
    light.get_by_role("button", name="Theme").click()
    assert light.evaluate(axis) == dark.evaluate(axis) != before
    light.reload()
    light.wait_for_selector("html[data-ready]")
    assert light.evaluate(axis) == before


def test_a_closed_finding_draws_nothing_until_it_is_opened(opened: Open) -> None:
    page = opened(support.page(*(support.replace_by_rename() for _ in range(3))))
    assert page.evaluate("Bokeh.documents.length") == 1
    assert page.locator(".vrow").count() == page.locator("#finding-1 .vrow").count()
    page.locator("#finding-3 summary").first.click()
    expect(page.locator("#finding-3 .timeline canvas").first).to_be_attached()
    page.locator('nav a[href="#finding-2"]').click()
    expect(page.locator("#finding-2")).to_have_attribute("open", "")
    expect(page.locator("#finding-2 .timeline canvas").first).to_be_attached()


def test_bytes_that_differ_are_marked_by_more_than_colour(opened: Open) -> None:
    page = opened(support.page(support.replace_by_rename()))
    side = page.locator("#finding-1-side-2")
    expect(side.locator("h4")).to_have_text("/state.db has other bytes")
    expect(side).to_contain_text("the first byte that differs is byte 4,117 (0x1015)")
    expect(side.locator(".pane").nth(1).locator("td:not(.ascii) mark")).to_have_text(["de ad be ef", "00"])
    expect(side.locator(".pane").nth(0).locator("td:not(.ascii) mark")).to_have_text(["02 01 02 01", "01"])
    assert "underline" in colour(page, "#finding-1-side-2 mark", "textDecorationLine")
    expect(page.locator("#finding-1-side-3")).to_contain_text("expected: 5,800 bytes, found: absent")


def test_ten_thousand_writes_stay_usable_and_small(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "many.html"
    write(str(path), support.page(support.many_writes()))
    assert path.stat().st_size < 3 * MIB
    page = opened(path.read_text())
    shown, box = page.locator("#finding-1 .shown"), page.locator("#finding-1 .filter-box")
    expect(shown).to_have_text(re.compile(r"^10,\d+ of 10,\d+ events$"))
    assert rows(page).count() < 80
    box.fill("segment-00100.log data")
    expect(shown).to_have_text(re.compile(r"^\d\d of 10,\d+ events$"))
    assert rows(page).count() < 80
    box.fill("")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(marked(page)).to_contain_text("the power went before")
    expect(marked(page)).to_be_in_viewport()
    page.keyboard.press("n")
    expect(marked(page)).to_contain_text("lost")
    grid = page.get_by_role("grid", name="Block log")
    grid.focus()
    page.keyboard.press("End")
    expect(marked(page)).to_contain_text("after the cut")
    page.keyboard.press("ArrowUp")
    expect(marked(page)).to_have_count(1)
    assert rows(page).count() < 80
    page.get_by_role("button", name="Whole log").click()
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('events').start") < 0


@pytest.mark.parametrize("allowed", [True, False], ids=["clipboard", "refused"])
def test_the_replay_command_is_copied(opened: Open, allowed: bool) -> None:
    page = opened(support.page(support.replace_by_rename()))
    if allowed:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    else:
        refuse = "() => Promise.reject(new DOMException('no', 'NotAllowedError'))"
        page.evaluate(f"Object.defineProperty(navigator, 'clipboard', {{ value: {{ writeText: {refuse} }} }})")
    box = page.locator("#finding-1 .filter-box")
    box.fill("what was in the clipboard before")
    box.press("Control+a")
    box.press("Control+x")
    page.locator(".top .copy").click()
    expect(page.locator(".top .copy")).to_have_text("Copied")
    expect(page.locator("#said")).to_have_text("copied")
    box.press("Control+v")
    expect(box).to_have_value(support.replace_by_rename().replay)
