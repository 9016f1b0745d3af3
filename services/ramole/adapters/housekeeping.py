"""What keeps a store small: retention at every publication, and once an hour all that crashes and time have left."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta

from ramole.adapters.audit import AuditLog
from ramole.adapters.content_reader import ContentReader
from ramole.adapters.store.store import Store
from ramole.core.errors import RamoleError
from ramole.core.names import AdapterName, AdapterRef
from ramole.core.settings import AdapterSettings
from ramole.tiers.reserve import Reserve

# Cheap but for the listing of all objects.
_PAUSE_S = 3600.0
_FOLLOW_S = 2.0
_FOLLOW_SHARE = 5.0
_STAGED_LIFE = timedelta(hours=1)
"""Ten times as long as any upload takes from its last byte to its publication."""

_log = logging.getLogger(__name__)


class Housekeeping:
    """Frees versions, objects and cached files that nobody needs."""

    def __init__(
        self, settings: AdapterSettings, store: Store, contents: ContentReader, audit: AuditLog, reserve: Reserve
    ) -> None:
        self._settings = settings
        self._store = store
        self._contents = contents
        self._audit = audit
        self._reserve = reserve
        self._is_replaced = False

    def forget(self, digest: str) -> None:
        """Frees the disk tier of a content that no version has any more."""
        if not self._store.has_digest(digest):
            self._contents.drop(digest)

    async def expire(self, name: AdapterName | None = None) -> None:
        """Applies retention, to one name or to all. Only the latest version of a name is in the index."""
        options = self._settings
        if not options.keep_versions and not options.keep_days:
            return
        async with self._audit.entry("expire", str(name or "")) as entry:
            entry.refs = await asyncio.to_thread(self._expire, name)
        for ref in entry.refs:
            self.forget(ref.digest)

    def _expire(self, name: AdapterName | None) -> list[AdapterRef]:
        options = self._settings
        with self._reserve.opened():
            return self._store.expire(keep_versions=options.keep_versions, keep_days=options.keep_days, name=name)

    async def _discard_forgotten(self) -> None:
        forgotten = await asyncio.to_thread(self._store.discard_forgotten, _STAGED_LIFE)
        if forgotten:
            async with self._audit.entry("discard", "") as entry:
                entry.refs, entry.detail = forgotten, "never published"
        for ref in forgotten:
            self.forget(ref.digest)

    async def follow(self) -> None:
        """Keeps up with a server that has taken the store over, until it is cancelled."""
        while True:
            start_s = time.monotonic()
            try:
                if await asyncio.to_thread(self._store.follow) and not self._is_replaced:
                    self._is_replaced = True
                    _log.warning("another server has opened the store; changes are refused here")
            except (RamoleError, OSError) as error:
                _log.debug("the store cannot be followed: %s", error)
            # A big store takes a while to read.
            await asyncio.sleep(max(_FOLLOW_S, _FOLLOW_SHARE * (time.monotonic() - start_s)))

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.expire()
                await self._discard_forgotten()
                num_freed = await asyncio.to_thread(self._store.sweep)
                await asyncio.to_thread(self._store.save_catalog)
                await asyncio.to_thread(self._reserve.fill)
                _log.info("housekeeping", extra={"fields": {"objects_freed": num_freed}})
            except (RamoleError, OSError) as error:
                _log.warning("housekeeping is put off: %s", error)
            await asyncio.sleep(_PAUSE_S)
