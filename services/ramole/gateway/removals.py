"""Delete and revoke. A deletion lets running requests finish; a revocation stops a content everywhere, at once."""

from __future__ import annotations

import logging
from collections.abc import Collection

from ramole.core import access
from ramole.core.errors import Conflict, NotFound, RamoleError
from ramole.core.names import AdapterName, AdapterRef
from ramole.gateway.backends import Backends
from ramole.gateway.finisher import Finisher
from ramole.gateway.upkeep import Upkeep
from ramole.gateway.uploads import Uploads
from ramole.transport.values import ref_from_pb
from ramole.v1.adapters_pb2 import DeleteStoredRequest

_log = logging.getLogger(__name__)


class Removals:
    """Removes versions everywhere. Once begun a removal runs to its end."""

    def __init__(self, backends: Backends, uploads: Uploads, finisher: Finisher, upkeep: Upkeep) -> None:
        self._backends = backends
        self._uploads = uploads
        self._finisher = finisher
        self._upkeep = upkeep

    async def delete(
        self, name: AdapterName, *, comment: str = "", expected_version: int | None = None
    ) -> list[AdapterRef]:
        """Removes one version, or all of a name: out of the index, so that no search finds it, then out of the store.

        Args:
            comment: why; kept in the history.
            expected_version: only if this is the latest version of the name.

        Returns:
            The versions that are gone.

        Raises:
            NotFound: there is no such adapter.
            Conflict: `expected_version` is not the latest.
            RamoleError: a service failed; the same call can simply be made again.
        """
        return await self._finisher.finish(self._delete(name, comment, expected_version))

    async def revoke(
        self, name: AdapterName, *, comment: str = "", expected_version: int | None = None
    ) -> tuple[list[AdapterRef], int]:
        """Removes one version, or all of a name, and every other version of the tenant with the same content.

        Out of the store and off the devices first, so that it works without an index; requests that run with the
        content end with CANCELLED. Revoking again what is revoked finishes what may have failed. Arguments as `delete`.

        Returns:
            The versions that are gone, and how many running requests were aborted.

        Raises:
            As `delete`.
        """
        return await self._finisher.finish(self._revoke(name, comment, expected_version))

    async def _delete(self, name: AdapterName, comment: str, expected_version: int | None) -> list[AdapterRef]:
        refs = await self._versions(name)
        if expected_version is None or expected_version == await self._latest_version(name):
            await self._backends.unindex(refs)
        try:
            request = DeleteStoredRequest(adapter=str(name), comment=comment, expected_version=expected_version)
            deleted = await self._backends.adapters.DeleteStored(request)
        except Conflict:
            # Nothing is removed; if the name got another version just now, what left the index comes back.
            await self._uploads.restore(name)
            raise
        removed = [ref_from_pb(ref) for ref in deleted.removed]
        await self._backends.unindex(sorted(set(removed) - set(refs), key=str))  # uploaded in between
        await self._restore(removed)
        try:
            await self._backends.evict(deleted.freed_digests, abort=False)
        except RamoleError as error:
            _log.warning("deleted adapters stay on the devices until their slots are needed: %s", error)
        return removed

    async def _revoke(
        self, name: AdapterName, comment: str, expected_version: int | None
    ) -> tuple[list[AdapterRef], int]:
        try:
            request = DeleteStoredRequest(
                adapter=str(name), comment=comment, is_revocation=True, expected_version=expected_version
            )
            deleted = await self._backends.adapters.DeleteStored(request)
            refs = [ref_from_pb(ref) for ref in deleted.removed]
            held = {ref.digest for ref in refs} - set(deleted.freed_digests)
        except NotFound:
            refs, held = await self._backends.revoked(name)
            if not refs:
                raise
            self._upkeep.ask()
        aborted = await self._abort({ref.digest for ref in refs}, held, name.tenant)
        # An earlier try may have come no further than the store with some of them.
        before, held = await self._backends.revoked(name)
        aborted += await self._abort({ref.digest for ref in before} - {ref.digest for ref in refs}, held, name.tenant)
        try:
            await self._backends.unindex(refs)
            await self._restore(refs)
        except RamoleError as error:
            # No executor gets the content any more: a search that finds it is routed once more.
            self._upkeep.ask()
            _log.warning("what was revoked leaves the index later: %s", error)
        return refs, aborted

    async def _abort(self, digests: set[str], held: set[str], tenant: str) -> int:
        """Ends the requests that run with revoked contents.

        Of those that other tenants have in their own right (`held`) only requests that use an adapter of this tenant
        end: to upload somebody's adapter again and to revoke it must not reach the requests that use his.
        """
        aborted = await self._backends.evict(sorted(digests - held), abort=True)
        return aborted + await self._backends.evict(sorted(digests & held), abort=True, tenant=tenant)

    async def _restore(self, removed: Collection[AdapterRef]) -> None:
        """Makes older versions findable again where the latest one is gone."""
        newest: dict[AdapterName, int] = {}
        for ref in removed:
            name = AdapterName(ref.tenant, ref.name)
            newest[name] = max(ref.version, newest.get(name, 0))
        for name, version in newest.items():
            if 0 < await self._latest_version(name) < version:
                await self._uploads.restore(name)

    async def _latest_version(self, name: AdapterName) -> int:
        found = await self._backends.find(AdapterName(name.tenant, name.name))
        return 0 if found is None else found.record.adapter.version

    async def _versions(self, name: AdapterName) -> list[AdapterRef]:
        if name.version:
            found = await self._backends.find(name)
            refs = [ref_from_pb(found.record.adapter)] if found is not None and found.is_live else []
        else:
            refs = [ref async for ref in self._backends.live(name)]
        if not refs:
            raise access.missing(name)
        return refs
