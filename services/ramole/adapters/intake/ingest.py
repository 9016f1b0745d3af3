"""From a received upload to a staged version: quota, fetch of a source, admission, store. Blocking work in threads."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, suppress

from ramole.adapters.intake.fetches import Fetches
from ramole.adapters.intake.quotas import Quotas
from ramole.adapters.intake.sources import check_source, fetch
from ramole.adapters.intake.spools import SpoolRoom
from ramole.adapters.intake.upload import ReceivedUpload, Upload
from ramole.adapters.store.records import AdapterRecord, NewAdapter
from ramole.adapters.store.store import Store
from ramole.core.errors import RamoleError
from ramole.core.names import AdapterName
from ramole.core.settings import Settings
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import BaseShapes
from ramole.tiers.reserve import Reserve

# Each admission holds a whole adapter in memory.
_MAX_ADMISSIONS = 2
_MAX_FETCHES = 4


class Ingest:
    """Takes uploads of all tenants into one store."""

    def __init__(self, settings: Settings, store: Store, base: BaseShapes, slot_rank: int) -> None:
        self._options = settings.adapters
        self._store = store
        self._base = base
        # A wider adapter would be stored and then fit no slot of the executors.
        self._limits = AdmissionLimits(
            min(settings.adapters.max_rank, slot_rank),
            max_rank_setting="executor.slot_rank" if slot_rank < settings.adapters.max_rank else "adapters.max_rank",
            max_relative_norm=settings.adapters.max_relative_norm,
            base_revision=settings.base_revision,
        )
        self._quotas = Quotas(settings.adapters)
        self._admissions = asyncio.Semaphore(_MAX_ADMISSIONS)
        self._fetches = Fetches(_MAX_FETCHES, self._options.source_timeout_s)
        self._room = SpoolRoom(self._options.max_spool_bytes, Reserve(settings.data_dir))

    def begin(self) -> Upload:
        """A new upload, to be filled."""
        options = self._options
        return Upload(self._store.scratch, options.max_upload_bytes, options.max_samples, self._room)

    def check_quota(self, name: AdapterName) -> None:
        """Refuses an upload at its header, before the bytes travel; the store asks again. Or refuses a rollback.

        Raises:
            LimitExceeded: the tenant holds too much, or changes too much within a minute.
        """
        self._quotas.begin_upload(name.tenant)
        self._quotas.check(name.tenant, self._store.usage_with(AdapterName(name.tenant, name.name)))

    def place(self, tenant: str) -> AbstractContextManager[None]:
        """Around an upload, from its header to its end: one of those that its tenant may have at once.

        Raises:
            LimitExceeded: the tenant has as many already.
        """
        return self._quotas.running(tenant)

    async def fetch(self, upload: Upload) -> None:
        """Brings the files of an upload that names a source.

        Raises:
            InvalidInput: the source is not allowed, or is no adapter.
            Unavailable: it cannot be read, or not within its time.
            LimitExceeded: too many others are fetched, or as `Upload.write`.
        """
        await self._fetches.run(upload.source, lambda: self._fetch(upload))

    async def stage(self, upload: Upload) -> tuple[AdapterRecord, bool]:
        """Admits and stores. A caller that is gone meanwhile leaves no version behind.

        Returns:
            The record, and whether it was made, see `Store.put`.

        Raises:
            AdapterRefused: the files are not what the server can serve.
            RamoleError: as `Store.put` and `Upload.finish`.
        """
        received = await asyncio.to_thread(upload.finish)
        async with self._admissions:
            work = asyncio.create_task(asyncio.to_thread(self._admit_and_put, received))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                # The thread cannot be stopped, and needs the spooled file until it ends.
                with suppress(RamoleError):
                    record, is_created = await work
                    if is_created:
                        await asyncio.to_thread(self._store.discard, record.ref)
                raise

    def _fetch(self, upload: Upload) -> None:
        options = self._options
        check_source(upload.source, options.sources)
        upload.fetched_from(fetch(upload.source, options.source_options, options.sources, upload.write_fetched))

    def _admit_and_put(self, received: ReceivedUpload) -> tuple[AdapterRecord, bool]:
        header = received.header
        admission = admit(
            received.config_json, received.tensors(), self._base, self._limits, base_model=header.base_model
        )
        new = NewAdapter(
            name=header.name,
            base_model=self._base.base_id,
            is_public=header.is_public,
            samples=header.samples,
            idempotency_key=header.idempotency_key,
            expected_version=header.expected_version,
            report=admission.report,
            num_bytes=received.num_bytes,
            digest=received.digest,
            source=header.source,
            tags=header.tags,
            config_json=received.config_json,
            tensors_path=received.tensors_path,
        )
        return self._store.put(new, lambda usage: self._quotas.check(header.name.tenant, usage))
