"""Where a soak's work comes from: file systems and what is mounted on them, each with what must hold there."""

from collections.abc import Sequence

import msgspec

from harness.campaign.drawing import drawn_by
from harness.campaign.shards import Shard
from harness.campaign.signatures import file_system_of
from harness.errors import Misuse
from harness.machine import kernel, process
from harness.machine.filesystems import lookup
from harness.settings import Settings

CANARY_PLANS = 60
"""A canary's shard ends with the first plan that shows the planted bug; most need one or two. Every third plan or so
fsyncs what it wrote, so sixty without one would come once in 10^10 shards."""


CANARY = "canary: "
"""How the guarantee of a canary begins."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Plans that are drawn for one kind of volume, or a run of pytest on some paths."""

    name: str
    settings: Settings = Settings()
    plans: int = 10
    """A shard: some five seconds of one core."""
    states: int = 550
    """About how many states a shard comes to; only the budget asks, before anything is judged."""
    operations: tuple[int, int] = (1, 8)
    canary: bool = False
    pytest: tuple[str, ...] = ()

    @property
    def guarantee(self) -> str:
        """In words, as the store and the reports have it."""
        if self.canary:
            return f"{CANARY}{file_system_of(self.settings)} loses what it promised"
        return f"{self.name} keeps what it owes any plan" if not self.pytest else f"scenarios {self.name}"

    def shard(self, seed: int) -> Shard:
        """The shard that the seed names."""
        return Shard(
            source=self.name,
            guarantee=self.guarantee,
            seed=seed,
            plans=0 if self.pytest else self.plans,
            operations=self.operations,
            settings=self.settings,
            drawn_by="" if self.pytest else drawn_by(),
            canary=self.canary,
            pytest=self.pytest,
        )


BUILT_IN = (
    Source(name="ext4", settings=Settings(fs="ext4", max_states=80), plans=10, states=550),
    Source(
        name="ext4 data=journal",
        settings=Settings(fs="ext4", mount_options="data=journal", max_states=80),
        plans=10,
        states=550,
    ),
    Source(name="xfs", settings=Settings(fs="xfs", max_states=40), plans=5, states=170),
    Source(name="btrfs", settings=Settings(fs="btrfs", max_states=40), plans=5, states=170),
    Source(
        name="ext4 depth 2",
        settings=Settings(fs="ext4", depth=2, max_states=40),
        plans=3,
        states=100,
        operations=(1, 4),
    ),
)
"""Only what must be intact: each of these file systems keeps the contract under these models (docs/contracts.md)."""

CANARIES = (
    Source(
        name="canary nobarrier",
        settings=Settings(fs="ext4", mount_options="nobarrier", max_states=80, fsck=False),
        plans=CANARY_PLANS,
        canary=True,
    ),
    Source(
        name="canary lying-flush",
        settings=Settings(fs="ext4", fault="lying-flush", max_states=80, fsck=False),
        plans=CANARY_PLANS,
        canary=True,
    ),
)
"""Each has a bug planted in it that the whole chain, from drawing plans to the oracle, must find."""


def available(fs: Sequence[str] = ()) -> tuple[list[Source], list[str]]:
    """The built-in sources that can run here, and why the others cannot. `fs`: only those on these file systems.

    Raises Misuse where a file system that was named has no source, RequirementMissing never.
    """
    for name in fs:
        if name not in {source.settings.fs for source in BUILT_IN}:
            lookup(name)
            raise Misuse(f"no plans are kept ready for {name}", "name its settings too: --fs ext3 --max-states 80")
    wanted = [source for source in BUILT_IN if not fs or source.settings.fs in fs]
    lacking = {source.name: _lacking(source.settings.fs) for source in wanted}
    notes = sorted({f"nothing is judged on {name}: {why}" for name, why in lacking.items() if why})
    return [source for source in wanted if not lacking[source.name]], notes


def own(settings: Settings) -> Source:
    """A source of volumes with exactly these settings, as a user asked for them."""
    deep = settings.depth > 1
    words = [file_system_of(settings)]
    words += [f"model {settings.model}"] if settings.model not in ("subset", "torn") else []
    words += ["depth 2"] if deep else []
    most = (1, 4) if deep else (1, 8)
    return Source(name=" ".join(words), settings=settings, plans=3 if deep else 10, states=500, operations=most)


def scenarios(paths: Sequence[str]) -> list[Source]:
    """A source for each path that pytest can take."""
    return [Source(name=path, pytest=(path,), plans=0, states=1000) for path in paths]


def _lacking(name: str) -> str:
    fs = lookup(name)
    if not kernel.has_file_system(fs.fs_type):
        return f"this kernel has no {fs.fs_type}"
    return "" if process.find(fs.mkfs_program) else f"{fs.mkfs_program} is not installed"
