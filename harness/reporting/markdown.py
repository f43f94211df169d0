"""A summary in Markdown, for a job's page on GitHub or for a pull request: each guarantee, findings worst first.

GitHub takes 1 MiB for the summary of a step, and refuses a longer one whole: what does not fit is left out here, and
said so. Source: GitHub documentation, "Adding a job summary".
"""

import re
from collections.abc import Callable, Iterable, Sequence

from harness.reporting.scenarios import Scenario, case, totals
from harness.reporting.text import count, printable, seconds, shortened
from harness.verdict import Verdict, worst

SIZE_MAX = 1 << 20
"""Bytes."""

_ICONS = {Verdict.INTACT: "✅", Verdict.UNKNOWN: "⚠️", Verdict.CORRUPTED: "❌"}
_ORDER = list(Verdict)
_MESSAGE_MAX = 2000
_CELL_MAX = 300
_ROOM_FOR_NOTE = 200
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def summary(scenarios: Sequence[Scenario], *, elapsed: float, artifacts: str = "", size_max: int = SIZE_MAX) -> str:
    """The headline, each finding, and a table of all scenarios, in at most `size_max` bytes of UTF-8.

    `artifacts`: the folder in which the bundles are, if there is one.
    """
    ranked = sorted(scenarios, key=lambda each: -_ORDER.index(each.verdict))
    failed = [scenario for scenario in ranked if scenario.outcome != "passed"]
    blocks = [_headline(scenarios, elapsed, artifacts if failed else "")]
    room = size_max - _size(blocks[0]) - _ROOM_FOR_NOTE
    # The table has a line for each, so it comes first where there is not enough room for both.
    table, room = _fitting([_TABLE_HEAD, *map(_row, ranked)], room, "scenario")
    details, _ = _fitting([_details(scenario) for scenario in failed], room - _ROOM_FOR_NOTE, "failure")
    return "\n".join([*blocks, *details, *table, ""])


def _headline(scenarios: Sequence[Scenario], elapsed: float, artifacts: str) -> str:
    verdict = worst(scenario.verdict for scenario in scenarios)
    passed = sum(1 for scenario in scenarios if scenario.outcome == "passed")
    told = f"{passed:,} of {count(len(scenarios), 'scenario')} as they should be, in {seconds(elapsed)}"
    lines = [f"## {_ICONS[verdict]} {verdict}: {told}", "", escaped(totals(scenarios)), ""]
    if artifacts:
        lines += [f"Bundles: {code(artifacts)}. Replay on any Linux machine, as root.", ""]
    return "\n".join(lines)


_TABLE_HEAD = "| | guarantee | verdict | states | time | replay |\n|---|---|---|---:|---:|---|"


def _row(scenario: Scenario) -> str:
    name = (
        f"{escaped(shortened(scenario.guarantee, _CELL_MAX))}<br>{escaped(shortened(case(scenario.test), _CELL_MAX))}"
    )
    states = f"{scenario.states:,}" if scenario.volumes else "-"
    # A planted bug that was found has a replay too: nobody needs it here.
    replay = cell_code(scenario.replays[0]) if scenario.replays and scenario.outcome != "passed" else ""
    cells = (_ICONS[scenario.verdict], name, escaped(scenario.shown), states, seconds(scenario.seconds), replay)
    return f"| {' | '.join(cells)} |"


def _details(scenario: Scenario) -> str:
    lines = ["<details open>" if scenario.verdict is Verdict.CORRUPTED else "<details>"]
    title = f"{_ICONS[scenario.verdict]} <b>{scenario.verdict}</b>: {_html(scenario.guarantee)}"
    lines += [f"<summary>{title}</summary>", "", f"{code(scenario.test)}: {escaped(scenario.outcome)}", ""]
    if scenario.message:
        lines += [fenced(shortened(scenario.message, _MESSAGE_MAX)), ""]
    for volume in scenario.volumes:
        wanted = f", expected {volume.expected}" if volume.expected not in ("", volume.verdict) else ""
        lines.append(f"- {escaped(f'{volume.fs}: {volume.verdict}{wanted}; {volume.scope}')}")
    for row in scenario.trials:
        name = f"{row.system} {row.variant}" + (f" at {row.point}" if row.point else "")
        lines.append(f"- {escaped(f'{name}: {row.verdict} {row.finding} {row.summary}'.rstrip())}")
    lines += [f"- bundle {code(bundle)}" for bundle in scenario.bundles]
    if scenario.replays:
        lines += ["", fenced("\n".join(scenario.replays), "sh")]
    return "\n".join([*lines, "", "</details>", ""])


def _fitting(blocks: Iterable[str], room: int, noun: str) -> tuple[list[str], int]:
    """As many blocks as there is room for, a line about the others, and the room that is left."""
    kept: list[str] = []
    left = 0
    for block in blocks:
        if left or _size(block) > room:
            left += 1
        else:
            kept.append(block)
            room -= _size(block)
    if left:
        kept.append(f"\n{count(left, f'further {noun}')} left out: GitHub takes {SIZE_MAX >> 20} MiB.\n")
    return kept, room


def _size(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace")) + 1


def escaped(text: str) -> str:
    """One line that Markdown and HTML show as it stands, in a table too."""
    return _SPECIAL.sub(r"\\\1", printable(text)).replace("\\<", "&lt;").replace("\\&", "&amp;").replace("\\$", "$")


def _html(text: str) -> str:
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """A code span, with as many backticks as its text demands."""
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{printable(text)}{pad}{fence}"


def cell_code(text: str) -> str:
    """The same in a table, where a bar ends the cell even in code unless it is escaped."""
    return code(text).replace("|", "\\|")


def fenced(text: str, language: str = "") -> str:
    """A block of code."""
    fence = "`" * max(3, _longest_run(text) + 1)
    lines: Callable[[str], str] = printable
    return "\n".join([f"{fence}{language}", *map(lines, text.splitlines()), fence])


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
