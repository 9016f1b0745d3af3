"""Certificates of a public server, over gRPC and HTTP alike. Renewed files take effect with the next connection."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from ramole.core.errors import WrongState
from ramole.core.settings import TlsSettings

_log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class ServerTls:
    """What a server shows, and asks of its clients.

    Files that cannot be read or do not belong together are an error at the start. Later the last good ones stay in use,
    and the log says so: whoever renews them writes two files one after the other.

    Args:
        settings: with `cert_file` and `key_file`.

    Raises:
        WrongState: the files cannot be used.
    """

    def __init__(self, settings: TlsSettings) -> None:
        if not (settings.cert_file and settings.key_file):
            raise WrongState(
                "a certificate needs its key, and a CA of clients both",
                field="gateway.tls",
                remedy="give cert_file and key_file",
            )
        self._files = [Path(file) for file in (settings.cert_file, settings.key_file, settings.client_ca_file) if file]
        self._has_clients_ca = bool(settings.client_ca_file)
        self._stamp = self._look()
        self._context = self._make_context()
        self._pems = self._read()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`; asks for the files again at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration, require_client_authentication=self._has_clients_ca
        )

    def context(self) -> ssl.SSLContext:
        """For an HTTP server: one object for its whole life, whose connections get what the files hold now."""

        def follow(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
            self._follow()
            connection.context = self._context

        context = self._make_context()
        context.sni_callback = follow  # called at each handshake, also when the client names no server
        return context

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        self._follow()
        cert, key, *ca = self._pems
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca[0] if ca else None)

    def _follow(self) -> None:
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._context = self._make_context()
            self._pems = self._read()
        except WrongState as error:
            _log.warning("the certificates stay as they were: %s", error)
            return
        self._stamp = stamp
        _log.info("new certificates are in use")

    def _look(self) -> _Stamp:
        try:
            stats = [file.stat() for file in self._files]
        except OSError as error:
            raise _unusable(error) from error
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)

    def _read(self) -> tuple[bytes, ...]:
        try:
            return tuple(file.read_bytes() for file in self._files)
        except OSError as error:
            raise _unusable(error) from error

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._files[0], self._files[1])
            if self._has_clients_ca:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self._files[2])
        except OSError as error:  # an SSLError is one
            raise _unusable(error) from error
        return context


def _unusable(error: OSError) -> WrongState:
    return WrongState(
        f"the certificate, its key or the clients' CA cannot be used: {error.strerror or error}",
        field="gateway.tls",
        remedy="give PEM files: cert_file and key_file that belong together, and perhaps client_ca_file",
    )
