"""A small root and a shard to look at."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fourmill_tests.inspected import HOSTILE, KEYS, REASON, TEXTS, commit, photo, text_column

from fourmill.infra import storage
from fourmill.modalities import Kind, Storage, spec
from fourmill.tokenize import tokenizer
from fourmill.tokenize.codecs import Labelled, Options, Patches
from fourmill.tokenize.crops import Crop
from fourmill.tokenize.labels import encode_labels
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.tokenize.store import ColumnSpec, encode_column
from fourmill.tokenize.text.wordpiece import WordPiece
from fourmill.train import checkpoint


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset: two shards of captions (one null), a grid, pixels, three labels, tokenizers, a run."""
    root = tmp_path_factory.mktemp("inspect") / "out"
    piece = WordPiece.fit(TEXTS, vocab_size=4500)
    piece.save(root / "tokenizers" / "text")
    config = VQVAEConfig.small(16, 1, 2, image_size=16, patch_size=8, codebook_size=24, latent_dim=8)
    tokenizer.save(VQVAE(config), root / "tokenizers" / "tok_rgb", {"psnr": 12.5})
    rejects = [{"key": "001", "reason": REASON}]
    commit(root, "tokens/caption", "a", text_column(piece, [TEXTS[0], None, *TEXTS[2:]]), rejects)
    commit(root, "tokens/caption", "b", text_column(piece, TEXTS, [f"b{key}" for key in KEYS]))
    grid = ColumnSpec("tok_rgb", Kind.GRID, 2, 4, 24, tokenizer=tokenizer.fingerprint(root / "tokenizers" / "tok_rgb"))
    rows = [np.full((2, 4), i, np.uint16) for i in range(5)]
    commit(root, "tokens/tok_rgb", "a", encode_column(grid, KEYS, rows))
    pixels = Patches(spec("rgb", image_size=16, patch_size=8), Options(seed=0, image_size=16, crops=1))
    files = pixels.encode(
        [Labelled(key, photo(i), [Crop(0, 0, 20, 20, False)], (30, 20)) for i, key in enumerate(KEYS)]
    )
    commit(root, "tokens/rgb", "a", encode_column(pixels.column_spec({}), KEYS, files))
    box = {"box": [0.1, 0.1, 0.5, 0.5], "label": "cat", "score": 0.75}
    commit(root, "labels/det", "a", encode_labels("det", Storage.JSON, KEYS, [[box, box], [], [box], None, []]))
    edges = [np.eye(8, dtype=np.uint8) * 255] * 5
    commit(root, "labels/canny_edge", "a", encode_labels("canny_edge", Storage.IMAGE, KEYS, edges))
    metadata = [{"brightness": float(i), "n_humans": 1} for i in range(5)]
    commit(root, "labels/metadata", "a", encode_labels("metadata", Storage.JSON, KEYS, metadata))
    run = str(root / "runs" / "4m" / "beef")
    losses = [{"step": i, "kind": "train", "loss": 9.0 - i, "loss/caption": float("nan")} for i in range(1, 5)]
    losses.append({"step": 4, "kind": "val", "loss": 6.5})
    storage.put(f"{run}/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in losses).encode())
    checkpoint.save(f"{run}/checkpoints", 4, {"state.pt": b"x" * 10}, keep=2)
    storage.put(f"{run}/checkpoints/step-00000005/state.pt", b"cut off")
    times = {"seconds": 9.5, "made": 2, "samples": 0, "unit": "tokenizers", "asked": "f00d"}
    storage.put(str(root / "ledger" / "stages" / "fit.json"), json.dumps(times).encode())
    storage.put(str(root / "ledger" / "report"), b"what report.html shows")
    return root


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar with an image and a hostile caption, a sample without an image, and a broken image."""
    import cv2

    path = tmp_path_factory.mktemp("shards") / "00000.tar"
    jpeg = cv2.imencode(".jpg", photo(0))[1].tobytes()
    members = {"x.jpg": jpeg, "x.txt": HOSTILE.encode(), "y.txt": b"only text", "z.jpg": jpeg[:-200], "z.doc": b"?"}
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
