"""A real Milvus server behind TLS and a password."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ramole.core.errors import Unavailable
from ramole.core.names import AdapterRef
from ramole.core.settings import RetrievalSettings, Settings
from ramole.lab.milvus_server import MilvusServer
from ramole.retrieval.servicer import RetrievalService
from ramole.transport.values import ref_to_pb
from ramole.transport.vectors import vector_to_pb
from ramole.v1.retrieval_pb2 import AdapterVectors, SearchRequest, UpsertRequest

TOKEN = "root:Milvus"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a self-signed certificate of this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, encoding = folder / "server.pem", serialization.Encoding.PEM
    pem.write_bytes(made.public_bytes(encoding))
    key_file = folder / "server.key"
    key_file.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return key_file, pem


async def test_only_who_knows_the_authority_and_the_password_gets_in(
    start_milvus: Callable[..., MilvusServer], tmp_path: Path
) -> None:
    key_file, pem = certificate(tmp_path)
    server = start_milvus(
        tls_mode=1,
        server_pem_path=str(pem),
        server_key_path=str(key_file),
        ca_pem_path=str(pem),
        authorization_enabled=True,
    )
    address = f"https://localhost:{server.port}"
    good = RetrievalSettings(uri=address, token=TOKEN, ca_file=str(pem), timeout_s=30)
    service = RetrievalService(Settings(retrieval=good))
    await service.start()
    ref = AdapterRef("acme", "mail", 1, "0" * 64)
    vector = vector_to_pb(np.array([1.0, 0.0], np.float32))
    vectors = AdapterVectors(adapter=ref_to_pb(ref), base_model="base", samples=[vector])
    await service.Upsert(UpsertRequest(adapters=[vectors], encoder_id="enc"), None)  # type: ignore[arg-type]
    search = SearchRequest(vector=vector, encoder_id="enc", base_model="base", tenant="acme", k=1)
    assert [hit.adapter.name for hit in (await service.Search(search, None)).hits] == ["mail"]  # type: ignore[arg-type]
    await service.close()
    for change in (
        {"token": "root:wrong"},
        {"token": ""},
        {"ca_file": ""},
        {"uri": f"http://localhost:{server.port}"},
    ):
        service = RetrievalService(Settings(retrieval=good.model_copy(update={**change, "timeout_s": 5.0})))
        await service.start()
        with pytest.raises(Unavailable, match="does not answer"):
            await service.Search(search, None)  # type: ignore[arg-type]
        await service.close()
    server.stop()
