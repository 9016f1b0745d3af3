"""Contents that a tenant has revoked, as ``revoked/<tenant>/<digest>``.

Written before the versions go, so a crash in between is finished at the next start; kept for ever, so that the content
does not come back under another name. An operator allows a content again by removing its file, then restarts.
"""

from __future__ import annotations

from ramole.adapters.store.files import Files
from ramole.core.errors import WrongState

_FOLDER = "revoked"


class Revocations:
    """All of a store. Read at its start."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.read()

    def read(self) -> None:
        """Those that another server has made, too."""
        keys = self._files.keys(_FOLDER)
        self._revoked = {(parts[1], parts[2]) for key in keys if len(parts := key.split("/")) == 3}

    def __contains__(self, content: tuple[str, str]) -> bool:
        """Whether a (tenant, digest) is revoked."""
        return content in self._revoked

    def add(self, tenant: str, digest: str, comment: str) -> None:
        """Revokes a content, durably."""
        self._files.write(_key(tenant, digest), comment.encode())
        self._revoked.add((tenant, digest))

    def comment(self, tenant: str, digest: str) -> str:
        """Why it was revoked."""
        return self._files.read(_key(tenant, digest)).decode(errors="replace")

    def check(self, tenant: str, digest: str) -> None:
        """Raises WrongState when the content is revoked."""
        if (tenant, digest) in self._revoked:
            raise WrongState(
                f"{tenant} has revoked this content ({digest[:12]})",
                field="adapter",
                remedy="train it anew; the operator can allow it again, see the README",
            )


def _key(tenant: str, digest: str) -> str:
    return f"{_FOLDER}/{tenant}/{digest}"
