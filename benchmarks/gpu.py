"""The day with a GPU: what fourmill reaches on it, in one run of less than five minutes.

    python benchmarks/gpu.py [--only step-B ...] [--json gpu.json] [--seconds 290] [--device cuda] [--tiny]

Each file of benchmarks/on_gpu/ has parts: a function each, in a process of its own with its own limit of time, so that
one that fails or hangs costs its own figures alone; the table says why. Weights are random, which changes no time, but
that of what follows from what models see. `--tiny --device cpu` shows only that all runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from circumstances import ROOT, commit, hardware, state

sys.path.insert(0, str(ROOT / "tests/support"))  # random models of hubs
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
FOLDER = Path(__file__).parent / "on_gpu"
Figures = Mapping[str, float | str]


@dataclass(frozen=True)
class Place:
    """Where a part runs. tiny: at a toy's size. folder: for its files, of its own."""

    device: str
    tiny: bool
    folder: Path


@dataclass(frozen=True)
class Part:
    """name: of its rows. run: gives its figures. seconds: that it may take."""

    name: str
    run: Callable[[Place], Figures]
    seconds: float


def parts(only: Sequence[str]) -> list[Part]:
    """Those of all files of on_gpu, in their ORDER; those alone that `only` names, if it names any."""
    modules = [importlib.import_module(f"on_gpu.{path.stem}") for path in FOLDER.glob("*.py")]
    found = [part for module in sorted(modules, key=lambda one: one.ORDER) for part in module.PARTS]
    return [part for part in found if not only or part.name in only]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="names of parts")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--seconds", type=float, default=290.0, help="that all of it may take")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    # Before torch is imported: a process that asks it for GPUs cannot start others that use them.
    begun = {"commit": commit(), "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "hardware": hardware()}
    end, results = time.monotonic() + args.seconds, dict[str, dict[str, Any]]()
    print("| part | figure | value |\n|---|---|---|", flush=True)
    for part in parts(args.only):
        with tempfile.TemporaryDirectory() as folder:
            # What runs dry shows no times, and may share its cores with anything.
            limit = 240.0 if args.tiny else min(part.seconds, end - time.monotonic())
            results[part.name] = alone(part, Place(args.device, args.tiny, Path(folder)), limit)
        for figure, value in results[part.name].items():
            print(f"| {part.name} | {figure} | {shown(value)} |", flush=True)
        if args.json:  # after each part: a run that is cut short has what it had
            said = begun | {"device": args.device, "tiny": args.tiny, "parts": results}
            args.json.write_text(json.dumps(said, indent=1) + "\n")


def shown(value: Any) -> str:
    return value.replace("|", "/").replace("\n", " ") if isinstance(value, str) else f"{value:,.4g}"


def alone(part: Part, place: Place, seconds: float) -> dict[str, Any]:
    """The figures of a part; or `error`, if it fails, ends, or takes longer than `seconds`."""
    if seconds <= 0:
        return {"error": "no time was left"}
    # A copy of this process: what is imported need not be imported again. It has not touched the GPU.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(part, place, sender))
    began = time.monotonic()
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return {"error": f"it took longer than {seconds:.0f} s"}
        return receiver.recv() | {"s in all": time.monotonic() - began}
    except EOFError:
        process.join()
        return {"error": f"its process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _answer(part: Part, place: Place, sender: Connection) -> None:
    try:
        sender.send(dict(part.run(place)))
    except BaseException as error:
        traceback.print_exc()
        sender.send({"error": f"{type(error).__name__}: {error}"[:300]})


if __name__ == "__main__":
    main()
