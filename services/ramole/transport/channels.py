"""One gRPC channel for each address, shared by all calls and closed at the end."""

from __future__ import annotations

import grpc

from ramole.transport.poller import keep_poller
from ramole.transport.proxy import proxy_option, proxy_remedy

_OPTIONS = (
    # Each server says what it takes; an answer of vectors can be larger than any question.
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", -1),
    # A peer that restarts is found again within a second or two instead of gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
_NO_PROXY = ("grpc.enable_http_proxy", 0)


class Channels:
    """Opens channels on demand. Belongs to one event loop.

    Args:
        through_proxy: whether what is not on this machine is reached as the environment's proxy variables say. Not so
            inside the system: its addresses are never behind a proxy.
        credentials: for TLS; None = none.
    """

    def __init__(self, *, through_proxy: bool = False, credentials: grpc.ChannelCredentials | None = None) -> None:
        keep_poller()
        self._credentials = credentials
        self._through_proxy = through_proxy
        self._channels: dict[str, grpc.aio.Channel] = {}

    def get(self, address: str) -> grpc.aio.Channel:
        """The channel to ``host:port``."""
        channel = self._channels.get(address)
        if channel is None:
            proxy = proxy_option(address) if self._through_proxy else _NO_PROXY
            options = (*_OPTIONS, proxy)
            channel = self._channels[address] = (
                grpc.aio.insecure_channel(address, options=options)
                if self._credentials is None
                else grpc.aio.secure_channel(address, self._credentials, options=options)
            )
        return channel

    def remedy(self, address: str) -> str:
        """What to do, besides looking at the server, when ``host:port`` cannot be reached."""
        return proxy_remedy(address) if self._through_proxy else ""

    async def close(self) -> None:
        """Closes all of them; calls that still run on them are cancelled."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()
