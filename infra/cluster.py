"""The Ray cluster a run works on: one that is there, or a small local one that ends with the process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Local clusters hold task results and a few batches, not datasets: columns go straight to storage.
OBJECT_STORE_BYTES = 300 * 2**20


@contextmanager
def cluster(address: str | None = None) -> Iterator[Any]:
    """Ray, connected. If this process is connected already it stays so afterwards; else it is disconnected.

    Args:
        address: of a running cluster ("auto", "ray://host:10001"); None starts a local one on this machine's cores.
    """
    # Under `uv run`, Ray would pack the working directory and start every worker through uv again; workers of a local
    # cluster share this environment, and others get the wheel.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray starts workers with a niceness of 15; here they are the work, and anything else would starve them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Threads of a worker that wait for each other must sleep, not spin, when cores are shared with other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        ray.init(address=address, **quiet)
    else:
        print("starting Ray on this machine", file=sys.stderr, flush=True)
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()
