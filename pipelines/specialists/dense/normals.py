"""Surface normals (4M-21's `normal`) by a model that predicts them in one pass: TIPSv2-DPT, Sapiens2, or any dense
head of one's own (SegFormer, UperNet, DPT) whose three outputs are named x, y, z.

4M labels with Omnidata's DPT-Hybrid. Marigold is in normals_marigold.py; normals_geometry.py needs no weights.

Axes of the label: camera coordinates, x right, y up, z toward the viewer; its picture is (n + 1) / 2, in which a wall
seen face on is (0.5, 0.5, 1), a floor is green, and a wall on the left, which faces right, is red. Models have others:
see framed.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from ....tokenize import frames
from ...reject import Reject
from .base import DenseModel
from .framed import Framed

if TYPE_CHECKING:
    import numpy as np
    import torch

_SEMANTIC = "AutoModelForSemanticSegmentation"


class Normals(Framed, DenseModel):
    """Unit normals in the whole frame, by any `AutoModelForNormalEstimation`; or by an
    `AutoModelForSemanticSegmentation` whose `id2label` is {0: "x", 1: "y", 2: "z"}: transformers trains its semantic
    heads, as regressors too, and has no training for its own models of normals.
    """

    name: ClassVar[str] = "normals"
    label: ClassVar[str] = "normal"
    task: ClassVar[str] = "surface normal estimation"
    licence: ClassVar[str] = "Apache-2.0"
    memory_gb: ClassVar[float] = 2.0

    weights: str = Field("google/tipsv2-b14-dpt", description="Hub id (org/name), or a local folder.")
    flip: str = Field(
        "",
        pattern="^x?y?z?$",
        description="Axes that the model has the other way round, for example yz for OpenCV's: a short `frame`.",
    )

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if self.flip and self.frame is not None:
            raise ValueError(f"frame and flip say the same thing; leave out flip: {self.flip}")
        return self

    @property
    def stated_frame(self) -> str | None:
        return frames.flipped(self.flip) if self.flip else self.frame

    @property
    def changes(self) -> dict[int, str]:  # type: ignore[override]
        return {} if self.flip else super().changes  # labels by `flip` were right at all times

    def fingerprint_parts(self) -> dict[str, Any]:
        parts = super().fingerprint_parts()
        options = dict(parts["options"])
        if self.frame is not None and options.get("frame") and (flip := frames.flips(self.frame)):
            options |= {"flip": flip}
            del options["frame"]
        return {**parts, "options": options}

    def auto_class(self) -> str:
        names = self.config().id2label
        named = tuple(map(names.get, range(len(names))))
        return _SEMANTIC if named == tuple(frames.AXES) else "AutoModelForNormalEstimation"

    def setup(self, device: str) -> None:
        """Load the weights. ValueError if they are for another task, or if nothing says which way their axes point."""
        super().setup(device)
        if self._auto != _SEMANTIC:
            self.require_postprocessing("post_process_normal_estimation")

    def drawn(
        self, predictions: Sequence[SimpleNamespace], sizes: Sequence[tuple[int, int]]
    ) -> list[list[torch.Tensor]]:
        return [[self._vectors(*given)] for given in zip(predictions, sizes, strict=True)]

    def label_of(self, drawn: Sequence[torch.Tensor], size: tuple[int, int]) -> np.ndarray | Reject:
        """float16 (H, W, 3), unit vectors; a Reject if the model gives no direction, or the same everywhere."""
        return self.in_label(drawn[0].permute(1, 2, 0).numpy())

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
