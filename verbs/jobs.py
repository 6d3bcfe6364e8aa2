"""Jobs of a cluster, as `submit` and `jobs` show them."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..infra import stopping
from ..infra.secrets import hidden, hide, public

if TYPE_CHECKING:
    from ..infra.submission.jobs import JobDetails, Jobs

ADDRESS = "RAY_API_SERVER_ADDRESS"  # as of Ray's own commands
INTERRUPTED = 130


def connected(address: str | None) -> Jobs:
    """The jobs of the cluster of `--address`. ValueError if there is none, ClusterError if it does not answer."""
    address = address or os.environ.get(ADDRESS)
    if not address:
        raise ValueError(f"name the cluster: --address http://HEAD:8265, or {ADDRESS}")
    from ..infra.submission.jobs import Jobs

    return Jobs(address)


def of_root(cluster: Jobs, root: str) -> Iterator[str]:
    """A sentence for each job that is at a root now."""
    for one in cluster.listed():
        about = one.metadata or {}
        if about.get("root") == public(root) and not one.status.is_terminal():
            yield f"job {one.submission_id} ({about.get('stage')}) is at the same root already"


def follow(cluster: Jobs, name: str, begins: str = "") -> int:
    """Show the log of a job until it has ended; returns its exit status. What interrupts this stops no job.

    Args:
        begins: a line before the log.
    """
    from ..infra.submission.jobs import exit_status

    try:
        if begins:
            print(begins, flush=True)
        details = cluster.follow(name, _show)
    except KeyboardInterrupt as interrupt:
        where = f"{name} --address {public(cluster.address)}"
        kept = f"the job goes on: `fourmill jobs logs {where} --follow` shows it, `fourmill jobs stop {where}` ends it"
        raise stopping.because_of(interrupt, kept) from None
    status = exit_status(details)
    print(f"job {name} {state(details)}", file=sys.stderr)
    return status


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def state(details: JobDetails) -> str:
    """How a job stands, in words."""
    from ..infra.submission.jobs import exit_status

    words = {"PENDING": "waits", "RUNNING": "runs", "SUCCEEDED": "has succeeded", "STOPPED": "was stopped"}
    if (known := words.get(details.status.value)) is not None:
        return known
    if details.driver_exit_code is not None:
        return f"has failed, exit status {exit_status(details)}"
    return f"has failed: {hide(_first_line(details.message))}"


def _first_line(text: str | None) -> str:
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), "no reason is known")


def as_json(details: JobDetails) -> dict[str, Any]:
    """What is known of a job, without the values of its environment."""
    environment = (details.runtime_env or {}).get("env_vars") or {}
    about = details.metadata or {}
    known = {
        "job": details.submission_id,
        "state": details.status.value.lower(),
        "stage": about.get("stage"),
        "root": about.get("root"),
        "fourmill": about.get("fourmill"),
        "submitted": _time(details.start_time),
        "ended": _time(details.end_time),
        "seconds": _seconds(details),
        "exit_code": details.driver_exit_code,
        "command": details.entrypoint,
        "variables": sorted(environment),
        "message": _first_line(details.message),
    }
    return hidden(known)


def _time(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _seconds(details: JobDetails) -> float | None:
    if not details.start_time:
        return None
    end = details.end_time / 1000 if details.end_time else time.time()
    return round(max(0.0, end - details.start_time / 1000), 1)
