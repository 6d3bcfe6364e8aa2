"""Two processes train what one does: DDP, FSDP2, and checkpoints that change hands between one and two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fourmill_tests import ranks, runs, training

from fourmill.model import checkpoint as model_files
from fourmill.train import checkpoint


def curves(root: Path) -> np.ndarray:
    """Every loss and gradient norm of a run, lines in order."""
    names = ("loss", "loss/tok_rgb", "loss/caption", "gradient_norm")
    return np.array([[row.get(name, 0.0) for name in names] for row in runs.losses(root)])


def assert_same_curves(shared: Path, alone: Path) -> None:
    """Within the rounding of float32, which six steps enlarge; gradients that are not shared differ by tens of %."""
    expected = curves(alone)
    assert np.abs(curves(shared) - expected).max() <= 2e-3 * np.abs(expected).max(), shared.name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_share_a_run(tmp_path: Path) -> None:
    for name in ("ddp", "shrinks", "grows", "skips-ddp", "skips-fsdp", "compiles"):
        training.job(tmp_path / name)  # the columns, before two processes write them
    training.train_until(training.job(tmp_path / "grows", **ranks.SHARDED), 5)
    ranks.spawn(ranks.trains, 2, tmp_path)
    plain = training.train(training.job(tmp_path / "alone"))
    sharded = training.train(training.job(tmp_path / "alone-sharded", **ranks.SHARDED))

    newest = checkpoint.newest(str(tmp_path / "shrinks/runs/4m/print/checkpoints"))
    assert newest is not None and newest.step == 4
    marker = json.loads(newest.read(checkpoint.MARKER))
    writers = {name.split("-")[1] for name in marker["files"]}
    assert writers == {"00000", "00001"}, "every rank writes its own part"
    parts = marker["tensors"]["model.encoder.0.attn.qkv.weight"]["chunks"]
    assert [part["sizes"] for part in parts] == [[48, 32], [48, 32]]
    training.train(training.job(tmp_path / "shrinks", **ranks.SHARDED))  # the rest, in one process

    check_shares(tmp_path / "ddp")
    for name, alone in (("ddp", plain), ("shrinks", sharded), ("grows", sharded)):
        root = Path(alone.job.root)
        assert_same_curves(tmp_path / name, root)
        shared, single = (model_files.load(at / "runs/4m/print/model").state_dict() for at in (tmp_path / name, root))
        for key in single:
            # By the norm: AdamW makes full steps of gradients that are nothing but rounding.
            assert (shared[key] - single[key]).norm() <= 1e-2 * single[key].norm(), (name, key)
    check_skipped(tmp_path)
    for rank in (0, 1):
        made = json.loads(Path(tmp_path, "compiles", f"graphs{rank}.json").read_text())
        assert made == [2, 4], "a graph for each side, with and without gradients, and none after these"


def check_shares(folder: Path) -> None:
    """With DDP each rank writes half of the bytes that both have."""
    newest = checkpoint.newest(str(folder / "runs/4m/print/checkpoints"))
    assert newest is not None
    values = [0, 0]
    for entry in newest.marker()["tensors"].values():
        for chunk in entry["chunks"]:
            values[int(chunk["file"].split("-")[1])] += 4 * int(np.prod(chunk["sizes"]))
    assert abs(values[0] - values[1]) <= 4 * 32 * 4, "but for a row"


def check_skipped(folder: Path) -> None:
    """What the second of two ranks saw is in the log of the first, and all that is learned is what one rank learns."""
    training.job(folder / "skips-alone")
    ranks.skips(folder / "skips-alone", "ddp", 0, 1)
    (alone,) = [row for row in runs.losses(folder / "skips-alone") if row["kind"] == "skipped"]
    for name in ("skips-ddp", "skips-fsdp"):
        (line,) = [row for row in runs.losses(folder / name) if row["kind"] == "skipped"]
        assert line["step"] == 2 and line["modalities"] == alone["modalities"] == ["caption"]
        assert len(line["samples"]) == 4 and set(line["samples"]) < set(alone["samples"])
        assert_same_curves(folder / name, folder / "skips-alone")
