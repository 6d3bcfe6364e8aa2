"""Order of the tests, the folder of their helpers, and the few things that are started once for all of them.

tests/support/ is on the path of the tests and of Ray's workers: `fourmill_tests` holds small datasets made of photos,
specialists that misbehave, and a local S3 server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fourmill_tests.runs import Run
    from fourmill_tests.s3 import S3

TESTS = Path(__file__).parent
SUPPORT = str(TESTS / "support")
FOLDERS = {"laws": 0, "e2e": 3, "chaos": 4}  # fast ones first; the others are 1, or 2 if they need Ray

# Models of tests are tiny: threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, SUPPORT)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH", "")]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first; those of the one Ray cluster together. The order within a folder stays."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(TESTS).parts[0]
        return FOLDERS.get(folder, 2 if "ray_cluster" in getattr(item, "fixturenames", ()) else 1)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A real S3 server on loopback that notes every request. Its address is in the environment of later processes."""
    from fourmill_tests.s3 import serve

    with serve() as server:
        yield server


@pytest.fixture(scope="session")
def ray_cluster(s3: S3) -> Iterator[str]:
    """The address of one local Ray for all tests, whose workers know the S3 server. Stages called here run in it."""
    from fourmill.infra.cluster import cluster

    with cluster() as ray:
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def whole_run(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`init` and `run` on small shards, good and bad, in this process. Look, and do not write below its root."""
    from fourmill_tests import runs

    return runs.whole(tmp_path_factory.mktemp("whole"))
