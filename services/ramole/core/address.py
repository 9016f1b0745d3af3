"""Hosts and ports as one text, also those of IPv6, whose hosts stand in brackets there."""

from __future__ import annotations

import ipaddress

from ramole.core.errors import InvalidInput

_GRPC_SCHEMES = ("dns:", "unix:", "ipv4:", "ipv6:")
_MAX_PORT = 65_535


def join_address(host: str, port: int) -> str:
    """``host:port``, or ``[host]:port`` of an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_address(address: str) -> str:
    """Returns ``host:port``, or a name that gRPC resolves itself, e.g. ``dns:///host:port``.

    Raises:
        InvalidInput: it is none of these; says which part is wrong.
    """
    broken = "" if address.startswith(_GRPC_SCHEMES) else _broken_address(address)
    if broken:
        raise InvalidInput(
            f"{address[:160]!r} is no address: {broken}",
            field="address",
            remedy="use host:port, e.g. 127.0.0.1:50051 or [::1]:50051",
        )
    return address


def _broken_address(address: str) -> str:
    """Which rule it breaks; empty if none."""
    scheme, is_url, _ = address.partition("://")
    host, has_port, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= len(str(_MAX_PORT)) and 0 < int(port) <= _MAX_PORT
    odd = next((char for char in address if not char.isprintable() or char in " /@?#"), "")
    rules = (
        (is_url, f"{scheme}:// does not belong to it, the port speaks gRPC"),
        (odd, f"it holds {odd!r}"),
        (not has_port or address.endswith("]"), "it has no port"),
        (not host, "it has no host"),
        (":" in host and not (host.startswith("[") and host.endswith("]")), "IPv6 stands in brackets, [::1]:50051"),
        (not is_port, f"the port {port[:20]!r} is none from 1 to {_MAX_PORT}"),
    )
    return next((rule for is_broken, rule in rules if is_broken), "")


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` is surely on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
