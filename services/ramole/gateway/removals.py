"""Delete and revoke: out of the index first, then out of the store, then off the devices."""

from __future__ import annotations

import logging

from ramole.core.errors import Conflict, NotFound, RamoleError
from ramole.core.names import AdapterName, AdapterRef
from ramole.gateway.backends import Backends
from ramole.gateway.finisher import Finisher
from ramole.gateway.uploads import Uploads
from ramole.gateway.values import Removed

_log = logging.getLogger(__name__)


class Removals:
    """Removes versions everywhere. Once begun a removal runs to its end."""

    def __init__(self, backends: Backends, uploads: Uploads, finisher: Finisher) -> None:
        self._backends = backends
        self._uploads = uploads
        self._finisher = finisher

    async def remove(
        self, name: AdapterName, *, abort: bool, comment: str = "", expected_version: int | None = None
    ) -> Removed:
        """Removes one version, or all of a name.

        Args:
            abort: whether requests that run with it end with CANCELLED; otherwise they finish.
            comment: why; kept in the history.
            expected_version: only if this is the latest version of the name.

        Raises:
            NotFound: there is no such adapter.
            Conflict: `expected_version` is not the latest.
            RamoleError: a service failed; the same call can simply be made again.
        """
        return await self._finisher.finish(self._remove(name, abort, comment, expected_version))

    async def _remove(self, name: AdapterName, abort: bool, comment: str, expected_version: int | None) -> Removed:
        refs = await self._versions(name)
        if expected_version is None or expected_version == await self._latest_version(name):
            for ref in refs:
                await self._backends.unindex(ref)
        try:
            removed = await self._backends.delete(
                name, is_revocation=abort, comment=comment, expected_version=expected_version
            )
        except Conflict:
            # Nothing is removed; if the name got another version just now, what left the index comes back.
            await self._uploads.restore(name)
            raise
        for ref in set(removed) - set(refs):  # uploaded in between
            await self._backends.unindex(ref)
        aborted = await self._evict(removed, abort)
        if name.version:
            await self._uploads.restore(name)
        return Removed(removed, aborted)

    async def _latest_version(self, name: AdapterName) -> int:
        record = await self._backends.find(AdapterName(name.tenant, name.name))
        return 0 if record is None else record.ref.version

    async def _versions(self, name: AdapterName) -> list[AdapterRef]:
        if name.version:
            record = await self._backends.find(name)
            refs = [] if record is None else [record.ref]
        else:
            wanted = (name.tenant, name.name)
            refs = [ref async for ref in self._backends.live() if (ref.tenant, ref.name) == wanted]
        if not refs:
            raise NotFound(f"no adapter {name}", field="adapter", remedy="list what there is with ListAdapters")
        return refs

    async def _evict(self, removed: tuple[AdapterRef, ...], abort: bool) -> int:
        """Frees the slots. Only a revocation fails with it: deleted weights are merely a little longer in memory."""
        try:
            return await self._backends.evict([ref.digest for ref in removed], abort=abort)
        except RamoleError as error:
            if abort:
                raise
            _log.warning("deleted adapters stay on the devices until their slots are needed: %s", error)
            return 0
