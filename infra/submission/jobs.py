"""The Jobs API of a Ray cluster, asked from outside: jobs are submitted, followed, listed and stopped.

Ray's own client is used; here are the time limits that it lacks, its errors as sentences, and a log that is followed
through lost connections.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import signal
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import aiohttp
import requests
from packaging.requirements import Requirement
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from ..cluster import ANSWER_SECONDS, AUTH_MODE, ClusterError, use_token
from ..secrets import public

__all__ = ["JobDetails", "Jobs", "exit_status", "unlike_ray"]

REQUEST_SECONDS = 120.0  # for an answer of the head, which may be busy; uploads take the longest
AGAIN_SECONDS = 2.0  # between two looks at a job whose log has ended or broken off
PATIENCE_SECONDS = 600.0  # that a head which does not answer any more is waited for
STOP_SECONDS = "180"  # from the signal to stop until Ray kills: training saves a checkpoint in that time
OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # of Ray's client: they win over the address that it is given

# Each sets its own level, INFO, when it is imported.
for _name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
    logging.getLogger(f"ray.{_name}").setLevel(logging.WARNING)


class _Client(JobSubmissionClient):  # type: ignore[misc]  # mypy reads no code of Ray
    """Ray's client, which would wait for an answer for ever."""

    def _do_request(self, *args: Any, **kwargs: Any) -> requests.Response:
        return super()._do_request(*args, **{"timeout": REQUEST_SECONDS, **kwargs})


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of the dashboard of its head, "http://head:8265".

    Raises:
        ClusterError: no Jobs API answers there, it refuses this machine's token, or runs a Ray that fourmill cannot
            use. Every method raises it as well, for a job that there is not and when the head is lost.
    """

    def __init__(self, address: str) -> None:
        self.address = _url(address)
        with _as_sentences(self.address), _no_overrides():
            _check_answers(self.address)
            self._client = self._connected()
            version = self._client._do_request("GET", "/api/version").json()["ray_version"]
        if why := unlike_ray(version):
            raise ClusterError(f"{public(self.address)}: {why}")

    def _connected(self) -> JobSubmissionClient:
        try:
            return _Client(self.address)
        except AuthenticationError:
            if AUTH_MODE in os.environ:
                raise
        use_token()
        return _Client(self.address)

    def submit(self, job: str, command: str, folder: str, variables: dict[str, str], about: dict[str, str]) -> None:
        """Send a folder and have a command run in it on the head.

        Args:
            job: its name, which no other job of the cluster has had.
            variables: of the environment of the command and of all workers. Everyone who can list jobs reads them.
            about: what is listed with the job.
        """
        environment = {"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": STOP_SECONDS, **variables}}
        with _as_sentences(self.address):
            self._client.submit_job(entrypoint=command, submission_id=job, runtime_env=environment, metadata=about)

    def listed(self) -> list[JobDetails]:
        """Every job that was submitted to the cluster since its start, the newest first."""
        with _as_sentences(self.address):
            jobs = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: -(job.start_time or 0))

    def details(self, job: str) -> JobDetails:
        with _as_sentences(self.address, job):
            return self._client.get_job_info(job)

    def log(self, job: str) -> str:
        """What a job has printed so far."""
        with _as_sentences(self.address, job):
            return self._client.get_job_logs(job)

    def stop(self, job: str) -> bool:
        """Ask a job to stop: it saves what it can. False if it has ended before."""
        with _as_sentences(self.address, job):
            return not self._client.get_job_info(job).status.is_terminal() and self._client.stop_job(job)

    def wait(self, job: str) -> JobDetails:
        """Until a job has ended."""
        while not (details := self._patiently(job, self.details)).status.is_terminal():
            time.sleep(AGAIN_SECONDS)
        return details

    def follow(self, job: str, show: Callable[[str], None]) -> JobDetails:
        """Show what a job prints, from its first line, until it has ended. A lost connection is made again.

        Args:
            show: gets each piece of text once.
        """
        shown = 0

        def more(text: str, before: int) -> None:
            """before: characters of the log that come before `text`."""
            nonlocal shown
            if before + len(text) > shown:
                show(text[shown - before :])
                shown = before + len(text)

        while True:
            read = 0
            try:
                for lines in self._printed(job):
                    more(lines, read)
                    read += len(lines)
            except (aiohttp.ClientError, RuntimeError, OSError) as error:
                logging.getLogger(__name__).info("%s: its log is asked for again: %s", job, error)
            details = self._patiently(job, self.details)
            # A proxy that lets no websockets through, and lines that were written at the very end.
            more(self._patiently(job, self.log), 0)
            if details.status.is_terminal():
                return details
            time.sleep(AGAIN_SECONDS)

    def _printed(self, job: str) -> Iterator[str]:
        """What a job prints, piece by piece, until its log ends or the connection is lost.

        A thread runs the event loop and this one waits at a queue: a signal that interrupts a loop in its middle is
        lost where the loop's own end raises another error over it.
        """
        pieces: SimpleQueue[str | Exception | None] = SimpleQueue()

        async def tail() -> None:
            async for lines in self._client.tail_job_logs(job):
                pieces.put(lines)

        def run() -> None:
            try:
                asyncio.run(tail())
                pieces.put(None)
            except Exception as error:
                pieces.put(error)

        threading.Thread(target=run, name=f"log of {job}", daemon=True).start()
        while (piece := pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def _patiently(self, job: str, ask: Callable[[str], Any]) -> Any:
        """Ask about a job that is there. A head that does not answer has minutes to come back."""
        start = time.monotonic()
        while True:
            try:
                return ask(job)
            except _Lost as error:
                if time.monotonic() - start > PATIENCE_SECONDS:
                    raise ClusterError(f"{error}. Whether job {job} goes on is not known") from error
                time.sleep(AGAIN_SECONDS)


def exit_status(details: JobDetails) -> int:
    """Of the command of a job that has ended, as a shell has it."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return 128 + signal.SIGTERM
    code = details.driver_exit_code or 1  # none if the command never began
    return code if code > 0 else 128 - code


def unlike_ray(version: str) -> str:
    """Why fourmill cannot be used with this version of Ray, "" if it can."""
    asked = next(one for one in map(Requirement, importlib.metadata.requires("fourmill") or []) if one.name == "ray")
    if asked.specifier.contains(version, prereleases=True):
        return ""
    return f"the cluster runs Ray {version}, and this fourmill needs ray{asked.specifier}; start it with such a Ray"


class _Lost(ClusterError):
    """The head does not answer now."""


@contextmanager
def _as_sentences(address: str, job: str = "") -> Iterator[None]:
    """Errors of Ray's client as ClusterError."""
    where = public(address)
    try:
        yield
    except AuthenticationError as error:
        refused = "failed" in str(error).partition(":")[0]
        has = "refuses the token of this machine" if refused else "asks for a token, and this machine has none"
        raise ClusterError(
            f"{where}: the cluster {has}: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to what "
            "`ray get-auth-token` prints on its head"
        ) from error
    except (requests.ConnectionError, requests.Timeout, ConnectionError, OSError) as error:
        said = str(error.__cause__ or error.__context__ or error).splitlines() or [type(error).__name__]
        why = "what answers there does not speak HTTP" if "BadStatusLine" in said[0] else said[0]
        raise _Lost(_advice(where, why)) from error
    except (requests.RequestException, KeyError, ValueError) as error:
        raise ClusterError(_advice(where, "what answers there is no Jobs API")) from error
    except RuntimeError as error:
        if isinstance(error, ClusterError):
            raise
        text = str(error)
        if job and ("does not exist" in text or "status code 404" in text):
            listed = f"`fourmill jobs list --address {where}` shows those that there are"
            raise ClusterError(f"{where}: there is no job {job}; {listed}") from error
        if not job and "404" in text:
            raise ClusterError(_advice(where, "what answers there is no Jobs API")) from error
        raise ClusterError(f"{where}: {' '.join(text.split())[:500]}") from error


def _advice(where: str, why: str) -> str:
    return (
        f"{where}: no Jobs API answers ({why}). The dashboard of the head serves it, at port 8265: it needs "
        "`ray[default]` there (pip install 'fourmill[cluster]'), and --dashboard-host=0.0.0.0 to be reached from "
        "another machine"
    )


def _url(address: str) -> str:
    """ClusterError if this is no address of a dashboard."""
    url = address if "://" in address else f"http://{address}"
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or address == "auto":
        raise ClusterError(
            f"--address {public(address)}: jobs are submitted over HTTP, to the dashboard of the cluster's head: "
            "http://HEAD:8265"
        )
    return url.rstrip("/")


def _check_answers(url: str) -> None:
    """OSError if nothing takes a connection there."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((str(parts.hostname), port), timeout=ANSWER_SECONDS).close()


@contextmanager
def _no_overrides() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in OVERRIDES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
