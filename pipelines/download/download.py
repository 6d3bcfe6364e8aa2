"""From a table of URLs or texts to shards: what is asked for, what is there, and the tasks that make the rest.

OUT/download.json says of which table, with which options, the shards are, and how the table is sliced. It is written
once; a folder of another table or of other options is refused, never mixed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ... import __version__
from ...infra import ledger, storage
from ...infra.index import listing
from ...infra.secrets import public
from .. import archive
from ..engine import driver
from ..engine.settings import Engine
from . import failures, slice_files, table
from .settings import Download
from .slice_files import Found, Stats
from .table import Slice, Sliced
from .worker import DownloadJob, DownloadWorker, Task, TextsJob, TextsWorker

RECORD = "download.json"
# What shards depend on; anything else may change between two calls.
IN_RECORD = ("columns", "delimiter", "url", "caption", "hash", "text", "shard_size", "size", "min_size", "quality")


@dataclass
class Made:
    """What came of a download. stats: of all slices that exist. made, existed: numbers of slices. failures: why slices
    could not be made, by name. skipped: lines of the table that are no rows, by reason. text: as of `Sliced`."""

    stats: dict[int, Stats] = field(default_factory=dict)
    made: int = 0
    existed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    text: str = ""

    @property
    def count(self) -> int:
        return sum(one.count for one in self.stats.values())

    @property
    def successes(self) -> int:
        return sum(one.successes for one in self.stats.values())

    @property
    def by_class(self) -> Counter[str]:
        """Rows without a sample, by the class of their failure."""
        return sum((Counter(one.failures) for one in self.stats.values()), Counter())


def at(settings: Download) -> Download:
    """The same with an absolute folder."""
    return settings.model_copy(update={"out": storage.absolute(settings.out)})


def user_agent(settings: Download) -> str:
    """What web servers are sent."""
    contact = f" (+{settings.contact})" if settings.contact else ""
    return settings.user_agent or f"fourmill/{__version__}{contact}"


def known(settings: Download) -> Sliced | None:
    """How the table was sliced, None if it is not yet.

    Args:
        settings: with an absolute `out`.

    Raises:
        ValueError: the folder holds something else, or shards of another table or of other options.
    """
    # Slices of a table of lines are written before the record.
    record = archive.record_of(settings.out, RECORD, "download.out", {table.FOLDER})
    if record is None:
        return None
    stated, asked = record["options"], _asked(settings)
    if differing := [f"{name} {stated.get(name)!r}" for name in asked if stated.get(name) != asked[name]]:
        raise ValueError(
            f"download.out: {settings.out} holds shards of other options ({', '.join(differing)}); give these again, "
            "or choose another folder"
        )
    of_lines = all(number < 0 for number, *_ in record["slices"])
    try:
        files = table.files(settings)
    except (ValueError, OSError):
        if not of_lines:
            raise
        files = []  # slices of lines are kept: nobody needs it any more
    if files:
        _compare(settings, files, record["table"])
    sliced = Sliced(skipped=record["skipped"], columns=tuple(record["columns"]), text=record.get("text", ""))
    for number, (file, first, rows) in enumerate(record["slices"]):
        url = files[file] if file >= 0 else table.place(settings.out, number)
        sliced.slices.append(Slice(number, url, first, rows))
    return sliced


def _asked(settings: Download) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in IN_RECORD}


def _compare(settings: Download, files: Sequence[str], stated: Sequence[Mapping[str, Any]]) -> None:
    """ValueError if the table is another one now."""
    if [public(url) for url in files] == [one["url"] for one in stated]:
        now = sizes(files)
        if all(now[url] in (None, one["size"]) for url, one in zip(files, stated, strict=True)):
            return
    raise ValueError(
        f"download.out: {settings.out} holds shards of another table ({', '.join(one['url'] for one in stated[:3])}); "
        "choose another folder"
    )


def sizes(files: Sequence[str]) -> dict[str, int | None]:
    """Bytes of each file of a table, None where nobody says."""
    return {url: getattr(stat, "size", None) or None for url, stat in listing.stats_of(files).items()}


def slice_table(settings: Download) -> Sliced:
    """The table in slices, as it was sliced before, or now. ValueError as of `known` and `table.slice_all`."""
    if before := known(settings):
        return before
    files = table.files(settings)
    storage.check_writable(settings.out)
    sliced = table.slice_all(settings, files)
    number, now = {url: i for i, url in enumerate(files)}, sizes(files)
    record = {
        "fourmill": __version__,
        "options": _asked(settings),
        "table": [{"url": public(url), "size": now[url]} for url in files],
        "columns": sliced.columns,
        "text": sliced.text,
        "skipped": sliced.skipped,
        "slices": [(number.get(one.url, -1), one.first, one.rows) for one in sliced.slices],
    }
    storage.put(storage.join(settings.out, RECORD), json.dumps(record).encode())
    return sliced


def tasks(settings: Download, sliced: Sliced, retry_failed: bool = False) -> dict[str, Task]:
    """The slices that are left to make, by the names of their shards.

    Args:
        retry_failed: also the finished ones that have failures of the classes `settings.retry`.
    """
    there = slice_files.found(settings.out)
    left = {
        one.number: Task(one, there=frozenset(there.parts.get(one.number, ())))
        for one in sliced.slices
        if one.number not in there.slices
    }
    if retry_failed and not sliced.text:
        stats = read_stats(settings.out, there, sliced)
        again = tuple(settings.retry)
        for one in sliced.slices:
            kinds = stats[one.number].failures if one.number in stats else {}
            if any(failures.matches(kind, again) for kind in kinds):
                left[one.number] = Task(one, again)
    return {slice_files.name_of(number): left[number] for number in sorted(left)}


def read_stats(out: str, there: Found, sliced: Sliced, but: Collection[int] = ()) -> dict[int, Stats]:
    """Of the finished slices of a table, less some. ValueError if a file is damaged."""
    numbers = [one.number for one in sliced.slices if one.number in there.slices and one.number not in but]
    with ThreadPoolExecutor(ledger.THREADS) as pool:
        return dict(zip(numbers, pool.map(lambda one: Stats.read(out, there.slices[one]), numbers), strict=True))


def make(settings: Download, max_pixels: int, engine: Engine, retry_failed: bool = False) -> Made:
    """Download what is missing, on the cluster.

    Args:
        settings: with an absolute `out`. max_pixels: of an image; larger ones are refused before they are decoded.
        retry_failed: see `tasks`.

    Raises:
        ValueError: the table or the folder cannot be used. StopJob: ten slices in a row could not be made.
    """
    sliced = slice_table(settings)
    todo = tasks(settings, sliced, retry_failed)
    made = Made(skipped=dict(sliced.skipped), text=sliced.text)
    new: dict[int, Stats] = {}
    if todo:
        storage.check_writable(settings.out)
        outcome = _run(settings, sliced, todo, max_pixels, engine)
        new = {int(name): stats for name, stats in outcome.results.items()}
        made.failures = outcome.failures
    before = read_stats(settings.out, slice_files.found(settings.out), sliced, but=new)
    made.stats = {**before, **new}
    made.made, made.existed = len(new), len(before)
    return made


def _run(
    settings: Download, sliced: Sliced, todo: Mapping[str, Task], max_pixels: int, engine: Engine
) -> driver.Outcome[Stats]:
    sample = next(iter(todo.values())).slice.url
    given = settings, sliced.columns, max_pixels, user_agent(settings), sample, engine
    if sliced.text:
        return driver.run(TextsJob(*given, text=sliced.text), TextsWorker, todo, "download", "slices")
    job = DownloadJob(*given)
    return driver.run(job, DownloadWorker, todo, "download", "slices", shared=job.limiter)
