"""Bad days: a store that refuses, cuts and forgets, and processes that are killed; is the data set the undisturbed one?

    python benchmarks/chaos.py [--seeds 50] [--first 0] [--rate 0.1] [--kills 3]

Shards and root lie on an S3 server (moto) on loopback. Label, fit and tokenize run once without disturbance; then, for
each seed, into a new root through a proxy (benchmarks/proxy.py) that answers some requests with 409,
429, 500 or 503, hangs up before or after the request was done, cuts answers, answers late or never, or with an old
listing. Meanwhile a worker, the raylet, the driver or the proxy is killed by the wall clock. A verb that ends with an
error is started again, as a user would.

A seed passes if the labels, tokens and tokenizers of its root are those of the undisturbed one byte for byte, `fourmill
check` finds nothing broken, and no verb was silent for longer than 60 s. `--first N` goes on from seed N.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from circumstances import ROOT, state

from fourmill.infra import storage

SUPPORT = str(ROOT / "tests/support")
sys.path.insert(0, SUPPORT)
from fourmill_tests import data, runs  # noqa: E402

BUCKET = "s3://chaos"
VERBS = ("label", "fit", "tokenize")
MADE = ("labels", "tokens", "tokenizers")  # folders of a root that are compared
VICTIMS = ("worker", "raylet", "driver", "proxy")
SILENCE_SECONDS = 60.0
ATTEMPTS = 12  # of a verb
PATIENCE_SECONDS = 300.0  # for one attempt, until it counts as hung
SERVER = """
import logging
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@dataclass
class Day:
    """What happened to one seed."""

    seconds: float = 0.0
    attempts: Counter[str] = field(default_factory=Counter)
    killed: list[str] = field(default_factory=list)
    silence: float = 0.0
    wrong: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


class Proxy:
    """The proxy of a seed, which can be killed and starts again on its port."""

    def __init__(self, upstream: int, seed: int, rate: float) -> None:
        self._command = [sys.executable, str(ROOT / "benchmarks/proxy.py"), str(upstream), "--seed", str(seed)]
        self._command += ["--rate", str(rate)]
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [*self._command, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def server() -> Iterator[int]:
    """The port of a fresh S3 server with the bucket; this process talks to it directly."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            os.environ |= endpoint(port) | {"AWS_DEFAULT_REGION": "us-east-1"}
            os.environ |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "benchmark")
            storage.filesystem(BUCKET)[0].call_s3("create_bucket", Bucket=BUCKET.removeprefix("s3://"))
            yield port
        finally:
            process.kill()


def endpoint(port: int) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


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
        generate__chains=[],
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder / "recipe.yaml"


def contents(root: str) -> dict[str, bytes]:
    """What a root holds of labels, tokens and tokenizers, by name."""
    fs, path = storage.filesystem(root)
    fs.invalidate_cache()
    names = [name for folder in MADE for name in fs.find(f"{path}/{folder}")]
    return {name.removeprefix(f"{path}/"): fs.cat_file(name) for name in names}


def attempt(
    arguments: Sequence[str], environment: dict[str, str], kill: tuple[float, str] | None, proxy: Proxy, day: Day
) -> int:
    """One start of a verb: its exit status. `kill`: after how many seconds what is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fourmill.cli", *arguments], env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    source = process.stdout

    def read() -> None:
        for line in source:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    begin = last = time.monotonic()
    below: set[int] = set()
    try:
        while True:
            with suppress(queue.Empty):
                line = lines.get(timeout=0.2)
                if line is None:
                    break
                day.said.append(line)
                last = time.monotonic()
            now = time.monotonic()
            below.update(runs.descendants(process.pid))
            day.silence = max(day.silence, now - last)
            if kill is not None and now - begin > kill[0]:
                day.killed.append(strike(kill[1], process, proxy))
                kill = None
            if process.poll() is not None and process.returncode == -signal.SIGKILL:
                break
            if now - begin > PATIENCE_SECONDS:
                day.wrong.append(f"{arguments[0]} did not end within {PATIENCE_SECONDS:g} s")
                process.kill()
                break
    finally:
        process.kill()
        process.wait()
        runs.end_all(sorted(below))  # what a killed driver leaves behind: its local Ray
    return process.returncode


def strike(victim: str, process: subprocess.Popen[str], proxy: Proxy) -> str:
    """Kill it; returns what was killed: the driver if there is no such process yet."""
    if victim == "proxy":
        proxy.kill()
        proxy.start()
        return victim
    marks = {"worker": b"ray::", "raylet": b"/raylet"}
    for pid in runs.descendants(process.pid) if victim in marks else ():
        with suppress(OSError):
            if marks[victim] in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0]:
                os.kill(pid, signal.SIGKILL)
                return victim
    process.kill()
    return "driver"


def disturbed(seed: int, path: Path, port: int, args: argparse.Namespace) -> Day:
    """One bad day: into a root of its own, until all verbs have ended well."""
    day, draw, begin = Day(), random.Random(seed), time.monotonic()
    root = storage.join(BUCKET, f"seed{seed}")
    proxy = Proxy(port, seed, args.rate)
    kills = [draw.randrange(len(VERBS)) for _ in range(draw.randint(0, args.kills))]
    try:
        for number, verb in enumerate(VERBS):
            for _ in range(ATTEMPTS):
                day.attempts[verb] += 1
                strikes = kills.count(number) >= day.attempts[verb]
                kill = (draw.uniform(2, 25), draw.choice(VICTIMS)) if strikes else None
                arguments = [verb, str(path), "--set", f"root={root}"]
                if attempt(arguments, endpoint(proxy.port), kill, proxy, day) == 0:
                    break
            else:
                day.wrong.append(f"{verb} did not end well in {ATTEMPTS} attempts")
    finally:
        proxy.kill()
    day.seconds = time.monotonic() - begin
    return day


def judge(day: Day, root: str, expected: dict[str, bytes]) -> None:
    """Note what is not as it must be."""
    got = contents(root)
    day.wrong += [f"{name} is missing" for name in sorted(expected.keys() - got.keys())]
    day.wrong += [f"{name} is too many" for name in sorted(got.keys() - expected.keys())]
    day.wrong += [f"{name} differs" for name in sorted(expected.keys() & got.keys()) if got[name] != expected[name]]
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
    parser.add_argument("--kills", type=int, default=3, help="at most, in one seed")
    parser.add_argument("--logs", type=Path, help="a folder for what the verbs said")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH", "")]))
    bad = 0
    with tempfile.TemporaryDirectory() as folder, server() as port:
        path = recipe(Path(folder))
        for verb in VERBS:
            subprocess.run([sys.executable, "-m", "fourmill.cli", verb, str(path)], check=True, capture_output=True)
        expected = contents(storage.join(BUCKET, "undisturbed"))
        print(f"{len(expected)} files; a share of {args.rate:g} of the requests disturbed\n")
        print("| seed | s | attempts | killed | longest silence, s | wrong |\n|---|---|---|---|---|---|", flush=True)
        for seed in range(args.first, args.first + args.seeds):
            day = disturbed(seed, path, port, args)
            judge(day, storage.join(BUCKET, f"seed{seed}"), expected)
            bad += bool(day.wrong)
            killed, wrong = ", ".join(day.killed) or "-", "; ".join(day.wrong) or "nothing"
            print(
                f"| {seed} | {day.seconds:.0f} | {day.attempts.total()} | {killed} | {day.silence:.0f} | {wrong} |",
                flush=True,
            )
            if args.logs is not None:
                args.logs.mkdir(parents=True, exist_ok=True)
                (args.logs / f"seed{seed}.log").write_text("".join(day.said))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
