"""The loop that answers the kernel: one thread, one connection, files `disk`, `promise`, `mark` and `control`.

Every answer is given after its event is in the log, so an event that anybody has seen happen is in the log, and before
everything that was asked for afterwards. Payloads are read by the kernel straight into the log (no copy): the place
where the next one belongs is part of every readv(2).
"""

import errno
import mmap
import os
from collections.abc import Callable, Sequence

import msgspec

from harness.blocklog import LogWriter
from harness.blocklog.format import PROMISE
from harness.engine import status as page
from harness.engine.backends import Backend, Refused
from harness.engine.blocks import BlockIndex
from harness.engine.faults import Faults, Reply
from harness.engine.medium import Medium
from harness.engine.messages import Frames, Lines
from harness.engine.rules import Order, Rule, checked
from harness.engine.tree import CONTROL_NODE, DISK_NODE, MARK_NODE, PROMISE_NODE, Tree
from harness.errors import BoundExceeded, Misuse
from harness.machine import fuse
from harness.machine.fuse import Op

_HEAD = fuse.WRITE_REQUEST.size
_HEADER = fuse.IN_HEADER.size

LOG_SLACK = fuse.REQUEST_MAX + (64 << 10)
"""Bytes that the log's memory must have beyond its bound, so that any request can be received at its end."""

# A backlog that never fills: the loop device has at most 128 requests in flight (drivers/block/loop.c, queue depth).
_MAX_BACKGROUND = 256

_WANTED = fuse.ASYNC_READ | fuse.ATOMIC_O_TRUNC | fuse.BIG_WRITES | fuse.ASYNC_DIO | fuse.MAX_PAGES

# The page cache must never absorb a write: with DIRECT_IO each one is a request, answered before write(2) returns.
_OPEN_FLAGS = {
    DISK_NODE: fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES,
    PROMISE_NODE: fuse.FOPEN_DIRECT_IO,
    MARK_NODE: fuse.FOPEN_DIRECT_IO,
    CONTROL_NODE: fuse.FOPEN_DIRECT_IO,
}

# Unmounted, or the connection was aborted; while a request is being read, an unmount is told as the latter
# (fuse_dev_do_read in fs/fuse/dev.c).
_GONE = {errno.ENODEV, errno.ECONNABORTED}
_AGAIN = {errno.ENOENT, errno.EINTR, errno.EAGAIN}  # the request was withdrawn while it was being read

_BYTES = page.BYTES
_MADV_POPULATE_WRITE = 23  # madvise(2)


_DONE = Reply()
_Handler = Callable[[int, memoryview], Reply | None]


class Server:
    """Serves one volume of `size` bytes from `base_fd` and `memory` (the whole log, LOG_SLACK beyond `log_max`)."""

    def __init__(
        self,
        fd: int,
        *,
        base_fd: int,
        size: int,
        sector: int,
        memory: mmap.mmap,
        log_max: int,
        words: memoryview,
        rules: Sequence[Rule] = (),
        news: int = -1,
        backend: Backend | None = None,
    ) -> None:
        """`rules`: what is wrong with the device from the start. `news`: a pipe that tells of each hit of a rule.

        With `backend` the blocks are kept there, and `base_fd` is not read.
        """
        self._fd = fd
        self._size = size
        self._sector = sector
        self._map = memory
        self._memory = memoryview(memory)
        self._log_max = log_max
        self._words = words
        self._log = LogWriter(self._memory[:log_max])
        self._index = BlockIndex(size, sector, self._memory, base_fd)
        self._medium = Medium(self._log, self._memory, self._index, backend)
        self._passes_on = backend is not None
        self._head = bytearray(_HEAD)
        self._scratch = memoryview(bytearray(fuse.REQUEST_MAX + 2 * sector))
        self._lines: dict[int, Lines] = {}
        self._frames = Frames()
        self._orders = Frames()
        self._faults = Faults(self._log, self._memory, words, size, sector, news)
        self._faults.arm(rules)
        self._unique = 0
        self._handles = 0
        self._announce: Callable[[], None] = lambda: None
        self._tree = Tree(size)
        self._handlers: dict[int, _Handler] = {
            Op.LOOKUP: self._lookup,
            Op.FORGET: self._no_answer,
            Op.BATCH_FORGET: self._no_answer,
            Op.INTERRUPT: self._no_answer,
            Op.GETATTR: self._getattr,
            Op.SETATTR: self._getattr,  # truncating a file of messages changes nothing
            Op.OPEN: self._open,
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.STATFS: self._statfs,
            Op.RELEASE: self._release,
            Op.FSYNC: self._fsync,
            Op.FLUSH: self._close,
            Op.INIT: self._init,
            Op.DESTROY: self._nothing,
            Op.FALLOCATE: self._fallocate,
            Op.LSEEK: self._lseek,
        }

    def serve(self, announce: Callable[[], None]) -> None:
        """Answer requests until the file system is unmounted. `announce` is called when INIT has been answered."""
        self._announce = announce
        fd, head, memory, log, words = self._fd, self._head, self._memory, self._log, self._words
        index, wrote, end = self._index.words, self._index.wrote, self._fast_end()
        sector, mask, answer = self._sector, self._sector - 1, bytearray(fuse.WRITE_REPLY.size)
        unpack, pack = fuse.WRITE_REQUEST.unpack_from, fuse.WRITE_REPLY.pack_into
        readv, write, commit, largest = os.readv, os.write, log.commit_write, fuse.REQUEST_MAX
        passes_on, passed = self._passes_on, self._passed
        prepared = 0
        while True:
            at = log.payload_at
            if at > prepared:
                prepared = self._prepare(at)
            try:
                got = readv(fd, (head, memory[at : at + largest]))
                _, opcode, unique, node, _, offset, size = unpack(head)
                # The one path that must be fast: a write to the disk, of whole blocks. 16 is Op.WRITE.
                if opcode == 16 and node == DISK_NODE and offset + size <= end and not (offset | size) & mask:
                    if passes_on and not passed(unique, offset, size):
                        continue
                    commit(offset, size)
                    if size == sector:
                        index[offset // sector] = at
                    else:
                        wrote(offset, size, at)
                    words[_BYTES] = at + size
                    pack(answer, 0, 24, 0, unique, size, 0)
                    write(fd, answer)
                    continue
            except OSError as error:
                if error.errno in _GONE:
                    return
                if error.errno in _AGAIN:
                    continue
                raise
            except BoundExceeded:
                words[page.FULL] = 1
            self._dispatch(opcode, unique, node, got)
            end = self._fast_end()

    def _fast_end(self) -> int:
        """Where the fast path ends: nowhere when all writes are refused, or a fault waits for one."""
        return -1 if self._words[page.FULL] or self._faults.on("write") else self._size

    def _passed(self, unique: int, offset: int, size: int) -> bool:
        """Have the backend do the write that stands at payload_at. False: it was refused, and that is answered."""
        try:
            self._medium.pass_on(offset, size)
            return True
        except Refused as refusal:
            self._answer(unique, Reply(refusal.errno))
            return False

    def _prepare(self, at: int) -> int:
        """Have the kernel allocate the log's next memory at one go: page by page costs twice as much (measured).

        Returns the place from which on this is due again.
        """
        stop = min(at + 2 * fuse.REQUEST_MAX, len(self._map))
        start = at - at % mmap.PAGESIZE
        try:
            self._map.madvise(_MADV_POPULATE_WRITE, start, stop - start)
        except OSError:  # before Linux 5.14 (EINVAL), or no memory for more than is needed: page by page, then
            return len(self._map)
        return stop - fuse.REQUEST_MAX

    def _dispatch(self, opcode: int, unique: int, node: int, got: int) -> None:
        """Everything but a plain write to the disk."""
        body = memoryview(self._head)[_HEADER : min(got, _HEAD)]
        handler = self._handlers.get(opcode)
        self._unique = unique
        try:
            reply = handler(node, body) if handler else Reply(errno.ENOSYS)
        except Refused as refusal:
            reply = Reply(refusal.errno)
        except BoundExceeded:
            self._words[page.FULL] = 1
            reply = Reply(errno.ENOSPC if node != DISK_NODE else errno.EIO)
        if reply is not None:
            self._answer(unique, reply)
        if opcode == Op.INIT:
            self._announce()

    def _answer(self, unique: int, reply: Reply) -> None:
        header = fuse.OUT_HEADER.pack(fuse.OUT_HEADER.size + len(reply.body), -reply.error, unique)
        try:
            os.writev(self._fd, [header, reply.body])
        except OSError as error:
            if error.errno not in _AGAIN | _GONE:  # whoever asked is gone
                raise

    def _refuse_when_full(self) -> None:
        if self._words[page.FULL]:
            raise BoundExceeded("the log is full")

    def _write(self, node: int, body: memoryview) -> Reply | None:
        handle, offset, size = fuse.READ_IN.unpack_from(body)
        if node == CONTROL_NODE:
            return self._control(offset, size)
        self._refuse_when_full()
        if node == DISK_NODE:
            return self._write_disk(offset, size)
        at = self._log.payload_at
        data = bytes(self._memory[at : at + size])
        if node == PROMISE_NODE:
            lines = self._lines[handle]
            texts = [PROMISE + line for line in lines.feed(data)]
            pending = lines.pending
        else:
            texts = self._frames.feed(offset, data)
            pending = self._frames.pending
        if pending > self._log.room:
            raise BoundExceeded("a message longer than the log")
        return self._marked(texts, Reply(body=fuse.WRITE_OUT.pack(size, 0)))

    def _marked(self, texts: Sequence[bytes], reply: Reply) -> Reply | None:
        """Enter the marks of one request, unless a fault waits for one of them."""

        said = [text.decode(errors="replace") for text in texts] if self._faults.on("mark") else ()

        def enter() -> Reply:
            for text in texts:
                self._log.mark(text)
            self._faults.wake(said)
            self._count()
            return reply

        return self._faults.through("mark", self._unique, enter, texts=said) if texts else enter()

    def _write_disk(self, offset: int, size: int) -> Reply | None:
        if offset + size > self._size or (offset | size) % self._sector:
            return Reply(errno.EINVAL)
        return self._faults.write(self._unique, offset, size, self._land)

    def _land(self, offset: int, size: int) -> None:
        """What stands at payload_at is on the medium from here on."""
        self._medium.land(offset, size)
        self._count()

    def _control(self, offset: int, size: int) -> Reply:
        """An order of the harness. What it lets go of is answered before the order is."""
        at = self._log.payload_at
        for text in self._orders.feed(offset, bytes(self._memory[at : at + size])):
            try:
                order = msgspec.json.decode(text, type=Order)
                rules = checked(order.rules or (), self._size, self._sector)
            except (msgspec.MsgspecError, Misuse):
                return Reply(errno.EINVAL)
            if order.rules is not None:
                self._answer_all(self._faults.release_all())
                self._faults.arm(rules)
            if order.say:
                self._log.mark(order.say.encode())
                self._faults.wake([order.say])
            if order.release is not None:
                self._answer_all(self._faults.release(order.release))
            if order.switch:
                self._medium.switch(order.switch)
        return Reply(body=fuse.WRITE_OUT.pack(size, 0))

    def _answer_all(self, requests: Sequence[tuple[int, Callable[[], Reply]]]) -> None:
        """Requests that a rule held. Whoever waits for one gets an answer, also when the log is full by now."""
        for unique, do in requests:
            try:
                reply = do()
            except Refused as refusal:
                reply = Reply(refusal.errno)
            except BoundExceeded:
                self._words[page.FULL] = 1
                reply = Reply(errno.EIO)
            self._answer(unique, reply)

    def _count(self) -> None:
        self._words[_BYTES] = self._log.tail

    def _read(self, node: int, body: memoryview) -> Reply | None:
        _, offset, size = fuse.READ_IN.unpack_from(body)
        if node != DISK_NODE or offset >= self._size:
            return _DONE
        stop = min(offset + size, self._size)
        first = offset - offset % self._sector
        last = stop + -stop % self._sector

        def read() -> Reply:
            found = self._medium.read(self._scratch, first, last - first)
            return Reply(body=found[offset - first : stop - first])

        return self._faults.through("read", self._unique, read, offset=offset, length=stop - offset)

    def _fsync(self, node: int, _body: memoryview) -> Reply | None:
        if node != DISK_NODE:
            return _DONE
        self._refuse_when_full()

        def flush() -> Reply:
            self._medium.flush()
            return _DONE

        reply = self._faults.through("flush", self._unique, flush)
        self._count()
        return reply

    def _fallocate(self, node: int, body: memoryview) -> Reply | None:
        _, offset, length, mode = fuse.FALLOCATE_IN.unpack_from(body)
        if node != DISK_NODE or not mode & (fuse.FALLOC_PUNCH_HOLE | fuse.FALLOC_ZERO_RANGE):
            return Reply(errno.EOPNOTSUPP)
        if offset + length > self._size or (offset | length) % self._sector:
            return Reply(errno.EINVAL)
        self._refuse_when_full()

        def discard() -> Reply:
            self._medium.discard(offset, length)
            self._count()
            return _DONE

        return self._faults.through("discard", self._unique, discard, offset=offset, length=length)

    def _open(self, node: int, _body: memoryview) -> Reply:
        if node not in _OPEN_FLAGS:
            return Reply(errno.EISDIR)
        self._handles += 1
        if node == PROMISE_NODE:
            self._lines[self._handles] = Lines()
        elif node == DISK_NODE:
            self._words[page.DISK_HANDLES] += 1
        return Reply(body=fuse.open_reply(self._handles, _OPEN_FLAGS[node]))

    def _close(self, node: int, body: memoryview) -> Reply | None:
        """FLUSH: one of the descriptors of the handle is closed, and whoever closes it waits for this answer."""
        if node == PROMISE_NODE:
            (handle,) = fuse.HANDLE_IN.unpack_from(body)
            self._refuse_when_full()
            texts = [PROMISE + line for line in self._lines[handle].close()]
            return self._marked(texts, _DONE)
        return _DONE

    def _release(self, node: int, body: memoryview) -> Reply:
        (handle,) = fuse.HANDLE_IN.unpack_from(body)
        self._lines.pop(handle, None)
        if node == DISK_NODE:
            self._words[page.DISK_HANDLES] -= 1
        return _DONE

    def _lookup(self, node: int, body: memoryview) -> Reply:
        found = self._tree.find(node, bytes(body).partition(b"\0")[0])
        return Reply(body=fuse.entry_reply(found)) if found else Reply(errno.ENOENT)

    def _getattr(self, node: int, _body: memoryview) -> Reply:
        return Reply(body=fuse.attr_reply(self._tree.attributes[node]))

    def _lseek(self, node: int, body: memoryview) -> Reply:
        """SEEK_DATA and SEEK_HOLE: all of a file counts as data."""
        _, offset, whence = fuse.LSEEK_IN.unpack_from(body)
        size = self._tree.attributes[node].size
        if offset >= size:
            return Reply(errno.ENXIO)
        return Reply(body=fuse.offset_reply(offset if whence == os.SEEK_DATA else size))

    def _statfs(self, _node: int, _body: memoryview) -> Reply:
        return Reply(body=fuse.statfs_reply(self._size, self._sector))

    def _init(self, _node: int, body: memoryview) -> Reply:
        _, _, _, flags = fuse.INIT_IN.unpack_from(body)
        return Reply(body=fuse.init_reply(flags, _WANTED, max_background=_MAX_BACKGROUND))

    def _nothing(self, _node: int, _body: memoryview) -> Reply:
        return _DONE

    def _no_answer(self, _node: int, _body: memoryview) -> None:
        return None
