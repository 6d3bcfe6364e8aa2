"""The Ray cluster a run works on: one that is there, or a small local one that ends with the process."""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from . import stopping
from .progress import said

logger = logging.getLogger(__name__)

# Local clusters hold task results and a few batches, not datasets: columns go straight to storage.
OBJECT_STORE_BYTES = 300 * 2**20
STARTS = 3  # of a local Ray, which gives its own head 30 s and no more
ANSWER_SECONDS = 10.0  # that the head of a cluster has to take a connection
NEVER_SECONDS = 10**9
SLOW_START = "timed out during startup"
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
AUTH_MODE = "RAY_AUTH_MODE"
_started_here = False
THROUGH_UV = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
PATIENCE = "RAY_gcs_server_port_wait_time_s"  # of a driver as well (Ray 2.60)


class ClusterError(RuntimeError):
    """Ray does not start here, or does not answer there; the text says what to do."""


@contextmanager
def cluster(address: str | None = None) -> Iterator[Any]:
    """Ray, connected. If this process is connected already it stays so afterwards; else it is disconnected.

    Args:
        address: of a running cluster ("auto", "host:6379", "ray://host:10001"); None takes RAY_ADDRESS, or starts a
            local one on this machine's cores.

    Raises:
        ClusterError: it does not answer, or does not start.
    """
    ray = _imported()
    if ray.is_initialized():
        yield ray
        return
    global _started_here
    with stopping.kept():
        if address:
            _connect(ray, address, f"engine.address: {address}")
        elif address := address_of(None):
            _connect(ray, address, f"RAY_ADDRESS={address}")
        else:
            _start(ray)
            _started_here = True
    try:
        yield ray
    finally:
        _started_here = False
        ray.shutdown()


def _imported() -> Any:
    """Ray, with what must be set before it starts anything."""
    # Under `uv run`, Ray would pack the working directory and start every worker through uv again; workers of a local
    # cluster share this environment, and others get the wheel.
    through_uv = os.environ.setdefault(THROUGH_UV, "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray starts workers with a niceness of 15; here they are the work, and anything else would starve them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Threads of a worker that wait for each other must sleep, not spin, when cores are shared with other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import ray
    from ray._private import ray_constants

    if through_uv == "0":  # Ray reads it when it is imported, which others may have done before
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    return ray


def address_of(address: str | None) -> str:
    """The cluster that is named, by an address or else by RAY_ADDRESS; "" for none."""
    return address or os.environ.get("RAY_ADDRESS", "")


def draining() -> set[str]:
    """Ids of the nodes that are about to leave; Ray Train itself looks here (Ray 2.60)."""
    from ray._private.state import state

    try:
        return set(state.get_draining_nodes())
    except Exception as error:  # it only helps to lose less
        logger.debug("nodes that are about to leave are not known: %s", error)
        return set()


def has_meters() -> bool:
    """Whether what this process measures joins the metrics of a cluster: not on a Ray of its own, which nobody reads,
    nor as a client of one (ray://), which is no process of it."""
    from ray.util.client import ray as client

    return not _started_here and not client.is_connected()


def started_here() -> bool:
    """Whether this process has started the Ray that it uses: the workers have its environment, and its machine."""
    return _started_here


def _start(ray: Any) -> None:
    """A Ray of this machine. On busy cores it may give up on its own start, and is asked again."""
    # Nothing takes this machine back by a notice: Ray Train needs no process that looks for one.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Nothing is sent of the workers' logs (`log_to_driver`). Ray's process that reads them for that looks for new ones
    # ten times a second, 3 % of a core after some jobs; this way it finds none.
    os.environ.setdefault("RAY_LOG_MONITOR_MANY_FILES_THRESHOLD", "0")
    os.environ.setdefault("LOG_NAME_UPDATE_INTERVAL_S", str(NEVER_SECONDS))
    print("starting Ray on this machine", file=sys.stderr, flush=True)
    for _ in range(STARTS):
        try:
            with said("Ray is still starting"):
                ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **QUIET)
            return
        except Exception as error:  # Ray raises a bare one
            _end_what_started(error)
            if SLOW_START not in str(error):
                raise
            ray.shutdown()
            print("Ray did not start within 30 s", file=sys.stderr, flush=True)
    raise ClusterError(
        f"Ray did not start on this machine in {STARTS} attempts; if other work keeps its cores busy, run the same "
        "command again when there is less, or use a running cluster (engine.address)"
    )


def _end_what_started(error: Exception) -> None:
    """End the daemons of a start that failed. They would live as long as this process, and take the cores that the next
    attempt needs; the object that could end them is known to nobody but the frames of the error (Ray 2.60)."""
    from ray._private.node import Node

    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(node := frame.f_locals.get("self"), Node) and frame.f_code.co_name == "__init__":
            node.kill_all_processes(check_alive=False)


def _connect(ray: Any, address: str, named: str) -> None:
    """Connect to a cluster. A head that asks for a token gets the one of this machine (RAY_AUTH_TOKEN, ~/.ray).

    Args:
        named: where the address was given, for errors.
    """
    _check_answers(address, named)
    mode = os.environ.get(AUTH_MODE)
    waiting = f"{named}: connecting to the Ray cluster"
    try:
        with said(waiting), _few_tries() if mode is None else nullcontext():
            ray.init(address=address, **QUIET)
        return
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        if mode is not None:
            raise ClusterError(_advice(named, error)) from error
    # `ray start --head` asks for a token as soon as ~/.ray/auth_token exists, and drivers do not send it by themselves
    # (ray#64755, ray#66248).
    logger.info("%s: connecting again, with this machine's token if it has one", named)
    try:
        ray.shutdown()
        use_token()
        with said(waiting):
            ray.init(address=address, **QUIET)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        os.environ.pop(AUTH_MODE, None)
        raise ClusterError(_advice(named, error)) from error


@contextmanager
def _few_tries() -> Iterator[None]:
    """Ray asks a head that refuses it for 20 s; this one took a connection, so that what it refuses is the caller."""
    kept = os.environ.get(PATIENCE)
    os.environ[PATIENCE] = "2"
    try:
        yield
    finally:
        if kept is None:
            del os.environ[PATIENCE]
        else:
            os.environ[PATIENCE] = kept


def _check_answers(address: str, named: str) -> None:
    """ClusterError if nothing takes a connection there: Ray would wait for a quarter of an hour."""
    host, _, port = address.rpartition("://")[2].rstrip("/").rpartition(":")
    if not host or not port.isdecimal():  # "auto", or a name that Ray resolves
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ClusterError(_advice(named, error)) from error


def use_token() -> None:
    """Turn to authentication by token, from now on, if this machine has one."""
    from ray._private.authentication import authentication_token_setup as authentication

    logging.getLogger(authentication.__name__).setLevel(logging.ERROR)  # that a token is used is no warning
    authentication.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _advice(named: str, error: Exception) -> str:
    said = str(error).strip().splitlines()
    if said and said[0].startswith("Version mismatch"):
        return (
            f"{named}: the cluster and this process have other versions ({' '.join(' '.join(said[1:]).split())}); use "
            "the same on both, or `fourmill submit`, whose command runs on the head"
        )
    return (
        f"{named}: no Ray cluster answers ({said[0] if said else type(error).__name__}); look whether its head runs "
        "(`ray status` there) and can be reached from here. A cluster with tokens needs RAY_AUTH_MODE=token and its "
        "token here (`ray get-auth-token` there)"
    )
