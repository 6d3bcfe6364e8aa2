"""From a table of URLs to a trained model on bad days: is the set of samples that of an undisturbed run?

    python benchmarks/trials/download_chaos.py [--seeds 3] [--first 0] [--urls 80] [--texts 40] [--kills 3]
        [--download-alone] [--logs DIR]

A web server of this machine (that of the tests) answers with images, and misbehaves: slow, failing, hanging, cut,
endless, lying about types, redirecting in circles and to 169.254.169.254, with bombs, and with robots.txt and headers
that say no. One recipe (a TSV of URLs with captions, a small 4M of three modalities) is run by `fourmill run`: once
undisturbed, and once for each seed, in a new folder; meanwhile the driver, a worker or Ray's own daemon is killed at
random moments, and the command is started again, as a user would, until it ends well. Every other seed has a table of
texts in place of the URLs.

A seed passes if its shards with their tables of rows, labels, tokens, tokenizers and the trained model are those of the
undisturbed run, byte for byte. With `--download-alone` nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/, whose modules the folders share
from circumstances import ROOT, state

SUPPORT = str(ROOT / "tests/support")
sys.path.insert(0, SUPPORT)
from fourmill_tests import data, runs  # noqa: E402

STARTS = 15  # of a command
PATIENCE_SECONDS = 900.0  # for one start, until it counts as hung
VICTIMS = ("driver", "worker", "raylet")
SERVER = """
import threading
from fourmill_tests.web import server
with server.serve() as web:
    web.robots["127.0.0.3"] = "User-agent: *\\nDisallow: /"
    print(web.port, flush=True)
    threading.Event().wait()
"""
# Half of the URLs are images; the others take turns.
BAD = (
    "status/404", "status/403", "status/503", "hang/1", "slow/1", "endless/1", "huge/1", "circle/0", "chain/0",
    "to/http://169.254.169.254/latest/meta-data", "to/image/5", "lie/1", "broken/1", "cut/1", "noise/1", "bomb/1",
    "gzip-bomb/1", "header/X-Robots-Tag=noai", "header/tdm-reservation=1", "large/7",
)  # fmt: skip


@contextmanager
def server() -> Iterator[int]:
    """The port of the web server, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def write_urls(path: Path, port: int, count: int) -> None:
    """As CC12M's table: URL and caption, without a header."""
    lines = []
    for i in range(count):
        bad = BAD[i // 2 % len(BAD)] if i % 2 else f"image/{i}"
        host = f"127.0.0.{1 + i % 3 if i % 2 == 0 or i % 20 == 1 else 1}"
        lines.append(f"http://{host}:{port}/{bad}\tCaption {i} of a photo, with words\n")
    path.write_text("".join(lines))


def write_texts(path: Path, count: int) -> None:
    """As a file of C4, with rows that hold no text."""
    rows = [
        {
            "text": f"Page {i} says something, and then more of it." if i % 7 else "",
            "timestamp": "2019",
            "url": "http://a",
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(folder: Path, table: Path, of_texts: bool) -> Path:
    """The recipe of a folder: its shards, its root and its model."""
    modalities = ["caption"] if of_texts else ["rgb", "tok_canny_edge", "caption"]
    settings = data.settings(
        folder / "out", str(folder / "shards"), modalities=modalities, labels__keep=["caption"], generate__chains=[],
        engine__actors=1, fit__cpus=1, train__cpus=1, train__workers=1, train__steps=12, train__warmup_steps=2,
        train__checkpoint_every=3, train__validate_every=6,
        download={
            "table": str(table), "out": str(folder / "shards"), "shard_size": 8, "allow": ["127.0.0.0/8"], "timeout": 2,
            "retries": 0, "max_mib": 1, "contact": "https://example.org",
        },
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder / "recipe.yaml"


def contents(folder: Path) -> dict[str, bytes]:
    """What a run has made, by name: shards with their rows, labels, tokens, tokenizers and models."""
    found = [*folder.glob("shards/*.tar"), *folder.glob("shards/*.parquet")]
    found += [one for name in ("labels", "tokens", "tokenizers") for one in folder.glob(f"out/{name}/**/*")]
    found += folder.glob("out/runs/4m/*/model/model.safetensors")
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(found) if one.is_file()}


def strike(victim: str, driver: int, draw: random.Random) -> str:
    """Kill it; returns what was killed: the driver if there is no such process yet."""
    found = []
    for pid in runs.descendants(driver):
        with suppress(OSError):
            name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0]
            works = name.startswith(b"ray::") and not name.endswith((b"Agent", b"IDLE"))
            found += [pid] if (name.endswith(b"/raylet") if victim == "raylet" else works) else []
    if victim == "driver" or not found:
        victim, found = "driver", [driver]
    with suppress(ProcessLookupError):
        os.kill(draw.choice(found), signal.SIGKILL)
    return victim


def start(verb: str, path: Path, said: Path, kill: tuple[float, str] | None, draw: random.Random) -> tuple[int, str]:
    """One start of a command: its exit status, and what was killed meanwhile, "" for nothing."""
    # As infra/cluster.py, but before Ray is imported: it would start workers through `uv`.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH")]))
    killed, below = "", set[int]()
    with open(said, "ab") as out:
        command = [sys.executable, "-m", "fourmill.cli", verb, str(path)]
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        began = time.monotonic()
        while process.poll() is None:
            time.sleep(0.2)
            below.update(runs.descendants(process.pid))
            if kill and time.monotonic() - began > kill[0]:
                killed, kill = strike(kill[1], process.pid, draw), None
            if time.monotonic() - began > PATIENCE_SECONDS:
                process.kill()
        process.wait()
    runs.end_all(sorted(below))  # a killed driver leaves its Ray behind
    return process.returncode, killed


def one_day(verb: str, folder: Path, path: Path, kills: list[tuple[float, str]], draw: random.Random) -> dict[str, Any]:
    """Until the command ends well: how often it was started, what was killed, and how long it took."""
    began, killed, starts = time.monotonic(), list[str](), 0
    while starts < STARTS:
        starts += 1
        status, victim = start(verb, path, folder / "said.log", kills.pop(0) if kills else None, draw)
        killed += [victim] if victim else []
        if status == 0:
            break
    return {"starts": starts, "killed": killed, "seconds": time.monotonic() - began, "well": status == 0}


def differences(got: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - got.keys())]
    wrong += [f"{name} is too many" for name in sorted(got.keys() - expected.keys())]
    return wrong + [f"{name} differs" for name in sorted(expected.keys() & got.keys()) if got[name] != expected[name]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--urls", type=int, default=80)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--kills", type=int, default=3, help="at most, in one seed")
    parser.add_argument("--download-alone", action="store_true", help="train nothing")
    parser.add_argument("--logs", type=Path, help="a folder for what the command said")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    verb, bad = "download" if args.download_alone else "run", 0
    print("| seed | table | seconds | starts | killed | samples | files | wrong |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, server() as port:
        top = Path(name)
        write_urls(top / "urls.tsv", port, args.urls)
        write_texts(top / "texts.jsonl", args.texts)
        undisturbed: dict[bool, tuple[dict[str, bytes], float]] = {}
        for seed in range(args.first - 1, args.first + args.seeds):
            draw = random.Random(seed)
            for of_texts in (False, True) if seed < args.first else (bool(seed % 2),):
                table, kind = (top / "texts.jsonl", "texts") if of_texts else (top / "urls.tsv", "URLs")
                folder = top / (f"seed{seed}" if seed >= args.first else f"undisturbed-{kind}")
                folder.mkdir()
                kills = list[tuple[float, str]]()
                if seed >= args.first:
                    most = undisturbed[of_texts][1]
                    count = draw.randint(min(1, args.kills), args.kills)
                    kills = [(draw.uniform(2, most), draw.choice(VICTIMS)) for _ in range(count)]
                day = one_day(verb, folder, recipe(folder, table, of_texts), kills, draw)
                got = contents(folder)
                if seed < args.first:
                    undisturbed[of_texts] = got, day["seconds"]
                wrong = differences(got, undisturbed[of_texts][0]) + ([] if day["well"] else ["it did not end well"])
                bad += bool(wrong)
                stats = [
                    json.loads(one.read_text())
                    for one in folder.glob("shards/[0-9]*_stats.json")
                    if "_of_" not in one.name
                ]
                samples = sum(one["successes"] for one in stats)
                shown = "undisturbed" if seed < args.first else str(seed)
                killed, said = ", ".join(day["killed"]) or "-", "; ".join(wrong) or "nothing"
                print(
                    f"| {shown} | {kind} | {day['seconds']:.0f} | {day['starts']} | {killed} | {samples} | "
                    f"{len(got)} | {said} |",
                    flush=True,
                )
                if args.logs is not None:
                    args.logs.mkdir(parents=True, exist_ok=True)
                    (args.logs / f"{folder.name}.log").write_bytes((folder / "said.log").read_bytes())
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
