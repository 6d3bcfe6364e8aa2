"""Models that say something of every pixel: depth, normals and classes share how images go in and out.

Decisions:
- Preprocessing and postprocessing are the weights' own (transformers' image processor), except that nothing is cropped
  away, and that padding is taken off again: a prediction covers the whole frame of the source image, and nothing else.
- Images go through one by one, and only equal sizes are stacked, so that a label does not depend on its neighbours.
- Images of every shape have a label, in bounded memory. The short side of thin ones, beyond 1:16, and ones of fewer
  than 32 px are enlarged first (`enlarged`); of a long one the network sees no more than `max_pixels`, both sides
  shrunk alike; and a batch has no more pixels than twice `batch_size` images of the weights' usual size.
- TIPSv2 has one trunk and three heads. Specialists that name the same weights share the trunk, and leave its features
  in `Item.shared`: each runs its own head only, and the trunk runs once for each image, for the first of them.
- Networks run at the precision asked for, but for those that are known not to hold in it (conventions.py); what follows
  (resizing, thresholds, scaling) is float32.
- A network that broke says NaN, or the same of every pixel. Both are rejects, and a run of them stops the job.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import cv2
import numpy as np
from pydantic import Field, PrivateAttr

from ...reject import Reject
from .. import conventions
from ..base import ImageItem, Specialist
from ..host import OnHost, sent
from ..pretrained import Pretrained, batches, loaded, without_checks

if TYPE_CHECKING:
    import torch

_MAX_ASPECT = 16  # processors round the short side of thinner images to nothing, small ones even earlier
_MIN_SIDE = 32  # pixels, the coarsest stride of these networks
_USUAL_PIXELS = 480 * 640  # of weights whose processor names no size (GLPN): NYU's

# What postprocessing reads of transformers' outputs; the batch is the first axis of each.
_OUTPUTS = (
    "predicted_depth",
    "field_of_view",
    "normals",
    "logits",
    "class_queries_logits",
    "masks_queries_logits",
    "pred_masks",
)

_SCORES = ("logits", "masks_queries_logits", "pred_masks")  # maps over the picture, of which classes are made
_FLAT = 1e-6  # of float32: scores that vary less, as a share of the largest, are constant

# TIPSv2: from the last map of a head's decoder to what the task's model returns.
_TIPSV2_HEADS: dict[str, Callable[[Any, Any], SimpleNamespace]] = {
    "AutoModelForDepthEstimation": lambda model, x: SimpleNamespace(predicted_depth=model.bin_regressor(x)),
    "AutoModelForNormalEstimation": lambda model, x: SimpleNamespace(normals=x),
    "AutoModelForSemanticSegmentation": lambda model, x: SimpleNamespace(logits=x),
}


class Margins(NamedTuple):
    """How much of a network's input is padding, in shares of its height and width."""

    top: float = 0.0
    bottom: float = 0.0
    left: float = 0.0
    right: float = 0.0


class Prepared(NamedTuple):
    """Items on their way into the network.

    groups: positions of items whose inputs have equal sizes, and these inputs (B, 3, h, w) on the device. margins: by
    position of the item.
    """

    items: Sequence[ImageItem]
    groups: list[tuple[list[int], torch.Tensor]]
    margins: dict[int, Margins]


class Inferred(NamedTuple):
    """Predictions on their way to the host.

    order: positions of the items. counts: how many tensors are drawn of each. copies: these tensors, and before them,
    bool (items, 2), whether all values of a prediction are finite, and whether all are the same.
    """

    order: list[int]
    counts: list[int]
    copies: OnHost


class DenseModel(Pretrained):
    """Base of dense predictors: subclasses name the task's class of transformers, draw predictions over the frame of
    the image on the device, and turn what is drawn into a label on the host.

    The first axis of every tensor of a prediction is 1; they are float32.
    """

    batch_size: ClassVar[int] = 8
    facts_of: ClassVar[str] = ""  # the label that the table of conventions has facts of, if it is another
    groups: ClassVar[bool] = True
    gpu_precision: ClassVar[Literal["fp32", "fp16", "bf16"]] = "fp16"  # bfloat16's 8 bits show as steps in depth

    max_pixels: int | None = Field(
        None,
        ge=1,
        description="Pixels of an image that the network sees at most; longer images are seen more coarsely. Unless "
        "given, four times those of the weights' usual square input.",
    )

    _model: Any = PrivateAttr(default=None)
    _processor: Any = PrivateAttr(default=None)
    _device: str = PrivateAttr(default="cpu")
    _auto: str = PrivateAttr(default="")
    _trunk: tuple[str, ...] = PrivateAttr(default=())  # names what specialists on the same TIPSv2 share
    _divisor: int = PrivateAttr(default=0)  # sides of the network's input are padded to multiples of it
    _usual: int = PrivateAttr(default=_USUAL_PIXELS)  # pixels of the weights' usual input

    def auto_class(self) -> str:
        """The class of transformers that opens the weights."""
        raise NotImplementedError

    def drawn(
        self, predictions: Sequence[SimpleNamespace], sizes: Sequence[tuple[int, int]]
    ) -> list[list[torch.Tensor]]:
        """Of each prediction, for an image of its size (height, width), what `label_of` takes. On the device: it waits
        for no value, or once for all. Predictions may have values that are not finite."""
        raise NotImplementedError

    def label_of(self, drawn: Sequence[torch.Tensor], size: tuple[int, int]) -> np.ndarray | Reject:
        """The label of one image of `size` (height, width), from what was drawn of it: finite tensors of the host."""
        raise NotImplementedError

    @property
    def fact(self) -> conventions.Fact | None:
        """What is known of the weights."""
        return conventions.known(self.facts_of or self.label, self.weights)

    @property
    def changes(self) -> dict[int, str]:  # type: ignore[override]
        return dict(self.fact.changes) if self.fact else {}

    @property
    def version(self) -> int:  # type: ignore[override]
        return max((1, *self.changes))

    def dtype(self, device: str) -> torch.dtype:
        import torch

        fact = self.fact
        if self.precision == "auto" and fact and fact.never == self.gpu_precision:
            return torch.float32
        return super().dtype(device)

    def why_not(self, others: Mapping[str, Specialist]) -> str:
        fact = self.fact
        if fact and fact.never == self.precision:
            return (
                f"{self.label}: {self.weights} does not hold in {self.precision}: {fact.why_never}; say "
                f"labels.specialists.{self.label}.precision: auto, fp32 or bf16"
            )
        return super().why_not(others)

    def setup(self, device: str) -> None:
        """Load the weights and their preprocessing. ValueError if they are for another task, or do not hold so."""
        self._device = device
        without_checks()
        self._auto = self.auto_class()
        self._model = self.load(self._auto, device)
        if why := self.why_not({}):  # after what tells whether they are of the task at all
            raise ValueError(why)
        self._processor = self.open_processor()
        self._usual = usual_pixels(self._processor)
        if self.max_pixels is not None and self.max_pixels < self._usual:
            raise ValueError(
                f"{self.label}: max_pixels is {self.max_pixels}, below the usual input of {self.weights}, "
                f"{self._usual} pixels; raise labels.specialists.{self.label}.max_pixels"
            )
        # The frame is never cropped. Padding to a multiple is done here, since its processors do not take it off.
        # Others (Mask2Former's) resize to the multiple, and pad to the largest image of a batch, here the only one.
        if getattr(self._processor, "do_center_crop", None):
            self._processor.do_center_crop = False
        pads = hasattr(self._processor, "pad_image") and getattr(self._processor, "do_pad", None)
        if pads and getattr(self._processor, "size_divisor", None):
            self._divisor = int(self._processor.size_divisor)
            self._processor.do_pad = False
        if self._model.config.model_type == "tipsv2_dpt":
            self._trunk = "tipsv2", str(self.folder()), device, str(self._model.dtype)
            self._model.backbone = loaded(self._trunk, lambda: self._model.backbone)

    def open_processor(self) -> Any:
        """The image processor of the weights."""
        return self.processor()

    def require_postprocessing(self, method: str) -> None:
        """ValueError if the image processor of the weights lacks this method."""
        if not hasattr(self._processor, method):
            raise ValueError(
                f"{self.label}: the image processor of {self.weights}, {type(self._processor).__name__}, has no "
                f"{method}; copy the preprocessor_config.json that its authors publish into the folder"
            )

    def prepare(self, items: Sequence[ImageItem]) -> Prepared:
        """The network's inputs, those of equal size together, of items that the trunk has not seen."""
        wanted = [i for i, item in enumerate(items) if not self._trunk or self._trunk not in item.shared]
        inputs, margins = zip(*(self._input(items[i]) for i in wanted), strict=True) if wanted else ((), ())
        groups = [([wanted[i] for i in indices], stack) for indices, stack in self._batches(inputs)]
        return Prepared(items, groups, dict(zip(wanted, margins, strict=True)))

    def infer(self, prepared: Prepared) -> Inferred:
        import torch

        assert self._model is not None, "call setup first"
        order: list[int] = []
        flags: list[torch.Tensor] = []
        every: list[list[torch.Tensor]] = []
        with torch.inference_mode():
            for indices, outputs in self._tipsv2_outputs(prepared) if self._trunk else self._outputs(prepared):
                rows = [_row(outputs, row) for row in range(len(indices))]
                flags += [torch.stack([_is_finite(row), _is_flat(row)]) for row in rows]
                cut = [_without(row, prepared.margins.get(i, Margins())) for i, row in zip(indices, rows, strict=True)]
                every += self.drawn(cut, [prepared.items[i].image.shape[:2] for i in indices])
                order += indices
            tensors = [tensor for drawn in every for tensor in drawn]
            return Inferred(order, [len(one) for one in every], OnHost([torch.stack(flags), *tensors] if flags else []))

    def finish(self, items: Sequence[ImageItem], inferred: Inferred) -> list[np.ndarray | Reject]:
        """One label for each item, at the frame of its image; a Reject where the prediction is not finite."""
        labels: dict[int, np.ndarray | Reject] = {}
        copies = inferred.copies.tensors()
        flags, tensors = (copies[0].tolist(), copies[1:]) if copies else ([], [])
        for index, count, (finite, flat) in zip(inferred.order, inferred.counts, flags, strict=True):
            drawn, tensors = tensors[:count], tensors[count:]
            if not finite:
                labels[index] = Reject(f"{self.label}: NaN or infinite values")
            elif flat:
                labels[index] = Reject(f"{self.label}: the same everywhere")
            else:
                labels[index] = self.label_of(drawn, items[index].image.shape[:2])
        return [labels[index] for index in range(len(items))]

    def _outputs(self, prepared: Prepared) -> Iterator[tuple[list[int], Any]]:
        """Positions of items, in any order, and the network's outputs for them."""
        for indices, stack in prepared.groups:
            yield indices, self.forward(stack)

    def _batches(self, inputs: Sequence[torch.Tensor]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Inputs of equal size stacked, bounded in number and in pixels."""
        import torch

        for indices, stack in batches(inputs, self.batch_size):
            most = max(1, 2 * self.batch_size * self._usual // stack[0, 0].numel())
            for start, part in zip(range(0, len(indices), most), torch.split(stack, most), strict=True):
                yield indices[start : start + most], part

    def forward(self, pixels: torch.Tensor) -> Any:
        """The network's outputs for pixels (B, 3, h, w)."""
        return self._model(pixel_values=pixels)

    def _input(self, item: ImageItem) -> tuple[torch.Tensor, Margins]:
        """The network's input (3, h, w) for an item's image, on the device, and its margins."""
        # On a GPU resizing is done there: an image goes over as bytes.
        where = {} if self._device == "cpu" else {"device": self._device}
        height, width = self.seen_size(item.image.shape[:2])
        image = item.image
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height))
        inputs = self._processor(images=[image], return_tensors="pt", input_data_format="channels_last", **where)
        shrunk = _shrunk(inputs["pixel_values"][0], self.max_pixels or 4 * self._usual, self._multiple)
        pixels, margins = _padded(shrunk, self._divisor)
        return sent(pixels, self._device, self._model.dtype), margins

    def seen_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Height and width at which an image of this size goes into preprocessing: its own, but for extremes."""
        side, multiple = math.isqrt(self._usual), int(getattr(self._processor, "ensure_multiple_of", None) or 1)
        return enlarged(size[0], size[1], max(1, min(_MAX_ASPECT, side // max(1, multiple))))

    @property
    def _multiple(self) -> int:
        """Of which the sides of the network's input are."""
        declared = (getattr(self._processor, name, None) for name in ("ensure_multiple_of", "size_divisor"))
        return next((int(n) for n in declared if n and n > 1), _MIN_SIDE)

    def _tipsv2_outputs(self, prepared: Prepared) -> Iterator[tuple[list[int], Any]]:
        key, items = self._trunk, prepared.items
        for indices, stack in prepared.groups:
            patch = self._model.config.backbone_config.patch_size
            grid = stack.shape[2] // patch, stack.shape[3] // patch
            maps = self._model.backbone.forward_with_filtered_kwargs(stack).feature_maps
            for row, index in enumerate(indices):
                items[index].shared[key] = grid, [features[row] for features in maps]
        grids: dict[tuple[int, int], list[int]] = {}
        for index, item in enumerate(items):
            grids.setdefault(item.shared[key][0], []).append(index)
        for (height, width), members in grids.items():
            for start in range(0, len(members), self.batch_size):
                part = members[start : start + self.batch_size]
                levels = zip(*(items[index].shared[key][1] for index in part), strict=True)
                maps = [_stack(level) for level in levels]
                fused = self._model.neck(maps, patch_height=height, patch_width=width)
                yield part, _TIPSV2_HEADS[self._auto](self._model, self._model.decoder(fused[-1]))


def enlarged(height: int, width: int, aspect: int) -> tuple[int, int]:
    """Height and width with both sides at least 32 px, and neither longer than `aspect` times the other."""
    least = max(_MIN_SIDE, math.ceil(max(height, width) / aspect))
    return max(height, least), max(width, least)


def usual_pixels(processor: Any) -> int:
    """Pixels of the square, or rectangle, that a processor of transformers is set to make of images."""
    size = getattr(processor, "size", None)
    if not size or getattr(processor, "do_resize", True) is False:
        return _USUAL_PIXELS
    height = size.get("height") or size.get("shortest_edge")
    width = size.get("width") or height
    return int(height * width) if height else _USUAL_PIXELS


def _shrunk(pixels: torch.Tensor, most: int, multiple: int) -> torch.Tensor:
    """Pixels (3, h, w), shrunk in whole multiples and with their aspect if they are more than `most`."""
    import torch

    height, width = pixels.shape[1:]
    if height * width <= most:
        return pixels
    scale = math.sqrt(most / (height * width)) / multiple
    size = [multiple * max(1, math.floor(side * scale)) for side in (height, width)]
    return torch.nn.functional.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]


def _stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.stack(list(tensors))


def _row(outputs: Any, row: int) -> SimpleNamespace:
    """One image's share of a batch's outputs, as float32; what the model does not return is None."""
    tensors = {name: getattr(outputs, name, None) for name in _OUTPUTS}
    return SimpleNamespace(
        **{name: None if value is None else value[row : row + 1].float() for name, value in tensors.items()}
    )


def _tensors(prediction: SimpleNamespace) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(prediction).items() if value is not None}


def _is_finite(prediction: SimpleNamespace) -> torch.Tensor:
    import torch

    return torch.stack([torch.isfinite(tensor).all() for tensor in _tensors(prediction).values()]).all()


def _is_flat(prediction: SimpleNamespace) -> torch.Tensor:
    """Whether a network says the same scores of every pixel. Constant depth and directions are found by their labels,
    which know more to say of it."""
    import torch

    maps = [value for name in _SCORES if (value := getattr(prediction, name)) is not None and value[0, 0].numel() > 1]
    flat = [(one.amax((-2, -1)) - one.amin((-2, -1)) <= _FLAT * one.abs().max()).all() for one in maps]
    first = next(iter(_tensors(prediction).values()))
    return torch.stack(flat).any() if flat else torch.zeros((), dtype=torch.bool, device=first.device)


def _padded(pixels: torch.Tensor, divisor: int) -> tuple[torch.Tensor, Margins]:
    """Pixels (3, h, w) with zeros around them, evenly, up to multiples of the divisor (DINOv2-DPT's padding)."""
    import torch

    if not divisor:
        return pixels, Margins()
    height, width = pixels.shape[1:]
    down, right = -height % divisor, -width % divisor
    top, left = down // 2, right // 2
    tall, wide = height + down, width + right
    margins = Margins(top / tall, (down - top) / tall, left / wide, (right - left) / wide)
    return torch.nn.functional.pad(pixels, (left, right - left, top, down - top)), margins


def _without(prediction: SimpleNamespace, margins: Margins) -> SimpleNamespace:
    """The prediction without its margins: only maps (..., h, w) have any."""
    if margins == Margins():
        return prediction
    cut = {}
    for name, value in _tensors(prediction).items():
        if value.ndim >= 3:
            height, width = value.shape[-2:]
            top, left = round(margins.top * height), round(margins.left * width)
            bottom, right = round(margins.bottom * height), round(margins.right * width)
            value = value[..., top : height - bottom, left : width - right]
        cut[name] = value
    return SimpleNamespace(**{**vars(prediction), **cut})
