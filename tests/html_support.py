"""Findings as the page gets them, written by hand: the replace-by-rename bug with all its parts, and a long one."""

import random
from collections.abc import Callable, Sequence

from msgspec.structs import replace
from playwright.sync_api import Page

from harness.advice.advised import Advice, Change, Tried
from harness.explain.explained import Entry, Explained, Side, Step
from harness.layout.kinds import BlockKind, Named
from harness.reporting.html.page import RunPage
from harness.verdict import ExitCode, FindingKind, Verdict

KIB4 = 4096
DESKTOP, PHONE = (1280, 800), (390, 844)

Open = Callable[..., Page]
"""The fixture `opened` of html_browser."""

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
NASTY = HOSTILE + "\x1b[31m\x00\u202eevil\u2066 \udcff\udcfe שלום"

SAID = "TRUNCATED config: version 2 was promised with 6,000 bytes, 0 are there"

_Piece = tuple[BlockKind, str, str]

FSYNC_MISSING = Change(action="fsync", target="config.new", place="before rename of config.new -> config", times=1)


def replace_by_rename(**other: object) -> Explained:
    """A program replaces /config by a new file, and does not fsync it before the rename: the file is empty after."""
    entries = _rename_log()
    lost = tuple(entry.event for entry in entries if entry.lost)
    known = Explained(
        file_system="ext4",
        volume="ext4 of 64 MiB, -o noauto_da_alloc",
        model="subset",
        kind=FindingKind.TRUNCATED,
        verdict=Verdict.CORRUPTED,
        summary=SAID,
        output=f"checking /config\nversion 2 was promised: 6,000 bytes\n{SAID}\n",
        kernel=("EXT4-fs (zram1): recovery complete", "EXT4-fs (zram1): mounted filesystem r/w with ordered data mode"),
        state="8c1f0b7a3d5e4f60",
        begin=4,
        cut=27,
        epoch=3,
        epochs=5,
        entries=entries,
        steps=_rename_steps(),
        lost=lost,
        promises_made=2,
        promises_total=2,
        broken="“config holds version 2”, made after rename(config.new, config) and fsync of its directory",
        headline="config is empty: the rename reached the disk, and the data of config.new (2 writes) did not.",
        story=(
            "The program wrote version 1 of config, fsynced it and its directory. That was durable after event 9.",
            "It then wrote version 2 to config.new: 6,000 bytes, which stayed in memory. Nothing fsynced config.new.",
            "rename(config.new, config) and the fsync of the directory put the new name into the journal. The commit "
            "of transaction 7 was durable after event 22, and the program promised version 2.",
            "The power went before event 27. The data blocks of config.new (events 25 and 26) were in the device's "
            "cache and were lost. The journal says that config is the new file; its inode had no blocks yet.",
        ),
        sides=_rename_sides(),
        advice=advised(),
        bundle="reports/ext4-truncated-8c1f0b7a3d.crash",
        replay="harness replay reports/ext4-truncated-8c1f0b7a3d.crash",
        notes=("recorded with delayed allocation",),
        harness="0.5.0",
        kernel_version="6.18.5",
        tools={"mkfs.ext4": "mke2fs 1.47.0", "fsck.ext4": "e2fsck 1.47.0"},
        promises=("config holds version 1", "config holds version 2"),
        workload=(
            "creat config",
            "write config 0+6000",
            "fsync config",
            "creat config.new",
            "write config.new 0+6000",
            "rename config.new -> config",
            "fsync .",
        ),
    )
    for name, value in other.items():
        setattr(known, name, value)
    return known


def advised() -> Advice:
    """The textbook answer to it, and an fsync that it does not need."""
    before = Tried(states=212, failing=31, complete=True)
    best = Tried(changes=(FSYNC_MISSING,), states=212, complete=True)
    other = Change(action="fdatasync", target="config.new", place="before rename of config.new -> config")
    needless = Change(action="remove", target="config", place="after rename of config.new -> config")
    return Advice(
        before=before,
        best=best,
        others=(Tried(changes=(other,), states=209, complete=True),),
        superfluous=(Tried(changes=(needless,), states=198, complete=True),),
        searched=14,
        seconds=6.2,
    )


def _write(
    event: int, epoch: int, offset: int, step: int, *pieces: _Piece, lost: bool = False, after_cut: bool = False
) -> Entry:
    named = tuple(
        Named(offset=offset + n * KIB4, length=KIB4, kind=kind, text=text, path=path)
        for n, (kind, text, path) in enumerate(pieces)
    )
    return Entry(
        event=event,
        what="write",
        epoch=epoch,
        offset=offset,
        length=KIB4 * len(named),
        pieces=named,
        step=step,
        lost=lost,
        after_cut=after_cut,
    )


def _rename_log() -> tuple[Entry, ...]:
    kind = BlockKind
    inodes = (kind.INODE_TABLE, "inode table, inode 12 (/config), 13 (/config.new)", "/config")
    names = (kind.DIRECTORY, "directory block 0 of /", "/")
    maps = (kind.BLOCK_BITMAP, "block bitmap of group 0", "")
    first = (kind.DATA, "data block 0 of /config", "/config")
    second = (kind.DATA, "data block 1 of /config", "/config")
    unused = Named(offset=40 << 20, length=1 << 20, kind=kind.FREE, text="256 unused blocks")
    return (
        Entry(event=4, what="mark", epoch=1, text="begin"),
        _write(5, 1, 35 << 20, 1, first, second),
        _write(6, 1, 9 << 20, 2, *_journal(6)),
        Entry(event=7, what="flush", epoch=1, step=2),
        _write(8, 2, (9 << 20) + 6 * KIB4, 2, (kind.JOURNAL_COMMIT, "journal commit of transaction 6", "")),
        Entry(event=9, what="flush", epoch=2, step=2),
        Entry(event=10, what="promise", epoch=3, text="config holds version 1", step=2),
        _write(11, 3, 1 << 20, 3, (kind.INODE_BITMAP, "inode bitmap of group 0", "")),
        _write(12, 3, 4 << 20, 3, inodes),
        _write(13, 3, 2 << 20, 3, maps),
        _write(14, 3, 33 << 20, 3, names),
        _write(15, 3, 0, 3, (kind.SUPERBLOCK, "superblock", "")),
        _write(16, 3, KIB4, 3, (kind.GROUP_DESCRIPTOR, "group descriptors, groups 0 to 7", "")),
        Entry(event=17, what="discard", epoch=3, offset=40 << 20, length=1 << 20, pieces=(unused,), step=3),
        Entry(event=18, what="mark", epoch=3, text="op 5 rename"),
        _write(19, 3, (9 << 20) + 7 * KIB4, 6, *_journal(7)),
        Entry(event=20, what="flush", epoch=3, step=6),
        _write(21, 3, (9 << 20) + 14 * KIB4, 6, (kind.JOURNAL_COMMIT, "journal commit of transaction 7", "")),
        Entry(event=22, what="flush", epoch=3, step=6),
        Entry(event=24, what="promise", epoch=3, text="config holds version 2", step=6),
        _write(25, 3, 36 << 20, -1, (kind.DATA, "data block 0 of /config.new", "/config.new"), lost=True),
        _write(26, 3, (36 << 20) + KIB4, -1, (kind.DATA, "data block 1 of /config.new", "/config.new"), lost=True),
        _write(27, 3, 4 << 20, -1, inodes, after_cut=True),
        Entry(event=28, what="flush", epoch=3, after_cut=True),
        _write(29, 4, 9 << 20, -1, (kind.JOURNAL_SUPERBLOCK, "journal superblock", ""), after_cut=True),
        Entry(event=30, what="mark", epoch=4, text="end", after_cut=True),
    )  # fmt: skip


def _journal(transaction: int) -> Sequence[_Piece]:
    kind = BlockKind
    return (
        (kind.JOURNAL_DESCRIPTOR, f"journal descriptor of transaction {transaction}", ""),
        (kind.JOURNAL_BLOCK, f"journal copy of directory block 0 of / (transaction {transaction})", "/"),
        (kind.JOURNAL_BLOCK, f"journal copy of the inode table, inode 12 (transaction {transaction})", "/config"),
    )


def _rename_steps() -> tuple[Step, ...]:
    return (
        Step(text="creat(config)", begin=4, end=4, result="ok", durable=9, state="durable"),
        Step(text="write(config, 0, 6000)", begin=4, end=5, result="ok", durable=7, state="durable"),
        Step(text="fsync(config)", begin=5, end=10, result="ok", promise=True, durable=9, state="durable"),
        Step(text="creat(config.new)", begin=11, end=16, result="ok", durable=22, state="durable"),
        Step(text="write(config.new, 0, 6000)", begin=16, end=18, result="ok", state="in the device's cache"),
        Step(text="rename(config.new, config)", begin=18, end=19, result="ok", durable=22, state="durable"),
        Step(text="fsync directory(.)", begin=19, end=24, result="ok", promise=True, durable=22, state="durable"),
    )


def _rename_sides() -> tuple[Side, ...]:
    expected = b"# version 2\nlisten = 0.0.0.0:8443\nworkers = 16\nretry = exponential\n".ljust(128, b"#")
    old = b"\x01\x02" * 40 + b"same tail".ljust(48, b".")
    new = bytearray(old)
    new[21:25] = b"\xde\xad\xbe\xef"
    new[60] ^= 1
    return (
        Side(path="/config", what="shorter", expected_size=6000, found_size=0, first=0, start=0, expected=expected),
        Side(path="/state.db", what="content", expected_size=8192, found_size=8192, first=4117, start=4096,
             expected=old, found=bytes(new)),
        Side(path="/config.old", what="missing", expected_size=5800),
    )  # fmt: skip


def many_writes(number: int = 10_000, seed: int = 5) -> Explained:
    """A generated log with `number` writes of a realistic mixture, flushes and promises, cut near its end."""
    draw = random.Random(seed)
    entries: list[Entry] = []
    steps: list[Step] = []
    epoch, done = 0, 0
    while done < number:
        event, file = len(entries), f"/var/lib/app/segment-{done // 40:05d}.log"
        if event % 23 == 22:
            entries.append(Entry(event=event, what="flush", epoch=epoch, step=len(steps) - 1))
            epoch += 1
            entries.append(
                Entry(event=event + 1, what="promise", epoch=epoch, text=f"record {done}", step=len(steps) - 1)
            )
            steps.append(
                Step(
                    text=f"record {done}", begin=event - 22, end=event + 1, durable=event, promise=True, state="durable"
                )
            )
        else:
            entries.append(_write(event, epoch, draw.randrange(1 << 14) * KIB4, len(steps), *_some(draw, file, done)))
            done += 1
    return _cut(entries, steps, epoch)  # fmt: skip


def _some(draw: random.Random, path: str, number: int) -> list[_Piece]:
    kind = BlockKind
    inode = 12 + number // 40
    return draw.choice(
        [
            [(kind.DATA, f"data blocks {number % 40 * 4} to {number % 40 * 4 + 3} of {path}", path)],
            [(kind.DATA, f"data block {number % 40} of {path}", path)],
            [(kind.INODE_TABLE, f"inode table, inode {inode} ({path})", path)],
            [(kind.BLOCK_BITMAP, f"block bitmap of group {number % 64}", "")],
            [(kind.DIRECTORY, "directory block 3 of /var/lib/app", "/var/lib/app")],
            [
                (kind.JOURNAL_DESCRIPTOR, f"journal descriptor of transaction {number // 9}", ""),
                (kind.JOURNAL_BLOCK, f"journal copy of inode table, inode {inode} (transaction {number // 9})", path),
                (kind.JOURNAL_COMMIT, f"journal commit of transaction {number // 9}", ""),
            ],
        ]
    )


def _cut(entries: list[Entry], steps: list[Step], epoch: int) -> Explained:
    cut = len(entries) * 9 // 10
    at = next(entry.epoch for entry in reversed(entries[:cut]))
    marked = [
        replace(entry, after_cut=True)
        if entry.event >= cut
        else replace(entry, lost=True)
        if entry.epoch == at and entry.what == "write" and entry.event % 3 == 0
        else entry
        for entry in entries
    ]
    explained = replace_by_rename()
    return replace(
        explained, cut=cut, begin=0, epoch=at, epochs=epoch + 1, entries=tuple(marked), steps=tuple(steps),
        lost=tuple(entry.event for entry in marked if entry.lost),
        headline="segment-00224.log is shorter than what was promised: 7 writes of the last epoch were lost.",
    )  # fmt: skip


def page(*findings: Explained, **other: object) -> RunPage:
    """The page of a run that judged all 212 states."""
    content: dict[str, object] = {
        "title": "replace_config on ext4",
        "command": "harness check --workload './replace_config write' --check './replace_config verify'",
        "verdict": Verdict.CORRUPTED if findings else Verdict.INTACT,
        "exit_code": ExitCode.CORRUPTED if findings else ExitCode.INTACT,
        "scope": "all 212 distinct states that the subset model allows",
        "judged": 212,
        "allowed": "212",
        "complete": True,
        "volume": "ext4 of 64 MiB, -o noauto_da_alloc",
        "seconds": 7.4,
        "notes": ("nothing was left out",),
        "findings": findings,
        "harness": "0.5.0",
        "kernel": "Linux 6.18.5",
    }
    return RunPage(**(content | other))  # type: ignore[arg-type]
