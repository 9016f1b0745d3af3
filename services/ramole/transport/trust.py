"""How the services of one system know each other: by a secret that only they can read, by certificates, or by both."""

from __future__ import annotations

import hashlib
import hmac

from ramole.core.call import Principal
from ramole.core.errors import Unauthenticated, WrongState
from ramole.core.settings import InternalTlsSettings, TlsSettings
from ramole.transport.identity import Peer, told_principal
from ramole.transport.tls import ClientTls, ServerTls

SECRET_KEY = "x-ramole-internal"
_FIELD = "internal.tls"


class Trust:
    """Proves to other services that this process belongs to their system, and asks the same of whoever calls it.

    Args:
        secret: of the system; b"" = none. What travels is its SHA-256.
        tls: certificates that both sides show; those of its authority belong to the system. None = plain connections.

    Attributes:
        metadata: goes with every call to another service.
        server_tls: of the ports behind the edge.

    Raises:
        WrongState: neither is given, or the files of `tls` cannot be used.
    """

    def __init__(self, secret: bytes = b"", tls: InternalTlsSettings | None = None) -> None:
        self._proof = hashlib.sha256(secret).hexdigest() if secret else ""
        self._tls = tls
        self.metadata = ((SECRET_KEY, self._proof),) if secret else ()
        self.server_tls: ServerTls | None = None
        if tls is not None:
            if not tls.ca_file:
                raise WrongState(
                    "certificates without an authority prove nothing", field=_FIELD, remedy="give ca_file as well"
                )
            shown = TlsSettings(cert_file=tls.cert_file, key_file=tls.key_file, client_ca_file=tls.ca_file)
            self.server_tls = ServerTls(shown, field=_FIELD)
        if not (secret or tls):
            raise WrongState("nothing to know each other by", field="internal", remedy="give a secret or certificates")

    def client_tls(self) -> ClientTls | None:
        """For the channels of one event loop; None = plain ones."""
        return None if self._tls is None else ClientTls(self._tls)

    def identify(self, peer: Peer) -> Principal:
        """Who asks, as a service of this system says.

        Raises:
            Unauthenticated: the caller is none.
        """
        shown = peer.metadata.get(SECRET_KEY, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(shown, self._proof.encode()) or (self._tls is not None and not peer.names):
            raise Unauthenticated(
                "this port is for the services of this system", remedy="call the gateway, which is the public one"
            )
        return told_principal(peer)
