"""`status --watch`: what a root gains while jobs work on it, wherever they run, by its ledger alone.

Everything is looked at once; then each look lists the folders of the ledger in which something is missing, and reads
what is new there.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..infra import ledger, storage
from ..infra.index import index
from ..infra.progress import duration

if TYPE_CHECKING:
    from ..infra.ledger import Entry
    from ..pipelines.outputs import Output
    from ..project import Project

WINDOW_SECONDS = 600.0  # of which the rate is taken
NAMED = 3  # reasons, and slow shards
OF_RUN = ("loss", "tokens_per_second", "data_wait_share", "slowest_worker", "lag_share")  # of its log, that are shown
SLOW = 2.0  # times the median, from which a shard is named


@dataclass
class State:
    """How a root stands.

    shards: asked for. done: those that have all that is asked for now. samples: of these.
    shards_per_minute, samples_per_second: of the last ten minutes, 0 if nothing was finished. seconds_left: None if
    that is not known. idle_seconds: since something was finished, None if nothing was. rejects: by reason, the most
    frequent ones. slowest: seconds of the shards that took more than twice the median, `median_seconds`.
    absent: shards that cannot be read. waits_for: what else is missing, in words. run: the last line of the metrics of
    the training run, of its `steps`.
    """

    shards: int
    done: int
    samples: int = 0
    shards_per_minute: float = 0.0
    samples_per_second: float = 0.0
    seconds_left: float | None = None
    idle_seconds: float | None = None
    rejects: dict[str, int] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)
    median_seconds: float = 0.0
    absent: int = 0
    waits_for: list[str] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.done + self.absent >= self.shards and not self.waits_for


class Watch:
    """A root that is looked at again and again.

    Args:
        open_project: resolves the recipe as it is now; called at the start, and when a tokenizer was fitted.
        missing_runs: what is missing once all columns are there, and why.
    """

    def __init__(
        self, open_project: Callable[[], Project], missing_runs: Callable[[Project], dict[str, str]] = lambda _: {}
    ) -> None:
        self._open, self._missing_runs = open_project, missing_runs
        self._fits: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        """Look at everything."""
        self.project = project = self._open()
        self._fits = self._fitted()
        self._outputs: dict[str, Output] = dict(project.label_outputs)
        if not project.unfitted:
            self._outputs |= project.token_outputs
        plan = project.plan(self._outputs, footers=True)
        self._shards, self._absent = set(plan.shards), set(plan.absent)
        # What each shard lacks, with the mark of the record that stands there now: another one is new.
        self._left = {task.shard: {name: task.seen.get(name, "") for name in task.outputs} for task in plan.missing}
        self._records: dict[tuple[str, str], Entry] = dict(plan.done)

    def _fitted(self) -> set[str]:
        return set(storage.list_names(storage.join(self.project.root, "ledger", "tokenizers")))

    def look(self, now: float | None = None) -> State:
        """How the root stands now (seconds since the epoch)."""
        now = time.time() if now is None else now
        if self.project.unfitted and self._fitted() != self._fits:
            self._begin()
        else:
            self._read_new()
        finished = self._finished()
        state = State(len(self._shards), len(finished), absent=len(self._absent))
        state.samples = sum(rows for _, rows in finished.values())
        self._add_rate(state, list(finished.values()), now)
        rejects = Counter[str]()
        for one in self._records.values():
            rejects.update({f"{one.output}: {reason}": count for reason, count in one.reasons.items()})
        state.rejects = dict(rejects.most_common(NAMED))
        self._add_slowest(state)
        self._add_training(state)
        return state

    def _read_new(self) -> None:
        for output in self._outputs:
            lacking = [shard for shard, outputs in self._left.items() if output in outputs]
            if not lacking:
                continue
            for key, record in index.read_many(self.project.root, [output], lacking).entries.items():
                if ledger.mark(record) != self._left[record.shard][output]:
                    self._records[key] = record
                    del self._left[record.shard][output]
        self._left = {shard: outputs for shard, outputs in self._left.items() if outputs}

    def _finished(self) -> dict[str, tuple[float, int]]:
        """(when it was finished, samples) of each shard that has all of its outputs; 0 for a time that is not known."""
        finished: dict[str, tuple[float, int]] = {}
        for (_, shard), record in self._records.items():
            if shard not in self._left and shard not in self._absent:
                before = finished.get(shard, (0.0, 0))[0]
                finished[shard] = max(before, _time(record)), record.rows
        return finished

    def _add_rate(self, state: State, finished: list[tuple[float, int]], now: float) -> None:
        times = [when for when, _ in finished if when]
        if not times:
            return
        state.idle_seconds = max(0.0, now - max(times))
        recent = [(when, rows) for when, rows in finished if when > now - WINDOW_SECONDS]
        if len(recent) < 2:
            return
        # A record has the time at which its shard was begun, so that the first of the window only opens it.
        span = max(now - min(when for when, _ in recent), 1.0)
        state.shards_per_minute = round(60 * (len(recent) - 1) / span, 3)
        first = min(recent)[1]
        state.samples_per_second = round((sum(rows for _, rows in recent) - first) / span, 2)
        state.seconds_left = round(60 * len(self._left) / state.shards_per_minute, 1)

    def _add_slowest(self, state: State) -> None:
        took: dict[str, float] = {}
        for (_, shard), record in self._records.items():
            took[shard] = max(record.seconds, took.get(shard, 0.0))
        if not took:
            return
        state.median_seconds = round(statistics.median(took.values()), 1)
        slow = sorted(took.items(), key=lambda item: -item[1])[:NAMED]
        state.slowest = {shard: round(s, 1) for shard, s in slow if s > SLOW * state.median_seconds}

    def _add_training(self, state: State) -> None:
        state.waits_for = [f"tokenizers/{name} is not fitted" for name in self.project.unfitted]
        if self._left or state.waits_for or len(self._absent) == len(self._shards):
            return
        missing = self._missing_runs(self.project)
        state.waits_for += [f"{name}: {why}" for name, why in missing.items()]
        if self.project.run_output in missing and self.project.recipe.modalities:
            from ..infra.configuration import RecipeError
            from ..train import metrics

            try:
                job = self.project.train_job
            except RecipeError:
                return
            rows = [row for row in metrics.read(job.folder) if row["kind"] == "train"]
            state.run = {**rows[-1], "steps": job.settings.steps} if rows else {}


def _time(record: Entry) -> float:
    try:
        return datetime.fromisoformat(record.made["time"]).timestamp()
    except (KeyError, TypeError, ValueError):  # of an older release
        return 0.0


def lines(state: State) -> list[str]:
    """The same for people."""
    head = [f"{state.done:,}/{state.shards:,} shards", f"{state.samples:,} samples"]
    if state.shards_per_minute:
        head.append(f"{state.shards_per_minute:,.1f} shards/min, {state.samples_per_second:,.1f} samples/s")
    if state.seconds_left and state.done + state.absent < state.shards:
        head.append(f"{duration(state.seconds_left)} left")
    if state.idle_seconds and state.idle_seconds > WINDOW_SECONDS / 2 and state.done + state.absent < state.shards:
        head.append(f"nothing was finished for {duration(state.idle_seconds)}")
    said = ["  ".join(head)]
    if state.absent:
        said.append(f"  cannot be read: {state.absent:,} shards")
    if state.rejects:
        said.append("  rejects: " + ", ".join(f"{reason} x{count:,}" for reason, count in state.rejects.items()))
    if state.slowest:
        slow = ", ".join(f"{shard} {duration(seconds)}" for shard, seconds in state.slowest.items())
        said.append(f"  slowest: {slow} (median {duration(state.median_seconds)})")
    if state.run:
        run = state.run
        rates = [f"step {run['step']:,} of {run['steps']:,}"]
        rates += [f"{name} {run[name]:.4g}" for name in OF_RUN if name in run]
        said.append("  training: " + ", ".join(rates))
    said += [f"  waits for {what}" for what in state.waits_for[:NAMED]]
    return said


def follow(watch: Watch, every: float, as_json: bool, pause: Callable[[float], object] = time.sleep) -> None:
    """Print how the root stands every so many seconds, until nothing is missing."""
    terminal, shown = sys.stdout.isatty() and not as_json, 0
    while True:
        state = watch.look()
        if as_json:
            print(json.dumps(asdict(state)), flush=True)
        else:
            from ..infra.secrets import hide
            from ..report.terminal import plain

            said = [plain(hide(line)) for line in lines(state)]
            # On a terminal the block before is written over; elsewhere each has its time.
            before = f"\x1b[{shown}F\x1b[J" if terminal and shown else ""
            print(before + f"{datetime.now():%H:%M:%S}  " + "\n".join(said), flush=True)
            shown = len(said)
        if state.complete:
            return
        pause(every)
