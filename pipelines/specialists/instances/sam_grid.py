"""Masks of everything in an image: a grid of points as prompts for SAM, its masks filtered, thinned and encoded.

The method and its defaults are those of segment-anything's automatic mask generator (Kirillov et al. 2023, appendix
B), and so are its masks (a test compares them). What differs is memory: that generator holds every mask of a batch of
points as floats at the size of the image (9 GB at 12 megapixels). Here masks that the network itself thinks poor are
dropped first, the others are looked at a few at a time and no larger than `working_size`, and the few that are left
are drawn at the size of the image, a few at a time, into run lengths. What is held of all is the network's own output,
0.25 MB for each mask that it does not think poor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from segment_anything.utils import amg
from torch.nn import functional as F
from torchvision.ops import nms

from ....tokenize import masks as run_lengths
from ...reject import Reject

_OVERLAP = 512 / 1500  # of neighbouring windows, in shares of the shorter side
_PIXELS = 2**25  # of masks that are looked at together: 128 MB as floats


@dataclass(frozen=True)
class Settings:
    """Which masks count; the fields of `sam:SamInstances` say what each means."""

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    working_size: int = 1024


@dataclass(frozen=True)
class View:
    """An image as SAM has seen it: points in, masks out.

    decode: points float32 (n, 2), x and y in pixels of the network's input, to logits (n, k, s, s), above 0 inside,
        and the network's guess of each mask's IoU (n, k).
    seen: rows and columns of the network's input that show the image, from the top left; the rest is padding.
    padded: side of that input where it is padded (SAM); None where the image fills it (SAM 2).
    """

    decode: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    seen: tuple[int, int]
    padded: int | None
    device: str = "cpu"

    def masks(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`decode` for points (n, 2) in shares of the image."""
        rows, columns = self.seen
        return self.decode(points.to(self.device) * torch.tensor([columns, rows], device=self.device))

    def enlarge(self, logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Logits (n, s, s) as float32 (n, height, width) over the image."""
        grown = logits.float()[:, None]
        if self.padded is not None:
            grown = F.interpolate(grown, (self.padded, self.padded), mode="bilinear", align_corners=False)
            grown = grown[..., : self.seen[0], : self.seen[1]]
        return F.interpolate(grown, (height, width), mode="bilinear", align_corners=False)[:, 0]

    def chunk(self, height: int, width: int) -> int:
        """How many masks of this size are looked at together."""
        return max(1, _PIXELS // max(height * width, (self.padded or 0) ** 2))


@dataclass(frozen=True)
class Instance:
    """A mask in the frame of the image.

    code: its run lengths, as `tokenize.masks.encode` gives them.
    box: its first and last column and row, (left, top, right, bottom), in pixels.
    area: its pixels.
    point: x and y of the prompt that it answers, in pixels.
    window: pixels of the window that it was seen in.
    """

    code: dict[str, Any]
    box: tuple[int, int, int, int]
    area: int
    iou: float
    stability: float
    point: tuple[float, float]
    window: int


@dataclass(frozen=True)
class _Candidates:
    """Small masks (n, s, s) before they are thinned, with boxes (n, 4) in pixels of their window and points (n, 2) in
    shares of it."""

    logits: torch.Tensor
    boxes: torch.Tensor
    iou: torch.Tensor
    stability: torch.Tensor
    points: torch.Tensor

    def __getitem__(self, keep: torch.Tensor) -> _Candidates:
        return _Candidates(*(values[keep] for values in vars(self).values()))

    @staticmethod
    def joined(parts: Sequence[_Candidates]) -> _Candidates:
        return _Candidates(*(torch.cat(values) for values in zip(*(vars(p).values() for p in parts), strict=True)))


@torch.inference_mode()
def instances(embed: Callable[[np.ndarray], View], image: np.ndarray, settings: Settings) -> list[Instance]:
    """Everything that SAM finds in an image, largest first; equal areas by box and point.

    Args:
        embed: the network's image encoder, for uint8 (h, w, 3) RGB.
        image: uint8 (H, W, 3) RGB; with `crop_n_layers` its windows are looked at as well.

    Raises:
        Reject: the network's output is not finite.
    """
    height, width = image.shape[:2]
    windows, layers = amg.generate_crop_boxes((height, width), settings.crop_n_layers, _OVERLAP)
    grids = amg.build_all_layer_point_grids(
        settings.points_per_side, settings.crop_n_layers, settings.crop_n_points_downscale_factor
    )
    found: list[Instance] = []
    for (left, top, right, bottom), layer in zip(windows, layers, strict=True):
        if left < right and top < bottom:
            found += _in_window(embed, image, (left, top, right, bottom), grids[layer], settings)
    if settings.crop_n_layers:  # what a smaller window shows is seen better
        found = _thinned(found, [1 / instance.window for instance in found], settings.box_nms_thresh)
    if settings.min_mask_region_area:
        cleaned = [_cleaned(instance, settings.min_mask_region_area) for instance in found]
        untouched = [float(new is old) for new, old in zip(cleaned, found, strict=True)]
        found = _thinned(cleaned, untouched, settings.box_nms_thresh)
    return sorted(found, key=lambda instance: (-instance.area, instance.box, instance.point, -instance.iou))


def _in_window(
    embed: Callable[[np.ndarray], View],
    image: np.ndarray,
    window: tuple[int, int, int, int],
    grid: np.ndarray,
    settings: Settings,
) -> Iterator[Instance]:
    left, top, right, bottom = window
    height, width = bottom - top, right - left
    view = embed(np.ascontiguousarray(image[top:bottom, left:right]))
    points = torch.from_numpy(grid).float()
    batches = torch.split(points, settings.points_per_batch)
    seen = _Candidates.joined([_candidates(view, part, (height, width), settings) for part in batches])
    seen = seen[~_cut_by_window(seen.boxes, window, image.shape)]
    seen = seen[nms(seen.boxes, seen.iou, settings.box_nms_thresh)]
    places, iou, stability = seen.points.tolist(), seen.iou.tolist(), seen.stability.tolist()
    for part in torch.split(torch.arange(len(iou)), view.chunk(height, width)):
        masks = (view.enlarge(seen.logits[part], height, width) > 0).cpu().numpy()
        for i, mask in zip(part.tolist(), masks, strict=True):
            whole = np.zeros(image.shape[:2], bool)
            whole[top:bottom, left:right] = mask
            point = (left + places[i][0] * width, top + places[i][1] * height)
            if mask.any():
                yield _instance(whole, iou=iou[i], stability=stability[i], point=point, window=height * width)


def _candidates(view: View, points: torch.Tensor, size: tuple[int, int], settings: Settings) -> _Candidates:
    """What a batch of points finds, less what the network thinks poor and what is not stable."""
    logits, iou = view.masks(points)
    logits, iou = logits.flatten(0, 1), iou.float().flatten()
    if not torch.isfinite(iou).all():
        raise Reject("sam_instance: the network's guess of a mask's IoU is not finite")
    points = points.to(iou.device).repeat_interleave(len(iou) // len(points), 0)
    good = iou > (settings.pred_iou_thresh or -torch.inf)
    logits, iou, points = logits[good], iou[good], points[good]
    shrink = min(1.0, settings.working_size / max(size))
    height, width = (max(1, round(side * shrink)) for side in size)
    scale = torch.tensor([size[1] / width, size[0] / height] * 2, device=iou.device)
    boxes, stability = torch.zeros(len(iou), 4, device=iou.device), torch.zeros_like(iou)
    for part in torch.split(torch.arange(len(iou), device=iou.device), view.chunk(height, width)):
        grown = view.enlarge(logits[part], height, width)
        inside = grown > 0
        boxes[part] = amg.batched_mask_to_box(inside) * scale
        # IoU of the masks at two thresholds, one of which holds the other. Nothing is not stable.
        inner = torch.count_nonzero(grown > settings.stability_score_offset, dim=(1, 2))
        outer = torch.count_nonzero(grown > -settings.stability_score_offset, dim=(1, 2))
        stability[part] = torch.where(inside.flatten(1).any(1), inner / outer, torch.nan)
    return _Candidates(logits, boxes, iou, stability, points)[stability >= settings.stability_score_thresh]


def _cut_by_window(boxes: torch.Tensor, window: Sequence[int], shape: tuple[int, ...]) -> torch.Tensor:
    """Whether a mask ends at the window (within 20 pixels) and not at the image: it may go on beyond."""
    return amg.is_box_near_crop_edge(boxes, list(window), [0, 0, shape[1], shape[0]])


def _instance(mask: np.ndarray, **known: Any) -> Instance:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
    return Instance(run_lengths.encode(mask), box, int(np.count_nonzero(mask)), **known)


def _cleaned(instance: Instance, min_area: int) -> Instance:
    """The instance without holes and islands below `min_area` pixels; itself if it has none."""
    mask = run_lengths.decode(instance.code).astype(bool)
    mask, filled = amg.remove_small_regions(mask, min_area, mode="holes")
    mask, sunk = amg.remove_small_regions(mask, min_area, mode="islands")
    if not (filled or sunk):
        return instance
    known = {name: getattr(instance, name) for name in ("iou", "stability", "point", "window")}
    return _instance(mask, **known)


def _thinned(found: list[Instance], scores: Sequence[float], max_overlap: float) -> list[Instance]:
    """Non-maximum suppression of boxes."""
    if not found:
        return found
    boxes = torch.tensor([instance.box for instance in found], dtype=torch.float32)
    return [found[i] for i in nms(boxes, torch.tensor(scores), max_overlap).tolist()]
