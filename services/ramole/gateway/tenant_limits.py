"""What one tenant may ask for at once and in a minute, over all its keys and both ports of one gateway.

Tokens are known when they are there: a request is taken while the tenant's minute is not used up, and what it then
takes is counted as it comes. One request can therefore run over, and the next ones wait for it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from ramole.core.errors import LimitExceeded
from ramole.core.settings import TenantLimitSettings


class TenantLimits:
    """Counts and refuses.

    Args:
        default: limits of each tenant.
        of: limits of some, instead.
    """

    def __init__(self, default: TenantLimitSettings, of: Mapping[str, TenantLimitSettings]) -> None:
        self._default = default
        self._of = of
        self._inflight: Counter[str] = Counter()
        self._windows = SlidingWindowCounterRateLimiter(MemoryStorage())

    @contextmanager
    def request(self, tenant: str) -> Iterator[Callable[[int], None]]:
        """Holds a place for one request. Yields what counts its tokens, those of the prompt and of the answer.

        Raises:
            LimitExceeded: the tenant has used up what it may; it says how long to wait.
        """
        limits = self._of.get(tenant, self._default)
        if limits.requests_in_flight is not None and self._inflight[tenant] >= limits.requests_in_flight:
            raise LimitExceeded(
                f"{limits.requests_in_flight} requests of this tenant are running",
                field="tenant",
                remedy="retry when one has ended",
                retry_after_s=1.0,
            )
        tokens = None if limits.tokens_per_minute is None else RateLimitItemPerMinute(limits.tokens_per_minute)
        if tokens is not None and not self._windows.test(tokens, "tokens", tenant):
            raise self._used_up(tokens, "tokens", tenant)
        if limits.requests_per_minute is not None:
            requests = RateLimitItemPerMinute(limits.requests_per_minute)
            if not self._windows.hit(requests, "requests", tenant):
                raise self._used_up(requests, "requests", tenant)

        def spend(num_tokens: int) -> None:
            if tokens is not None and num_tokens:
                # What runs over the limit fills the window; the library would not count it at all.
                left = self._windows.get_window_stats(tokens, "tokens", tenant).remaining
                self._windows.hit(tokens, "tokens", tenant, cost=max(1, min(num_tokens, left)))

        self._inflight[tenant] += 1
        try:
            yield spend
        finally:
            self._inflight[tenant] -= 1
            if not self._inflight[tenant]:
                del self._inflight[tenant]

    def _used_up(self, item: RateLimitItemPerMinute, what: str, tenant: str) -> LimitExceeded:
        wait_s = max(1.0, self._windows.get_window_stats(item, what, tenant).reset_time - time.time())
        return LimitExceeded(
            f"{item.amount} {what} a minute are used up",
            field="tenant",
            remedy=f"retry after {wait_s:.0f} s, or ask the operator for more",
            retry_after_s=wait_s,
        )
