"""The run of every modality, opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourmill.runs.run import Run, open_run


@pytest.fixture(scope="session")
def run(every_run: Path) -> Run:
    return open_run(every_run)
