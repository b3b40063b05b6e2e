"""Which interface, address and port processes take, on this machine's own network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from cluster.config import NetworkConfig
from cluster.network import check_interfaces, choose_interface, network, network_environment, rendezvous

LOOPBACK = next(name for name, there in psutil.net_if_addrs().items() if "127.0.0.1" in (a.address for a in there))
CHOICES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


def take(**settings: Any) -> None:
    os.environ.update(network_environment(NetworkConfig(**settings)))


def chosen() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in CHOICES)


def test_settings_reach_another_process_by_its_environment() -> None:
    assert network_environment(NetworkConfig()) == {} and network() == NetworkConfig()
    take(interfaces=["eth7", LOOPBACK], rendezvous_ports=(23100, 23199), collective_s=60)
    assert network() == NetworkConfig(interfaces=["eth7", LOOPBACK], rendezvous_ports=(23100, 23199), collective_s=60)


def test_by_default_sockets_are_where_ray_knows_the_node() -> None:
    choose_interface("127.0.0.1")
    assert chosen() == (LOOPBACK, f"={LOOPBACK}")
    address, port = rendezvous("127.0.0.1")
    assert address == "127.0.0.1" and port > 0


def test_an_address_that_no_interface_has_leaves_the_choice_to_the_libraries() -> None:
    choose_interface("203.0.113.7")
    assert chosen() == (None, None)
    assert rendezvous("203.0.113.7")[0] == "203.0.113.7"


def test_the_first_interface_that_a_node_has_is_taken() -> None:
    take(interfaces=["eth7", LOOPBACK])
    choose_interface("203.0.113.7")
    assert chosen() == (LOOPBACK, f"={LOOPBACK}") and rendezvous("203.0.113.7")[0] == "127.0.0.1"


def test_what_the_environment_names_stays() -> None:
    take(interfaces=[LOOPBACK])
    os.environ["NCCL_SOCKET_IFNAME"] = "ib"
    choose_interface("127.0.0.1")
    assert chosen() == (LOOPBACK, "ib")


def test_a_node_without_the_interface_says_what_it_has() -> None:
    take(interfaces=["eth7", "ens99"])
    for look in (
        lambda: choose_interface("127.0.0.1"),
        lambda: rendezvous("127.0.0.1"),
        lambda: check_interfaces(network()),
    ):
        with pytest.raises(ValueError, match=rf"cluster\.network\.interfaces: eth7, ens99, .*\b{LOOPBACK}\b"):
            look()


def test_ports_that_are_taken_are_passed_over() -> None:
    first, second = neighbours()
    ports = first.getsockname()[1], second.getsockname()[1]
    take(rendezvous_ports=ports)
    with first:
        with second, pytest.raises(ValueError, match=rf"rendezvous_ports: none of {ports[0]} to {ports[1]} is free"):
            rendezvous("127.0.0.1")
        assert rendezvous("127.0.0.1") == ("127.0.0.1", ports[1])


def neighbours() -> tuple[socket.socket, socket.socket]:
    """Two sockets that listen, on ports one after the other."""
    for _ in range(100):
        first, second = socket.socket(), socket.socket()
        first.bind(("", 0))
        first.listen()
        try:
            second.bind(("", first.getsockname()[1] + 1))
            second.listen()
            return first, second
        except (OSError, OverflowError):
            first.close()
            second.close()
    raise AssertionError("no two free ports")


@pytest.mark.parametrize(
    "settings",
    [
        {"interfaces": ["eth0,eth1"]},
        {"interfaces": ["^docker"]},
        {"interfaces": "eth0"},
        {"rendezvous_ports": (2000, 1999)},
        {"rendezvous_ports": (80, 90)},
        {"rendezvous_ports": (65000, 70000)},
        {"collective_s": 0},
        {"interface": "eth0"},
    ],
    ids=str,
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NetworkConfig(**settings)
