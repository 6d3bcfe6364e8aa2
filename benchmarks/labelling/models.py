"""The four models of `labellers.py`: real architectures at a small size, and what each learns from the truth of scenes.

| label | model | output |
|---|---|---|
| depth | DPT-Hybrid (BiT and a ViT; MiDaS's, and Omnidata's, with which 4M labels) | inverse depth |
| semseg | UperNet on a ResNet | logits of kinds.CLASSES |
| normal | the same with other outputs; it starts from that of classes | (x, y, z) |
| det | RT-DETR on the same ResNet, from which it starts | boxes of kinds.SHAPES |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, l1_loss, normalize

from fourmill.pipelines.scenes import kinds

SIDE = 64  # pixels of the scenes, and of what networks of depth and normals see
FINE = 96  # pixels of what networks see that tell shapes apart
_SHAPES = tuple(kinds.SHAPES)
LEAST_PIXELS = 8  # of a thing, for its box to be learnt: what is smaller no one could name

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Labeller:
    """One model: how it is made, what its loss is, how it is trained.

    make: the model and its image processor; it may start from one that lies in the folder of the models already.
    helper: what learns beside the model and is not kept.
    loss: of the model, its pixels (B, 3, H, W), the truth of the batch, as `scenes.scenes` gives it, and the
        helper.
    rate, batch, steps, decay: peak learning rate, scenes of a step, steps, weight decay.
    """

    make: Callable[[Path], tuple[Any, Any]]
    loss: Callable[[Any, Tensor, Batch, Any], Tensor]
    rate: float
    batch: int
    steps: int
    decay: float = 0.05
    helper: Callable[[], torch.nn.Module] = torch.nn.Identity


def _size(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _depth(folder: Path) -> tuple[Any, Any]:
    backbone = hf.BitConfig(
        embedding_size=32,
        hidden_sizes=[64, 96, 128],
        depths=[2, 2, 2],
        num_groups=8,
        layer_type="bottleneck",
        global_padding="SAME",
        embedding_dynamic_padding=True,
        out_features=["stage1", "stage2", "stage3"],
    )
    config = hf.DPTConfig(
        is_hybrid=True,
        backbone_config=backbone,
        backbone_featmap_shape=[1, 128, SIDE // 16, SIDE // 16],
        image_size=SIDE,
        patch_size=16,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=192,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        backbone_out_indices=[0, 0, 0, 1],
        neck_hidden_sizes=[64, 96, 48, 48],
        reassemble_factors=[1, 1, 1, 0.5],
        fusion_hidden_size=32,
    )
    model = hf.DPTForDepthEstimation(config)
    torch.nn.init.constant_(model.head.head[4].bias, 0.5)  # above the last ReLU, which would let nothing through
    return model, hf.DPTImageProcessor(size=_size(SIDE))


def _depth_loss(model: Any, pixels: Tensor, truth: Batch, helper: Any) -> Tensor:
    """Of inverse depth, 0 the sky or the farthest point, 1 the nearest; and of its slopes, for sharp borders."""
    there, found = torch.from_numpy(inverse_depth(truth["depth"])), model(pixels).predicted_depth.float()
    slopes = [l1_loss(found.diff(dim=axis), there.diff(dim=axis)) for axis in (1, 2)]
    return l1_loss(found, there) + slopes[0] + slopes[1]


def inverse_depth(depth: np.ndarray) -> np.ndarray:
    """float32 (B, H, W) in 0..1 of metres (B, H, W), NaN for the sky: 1 the nearest, 0 the sky or the farthest."""
    near = np.nan_to_num(1 / depth.astype(np.float32), nan=0.0)
    low, high = (f(near, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return (near - low) / (high - low)


def _resnet(stages: int) -> Any:
    return hf.ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 96, 96][:stages],
        depths=[2] * stages,
        layer_type="basic",
        out_features=[f"stage{i + 1}" for i in range(stages)],
    )


def _upernet(names: tuple[str, ...]) -> Any:
    config = hf.UperNetConfig(
        backbone_config=_resnet(stages=4),
        hidden_size=48,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        **_names(names),
    )
    return hf.UperNetForSemanticSegmentation(config)


def _processor() -> Any:
    return hf.SegformerImageProcessor(size=_size(FINE))


def _semseg(folder: Path) -> tuple[Any, Any]:
    return _upernet(kinds.CLASSES), _processor()


def _semseg_helper() -> torch.nn.Module:
    return torch.nn.Conv2d(48, 4, 1)


def _semseg_loss(model: Any, pixels: Tensor, truth: Batch, helper: Any) -> Tensor:
    """Of classes; its features must tell the shape of surfaces as well, by which things differ."""
    features: list[Tensor] = []
    hook = model.decode_head.classifier.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    logits = _at(model(pixels).logits, truth)
    hook.remove()
    weight = torch.tensor([1.0 if i <= kinds.WALL else 3.0 for i in range(len(kinds.CLASSES))])  # things are small
    return cross_entropy(logits, _classes(truth), weight) + 2 * _geometry_loss(_at(helper(features[0]), truth), truth)


def _geometry_loss(found: Tensor, truth: Batch) -> Tensor:
    """Of normals and inverse depth, (B, 4, H, W)."""
    normal = torch.from_numpy(truth["normal"].astype(np.float32)).permute(0, 3, 1, 2)
    near = torch.from_numpy(inverse_depth(truth["depth"]))[:, None]
    return l1_loss(found, torch.cat([normal, near], 1))


def _normal(folder: Path) -> tuple[Any, Any]:
    """It starts from the model of classes, whose features tell normals already."""
    model = _upernet(("x", "y", "z"))
    known = _saved(folder).state_dict()
    model.load_state_dict({name: value for name, value in known.items() if "classifier" not in name}, strict=False)
    return model, _processor()


def _saved(folder: Path) -> Any:
    """The model of classes, which others start from."""
    if not (folder / "semseg").exists():
        raise SystemExit(f"--only: there is no {folder / 'semseg'} yet, which the others start from; name semseg, too")
    return hf.UperNetForSemanticSegmentation.from_pretrained(folder / "semseg", dtype=torch.float32)


def _normal_loss(model: Any, pixels: Tensor, truth: Batch, helper: Any) -> Tensor:
    """Of directions; the sky, which has none, faces the viewer, as where a map of normals is not known."""
    there = torch.from_numpy(truth["normal"].astype(np.float32)).permute(0, 3, 1, 2)
    there[:, 2] += (there == 0).all(1)
    found = normalize(_at(model(pixels).logits, truth), dim=1)
    return (found - there).square().sum(1).add(1e-4).sqrt().mean()


def _at(maps: Tensor, truth: Batch) -> Tensor:
    """Maps (B, C, h, w) at the size of the truth."""
    return interpolate(maps.float(), truth["semseg"].shape[1:], mode="bilinear", align_corners=False)


def _classes(truth: Batch) -> Tensor:
    return torch.from_numpy(truth["semseg"].astype(np.int64))


def _det(folder: Path) -> tuple[Any, Any]:
    config = hf.RTDetrConfig(
        backbone_config=_resnet(stages=3),
        freeze_backbone_batch_norms=False,
        encoder_in_channels=[32, 64, 96],
        feat_strides=[4, 8, 16],
        encoder_hidden_dim=64,
        encoder_ffn_dim=128,
        encoder_attention_heads=4,
        hidden_expansion=0.5,
        d_model=64,
        num_queries=30,
        decoder_in_channels=[64, 64, 64],
        decoder_ffn_dim=128,
        decoder_layers=3,
        decoder_attention_heads=4,
        num_denoising=20,
        **_names(_SHAPES),
    )
    model = hf.RTDetrForObjectDetection(config)
    # All that fits: its backbone has one stage less.
    model.model.backbone.model.load_state_dict(_saved(folder).backbone.state_dict(), strict=False)
    return model, hf.RTDetrImageProcessor(size=_size(FINE), do_normalize=True)


_HELPED = (len(kinds.CLASSES), 4, 4)  # logits of classes, sides of boxes, geometry


def _det_helper() -> torch.nn.Module:
    """Heads on the two finest maps of the encoder: each pixel's class, the box of its thing, and its surface."""
    return torch.nn.ModuleList(torch.nn.Conv2d(64, sum(_HELPED), 1) for _ in range(2))


def _det_loss(model: Any, pixels: Tensor, truth: Batch, helper: Any) -> Tensor:
    """RT-DETR's own, and that of its helper: sets of boxes alone teach too slowly from nothing."""
    labels, sides = [], []
    for rows, classes in zip(truth["boxes"], truth["semseg"], strict=True):
        rows = rows[(rows[:, 4] >= 0) & (rows[:, 5] >= LEAST_PIXELS)]
        sides.append(_sides(rows, classes))
        boxes = torch.from_numpy(rows)
        centre, size = (boxes[:, 2:4] + boxes[:, :2]) / 2, boxes[:, 2:4] - boxes[:, :2]
        labels.append({"class_labels": boxes[:, 4].long(), "boxes": torch.cat([centre, size], 1)})
    outputs = model(pixels, labels=labels)
    there, loss = torch.from_numpy(np.stack(sides)), outputs.loss
    known = ~there.isnan()
    for features, head in zip(outputs.encoder_last_hidden_state, helper, strict=False):
        logits, box, geometry = _at(head(features), truth).split(_HELPED, 1)
        miss = torch.where(known, box - there.nan_to_num(), 0).abs().sum() / known.sum().clamp(min=1)
        loss = loss + 3 * (cross_entropy(logits, _classes(truth)) + 4 * miss + _geometry_loss(geometry, truth))
    return loss


def _sides(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """float32 (4, H, W): xmin, ymin, xmax, ymax of the box of each pixel's thing, less the pixel's place; or NaN.

    Of boxes of the pixel's class that hold it, the smallest.
    """
    height, width = classes.shape
    sides = np.full((4, height, width), np.nan, np.float32)
    for box in rows[np.argsort(-np.prod(rows[:, 2:4] - rows[:, :2], axis=1))]:
        left, top, right, bottom = np.rint(box[:4] * [width, height, width, height]).astype(int)
        window = np.s_[top:bottom, left:right]
        sides[:, *window][:, classes[window] == kinds.CLASSES.index(_SHAPES[int(box[4])])] = box[:4, None]
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5)[:, None] / height
    sides -= np.stack(np.broadcast_arrays(x, y, x, y)).astype(np.float32)
    return sides


def _names(names: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


LABELLERS: dict[str, Labeller] = {  # in the order of training
    "semseg": Labeller(_semseg, _semseg_loss, rate=2e-3, batch=8, steps=5000, helper=_semseg_helper),
    "normal": Labeller(_normal, _normal_loss, rate=1e-3, batch=8, steps=2500),
    "det": Labeller(_det, _det_loss, rate=1e-3, batch=8, steps=4000, decay=1e-3, helper=_det_helper),
    "depth": Labeller(_depth, _depth_loss, rate=1e-3, batch=8, steps=3000),
}
