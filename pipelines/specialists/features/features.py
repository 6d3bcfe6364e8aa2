"""Dense and global features of vision transformers: CLIP, DINOv2 and whatever else `AutoModel` opens.

Legend: B batch, H W pixels of the network's input, h w patches, C width of a feature.

Decisions:
- The whole frame is seen, never a crop: the short side becomes that of the weights' usual input (224 px of the
  defaults) and the long side keeps the aspect, both in whole patches, with positions interpolated. A square image gives
  the grids that 4M has, 14 x 14 of CLIP-B/16 and 16 x 16 of DINOv2-B/14.
- Resampling, scaling and statistics are those of the weights' own processor. 4M's released configurations fed
  ImageNet's statistics to CLIP and ImageBind too; `normalization: imagenet` does so, for its published tokenizers.
- Dense features are the patch tokens, and global ones the class token, after the network's last LayerNorm (4M-21). CLIP
  knows that LayerNorm and its projection for the class token alone; 4M applies both to the patch tokens.
- Dense and global features of the same weights and options come from one pass, which the first specialist runs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from ...reject import Reject
from .. import shapes
from ..base import ImageItem
from ..host import OnHost, sent
from ..pretrained import Pretrained, batches, loaded
from . import open_clip

if TYPE_CHECKING:
    import torch

_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}

# Image towers by model type, so that nobody loads a text tower. The first kind normalizes its class token alone.
# AltCLIP, BLIP and models that nobody thought of are opened whole, and what they call `vision_model` is taken.
_CLIPS = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "metaclip_2": "MetaClip2VisionModel",
    "metaclip_2_vision_model": "MetaClip2VisionModel",
    "chinese_clip": "ChineseCLIPVisionModel",
    "altclip": "AutoModel",
    "clipseg": "CLIPSegVisionModel",
}
_TOWERS = {
    **_CLIPS,
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
}


# Items whose images have equal sizes, and these images (B, 3, H, W) on the device.
Prepared = list[tuple[list[ImageItem], "torch.Tensor"]]


@dataclass(frozen=True)
class Backbone:
    """A vision transformer on its device.

    model: the network, shared by all specialists of its weights (`pretrained.loaded`).
    processor: turns a picture into pixels, as transformers' image processors do.
    side, patch: of the usual square input, and of a patch, in pixels.
    tokens: pixels (B, 3, H, W) to (B, n + h w, C): n class and register tokens, then the patches in raster order.
    """

    model: torch.nn.Module
    processor: Any
    side: int
    patch: int
    tokens: Callable[[torch.Tensor], torch.Tensor]


def grid(height: int, width: int, short: int, most: int) -> tuple[int, int]:
    """Rows and columns of patches for an image of height x width pixels.

    The short side gets `short` patches and the long side what the aspect asks for. Beyond `most` patches in all, both
    shrink together; of an image so thin that it would need more than `most` patches in one row, it gets `most`.
    """
    aspect = max(height, width) / min(height, width)
    if short * round(short * aspect) > most:
        short = max(1, math.floor(math.sqrt(most / aspect)))
    long = min(max(short, round(short * aspect)), most // short)
    return (short, long) if width >= height else (long, short)


class Features(Pretrained):
    """Base of dense and global features.

    whole: the label is the class token, float16 (C,); otherwise the patch tokens, float16 (h, w, C).
    """

    task: ClassVar[str] = "image features"
    gpu_precision: ClassVar[Literal["fp32", "fp16", "bf16"]] = "fp16"
    gpus: ClassVar[float] = 0.25
    memory_gb: ClassVar[float] = 1.0
    # What makes one vector of the tokens: classifiers and some published trunks come without it.
    unneeded: ClassVar[tuple[str, ...]] = (r"(^|\.)pooler\.", r"^(vision_model\.)?head\.")
    whole: ClassVar[bool] = False
    groups: ClassVar[bool] = True

    size: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Pixels of the short side, rounded to whole patches; unless given, the side of the weights' usual "
        "square input, 224 of the defaults.",
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Patches of an image at most; longer images are seen more coarsely. Unless given, four times those "
        "of a square image.",
    )
    normalization: Literal["model", "imagenet"] = Field(
        "model",
        description="Mean and deviation of colours: those that the weights were trained with, or ImageNet's, which "
        "4M's configurations use for every network.",
    )

    _backbone: Backbone | None = PrivateAttr(default=None)

    @property
    def _key(self) -> tuple[Any, ...]:
        """Equal for specialists that ask the same network for the same pass."""
        return ("features", *sorted(self.model_dump(mode="json").items()))

    def setup(self, device: str) -> None:
        """Load the network and try it on a blank image.

        ValueError if it is no vision transformer, lacks the class token that a global label is, or if `size` needs more
        than `max_tokens` patches.
        """
        backbone = self._backbone = self._open(device)
        short, most = self._budget
        if short**2 > most:
            raise ValueError(
                f"{self.label}: {self.size or backbone.side} px are {short} x {short} patches of {backbone.patch} px, "
                f"more than max_tokens, {most}; raise labels.specialists.{self.label}.max_tokens or lower its size"
            )
        blank = np.zeros((backbone.side, backbone.side, 3), np.uint8)
        try:
            weight = self._weight
            shape = tuple(self._run(sent(self._pixels(blank)[None], weight.device, weight.dtype)).shape)
        except (AttributeError, TypeError, ValueError) as error:  # it asks for text, or has no tokens
            raise ValueError(
                f"{self.label}: {self.weights} is no model for {self.task}: {error}; expected a vision transformer"
            ) from error
        extra = shape[1] - short**2 if len(shape) == 3 else -1
        if extra < 0 or (self.whole and extra < 1):
            wanted = f"at least {short**2} tokens" + (" and a class token" if self.whole else "")
            raise ValueError(
                f"{self.label}: {self.weights} gives {shape} for {short} x {short} patches; expected {wanted}: a plain "
                "vision transformer"
            )

    def prepare(self, items: Sequence[ImageItem]) -> Prepared:
        """Images of equal size together, of those that no other specialist has looked at."""
        missing = [item for item in items if self._key not in item.shared]
        pixels = [self._pixels(item.image) for item in missing]
        weight = self._weight
        return [
            ([missing[i] for i in indices], sent(stack, weight.device, weight.dtype))
            for indices, stack in batches(pixels, self.batch_size)
        ]

    def infer(self, prepared: Prepared) -> tuple[Prepared, OnHost]:
        return prepared, OnHost([self._run(stack).float() for _, stack in prepared])

    def finish(self, items: Sequence[ImageItem], inferred: tuple[Prepared, OnHost]) -> list[np.ndarray | Reject]:
        """float16 features of each item, (h, w, C) or (C,); a Reject where they are not finite in float16."""
        assert self._backbone is not None, "call setup first"
        key, patch = self._key, self._backbone.patch
        prepared, outputs = inferred
        for (members, stack), tokens in zip(prepared, outputs.tensors(), strict=True):
            rows, columns = stack.shape[2] // patch, stack.shape[3] // patch
            for item, token in zip(members, tokens.numpy(), strict=True):
                dense = token[len(token) - rows * columns :].reshape(rows, columns, -1)
                # Under the key what it is, dense and global, or in place of either what is wrong with it.
                item.shared[key] = (_half(dense), _half(token[0]))
        made = [item.shared[key][1 if self.whole else 0] for item in items]
        return [Reject(f"{self.label}: {value}") if isinstance(value, str) else value for value in made]

    def _pixels(self, image: np.ndarray) -> torch.Tensor:
        """float32 (3, H, W) of an image uint8 (H', W', 3)."""
        assert self._backbone is not None, "call setup first"
        (height, width), patch = image.shape[:2], self._backbone.patch
        rows, columns = grid(height, width, *self._budget)
        made = self._backbone.processor(
            images=image,
            do_resize=True,
            size={"height": rows * patch, "width": columns * patch},
            do_center_crop=False,
            input_data_format="channels_last",  # an image 3 px high would be ambiguous
            return_tensors="pt",
            **(_IMAGENET if self.normalization == "imagenet" else {}),
        )
        return made["pixel_values"][0]

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        assert self._backbone is not None, "call setup first"
        with torch.inference_mode():
            return self._backbone.tokens(pixels)

    @property
    def _weight(self) -> torch.Tensor:
        """Of the network: on its device, and in its precision."""
        assert self._backbone is not None, "call setup first"
        return next(self._backbone.model.parameters())

    @property
    def _budget(self) -> tuple[int, int]:
        """Patches of the short side, and of the whole image at most."""
        assert self._backbone is not None, "call setup first"
        short = max(1, round((self.size or self._backbone.side) / self._backbone.patch))
        return short, self.max_tokens or 4 * short**2

    def _open(self, device: str) -> Backbone:
        return self._open_transformer(device, projected=False)

    def _open_transformer(self, device: str, projected: bool) -> Backbone:
        """A vision transformer of transformers; `projected`: CLIP's projection as well, if the model has one."""
        import transformers

        config = self.config()
        tower = _TOWERS.get(config.model_type, "AutoModel")
        if projected and hasattr(transformers, f"{tower}WithProjection"):
            tower += "WithProjection"
        vision = getattr(config, "vision_config", config)
        if hasattr(config, "projection_dim"):  # the one that counts, and may be the only one
            vision.projection_dim = config.projection_dim
        patch = getattr(vision, "patch_size", None)
        if isinstance(patch, list | tuple) and len(set(patch)) == 1:
            patch = patch[0]
        if not isinstance(patch, int):
            raise ValueError(
                f"{self.label}: {self.weights} is a {config.model_type} without square patches, no model for "
                f"{self.task}; expected a vision transformer"
            )
        named = {} if tower == "AutoModel" else {"config": vision}
        model, processor = self.load(tower, device, **named), self.processor()
        if hasattr(model.config, "mask_ratio"):  # ViT-MAE hides patches, as in its training
            model.config.mask_ratio = 0.0
        if tower == "AutoModel":
            model = getattr(model, "vision_model", model)
        if "spatial_shapes" in inspect.signature(model.forward).parameters:
            side = patch * math.isqrt(vision.num_patches)
            return Backbone(model, _plain(processor), side, patch, lambda pixels: _flexible(model, pixels, patch))
        unnormalized = config.model_type in _CLIPS
        side = usual_side(processor)
        if isinstance(trained := getattr(vision, "image_size", None), int):
            side = min(side, trained)  # DINOv2's positions are for more than its usual input; none are for less
        return Backbone(model, processor, side, patch, lambda pixels: _last_tokens(model, pixels, unnormalized, patch))


def usual_side(processor: Any) -> int:
    """Side in pixels of the square that a processor of transformers makes of an image; 224 if it does not say."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else getattr(processor, "size", None)
    sides = [size.get(name) for name in ("height", "shortest_edge")] if size else []
    return next((int(side) for side in sides if side), 224)


def _half(values: np.ndarray) -> np.ndarray | str:
    """The values as float16, or why they cannot be."""
    if not np.isfinite(values).all():
        return "NaN or infinite features; try another precision"
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.isfinite(half).all() else "features beyond the range of float16"


def _last_tokens(model: Any, pixels: torch.Tensor, unnormalized: bool, patch: int) -> torch.Tensor:
    """Every token after the last LayerNorm, and after the projection where the model has one: (B, n + h w, C)."""
    import torch

    takes = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {}
    if "interpolate_pos_encoding" in takes:
        options["interpolate_pos_encoding"] = True
    if "noise" in takes:  # ViT-MAE shuffles the patches by it
        patches = (pixels.shape[2] // patch) * (pixels.shape[3] // patch)
        options["noise"] = torch.arange(patches, device=pixels.device).expand(len(pixels), -1)
    tokens: torch.Tensor = model(pixel_values=pixels, **options).last_hidden_state
    if unnormalized:
        tokens = getattr(model, "vision_model", model).post_layernorm(tokens)
    projection = getattr(model, "visual_projection", None)
    return tokens if projection is None else projection(tokens)


def _flexible(model: Any, pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """SigLIP 2 NaFlex, which takes patches (B, h w, patch patch 3) and the shape of their grid: (B, h w, C)."""
    import torch

    batch, channels, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    patches = pixels.view(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return model(
        pixel_values=patches.reshape(batch, rows * columns, -1),
        pixel_attention_mask=torch.ones(batch, rows * columns, dtype=torch.int64, device=pixels.device),
        spatial_shapes=torch.tensor([[rows, columns]] * batch),
    ).last_hidden_state


def _plain(processor: Any) -> Any:
    """The processor of SigLIP 2 NaFlex without its own choice of a grid."""
    import transformers

    names = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    return transformers.SiglipImageProcessor(**{name: getattr(processor, name) for name in names})


class Clip(Features):
    """CLIP's patch tokens in the space that it shares with text: (14, 14, 512) of a square image for CLIP-B/16.

    The default weights are OpenAI's, which 4M-21 used, from timm's repository: safetensors in OpenCLIP's layout, under
    a licence. Their own repository, openai/clip-vit-base-patch16, holds a pickle and states none.
    """

    name: ClassVar[str] = "clip"
    label: ClassVar[str] = "clip"
    version: ClassVar[int] = 2
    changes: ClassVar[dict[int, str]] = {
        2: "its default weights, OpenAI's CLIP-B/16, are read from timm's repository as safetensors"
    }
    licence: ClassVar[str] = "Apache-2.0"
    first_weights: ClassVar[str] = "openai/clip-vit-base-patch16"

    weights: str = Field(
        "timm/vit_base_patch16_clip_224.openai",
        description="Hub id or local folder of CLIP, SigLIP, SigLIP 2 or another vision transformer.",
    )
    projected: bool = Field(
        True,
        description="Project CLIP's patch tokens into the space of text, as 4M does. Models without a projection "
        "(SigLIP, ChineseCLIP) give their last tokens either way.",
    )

    def patterns(self) -> tuple[str, ...]:
        # timm's repositories hold the image tower once more, in a layout that only timm opens.
        return ("*.json", "open_clip*.safetensors") if self.weights.startswith("timm/") else super().patterns()

    def _open(self, device: str) -> Backbone:
        folder = self._whole_folder()
        if not open_clip.is_layout(folder):
            return self._open_transformer(device, self.projected)
        return self._open_open_clip(folder, device)

    def _open_open_clip(self, folder: Path, device: str) -> Backbone:
        self._verify(folder)
        dtype = self.dtype(device)

        def make() -> Any:
            return shapes.on(open_clip.tower(folder), device, dtype).eval()

        try:
            model, processor = loaded((open_clip.CONFIG, str(folder), device, dtype), make), open_clip.processor(folder)
        except ValueError as error:
            raise ValueError(f"{self.label}: {self.weights} is no model for {self.task}: {error}") from error
        patch = model.config.patch_size
        run = model if self.projected else model.vision_model
        return Backbone(run, processor, usual_side(processor), patch, lambda x: _last_tokens(run, x, True, patch))


class Dino(Features):
    """DINOv2's patch tokens: (16, 16, 768) of a square image for DINOv2-B/14."""

    name: ClassVar[str] = "dinov2"
    label: ClassVar[str] = "dinov2"
    licence: ClassVar[str] = "Apache-2.0"

    weights: str = Field(
        "facebook/dinov2-base",
        description="Hub id or local folder of DINOv2, DINOv3 or another vision transformer.",
    )


class DinoGlobal(Dino):
    """DINOv2's class token: (768,) for DINOv2-B/14. With the options of `dinov2` it costs nothing beyond it."""

    name: ClassVar[str] = "dinov2_global"
    label: ClassVar[str] = "dinov2_global"
    whole: ClassVar[bool] = True
