"""The only place that builds filter expressions for Milvus.

Neither Milvus Lite nor Milvus 2.3 knows expression templates, so values become part of the text. Every value must
match a small alphabet without quotes, backslashes and blanks, and is written as a JSON string: it cannot end its own
literal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ramole.core.names import AdapterName, check_indexable, check_tags


def of_base(base_model: str) -> str:
    """Rows of one base model."""
    return f"base_model == {_literal(base_model, 'base_model')}"


def visible_to(tenant: str, base_model: str) -> str:
    """Rows of one base model: the tenant's own and the public ones."""
    return f"{of_base(base_model)} and (tenant == {_literal(tenant, 'tenant')} or is_public == true)"


def tagged(tags: Sequence[str]) -> str:
    """Rows that have all of these tags, of which there is at least one."""
    listed = ", ".join(json.dumps(tag) for tag in check_tags(tags))
    return f"array_contains_all(tags, [{listed}])"


def narrowed(without: Iterable[AdapterName], among: Iterable[AdapterName]) -> str:
    """Rows of none of some names, and only of others if there are some; '' = all rows."""
    left_out, only = versions_of(without), versions_of(among)
    return " and ".join(([f"not ({left_out})"] if left_out else []) + ([f"({only})"] if only else []))


def versions_of(names: Iterable[AdapterName]) -> str:
    """All rows of some adapter names, whatever their version and base model."""
    by_tenant: dict[str, list[str]] = {}
    for name in names:
        by_tenant.setdefault(name.tenant, []).append(_literal(name.name, "adapter.name"))
    return " or ".join(
        f"(tenant == {_literal(tenant, 'adapter.tenant')} and name in [{', '.join(listed)}])"
        for tenant, listed in by_tenant.items()
    )


def _literal(value: str, field: str) -> str:
    return json.dumps(check_indexable(value, field=field))
