"""Which connections gRPC would lead through the proxy that the environment names, and which never go there."""

from __future__ import annotations

import os

from ramole.core.address import is_loopback

_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def proxy_option(address: str) -> tuple[str, int]:
    """The channel option for ``host:port``: what is on this machine is reached directly."""
    return ("grpc.enable_http_proxy", int(not is_loopback(address)))


def proxy_remedy(address: str) -> str:
    """What to do about a proxy between here and ``host:port``; empty if there is none."""
    from urllib.request import proxy_bypass  # with an HTTP client and all that it loads

    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    exceptions = next((os.environ[name] for name in _EXCEPTIONS if os.environ.get(name)), "")
    host = address.rpartition(":")[0].strip("[]")
    if variable is None or is_loopback(address) or proxy_bypass(host, {"no": exceptions}):
        return ""
    return f"it goes through the proxy that {variable} names: list {host} in no_proxy if that is wrong"
