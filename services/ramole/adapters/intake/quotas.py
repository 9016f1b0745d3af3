"""What a tenant may hold, and how fast it may upload."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ramole.adapters.store.catalog import TenantUsage
from ramole.core.errors import LimitExceeded
from ramole.core.settings import AdapterSettings, QuotaSettings

_WINDOW_S = 60.0
# About how long an upload takes.
_UPLOAD_S = 5.0


class Quotas:
    """The quotas of all tenants. Belongs to one event loop, except for `check`.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, settings: AdapterSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._begun: defaultdict[str, deque[float]] = defaultdict(deque)
        self._running: Counter[str] = Counter()

    def begin_upload(self, tenant: str) -> None:
        """Counts an upload that begins. Raises LimitExceeded when it is one too many within a minute."""
        limit = self._of(tenant).uploads_per_minute
        if not limit:
            return
        begun, now = self._begun[tenant], self._clock()
        while begun and begun[0] <= now - _WINDOW_S:
            begun.popleft()
        if len(begun) >= limit:
            raise _exceeded(
                tenant,
                "uploads_per_minute",
                f"{limit} uploads within a minute",
                f"retry in {begun[0] + _WINDOW_S - now:.0f} s",
                retry_after_s=begun[0] + _WINDOW_S - now,
            )
        begun.append(now)

    @contextmanager
    def running(self, tenant: str) -> Iterator[None]:
        """Around an upload, from its header to its end. Raises LimitExceeded when too many of the tenant's run."""
        limit = self._of(tenant).uploads_at_once
        if limit and self._running[tenant] >= limit:
            raise _exceeded(
                tenant,
                "uploads_at_once",
                f"{limit} uploads at once",
                "wait for one of them to end",
                retry_after_s=_UPLOAD_S,
            )
        self._running[tenant] += 1
        try:
            yield
        finally:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]

    def check(self, tenant: str, usage: TenantUsage) -> None:
        """Raises LimitExceeded when a tenant would hold too much."""
        quota = self._of(tenant)
        if quota.max_adapters and usage.num_adapters > quota.max_adapters:
            raise _exceeded(tenant, "max_adapters", f"{quota.max_adapters} adapters", "delete some")
        if quota.max_bytes and usage.num_bytes > quota.max_bytes:
            raise _exceeded(tenant, "max_bytes", f"{quota.max_bytes} bytes", "delete adapters or old versions")

    def _of(self, tenant: str) -> QuotaSettings:
        return self._settings.tenant_quotas.get(tenant, self._settings.quota)


def _exceeded(tenant: str, name: str, limit: str, remedy: str, *, retry_after_s: float | None = None) -> LimitExceeded:
    return LimitExceeded(
        f"tenant {tenant!r} is at its limit of {limit}",
        field=f"quota.{name}",
        remedy=f"{remedy}, or have the operator raise adapters.quota.{name}",
        retry_after_s=retry_after_s,
    )
