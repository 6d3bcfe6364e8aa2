"""The engine beside Ray Data, and beside a bare loop, doing the same labelling with the same specialists, in one run.

    python benchmarks/trials/beside.py [--samples 64 256 1000] [--total 2000] [--processes 1 2] [--turns 3]

Ray Data does what its guides say: a tar is one block, `map_batches` calls the specialists in actors, and one Parquet
file a block is written. It decodes, labels and encodes labels as the engine does; it looks for no bad input, commits
nothing, and keeps no records. The bare loop is that of engine.py. All are timed from the moment their actors are up
(the mean of their moments); each figure is the median of its turns, which are interleaved. The cores must be idle.

Labels: `edges` (one cheap specialist), `four` (edges, a palette, captions, metadata), `five` (with boxes of people,
which take most of the time) and `slow` (edges by a specialist that keeps a core busy for 50 ms an image, as a network
would).
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourmill import recipe
from fourmill.infra.cluster import cluster
from fourmill.modalities import LABELS
from fourmill.pipelines import images, source
from fourmill.pipelines.specialists.base import ImageItem, Specialist
from fourmill.pipelines.specialists.classical.canny import Canny
from fourmill.pipelines.worker import stage
from fourmill.project import Project
from fourmill.tokenize.labels import encode_cell

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/, whose modules the folders share
import engine
from circumstances import state
from shards import entries, tar

BATCH = 32
FOR_TASKS = 0.1  # of a core
SECONDS = 0.05  # of a core for each image, of `slow`


class Busy(Canny):
    """Edges, after some work."""

    def __call__(self, items: Any) -> Any:
        end = time.thread_time() + SECONDS * len(items)
        while time.thread_time() < end:
            np.sort(np.arange(2000)[::-1])
        return super().__call__(items)


CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "edges": (["canny_edge"], {}),
    "four": ([label for label in engine.LABELS if label != "det"], {}),
    "five": (engine.LABELS, engine.SPECIALISTS),
    "slow": (["canny_edge"], {"canny_edge": {"specialist": "beside:Busy"}}),
}


def project(root: Path, paths: list[str], case: str, actors: int) -> Project:
    labels, specialists = CASES[case]
    asked = {"root": str(root), "samples": paths, "modalities": ["caption"], "engine": {"actors": actors}}
    return Project(recipe.parse({**asked, "labels": {"keep": labels, "specialists": specialists}}))


def by_engine(root: Path, paths: list[str], case: str, processes: int) -> float:
    """Seconds."""
    of = project(root, paths, case, processes)
    outputs = of.label_outputs
    outcome = stage.run(of.shard_job(of.specialists, outputs), of.plan(outputs).missing, "label")
    assert not outcome.failures
    return outcome.seconds - outcome.ready_seconds


class Labels:
    """The callable of Ray Data's actors. ready: a file for each that is up."""

    def __init__(self, specialists: dict[str, Specialist], kept: list[str], ready: str) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.specialists, self.kept = specialists, kept
        for one in specialists.values():
            one.setup("cpu")
        Path(ready, str(os.getpid())).touch()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        items = [
            ImageItem(key, images.decode(data, 10**8), caption)
            for key, data, caption in zip(batch["key"], batch["jpg"], batch["txt"], strict=True)
        ]
        for label, one in self.specialists.items():
            for item, value in zip(items, one(items), strict=True):
                item.labels[label] = value
        cells = {
            label: [encode_cell(LABELS[label].storage, self._value(item, label)) for item in items]
            for label in self.kept
        }
        return {"key": batch["key"], **cells}

    @staticmethod
    def _value(item: Any, label: str) -> Any:
        return item.caption if label == "caption" else item.labels[label]


def rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    with source.open_shard(row["item"], "/tmp") as shard:
        return [{"key": s.key, "jpg": shard.image(s), "txt": shard.caption(s)} for s in shard.samples]


def by_ray_data(root: Path, paths: list[str], case: str, processes: int) -> float:
    """Seconds from the moment when its actors were up."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    of, ready = project(root / "recipe", paths, case, processes), root / "ready"
    ready.mkdir(parents=True)
    given = (of.specialists, CASES[case][0], str(ready))
    # A little of each core is left for the tasks that read and write: actors that hold all cores wait for them forever.
    data = ray.data.from_items(paths, override_num_blocks=len(paths)).flat_map(rows, num_cpus=FOR_TASKS)
    pool = ray.data.ActorPoolStrategy(size=processes)
    sizes = {"batch_size": BATCH, "compute": pool, "num_cpus": 1 - 2 * FOR_TASKS}
    data = data.map_batches(Labels, fn_constructor_args=given, **sizes)
    data.write_parquet(str(root / "labels"), ray_remote_args={"num_cpus": FOR_TASKS})
    return time.time() - statistics.mean(path.stat().st_mtime for path in ready.iterdir())


def by_hand(root: Path, paths: list[str], case: str, processes: int) -> float:
    return engine.time_bare(paths, project(root, paths, case, processes).specialists, processes)


RUNS: dict[str, Callable[[Path, list[str], str, int], float]] = {
    "bare loop": by_hand, "Ray Data": by_ray_data, "engine": by_engine,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 256, 1000], help="samples of a shard")
    parser.add_argument("--total", type=int, default=2000, help="samples of each row, at least two shards a process")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--labels", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    here = Path(__file__).parent  # of this module and of what it imports, for workers
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    sys.modules.setdefault("beside", sys.modules[__name__])  # workers import it by this name
    print("| labels | shard | processes | bare loop/s | Ray Data/s | engine/s | of Ray Data | of the bare loop |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder, cluster():
        for size in args.samples:
            count = max(args.total // size, 2 * max(args.processes))
            both, paths = entries(count * size), list[str]()
            for number in range(count):
                paths.append(str(Path(folder, f"{size}-{number:05d}.tar")))
                Path(paths[-1]).write_bytes(tar(both[2 * number * size : 2 * (number + 1) * size]))
            for case in args.labels:
                for processes in args.processes:
                    taken: dict[str, list[float]] = {name: [] for name in RUNS}
                    for turn in range(args.turns):
                        for name, run in RUNS.items():
                            root = Path(folder, f"{size}-{case}-{processes}-{turn}-{name.replace(' ', '-')}")
                            taken[name].append(run(root, paths, case, processes))
                    speed = {name: count * size / statistics.median(each) for name, each in taken.items()}
                    ours = speed["engine"]
                    shares = f"{ours / speed['Ray Data']:.2f} | {ours / speed['bare loop']:.2f}"
                    print(
                        f"| {case} | {size} | {processes} | {speed['bare loop']:.1f} | {speed['Ray Data']:.1f} | "
                        f"{ours:.1f} | {shares} |", flush=True,
                    )  # fmt: skip


if __name__ == "__main__":
    main()
