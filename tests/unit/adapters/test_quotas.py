"""Each limit with its field, and the sliding minute."""

from __future__ import annotations

import pytest

from ramole.adapters.intake.quotas import Quotas
from ramole.adapters.store.catalog import TenantUsage
from ramole.core.errors import LimitExceeded
from ramole.core.settings import AdapterSettings, QuotaSettings


def quotas(clock: list[float]) -> Quotas:
    quota = QuotaSettings(max_adapters=2, max_bytes=100, uploads_per_minute=2)
    settings = AdapterSettings(quota=quota, tenant_quotas={"big": QuotaSettings(max_adapters=3)})
    return Quotas(settings, lambda: clock[0])


@pytest.mark.parametrize(
    ("tenant", "usage", "field"),
    [
        ("small", TenantUsage(2, 100), ""),
        ("small", TenantUsage(3, 1), "quota.max_adapters"),
        ("small", TenantUsage(1, 101), "quota.max_bytes"),
        ("big", TenantUsage(3, 10**12), ""),
        ("big", TenantUsage(4, 1), "quota.max_adapters"),
    ],
)
def test_what_a_tenant_may_hold(tenant: str, usage: TenantUsage, field: str) -> None:
    limits = quotas([0.0])
    if not field:
        limits.check(tenant, usage)
        return
    with pytest.raises(LimitExceeded, match=tenant) as caught:
        limits.check(tenant, usage)
    assert caught.value.field == field
    assert caught.value.remedy


def test_uploads_of_any_sixty_seconds() -> None:
    clock = [0.0]
    limits = quotas(clock)
    for clock[0] in (0.0, 50.0):
        limits.begin_upload("small")
    clock[0] = 59.9
    with pytest.raises(LimitExceeded) as caught:
        limits.begin_upload("small")
    assert caught.value.field == "quota.uploads_per_minute"
    assert "retry in 0 s" in caught.value.remedy
    assert caught.value.retry_after_s == pytest.approx(0.1)
    limits.begin_upload("other")
    clock[0] = 60.0
    limits.begin_upload("small")
    clock[0] = 109.0
    with pytest.raises(LimitExceeded, match="'small'"):
        limits.begin_upload("small")
    for _ in range(99):
        limits.begin_upload("big")


def test_uploads_at_once() -> None:
    settings = AdapterSettings(tenant_quotas={"small": QuotaSettings(uploads_at_once=1)})
    limits = Quotas(settings)
    with limits.running("small"):
        with pytest.raises(LimitExceeded) as caught, limits.running("small"):
            pass
        assert caught.value.field == "quota.uploads_at_once"
        assert caught.value.retry_after_s
        with limits.running("other"), limits.running("other"):
            pass
    with limits.running("small"):
        pass
