"""One gRPC channel for each address, shared by all calls and closed at the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from ramole.transport.poller import keep_poller
from ramole.transport.proxy import proxy_option, proxy_remedy

if TYPE_CHECKING:  # clients have no settings
    from ramole.transport.trust import Trust

_OPTIONS = (
    # Each server says what it takes; an answer of vectors can be larger than any question.
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", -1),
    # A peer that restarts is found again within a second or two instead of gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # While a call runs the peer is asked whether it lives. A process that stands still acknowledges bytes, but no ping:
    # a call to it fails while there is time for another try elsewhere.
    ("grpc.keepalive_time_ms", 4_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", 4_000),
    # How long anything sent may stay unacknowledged by the other machine (TCP_USER_TIMEOUT), as in a network that is
    # cut. It does not limit pings, as its name would have it.
    ("grpc.keepalive_timeout_ms", 4_000),
    # And how long a connection may take to be made.
    ("grpc.min_reconnect_backoff_ms", 3_000),
)
_NO_PROXY = ("grpc.enable_http_proxy", 0)

# How long calls may run on that were begun before the certificates changed.
_RETIRED_S = 3600.0


class Channels:
    """Opens channels on demand. Belongs to one event loop.

    Args:
        through_proxy: whether what is not on this machine is reached as the environment's proxy variables say. Not so
            inside the system: its addresses are never behind a proxy.
        credentials: for TLS with a public port; None = none.
        trust: of the system that this process is a part of; None = of none.

    Attributes:
        metadata: that goes with every call.
    """

    def __init__(
        self,
        *,
        through_proxy: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        trust: Trust | None = None,
    ) -> None:
        keep_poller()
        self.metadata = trust.metadata if trust is not None else ()
        self._tls = trust.client_tls() if trust is not None else None
        self._retiring: set[asyncio.Task[None]] = set()
        self._credentials = credentials
        self._through_proxy = through_proxy
        self._channels: dict[str, grpc.aio.Channel] = {}

    def get(self, address: str) -> grpc.aio.Channel:
        """The channel to ``host:port``."""
        if self._tls is not None and self._tls.has_changed():
            self._retire()
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._open(address)
        return channel

    def _open(self, address: str) -> grpc.aio.Channel:
        options = (*_OPTIONS, proxy_option(address) if self._through_proxy else _NO_PROXY)
        if self._tls is not None:
            return self._tls.open(address, options)
        if self._credentials is not None:
            return grpc.aio.secure_channel(address, self._credentials, options=options)
        return grpc.aio.insecure_channel(address, options=options)

    def _retire(self) -> None:
        """Opens no more calls on what is open; those that run go on."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            closing = asyncio.create_task(channel.close(_RETIRED_S))
            self._retiring.add(closing)
            closing.add_done_callback(self._retiring.discard)

    def remedy(self, address: str) -> str:
        """What to do, besides looking at the server, when ``host:port`` cannot be reached."""
        return proxy_remedy(address) if self._through_proxy else ""

    async def close(self) -> None:
        """Closes all of them; calls that still run on them are cancelled."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()
        for closing in self._retiring:
            closing.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
