"""Surface normals by Marigold (Ke et al., 2024): a latent diffusion model turned into a normal estimator (diffusers).

Slower than one pass by its steps and ensemble, and sharper. The axes of its own weights are the label's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr

from ...reject import Reject
from ..base import ImageItem
from ..pretrained import batches, loaded
from .framed import Framed

if TYPE_CHECKING:
    import torch

_PIPELINE = "MarigoldNormalsPipeline"


class MarigoldNormals(Framed):
    """Unit normals in the whole frame. The noise that each begins with is a function of seed, key and ensemble member.

    `steps` and `resolution` are the checkpoint's own unless given. An ensemble of three or more members keeps, at each
    pixel, the member closest to their mean.
    """

    name: ClassVar[str] = "marigold"
    label: ClassVar[str] = "normal"
    task: ClassVar[str] = "surface normal estimation by diffusion"
    licence: ClassVar[str] = "OpenRAIL++-M"
    memory_gb: ClassVar[float] = 6.0
    gpu_precision: ClassVar[Any] = "fp16"
    batch_size: ClassVar[int] = 4
    packages: ClassVar[dict[str, str]] = {"diffusers": "fourmill[marigold]"}

    weights: str = Field("prs-eth/marigold-normals-v1-1", description="Hub id (org/name), or a local folder.")
    steps: int | None = Field(None, ge=1, le=1000, description="Denoising steps.")
    ensemble: int = Field(1, ge=1, le=64, description="Predictions of each image that are merged.")
    resolution: int | None = Field(
        None, ge=0, le=4096, description="Longer side in pixels of what the network sees; 0 for the image's own."
    )
    seed: int = Field(0, ge=0, description="Of the noise.")

    _pipeline: Any = PrivateAttr(default=None)
    _device: str = PrivateAttr(default="cpu")

    def patterns(self) -> tuple[str, ...]:
        # Repositories hold the same weights at several precisions; one is enough.
        return "*.json", "*.txt", "*/diffusion_pytorch_model.safetensors", "*/model.safetensors"

    def setup(self, device: str) -> None:
        """Load the pipeline. ValueError if the folder is another pipeline's, or if nothing says which way its axes
        point."""
        if why := self.why_not({}):
            raise ValueError(why)
        self._device = device
        key = (_PIPELINE, str(self.folder()), device, str(self.dtype(device)))
        self._pipeline = loaded(key, lambda: self._open(device))

    def _open(self, device: str) -> Any:
        from diffusers import AutoencoderKL, MarigoldNormalsPipeline, UNet2DConditionModel
        from transformers import CLIPTextModel

        folder = self.folder()
        index = folder / "model_index.json"
        kind = json.loads(index.read_text()).get("_class_name") if index.is_file() else None
        if kind != _PIPELINE:
            raise ValueError(
                f"normal: {self.weights} is no model for {self.task}: expected a folder with a model_index.json of "
                f"{_PIPELINE}, got {kind or 'none'}"
            )
        try:
            parts = {
                "unet": self._part(UNet2DConditionModel, "unet", low_cpu_mem_usage=False),
                "vae": self._part(AutoencoderKL, "vae", low_cpu_mem_usage=False),
                "text_encoder": self._part(CLIPTextModel, "text_encoder"),
            }
            cls: Any = MarigoldNormalsPipeline
            pipeline = cls.from_pretrained(str(folder), local_files_only=True, **parts)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"normal: {self.weights} cannot be opened for {self.task}: {error}") from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device, self.dtype(device))

    def _part(self, cls: Any, name: str, **options: Any) -> Any:
        """One network of the pipeline. ValueError if its file lacks tensors, which would be left random."""
        options |= {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        part, report = cls.from_pretrained(str(self.folder()), subfolder=name, **options)
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise ValueError(f"normal: the {name} of {self.weights} lacks {len(missing)} tensors, {missing[0]!r} first")
        return part

    def __call__(self, items: Sequence[ImageItem]) -> list[np.ndarray | Reject]:
        """float16 (H, W, 3), unit vectors, for each item."""
        import torch

        assert self._pipeline is not None, "call setup first"
        labels: dict[int, np.ndarray | Reject] = {}
        for indices, stack in batches([self._input(item) for item in items], max(1, self.batch_size // self.ensemble)):
            members = [self._noise(items[i].key, member) for i in indices for member in range(self.ensemble)]
            with torch.inference_mode():
                predicted = self._pipeline(
                    stack,
                    num_inference_steps=self.steps,
                    ensemble_size=self.ensemble,
                    processing_resolution=0,
                    batch_size=len(members),
                    generator=members,
                    output_type="pt",
                ).prediction
                labels |= {i: self._label(predicted[row], items[i]) for row, i in enumerate(indices)}
        return [labels[i] for i in range(len(items))]

    def _input(self, item: ImageItem) -> torch.Tensor:
        """float32 (3, h, w) in [0, 1] at the resolution that the network likes.

        The pipeline would resize too, but at its own precision, which bfloat16 does not allow.
        """
        import torch

        pixels = torch.tensor(item.image, device=self._device).permute(2, 0, 1)[None].float() / 255
        height, width = pixels.shape[2:]
        longer = self._pipeline.default_processing_resolution if self.resolution is None else self.resolution
        if longer:
            scale = longer / max(height, width)
            size = max(1, int(height * scale)), max(1, int(width * scale))
            pixels = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        return pixels[0].clamp(0, 1)

    def _noise(self, key: str, member: int) -> Any:
        import torch

        digest = hashlib.sha256(f"{self.seed}|{member}|{key}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def _label(self, normals: torch.Tensor, item: ImageItem) -> np.ndarray | Reject:
        """The label of normals (3, h, w) at the network's resolution."""
        import torch

        if not bool(torch.isfinite(normals).all()):
            return Reject("normal: NaN or infinite values")
        whole = torch.nn.functional.interpolate(normals[None].float(), item.image.shape[:2], mode="bilinear")[0]
        return self.in_label(whole.permute(1, 2, 0).cpu().numpy())
