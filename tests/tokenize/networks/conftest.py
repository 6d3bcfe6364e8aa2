"""All tests of networks compare in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fourmill_tests.precision import float64


@pytest.fixture(scope="module", autouse=True)
def _float64() -> Iterator[None]:
    with float64():
        yield
