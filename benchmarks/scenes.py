"""Rendered scenes with their truth: images/s at several sizes, by the clock and of CPU time.

    python benchmarks/scenes.py [--images 200] [--sizes 96 224] [--clutter medium] [--processes 2]

A figure counts all that a sample is: drawing, casting, image, truth, caption, files. The start of the processes is left
out: each renders one chunk before the clock starts. CPU time says less of a machine that is shared than the clock does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from circumstances import state

from fourmill.pipelines.scenes.sample import Options, files

CHUNK = 10


def render(options: Options, first: int) -> tuple[int, float]:
    """Render CHUNK samples; returns their bytes and the seconds of CPU time."""
    start = time.process_time()
    weight = sum(len(data) for i in range(first, first + CHUNK) for data in files(options, "train", i)[1].values())
    return weight, time.process_time() - start


def measure(options: Options, images: int, processes: int) -> tuple[float, float, float]:
    """Images/s by the clock, images/s of CPU time (of one core), KiB of a sample."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        list(pool.map(render, [options] * processes, [images] * processes))
        start = time.perf_counter()
        done = list(pool.map(render, [options] * (images // CHUNK), range(0, images, CHUNK)))
        seconds = time.perf_counter() - start
    weights, cpu = zip(*done, strict=True)
    return images / seconds, images / sum(cpu), sum(weights) / images / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help=f"of each size, a multiple of {CHUNK}")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 224], help="sides of images in pixels")
    parser.add_argument("--clutter", default="medium", help="as of `fourmill scenes`")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args(arguments)
    if args.images < CHUNK or args.images % CHUNK:
        parser.error(f"--images: got {args.images}, expected a multiple of {CHUNK}")
    state(__file__, arguments)
    print(f"| side, px | images/s, {args.processes} processes | images/s of CPU time, 1 core | KiB a sample |")
    print("|---|---|---|---|")
    for size in args.sizes:
        clock, cpu, weight = measure(Options(0, size, args.clutter), args.images, args.processes)
        print(f"| {size} | {clock:.1f} | {cpu:.1f} | {weight:.0f} |", flush=True)


if __name__ == "__main__":
    main()
