"""Planted mutants of what PlanCheck judges: recovered trees that a broken file system would leave, wrong expectations.

A small plan is run on a real ext4, and the tree is altered by hand. PlanCheck must name each with its kind and rule,
and leave the same tree alone when nothing was altered. A checker that always says yes, or always no, must fail for all.
"""

import contextlib
import fcntl
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest
from test_contract_model import page_rows

from harness.blocklog import Promise
from harness.blocklog.format import JSON
from harness.machine.image import Image
from harness.machine.process import run
from harness.oracle.checks import Checker, RecoveredState
from harness.oracle.contracts import CONTRACTS, RULES
from harness.oracle.plan_check import PlanCheck
from harness.plan import operations as op
from harness.plan.interpreter import run_plan
from harness.plan.operations import Operation
from harness.plan.payload import payload
from harness.plan.plan import Outcome, Plan
from harness.settings import Settings
from harness.verdict import Finding, FindingKind, Verdict
from harness.volume import VolumeSpec, make_base, mounted_plain

pytestmark = pytest.mark.root

SPEC = VolumeSpec.of(Settings(fs="ext4", size=16 << 20))
Spoil = Callable[[str], object]
CheckerMaker = Callable[[Plan, Sequence[Outcome], str], Checker]

FS_IOC_SETFLAGS = 0x40086602
FS_IMMUTABLE = struct.pack("l", 0x10)


class Mutant(NamedTuple):
    """A plan, what is done to its tree, and what PlanCheck must say of it.

    `spoil` is given the root of the mounted tree, or runs debugfs on the image where it is a string. With `told` the
    tree is right and the expectation is wrong: the check is told that these operations were run.
    """

    name: str
    rule: str
    kind: str
    operations: tuple[Operation, ...]
    spoil: Spoil | str = ""
    setup: tuple[Operation, ...] = ()
    told: tuple[Operation, ...] = ()

    @property
    def plan(self) -> Plan:
        return Plan(setup=self.setup, operations=self.operations)

    @property
    def told_plan(self) -> Plan:
        return Plan(setup=self.setup, operations=self.told or self.operations)


def gone(*paths: str) -> Spoil:
    def spoil(root: str) -> None:
        for path in paths:
            os.unlink(f"{root}/{path}")

    return spoil


def again(old: str, new: str) -> Spoil:
    """Another name for a file."""
    return lambda root: os.link(f"{root}/{old}", f"{root}/{new}")


def moved(old: str, new: str) -> Spoil:
    return lambda root: os.rename(f"{root}/{old}", f"{root}/{new}")


def resized(path: str, size: int) -> Spoil:
    return lambda root: os.truncate(f"{root}/{path}", size)


def overwritten(path: str, offset: int, data: bytes) -> Spoil:
    def spoil(root: str) -> None:
        with open(f"{root}/{path}", "r+b") as file:
            file.seek(offset)
            file.write(data)

    return spoil


def version(path: str, number: int, offset: int, length: int, at: int | None = None) -> Spoil:
    """Put what operation `number` wrote, or would have, into the file at `at` (or where it belongs)."""

    def spoil(root: str) -> None:
        data = payload(os.stat(f"{root}/{path}").st_ino, number, offset, length)
        overwritten(path, offset if at is None else at, data)(root)

    return spoil


def of_another(path: str, other: str) -> Spoil:
    """Put a sector of another file in."""

    def spoil(root: str) -> None:
        with open(f"{root}/{other}", "rb") as file:
            overwritten(path, 512, file.read(1024)[512:])(root)

    return spoil


def replaced_by_link_to(path: str, other: str) -> Spoil:
    def spoil(root: str) -> None:
        os.unlink(f"{root}/{path}")
        os.link(f"{root}/{other}", f"{root}/{path}")

    return spoil


def retargeted(path: str) -> Spoil:
    """Another symbolic link in the place and with the number of the first."""

    def spoil(root: str) -> None:
        before = os.lstat(f"{root}/{path}").st_ino
        os.unlink(f"{root}/{path}")
        os.symlink("elsewhere", f"{root}/{path}")
        assert os.lstat(f"{root}/{path}").st_ino == before

    return spoil


def mode(path: str, bits: int) -> Spoil:
    return lambda root: os.chmod(f"{root}/{path}", bits)


def attribute(path: str, value: bytes) -> Spoil:
    return lambda root: os.setxattr(f"{root}/{path}", "user.attr", value)


def new_file(path: str) -> Spoil:
    return lambda root: os.mknod(f"{root}/{path}")


def immutable(path: str) -> Spoil:
    """chattr +i, which only the throw-away copy of the image keeps."""

    def spoil(root: str) -> None:
        fd = os.open(f"{root}/{path}", os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, FS_IMMUTABLE)
        finally:
            os.close(fd)

    return spoil


FOO, FSYNC, ROOT = op.Creat(path="foo"), op.Fsync(path="foo"), op.Fsync(path=".")
WRITE = op.Write(path="foo", length=8192)
OVERWRITE = op.Write(path="foo", length=4096)
DATA = (FOO, WRITE, FSYNC)
IN_A = (op.Mkdir(path="A"), op.Creat(path="A/foo"))
RENAME = op.Rename(path="foo", new="bar")
LINK, UNLINK = op.Link(path="foo", new="bar"), op.Unlink(path="bar")
SET, UNSET = op.SetXattr(path="foo"), op.RemoveXattr(path="foo")
ZERO = overwritten("foo", 1024, bytes(512))

MUTANTS = (
    Mutant("a name of the setup lost", "setup-synced", "LOST_ACKED", (FOO,), gone("A/foo"), IN_A),
    Mutant("data of the setup zeroed", "setup-synced", "ZEROED", (LINK,), ZERO, (FOO, WRITE)),
    Mutant("a name lost after syncfs", "sync-everything", "LOST_ACKED", (*IN_A, op.Syncfs()), gone("A/foo")),
    Mutant("a name lost after sync", "sync-everything", "LOST_ACKED", (*IN_A, op.Sync()), gone("A/foo")),
    Mutant("data zeroed after syncfs", "sync-everything", "ZEROED", (FOO, WRITE, op.Syncfs()), ZERO),
    Mutant("mode lost by syncfs", "sync-everything", "STALE", (FOO, op.Chmod(path="foo", mode=0o600), op.Syncfs()),
           mode("foo", 0o644)),
    Mutant("a sector zeroed", "fsync-data", "ZEROED", DATA, ZERO),
    Mutant("older content back", "fsync-data", "STALE", (*DATA, OVERWRITE, FSYNC), version("foo", 1, 512, 512)),
    Mutant("truncated", "fsync-data", "TRUNCATED", DATA, resized("foo", 4096)),
    Mutant("emptied", "fsync-data", "LOST_ACKED", DATA, resized("foo", 0)),
    Mutant("an older size back", "fsync-data", "STALE", (FOO, WRITE, op.Truncate(path="foo", size=100), FSYNC),
           resized("foo", 8192)),
    Mutant("zeroed after fdatasync", "fsync-data", "ZEROED", (FOO, WRITE, op.Fdatasync(path="foo")), ZERO),
    Mutant("zeroed after msync", "fsync-data", "ZEROED",
           (FOO, op.Write(path="foo", length=8192, how="mmap"), op.Msync(path="foo", length=8192)), ZERO),
    Mutant("zeroed after O_DSYNC", "fsync-data", "ZEROED", (FOO, op.Write(path="foo", length=8192, how="dsync")), ZERO),
    Mutant("emptied after O_SYNC", "fsync-data", "LOST_ACKED", (FOO, op.Write(path="foo", length=8192, how="sync")),
           resized("foo", 0)),
    Mutant("old mode", "fsync-attributes", "STALE", (FOO, op.Chmod(path="foo", mode=0o600), FSYNC), mode("foo", 0o644)),
    Mutant("extended attribute lost", "fsync-attributes", "LOST_ACKED", (FOO, SET, FSYNC),
           lambda root: os.removexattr(f"{root}/foo", "user.attr")),
    Mutant("extended attribute back", "fsync-attributes", "STALE", (FOO, SET, FSYNC, UNSET, FSYNC),
           attribute("foo", b"value")),
    Mutant("old time", "fsync-attributes", "STALE", (FOO, op.Utimens(path="foo", seconds=5), FSYNC),
           lambda root: os.utime(f"{root}/foo", (4, 4))),
    Mutant("a name lost after fsync of its directory", "fsync-directory", "LOST_ACKED", (*IN_A, op.Fsync(path="A")),
           gone("A/foo")),
    Mutant("a removed name back", "fsync-directory", "STALE", (FOO, LINK, UNLINK, ROOT), again("foo", "bar")),
    Mutant("a renamed file back", "fsync-directory", "LOST_ACKED", (FOO, RENAME, ROOT), moved("bar", "foo")),
    Mutant("a name lost after fsync of the file", "fsync-names", "LOST_ACKED", (*IN_A, op.Fsync(path="A/foo")),
           gone("A/foo")),
    Mutant("one of two names lost", "fsync-names", "LOST_ACKED", (FOO, LINK, FSYNC), gone("bar")),
    Mutant("the old name after fsync", "fsync-names", "LOST_ACKED", (FOO, RENAME, op.Fsync(path="bar")),
           moved("bar", "foo")),
    Mutant("an unlinked name back", "fsync-names", "STALE", (FOO, LINK, FSYNC, UNLINK, FSYNC), again("foo", "bar")),
    Mutant("the directory above lost", "fsync-names", "LOST_ACKED", (*IN_A, op.Fsync(path="A/foo")),
           lambda root: shutil.rmtree(f"{root}/A")),
    Mutant("in two places after one rename", "atomic-names", "META", (RENAME,), again("bar", "foo"), (FOO,)),
    Mutant("nowhere after one rename", "atomic-names", "LOST_ACKED", (RENAME,), gone("bar"), (FOO,)),
    Mutant("a foreign name", "possible-name", "FOREIGN", DATA, new_file("stranger")),
    Mutant("a name of another file", "possible-name", "FOREIGN", (FOO, op.Creat(path="bar")),
           replaced_by_link_to("foo", "bar")),
    Mutant("a sector of another file", "old-or-new", "FOREIGN", (FOO, WRITE, op.Tmpfile(new="bar", length=8192)),
           of_another("foo", "bar")),
    Mutant("a torn sector", "old-or-new", "TORN", (OVERWRITE,), version("foo", 1, 512, 256), (FOO, WRITE)),
    Mutant("a sector from elsewhere in the file", "old-or-new", "FOREIGN", DATA, version("foo", 1, 4096, 512, at=512)),
    Mutant("garbage", "old-or-new", "FOREIGN", (FOO, WRITE), overwritten("foo", 512, b"\xa5" * 512)),
    Mutant("a size on the way to nowhere", "possible-size", "TRUNCATED", (FOO, WRITE), resized("foo", 1234)),
    Mutant("extended", "possible-size", "META", DATA, resized("foo", 8193)),
    Mutant("extended by stale bytes", "possible-size", "FOREIGN", DATA, overwritten("foo", 8192, b"\xa5" * 512)),
    Mutant("a mode that it never had", "possible-attributes", "META", (FOO,), mode("foo", 0o4755)),
    Mutant("an attribute that it never had", "possible-attributes", "META", (FOO, SET), attribute("foo", b"other")),
    Mutant("a name that points nowhere", "reachable", "META", DATA, "clri foo"),
    Mutant("too many links", "link-count", "META", DATA, "set_inode_field foo links_count 3"),
    Mutant("a directory's links", "link-count", "META", IN_A, "set_inode_field A links_count 5"),
    Mutant("another target", "symlink-whole", "FOREIGN", (op.Symlink(target="foo", new="bar"),), retargeted("bar")),
    Mutant("a directory that takes no file", "usable", "META", IN_A, immutable("A")),
    Mutant("a directory that cannot be emptied", "usable", "META", IN_A, immutable("A/foo")),
    Mutant("expects other data", "old-or-new", "FOREIGN", (FOO, op.Write(path="foo", length=9, fill="x"), FSYNC),
           told=(FOO, op.Write(path="foo", length=9, fill="y"), FSYNC)),
    Mutant("expects another mode", "possible-attributes", "META", (FOO, op.Chmod(path="foo", mode=0o640), FSYNC),
           told=(FOO, op.Chmod(path="foo", mode=0o600), FSYNC)),
    Mutant("expects another name", "fsync-directory", "LOST_ACKED", (FOO, ROOT), told=(op.Creat(path="bar"), ROOT)),
)  # fmt: skip


class Scene(NamedTuple):
    """A plan that was run: what it answered, and the volume as it is and as it was spoilt."""

    outcomes: Sequence[Outcome]
    made: Sequence[Promise]
    clean: Image
    spoilt: Image


class Stage:
    """Sets each scene once; what a checker answered is remembered."""

    def __init__(self, base: Image, stack: contextlib.ExitStack) -> None:
        self._base = base
        self._stack = stack
        self._scenes: dict[str, Scene] = {}
        self._answers: dict[tuple[CheckerMaker, str, str], tuple[list[Finding], list[Finding]]] = {}

    def answers(self, make: CheckerMaker, mutant: Mutant, contract: str) -> tuple[list[Finding], list[Finding]]:
        """What a checker says of the tree as it is, and as it was spoilt."""
        key = make, mutant.name, contract
        if key not in self._answers:
            scene = self._scenes.get(mutant.name) or self._set(mutant)
            self._answers[key] = (
                _asked(make(mutant.plan, scene.outcomes, contract), scene, scene.clean),
                _asked(make(mutant.told_plan, scene.outcomes, contract), scene, scene.spoilt),
            )
        return self._answers[key]

    def _set(self, mutant: Mutant) -> Scene:
        clean = self._stack.enter_context(self._base.copy())
        marks: list[bytes] = []
        with mounted_plain(clean, SPEC) as root:
            outcomes = run_plan(mutant.plan, root, marks.append)
        assert all(outcome.ok for outcome in outcomes), outcomes
        promised = [mark.removeprefix(JSON) for mark in marks if mark.startswith(JSON)]
        spoilt = self._stack.enter_context(clean.copy())
        if isinstance(mutant.spoil, str):
            if mutant.spoil:
                run(["debugfs", "-w", "-R", mutant.spoil, spoilt.path])
        else:
            with mounted_plain(spoilt, SPEC) as root:
                mutant.spoil(root)
        made = [Promise(at, text, True) for at, text in enumerate(promised)]
        scene = self._scenes[mutant.name] = Scene(outcomes, made, clean, spoilt)
        return scene


def _asked(checker: Checker, scene: Scene, volume: Image) -> list[Finding]:
    with volume.copy() as image, mounted_plain(image, SPEC) as root:
        return checker(RecoveredState(root, scene.made))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        yield Stage(stack.enter_context(make_base(SPEC)), stack)


def noticed(make: CheckerMaker, stage: Stage, contract: str = "linux") -> set[str]:
    """The mutants that a checker names rightly, while it leaves the unaltered tree alone: the suite's judgement."""
    return {mutant.name for mutant in MUTANTS if _notices(*stage.answers(make, mutant, contract), mutant)}


def _notices(clean: list[Finding], spoilt: list[Finding], mutant: Mutant) -> bool:
    return not clean and any(
        finding.verdict is Verdict.CORRUPTED
        and finding.kind == mutant.kind
        and finding.summary.startswith(f"{mutant.kind} ")
        and finding.summary.endswith(f" [rule {mutant.rule}]")
        for finding in spoilt
    )


def plan_check(plan: Plan, outcomes: Sequence[Outcome], contract: str) -> Checker:
    return PlanCheck(plan, outcomes, contract)


def always_yes(_: Plan, __: Sequence[Outcome], ___: str) -> Checker:
    return lambda _: []


def always_no(_: Plan, __: Sequence[Outcome], ___: str) -> Checker:
    """Says everything that any mutant may be called."""
    words = {(FindingKind(mutant.kind), mutant.rule) for mutant in MUTANTS}
    return lambda _: [Finding(kind=kind, summary=f"{kind} .: no [rule {rule}]") for kind, rule in words]


ALL = {mutant.name for mutant in MUTANTS}
HELD_BY_POSIX = {rule.name for rule in CONTRACTS["posix"].rules}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_named_and_the_tree_unaltered_is_left_alone(stage: Stage, mutant: Mutant) -> None:
    clean, spoilt = stage.answers(plan_check, mutant, "linux")
    assert not clean
    assert _notices(clean, spoilt, mutant), [(finding.summary, finding.output) for finding in spoilt]


def test_every_mutant_is_noticed(stage: Stage) -> None:
    assert len(ALL) == len(MUTANTS) >= 14
    assert noticed(plan_check, stage) == ALL


@pytest.mark.parametrize("make", [always_yes, always_no])
def test_a_checker_that_does_not_look_fails_for_every_mutant(stage: Stage, make: CheckerMaker) -> None:
    assert noticed(make, stage) == set()


def test_every_rule_has_a_mutant() -> None:
    assert {mutant.rule for mutant in MUTANTS} == set(RULES)


def test_the_page_names_the_kind_of_each_mutant() -> None:
    kinds = {rule: kinds.split(", ") for rule, (_, _, kinds, _) in page_rows().items()}
    assert [mutant.name for mutant in MUTANTS if mutant.kind not in kinds[mutant.rule]] == []


def test_posix_notices_what_it_holds_and_leaves_alone_what_only_linux_convicts(stage: Stage) -> None:
    allowed = [mutant for mutant in MUTANTS if mutant.rule not in HELD_BY_POSIX]
    assert {mutant.rule for mutant in allowed} == {"fsync-names", "atomic-names", "sync-everything"}
    assert noticed(plan_check, stage, "posix") == ALL - {mutant.name for mutant in allowed}
    for mutant in allowed:
        assert stage.answers(plan_check, mutant, "posix") == ([], []), mutant.name
