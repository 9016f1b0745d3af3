"""Hosts and ports as one text, also those of IPv6, whose hosts stand in brackets there."""

from __future__ import annotations

import ipaddress
import re

from ramole.core.errors import InvalidInput

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)


def join_address(host: str, port: int) -> str:
    """``host:port``, or ``[host]:port`` of an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_address(text: str, *, field: str = "address") -> str:
    """Returns `text` if it is ``host:port``. Raises InvalidInput otherwise."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise InvalidInput(
            f"{text[:160]!r} is not an address",
            field=field,
            remedy="give host:port, without http://; an IPv6 address in brackets, for example [::1]:50051",
        )
    return text


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` is surely on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
