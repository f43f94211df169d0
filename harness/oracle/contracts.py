"""What a file system owes a program that made persistence calls: rules, each with its source, and named contracts.

`posix` is the least that is portable. `linux` is what ext4, xfs and btrfs document and fstests enforce. The fstests
named here (kdave/xfstests, tests/generic) are cited for what they say of themselves in their first lines.
"""

from collections.abc import Mapping
from typing import NamedTuple

from harness.errors import Misuse


class Rule(NamedTuple):
    """One thing that is owed. `name` stands in findings: [rule fsync-data]."""

    name: str
    says: str
    source: str


_RULES = (
    Rule(
        "setup-synced",
        "What a plan's setup did is there: the harness syncs it before the first cut, under any contract.",
        "syncfs(2); docs/writing-a-plan.md",
    ),
    Rule(
        "sync-everything",
        "After sync or syncfs everything that was done before is there.",
        "sync(2), NOTES: Linux waits for I/O completions; syncfs(2); generic/049",
    ),
    Rule(
        "fsync-data",
        "After fsync, fdatasync, msync or a synchronous write the data, and the size needed to read them, are there.",
        "fsync(2); fdatasync(2); msync(2), MS_SYNC; open(2), O_SYNC and O_DSYNC; generic/059, 090, 101, 177, 311, 325, "
        "468, 534, 552, 588, 695, 703",
    ),
    Rule(
        "fsync-attributes",
        "After fsync the mode, the extended attributes and the times that were set are there; not after fdatasync.",
        "fsync(2): “as well as the metadata information associated with the file”; generic/066, 489, 535",
    ),
    Rule(
        "fsync-directory",
        "After fsync of a directory its entries are those of that moment, or later ones.",
        "fsync(2): for the entry “an explicit fsync() on a file descriptor for the directory is also needed”; "
        "generic/065, 321, 335, 557, 779",
    ),
    Rule(
        "fsync-names",
        "After fsync of a file or directory it is found under all of its names and no former one, and each directory "
        "above it exists (a later rename of that one need not have lasted).",
        "generic/104, 106, 107, 322, 336, 341, 342, 343, 376, 498, 510, 520, 526, 527",
    ),
    Rule(
        "atomic-names",
        "A file has the names that it had at one moment (on btrfs: one for each directory, a rename between two of "
        "them in both or in neither): never in two places after one rename, never nowhere.",
        "rename(2): newpath is “atomically replaced”; generic/322, 336, 341, 510, 640",
    ),
    Rule(
        "possible-name",
        "A name is bound to what it was bound to at some moment; there is no name that no operation made.",
        "link(2), rename(2), unlink(2): an entry changes in one transaction; generic/526, 527",
    ),
    Rule(
        "old-or-new",
        "Each sector that was not persisted is old, new or a hole; never another file's, never stale or torn.",
        "docs/crash-model.md; ext4(5), data=ordered; generic/042; every block device writes a sector whole",
    ),
    Rule(
        "possible-size",
        "A file's size is one that it had, or on the way to one a block boundary or the end of a range worked on.",
        "i_disksize of ext4 and the on-disk size of xfs follow the blocks that were written (delayed allocation)",
    ),
    Rule(
        "possible-attributes",
        "Mode and extended attributes are such that it had at some moment.",
        "chmod(2), setxattr(2): each call is one transaction; generic/535, 489",
    ),
    Rule(
        "reachable",
        "A name that readdir shows leads somewhere, and what is there can be read.",
        "readdir(3), lstat(2), read(2); generic/039, 040: dangling entries after log replay",
    ),
    Rule(
        "link-count",
        "st_nlink is the number of names; of a directory of ext2, ext3, ext4 and xfs 2 and its subdirectories.",
        "inode(7), st_nlink; generic/040, 041, 065",
    ),
    Rule("symlink-whole", "A symbolic link that is there has its target.", "symlink(2); generic/348, 690"),
    Rule(
        "usable",
        "After recovery the volume works: entries can be made, written, renamed and removed, and all that is there can "
        "be deleted.",
        "generic/039, 104, 106, 107: rmdir after log replay; generic/040; generic/481: creating a file",
    ),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in _RULES}


class Contract(NamedTuple):
    """What persistence calls give, beside what they give under any contract. The rules of impossibility always hold."""

    name: str
    says: str
    fsync_names: bool
    sync_waits: bool
    atomic_names: bool

    @property
    def rules(self) -> list[Rule]:
        """The rules that it holds, in the order in which docs/contracts.md explains them."""
        optional = {
            "fsync-names": self.fsync_names,
            "sync-everything": self.sync_waits,
            "atomic-names": self.atomic_names,
        }
        return [rule for rule in _RULES if optional.get(rule.name, True)]


CONTRACTS: Mapping[str, Contract] = {
    contract.name: contract
    for contract in (
        Contract("posix", "the least: names only by fsync of their directory, nothing by sync", False, False, False),
        Contract("linux", "what ext4, xfs and btrfs document and fstests enforce", True, True, True),
    )
}


def contract_named(name: str) -> Contract:
    """Raises Misuse that lists the known ones."""
    try:
        return CONTRACTS[name]
    except KeyError:
        raise Misuse(f"unknown contract {name!r}", "choose one of " + ", ".join(CONTRACTS)) from None
