from __future__ import annotations

import pytest

from ramole.zoo.catalog import Zoo, load_zoo


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return load_zoo()
