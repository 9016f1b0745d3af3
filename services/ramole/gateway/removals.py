"""Delete and revoke: out of the index first, then out of the store, then off the devices."""

from __future__ import annotations

import logging

from ramole.core.errors import NotFound, RamoleError
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

    async def remove(self, name: AdapterName, *, abort: bool, comment: str = "") -> Removed:
        """Removes one version, or all of a name.

        Args:
            abort: whether requests that run with it end with CANCELLED; otherwise they finish.
            comment: why; kept in the history.

        Raises:
            NotFound: there is no such adapter.
            RamoleError: a service failed; the same call can simply be made again.
        """
        return await self._finisher.finish(self._remove(name, abort, comment))

    async def _remove(self, name: AdapterName, abort: bool, comment: str) -> Removed:
        refs = await self._versions(name)
        for ref in refs:
            await self._backends.unindex(ref)
        removed = await self._backends.delete(name, is_revocation=abort, comment=comment)
        for ref in set(removed) - set(refs):  # uploaded in between
            await self._backends.unindex(ref)
        aborted = await self._evict(removed, abort)
        if name.version:
            await self._uploads.restore(name)
        return Removed(removed, aborted)

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
