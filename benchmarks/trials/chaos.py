"""Bad days: a store that refuses, cuts and forgets, and processes that are killed; is all that is made as undisturbed?

    python benchmarks/trials/chaos.py [--seeds 50] [--first 0] [--rate 0.1] [--kills 2] [--logs DIR] [--without-ray]
        [--undisturbed DIR]

Shards and root lie on an S3 server (moto) on loopback. Label, fit, tokenize and train run once without disturbance for
each number of workers; then a part of them for each seed, in a new root, through a proxy (servers/proxy.py) that
answers some requests with 409, 429, 500 or 503, hangs up before or after the request was done, cuts answers, answers
late or never, or with an old listing. Meanwhile a worker, the raylet, the driver or the proxy is killed by the wall
clock. A verb that ends with an error is started again, as a user would. Every other seed
labels, fits and tokenizes; those between train in a root that has its tokens, with one worker and with two in turn.

A seed passes if the labels, tokens, tokenizers and the trained model of its root are those of the undisturbed one byte
for byte (of one thread a worker), `fourmill check` finds nothing broken, and no verb was silent for longer than 60 s.
`--first N` goes on from seed N. What is made undisturbed is kept in the folder of `--undisturbed`, and taken from there
by the next call with the same form (with Ray or without): of two calls at the same time each may do half of the seeds.

What a seed costs is mostly the start of processes: drivers are forked with all modules loaded, and one Ray serves all
seeds until it is killed. With `--without-ray` all is done in the driver (alone.py), with one worker, and the
driver and the proxy alone are killed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fourmill.infra import storage

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/, whose modules the folders share
from circumstances import state
from sites import BUCKET, SUPPORT, Cluster, Proxy, Site, endpoint, server

sys.path.insert(0, SUPPORT)
from fourmill_tests import data, runs

VERBS = ("label", "fit", "tokenize", "train")
PARTS = ((VERBS[:3], 1), (VERBS[3:], 1), (VERBS[:3], 1), (VERBS[3:], 2))  # of a seed: verbs, and workers that train
MADE = ("labels", "tokens", "tokenizers")  # folders of a root that are compared, and the models of its runs
VICTIMS = ("worker", "raylet", "driver", "proxy")
WORKERS = (1, 2)
SECONDS = "seconds.json"  # of a folder that keeps what is made undisturbed
SILENCE_SECONDS = 60.0
STARTS = 12  # of a driver
PATIENCE_SECONDS = 900.0  # for one start, until it counts as hung
PRELOADED = (
    "fourmill.cli",
    "fourmill.project",
    "fourmill.train.pretrain.trainer",
    "pyarrow.parquet",
    "s3fs",
    "ray.train",
)


@dataclass
class Day:
    """What happened to one seed.

    kills: the moments that are still to come, in seconds, and who. cpu: seconds of CPU time by process, as last seen;
    `before` those when the day began.
    """

    kills: list[tuple[float, str]] = field(default_factory=list)
    draw: random.Random = field(default_factory=random.Random)
    begin: float = 0.0
    seconds: float = 0.0
    cpu: dict[int, float] = field(default_factory=dict)
    before: dict[int, float] = field(default_factory=dict)
    starts: int = 0
    killed: list[str] = field(default_factory=list)
    silence: float = 0.0
    wrong: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def cpu_seconds(self) -> float:
        return sum(self.cpu.values()) - sum(self.before.values())


def cpu_times() -> dict[int, float]:
    """Seconds of CPU time of this process and all below it, by process."""
    times, ticks = {}, os.sysconf("SC_CLK_TCK")
    for pid in (os.getpid(), *runs.descendants(os.getpid())):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            times[pid] = (int(fields[11]) + int(fields[12])) / ticks
    return times


def recipe(folder: Path) -> Path:
    """Four small shards, two of them with bad samples; edges take time, so that there is a middle to be killed in."""
    shards = [Path(path) for path in data.good_shards(folder / "s", 3, 8)]
    (folder / "s/bad.tar").write_bytes(data.tar(data.bad_entries()))
    urls = []
    for path in (*shards, folder / "s/bad.tar"):
        urls.append(storage.join(BUCKET, "s", path.name))
        storage.put(urls[-1], path.read_bytes())
    settings = data.settings(
        storage.join(BUCKET, "undisturbed"), urls, modalities=["rgb", "tok_canny_edge", "caption"],
        labels__keep=["canny_edge", "caption"], labels__specialists={"canny_edge": runs.SLOW_EDGES},
        generate__chains=[], engine__actors=1, fit__cpus=1, train__cpus=1, train__steps=12, train__warmup_steps=2,
        train__checkpoint_every=3, train__validate_every=6,
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder / "recipe.yaml"


def contents(root: str, verbs: Sequence[str] = VERBS) -> dict[str, bytes]:
    """What a root holds of labels, tokens and tokenizers, and of trained models if it trains, by name."""
    fs, path = storage.filesystem(root)
    names = [name for folder in MADE for name in fs.find(f"{path}/{folder}")]
    if "train" in verbs:
        names += [name for name in fs.find(f"{path}/runs/4m") if name.endswith("/model/model.safetensors")]
    return {name.removeprefix(f"{path}/"): fs.cat_file(name) for name in names}


def copy(root: str, to: str) -> None:
    """All of a root but its training."""
    for url in storage.list_below(root):
        name = url.removeprefix(f"{root}/")
        if not name.startswith(("runs/4m", "ledger/runs/4m", "recipe.yaml")):
            storage.put(storage.join(to, name), storage.read_bytes(url))


def quiet(path: Path, site: Site, count: int, keep: Path | None) -> tuple[dict[int, dict[str, bytes]], list[float]]:
    """What is made undisturbed, by the number of workers (the first `count` of `WORKERS`), and the seconds of `PARTS`.

    Args:
        keep: a folder for all that is in the bucket then, see `taken`.
    """
    expected, took = dict[int, dict[str, bytes]](), dict[Sequence[str], float]()
    for workers in WORKERS[:count]:
        root, day = storage.join(BUCKET, f"undisturbed{workers}"), Day()
        verbs = VERBS[3:] if expected else VERBS
        if expected:
            copy(storage.join(BUCKET, "undisturbed1"), root)
        one_day(root, path, verbs, workers, day, site)
        if day.wrong or day.starts > 1:
            print(day.said)
            sys.exit(f"undisturbed, and it did not end well: {day.wrong}")
        expected[workers], took[verbs] = contents(root), day.seconds
        spent = f"{day.seconds:.0f} s, {day.cpu_seconds:.0f} s of CPU time"
        print(f"undisturbed {' '.join(verbs)}, workers: {workers}, {spent}, {len(expected[workers])} files", flush=True)
    seconds = [took.get(verbs, took[VERBS] / 2) for verbs, _ in PARTS]
    if keep is not None:
        for url in storage.list_below(BUCKET):
            storage.put(str(keep / url.removeprefix(f"{BUCKET}/")), storage.read_bytes(url))
        storage.put(str(keep / SECONDS), json.dumps(seconds).encode())
    return expected, seconds


def taken(folder: Path | None, count: int) -> tuple[dict[int, dict[str, bytes]], list[float]] | None:
    """As `quiet`, from its folder, if it is there."""
    if folder is None or not (folder / SECONDS).exists():
        return None
    for path in (path for path in folder.rglob("*") if path.is_file() and path.name != SECONDS):
        storage.put(storage.join(BUCKET, str(path.relative_to(folder))), path.read_bytes())
    expected = {workers: contents(storage.join(BUCKET, f"undisturbed{workers}")) for workers in WORKERS[:count]}
    return expected, json.loads((folder / SECONDS).read_text())


def drive(verbs: Sequence[str], path: str, overrides: Sequence[str], environment: dict[str, str], said: str) -> None:
    """Some verbs, one after the other, in a process of their own. Its exit status is that of the last one."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ |= environment
    if "RAY_ADDRESS" not in environment:
        import alone

        sys.exit(alone.run(verbs, path, overrides))
    from fourmill import cli

    options = [word for override in overrides for word in ("--set", override)]
    for verb in verbs:
        print(f"== {verb}", flush=True)
        try:
            status = cli.main([verb, path, *options])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        if status:
            sys.exit(status)


def start(verbs: Sequence[str], path: Path, overrides: Sequence[str], site: Site, said: Path, day: Day) -> int:
    """One start of the driver: its exit status. What the day says is killed meanwhile."""
    ray = {} if site.cluster is None else {"RAY_ADDRESS": site.cluster.address()}
    context = multiprocessing.get_context("forkserver")
    store = {} if site.proxy is None else endpoint(site.proxy.port)
    given = (verbs, str(path), overrides, store | ray, str(said))
    process = context.Process(target=drive, args=given)
    process.start()
    started = last = looked = time.monotonic()
    size = said.stat().st_size if said.exists() else 0
    try:
        while process.is_alive():
            time.sleep(0.1)
            now, before = time.monotonic(), size
            size = said.stat().st_size if said.exists() else 0
            last = now if size != before else last
            day.silence = max(day.silence, now - last)
            if now - looked > 1:
                looked = now
                day.cpu |= cpu_times()
            if day.kills and now - day.begin > day.kills[0][0]:
                day.killed.append(site.strike(day.kills.pop(0)[1], process, day.draw))
            if now - started > PATIENCE_SECONDS:
                day.wrong.append(f"a driver did not end within {PATIENCE_SECONDS:g} s")
                break
    finally:
        process.kill()
        process.join()
    return int(process.exitcode or 0)


def one_day(root: str, path: Path, verbs: Sequence[str], workers: int, day: Day, site: Site) -> None:
    """Until all verbs have ended well, in a root of its own."""
    overrides = [f"root={root}", f"train.workers={workers}"]
    day.begin, day.before = time.monotonic(), cpu_times()
    day.cpu = dict(day.before)
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "said")
        while day.starts < STARTS:
            day.starts += 1
            if start(verbs, path, overrides, site, said, day) == 0:
                break
        else:
            day.wrong.append(f"it did not end well in {STARTS} starts")
        day.said = said.read_text(errors="replace")
    day.seconds = time.monotonic() - day.begin


def differences(expected: dict[str, bytes], got: dict[str, bytes]) -> list[str]:
    """Between files by name, in words."""
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - got.keys())]
    wrong += [f"{name} is too many" for name in sorted(got.keys() - expected.keys())]
    return wrong + [f"{name} differs" for name in sorted(expected.keys() & got.keys()) if got[name] != expected[name]]


def judge(day: Day, root: str, verbs: Sequence[str], expected: dict[str, bytes]) -> None:
    """Note what is not as it must be."""
    got = contents(root, verbs)
    expected = {name: data for name, data in expected.items() if "train" in verbs or not name.startswith("runs/")}
    day.wrong += differences(expected, got)
    status, out, err = runs.command("check", root)
    if status:
        day.wrong.append(f"check: {(out + err).strip().splitlines()[-1]}")
    if day.silence > SILENCE_SECONDS:
        day.wrong.append(f"silent for {day.silence:.0f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--rate", type=float, default=0.1, help="share of the requests that are disturbed")
    parser.add_argument("--kills", type=int, default=2, help="at most, in one seed")
    parser.add_argument(
        "--without-ray", action="store_true", help="all in the driver, which is killed, as the proxy is"
    )
    parser.add_argument("--logs", type=Path, help="a folder for what the verbs said")
    parser.add_argument("--undisturbed", type=Path, help="a folder for what is made undisturbed")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH", "")]))
    # As infra/cluster.py, but before Ray is imported: it would start workers through `uv`.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(PRELOADED))
    bad = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        proxy = Proxy(stack.enter_context(server()))
        stack.callback(proxy.kill)
        path = recipe(folder)
        site = Site(proxy, None if args.without_ray else Cluster(endpoint(proxy.port)))
        if site.cluster is not None:
            stack.callback(site.cluster.end)
        count = 1 if args.without_ray else len(WORKERS)
        expected, took = taken(args.undisturbed, count) or quiet(path, site, count, args.undisturbed)
        print(f"\na share of {args.rate:g} of the requests disturbed\n")
        print(
            "| seed | verbs | workers | s | CPU s | starts | killed | longest silence, s | wrong |\n"
            "|---|---|---|---|---|---|---|---|---|"
        )
        for seed in range(args.first, args.first + args.seeds):
            draw = random.Random(seed)
            root, (verbs, workers) = storage.join(BUCKET, f"seed{seed}"), PARTS[seed % (2 if args.without_ray else 4)]
            count = draw.randint(min(1, args.kills), args.kills)
            longest = took[seed % len(PARTS)]
            day = Day(sorted((draw.uniform(1, longest), draw.choice(VICTIMS)) for _ in range(count)), draw)
            if "label" not in verbs:
                copy(storage.join(BUCKET, "undisturbed1"), root)
            proxy.kill()
            proxy.start(seed, args.rate)
            one_day(root, path, verbs, workers, day, site)
            judge(day, root, verbs, expected[workers])
            bad += bool(day.wrong)
            killed, wrong = ", ".join(day.killed) or "-", "; ".join(day.wrong) or "nothing"
            spent, silence = f"{day.seconds:.0f} | {day.cpu_seconds:.0f}", f"{day.silence:.0f}"
            print(
                f"| {seed} | {' '.join(verbs)} | {workers} | {spent} | {day.starts} | {killed} | {silence} | {wrong} |",
                flush=True,
            )
            if args.logs is not None:
                args.logs.mkdir(parents=True, exist_ok=True)
                (args.logs / f"seed{seed}.log").write_text(day.said)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
