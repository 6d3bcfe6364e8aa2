"""Recompute three columns of an evaluation from the stored answers and the renderer's truth, by other code.

    python benchmarks/trials/recompute.py DEMO          # the folder of `fourmill demo`

It shares no code with the evaluation. Answers are read with pyarrow, truth with tarfile and Pillow. Measures come
from their definitions: normals, the mean angle over all pixels with a surface; classes, the mean of intersection over
union over the classes that occur; captions, F1 of the sets of shapes that text and scene name. What turns tokens back
into values is fourmill's: `load_tokenizer` and `WordPiece` of the public API. If values differ in the four digits that
the table shows, it ends with status 1.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from PIL import Image

import fourmill

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/, whose modules the folders share
from circumstances import state

# The words for the shapes of plain scenes, from the grammar of captions (docs/prepare/scenes.md), and the classes of
# the demo's recipe: the renderer's ids 0, 1, 3, 4, 5, 6.
SHAPES = {"ball": "ball", "sphere": "ball", "box": "box", "block": "box", "cylinder": "cylinder", "cone": "cone"}
PLURALS = {"boxes": "box"} | {f"{word}s": shape for word, shape in SHAPES.items()}
RENDERED = [0, 1, 3, 4, 5, 6]
LEAST = 0.1  # of a thing that must be seen
ROWS = ("another", "step", "chain")

Truth = dict[str, dict[str, bytes]]  # of a sample, by member


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder of `fourmill demo`, evaluated")
    demo = parser.parse_args(arguments).demo
    state(__file__, arguments)
    table = json.loads((demo / "reports" / "evaluation.json").read_text())
    columns = {column["label"]: column for column in table["columns"]}
    truth, differ = members(demo / "samples"), 0
    print("| column | row | the table | recomputed |\n|---|---|---|---|")
    for label, (measure, recompute) in MEASURES.items():
        for row in (row for row in ROWS if row in columns[label]["answers"]):
            found = f"{recompute(answers(demo, columns[label], row), truth, demo):.4g}"
            stated = f"{columns[label]['cells'][row][measure]['value']:.4g}"
            differ += found != stated
            print(f"| {label}, {measure} | {row} | {stated} | {found} |", flush=True)
    if differ:
        raise SystemExit(f"{differ} values differ")


def members(samples: Path) -> Truth:
    """What the validation tars hold, by key and extension."""
    found: Truth = {}
    for path in sorted(samples.glob("val-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                opened = tar.extractfile(member)
                assert opened is not None
                found.setdefault(f"{path.stem}/{key}", {})[extension] = opened.read()
    return found


def answers(demo: Path, column: dict[str, Any], row: str) -> dict[str, Any]:
    """Tokens by key, of a row of the table; of a chain those of its first generation."""
    # The folder may have been moved since: what follows `runs` is the same.
    folder = demo / "runs" / column["answers"][row].partition("/runs/")[2]
    rows = [one for path in sorted(folder.glob("00-*.parquet")) for one in parquet.read_table(path).to_pylist()]
    return {one["key"]: one["crop0"] for one in rows}


def decoded(demo: Path, name: str, tokens: list[bytes]) -> torch.Tensor:
    """What a tokenizer of the demo makes of grids of 8 x 8 codes: float (n, C, H, W)."""
    codes = np.stack([np.frombuffer(one, "<u2").astype(np.int64) for one in tokens]).reshape(-1, 8, 8)
    tokenizer = fourmill.load_tokenizer(str(demo / "tokenizers" / name))
    with torch.no_grad():
        return tokenizer.decode(torch.from_numpy(codes))


def normals(found: dict[str, Any], truth: Truth, demo: Path) -> float:
    vectors = decoded(demo, "tok_normal", list(found.values())).double().permute(0, 2, 3, 1).numpy()
    there = np.stack([np.load(io.BytesIO(truth[key]["normal.npy"])) for key in found]).astype(np.float64)
    surface = np.linalg.norm(there, axis=-1) > 0.5
    cosine = (vectors * there).sum(-1) / (np.linalg.norm(vectors, axis=-1) * np.linalg.norm(there, axis=-1) + 1e-12)
    return float(np.degrees(np.arccos(cosine[surface].clip(-1, 1))).mean())


def classes(found: dict[str, Any], truth: Truth, demo: Path) -> float:
    # The tokenizer's first class is "none".
    said = decoded(demo, "tok_semseg", list(found.values())).argmax(1).numpy() - 1
    there = np.stack([np.asarray(Image.open(io.BytesIO(truth[key]["semseg.png"]))) for key in found])
    shares = []
    for ours, rendered in enumerate(RENDERED):
        one, other = said == ours, there == rendered
        if (one | other).any():
            shares.append((one & other).sum() / (one | other).sum())
    return float(np.mean(shares))


def captions(found: dict[str, Any], truth: Truth, demo: Path) -> float:
    words = fourmill.WordPiece.load(str(demo / "tokenizers" / "text"))
    right = said = there = 0
    for key, tokens in found.items():
        text = words.decode(np.asarray(tokens))
        named = {SHAPES.get(w) or PLURALS.get(w) for w in re.findall("[a-z]+", text.lower())} - {None}
        things = json.loads(truth[key]["scene.json"])["objects"]
        true = {thing["shape"] for thing in things if thing["visible"] > LEAST}
        right, said, there = right + len(named & true), said + len(named), there + len(true)
    return 2 * right / (said + there)


MEASURES: dict[str, tuple[str, Callable[[dict[str, Any], Truth, Path], float]]] = {
    "normal": ("mean_degrees", normals),
    "semseg": ("miou", classes),
    "caption": ("f1", captions),
}

if __name__ == "__main__":
    main()
