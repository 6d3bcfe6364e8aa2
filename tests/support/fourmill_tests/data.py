"""Small datasets of real photos, good and bad, and the stages on them without Ray."""

from __future__ import annotations

import copy
import io
import json
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from PIL import Image

from fourmill import recipe as recipes
from fourmill.infra import ledger
from fourmill.infra.storage import TEMPORARY_PREFIX
from fourmill.pipelines.engine.job import Hints, PlaceError
from fourmill.pipelines.outputs import Output
from fourmill.pipelines.plan import ShardTask, working
from fourmill.pipelines.worker.job import Job
from fourmill.pipelines.worker.shard_worker import ShardWorker
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.tokenize import table_file
from fourmill.train.pretrain.job import TrainJob

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
ATTACK = "<script>document.title='owned'</script> \x1b[2Jand more"

# Every modality that works end to end, at sizes that take seconds on one core.
TINY: dict[str, Any] = {
    "images": {"size": 64, "patch_size": 16, "max_pixels": 1_000_000},
    "labels": {
        "keep": ["canny_edge", "color_palette", "metadata", "det", "caption"],
        "specialists": {"det": {"specialist": "hog_people"}},
    },
    "tokenizers": {
        "text": {"vocab_size": 6000},
        "common": {
            "decoder": "vit", "codebook_size": 64, "latent_dim": 8, "dim": 32, "encoder_depth": 1, "decoder_depth": 1,
            "heads": 2, "precision": "fp32", "steps": 12, "batch_size": 8, "base_lr": 0.02, "warmup_steps": 2,
            "samples": 48, "validation_samples": 8, "checkpoint_every": 3,
        },
    },
    "engine": {"batch_size": 4},
    "train": {
        "model": {"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2},
        "input_tokens": 32, "target_tokens": 32, "batch_size": 8, "steps": 24, "warmup_steps": 4, "base_lr": 0.02,
        "log_every": 2, "validate_every": 8, "validation_samples": 8, "checkpoint_every": 4,
    },
    "generate": {
        "samples": 2,
        "chains": [
            {
                "inputs": ["rgb"],
                "to": [{"target": "tok_canny_edge", "steps": 2}, {"target": "caption", "max_tokens": 8}],
            },
            {"inputs": ["caption"], "to": [{"target": "tok_rgb", "steps": 2, "guidance": 2.0}]},
        ],
    },
}  # fmt: skip


def tar(entries: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar of these members, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@cache
def _photo(name: str) -> np.ndarray:
    return np.ascontiguousarray(getattr(skimage.data, name)()[..., :3])


def picture(index: int, width: int = 120, height: int = 96) -> np.ndarray:
    """A part of a photo, uint8 (height, width, 3): another one for each index."""
    photo = _photo(PHOTOS[index % len(PHOTOS)])
    rng = np.random.default_rng(index)
    side = int(rng.integers(150, min(photo.shape[:2])))
    top, left = (int(rng.integers(0, size - side + 1)) for size in photo.shape[:2])
    return cv2.resize(photo[top : top + side, left : left + side], (width, height), interpolation=cv2.INTER_AREA)


def encode(image: np.ndarray | Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def good_entries(first: int, count: int) -> list[tuple[str, bytes]]:
    """Members of `count` good samples of several sizes."""
    entries = []
    for i in range(first, first + count):
        image = picture(i, 100 + 7 * (i % 5), 90 + 11 * (i % 3))
        text = f"Part {i} of the photo {PHOTOS[i % len(PHOTOS)]}. It was cut out for a test."
        entries += [(f"{i:06d}.jpg", encode(image, quality=90)), (f"{i:06d}.txt", text.encode())]
    return entries


def good_shards(folder: Path, shards: int, samples: int, first: int = 0, name: str = "train") -> list[str]:
    """Write `shards` shards of good samples; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for s in range(shards):
        path = folder / f"{name}-{s:05d}.tar"
        path.write_bytes(tar(good_entries(first + s * samples, samples)))
        paths.append(str(path))
    return paths


def bad_entries() -> list[tuple[str, bytes]]:
    """One shard with every kind of input that goes wrong, or looks as if it would, between good samples."""
    jpeg = encode(picture(40), quality=90)
    frames = [Image.fromarray(picture(i, 64, 64)) for i in (50, 51, 52)]
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = Image.fromarray(picture(46)).convert("RGBA")
    rgba.putalpha(128)
    grey16 = Image.fromarray(cv2.cvtColor(picture(47), cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257)
    words = b"A sentence about it."
    return [
        ("good.jpg", jpeg), ("good.txt", words),
        ("truncated.jpg", jpeg[: len(jpeg) * 6 // 10]), ("truncated.txt", words),
        ("zero.jpg", b""), ("zero.txt", words),
        ("text.jpg", b"this is no image, whatever its name says"), ("text.txt", words),
        ("apart.jpg", encode(picture(41))),
        ("large.png", encode(np.zeros((1000, 1001, 3), np.uint8), "PNG")), ("large.txt", words),
        ("animated.webp", encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])), ("animated.txt", words),
        ("silent.jpg", encode(picture(42))),
        ("latin.jpg", encode(picture(43))), ("latin.txt", "caf\xe9".encode("latin-1")),
        ("endless.jpg", encode(picture(44))), ("endless.txt", b"word " * 20_000),
        ("attack.jpg", encode(picture(45))), ("attack.txt", ATTACK.encode()),
        ("twice.jpg", encode(picture(46))), ("twice.txt", words), ("twice.jpg", jpeg),
        ("folder/with.dots.jpeg", encode(picture(47))), ("folder/with.dots.txt", words),
        ("sidecar.jpg", encode(picture(48))),
        ("sidecar.json", json.dumps({"caption": "From the sidecar.", "original_width": 640, "original_height": 480,
                                     "pwatermark": float("nan")}).encode()),
        ("broken.jpg", encode(picture(49))), ("broken.json", b'{"caption": '), ("broken.txt", words),
        ("grey.png", encode(Image.fromarray(picture(53)).convert("L"), "PNG")), ("grey.txt", words),
        ("cmyk.jpg", encode(Image.fromarray(picture(54)).convert("CMYK"))), ("cmyk.txt", words),
        ("indexed.png", encode(Image.fromarray(picture(55)).convert("P"), "PNG")), ("indexed.txt", words),
        ("alpha.png", encode(rgba, "PNG")), ("alpha.txt", words),
        ("deep.png", encode(grey16, "PNG")), ("deep.txt", words),
        ("turned.jpg", encode(picture(56, 120, 80), exif=exif)), ("turned.txt", words),
        ("dot.png", encode(np.full((1, 1, 3), 7, np.uint8), "PNG")), ("dot.txt", words),
        ("black.png", encode(np.zeros((70, 90, 3), np.uint8), "PNG")), ("black.txt", words),
        ("words.txt", b"No image came with these words."),
        ("readme.md", b"ignored"),
        ("apart.txt", b"The text of this one comes last."),
    ]  # fmt: skip


BAD_KEYS = [
    "good", "truncated", "zero", "text", "apart", "large", "animated", "silent", "latin", "endless", "attack", "twice",
    "folder/with.dots", "sidecar", "broken", "grey", "cmyk", "indexed", "alpha", "deep", "turned", "dot", "black",
    "words",
]  # fmt: skip
BAD_IMAGES = {
    "truncated": "image: truncated or damaged",
    "zero": "image: 0 bytes",
    "text": "image: not a JPEG, PNG, WebP, GIF or BMP file",
    "large": "image: 1001 x 1000 px, expected at most 1000000 pixels",
    "words": "image: there is none",
}
BAD_CAPTIONS = {"silent": "caption: there is none", "latin": "caption: not UTF-8"}
BAD_ENTRIES = {
    "twice": "duplicate key: a second .jpg is ignored", "broken": "json: not valid JSON",
    "": "members: no specialist reads ",
}  # fmt: skip


def settings(root: Path | str, train: Any, val: Any = (), **changes: Any) -> dict[str, Any]:
    """A tiny recipe as a mapping. `changes` are fields by their path: images__size=32 is images.size."""
    data = {"root": str(root), "samples": {"train": train, "val": list(val)}, **copy.deepcopy(TINY)}
    for name, value in changes.items():
        *path, last = name.split("__")
        here: Any = data
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    return data


def recipe(root: Path | str, train: Any, val: Any = (), **changes: Any) -> Recipe:
    return recipes.parse(settings(root, train, val, **changes))


class Silent:
    """In place of the board of workers."""

    def tell(self, at: str) -> None:
        pass

    def post(self, **message: Any) -> None:
        pass


def fit(recipe: Recipe, update: bool = False) -> None:
    """The fit stage in this process."""
    from fourmill.train.tokenizers import fit as fitting

    project = Project(recipe, update)
    if project.unfitted:
        fitting.fit_all(project.fit_job(project.unfitted), 0, 1, "cpu", Silent())


def worker_of(
    recipe: Recipe, outputs: dict[str, Output], stored: Sequence[str] = (), everything: bool = True
) -> tuple[ShardWorker, list[ShardTask]]:
    """A shard worker that is set up for these outputs, and the tasks that are left; see `make`.

    everything: load what no task needs, too.
    """
    project = Project(recipe)
    plan = project.plan(outputs, {f"labels/{name}": project.label_outputs[f"labels/{name}"] for name in stored})
    loaded = (project.specialists, outputs) if everything else working(project.specialists, outputs, plan.missing)
    worker = ShardWorker(project.shard_job(*loaded))
    worker.setup("cpu")
    return worker, plan.missing


def make(recipe: Recipe, outputs: dict[str, Output], stored: Sequence[str] = ()) -> list[ledger.Record]:
    """Make what is missing of these outputs in this process; labels named in `stored` may be read from storage.

    A shard that its worker hands back is given to others, as the engine does; one that no worker can do is left out.
    """
    worker, tasks = worker_of(recipe, outputs, stored, everything=False)
    return [record for task in tasks for record in _run(worker, task)]


def _run(worker: ShardWorker, task: ShardTask) -> list[ledger.Record]:
    hints = Hints()
    for _ in range(3):
        try:
            return worker.run(task, hints)
        except PlaceError as error:
            hints = Hints(hints.suspects | error.suspects)
            worker = ShardWorker(worker.job)
            worker.setup("cpu")
    return []


def job(recipe: Recipe) -> Job:
    """What actors are sent to make its kept labels."""
    project = Project(recipe)
    return project.shard_job(project.specialists, project.label_outputs)


def outputs(recipe: Recipe, *, labels: bool = True, tokens: bool = True) -> dict[str, Output]:
    """What the recipe asks for; tokens need fitted tokenizers."""
    project = Project(recipe)
    return (project.label_outputs if labels else {}) | (project.token_outputs if tokens else {})


def train_job(recipe: Recipe) -> TrainJob:
    """The training run that a recipe asks for."""
    return Project(recipe).train_job


def columns(root: Path | str) -> dict[str, bytes]:
    """Every label file and column below a root, by relative path; what a killed writer left is none."""
    folder = Path(root)
    files = [*folder.glob("tokens/**/*.parquet"), *folder.glob("labels/**/*.parquet")]
    whole = sorted(path for path in files if not path.name.startswith(TEMPORARY_PREFIX))
    return {str(path.relative_to(folder)): path.read_bytes() for path in whole}


def rows(root: Path | str) -> dict[str, tuple[str, str]]:
    """Sums of keys and rows of every file below a root, equal whatever specialist made them (footers name it)."""
    return {name: table_file.content(content) for name, content in columns(root).items()}
