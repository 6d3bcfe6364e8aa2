"""img2dataset as a fetcher: a process of its own for each slice, with the versions that it pins, which are not ours.

It fetches and keeps bytes as they came; decoding, sizes, hashes and files are fourmill's, the same for both fetchers.
Everything it asks for goes through a proxy of this machine (`gate.py`), and robots.txt is asked before.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...infra import scratch
from . import failures, manners
from .addresses import Addresses
from .connections import Connections, parsed
from .failures import Failure
from .fetcher import Ask, Done, Row
from .gate import STATUS, Gate
from .loop import Looped
from .settings import Download

VERSION = "1.47.0"
TOOL = ("uv", "run", "--no-project", "--isolated", "--with", f"img2dataset=={VERSION}", "--")
START_SECONDS = 600.0  # more than a slice has, for the tool to be installed
SAID = 600  # characters of its output that an error repeats

# What it says of a failure, in Python's words.
_WORDS = (
    (failures.REDIRECTS, re.compile("infinite loop|redirect error")),
    (failures.NO_AI, re.compile("X-Robots-Tag")),
    (failures.TIMEOUT, re.compile("timed out|timeout", re.IGNORECASE)),
    (failures.TLS, re.compile("SSL|CERTIFICATE", re.IGNORECASE)),
    (failures.BAD_URL, re.compile("unknown url type|no host given|is not allowed|URL can't contain|nonnumeric port")),
    (failures.CONNECTION, re.compile("Connection|Remote end|IncompleteRead|BadStatusLine|bytes read|Errno")),
)
_REFUSED, _HTTP = re.compile(rf"{STATUS}:? ([a-z-]+)"), re.compile(r"HTTP Error (\d{3})")


def check_tool() -> None:
    """ValueError if this machine cannot run it."""
    if shutil.which(TOOL[0]) is None:
        raise ValueError(
            "download.fetcher: img2dataset is run by uv, which is not installed here (`pip install uv`); "
            "or use the fetcher fourmill"
        )


def kind_of(said: str) -> str:
    """The class of a failure, from img2dataset's words."""
    if found := _REFUSED.search(said):
        return found[1] if found[1] in failures.CLASSES else failures.CONNECTION
    for kind, words in _WORDS:
        if words.search(said):
            return kind
    status = _HTTP.search(said)
    return f"http-{status[1]}" if status else failures.OTHER


class Img2dataset(Looped):
    """Args: as of `OwnFetcher`. tool: the command that runs the program with its versions."""

    def __init__(
        self, settings: Download, max_pixels: int, ask: Ask, user_agent: str, threads: int = 2,
        tool: Sequence[str] = TOOL, program: Sequence[str] = ("img2dataset",),
    ) -> None:  # fmt: skip
        if tool is TOOL:
            check_tool()
        super().__init__(settings, max_pixels, user_agent, threads, "gate")
        self._tool, self._program = tool, program
        self._addresses = Addresses(settings.allow, self._resolvers)
        self._gate = Gate(settings, self._addresses, ask, user_agent)
        self._port = self._call(self._set_up()).result()

    def fetch(self, rows: Sequence[Row], done: Done) -> None:
        left = list(rows)
        for attempt in range(self._settings.retries + 1):
            last = attempt == self._settings.retries
            again = []
            for row, result in self._fetch(left, done):
                if not last and failures.matches(result.kind, self._settings.retry):
                    again.append(row)
                else:
                    done(row.index, result)
            left = again
            if not left:
                return

    async def _set_up(self) -> int:
        self._connections = Connections(self._addresses, self._settings.connections, self._user_agent)
        self._robots = manners.Robots(self._connections, self._settings.timeout, self._agent)
        return await self._gate.start()

    async def _tear_down(self) -> None:
        await self._gate.close()
        await self._connections.close()

    async def _may_fetch(self, rows: Sequence[Row]) -> list[Failure | None]:
        """What robots.txt and the URLs themselves say of each."""
        free = asyncio.Semaphore(self._settings.connections)

        async def check(row: Row) -> Failure | None:
            try:
                url = parsed(row.url)
                async with free:
                    if self._settings.robots:
                        await self._robots.check(url)
            except Failure as failure:
                return failure
            return None

        return list(await asyncio.gather(*map(check, rows)))

    def _fetch(self, rows: Sequence[Row], done: Done) -> list[tuple[Row, Failure]]:
        """One attempt: pictures are done, failures are returned."""
        checked = list(zip(rows, self._call(self._may_fetch(rows)).result(), strict=True))
        failed = [(row, failure) for row, failure in checked if failure]
        good = [row for row, failure in checked if not failure]
        if not good:
            return failed
        with scratch.folder() as folder:
            place = self._run(good, folder)
            known = pq.read_table(place / "00000.parquet", columns=["key", "status", "error_message"]).to_pylist()
            row_of = {one["key"]: good[int(one["key"][5:])] for one in known}
            for one in known:
                if one["status"] != "success":
                    said = str(one["error_message"] or "")
                    failed.append((row_of[one["key"]], Failure(kind_of(said), said[:SAID])))
            with tarfile.open(place / "00000.tar") as tar:
                for info in tar:
                    key, _, extension = info.name.partition(".")
                    content = tar.extractfile(info)
                    if extension not in ("txt", "json") and content is not None:
                        if failure := self._keep(row_of[key], content.read(), done):
                            failed.append((row_of[key], failure))
        return failed

    def _run(self, rows: Sequence[Row], folder: str) -> Path:
        """Where it has put its files. ValueError if it did not end, or ended with an error."""
        settings, out = self._settings, Path(folder, "out")
        pq.write_table(pa.table({"url": [row.url for row in rows]}), Path(folder, "urls.parquet"))
        options: dict[str, Any] = {
            "url_list": Path(folder, "urls.parquet"), "input_format": "parquet", "url_col": "url", "output_folder": out,
            "output_format": "webdataset", "processes_count": 1, "thread_count": settings.connections,
            "disable_all_reencoding": True, "resize_mode": "no", "extract_exif": False, "compute_hash": None,
            # The proxy has the time limit: here it would count while a URL waits for its host.
            "number_sample_per_shard": max(2, len(rows)), "timeout": int(60 * settings.slice_minutes) + 1, "retries": 0,
            "max_shard_retry": 0, "user_agent_token": json.dumps(self._user_agent),
            "disallowed_header_directives": json.dumps([one for one in settings.opt_out if one != "tdm-reservation"]),
        }  # fmt: skip
        proxy = f"http://127.0.0.1:{self._port}"
        names = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
        inner = {"NO_ALBUMENTATIONS_UPDATE": "1", "no_proxy": "", "NO_PROXY": ""}
        inner |= {one: proxy for name in names for one in (name, name.upper())}
        # The proxy is img2dataset's alone: uv itself may need to install it.
        command = [*self._tool, "env", *(f"{name}={value}" for name, value in inner.items()), *self._program]
        command += [f"--{name}={value}" for name, value in options.items()]
        seconds = settings.slice_minutes * 60 + START_SECONDS
        try:
            ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise ValueError(f"img2dataset did not end within {seconds / 60:.0f} minutes") from None
        except OSError as error:
            raise ValueError(f"download.fetcher: {command[0]} cannot be started: {error}") from None
        if ended.returncode or not (out / "00000.parquet").exists():
            said = " ".join((ended.stderr or ended.stdout).split())[-SAID:]
            raise ValueError(f"img2dataset ended with {ended.returncode}, and without a result: {said}")
        return out
