"""Findings to put into a store, and a process that puts them there one by one."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import msgspec

from harness.campaign.records import BugSignature, RunInfo, Sighting, Trial
from harness.verdict import FindingKind, Verdict

INFO = RunInfo(kind="check", command="harness check --workload 'a b'", seed=7)
BUG = BugSignature(file_system="ext4", rule="LOST_ACKED fsync-names", shape="creat fsync", lost="journal")


def bug(name: str) -> BugSignature:
    return msgspec.structs.replace(BUG, shape=name)


def trial(key: str = "t", verdict: Verdict = Verdict.CORRUPTED, **changes: Any) -> Trial:
    fields: dict[str, Any] = {
        "text": f"trial {key}",
        "guarantee": "ext4 keeps what it owes any plan",
        "file_system": "ext4",
        "verdict": verdict,
        "judged": 10,
        "recoveries": 2,
        "complete": True,
        "seconds": 0.5,
    }
    return Trial(key=key, **(fields | changes))


def sighting(signature: BugSignature = BUG, **changes: Any) -> Sighting:
    fields: dict[str, Any] = {"kind": FindingKind.LOST_ACKED, "verdict": Verdict.CORRUPTED, "summary": "it is gone"}
    return Sighting(signature=signature, **(fields | changes))


# Says the run's number, then for each line that it reads (until `end`) commits one finding and says its name, and how
# long the write-ahead log is by then. With a number instead of `turns` it reads nothing and commits so many.
_WRITER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import store_support as support
from harness.campaign.store import NAME, Store
folder, name, count = sys.argv[2:]
store = Store.open(folder)
run = store.begin(support.INFO)
print(run, flush=True)
log = os.path.join(folder, NAME + "-wal")
turns = sys.stdin if count == "turns" else range(int(count))
for number, line in enumerate(turns):
    if line == "end\\n":
        break
    finding = f"{name}{number}"
    store.add(run, [support.whole(finding)])
    size = os.path.getsize(log) if os.path.exists(log) else 0
    print(finding, size, flush=True)
"""


def whole(name: str) -> tuple[Trial, list[Sighting]]:
    """A trial with a finding and a bundle, all of one name."""
    return trial(name), [sighting(bug(name), summary=name, bundle=f"{name}.crash", size=100)]


class Writer:
    """Such a process, in a `with`; its run has begun when it is made. `count`: how many it commits by itself."""

    def __init__(self, folder: Path | str, name: str, count: str | int = "turns") -> None:
        here = str(Path(__file__).parent)
        argv = [sys.executable, "-c", _WRITER, here, str(folder), name, str(count)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.hear().strip().isdigit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.__exit__(None, None, None)

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def turn(self) -> tuple[str, int]:
        """One finding is committed: its name, and the size of the log then."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        name, size = self.hear().split()
        return name, int(size)

    def finish(self) -> list[str]:
        """The rest of the lines that it says, up to its end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # one that counts reads nothing, and may be gone
            self.process.stdin.write("end\n")
            self.process.stdin.close()
        told = self._rest()
        assert self.process.wait() == 0
        return told

    def kill(self) -> list[str]:
        """SIGKILL it. What it had said that was not heard yet."""
        self.process.kill()
        return self._rest()

    def _rest(self) -> list[str]:
        # Not by communicate(): it passes by what hear() has read ahead.
        assert self.process.stdout is not None
        return self.process.stdout.readlines()


def lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]
