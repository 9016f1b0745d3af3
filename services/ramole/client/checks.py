"""What a client refuses by itself, because it cannot be sent: with the errors that the server would answer."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import Message

from ramole.core.errors import InvalidInput
from ramole.core.texts import check_text

M = TypeVar("M", bound=Message)

_GRPC_SCHEMES = ("dns:", "unix:", "ipv4:", "ipv6:")
_MAX_PORT = 65_535


def message(kind: type[M], /, **fields: Any) -> M:
    """A message of these fields. Raises InvalidInput, by the field's name, for a value that it cannot hold."""
    try:
        return kind(**fields)
    except (ValueError, TypeError):  # of no field in particular
        for field, value in fields.items():
            _check(kind, field, value)
        raise


def check_address(address: str) -> str:
    """Returns ``host:port``, or a name that gRPC resolves itself, e.g. ``dns:///host:port``.

    Raises:
        InvalidInput: it is none of these; says which part is wrong.
    """
    broken = "" if address.startswith(_GRPC_SCHEMES) else _broken_address(address)
    if broken:
        raise InvalidInput(
            f"{address[:160]!r} is no address: {broken}", field="address", remedy="use host:port, e.g. 127.0.0.1:50051"
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


def _check(kind: type[Message], field: str, value: object) -> None:
    if isinstance(value, str):
        check_text(value, field=field)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if isinstance(item, str):
                check_text(item, field=f"{field}[{index}]")
    try:
        kind(**{field: value})
    except (ValueError, TypeError):
        raise InvalidInput(f"{value!r:.80} is out of its range", field=field, remedy="see the protocol") from None
