"""What a file system owes a program that made persistence calls: rules, each with its source, and named contracts.

`posix` is the least that is portable. `linux` is what ext4, xfs and btrfs document and xfstests enforce.
"""

from typing import NamedTuple

from harness.errors import Misuse


class Rule(NamedTuple):
    """One thing that is owed. `name` stands in findings: [rule fsync-data]."""

    name: str
    says: str
    source: str


_RULES = (
    Rule(
        "fsync-data",
        "After fsync, fdatasync, msync or a synchronous write the data, and the size needed to read them, are there.",
        "fsync(2), fdatasync(2), msync(2), open(2) O_SYNC and O_DSYNC; xfstests generic/090, 101, 177, 311, 325, 468",
    ),
    Rule(
        "fsync-attributes",
        "After fsync the mode, the extended attributes and the times that were set are there; not after fdatasync.",
        "fsync(2): 'as well as the metadata information associated with the file'; xfstests generic/066, 527",
    ),
    Rule(
        "fsync-directory",
        "After fsync of a directory its entries are those of that moment, or later ones.",
        "fsync(2): the entry in the directory needs 'an explicit fsync() on a file descriptor for the directory'; "
        "xfstests generic/321, 335, 341, 510, 547",
    ),
    Rule(
        "fsync-names",
        "After fsync of a file it is found under all of its names and no former one; the directories above exist.",
        "ext4, xfs and btrfs log an inode with its names; xfstests generic/039, 104, 106, 107, 322, 336, 342, 343, "
        "376, 498, 509, 588",
    ),
    Rule("sync-everything", "After sync or syncfs everything done before is there.", "sync(2), NOTES: Linux waits"),
    Rule(
        "atomic-names",
        "A file has the names that it had at some moment: never in two places after one rename, never nowhere.",
        "rename(2): 'there will be no point at which another process … will find it missing'; generic/322, 341",
    ),
    Rule(
        "old-or-new",
        "Each sector that was not persisted is old, new or a hole; never another file's, never stale or torn.",
        "docs/crash-model.md; ext4(5) data=ordered; xfs(5); a sector is written whole by every block device",
    ),
    Rule(
        "possible-size",
        "A file's size is one that it had, or on the way to one a block boundary or the end of a range worked on.",
        "i_disksize of ext4 and the on-disk size of xfs follow the blocks that were written",
    ),
    Rule(
        "possible-name",
        "A name is bound to what it was bound to at some moment; no name that no operation made.",
        "link(2), rename(2), unlink(2): a directory entry changes in one transaction",
    ),
    Rule("reachable", "A name that readdir shows leads somewhere.", "readdir(3), lstat(2)"),
    Rule(
        "link-count",
        "st_nlink is the number of names; of a directory, where the file system counts so, 2 and its subdirectories.",
        "inode(7); xfstests generic/039, 040, 041",
    ),
    Rule("symlink-whole", "A symbolic link that is there has its target.", "symlink(2); xfstests generic/348"),
    Rule(
        "usable",
        "After recovery the volume works: entries can be made, written, renamed and removed, directories emptied.",
        "xfstests generic/059, 341, 498: 'rmdir fails with ENOTEMPTY after log replay'",
    ),
)

RULES = {rule.name: rule for rule in _RULES}


class Contract(NamedTuple):
    """What persistence calls give, beside what they give under any contract. The rules of impossibility always hold."""

    name: str
    says: str
    fsync_names: bool
    sync_waits: bool
    atomic_names: bool

    @property
    def rules(self) -> list[Rule]:
        left_out = {
            name
            for name, held in (
                ("fsync-names", self.fsync_names),
                ("sync-everything", self.sync_waits),
                ("atomic-names", self.atomic_names),
            )
            if not held
        }
        return [rule for rule in _RULES if rule.name not in left_out]


CONTRACTS = {
    contract.name: contract
    for contract in (
        Contract("posix", "the least: names only by fsync of their directory, nothing by sync", False, False, False),
        Contract("linux", "what ext4, xfs and btrfs document and xfstests enforce", True, True, True),
    )
}


def contract_named(name: str) -> Contract:
    """Raises Misuse that lists the known ones."""
    try:
        return CONTRACTS[name]
    except KeyError:
        raise Misuse(f"unknown contract {name!r}", "choose one of " + ", ".join(CONTRACTS)) from None
