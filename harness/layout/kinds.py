"""The words for the blocks of a file system."""

import enum

import msgspec


class BlockKind(enum.StrEnum):
    """What a block is, in the words of the kernel's Documentation/filesystems/ext4."""

    SUPERBLOCK = "superblock"
    GROUP_DESCRIPTOR = "group descriptor"
    BLOCK_BITMAP = "block bitmap"
    INODE_BITMAP = "inode bitmap"
    INODE_TABLE = "inode table"
    DIRECTORY = "directory block"
    EXTENT_TREE = "extent tree block"
    XATTR = "extended attribute block"
    SYMLINK = "symbolic link block"
    DATA = "data"
    JOURNAL_SUPERBLOCK = "journal superblock"
    JOURNAL_DESCRIPTOR = "journal descriptor"
    JOURNAL_COMMIT = "journal commit"
    JOURNAL_REVOKE = "journal revoke"
    JOURNAL_BLOCK = "journal block"
    """A copy in the journal of a block that lives elsewhere (ext4), or a part of the log (xfs, btrfs log tree)."""
    METADATA = "metadata"
    """Other metadata, which `text` names as far as the public tools do: a btree block, an AG header."""
    FREE = "unused block"
    UNKNOWN = "unknown block"


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A run of blocks of one write that are one thing. `offset` and `length` are bytes of the device."""

    offset: int
    length: int
    kind: BlockKind
    text: str
    """For people, on its own: `inode table, inode 12 (/config)`, `data blocks 0 to 3 of /config.new`."""
    path: str = ""
    """Of the file or directory that it belongs to, from the volume's root (`/a/b`); empty where it is nobody's."""
    inode: int = 0
    block: int = -1
    """The first block within the file, for data and directories."""
    transaction: int = 0
    """Of the journal, for its blocks."""
    generation: int = 0
    """Of the inode, where numbers are used again."""
