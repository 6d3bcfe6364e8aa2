"""Surface normals (4M-21's `normal`) by a model that predicts them in one pass: TIPSv2-DPT, Sapiens2, or any dense
head of one's own (SegFormer, UperNet, DPT) whose three outputs are named x, y, z.

4M labels with Omnidata's DPT-Hybrid. Marigold is in normals_marigold.py; normals_geometry.py needs no weights.

Axes of the label: camera coordinates, x right, y up, z toward the viewer, as Marigold has them; its picture is
(n + 1) / 2, in which a wall seen face on is (0.5, 0.5, 1), and a floor is green. Other conventions are in use
(Omnidata's, on which 4M's published tokenizer was fitted, has y down: a floor is purple): see `flip`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from ...reject import Reject
from .base import DenseModel

if TYPE_CHECKING:
    import torch

_SEMANTIC = "AutoModelForSemanticSegmentation"
AXES = ("x", "y", "z")
TOWARD_VIEWER = (0.0, 0.0, 1.0)
_SHORT = 1e-3  # a vector below this length has no direction


class Normals(DenseModel):
    """Unit normals in the whole frame, by any `AutoModelForNormalEstimation`; or by an
    `AutoModelForSemanticSegmentation` whose `id2label` is {0: "x", 1: "y", 2: "z"}: transformers trains its semantic
    heads, as regressors too, and has no training for its own models of normals.

    TIPSv2's and Sapiens2's authors show (n + 1) / 2 in camera coordinates and write no more of the axes; a picture of a
    floor tells (it must be green), and `flip` turns what is not so.
    """

    name: ClassVar[str] = "normals"
    label: ClassVar[str] = "normal"
    task: ClassVar[str] = "surface normal estimation"
    licence: ClassVar[str] = "not found"
    memory_gb: ClassVar[float] = 2.0

    weights: str = Field("google/tipsv2-b14-dpt", description="Hub id (org/name), or a local folder.")
    flip: str = Field(
        "", pattern="^x?y?z?$", description="Axes that the model has the other way round, for example yz for OpenCV's."
    )

    def auto_class(self) -> str:
        names = self.config().id2label
        return _SEMANTIC if tuple(map(names.get, range(len(names)))) == AXES else "AutoModelForNormalEstimation"

    def setup(self, device: str) -> None:
        """Load the weights. ValueError if they are for another task."""
        super().setup(device)
        if self._auto != _SEMANTIC:
            self.require_postprocessing("post_process_normal_estimation")

    def label_of(self, prediction: Any, size: tuple[int, int]) -> np.ndarray | Reject:
        """float16 (H, W, 3), unit vectors; a Reject if the model gives no direction at all."""
        vectors = self._vectors(prediction, size).permute(1, 2, 0).cpu().numpy()
        normals = unit_vectors(vectors * [-1.0 if axis in self.flip else 1.0 for axis in AXES])
        return Reject("normal: no direction anywhere") if normals is None else normals

    def _vectors(self, prediction: Any, size: tuple[int, int]) -> torch.Tensor:
        """float32 (3, H, W), of any length."""
        import torch

        if self._auto == _SEMANTIC:
            return torch.nn.functional.interpolate(prediction.logits, size, mode="bilinear")[0]
        options: dict[str, Any] = {"target_sizes": [size]}
        if self._model.config.model_type == "sapiens2":  # pads if its configuration says so; TIPSv2 never does
            options |= {"source_sizes": [self.seen_size(size)], "do_remove_padding": bool(self._processor.do_pad)}
        processed = self._processor.post_process_normal_estimation(prediction, **options)[0]["normals"]
        return processed.float().reshape(3, *size)


def unit_vectors(vectors: np.ndarray) -> np.ndarray | None:
    """float16 (H, W, 3) of length 1 of finite vectors (H, W, 3); None if none of them has a length.

    Resizing shortens them, and may cancel opposite ones: these few face the viewer.
    """
    length = np.linalg.norm(vectors, axis=2, keepdims=True)
    if not np.any(length > _SHORT):
        return None
    unit = np.where(length > _SHORT, vectors / np.maximum(length, _SHORT), TOWARD_VIEWER)
    return unit.astype(np.float16)
