"""Which way processes on several nodes find and reach each other, as `cluster.network` says. No torch here.

The settings travel in a variable of the environment that every process of a run has, as processes of several kinds
(ranks of a teacher, workers of a student) need them before they talk to anybody.
"""

from __future__ import annotations

import os
import random
import socket

import psutil

from cluster.config import NetworkConfig

NETWORK = "STILLHOUSE_NETWORK"
"""The variable that holds the settings, as JSON."""

_CHOICES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def network_environment(config: NetworkConfig) -> dict[str, str]:
    """Variables for all processes of a run; none where all is as it is by default."""
    return {NETWORK: config.model_dump_json()} if config != NetworkConfig() else {}


def network() -> NetworkConfig:
    """The settings of the run that this process belongs to."""
    said = os.environ.get(NETWORK)
    return NetworkConfig.model_validate_json(said) if said else NetworkConfig()


def rendezvous(own_address: str) -> tuple[str, int]:
    """Where others find this process: an address of this node, and a port that is free now. `own_address` is the one
    that the node has in Ray. Raises ValueError if the node has no such interface, or no free port of the range."""
    config = network()
    address = _address_of(_interface(config, own_address)) if config.interfaces else own_address
    return address, _free_port(config, socket.AF_INET6 if ":" in address else socket.AF_INET)


def choose_interface(own_address: str) -> None:
    """Let gloo's and NCCL's sockets in this process use the node's interface, unless its environment names others.

    Without, gloo asks for the address of the host's name, which on many machines is that of the loopback: then ranks on
    other nodes are never reached. Raises ValueError if the node has none of the interfaces.
    """
    if name := _interface(network(), own_address):
        for variable in _CHOICES:
            # NCCL would take a name for the beginning of one.
            os.environ.setdefault(variable, f"={name}" if variable.startswith("NCCL") else name)


def check_interfaces(config: NetworkConfig) -> None:
    """Raise ValueError if this machine has none of the interfaces."""
    if config.interfaces:
        _address_of(_interface(config, ""))


def _interface(config: NetworkConfig, own_address: str) -> str:
    """The interface of this node; an empty name where it is not known which one has the node's address."""
    there = psutil.net_if_addrs()
    if not config.interfaces:
        holds = (name for name, addresses in there.items() if own_address in (a.address for a in addresses))
        return next(holds, "")
    for name in config.interfaces:
        if name in there:
            return name
    raise ValueError(
        f"cluster.network.interfaces: {', '.join(config.interfaces)}, and {socket.gethostname()} has "
        f"{', '.join(sorted(there))}; name one that each node has, or leave it empty"
    )


def _address_of(interface: str) -> str:
    addresses = psutil.net_if_addrs()[interface]
    for family in _FAMILIES:
        for address in addresses:
            if address.family == family and not address.address.startswith("fe80:"):
                return address.address
    raise ValueError(
        f"cluster.network.interfaces: {interface} of {socket.gethostname()} has no address; name one that has"
    )


def _free_port(config: NetworkConfig, family: int) -> int:
    first, last = config.rendezvous_ports or (0, 0)
    ports = list(range(first, last + 1))
    random.shuffle(ports)  # groups that start at once should not all try the same one
    for port in ports:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the store that will listen there does
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ValueError(
        f"cluster.network.rendezvous_ports: none of {first} to {last} is free on {socket.gethostname()}; a group of "
        "processes takes one on the node of its first: give more"
    )
