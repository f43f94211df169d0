"""Which names a file had, and when, as far as the writes to the volume tell."""

import msgspec

_DEPTH_MAX = 128

File = tuple[int, int]
"""(tree, inode number). Subvolumes of btrfs are trees of their own; elsewhere the tree is 0."""


class _Link(msgspec.Struct):
    """A name from event `begin` up to event `end` (not included; -1: it is still there)."""

    begin: int
    parent: File
    name: str
    end: int = -1

    def at(self, event: int) -> bool:
        return self.begin <= event and (self.end < 0 or event < self.end)


class Links:
    """Names by file. Events must come in order."""

    def __init__(self, root: File) -> None:
        self._root = root
        self._links: dict[File, list[_Link]] = {}
        self._lives: dict[File, list[tuple[int, int]]] = {}

    def link(self, event: int, file: File, parent: File, name: str) -> None:
        self._links.setdefault(file, []).append(_Link(event, parent, name))

    def unlink(self, event: int, file: File, parent: File, name: str) -> None:
        """The name is gone from `event` on."""
        for link in self._links.get(file, ()):
            if link.end < 0 and (link.parent, link.name) == (parent, name):
                link.end = event

    def lives(self, event: int, file: File, generation: int) -> None:
        """The number is that of a file of this generation; of which it is the first event, if it is another one."""
        lives = self._lives.setdefault(file, [])
        if not lives or lives[-1][1] != generation:
            lives.append((event, generation))

    def seen(self, file: File) -> bool:
        """Whether there ever was such a file."""
        return file in self._lives

    def generation(self, file: File, event: int) -> int:
        """Of the file that had this number at `event`; -1 where none is known."""
        lives = self._lives.get(file, [])
        return next((generation for at, generation in reversed(lives) if at <= event), lives[0][1] if lives else -1)

    def path(self, file: File, event: int, generation: int = -1) -> str:
        """The path that the file had at `event`; if it had none, the next, or the last. "" where none is known.

        `generation`: of that file, where its inode number was used for others too; else the one at that time.
        """
        parts: list[str] = []
        while file != self._root:
            link = self._nearest(file, event, generation if generation >= 0 else self.generation(file, event))
            if link is None or len(parts) > _DEPTH_MAX:
                return ""
            parts.append(link.name)
            file, generation = link.parent, -1
        return "/" + "/".join(reversed(parts))

    def _nearest(self, file: File, event: int, generation: int) -> _Link | None:
        lives = self._lives.get(file, [])
        at = next((n for n, (_, its) in enumerate(lives) if its == generation), -1)
        begin = lives[at][0] if at > 0 else -1
        end = lives[at + 1][0] if 0 <= at < len(lives) - 1 else -1
        links = [link for link in self._links.get(file, ()) if link.begin >= begin and (end < 0 or link.begin < end)]
        now = [link for link in links if link.at(event)]
        later = [link for link in links if link.begin > event]
        past = [link for link in links if 0 <= link.end <= event]
        return min(now or later, key=lambda link: link.begin, default=None) or max(
            past, key=lambda link: link.end, default=None
        )
