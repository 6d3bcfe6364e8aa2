"""Masks of everything in an image: a grid of points as prompts for SAM, its masks filtered, thinned and encoded.

The method and its defaults are those of segment-anything's automatic mask generator (Kirillov et al. 2023, appendix
B), and so are its masks (a test compares them). What differs is memory: that generator holds every mask of a batch of
points as floats at the size of the image (9 GB at 12 megapixels). Here masks that the network itself thinks poor are
dropped first, the others are looked at a few at a time and no larger than `working_size`, and the few that are left
are drawn at the size of the image, a few at a time, one bit a pixel, and become run lengths on the host. What is held
of all is the network's own output, 0.25 MB for each mask of 1,024 points at a time.

On a GPU the host waits three times an image: which masks count is decided on the host, from one number for each mask
first and five then, so that no step of the device has a size that depends on values.
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
from ..host import OnHost, sent

_OVERLAP = 512 / 1500  # of neighbouring windows, in shares of the shorter side
_PIXELS = 2**25  # of masks that are looked at together: 128 MB as floats
_POINTS = 1024  # that are asked at until the host looks which masks are good: 0.8 GB of small masks in float32


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
        scaled = points * torch.tensor([columns, rows])
        return self.decode(sent(scaled, self.device, scaled.dtype))

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
class Window:
    """A part of an image that is looked at: (left, top, right, bottom) in pixels, and which grid of points it is asked
    at."""

    box: tuple[int, int, int, int]
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        left, top, right, bottom = self.box
        return bottom - top, right - left

    def of(self, image: np.ndarray) -> np.ndarray:
        left, top, right, bottom = self.box
        return np.ascontiguousarray(image[top:bottom, left:right])


@dataclass(frozen=True)
class Seen:
    """What SAM found in a window, thinned, on its way to the host.

    planes: uint8 (ceil(n / 8), h, w): bit i of plane p is mask 8 p + i. iou, stability: of each mask. points: the
    prompts, in shares of the window.
    """

    window: Window
    planes: OnHost
    iou: list[float]
    stability: list[float]
    points: list[list[float]]


@dataclass(frozen=True)
class _Candidates:
    """Small masks (n, s, s) on the device before they are thinned; on the host their boxes (n, 4) in pixels of the
    window, and points (n, 2) in shares of it."""

    logits: torch.Tensor
    boxes: torch.Tensor
    iou: torch.Tensor
    stability: torch.Tensor
    points: torch.Tensor

    def __getitem__(self, keep: torch.Tensor) -> _Candidates:
        """Those at positions int64 (m,) of the host."""
        host = (self.boxes, self.iou, self.stability, self.points)
        return _Candidates(_rows(self.logits, keep), *(values[keep] for values in host))

    @staticmethod
    def joined(parts: Sequence[_Candidates]) -> _Candidates:
        return _Candidates(*(torch.cat(values) for values in zip(*(vars(p).values() for p in parts), strict=True)))


def windows(shape: tuple[int, ...], settings: Settings) -> list[Window]:
    """The windows of an image of this shape (H, W): all of it first, then those of `crop_n_layers`."""
    boxes, layers = amg.generate_crop_boxes(shape[:2], settings.crop_n_layers, _OVERLAP)
    made = [Window((box[0], box[1], box[2], box[3]), layer) for box, layer in zip(boxes, layers, strict=True)]
    return [window for window in made if min(window.size) > 0]


def grids(settings: Settings) -> list[np.ndarray]:
    """Points (n, 2) in shares of a window, by its layer."""
    return list(
        amg.build_all_layer_point_grids(
            settings.points_per_side, settings.crop_n_layers, settings.crop_n_points_downscale_factor
        )
    )


@torch.inference_mode()
def look(view: View, window: Window, shape: tuple[int, ...], grid: np.ndarray, settings: Settings) -> Seen:
    """What SAM finds in a window of an image of `shape`.

    The host waits twice for each `_POINTS` points: for what the network thinks of its masks, and for their boxes.

    Raises:
        Reject: the network's output is not finite.
    """
    parts = torch.split(torch.from_numpy(grid).float(), _POINTS)
    seen = _Candidates.joined([_candidates(view, part, window.size, settings) for part in parts])
    seen = seen[_where(~_cut_by_window(seen.boxes, window.box, shape))]
    seen = seen[nms(seen.boxes, seen.iou, settings.box_nms_thresh)]
    planes = OnHost([_planes(view, seen.logits, window.size)])
    return Seen(window, planes, seen.iou.tolist(), seen.stability.tolist(), seen.points.tolist())


def instances(found: Sequence[Seen], shape: tuple[int, ...], settings: Settings) -> list[Instance]:
    """The instances of an image of `shape`, largest first; equal areas by box and point.

    Args:
        found: in each of its windows.
    """
    every = [instance for seen in found for instance in _drawn(seen, shape)]
    if settings.crop_n_layers:  # what a smaller window shows is seen better
        every = _thinned(every, [1 / instance.window for instance in every], settings.box_nms_thresh)
    if settings.min_mask_region_area:
        cleaned = [_cleaned(instance, settings.min_mask_region_area) for instance in every]
        untouched = [float(new is old) for new, old in zip(cleaned, every, strict=True)]
        every = _thinned(cleaned, untouched, settings.box_nms_thresh)
    return sorted(every, key=lambda instance: (-instance.area, instance.box, instance.point, -instance.iou))


def _drawn(seen: Seen, shape: tuple[int, ...]) -> Iterator[Instance]:
    left, top, right, bottom = seen.window.box
    height, width = seen.window.size
    planes = seen.planes.tensors()[0].numpy()
    for i, (point, iou, stability) in enumerate(zip(seen.points, seen.iou, seen.stability, strict=True)):
        whole = np.zeros(shape[:2], bool)
        whole[top:bottom, left:right] = planes[i // 8] & np.uint8(1 << i % 8)
        if whole.any():
            at = (left + point[0] * width, top + point[1] * height)
            yield _instance(whole, iou=iou, stability=stability, point=at, window=height * width)


def _planes(view: View, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks at the size of their window, eight to a byte: a few at a time, since they are floats before."""
    planes = torch.zeros((-(-len(logits) // 8), *size), dtype=torch.uint8, device=logits.device)
    for first, part in _chunks(view, logits, size):
        for i, mask in enumerate(view.enlarge(part, *size) > 0, first):
            planes[i // 8] += mask.to(torch.uint8) << i % 8
    return planes


def _chunks(view: View, logits: torch.Tensor, size: tuple[int, int]) -> Iterator[tuple[int, torch.Tensor]]:
    """As many masks as may be looked at together at this size, with the position of the first."""
    most = view.chunk(*size)
    for first in range(0, len(logits), most):
        yield first, logits[first : first + most]


def _candidates(view: View, points: torch.Tensor, size: tuple[int, int], settings: Settings) -> _Candidates:
    """What points find, less what the network thinks poor and what is not stable."""
    outputs = [view.masks(part) for part in torch.split(points, settings.points_per_batch)]
    (iou,) = OnHost([torch.cat([guess.float().flatten() for _, guess in outputs])]).tensors()
    if not np.isfinite(iou.numpy()).all():
        raise Reject("sam_instance: the network's guess of a mask's IoU is not finite")
    good = _where(iou > (settings.pred_iou_thresh or -torch.inf))
    logits = _picked([logits.flatten(0, 1) for logits, _ in outputs], good)
    iou, points = iou[good], points[good // (len(iou) // len(points))]
    shrink = min(1.0, settings.working_size / max(size))
    height, width = (max(1, round(side * shrink)) for side in size)
    looks = [_judged(view, part, (height, width), settings) for _, part in _chunks(view, logits, (height, width))]
    if not looks:
        return _Candidates(logits, torch.zeros(0, 4), iou, iou, points)
    boxes, stability = OnHost([torch.cat(values) for values in zip(*looks, strict=True)]).tensors()
    scale = torch.tensor([size[1] / width, size[0] / height] * 2)
    found = _Candidates(logits, boxes * scale, iou, stability, points)
    return found[_where(stability >= settings.stability_score_thresh)]


def _judged(
    view: View, logits: torch.Tensor, size: tuple[int, int], settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (n, 4) of masks at the working size, and how stable they are (n,); NaN of nothing, which is not stable."""
    grown = view.enlarge(logits, *size)
    inside = grown > 0
    # IoU of the masks at two thresholds, one of which holds the other.
    inner = torch.count_nonzero(grown > settings.stability_score_offset, dim=(1, 2))
    outer = torch.count_nonzero(grown > -settings.stability_score_offset, dim=(1, 2))
    stability = torch.where(inside.flatten(1).any(1), inner / outer, torch.nan)
    return amg.batched_mask_to_box(inside), stability


def _where(kept: torch.Tensor) -> torch.Tensor:
    """Positions at which a bool tensor of the host is true."""
    return torch.from_numpy(np.flatnonzero(kept.numpy()))


def _rows(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows of a tensor of the device at positions of the host; nobody waits."""
    return values.index_select(0, sent(positions, values.device, positions.dtype))


def _picked(parts: list[torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
    """Rows of parts that follow each other. Each part is let go as soon as its rows are taken."""
    taken, start = [], 0
    while parts:
        part = parts.pop(0)
        here = positions[_where((positions >= start) & (positions < start + len(part)))]
        taken.append(_rows(part, here - start))
        start += len(part)
    return torch.cat(taken)


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
