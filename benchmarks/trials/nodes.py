"""Every stage on a cluster whose nodes come and go, submitted from outside: is the data set that of a quiet local run?

    python benchmarks/trials/nodes.py [--stages label fit tokenize train generate] [--seed 0] [--logs DIR]

A head without cores and two nodes of one core each are started with a token, as `ray start` does it; samples and root
lie on an S3 server (moto) on loopback. Each stage is submitted by `fourmill submit`, whose terminal is closed at once.
When the root shows that the stage is at work, one node is taken away and another one joins: in turn a node is killed
without a word, and one leaves with a notice (Ray's drain API, as an autoscaler sends it) some seconds before.

It passes if all stages end with exit status 0, and labels, tokens, tokenizers, model and generations are those of
`fourmill run` on this machine, in a folder, byte for byte; if `fourmill check` finds nothing broken, and the report is
made. The table says of each stage whether its job was still running when the node went.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from chaos import differences, state
from sites import BUCKET, SUPPORT, server

from fourmill.infra import storage

sys.path.insert(0, SUPPORT)
from fourmill_tests import data, runs
from fourmill_tests.clusters import nodes

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5a" * 32}
# What of a stage is in the root when it is at work.
BEGUN = {
    "label": r"ledger/labels/.*\.json|chunks/.*",
    "fit": r"runs/fit-.*/complete\.json",
    "tokenize": r"ledger/tokens/.*\.json|chunks/.*",
    "train": r"runs/4m/.*/complete\.json",
    "generate": r"runs/4m/.*/generated/.*/samples\.json",
}
COMPARED = re.compile(r"(labels|tokens|tokenizers)/|runs/4m/.*/(model/model\.safetensors|generated/.*)$")
NOTICE_SECONDS = 6  # from the notice to the end of a node
PATIENCE_SECONDS = 1800.0  # for one stage
LOOK_SECONDS = 0.3


@dataclass
class Cluster:
    """A head and its nodes, each with what ends it. url: of the dashboard. address: for nodes."""

    folder: Path
    environment: dict[str, str]
    url: str
    address: str
    nodes: dict[str, ExitStack] = field(default_factory=dict)
    _count: int = 0

    def add(self) -> None:
        self._count += 1
        name, stack = f"{self._count:056x}", ExitStack()
        named = self.environment | {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": name}
        stack.enter_context(nodes.node(self.folder / f"node-{self._count}.log", named, f"--address={self.address}"))
        self.nodes[name] = stack

    def take_away(self, name: str, with_notice: bool) -> None:
        if with_notice:
            command = [f"{nodes.BIN}/ray", "drain-node", f"--address={self.address}", f"--node-id={name}"]
            command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
            command += [f"--deadline-remaining-seconds={NOTICE_SECONDS}"]
            subprocess.run(command, env=self.environment, check=True, capture_output=True)
            time.sleep(NOTICE_SECONDS)
        self.nodes.pop(name).close()

    def end(self) -> None:
        for name in list(self.nodes):
            self.nodes.pop(name).close()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """With two nodes."""
    home = folder / "home"
    home.mkdir()
    environment = nodes.environment(HOME=str(home), **TOKEN)
    port = nodes.free_port()
    with nodes.head(folder / "head.log", environment, f"--dashboard-port={port}", "--num-cpus=0") as address:
        one = Cluster(folder, environment, f"http://127.0.0.1:{port}", address)
        try:
            one.add()
            one.add()
            yield one
        finally:
            one.end()


def recipe(folder: Path) -> Path:
    """Six small shards, one of them with bad samples; edges take time, and each stage has a middle."""
    paths = [Path(path) for path in data.good_shards(folder / "s", 5, 12)]
    (folder / "s/bad.tar").write_bytes(data.tar(data.bad_entries()))
    urls = []
    for path in (*paths, folder / "s/bad.tar"):
        urls.append(storage.join(BUCKET, "s", path.name))
        storage.put(urls[-1], path.read_bytes())
    chain = {"inputs": ["rgb"], "to": [{"target": "tok_canny_edge", "steps": 16}]}
    slow = {"specialist": "fourmill_tests.specialists:Slow", "seconds": 0.5}
    settings = data.settings(
        storage.join(BUCKET, "out"), urls, modalities=["rgb", "tok_canny_edge", "caption"],
        labels__keep=["canny_edge", "caption"], labels__specialists={"canny_edge": slow}, engine__chunk_seconds=2,
        tokenizers__common__steps=150, fit__workers=2, fit__cpus=1, train__workers=2, train__cpus=1, train__steps=300,
        train__checkpoint_every=20, generate__samples=24, generate__chains=[chain, {**chain, "ensemble": 4}, chain],
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder / "recipe.yaml"


def made(root: str) -> dict[str, bytes]:
    """The data set, the model, and what it has generated, by path below a root."""
    names = (url.removeprefix(f"{root}/") for url in storage.list_below(root))
    return {name: storage.read_bytes(storage.join(root, name)) for name in names if COMPARED.match(name)}


def quiet(path: Path, root: Path) -> dict[str, bytes]:
    """`fourmill run` on this machine, undisturbed; one that is there already does nothing more."""
    command = [sys.executable, "-m", "fourmill.cli", "run", str(path), "--set", f"root={root}"]
    done = subprocess.run(command, env=nodes.environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"undisturbed, and it did not end well:\n{done.stdout}{done.stderr}")
    return made(str(root))


def submit(one: Cluster, path: Path, stage: str) -> str:
    """The name of the job. Its terminal is closed as soon as it is said."""
    command = [sys.executable, "-m", "fourmill.cli", "submit", str(path), "--stage", stage, "--address", one.url]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=one.environment, text=True, **streams) as process:
        said = []
        for line in process.stdout or ():
            said.append(line)
            if (found := re.match(r"job (\S+): ", line)) is not None:
                process.send_signal(signal.SIGHUP)
                process.communicate()
                return found[1]
    sys.exit(f"{stage} was not submitted:\n{''.join(said)}")


@dataclass
class Stage:
    """What happened to one: how a node was taken away, after how many seconds, and what went wrong."""

    name: str
    how: str = "-"
    after: float = 0.0
    seconds: float = 0.0
    log: str = ""
    wrong: list[str] = field(default_factory=list)


def one_stage(one: Cluster, path: Path, name: str, with_notice: bool, draw: random.Random) -> Stage:
    """Submit it, take a node away in its middle, add another one, and wait for its end."""
    from fourmill.infra.submission.jobs import Jobs, exit_status  # here: Ray looks for a token when it is imported

    root, stage, started = storage.join(BUCKET, "out"), Stage(name), time.monotonic()
    jobs = Jobs(one.url)
    job = submit(one, path, name)
    begun, end = re.compile(BEGUN[name]), started + PATIENCE_SECONDS
    before = set(storage.list_below(root))
    while not jobs.details(job).status.is_terminal() and time.monotonic() < end:
        if any(begun.search(url) for url in set(storage.list_below(root)) - before):
            break
        time.sleep(LOOK_SECONDS)
    victim = draw.choice(sorted(one.nodes))
    one.take_away(victim, with_notice)
    stage.after, is_running = time.monotonic() - started, not jobs.details(job).status.is_terminal()
    one.add()
    stage.how = ("left with notice" if with_notice else "killed") + ("" if is_running else ", when it had ended")
    while not (details := jobs.details(job)).status.is_terminal() and time.monotonic() < end:
        time.sleep(1)
    stage.seconds, stage.log = time.monotonic() - started, jobs.log(job)
    if not details.status.is_terminal():
        jobs.stop(job)
        stage.wrong.append(f"it did not end within {PATIENCE_SECONDS:.0f} s")
    elif status := exit_status(details):
        stage.wrong.append(f"exit status {status}")
    return stage


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=list(BEGUN), default=list(BEGUN), help="stages that are struck")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the nodes that go; odd: notices and kills change places"
    )
    parser.add_argument("--quiet", type=Path, help="a folder for the quiet run, which is taken if it is there")
    parser.add_argument("--logs", type=Path, help="a folder for what the jobs said")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH", "")]))
    draw, wrong = random.Random(args.seed), list[str]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        stack.enter_context(server())
        path = recipe(folder)
        expected = quiet(path, args.quiet or folder / "quiet")
        print(f"a quiet run made {len(expected)} files\n", flush=True)
        os.environ |= TOKEN
        one = stack.enter_context(cluster(folder))
        print("| stage | s | a node | after s | wrong |\n|---|---|---|---|---|", flush=True)
        for number, name in enumerate(args.stages):
            stage = one_stage(one, path, name, (number + args.seed) % 2 == 1, draw)
            wrong += stage.wrong
            said = "; ".join(stage.wrong) or "nothing"
            print(f"| {name} | {stage.seconds:.0f} | {stage.how} | {stage.after:.0f} | {said} |", flush=True)
            if args.logs is not None:
                args.logs.mkdir(parents=True, exist_ok=True)
                (args.logs / f"{name}.log").write_text(stage.log)
            if any(what.startswith("exit") for what in stage.wrong):  # the next stage needs it
                print(stage.log[-3000:])
                return 1
        for verb in ("check", "report"):
            given = storage.join(BUCKET, "out") if verb == "check" else str(path)
            status, out, err = runs.command(verb, given)
            wrong += [f"{verb}: {(out + err).strip().splitlines()[-1]}"] if status else []
        wrong += differences(expected, made(storage.join(BUCKET, "out")))
    print(f"\n{len(expected)} files compared: {'; '.join(wrong) or 'all are the same, byte for byte'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
