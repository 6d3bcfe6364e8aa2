"""From a table of URLs to a trained model on bad days: is the set of samples that of an undisturbed run?

    python benchmarks/trials/download_chaos.py [--seeds 3] [--first 0] [--urls 80] [--texts 40] [--kills 3]
        [--within SECONDS] [--download-alone] [--without-ray] [--logs DIR]

A web server of this machine (that of the tests) answers with images, and misbehaves: slow, failing, hanging, cut,
endless, lying about types, redirecting in circles and to 169.254.169.254, with bombs, and with robots.txt and headers
that say no. One recipe (a TSV of URLs with captions, a small 4M of three modalities) is run by `fourmill run`: once
undisturbed, and once for each seed, in a new folder; meanwhile the driver, a worker or Ray's own daemon is killed at
random moments, and the command is started again, as a user would, until it ends well (chaos.py does that). Every other
seed has a table of texts in place of the URLs.

A seed passes if its shards with their tables of rows, labels, tokens, tokenizers and the trained model are those of the
undisturbed run, byte for byte. With `--download-alone` nothing is trained; with `--without-ray` all is done in the
driver (alone.py), which alone is killed: most of what a day costs is the start of Ray.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/, whose modules the folders share
import chaos
import sites
from circumstances import ROOT, state

SUPPORT = str(ROOT / "tests/support")
sys.path.insert(0, SUPPORT)
from fourmill_tests import data  # noqa: E402

KINDS = ("URLs", "texts")
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
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
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
            "table": str(table), "out": str(folder / "shards"), "shard_size": 8, "allow": ["127.0.0.0/8"],
            "timeout": 20, "retries": 0, "max_mib": 1, "contact": "https://example.org",
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--urls", type=int, default=80)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--kills", type=int, default=3, help="at most, in one seed")
    parser.add_argument("--within", type=float, help="seconds in which kills fall (default: what it took undisturbed)")
    parser.add_argument("--download-alone", action="store_true", help="train nothing")
    parser.add_argument("--without-ray", action="store_true", help="all in the driver, which is killed")
    parser.add_argument("--logs", type=Path, help="a folder for what the command said")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    stages = ("download", *chaos.VERBS) if args.without_ray else ("run",)
    verbs, bad = ("download",) if args.download_alone else stages, 0
    print(
        "| seed | table | s | CPU s | starts | killed | longest silence, s | samples | files | wrong |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    # As infra/cluster.py, but before Ray is imported: it would start workers through `uv`.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH", "")]))
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(chaos.PRELOADED))
    with ExitStack() as stack:
        top, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), stack.enter_context(server())
        write_urls(top / "urls.tsv", port, args.urls)
        write_texts(top / "texts.jsonl", args.texts)
        site = sites.Site(None, None if args.without_ray else sites.Cluster({}))
        if site.cluster is not None:
            stack.callback(site.cluster.end)
        undisturbed: dict[str, tuple[dict[str, bytes], float]] = {}
        days = [("undisturbed", KINDS[0]), ("undisturbed", KINDS[1])]
        days += [(str(seed), KINDS[seed % 2]) for seed in range(args.first, args.first + args.seeds)]
        for name, kind in days:
            folder, day = top / f"{name}-{kind}", chaos.Day()
            folder.mkdir()
            if name != "undisturbed":
                day.draw = random.Random(int(name))
                most, count = args.within or undisturbed[kind][1], day.draw.randint(min(1, args.kills), args.kills)
                moments = sorted((day.draw.uniform(1, most), day.draw.choice(VICTIMS)) for _ in range(count))
                day.kills = moments
            path = recipe(folder, top / ("texts.jsonl" if kind == "texts" else "urls.tsv"), kind == "texts")
            chaos.one_day(str(folder / "out"), path, verbs, 1, day, site)
            got = contents(folder)
            expected = undisturbed.setdefault(kind, (got, day.seconds))[0]
            day.wrong += chaos.differences(expected, got)
            bad += bool(day.wrong)
            stats = [one for one in folder.glob("shards/[0-9]*_stats.json") if "_of_" not in one.name]
            samples = sum(json.loads(one.read_text())["successes"] for one in stats)
            killed, wrong = ", ".join(day.killed) or "-", "; ".join(day.wrong) or "nothing"
            spent = f"{day.seconds:.0f} | {day.cpu_seconds:.0f} | {day.starts} | {killed} | {day.silence:.0f}"
            print(f"| {name} | {kind} | {spent} | {samples} | {len(got)} | {wrong} |", flush=True)
            if args.logs is not None:
                args.logs.mkdir(parents=True, exist_ok=True)
                (args.logs / f"{folder.name}.log").write_text(day.said)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
