"""A root of a size that nobody labels here: what its ledger, its plan and its loader cost, without models and pixels.

    python benchmarks/scale.py [--shards 1242] [--columns 19] [--folder DIR] [--seconds 600] [--ray 0] [--s3]
        [--made 1000000] [--steps write train load status plan tokenize run] [--keep FILE] [--draw FILE]

A recipe with so many columns of short texts, whose specialists answer at once and reject a sample in eight, on shards
of one sample each; after the first `--made` the same samples come again. `write` makes the columns of those by
fourmill's own workers (decoding, rows, Parquet, commits, records): some by the engine on Ray (`--ray`), the others in
this process. For all further shards it puts the same columns under their names, with records of their own, as a commit
leaves them, so that a large root is made in minutes. It goes on where it was, for at most `--seconds` each time
(`--folder` is kept). Then `index` ends the stage as a driver does, with what it has seen committed. The other steps
are processes of their own: `train`, which is `run` with one step of a tiny model, and its report; the verbs `status`,
`plan`, `tokenize` and `run` with nothing to do; and `load`, a training worker's loader up to its first batch. Of each
its wall seconds, the seconds of the processor in all its threads, the largest memory of the driver, and its requests to
storage are printed.

With `--s3` the root is on an S3 server of this script: a process that holds objects in memory and finds the names of a
listing by bisection, so that a whole listing takes linear time. Without it requests are not counted ("-"). `--keep`
appends the figures to a file of JSON lines, of which `--draw` makes the curves, an SVG.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml
from circumstances import ROOT, commit, hardware, state
from servers.s3 import counted, serving

from fourmill import recipe as recipes
from fourmill.infra import ledger, storage
from fourmill.infra.fingerprint import fingerprint
from fourmill.infra.index.file import Line, Shared, line_of, mark
from fourmill.pipelines.plan import ShardTask
from fourmill.project import Project
from fourmill.train.pretrain.job import TrainJob

STEPS = ("write", "train", "load", "status", "plan", "tokenize", "run")
MODULE = '''"""Columns of short texts, made at once."""

import zlib

from fourmill import Kind, Label, Modality, Reject, Specialist, Storage, Form, declare


def answer(self, items):
    """A text for each sample, and a reject for one in eight."""
    words = [f"{item.key} {self.label}" for item in items]
    return [Reject("fails: one in 8") if zlib.crc32(one.encode()) % 8 == 0 else one for one in words]


for name in [f"text{n:02d}" for n in range(COLUMNS)]:
    fields = {"label": name, "sees_image": False, "needs_image": False, "__call__": answer, "__module__": __name__}
    globals()[name.title()] = type(name.title(), (Specialist,), fields)
    declare(
        Label(name, Storage.JSON, Form.RECORD, f"scaled:{name.title()}", "a text"),
        Modality(name, name, Kind.SEQUENCE, "wordpiece", 30_000, 16, "a text", spatial=False),
    )
'''


def prepare(folder: Path, root: str, shards: int, columns: int, made: int) -> Path:
    """Shards, module and recipe; those that are there stay. After so many shards the same samples come again."""
    (folder / "s").mkdir(parents=True, exist_ok=True)
    (folder / "scaled.py").write_text(MODULE.replace("COLUMNS", str(columns)))
    for n in range(shards):
        path = folder / "s" / f"{n:06d}.tar"
        if not path.exists():
            path.write_bytes(tar(f"{n % made:06d}0000.txt", f"The words of sample {n % made}.".encode()))
    names = [f"text{n:02d}" for n in range(columns)]
    recipe = {
        "root": root,
        "samples": {"train": f"{folder}/s/{{000000..{shards - 1:06d}}}.tar"},
        "modules": ["scaled"],
        "modalities": names,
        "labels": {"keep": []},
        "tokenizers": {"text": {"vocab_size": 6000}},
        "engine": {"actors": 1},
        "train": {
            "model": {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 1}, "steps": 1, "batch_size": 8,
            "input_tokens": 16, "target_tokens": 16, "warmup_steps": 0, "loader": {"buffer_rows": 1024},
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def tar(name: str, data: bytes) -> bytes:
    """A tar of one member, without the padding that `tarfile` writes: a hundred thousand of them are written."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf() + data.ljust(512, b"\0") + bytes(1024)


def copy(project: Project, task: ShardTask, made: Sequence[str], outputs: Sequence[str]) -> list[Line]:
    """Commit the columns of one of the shards that were made as those of another one; returns what the index gets."""
    like, stat = made[int(task.shard) % len(made)], project.inventory.stats()[task.shard]
    is_local = storage.is_local(project.root)

    def put(url: str, data: bytes) -> storage.Stat | None:
        """What a commit leaves there, without its temporary files and its looks: nobody else is at this root."""
        if not is_local:
            return storage.put(url, data)
        with open(url, "wb", buffering=0) as file:
            file.write(data)
            return storage.Stat(len(data), str(os.fstat(file.fileno()).st_mtime_ns))

    def put_output(output: str) -> Line:
        one = source(project.root, output, like)
        file = None if one.data is None else put(ledger.output_url(project.root, output, task.shard), one.data)
        attempt = f"{int(task.shard):08x}"
        record = put(ledger.record_url(project.root, output, task.shard), one.of(task.shard, stat.version, attempt))
        made_of = one.entry.source
        entry = one.entry._replace(
            shard=task.shard,
            source=replace(made_of, version=stat.version),
            own=tuple((name, attempt if name == "attempt" else value) for name, value in one.entry.own),
        )
        return Line(entry, mark(record), mark(file))

    if is_local:
        return [put_output(output) for output in outputs]
    with ThreadPoolExecutor(ledger.THREADS) as pool:  # that wait for the server
        return list(pool.map(put_output, outputs))


@dataclass(frozen=True)
class Made:
    """A record that was made, as it is stored: its content without the sum, and its text. data: of its file. entry:
    what a plan needs of it."""

    content: dict[str, Any]
    text: str
    data: bytes | None
    entry: ledger.Entry

    def of(self, shard: str, version: str, attempt: str) -> bytes:
        """The record of another shard: as `ledger.dumps` writes it, at a fifth of its time."""
        content = self.content
        changed = {
            **content, "shard": shard, "source": content["source"] | {"version": version},
            "made": content["made"] | {"attempt": attempt},
        }  # fmt: skip
        text = self.text
        for before, after in (
            (f'"shard": "{content["shard"]}"', f'"shard": "{shard}"'),
            (f'"version": "{content["source"]["version"]}"', f'"version": "{version}"'),
            (f'"attempt": "{content["made"]["attempt"]}"', f'"attempt": "{attempt}"'),
            (f'"sum": "{fingerprint(content)}"', f'"sum": "{fingerprint(changed)}"'),
        ):
            text = text.replace(before, after)
        return text.encode()


@cache
def source(root: str, output: str, shard: str) -> Made:
    """An output that was made."""
    record = ledger.read(root, output, shard)
    assert record is not None
    text = ledger.dumps(record).decode()
    content = json.loads(text)
    del content["sum"]
    data = None if output == ledger.SAMPLES else ledger.read_data(root, record)
    made = Made(content, text, data, ledger.entry(record))
    changed = replace(record.source, version="1")
    other = replace(record, shard="of another", source=changed, made=record.made | {"attempt": "2"})
    assert made.of("of another", "1", "2") == ledger.dumps(other)
    return made


def write(path: Path, seconds: float, by_ray: int, made: int) -> dict[str, Any]:
    """Make columns, in this process, for so many seconds; says how many shards are left."""
    from fourmill.pipelines.worker import stage as shard_stage
    from fourmill.pipelines.worker.shard_worker import ShardWorker
    from fourmill.train.tokenizers import fit
    from fourmill.verbs import stage

    end = time.monotonic() + seconds
    project = Project(recipes.load(str(path)))
    stage.prepare_root(project)
    if project.unfitted:
        fit.fit_all(project.fit_job(project.unfitted), 0, 1, "cpu", _Silent())
        project.refresh()
    outputs = {**project.label_outputs, **project.token_outputs}
    plan = project.plan(outputs, footers=True)
    tasks, shared, lines = plan.missing, Shared(), list[Line]()
    if tasks:
        job = project.shard_job(project.specialists, outputs)
        done = shard_stage.run(job, tasks[:by_ray], "tokenize") if by_ray else None
        assert done is None or not done.failures, done.failures
        lines += done.lines if done is not None else ()
        worker, tasks = ShardWorker(job), tasks[by_ray:]
        worker.setup("cpu")
        first = made - len(plan.shards) + len(tasks)  # of the tasks
        while tasks and time.monotonic() < end:
            if first > 0:
                lines += shared.lines(line_of(one) for one in worker.make(tasks.pop(0)))
            else:
                lines += shared.lines(copy(project, tasks.pop(0), list(plan.shards)[:made], list(outputs)))
            first -= 1
    start, before = time.perf_counter(), counted()
    cpu = time.process_time()
    project.refresh(line.entry for line in lines)
    project.inventory.renew_index(outputs, lines)
    index = {"seconds": round(time.perf_counter() - start, 1), "cpu": round(time.process_time() - cpu, 1)}
    return {"left": len(tasks), "index": index | {"requests": None if before is None else (counted() or 0) - before}}


class _Silent:
    """In place of the board of workers."""

    def post(self, **message: Any) -> None:
        pass


def load(path: Path) -> dict[str, Any]:
    """The figures of a training worker's loader, in a process that is given its job as Ray gives it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    worker = context.Process(target=load_first, args=(Project(recipes.load(str(path))).train_job, there))
    worker.start()
    figures: dict[str, Any] = here.recv()
    worker.join()
    return figures


def load_first(job: TrainJob, figures: Connection) -> None:
    """Open the loader of a job, and take its first batch."""
    from fourmill.modalities import import_modules
    from fourmill.train.data.loader import LoaderOptions, TokenLoader
    from fourmill.train.pretrain.job import masking_config

    start, before = time.perf_counter(), counted()
    import_modules(job.modules)
    # A buffer of few rows: each of these shards has one, and a thousand rows of real ones are read with one request.
    options, tokens = LoaderOptions(buffer_rows=64), storage.join(job.root, "tokens")
    batches = TokenLoader(tokens, job.shards, job.specs, masking_config(job), job.seed, options).batches(0, 8)
    next(batches)
    batches.close()
    row = used(resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - start, before)
    if (
        status := Path("/proc/self/status")
    ).exists():  # the other figure is also of the process that this one came from
        row["mib"] = round(int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10)
    figures.send(row)


def used(usage: resource.struct_rusage, seconds: float, requests: int | None) -> dict[str, Any]:
    """Figures of a process. requests: when it began, None if nobody counts."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "seconds": round(seconds, 1), "cpu": round(usage.ru_utime + usage.ru_stime, 1),
        "mib": round(usage.ru_maxrss / scale), "requests": None if requests is None else (counted() or 0) - requests,
    }  # fmt: skip


INSIDE = {"write": write, "load": load}


def measured(step: str, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run a step in a process of its own: seconds, seconds of the processor, MiB, requests, shards that are left."""
    if step in INSIDE:
        more = [str(args.seconds), str(args.ray), str(args.made)] if step == "write" else []
        command = [sys.executable, __file__, "--inside", step, str(path), *more]
    else:
        options = {"plan": ["--measure", "0", "--json"], "status": ["--json"]}.get(step, [])
        main_of = "import sys; from fourmill import cli; raise SystemExit(cli.main(sys.argv[1:]))"
        command = [sys.executable, "-c", main_of, "run" if step == "train" else step, str(path), *options]
    paths = [str(path.parent), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    before, start = counted(), time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=ROOT.parent)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        said.seek(0)
        text = said.read().decode(errors="replace")
    if process.returncode not in ((0, 1) if step in ("status", "plan") else (0,)):
        raise SystemExit(f"{step} ended with {process.returncode}:\n{text[-4000:]}")
    row = {"step": step, **used(usage, seconds, before)}
    if step in INSIDE:
        row |= json.loads(text.splitlines()[-1])
    return row


def draw(place: Path, out: Path) -> None:
    """The curves of a file of figures: seconds and MiB of each step over shards x columns, in logarithms."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    points: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for line in place.read_text().splitlines():
        one = json.loads(line)
        if one["step"] not in ("write", "train") and one["requests"] is None:
            points[one["step"]].append((one["shards"] * (one["columns"] + 1), one["cpu"], one["mib"]))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for step, rows in points.items():
        rows.sort()
        for axis, of in zip(axes, (1, 2), strict=True):
            axis.loglog([row[0] for row in rows], [row[of] for row in rows], "o-", label=step, markersize=3)
    for axis, title in zip(axes, ("seconds of the processor", "MiB of the driver, or of the loader"), strict=True):
        axis.set(title=title, xlabel="records of the root")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(out, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1242)
    parser.add_argument("--columns", type=int, default=19)
    parser.add_argument("--folder", type=Path, help="that is kept (default: a temporary one)")
    parser.add_argument("--seconds", type=float, default=600.0, help="that `write` takes at most")
    parser.add_argument("--ray", type=int, default=0, help="shards of each `write` that the engine makes on Ray")
    parser.add_argument("--made", type=int, default=1_000_000, help="shards that workers make; the others are copies")
    parser.add_argument("--s3", action="store_true", help="on an S3 server of this script")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--keep", type=Path, help="JSON lines that get the figures")
    parser.add_argument("--draw", type=Path, help="draw the curves of --keep, and end")
    args = parser.parse_args(arguments)
    if args.draw:
        draw(args.keep, args.draw)
        return
    state(__file__, arguments)
    print("| step | seconds | of the processor | MiB | requests |\n|---|---|---|---|---|", flush=True)
    with ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fourmill-scale-")))
        root = stack.enter_context(serving()) + "/out" if args.s3 else str(folder.resolve() / "out")
        path = prepare(folder.resolve(), root, args.shards, args.columns, args.made)
        for step in args.steps:
            row = measured(step, path, args)
            left = f" ({row['left']:,} shards left)" if row.get("left") else ""
            asked = "-" if row["requests"] is None else f"{row['requests']:,}"
            print(f"| {step}{left} | {row['seconds']} | {row['cpu']} | {row['mib']:,} | {asked} |", flush=True)
            if end := row.get("index"):
                asked = "-" if end["requests"] is None else f"{end['requests']:,}"
                print(f"| of it `index` | {end['seconds']} | {end['cpu']} | | {asked} |", flush=True)
            if args.keep:
                sizes = {"shards": args.shards, "columns": args.columns, "commit": commit(), "hardware": hardware()}
                with open(args.keep, "a") as file:
                    file.write(json.dumps(row | sizes) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        step, place, *rest = sys.argv[2:]
        asked = (kind(one) for kind, one in zip((float, int, int), rest, strict=False))
        print(f"\n{json.dumps(INSIDE[step](Path(place), *asked))}")
    else:
        main()
