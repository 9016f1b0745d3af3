"""Certificates of ports and of those who call them. Renewed files take effect with the next connection."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from ramole.core.errors import WrongState
from ramole.core.settings import InternalTlsSettings, TlsSettings

_log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class PemFiles:
    """A certificate, its key and perhaps an authority, followed while they change.

    Files that cannot be read or do not belong together are an error at the start. Later the last good ones stay in use,
    and the log says so: whoever renews them writes two files one after the other.

    Args:
        cert_file, key_file: belong together.
        ca_file: of the authority of the other side; '' = none.
        field: the setting that they come from.

    Attributes:
        pems: what is in the files: certificate, key, and the authority if there is one.

    Raises:
        WrongState: the files cannot be used.
    """

    def __init__(self, cert_file: str, key_file: str, ca_file: str, *, field: str) -> None:
        self._field = field
        if not (cert_file and key_file):
            raise WrongState(
                "a certificate needs its key, and a CA both", field=field, remedy="give cert_file and key_file"
            )
        self._files = [Path(file) for file in (cert_file, key_file, ca_file) if file]
        self._has_ca = bool(ca_file)
        self._stamp = self._look()
        self._context = self._make_context()
        self.pems = self._read()

    @property
    def ca(self) -> bytes | None:
        """The authority."""
        return self.pems[2] if self._has_ca else None

    def follow(self) -> bool:
        """Reads the files again if they have changed. Returns whether what is in use has changed."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return False
            self._context = self._make_context()
            self.pems = self._read()
        except WrongState as error:
            _log.warning("the certificates stay as they were: %s", error)
            return False
        self._stamp = stamp
        _log.info("new certificates are in use")
        return True

    def context(self) -> ssl.SSLContext:
        """For a server: one object for its whole life, whose connections get what the files hold now."""

        def follow(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
            self.follow()
            connection.context = self._context

        context = self._make_context()
        context.sni_callback = follow  # called at each handshake, also when the client names no server
        return context

    def _look(self) -> _Stamp:
        try:
            stats = [file.stat() for file in self._files]
        except OSError as error:
            raise self._unusable(error) from error
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)

    def _read(self) -> tuple[bytes, ...]:
        try:
            return tuple(file.read_bytes() for file in self._files)
        except OSError as error:
            raise self._unusable(error) from error

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._files[0], self._files[1])
            if self._has_ca:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self._files[2])
        except OSError as error:  # an SSLError is one
            raise self._unusable(error) from error
        return context

    def _unusable(self, error: OSError) -> WrongState:
        return WrongState(
            f"the certificate, its key or the other side's CA cannot be used: {error.strerror or error}",
            field=self._field,
            remedy="give PEM files: a certificate and a key that belong together, and perhaps a CA",
        )


class ServerTls:
    """What a server shows, over gRPC and HTTP alike, and asks of its clients. Raises WrongState as `PemFiles`."""

    def __init__(self, settings: TlsSettings, *, field: str = "gateway.tls") -> None:
        self._files = PemFiles(settings.cert_file, settings.key_file, settings.client_ca_file, field=field)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`; asks for the files again at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration, require_client_authentication=self._files.ca is not None
        )

    def context(self) -> ssl.SSLContext:
        """For an HTTP server, see `PemFiles.context`."""
        return self._files.context()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        self._files.follow()
        cert, key, *_ = self._files.pems
        return grpc.ssl_server_certificate_configuration([(key, cert)], self._files.ca)


class ClientTls:
    """What a service shows to another one, and whom it believes. Raises WrongState as `PemFiles`."""

    def __init__(self, settings: InternalTlsSettings) -> None:
        self._files = PemFiles(settings.cert_file, settings.key_file, settings.ca_file, field="internal.tls")
        self._server_name = settings.server_name

    def has_changed(self) -> bool:
        """Whether the files have, since this was last asked: channels keep what they were opened with."""
        return self._files.follow()

    def open(self, address: str, options: tuple[tuple[str, object], ...]) -> grpc.aio.Channel:
        """A channel to ``host:port``."""
        cert, key, *_ = self._files.pems
        name = (("grpc.ssl_target_name_override", self._server_name),) if self._server_name else ()
        credentials = grpc.ssl_channel_credentials(self._files.ca, key, cert)
        return grpc.aio.secure_channel(address, credentials, options=(*options, *name))
