"""The engine beside Ray Data: the same shards, one cheap specialist, one actor each; and what an actor that dies costs.

    python benchmarks/ray_data.py [--shards 8] [--samples 256]

Ray Data reads whole shards (one a block), labels them in batches in an actor, and writes one Parquet file a block; it
keeps no records and rejects nothing. `died once` kills the actor at one sample, `dies always` at every attempt. A run
of Ray Data that does not end in time goes on beside the next one: speeds after it say nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from shards import entries, tar

from fourmill import recipe
from fourmill.infra.cluster import cluster
from fourmill.pipelines import images, source
from fourmill.pipelines.specialists.base import ImageItem
from fourmill.pipelines.specialists.classical.canny import Canny
from fourmill.pipelines.worker import stage
from fourmill.project import Project

PATIENCE = 90.0  # seconds until a run that does not end is stopped


class Killing(Canny):
    """Canny, in a process that is killed at one image."""

    marker: str
    always: bool = False

    def __call__(self, items: Any) -> Any:
        with open(f"{self.marker}.seen", "a") as log:
            log.writelines(f"{item.key}\n" for item in items)
        if any(item.key == "000300" for item in items) and (self.always or not os.path.exists(self.marker)):
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(items)


def by_engine(root: Path, paths: list[str], options: dict[str, Any]) -> str:
    options = {"specialist": "ray_data:Killing", **options}
    asked = {"root": str(root), "samples": paths, "modalities": ["rgb"], "engine": {"actors": 1}, "generate": {}}
    labels = {"keep": ["canny_edge"], "specialists": {"canny_edge": options}}
    project = Project(recipe.parse({**asked, "labels": labels}))
    plan = project.plan(project.label_outputs)
    outcome = stage.run(project.shard_job(project.specialists, project.label_outputs), plan.missing, "label")
    seconds = outcome.seconds - outcome.ready_seconds
    return f"{outcome.samples:>6} samples  {outcome.samples / seconds:>7.1f}/s  failed: {outcome.failures or 'none'}"


class Labels:
    """The callable of Ray Data's actor."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.specialist = Killing(**options)
        self.specialist.setup("cpu")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        items = [
            ImageItem(key, images.decode(data, 10**8), None)
            for key, data in zip(batch["key"], batch["jpg"], strict=True)
        ]
        edges = [np.ascontiguousarray(edge).tobytes() for edge in self.specialist(items)]
        return {"key": batch["key"], "edges": edges}


def rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    with source.open_shard(row["item"], "/tmp") as shard:
        return [{"key": sample.key, "jpg": shard.image(sample)} for sample in shard.samples]


def by_ray_data(root: Path, paths: list[str], options: dict[str, Any]) -> str:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.from_items(paths, override_num_blocks=len(paths)).flat_map(rows)
    data = data.map_batches(Labels, fn_constructor_args=(options,), batch_size=32, concurrency=1, num_cpus=1)
    start = time.monotonic()

    def write(data: Any) -> str:
        try:
            data.write_parquet(str(root))
            return "none"
        except Exception as error:
            return str(error).strip().splitlines()[-1][:80]

    import threading

    result: list[str] = []
    thread = threading.Thread(target=lambda: result.append(write(data)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    seconds = time.monotonic() - start
    import pyarrow.parquet as pq

    done = sum(pq.read_metadata(path).num_rows for path in root.rglob("*.parquet"))
    failed = result[0] if result else f"does not end in {PATIENCE:.0f} s"
    return f"{done:>6} samples  {done / seconds:>7.1f}/s  failed: {failed}"


def repeated(marker: str) -> int:
    """How many samples were labelled more than once."""
    keys = Path(f"{marker}.seen").read_text().split()
    return len(keys) - len(set(keys))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--samples", type=int, default=256, help="samples of a shard")
    args = parser.parse_args()
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder, cluster():
        paths = []
        both = entries(args.shards * args.samples)
        for number in range(args.shards):
            paths.append(str(Path(folder, f"{number:05d}.tar")))
            first = 2 * number * args.samples
            Path(paths[-1]).write_bytes(tar(both[first : first + 2 * args.samples]))
        for case, changes in (("nobody dies", None), ("died once", False), ("dies always", True)):
            for name, run in (("engine", by_engine), ("Ray Data", by_ray_data)):
                marker = str(Path(folder, f"{case}-{name}".replace(" ", "-")))
                if changes is None:
                    Path(marker).touch()
                line = run(Path(folder, f"out-{case}-{name}"), paths, {"marker": marker, "always": bool(changes)})
                print(f"{case:<12} {name:<9} {line}; labelled again: {repeated(marker)}", flush=True)


if __name__ == "__main__":
    main()
