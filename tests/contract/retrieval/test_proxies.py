"""Proxy variables: the embedded index is reached directly, and a proxy before another machine's is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramole.core.errors import Unavailable
from ramole.core.names import AdapterRef
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.values import IndexEntry, Row

PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def test_the_embedded_index_is_never_behind_a_proxy(dead_proxy: None, tmp_path: Path) -> None:
    index = VectorIndex.open(str(tmp_path / "index.db"))
    index.upsert(
        [IndexEntry(Row(AdapterRef("acme", "mail", 1, "0" * 64), "base", False), [[1.0, 0.0]])], encoder_id="enc"
    )
    found = index.search([1.0, 0.0], encoder_id="enc", base_model="base", tenant="acme", k=1)
    assert [hit.ref.name for hit in found.hits] == ["mail"]
    index.close()


def test_a_proxy_before_another_machine_is_named_to_the_operator(
    dead_proxy: None, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Unavailable):
        VectorIndex.open("http://milvus.invalid:19530", timeout_s=2)
    assert "grpc_proxy" in caplog.text
    assert "milvus.invalid" in caplog.text
