"""Boxes of COCO's 80 classes by a YOLO of ultralytics: an extra, `pip install 'fourmill[yolo]'`.

ultralytics and its weights are under AGPL-3.0: using them may bind what you build and serve to that licence.
Its checkpoints are pickles. They are read by its restricted loader, which rebuilds classes of torch and ultralytics
alone; even so a recipe must say `allow_pickle: true`.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import cv2
import numpy as np
from pydantic import Field, model_validator

from ...reject import Reject
from ..base import ImageItem
from ..host import OnHost, sent
from ..pretrained import batches
from .transformers import Detections, Detector

if TYPE_CHECKING:
    import torch


# Positions of images of equal size in the batch, and these images (B, 3, H, W).
Prepared = list[tuple[list[int], "torch.Tensor"]]


class YoloBoxes(Detector):
    """A YOLO of ultralytics, with its letterboxing and non-maximum suppression.

    Images are letterboxed one by one, to the least rectangle of whole strides: labels do not depend on neighbours.
    """

    name: ClassVar[str] = "yolo"
    licence: ClassVar[str] = "AGPL-3.0"
    packages: ClassVar[dict[str, str]] = {"ultralytics": "fourmill[yolo]"}

    weights: str = Field(
        "Ultralytics/YOLO26", description="Local .pt file, or a folder or hub repository that holds `checkpoint`."
    )
    checkpoint: str = Field("yolo26x.pt", description="File name of the weights in a folder or repository.")
    size: int = Field(640, ge=32, le=8192, description="Pixels of the long side of what the network sees.")
    max_overlap: float = Field(
        0.7,
        gt=0,
        le=1,
        description="Intersection over union above which the weaker of two boxes of a class is dropped; one-to-one "
        "heads (YOLOv10) need no such thing and ignore it.",
    )

    @model_validator(mode="after")
    def _trusted(self) -> Self:
        if not self.allow_pickle:
            raise ValueError(
                "ultralytics keeps its weights in pickles, which can run any code when they are read; say "
                "allow_pickle: true if you trust where they come from"
            )
        return self

    def patterns(self) -> tuple[str, ...]:
        return (self.checkpoint,)

    def setup(self, device: str) -> None:
        """Load the network. ImportError without ultralytics; ValueError if the file is no YOLO of COCO's classes."""
        tasks, path = ultralytics("nn.tasks"), self.file(self.checkpoint)
        try:
            stored, _ = tasks.torch_safe_load(str(path), safe_only=True)
            model = stored.get("ema") or stored["model"]
        except (TypeError, AttributeError, KeyError, RuntimeError) as error:
            raise ValueError(f"{self.label}: {path} is no checkpoint of ultralytics: {error}") from error
        if type(model) is not tasks.DetectionModel:
            raise ValueError(f"{self.label}: {path} holds a {type(model).__name__}, expected a YOLO for {self.task}")
        self._set_names([str(model.names[i]) for i in range(len(model.names))])
        self._model = model.float().fuse(verbose=False).eval().to(device, self.dtype(device))

    def prepare(self, items: Sequence[ImageItem]) -> Prepared:
        """Images of equal size together, letterboxed."""
        import torch

        stride = int(self._model.stride.max())
        letterbox = ultralytics("data.augment").LetterBox((self.size, self.size), auto=True, stride=stride)
        boxed = [torch.from_numpy(letterbox(image=item.image)).permute(2, 0, 1) for item in items]
        weight = next(self._model.parameters())
        return [(i, sent(pixels, weight.device, weight.dtype)) for i, pixels in batches(boxed, self.batch_size)]

    def infer(self, prepared: Prepared) -> tuple[Prepared, OnHost]:
        import torch

        with torch.inference_mode():
            every = [self._model(pixels / 255) for _, pixels in prepared]
            raw = [(out[0] if isinstance(out, list | tuple) else out).float() for out in every]
        return prepared, OnHost(raw)

    def read(self, items: Sequence[ImageItem], inferred: tuple[Prepared, OnHost]) -> list[Detections | Reject]:
        import torch

        found: list[Detections | Reject] = [self._not_finite() for _ in items]
        prepared, copies = inferred
        for (indices, pixels), raw in zip(prepared, copies.tensors(), strict=True):
            with torch.inference_mode():
                for i, rows, finite in zip(indices, self._kept(raw), raw.isfinite(), strict=True):
                    height, width = items[i].image.shape[:2]
                    boxes = ultralytics("utils.ops").scale_boxes(pixels.shape[2:], rows[:, :4], (height, width))
                    if finite.all():
                        scale = np.array([width, height, width, height])
                        found[i] = (boxes.numpy() / scale, rows[:, 4].numpy(), rows[:, 5].numpy().astype(np.int64))
        return found

    def _kept(self, raw: torch.Tensor) -> list[torch.Tensor]:
        """For each image of raw outputs its boxes that stay, (n, 6): xmin, ymin, xmax, ymax in pixels, score, class."""
        return ultralytics("utils.nms").non_max_suppression(
            raw,
            self.min_score,
            self.max_overlap,
            max_det=self.max_boxes,
            nc=len(self._names),
            max_time_img=float("inf"),  # its clock would drop boxes on a busy machine
            end2end=bool(getattr(self._model, "end2end", False)),
        )


def ultralytics(module: str) -> Any:
    """A module of ultralytics, imported without side effects. ImportError, with what to do, if it is not installed.

    No telemetry, downloads or installs, no settings file in the user's home, OpenCV keeps its threads, and what
    ultralytics puts in the place of functions of Pillow, OpenCV and torch is taken out again (its Image.open asks for
    another package where a file is no image): other specialists run in this process too.
    """
    scratch = Path(tempfile.gettempdir()) / f"fourmill-{os.getuid()}" / "ultralytics"
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, value in (
        ("YOLO_CONFIG_DIR", str(scratch)),
        ("YOLO_OFFLINE", "true"),
        ("YOLO_AUTOINSTALL", "false"),
        ("YOLO_VERBOSE", "false"),
    ):
        os.environ.setdefault(name, value)
    import torch
    from PIL import Image

    threads = cv2.getNumThreads()
    places: list[Any] = [(Image, "open"), (torch, "save"), (cv2, "imread"), (cv2, "imwrite"), (cv2, "imshow")]
    before = [getattr(place, name, None) for place, name in places]
    try:
        with np.printoptions():
            return importlib.import_module(f"ultralytics.{module}")
    except ImportError as error:
        raise ImportError(
            "det: YOLO needs ultralytics, which is under AGPL-3.0 (it may bind what you build to that licence): pip "
            "install 'fourmill[yolo]'. D-FINE, the default detector, needs nothing more and is under Apache-2.0"
        ) from error
    finally:
        cv2.setNumThreads(threads)
        for (place, name), function in zip(places, before, strict=True):
            if function is not None:
                setattr(place, name, function)
