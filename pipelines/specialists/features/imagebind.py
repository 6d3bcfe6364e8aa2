"""Dense and global features of ImageBind's vision trunk (4M-21), from its published weights.

The weights are under CC BY-NC-SA 4.0: no commercial use, and what you make of them may be bound likewise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from .. import shapes
from ..pretrained import loaded
from .features import Backbone, Features, usual_side

if TYPE_CHECKING:
    import torch


class ImageBind(Features):
    """Patch tokens after the trunk's last block, before any head: (16, 16, 1280) of a square image.

    The residual stream of the trunk is not normalized; 4M-21 takes it as it is.
    """

    name: ClassVar[str] = "imagebind"
    label: ClassVar[str] = "imagebind"
    task: ClassVar[str] = "ImageBind's vision trunk"
    licence: ClassVar[str] = "CC BY-NC-SA 4.0 (non-commercial)"
    # Nothing bounds a stream without a norm, so that float16 might overflow.
    gpu_precision: ClassVar[Literal["fp32", "fp16", "bf16"]] = "bf16"
    memory_gb: ClassVar[float] = 4.0

    weights: str = Field(
        "nielsr/imagebind-huge",
        description="Hub id, folder or file with the names of imagebind_huge.pth; a .pth needs allow_pickle: true.",
    )
    num_heads: int = Field(16, ge=1, description="Attention heads, the one size that the weights do not tell.")

    def _open(self, device: str) -> Backbone:
        from transformers import CLIPImageProcessor

        dtype, path = self.dtype(device), self.file("*.safetensors", "*.pth", "*.pt", "*.bin")
        key = "imagebind", str(path), self.num_heads, device, dtype
        trunk = loaded(key, lambda: shapes.on(self._trunk(), device, dtype).eval())
        # ImageBind was trained with the statistics and the bicubic resize of CLIP, which are this class's defaults.
        processor = CLIPImageProcessor()
        return Backbone(trunk, processor, usual_side(processor), trunk.patch_size, trunk)

    def _trunk(self) -> Any:
        from . import imagebind_trunk

        try:
            return imagebind_trunk.from_tensors(self._tensors(), self.num_heads)
        except ValueError as error:
            raise ValueError(f"{self.label}: {self.weights}: {error}") from error

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The vision tensors of the checkpoint; of safetensors, the other modalities' four gigabytes stay on disk."""
        from .imagebind_trunk import PREFIXES

        path = self.file("*.safetensors", "*.pth", "*.pt", "*.bin")
        if path.suffix != ".safetensors":
            return self.state_dict("*.pth", "*.pt", "*.bin")
        return shapes.stored(path, lambda name: name.startswith(PREFIXES))


class ImageBindGlobal(ImageBind):
    """The class token after the trunk's last block, before any head: (1280,). Shares its pass with `imagebind`."""

    name: ClassVar[str] = "imagebind_global"
    label: ClassVar[str] = "imagebind_global"
    whole: ClassVar[bool] = True
