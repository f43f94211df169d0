"""What must hold for every HTML page: nothing gets out of its text, all can be read, and the command that writes it."""

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cli_support
import html_support as support
import jinja2
import pytest
from html_support import Open
from msgspec.structs import replace
from playwright.sync_api import expect

from harness.advice.advised import Advice, Tried
from harness.explain.explained import Explained, Side
from harness.reporting.html import charts, environment
from harness.reporting.html.environment import clean, data, quoted, render_template
from harness.reporting.html.hexdump import dump
from harness.reporting.html.page import RunPage
from harness.verdict import ExitCode, FindingKind, Verdict

pytest_plugins = ["html_browser"]

MIB = 1 << 20
BUNDLE = Path(__file__).parent.parent / "fixtures/bundles/btrfs-two-names-after-rename.crash"


def test_hostile_text_stays_text(opened: Open) -> None:
    nasty = support.NASTY
    page = opened(_hostile(nasty))
    assert page.title() != "owned"
    assert page.locator("img").count() == 0
    expect(page.locator("#wrong")).to_contain_text("</script><script>document.title='owned'</script><img src=x")
    expect(page.locator("#wrong")).to_contain_text(r"\x1b[31m\x00\u202eevil\u2066 \udcff\udcfe שלום")
    page.locator("#finding-1 .filter-box").fill("onerror")
    expect(page.locator("#finding-1 .vrow.is-promise").first).to_contain_text("<img src=x onerror=")
    page.evaluate("Bokeh.documents[0].get_model_by_name('events').setv({start: 4, end: 30})")
    for n in range(8):
        box = page.locator("#finding-1 .timeline").bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] * (0.2 + n / 10), box["y"] + box["height"] * 0.3)
    page.wait_for_timeout(200)
    assert page.title() != "owned"
    assert page.locator("img").count() == 0
    raw = page.evaluate("document.documentElement.textContent")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", raw)


def _hostile(nasty: str) -> RunPage:
    plain = support.replace_by_rename()
    entries = tuple(replace(entry, text=nasty) if entry.what == "promise" else entry for entry in plain.entries)
    named = tuple(
        replace(entry, pieces=tuple(replace(piece, text=nasty, path=nasty) for piece in entry.pieces))
        for entry in entries
    )
    finding = replace(
        plain,
        entries=named,
        steps=tuple(replace(step, text=nasty) for step in plain.steps),
        sides=(Side(path=nasty, what=nasty, expected_size=3, found_size=3, first=0, expected=b"</t", found=b"<im"),),
        **dict.fromkeys(("headline", "broken", "summary", "volume", "file_system", "replay", "bundle", "state"), nasty),
        **dict.fromkeys(("kernel", "notes", "story", "workload", "promises"), (nasty, nasty)),
        output=(nasty + "\n") * (MIB // len(nasty)),
        advice=Advice(before=Tried(), why=nasty),
        tools={nasty: nasty},
    )
    return support.page(finding, title=nasty, command=nasty, scope=nasty, notes=(nasty,), harness=nasty, kernel=nasty)


def test_a_script_that_came_in_would_not_run(opened: Open, problems: list[str]) -> None:
    page = opened(support.page(support.replace_by_rename()))
    page.evaluate(
        """() => {
          const inside = document.createElement("div");
          inside.innerHTML = "<button id=trap onclick=\\"document.title = 'owned'\\">x</button>";
          document.body.append(inside);
          inside.firstChild.click();
        }"""
    )
    assert page.title() != "owned"
    policy = page.locator('meta[http-equiv="Content-Security-Policy"]').get_attribute("content")
    assert policy and policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "unsafe-eval" not in policy
    (blocked,) = problems
    assert "Content Security Policy" in blocked
    problems.clear()


def test_landmarks_headings_and_names(opened: Open) -> None:
    page = opened(support.page(support.replace_by_rename(), support.replace_by_rename()))
    for role in ("banner", "main", "contentinfo", "navigation"):
        expect(page.get_by_role(role)).to_have_count(1)
    levels = [int(name[1]) for name in page.evaluate(_HEADINGS)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.evaluate(_NAMELESS) == 0
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size") == page.evaluate(
        "document.querySelectorAll('[id]').length"
    )


_NAMELESS = """[...document.querySelectorAll('button, input')].filter((e) => e.checkVisibility()
  && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length"""
_HEADINGS = "[...document.querySelectorAll('main h1, main h2, main h3, main h4, main h5')].map((e) => e.tagName)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened: Open, scheme: str) -> None:
    page = opened(support.page(support.replace_by_rename(), support.replace_by_rename()), scheme=scheme)
    page.keyboard.press("n")
    faint = page.evaluate(_CONTRAST)
    assert not faint


_CONTRAST = """() => {
  // WCAG 2.2: 4.5 for text, against the nearest ancestor that has a ground of its own.
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement;
    const text = node.textContent.trim().slice(0, 30);
    if (!text || !e.checkVisibility() || e.closest("script, noscript, .timeline, .sr, .skip")) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.add(`${e.tagName}.${e.className} ${contrast.toFixed(2)} ${text}`);
  }
  return [...found];
}"""


def test_print_shows_every_finding(opened: Open) -> None:
    page = opened(support.page(support.replace_by_rename(), support.replace_by_rename()))
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.locator("#finding-2 .story")).to_be_visible()
    expect(page.locator(".bar")).to_be_hidden()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (support.page(), "Nothing was found to be wrong"),
        (support.page(verdict=Verdict.UNKNOWN, exit_code=ExitCode.UNKNOWN), "no verdict could be given"),
        (support.page(Explained(file_system="xfs", volume="xfs of 300 MiB", model="torn")), "nothing is known"),
        (support.page(support.replace_by_rename(advice=None)), "Not searched for."),
        (
            support.page(support.replace_by_rename(advice=Advice(before=Tried(), why="no fsync helps"))),
            "no fsync helps",
        ),
    ],
    ids=["intact", "unknown", "bare", "no-advice", "no-remedy"],
)
def test_a_page_with_less_to_say(opened: Open, content: RunPage, words: str) -> None:
    page = opened(content)
    expect(page.locator(".top")).to_contain_text(words)


def test_charts_of_another_page(opened: Open) -> None:
    line = charts.line_chart(
        "Rate", [0, 1, 2], {"states": [1, 4, 2], "a<b": [0, 1, 3]}, x_label="hours", y_label="per s"
    )
    heat = charts.heat_map("Coverage", ["creat", "rename"], ["fsync", "none"], [[1, None], [250, 4]])
    source = (
        '{% extends "base.html.j2" %}{% from "parts.html.j2" import chart %}{% block title %}Night{% endblock %}'
        "{% block main %}<h1>Night</h1>{% for each in drawn %}{{ chart(each) }}{% endfor %}{% endblock %}"
    )
    template = environment._environment().from_string(source)
    page = opened(template.render(nonce="n0", drawn=[line, heat]))
    expect(page.locator("[data-chart] canvas")).not_to_have_count(0)
    page.wait_for_function("Bokeh.documents.length === 2")
    expect(page.get_by_role("img", name="Rate: states, a<b over hours")).to_be_visible()
    page.get_by_role("button", name="Theme").click()


def test_worst_comes_first() -> None:
    kinds = [FindingKind.META, FindingKind.HARNESS, FindingKind.LOST_ACKED]
    verdicts = [Verdict.CORRUPTED, Verdict.UNKNOWN, Verdict.CORRUPTED]
    found = [support.replace_by_rename(kind=k, verdict=v) for k, v in zip(kinds, verdicts, strict=True)]
    assert [each.kind for each in support.page(*found).worst_first] == [
        FindingKind.LOST_ACKED, FindingKind.META, FindingKind.HARNESS,
    ]  # fmt: skip


def test_a_dump_says_what_it_leaves_out_and_marks_what_one_side_lacks() -> None:
    side = Side(
        path="/f", what="longer", expected_size=20, found_size=2000, start=10, expected=b"a" * 10, found=b"a" * 1990
    )
    shown = dump(side)
    assert shown.left_out == 1990 - 1024
    assert [row.offset for row in shown.rows[:2]] == [0, 16]
    assert [run.differs for run in shown.rows[1].expected] == [False, True]
    (first,) = [run for row in shown.rows for run in row.found if run.first]
    assert first.hex == " ".join(["61"] * 12) and not first.absent
    assert shown.rows[1].expected[1].absent and shown.rows[1].expected[1].hex == " ".join(["--"] * 12)


def test_text_is_cleaned_and_json_cannot_end_its_element() -> None:
    assert clean("a\x1b\n\u202eb\udc80") == "a\\x1b\n\\u202eb\\udc80"
    assert "<" not in data({"a": "</script>\u2028&"}) and "\u2028" not in data("\u2028")
    assert quoted("a `<b>` c") == 'a <code class="u">&lt;b&gt;</code> c'
    assert quoted("it`s <b>") == "it`s &lt;b&gt;"
    with pytest.raises(jinja2.UndefinedError):
        render_template("run.html.j2")


def test_the_command_writes_a_page_without_root_and_says_what_it_could_not_do(opened: Open, tmp_path: Path) -> None:
    shutil.copy(BUNDLE, tmp_path / "found.crash")
    ran = cli_support.harness("report", "found.crash", "--no-advice", "--no-sides", cwd=tmp_path)
    assert ran.status == ExitCode.INTACT, ran
    assert "found.html" in ran.out
    page = opened((tmp_path / "found.html").read_text())
    expect(page.locator("#verdict")).to_contain_text("CORRUPTED")
    expect(page.locator("#scope")).to_contain_text("one crash state, out of its bundle")
    expect(page.locator(".top .command code")).to_have_text("harness replay found.crash")
    expect(page.locator("#finding-1 .log-table .vrow").first).to_be_visible()


@pytest.mark.root
def test_the_command_as_root_finds_what_to_add(opened: Open, tmp_path: Path) -> None:
    shutil.copy(BUNDLE, tmp_path / "found.crash")
    ran = cli_support.harness("report", "found.crash", "-o", "out/page.html", cwd=tmp_path)
    assert ran.status == ExitCode.INTACT, ran
    assert "searching for the missing fsync" in ran.err
    page = opened((tmp_path / "out/page.html").read_text())
    expect(page.locator("#add")).to_contain_text("fsync")
    expect(page.locator("#add .measure")).to_contain_text("with it 0 of")


@pytest.mark.parametrize("words", [(), ("absent.crash",), ("found.crash", "-o", "found.crash")])
def test_misuse_is_told_on_one_screen(words: tuple[str, ...], tmp_path: Path) -> None:
    shutil.copy(BUNDLE, tmp_path / "found.crash")
    ran = cli_support.harness("report", *words, cwd=tmp_path)
    assert ran.status == ExitCode.MISUSE
    ran.assert_one_screen()
    assert (tmp_path / "found.crash").read_bytes() == BUNDLE.read_bytes()


def test_help_does_not_load_the_charts() -> None:
    code = (
        "import sys\nfrom harness.cli import app, report\n"
        "assert not {'bokeh', 'jinja2', 'numpy'} & set(sys.modules), 'loaded too early'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
