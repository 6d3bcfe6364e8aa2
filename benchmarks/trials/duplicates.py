"""Planted duplicates: how many of each kind are found, and how many of the images that are none are said to be some.

    python benchmarks/trials/duplicates.py [--images 2000] [--kinds scenes textures photos] [--seed 1] [--least 0.965]
    python benchmarks/trials/duplicates.py --growth 1000000 [--in-bucket 100000]

Distinct images of a kind (rendered scenes, procedural textures, parts of photos that do not overlap) come first; then
copies of a tenth of them for each change: a crop that keeps 80 % of the area, with the image's aspect or another, JPEG
of quality 50, half the size, mirrored. A copy is found if its nearest earlier image is the one that it was made of;
others are distinct images that are said to be copies.

With `--growth` there are no images: so many random vectors, every tenth of them nearly an earlier one, are compared as
embeddings are. Printed are the seconds of the processor, the most memory that is the process's own (pages of files,
which the system takes back when it needs them, are not), bytes on disk, and how many of the planted ones were found.
"""

from __future__ import annotations

import argparse
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import xxhash

from fourmill.infra import scratch
from fourmill.pipelines.curation.duplicates import join, neighbours, pictures
from fourmill.pipelines.scenes import draw
from fourmill.pipelines.scenes.render import render

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/, whose modules the folders share
from circumstances import state

PHOTOS = (
    "astronaut", "coffee", "chelsea", "rocket", "camera", "brick", "grass", "gravel", "coins", "page", "text", "clock",
    "immunohistochemistry", "hubble_deep_field", "moon",
)  # fmt: skip
EACH = 10  # of so many images one is copied by each change
TILE = 192  # pixels of a part of a photo


def scenes(count: int, seed: int) -> list[np.ndarray]:
    return [render(draw.draw(seed, "train", index, "medium"), 64).rgb for index in range(count)]


def textures(count: int, seed: int) -> list[np.ndarray]:
    """Noise of the spectra of photos, of several aspects."""
    rng, made = np.random.default_rng(seed), []
    for index in range(count):
        height, width = ((160, 160), (120, 160), (160, 106))[index % 3]
        frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
        shape = (3, *frequencies.shape)
        grey = rng.normal(size=shape[1:]) + 1j * rng.normal(size=shape[1:])
        colour = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        spectrum = (grey + 0.5 * colour) / np.maximum(frequencies, 1 / 160) ** rng.uniform(0.8, 2.0)
        waves = np.fft.irfft2(spectrum, s=(height, width))
        waves = (waves - waves.mean((1, 2), keepdims=True)) / waves.std((1, 2), keepdims=True)
        made.append(np.clip(128 + 50 * waves, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy())
    return made


def photos(count: int, seed: int) -> list[np.ndarray]:
    """Parts of the photos that scikit-image has here, in another order for each seed."""
    import skimage.data

    made: list[np.ndarray] = []
    for name in PHOTOS:
        try:
            photo = np.asarray(getattr(skimage.data, name)())
        except (AttributeError, OSError, ValueError):  # one that it would fetch
            continue
        photo = np.repeat(photo[..., None], 3, 2) if photo.ndim == 2 else photo[..., :3]
        rows, columns = (range(0, side - TILE + 1, TILE) for side in photo.shape[:2])
        made += [np.ascontiguousarray(photo[y : y + TILE, x : x + TILE]) for y in rows for x in columns]
    return [made[i] for i in np.random.default_rng(seed).permutation(len(made))[:count]]


def cropped(image: np.ndarray, rng: np.random.Generator, width: float) -> np.ndarray:
    """A window anywhere, of this share of the width, and in all of 80 % of the area."""
    high, wide = image.shape[:2]
    across, down = round(wide * width), round(high * 0.8 / width)
    left, top = int(rng.integers(0, wide - across + 1)), int(rng.integers(0, high - down + 1))
    return np.ascontiguousarray(image[top : top + down, left : left + across])


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "crop of 80 %": lambda image, rng: cropped(image, rng, 0.8**0.5),
    "crop of 80 %, any aspect": lambda image, rng: cropped(image, rng, float(rng.uniform(0.8, 1.0))),
    "JPEG of quality 50": lambda image, rng: jpeg(image, 50),
    "half the size": lambda image, rng: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "mirrored": lambda image, rng: np.ascontiguousarray(image[:, ::-1]),
}
KINDS = {"textures": textures, "photos": photos, "scenes": scenes}


def matches(images: list[np.ndarray], least: float) -> dict[int, join.Match]:
    """The nearest earlier image of each image that has one, as a stage finds them."""
    values = np.stack([pictures.small(image) for image in images])
    sums = np.array(
        [xxhash.xxh3_64_intdigest(one.tobytes()) if pictures.has_detail(one) else 0 for one in values], np.uint64
    )
    found: dict[int, join.Match] = {}
    with scratch.folder() as folder:
        for number, match in join.found(values, sums, join.Method("signature", least), Path(folder)):
            if number not in found or match.distance < found[number].distance:
                found[number] = match
    return found


def grow(count: int, seed: int) -> str:
    """A row of the table: what it costs to find copies among so many vectors."""
    draw, dim = np.random.default_rng(seed), 35
    with scratch.folder() as name, own_memory() as most:
        values = np.memmap(Path(name, "values"), np.float16, "w+", shape=(count, dim))
        for first in range(0, count, 100_000):  # a copy stands 5 places after what it is nearly
            part = draw.normal(size=(min(100_000, count - first), dim)).astype(np.float32)
            part[9::10] = part[4::10][: len(part[9::10])] + 0.05 * part[9::10]
            values[first : first + len(part)] = part
        copies, others, start = 0, 0, _cpu()
        (folder := Path(name, "compared")).mkdir()
        for number, match in join.found(
            values, np.arange(1, count + 1, dtype=np.uint64), join.Method("clip_global", 0.97), folder
        ):
            copies += number % 10 == 9 and match.earlier == number - 5
            others += number % 10 != 9
        size = sum(one.stat().st_size for one in Path(name).rglob("*") if one.is_file())
    planted = len(range(9, count, 10))
    return (
        f"| {count:,} | {_cpu() - start:,.0f} | {most[0]:,.0f} | {size / 2**30:.1f} | {copies:,} of {planted:,} | "
        f"{others:,} |"
    )


@contextmanager
def own_memory() -> Iterator[list[float]]:
    """The most MiB that this process has had of its own, looked at again and again until the end of the block."""
    most, end = [0.0], threading.Event()

    def look() -> None:
        while not end.wait(0.1):
            of = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()
            most[0] = max(most[0], int(of[0]) / 2**10)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        end.set()
        thread.join()


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="distinct images of a kind, or as many as there are")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.965, help="likeness from which images are one")
    parser.add_argument("--growth", type=int, metavar="N", help="compare so many random vectors instead")
    parser.add_argument("--in-bucket", type=int, help="vectors of a bucket, on average (default: as a stage has them)")
    args = parser.parse_args(arguments)
    if args.in_bucket:
        neighbours.IN_BUCKET = neighbours.ALL_WITH_ALL = args.in_bucket
    state(__file__, arguments)
    if args.growth:
        print("| vectors | CPU seconds | MiB | GiB on disk | found | others |\n|---|---|---|---|---|---|")
        print(grow(args.growth, args.seed))
        return
    print(f"| kind | distinct images | {' | '.join(f'found, {name}' for name in CHANGES)} | others | seconds |")
    print(f"|---|---|{'---|' * len(CHANGES)}---|---|")
    for kind in args.kinds:
        distinct = KINDS[kind](args.images, args.seed)
        rng = np.random.default_rng(args.seed)
        planted = [(name, i) for k, name in enumerate(CHANGES) for i in range(k, len(distinct), EACH)]
        images = distinct + [CHANGES[name](distinct[i], rng) for name, i in planted]
        start = time.monotonic()
        found = matches(images, args.least)
        seconds = time.monotonic() - start
        shown = []
        for name in CHANGES:
            copies = [(len(distinct) + n, i) for n, (one, i) in enumerate(planted) if one == name]
            right = sum(copy in found and found[copy].earlier == i for copy, i in copies)
            shown.append(f"{right} of {len(copies)}")
        others = sum(i in found for i in range(len(distinct)))
        print(f"| {kind} | {len(distinct)} | {' | '.join(shown)} | {others} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
