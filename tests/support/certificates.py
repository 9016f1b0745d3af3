"""Certificates of a CA of one's own, for tests of TLS."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates for this machine and for clients.

    Attributes:
        pem: its own certificate.
    """

    def __init__(self, name: str = "tests") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.pem = self._sign(self._name, self._key)

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """A certificate for localhost that bears `name`, and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._sign(_named(name), key, also=(x509.DNSName(name),)), _key_pem(key)

    def write(self, folder: Path, name: str) -> tuple[Path, Path, Path]:
        """Files of a certificate, its key and the CA in `folder`."""
        cert, key = self.issue(name)
        paths = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        for path, pem in zip(paths, (cert, key, self.pem), strict=True):
            path.write_bytes(pem)
        return paths

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, also: tuple[x509.GeneralName, ...] = ()) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")), *also]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=not also, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
