"""A run of every modality of 4M-21 with untrained tokenizers and a model of random weights, and labels for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourmill import recipe as recipes
from fourmill.infra import storage
from fourmill.modalities import COCO_CLASSES, MODALITIES, TEXT, TOKENIZERS, Form
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.recipe import Recipe
from fourmill.tokenize import class_lists, codecs, masks, tokenizer
from fourmill.tokenize.text import smpl
from fourmill.tokenize.text.wordpiece import WordPiece
from fourmill.train.pretrain.job import RECIPE
from fourmill.train.pretrain.job import TOKENIZERS as FINGERPRINTS
from fourmill.train.pretrain.weights import MODEL, save_model
from fourmill.train.tokenizers import build

from .. import data

SIZE, WIDTH, FRAME = 112, 12, (150, 120)  # pixels of a crop, channels of features, width and height of a picture
NAMES = tuple(name for name in MODALITIES if "@" not in name)


def recipe(root: Path, classes: dict[str, list[str]] | None = None) -> Recipe:
    changes: dict[str, Any] = {
        "classes": classes or {},
        "images__size": SIZE, "modalities": list(NAMES), "tokenizers__embedding_dim": 16, "labels__specialists": {},
        "labels__keep": [], "generate__chains": [
            {"inputs": ["rgb"], "to": [{"target": "tok_depth", "steps": 3, "temperature": 0.7}]},
            {"inputs": ["rgb"], "to": [{"target": "caption", "max_tokens": 8, "top_p": 0.9}]},
        ],
    }  # fmt: skip
    return recipes.parse(data.settings(root, ["a.tar"], **changes))


def write(root: Path, classes: dict[str, list[str]] | None = None) -> Path:
    """Tokenizers and the run "4m" in a root; returns the run's folder.

    Args:
        classes: lists of classes of the recipe's own.
    """
    settings = recipe(root, classes)
    lists = settings.class_lists
    texts = ["a red boat on the sea", "two cats"] * 4
    words = WordPiece.fit(texts, vocab_size=4_600, classes=lists.get("det", COCO_CLASSES))
    words.save(root / "tokenizers" / TEXT)
    prints = {TEXT: words.fingerprint()}
    for seed, name in enumerate(settings.tokenizers_needed):
        entry = TOKENIZERS[name]
        channels = {"body_pose": 207}.get(name, WIDTH)
        row = (channels,) if entry.form is Form.VECTOR else (8, 8, channels)
        sizes = settings.tokenizer(name)
        model = build.model(name, sizes, SIZE, row, seed, class_lists.n_labels(name, lists))
        tokenizer.save(model, root / "tokenizers" / name, {}, class_lists.of_tokenizer(name, lists))
        prints[name] = tokenizer.fingerprint(root / "tokenizers" / name)
    config = FourMConfig(tuple(settings.specs(words.vocab_size)), dim=32, num_heads=2, encoder_depth=1, decoder_depth=1)
    torch.manual_seed(0)
    run = root / "runs" / "4m" / "print"
    save_model(FourM(config), str(run / MODEL), write=True)
    storage.put(str(run / RECIPE), recipes.dump(settings).encode())
    storage.put(str(run / FINGERPRINTS), json.dumps(prints).encode())
    return run


def labels(seed: int = 0) -> dict[str, Any]:
    """One label of each kind, as its specialist would store it, over a picture of FRAME."""
    rng = np.random.default_rng(seed)
    width, height = FRAME
    normal = rng.normal(size=(height, width, 3))
    edges = np.zeros((height, width), np.uint8)
    edges[20:24, 10:140] = 255
    edges[:, 70:72] = 255
    classes = np.kron(rng.choice([3, 17, 90, 255], (6, 5)), np.ones((20, 30))).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[10:110, 30:120] = 1
    turn = np.eye(3).reshape(-1).tolist()
    return {
        "rgb": data.picture(seed, width, height),
        "caption": "A red boat, on the sea.",
        "t5_caption": rng.normal(size=(5, 16)).astype(np.float16),
        "det": [
            {"box": [0.3, 0.2, 0.7, 0.9], "label": "dog", "score": 0.9},
            {"box": [0.1, 0.1, 0.5, 0.5], "label": "potted plant", "score": 0.7},
        ],
        "depth": np.linspace(0, 1, height * width).reshape(height, width).astype(np.float16),
        "normal": (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float16),
        "semseg": classes,
        "clip": rng.normal(size=(8, 10, WIDTH)).astype(np.float16),
        "dinov2": rng.normal(size=(8, 10, WIDTH)).astype(np.float16),
        "dinov2_global": rng.normal(size=WIDTH).astype(np.float16),
        "imagebind": rng.normal(size=(8, 10, WIDTH)).astype(np.float16),
        "imagebind_global": rng.normal(size=WIDTH).astype(np.float16),
        "sam_instance": [
            {"box": [0.2, 1 / 12, 0.8, 11 / 12], "mask": masks.encode(mask), "point": [0.5, 0.5], "iou": 0.9}
        ],
        "sam_edge": np.ascontiguousarray(edges[::-1]),
        "human_poses": [
            {"box": [0.25, 0.1, 0.75, 0.95], "score": 0.8, "global_orient": turn,
             "body_pose": turn * smpl.BODY_JOINTS, "betas": [0.5] * 10, "camera": [0.9, 0.1, -0.2]},
        ],
        "canny_edge": edges,
        "color_palette": [[[200, 10, 10]], [[200, 10, 10], [0, 0, 255]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]],
        "metadata": {"brightness": 120.5, "n_humans": 2, "original_width": 150},
    }  # fmt: skip


def tokens(root: Path, name: str, key: str, label: Any) -> np.ndarray:
    """What a column would hold of the centre crop, by the codec that tokenizes shards."""
    from fourmill.tokenize.crops import crops

    settings = recipe(root)
    words = codecs.load_text(str(root))
    (spec,) = (one for one in settings.specs(words.vocab_size) if one.name == name)
    images = settings.images
    options = codecs.Options(settings.seed, images.size, 1, images.pixel_format, images.jpeg_quality)
    sample = codecs.Labelled(key, label, crops(settings.seed, key, *FRAME, 1), FRAME)
    (row,) = codecs.load(spec, options, str(root)).encode([sample])
    assert not isinstance(row, Exception), row
    return np.frombuffer(row[0], np.uint8) if isinstance(row[0], bytes) else np.asarray(row[0])


def compare_with_store(root: Path, recipe: Recipe, shard: Path) -> dict[str, int]:
    """Every stored label of a shard, given as an input beside its picture, has the tokens of its column. Returns how
    many rows of each modality were compared."""
    from fourmill.pipelines import images, source
    from fourmill.pipelines.given.listing import GivenSample, Source
    from fourmill.runs.coder import Coder
    from fourmill.runs.origin import Origin
    from fourmill.tokenize import store
    from fourmill.tokenize.labels import read_labels

    specs = recipe.specs(codecs.load_text(str(root)).vocab_size)
    coder = Coder({spec.name: spec for spec in specs}, Origin(str(root), recipe))
    with source.open_shard(str(shard), source.scratch_folder()) as opened:
        pictures = {one.key: images.decode(opened.image(one), 1_000_000) for one in opened.samples}
    compared = {}
    for name in recipe.modalities:
        label, file = MODALITIES[name].label, f"{shard.stem}.parquet"
        column = store.read(str(root / "tokens" / name / file))
        values: dict[str, Any] = dict(pictures)
        if label != "rgb":
            keys, stored = read_labels(str(root / "labels" / label / file))
            values = dict(zip(keys, stored, strict=True))
        rows = np.flatnonzero(column.valid).tolist()
        for row in rows:
            key = column.keys[row].as_py()
            given = {"rgb": pictures[key], name: values[key]}
            sample = GivenSample(key, {one: Source(one, value) for one, value in given.items()})
            found = coder.encode(sample, {"rgb": "rgb", name: name})[name]
            np.testing.assert_array_equal(found.tokens, column.crop(row, 0), err_msg=f"{name} {key}")
        compared[name] = len(rows)
    return compared
