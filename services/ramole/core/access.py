"""Who may see and change what: decided here, for the principal of the current call, and nowhere else.

- A principal sees the adapters of its own tenant, and of the others those that are public.
- With the role PUBLISHER it changes adapters of its own tenant, and no others.
- ADMIN sees and changes those of every tenant, and may do what concerns all of them.

The gateway asks before a flow begins; the store asks again where the records are, so that no path leads around a check.
What a principal may not see does not exist for it: the error is `missing`, word for word.
"""

from __future__ import annotations

from ramole.core.call import ADMIN, PUBLISHER, current_call
from ramole.core.errors import NotFound, PermissionDenied
from ramole.core.names import AdapterName


def named(text: str, *, field: str = "adapter") -> AdapterName:
    """An adapter as the caller names it: without a tenant, the caller's own. Raises InvalidInput."""
    return AdapterName.parse(text, field=field, tenant=current_call().principal.tenant)


def named_to_change(text: str, *, field: str = "adapter") -> AdapterName:
    """As `named`, for an adapter that is about to be made, changed or removed.

    Raises:
        InvalidInput: no name.
        PermissionDenied: the adapters of that tenant are not the caller's to change, whether there are any or not.
    """
    name = named(text, field=field)
    if PUBLISHER not in current_call().principal.roles and not may_operate():
        raise PermissionDenied("this changes adapters", remedy=f"use a key with the role {PUBLISHER!r}")
    if not _is_own(name.tenant):
        raise PermissionDenied(
            f"adapters of tenant {name.tenant!r} are not yours to change",
            field=field,
            remedy=f"use a name of your own tenant, {current_call().principal.tenant!r}",
        )
    return name


def may_see(tenant: str, *, is_public: bool) -> bool:
    """Whether an adapter of a tenant exists for the caller."""
    return is_public or _is_own(tenant)


def may_operate() -> bool:
    """Whether the caller may see and do what concerns all tenants."""
    return ADMIN in current_call().principal.roles


def check_operator() -> None:
    """Raises PermissionDenied unless the caller may do what concerns all tenants."""
    if not may_operate():
        raise PermissionDenied("this is for operators", remedy=f"use a key with the role {ADMIN!r}")


def missing(name: AdapterName, *, field: str = "adapter") -> NotFound:
    """There is no such adapter: never was, no longer, not yet, or not for the caller."""
    return NotFound(f"no adapter {name}", field=field, remedy="list what there is with ListAdapters")


def _is_own(tenant: str) -> bool:
    return tenant == current_call().principal.tenant or may_operate()
