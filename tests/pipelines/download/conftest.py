"""One web server for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fourmill_tests.web import server


@pytest.fixture
def web() -> Iterator[server.Web]:
    with server.serve() as running:
        yield running
