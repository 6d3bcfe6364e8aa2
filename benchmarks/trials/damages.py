"""Random damages of a root, one at a time: does `fourmill check` find each?

    python benchmarks/trials/damages.py ROOT [--trials 200] [--seed 0]

ROOT is copied; its columns, labels, records, tokenizers, checkpoints and models are damaged in turn: a byte changed, a
run of bytes made zeros, the file cut, or another file of the same folder put in its place. Each is mended before the
next.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fourmill.report.check import check

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/, whose modules the folders share
from circumstances import state

FOLDERS = ("tokens", "labels", "ledger", "tokenizers", "runs")
# Logs, and what a run says of itself for people.
APART = ("metrics.jsonl", "recipe.yaml", "tokenizers.json")


def damageable(root: Path) -> list[Path]:
    """The files that a check must find damaged."""
    files = (path for folder in FOLDERS for path in sorted((root / folder).rglob("*")) if path.is_file())
    kinds = (".parquet", ".json", ".safetensors", ".pt")
    chosen = [path for path in files if path.suffix in kinds and path.name not in APART]
    # Wall times, and what is listed beside generated samples, are notes that no result depends on.
    return [path for path in chosen if "stages" not in path.parts and path.name != "samples.json"]


def damaged(path: Path, rng: random.Random) -> tuple[str, bytes]:
    """How, and the new content."""
    whole = path.read_bytes()
    at = rng.randrange(len(whole))
    how = rng.choice(("byte", "zeros", "cut", "swap"))
    others = [other for other in path.parent.iterdir() if other.is_file() and other.suffix == path.suffix]
    others = [other for other in others if other.read_bytes() != whole]
    if how == "swap" and others:
        return how, rng.choice(others).read_bytes()
    if how == "cut":
        return how, whole[:at]
    zeros = whole[:at] + b"\0" * min(64, len(whole) - at) + whole[at + 64 :]
    if how == "zeros" and zeros != whole:
        return how, zeros
    return "byte", whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    rng, found, tried, missed = random.Random(args.seed), Counter[str](), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(shutil.copytree(args.root, Path(folder) / "root"))
        if check.check(str(root)).broken:
            sys.exit(f"{args.root} is broken already; see `fourmill check`")
        files, begin = damageable(root), time.monotonic()
        for _ in range(args.trials):
            path = rng.choice(files)
            whole = path.read_bytes()
            how, content = damaged(path, rng)
            path.write_bytes(content)
            kind = f"{path.relative_to(root).parts[0]}, {how}"
            tried[kind] += 1
            if check.check(str(root)).broken:
                found[kind] += 1
            else:
                missed.append(f"{path.relative_to(root)}: {how}")
            path.write_bytes(whole)
    print("\n| what, how | tried | found |\n|---|---|---|")
    for kind, count in sorted(tried.items()):
        print(f"| {kind} | {count} | {found[kind]} |")
    print(f"\n{found.total()} of {tried.total()} found, {len(files)} files, {time.monotonic() - begin:.0f} s")
    print("\n".join(missed))
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
