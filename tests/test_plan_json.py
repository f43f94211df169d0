"""Plans as JSON: read back as they were, named alike on every machine, refused with the place where they are wrong."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import Misuse
from harness.plan import operations as op
from harness.plan.operations import Operation
from harness.plan.plan import KIND, SCHEMA, Plan, from_json

EVERY: tuple[Operation, ...] = (
    op.Creat(path="A/foo", exclusive=True),
    op.Write(path="foo", offset=4095, length=2),
    op.Write(path="foo", length=4096, how="direct", append=True, fill="x"),
    op.Truncate(path="foo", size=0),
    op.Fallocate(path="foo", offset=4096, length=8192, mode="punch-hole"),
    op.CopyRange(path="foo", new="bar", length=100, new_offset=7),
    op.Link(path="foo", new="A/bar"),
    op.Symlink(target="../anything/at all", new="A/link"),
    op.Rename(path="A/foo", new="B/bar"),
    op.Rename(path="foo", new="bar", how="exchange"),
    op.Unlink(path="foo"),
    op.Remove(path="A"),
    op.Mkdir(path="A"),
    op.Rmdir(path="A"),
    op.SetXattr(path="foo"),
    op.RemoveXattr(path="foo", name="other"),
    op.Chmod(path="foo", mode=0o600),
    op.Utimens(path="foo", seconds=1),
    op.Tmpfile(new="foo", length=3),
    op.Fsync(path="."),
    op.Fdatasync(path="foo"),
    op.Msync(path="foo", offset=4096, length=1),
    op.SyncFileRange(path="foo", length=1),
    op.Syncfs(),
    op.Sync(),
    op.DropCaches(),
)

LINES = """\
creat A/foo O_EXCL
write foo 4095+2
direct-write foo end+4096 of 'x'
truncate foo 0
fallocate foo 4096+8192 punch-hole
copy_file_range foo 0+100 -> bar 7
link foo -> A/bar
symlink ../anything/at all -> A/link
rename A/foo -> B/bar
rename foo <-> bar
unlink foo
remove A
mkdir A
rmdir A
setxattr foo user.attr=value
removexattr foo user.other
chmod foo 0600
utimens foo 1
tmpfile foo of 3
fsync .
fdatasync foo
msync foo 4096+1
sync_file_range foo 0+1
syncfs
sync
drop_caches
"""

operations = st.lists(st.sampled_from(EVERY), max_size=6).map(tuple)


def with_operation(**fields: Any) -> str:
    return json.dumps({"schema": SCHEMA, "kind": KIND, "operations": [{"op": "sync"}, fields]})


def test_every_operation_is_here() -> None:
    assert {type(operation) for operation in EVERY} == set(Operation.__args__)


@given(operations, operations)
def test_a_plan_is_read_back_as_it_was(setup: tuple[Operation, ...], rest: tuple[Operation, ...]) -> None:
    plan = Plan(setup=setup, operations=rest)
    again = from_json(plan.to_json())
    assert again == plan
    assert again.id == plan.id
    assert again.all == setup + rest


@given(operations, operations)
def test_plans_of_one_id_are_the_same_plan(one: tuple[Operation, ...], other: tuple[Operation, ...]) -> None:
    assert (Plan(operations=one).id == Plan(operations=other).id) is (one == other)
    if one:
        assert Plan(setup=one, operations=()).id != Plan(operations=one).id


def test_an_operation_is_one_readable_line() -> None:
    assert [str(operation) for operation in EVERY] == LINES.splitlines()
    plan = Plan(setup=(op.Mkdir(path="A"),), operations=(op.Creat(path="A/foo"),))
    assert plan.lines() == ["  0  mkdir A  (setup)", "  1  creat A/foo"]


def test_an_id_is_the_same_on_any_machine() -> None:
    plan = Plan(
        setup=(op.Creat(path="foo"),),
        operations=(
            op.Write(path="foo", length=4096),
            op.Fsync(path="foo"),
            op.Rename(path="foo", new="bar", how="noreplace"),
        ),
    )
    assert plan.id == "39083d57823f7b1e"


def test_what_is_left_out_has_its_default() -> None:
    plan = from_json(with_operation(op="write", path="foo", length=1))
    assert plan.operations == (op.Sync(), op.Write(path="foo", offset=0, length=1, how="write"))
    assert plan.setup == ()


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"op": "explode", "path": "foo"}, "Invalid value 'explode' - at `$.operations[1].op`"),
        ({"path": "foo"}, "missing required field `op` - at `$.operations[1]`"),
        ({"op": "creat"}, "missing required field `path`"),
        ({"op": "creat", "path": "foo", "mode": 1}, "unknown field `mode` - at `$.operations[1]`"),
        ({"op": "creat", "path": ""}, "length >= 1 - at `$.operations[1].path`"),
        ({"op": "creat", "path": 7}, "Expected `str`, got `int`"),
        ({"op": "write", "path": "foo", "length": 1, "offset": -1}, ">= 0 - at `$.operations[1].offset`"),
        ({"op": "write", "path": "foo", "length": 0}, ">= 1 - at `$.operations[1].length`"),
        ({"op": "write", "path": "foo", "length": (16 << 20) + 1}, "<= 16777216"),
        ({"op": "write", "path": "foo", "length": 1, "how": "by hand"}, "Invalid enum value 'by hand'"),
        ({"op": "write", "path": "foo", "length": 1, "fill": "ab"}, "at `$.operations[1].fill`"),
        ({"op": "truncate", "path": "foo", "size": (1 << 40) + 1}, "`$.operations[1].size`"),
        ({"op": "msync", "path": "foo", "length": 1, "offset": 100}, "multiple of 4096"),
        ({"op": "creat", "path": "/etc/passwd"}, "operation 1 (creat /etc/passwd) leaves the volume"),
        ({"op": "creat", "path": "../foo"}, "operation 1 (creat ../foo) leaves the volume"),
        ({"op": "mkdir", "path": "A/../../foo"}, "leaves the volume"),
        ({"op": "rename", "path": "foo", "new": "A/.."}, "leaves the volume"),
        ({"op": "tmpfile", "new": "/tmp/foo"}, "leaves the volume"),
        ({"op": "creat", "path": "foo\0"}, "leaves the volume"),
        ({"op": "creat", "path": "A//foo"}, "the path 'A//foo' is not plain"),
        ({"op": "creat", "path": "./foo"}, "is not plain"),
        ({"op": "mkdir", "path": "A/"}, "is not plain"),
    ],
)
def test_a_bad_operation_is_refused_and_named(fields: dict[str, Any], cause: str) -> None:
    with pytest.raises(Misuse) as caught:
        from_json(with_operation(**fields))
    assert cause in caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "truncated"),
        ('{"kind": "crash-harness plan", "operations": [', "truncated"),
        (b"\xff\xfe", "malformed"),
        ("schema: 1", "malformed"),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ('{"operations": []}', f'"kind": "{KIND}"'),
        (json.dumps({"kind": KIND}), "missing required field `operations`"),
        (json.dumps({"kind": KIND, "operations": [], "notes": ""}), "unknown field `notes`"),
        (json.dumps({"kind": KIND, "operations": [], "schema": "1"}), "`$.schema`"),
        (json.dumps({"kind": KIND, "operations": ["sync"]}), "`$.operations[0]`"),
    ],
)
def test_what_is_no_plan_is_refused(text: str | bytes, cause: str) -> None:
    with pytest.raises(Misuse) as caught:
        from_json(text)
    assert cause in caught.value.cause
    assert caught.value.remedy


def test_a_plan_of_a_newer_harness_is_refused_for_that_reason() -> None:
    # Whatever else it holds, which this harness cannot know.
    text = json.dumps({"kind": KIND, "schema": SCHEMA + 1, "operations": [{"op": "reflink"}], "more": {}})
    with pytest.raises(Misuse, match=f"schema {SCHEMA + 1}; this harness reads up to {SCHEMA}") as caught:
        from_json(text)
    assert "upgrade" in caught.value.remedy


PAGE = (Path(__file__).parent.parent / "docs/writing-a-plan.md").read_text(encoding="utf-8")


def test_the_page_lists_every_operation_with_its_fields() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.MULTILINE))
    fields = {
        str(kind.__struct_config__.tag): [field.name for field in msgspec.structs.fields(kind)]
        for kind in Operation.__args__
    }
    assert {name: re.findall(r"`(\w+)`", cell) for name, cell in told.items()} == fields


def test_the_plans_on_the_page_are_plans() -> None:
    texts = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert texts and all(from_json(text).operations for text in texts)
