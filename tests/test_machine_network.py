"""Hosts in network namespaces: who reaches whom, cut and healed links, and that nothing is left, however it ended."""

import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from kill_support import WatchedNetworks, eventually, none_with, processes_with

from harness.errors import InternalError
from harness.machine import probes
from harness.machine.network import Host, Network
from harness.machine.sandbox import answer_of

pytestmark = pytest.mark.root

PORT = 700
SECONDS = 20.0
TOKEN = "HARNESS_NETWORK_TEST"

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(hosts=2) as made:
        yield made


@contextlib.contextmanager
def connected(host: Host) -> Iterator[Pair]:
    """(the hub's end, the host's end) of a TCP connection."""
    with host.entered():
        listener = socket.create_server((host.address, PORT))
    with listener, socket.create_connection((host.address, PORT), timeout=SECONDS) as hub, listener.accept()[0] as far:
        far.settimeout(SECONDS)
        yield hub, far


def is_silent(*ends: socket.socket) -> bool:
    """Nothing is there to be read, and nobody has been told of an error."""
    return select.select(ends, (), (), 0.1)[0] == []


def packets(ends: int) -> int:
    """How many packets the hub has received on the link of this host (proc_pid_net_dev(5))."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return next(int(line.split()[2]) for line in lines if line.strip().startswith(f"host{ends}:"))


def waits_ms(end: socket.socket) -> float:
    """What TCP would wait now before it sends again: tcpi_rto of struct tcp_info (uapi/linux/tcp.h)."""
    rto: int = struct.unpack_from("8xI", end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64))[0]
    return rto / 1000


def own_namespace() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def refusal(attempt: Callable[[], object]) -> int:
    with pytest.raises(OSError) as error:
        attempt()
    return error.value.errno or 0


def test_the_hub_reaches_every_host_and_each_host_the_hub(network: Network) -> None:
    for host in network.hosts:
        with connected(host) as (hub, far):
            assert hub.getsockname()[0] == host.gateway
            assert far.getsockname()[0] == host.address
            hub.sendall(b"to the host")
            assert far.recv(64) == b"to the host"
            far.sendall(b"to the hub")
            assert hub.recv(64) == b"to the hub"


def test_a_host_has_a_loopback_of_its_own(network: Network) -> None:
    one, other = network.hosts
    with one.entered():
        listener = socket.create_server(("127.0.0.1", PORT))
        socket.create_connection(("127.0.0.1", PORT)).close()
    with listener:
        assert refusal(lambda: socket.create_connection(("127.0.0.1", PORT))) == errno.ECONNREFUSED
        with other.entered():
            assert refusal(lambda: socket.create_connection(("127.0.0.1", PORT))) == errno.ECONNREFUSED


@pytest.mark.parametrize("forwarding", ["0", "1"])
def test_hosts_reach_each_other_through_a_process_in_the_hub_alone(network: Network, forwarding: str) -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text(forwarding)
    one, other = network.hosts
    with one.entered():
        server = socket.create_server((one.address, PORT))
    with server, other.entered():
        assert refusal(lambda: socket.create_connection((one.address, PORT))) == errno.ENETUNREACH
        assert refusal(lambda: socket.create_connection((one.gateway, PORT))) == errno.ENETUNREACH


@pytest.mark.parametrize("cut", [0, 1])
def test_a_cut_stops_both_directions_of_one_link_and_heal_lets_what_was_sent_arrive(network: Network, cut: int) -> None:
    with connected(network.hosts[cut]) as (hub, far), connected(network.hosts[1 - cut]) as (other_hub, other_far):
        network.cut(cut)
        assert not network.is_up(cut) and network.is_up(1 - cut)
        received = packets(cut)
        hub.sendall(b"to the host")
        far.sendall(b"to the hub")
        other_hub.sendall(b"beside it")
        assert other_far.recv(64) == b"beside it"
        assert is_silent(hub, far)
        assert packets(cut) == received
        network.heal(cut)
        assert network.is_up(cut)
        assert (far.recv(64), hub.recv(64)) == (b"to the host", b"to the hub")


def test_a_link_that_is_not_cut_is_not_silent(network: Network) -> None:
    """The control of `is_silent`, and of the counter of packets."""
    with connected(network.hosts[0]) as (hub, far):
        received = packets(0)
        far.sendall(b"to the hub")
        assert not is_silent(hub, far)
        assert packets(0) > received


def test_tcp_sends_again_early_also_after_a_heal(network: Network) -> None:
    """Linux itself waits 200 ms at the least."""
    for healed in (False, True):
        if healed:
            network.cut(0)
            network.heal(0)
        with connected(network.hosts[0]) as (hub, far):

            def early(hub: socket.socket = hub, far: socket.socket = far) -> bool:
                hub.sendall(b"to the host")
                far.sendall(far.recv(64))
                hub.recv(64)
                return max(waits_ms(hub), waits_ms(far)) < 200

            assert eventually(early)


def test_a_connection_that_is_begun_in_a_cut_waits_for_the_heal(network: Network) -> None:
    host = network.hosts[1]
    with host.entered():
        listener = socket.create_server((host.address, PORT))
    network.cut(1)
    with listener, socket.socket() as hub:
        hub.setblocking(False)
        assert hub.connect_ex((host.address, PORT)) == errno.EINPROGRESS
        assert select.select((), [hub], (), 0.1)[1] == []
        network.heal(1)
        assert select.select((), [hub], (), SECONDS)[1] == [hub]
        assert hub.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_what_was_sent_during_a_delay_arrives_late(network: Network) -> None:
    with connected(network.hosts[0]) as (hub, far):
        network.delay(0, 0.2)
        assert not network.is_up(0)
        hub.sendall(b"late")
        assert is_silent(far)
        assert far.recv(64) == b"late"
        assert network.is_up(0)


@pytest.mark.parametrize("again", [0, 5])
def test_a_later_cut_or_delay_takes_the_place_of_a_delay(network: Network, again: int) -> None:
    network.delay(0, 0.05)
    if again:
        network.delay(0, again)
    else:
        network.cut(0)
    network.delay(1, 0.2)
    assert eventually(lambda: network.is_up(1))
    assert not network.is_up(0)
    network.heal(0)
    assert network.is_up(0)


def test_links_are_cut_from_inside_a_host_from_a_thread_and_from_a_forked_child(network: Network) -> None:
    with network.hosts[0].entered():
        network.cut(0)
        assert not network.is_up(0)
        thread = threading.Thread(target=network.heal, args=(0,))
        thread.start()
        thread.join()
    assert network.is_up(0)

    def child() -> bytes:
        network.cut(0)
        return b"cut"

    assert answer_of(child, SECONDS) == (b"cut", 0)
    assert not network.is_up(0)


def test_a_child_that_is_forked_while_a_thread_cuts_can_cut_too(network: Network) -> None:
    """It would wait for ever for a lock that was held at that moment: the thread that gives it back is not in it."""
    done = threading.Event()

    def busy() -> None:
        while not done.is_set():
            network.cut(0)
            network.heal(0)

    def child() -> bytes:
        network.cut(1)
        return b"cut"

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert all(answer_of(child, SECONDS) == (b"cut", 0) for _ in range(10))
    finally:
        done.set()
        thread.join()


def test_entering_concerns_one_thread_and_whatever_is_forked_in_it(network: Network) -> None:
    hub, inside = own_namespace(), []
    before = threading.Event(), threading.Event()

    def bystander() -> None:
        before[0].wait(SECONDS)
        inside.append(own_namespace())
        before[1].set()

    thread = threading.Thread(target=bystander)
    thread.start()
    with network.hosts[0].entered():
        before[0].set()
        before[1].wait(SECONDS)
        own = own_namespace()
        forked = answer_of(lambda: own_namespace().encode(), SECONDS)[0].decode()
    thread.join()
    assert own != hub
    assert (inside, forked) == ([hub], own)
    assert own_namespace() == hub


def test_a_host_is_left_when_the_block_raises(network: Network) -> None:
    hub = own_namespace()
    with pytest.raises(KeyError), network.hosts[0].entered():
        raise KeyError
    assert own_namespace() == hub


def test_close_takes_the_thread_back_and_leaves_no_descriptor_link_or_namespace() -> None:
    def traces() -> tuple[str, set[str], list[str]]:
        return own_namespace(), set(os.listdir("/proc/self/fd")), os.listdir("/sys/class/net")

    before = traces()
    with Network(hosts=3) as network:
        network.delay(1, 30)
        made = {own_namespace(), *(os.readlink(f"/proc/self/fd/{host.fd}") for host in network.hosts)}
        assert len(made) == 4
        assert os.listdir("/sys/class/net") == before[2]
    assert traces() == before
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_a_closed_network_and_an_unknown_host_are_refused() -> None:
    with Network(hosts=1) as network, pytest.raises(InternalError, match="no host 1"):
        network.cut(1)
    with pytest.raises(InternalError, match="was closed"):
        network.heal(0)
    with pytest.raises(InternalError, match="0 hosts"):
        Network(hosts=0)


HOLD = """
import signal, socket, time
from harness.machine.network import Network
from harness.machine.sandbox import spawn_init
with Network(hosts=3) as network:
    host = network.hosts[2]
    def live():
        signal.pause()
    with host.entered():
        init = spawn_init(live)
        server = socket.create_server((host.address, 700))
    with init, socket.create_connection((host.address, 700)) as hub, server.accept()[0] as far:
        network.cut(2)
        network.delay(1, 60)
        hub.sendall(b"nobody will ever acknowledge this")
        far.sendall(b"nor this")
        print("made", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_process_leaves_no_namespace_link_or_process(end: signal.Signals) -> None:
    """Not even where the link is cut, and data are on their way that keep sockets alive when all processes are gone."""
    links, token = os.listdir("/sys/class/net"), f"{TOKEN}={end.name}-{os.getpid()}"
    name, _, value = token.partition("=")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as victim:
        assert victim.stdout and victim.stdout.readline() == b"made\n"
        networks = WatchedNetworks(processes_with(token))
        assert networks.left() == 4
        victim.send_signal(end)
    assert eventually(partial(none_with, token))
    assert eventually(networks.gone), f"{networks.left()} namespaces"
    assert os.listdir("/sys/class/net") == links


ASK = """
import json
from harness.errors import RequirementMissing
from harness.machine.network import Network
try:
    Network(hosts=1)
except RequirementMissing as error:
    print(json.dumps(error.missing))
"""


@pytest.mark.parametrize(
    ("limits", "reason", "remedy"),
    [
        pytest.param(("setpriv", "--inh-caps=-all", "--bounding-set=-all"), "not permitted", "as root", id="user"),
        pytest.param(
            ("setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin"), "not permitted", "as root", id="no-admin"
        ),
        pytest.param(
            ("unshare", "-Ur", "sh", "-c", 'echo 0 >/proc/sys/user/max_net_namespaces && exec "$0" "$@"'),
            "No space left",
            "max_net_namespaces",
            id="limit",
        ),
    ],
)
def test_what_this_machine_forbids_is_told_with_a_remedy(limits: tuple[str, ...], reason: str, remedy: str) -> None:
    done = subprocess.run([*limits, sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    ((what, why, how),) = json.loads(done.stdout)
    assert what == "network namespaces"
    assert reason in why and remedy in how


def test_a_refusal_leaves_the_thread_where_it_was() -> None:
    def traces() -> tuple[str, set[str]]:
        return own_namespace(), set(os.listdir("/proc/self/fd"))

    before, limits = traces(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before[1]) + 5, limits[1]))
    try:
        assert refusal(lambda: Network(hosts=40)) == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert traces() == before


def test_the_probe_makes_a_host_and_leaves_nothing() -> None:
    before = own_namespace(), set(os.listdir("/proc/self/fd")), threading.active_count()
    assert probes.networks() is None
    assert (own_namespace(), set(os.listdir("/proc/self/fd")), threading.active_count()) == before
