"""Hosts on one machine: nameless network namespaces, each joined to ours by a cable (a veth pair) that can be cut.

The caller moves to a new namespace, the hub. A host's only link leads to the hub and its only route to the hub's end of
that link, so two hosts cannot reach each other, whatever ip_forward says: what they tell each other goes through a
process in the hub. Nothing of it is ever seen from the namespace that the caller came from.

A namespace without a name lives as long as a process in it, a descriptor or a socket of it, and its links go with it
(network_namespaces(7), veth(4)): whoever is killed leaves nothing, a second after the last packet. There is no netem
here (docs/network.md): a link is up or down.

pyroute2 speaks to the kernel. It is imported with this module, so that a process that forks many trials pays for it
once. Each request opens a socket of its own, in the hub: no thread, forked child or namespace can come between.
"""

import contextlib
import errno
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pyroute2 import IPRoute, NetlinkError  # type: ignore[import-untyped]

from harness.closing import Closing
from harness.errors import InternalError, Missing, RequirementMissing
from harness.machine import syscalls

HOSTS_MAX = 200

RTO_MIN_MS = 5
"""What TCP waits at least before it sends again. Without it, 200 ms would hide how soon a link was healed."""

_LOOPBACK = 1
"""Its index in every namespace: it is the first link made there (net/core/dev.c, dev_index_reserve)."""

_ETH0 = 2
"""The index of a host's only other link, and that of host 0's link in the hub."""

_RTAX_RTO_MIN = 13
_IFF_UP = 1
_NO_PREFIX_ROUTE = 0x200  # IFA_F_NOPREFIXROUTE: the route to a neighbour is ours to make, with its metrics
_BITS = 24
_MTU = 1500
_LAST = 1000
_ORPHAN_RETRIES = "/proc/sys/net/ipv4/tcp_orphan_retries"
_CARRIER_SECONDS = 10.0
_HEALED_SECONDS = 10.0

_AS_ROOT = "run it as root: sudo harness …; in a container: with --cap-add SYS_ADMIN --cap-add NET_ADMIN"
_OF_OTHERS = "those of Debian, Ubuntu and Fedora have it"
_FOR_NAMESPACES = {
    errno.EPERM: _AS_ROOT,
    errno.EINVAL: f"boot a kernel with CONFIG_NET_NS: {_OF_OTHERS}",
    errno.ENOSPC: "raise /proc/sys/user/max_net_namespaces",
}
_FOR_LINKS = {
    errno.EPERM: _AS_ROOT,
    errno.EOPNOTSUPP: f"modprobe veth, or boot a kernel with CONFIG_VETH: {_OF_OTHERS}",
}


class Host(NamedTuple):
    """One host. `address` is its own, `gateway` the hub's end of its link; `fd` refers to its namespace."""

    number: int
    address: str
    gateway: str
    fd: int

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the host inside the block; sockets made in it, and processes forked in it, stay there.

        Other threads stay where they are. Raises OSError (EBADF) once the network was closed.
        """
        with _visiting(self.fd):
            yield


class Network(Closing):
    """A hub and `hosts` hosts. The hub is a new namespace that the calling thread enters; close() takes it back.

    Threads that already run stay where they were, so make it before there are any. Processes forked later live in the
    hub, and survive close() there. All methods may be called from any thread, from inside `entered()`, and from forked
    children; a pending `delay` belongs to the process that asked for it.

    Raises RequirementMissing where this machine has no network namespaces or veth, or forbids them.
    """

    hosts: tuple[Host, ...] = ()
    _pending: dict[int, threading.Timer]

    def __init__(self, hosts: int) -> None:
        if not 1 <= hosts <= HOSTS_MAX:
            raise InternalError(f"a network of {hosts} hosts", f"ask for 1 to {HOSTS_MAX}")
        self._thread = threading.get_native_id()
        self._before = self._hub = -1
        self._away = False
        self._start_anew()
        _networks.add(self)
        try:
            self._make(hosts)
        except BaseException:
            self.close()
            raise

    def cut(self, host: int) -> None:
        """Take the hub's end of the link down: nothing passes in either direction, and what is sent is lost.

        Neither side is told: established TCP connections live on and send again, and connect(2) waits, until the link
        is healed or their own patience ends (tcp(7): TCP_USER_TIMEOUT, tcp_retries2).
        """
        self._settle(host, up=False)

    def heal(self, host: int) -> None:
        """Bring the link up again, and return when both ends carry.

        TCP goes on at its next retransmission. It doubles its waits, so that comes after about as long as the cut has
        lasted; a connect(2) that was begun meanwhile is tried again each full second.
        """
        self._settle(host, up=True)

    def delay(self, host: int, seconds: float) -> None:
        """Cut the link, and heal it after so long: what TCP sent meanwhile arrives late. Returns at once.

        A thread waits for the moment. Any later cut, heal or delay of the same host takes its place.
        """
        timer = threading.Timer(seconds, lambda: self._settle(host, up=True, by=timer))
        timer.daemon = True
        self._settle(host, up=False, then=timer)

    def is_up(self, host: int) -> bool:
        """What the kernel says of the hub's end of the link."""
        with self._in_hub() as routes:
            return bool(_link(routes, _ETH0 + host)["flags"] & _IFF_UP)

    def close(self) -> None:
        """Take the calling thread back, if it is the one that made the network, and give up the descriptors.

        What was cut stays cut. A namespace goes when its last process has ended and its last socket is closed.
        """
        with self._lock:
            timers, self._pending = list(self._pending.values()), {}
        for timer in timers:
            timer.cancel()
        for timer in timers:
            timer.join(_HEALED_SECONDS)
        before, hub, self._before, self._hub = self._before, self._hub, -1, -1
        hosts, self.hosts = self.hosts, ()
        try:
            if self._away and threading.get_native_id() == self._thread:
                self._away = False
                syscalls.setns(before, syscalls.CLONE_NEWNET)
        finally:
            for fd in (before, hub, *(host.fd for host in hosts)):
                if fd >= 0:
                    os.close(fd)

    def _start_anew(self) -> None:
        """In a forked child too: no thread there will ever give back the lock that it held, nor heal what was cut."""
        self._lock = threading.Lock()
        self._pending = {}

    def _make(self, hosts: int) -> None:
        with _explained(_FOR_NAMESPACES):
            self._before = _own_namespace()
            syscalls.unshare(syscalls.CLONE_NEWNET)
            self._away = True
            self._hub = _own_namespace()
            for number in range(hosts):
                made = Host(number, f"10.77.{number}.2", f"10.77.{number}.1", _new_namespace(self._hub))
                self.hosts = (*self.hosts, made)
        with _explained(_FOR_LINKS), _requests() as routes:
            _start(routes)
            for host in self.hosts:
                _plug_in(routes, host)
            for host in self.hosts:
                with host.entered(), _requests() as inside:
                    _start(inside)
                    _settle_in(inside, _ETH0, host.address, host)
                    _wait_for_carrier(inside, _ETH0)
                _wait_for_carrier(routes, _ETH0 + host.number)

    def _settle(
        self, host: int, up: bool, by: threading.Timer | None = None, then: threading.Timer | None = None
    ) -> None:
        """Nothing that was asked for before changes the link from here on, but `then`."""
        with self._lock:
            pending = self._pending.get(host)
            if by is not pending and by is not None:
                return
            if pending is not None:
                del self._pending[host]
                pending.cancel()
            self._change(self._host(host), up)
            if then is not None:
                self._pending[host] = then
                then.start()

    def _change(self, host: Host, up: bool) -> None:
        index = _ETH0 + host.number
        with self._in_hub() as routes:
            routes.link("set", index=index, state="up" if up else "down")
            if up:
                _lead_to(routes, index, host.gateway, host)
                _wait_for_carrier(routes, index)
        if up:
            with host.entered(), _requests() as routes:
                _wait_for_carrier(routes, _ETH0)

    def _host(self, number: int) -> Host:
        if not 0 <= number < len(self.hosts):
            raise InternalError(f"no host {number}: the network has {len(self.hosts)}, or was closed")
        return self.hosts[number]

    @contextlib.contextmanager
    def _in_hub(self) -> Iterator[Any]:
        with _visiting(self._hub), _requests() as routes:
            yield routes


_networks: "weakref.WeakSet[Network]" = weakref.WeakSet()


def _after_fork() -> None:
    for network in _networks:
        network._start_anew()


os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def _requests() -> Iterator[Any]:
    """Requests to the kernel about the namespace in which this thread is. What it refuses is an OSError."""
    try:
        with IPRoute() as routes:
            yield routes
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


@contextlib.contextmanager
def _visiting(namespace: int) -> Iterator[None]:
    own = _own_namespace()
    try:
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        yield
    finally:
        syscalls.setns(own, syscalls.CLONE_NEWNET)
        os.close(own)


@contextlib.contextmanager
def _explained(remedies: Mapping[int, str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = remedies.get(error.errno or 0)
        if remedy is None:
            raise
        why = f"hosts are network namespaces joined by veth pairs ({error.strerror})"
        raise RequirementMissing([Missing("network namespaces", why, remedy)]) from error


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _new_namespace(hub: int) -> int:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    try:
        return _own_namespace()
    finally:
        syscalls.setns(hub, syscalls.CLONE_NEWNET)


def _start(routes: Any) -> None:
    """What each namespace needs, before it has links to others."""
    routes.link("set", index=_LOOPBACK, state="up")
    # A socket that nobody has open any more, with data that nobody acknowledges, keeps its namespace alive: behind a
    # link that was cut for some 100 s by default, and so 0.6 s (tcp(7); net/ipv4/tcp_timer.c, tcp_orphan_retries).
    with contextlib.suppress(OSError), open(_ORPHAN_RETRIES, "w", encoding="ascii") as setting:
        setting.write("1")


def _plug_in(routes: Any, host: Host) -> None:
    """Join the host to the hub: the far end is in the host, as its eth0, from its first moment."""
    index = _ETH0 + host.number
    peer = {"ifname": "eth0", "index": _ETH0, "net_ns_fd": host.fd}
    routes.link("add", ifname=f"host{host.number}", index=index, kind="veth", peer=peer)
    _settle_in(routes, index, host.gateway, host)
    # Where packets go while the link is down. What has a route counts as sent, and TCP sends it again by its clock; a
    # send that fails for want of a route is tried again after 200 ms at the earliest (tcp_probe0_base).
    _lead_to(routes, _LOOPBACK, host.gateway, host, priority=_LAST)


def _settle_in(routes: Any, index: int, address: str, host: Host) -> None:
    routes.addr("add", index=index, address=address, prefixlen=_BITS, IFA_FLAGS=_NO_PREFIX_ROUTE)
    routes.link("set", index=index, state="up")
    _lead_to(routes, index, address, host)


def _lead_to(routes: Any, index: int, address: str, host: Host, priority: int = 0) -> None:
    """The route to the other end. The kernel drops it with the link (fib_disable_ip), so each heal makes it again."""
    neighbours = f"{host.gateway.removesuffix('.1')}.0/{_BITS}"
    # A metric that is not locked is only TCP's first guess: ip-route(8), rto_min.
    metrics = {"rto_min": RTO_MIN_MS, "mtu": _MTU, "lock": 1 << _RTAX_RTO_MIN}
    wanted = {"dst": neighbours, "oif": index, "scope": "link", "prefsrc": address, "metrics": metrics}
    routes.route("replace", **wanted, **({"priority": priority} if priority else {}))


def _link(routes: Any, index: int) -> Any:
    return routes.get_links(index)[0]


def _wait_for_carrier(routes: Any, index: int) -> None:
    """Until then an end drops what it is to send: a lost ARP answer costs a second (net/core/link_watch.c)."""
    deadline = time.monotonic() + _CARRIER_SECONDS
    while _link(routes, index).get_attr("IFLA_OPERSTATE") != "UP":
        if time.monotonic() > deadline:
            raise InternalError(f"a link has no carrier after {_CARRIER_SECONDS:g} s")
