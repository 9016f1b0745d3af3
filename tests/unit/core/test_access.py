"""Who may see and change what, by tenant and role."""

from __future__ import annotations

import pytest

from ramole.core import access
from ramole.core.call import ADMIN, ANONYMOUS, PUBLISHER, USER, CallContext, Principal, call_scope
from ramole.core.errors import PermissionDenied
from ramole.core.names import AdapterName

ANN = Principal("a", roles=frozenset({PUBLISHER}))
OPERATOR = Principal("ops", roles=frozenset({ADMIN}))


@pytest.mark.parametrize(
    ("who", "tenant", "is_public", "sees", "changes"),
    [
        (ANN, "a", False, True, True),
        (ANN, "b", True, True, False),
        (ANN, "b", False, False, False),
        (Principal("a", roles=frozenset({USER})), "a", False, True, False),
        (Principal("a"), "b", False, False, False),
        (OPERATOR, "b", False, True, True),
        (ANONYMOUS, "b", False, True, True),
    ],
)
def test_tenants_and_roles(who: Principal, tenant: str, is_public: bool, sees: bool, changes: bool) -> None:
    with call_scope(CallContext.begin(principal=who)):
        assert access.may_see(tenant, is_public=is_public) is sees
        if changes:
            assert access.named_to_change(f"{tenant}/x") == AdapterName(tenant, "x")
            return
        with pytest.raises(PermissionDenied) as refused:
            access.named_to_change(f"{tenant}/x", field="header.adapter")
        assert refused.value.field == ("header.adapter" if PUBLISHER in who.roles else "")


def test_a_name_without_a_tenant_is_the_callers_own() -> None:
    for who in (ANN, OPERATOR):
        with call_scope(CallContext.begin(principal=who)):
            assert access.named("x@2") == access.named_to_change("x@2") == AdapterName(who.tenant, "x", 2)
    assert access.named("x") == AdapterName(ANONYMOUS.tenant, "x"), "outside of any call"


def test_what_concerns_all_tenants_is_for_operators() -> None:
    with call_scope(CallContext.begin(principal=OPERATOR)):
        access.check_operator()
    with call_scope(CallContext.begin(principal=ANN)), pytest.raises(PermissionDenied):
        access.check_operator()
