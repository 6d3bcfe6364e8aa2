"""What labelling takes of a GPU is counted on networks without data, and is what the allocator gives out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fourmill_tests.counted.memory import allocated
from fourmill_tests.tiny import dense, detectors, features, open_clip, sam, t5
from torch.utils._pytree import tree_leaves

from fourmill.pipelines.specialists.base import Specialist
from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.pipelines.specialists.dense.segmentation import Panoptic
from fourmill.pipelines.specialists.detection.transformers import Boxes
from fourmill.pipelines.specialists.features.features import Clip
from fourmill.pipelines.specialists.features.imagebind import ImageBind
from fourmill.pipelines.specialists.instances import sam_models
from fourmill.pipelines.specialists.instances.sam import SamInstances
from fourmill.pipelines.specialists.text import t5 as text
from fourmill.report.doctor import labelling
from fourmill.train.memory import Live

TOLERANCE = 5e-3
NETWORKS: dict[str, Callable[[Path], Any]] = {
    "clip": lambda path: Clip(weights=str(open_clip.write(path)), precision="fp32"),
    "imagebind": lambda path: ImageBind(weights=str(features.imagebind(path)), precision="fp32", num_heads=2),
    "t5_caption": lambda path: text.T5Embeddings(weights=str(t5.t5(path)), precision="fp32"),
    "depth": lambda path: Depth(weights=str(dense.depth_anything(path)), precision="fp32"),
    "semseg": lambda path: Panoptic(weights=str(dense.mask2former(path)), precision="fp32", min_score=0.0),
    "det": lambda path: Boxes(weights=str(detectors.dfine(path)), precision="fp32"),
    "sam_instance": lambda path: grid(sam.sam(path)),
}


def grid(path: Path) -> SamInstances:
    """All masks are good, which is what is counted."""
    options: dict[str, Any] = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "points_per_side": 8}
    return SamInstances(weights=str(path), precision="fp32", **options)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ("det", "semseg") else []) for name in NETWORKS]
)
def test_a_batch_takes_what_was_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(labelling, "FRAME", (96, 128))
    one = NETWORKS[name](tmp_path / "weights")
    monkeypatch.setattr(type(one), "batch_size", 2)
    need = labelling.count(one, 1000.0)
    assert need.state == 1000
    one.setup("cpu")
    as_on_a_gpu(one)
    count = 2 * one.batch_size if one.groups else one.batch_size  # SAM's are looked at one after the other
    items = labelling.items(count)
    one.infer(one.prepare(items))  # what a library keeps is there afterwards
    prepared = one.prepare(items)
    given = sum(x.nbytes for x in tree_leaves(prepared) if isinstance(x, torch.Tensor))
    counted = need.bytes(count) - need.state - 2 * given  # of these items, and of as many beside
    if name != "sam_instance":
        assert counted == pytest.approx(allocated(lambda: one.infer(prepared), tmp_path), rel=TOLERANCE)
        return
    # To sum booleans a CPU copies them as eight bytes each, which a GPU does not: counted as the operations go.
    with Live() as live:
        one.infer(prepared)
    assert live.peak <= counted <= 1.1 * live.peak  # as if every mask were good


def as_on_a_gpu(one: Specialist) -> None:
    """What is put together there is more than on a CPU."""
    if isinstance(one, text.T5Embeddings):
        one._multiple = text.ON_GPU
    if isinstance(one, SamInstances):
        one._network = replace(one._network, together=sam_models.ON_GPU)


def test_what_is_not_here_is_not_counted() -> None:
    with pytest.raises(labelling.NotCounted, match="its weights are not on this machine"):
        labelling.count(Clip(weights="nobody/nowhere"), 0.0)


def test_a_plan_leaves_out_what_takes_long(tmp_path: Path) -> None:
    with pytest.raises(labelling.NotCounted, match="fourmill doctor"):
        labelling.count(grid(sam.sam(tmp_path / "weights")), 0.0, quick=True)


def test_networks_that_read_values_are_not_counted(tmp_path: Path) -> None:
    one = Panoptic(weights=str(dense.eomt(tmp_path / "weights")))
    with pytest.raises(labelling.NotCounted, match="its network reads values of its own"):
        labelling.count(one, 0.0)


def test_networks_that_are_counted_are_not_those_that_label(tmp_path: Path) -> None:
    """Which would have no weights."""
    one = NETWORKS["clip"](tmp_path / "weights")
    labelling.count(one, 0.0)
    one.setup("cpu")
    assert type(next(one._backbone.model.parameters()).data) is torch.Tensor
