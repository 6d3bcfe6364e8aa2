"""3-D human poses and shapes (4M-21's `human_poses`): HMR2.0 on the people that the detector found."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import cv2
import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from ....tokenize.text import smpl
from ...reject import Reject
from ..base import ImageItem
from ..pretrained import Pretrained, loaded

if TYPE_CHECKING:
    from .hmr2 import Hmr2Network

_PEOPLE = 32  # that the network sees at a time
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)

Sampling = Literal["published", "centres"]


class Hmr2(Pretrained):
    """HMR2.0 (Goel et al. 2023): SMPL parameters of each person, from a square around their box.

    The weights are the published checkpoint, epoch=35-step=1000000.ckpt of 4D-Humans' hmr2_data.tar.gz, of which the
    default is a copy on the hub; or its tensors as safetensors. A checkpoint is a pickle, which takes
    `allow_pickle: true`, though none of its code is run. SMPL's own files are not needed.
    """

    name: ClassVar[str] = "hmr2"
    label: ClassVar[str] = "human_poses"
    task: ClassVar[str] = "3-D human pose and shape"
    licence: ClassVar[str] = "MIT; the body model SMPL, whose parameters it predicts, is for non-commercial use"
    needs: ClassVar[tuple[str, ...]] = ("det",)
    memory_gb: ClassVar[float] = 4.0
    version: ClassVar[int] = 2
    changes: ClassVar[dict[int, str]] = {
        2: "crops are sampled as 4D-Humans samples them; they were 0.5 (256 / side - 1) of their pixels beside, which "
        "is more than half of one for people whose square is below 128 px",
    }
    later: ClassVar[dict[str, Any]] = {"sampling": "published"}

    weights: str = Field(
        "lamianlbe/4D-Humans", description="HMR2.0 as .ckpt or .safetensors: the file, its folder, or a hub id."
    )
    min_score: float = Field(
        0.5, ge=0, le=1, description="Boxes of persons below this score are left out; 4D-Humans' demo takes 0.5."
    )
    max_people: int = Field(32, ge=1, description="In each image, by score. Sentences hold the first seven.")
    backbone_heads: int = Field(16, ge=1, description="Attention heads, which tensors do not tell; 16 as published.")
    decoder_heads: int = Field(8, ge=1, description="Attention heads of the decoder; 8 as published.")
    iterations: int = Field(1, ge=1, description="How often the estimate is refined; once, as published.")

    sampling: Sampling = Field(
        "published",
        description="Where a crop is sampled. published: as 4D-Humans does, which takes a pixel for its upper left "
        "corner; centres: at the centres of pixels, so that a mirrored image gives mirrored crops, as up to version 1.",
    )

    _network: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _has_people(self) -> Self:
        if "person" not in self.class_names("det"):
            raise ValueError("it looks at boxes of the class person, which classes.det lacks; add it")
        return self

    def setup(self, device: str) -> None:
        """Load the network. ValueError if the weights are others, or hold code that would run."""
        key = (type(self), self.weights, self.revision, self.backbone_heads, self.decoder_heads, self.iterations)
        self._network = loaded((*key, device, self.precision), partial(self._load_network, device))

    def _load_network(self, device: str) -> Hmr2Network:
        from . import hmr2

        path = self.file("*.safetensors", "*.ckpt", "*.pth", "*.pt", "*.bin")
        state = self.state_dict("*.safetensors") if path.suffix == ".safetensors" else checkpoint_tensors(path)
        try:
            network = hmr2.from_state(state, self.backbone_heads, self.decoder_heads, self.iterations)
        except ValueError as error:
            raise ValueError(f"{self.label}: {path}: {error}") from error
        network.backbone.to(self.dtype(device))
        return network.to(device)

    def __call__(self, items: Sequence[ImageItem]) -> list[list[dict[str, Any]] | Reject]:
        """The people of each item, best box first; [] if it shows none.

        Each is {"box": [xmin, ymin, xmax, ymax] in 0..1 and "score", both of the detection, "global_orient": 9 numbers,
        "body_pose": 207 (23 x 3 x 3), "betas": 10, "camera": [s, tx, ty]}; `tokenize.smpl` says what they mean.
        Rotations are row-major.
        """
        assert self._network is not None, "call setup first"
        people = [self._people(item) for item in items]
        found: list[list[dict[str, Any]]] = [[] for _ in items]
        every = [(i, person) for i, part in enumerate(people) for person in part or ()]
        for start in range(0, len(every), _PEOPLE):
            part = every[start : start + _PEOPLE]
            seen = *self._network.sizes.crop, self.sampling
            crops = [person_crop(items[i].image, person["box"], *seen) for i, person in part]
            for (i, person), body in zip(part, self._bodies(crops), strict=True):
                found[i].append({"box": list(person["box"]), "score": person["score"], **body})
        return [self._label(whom, label) for whom, label in zip(people, found, strict=True)]

    def _people(self, item: ImageItem) -> list[dict[str, Any]] | None:
        """Detections of people to look at, best first, equal ones in the detector's order; None if nobody looked."""
        boxes = item.labels.get("det")
        if boxes is None:
            return None
        people = [box for box in boxes if box["label"] == "person" and box["score"] >= self.min_score]
        people = [box for box in people if box["box"][0] < box["box"][2] and box["box"][1] < box["box"][3]]
        return sorted(people, key=lambda box: -float(box["score"]))[: self.max_people]

    def _bodies(self, crops: Sequence[np.ndarray]) -> Iterator[dict[str, list[float]]]:
        import torch

        with torch.inference_mode():
            body = self._network(torch.from_numpy(np.stack(crops)))
        rotations = body.rotations.flatten(1).cpu().tolist()
        for turn, betas, camera in zip(rotations, body.betas.cpu().tolist(), body.camera.cpu().tolist(), strict=True):
            yield {"global_orient": turn[:9], "body_pose": turn[9:], "betas": betas, "camera": camera}

    def _label(self, people: list[dict[str, Any]] | None, found: list[dict[str, Any]]) -> list[dict[str, Any]] | Reject:
        if people is None:
            return Reject("human_poses: there are no boxes")
        if not all(math.isfinite(value) for person in found for name in smpl.SIZES for value in person[name]):
            return Reject("human_poses: the network's output is not finite")
        return found


def person_crop(
    image: np.ndarray, box: Sequence[float], rows: int, columns: int, sampling: Sampling = "published"
) -> np.ndarray:
    """What the network sees of a person: the middle columns of the square around them, as 4D-Humans cuts it.

    The square is that of `tokenize.smpl.person_square`. Large ones are blurred before they are sampled, others are
    rounded to whole values as the image's are; what lies outside of the image is black.

    Args:
        image: uint8 (H, W, 3) RGB.
        box: xmin, ymin, xmax, ymax in 0..1, not empty.
        rows, columns: of the crop, rows >= columns.
        sampling: see `Hmr2.sampling`.

    Returns:
        float32 (3, rows, columns), normalized as ImageNet's.
    """
    height, width = image.shape[:2]
    x, y, side = smpl.person_square([c * edge for c, edge in zip(box, (width, height) * 2, strict=True)])
    # Half as much blur as a crop of this size needs, and none below 1.1: 4D-Humans' rule.
    factor = side / rows / 2
    sigma = (factor - 1) / 2 if factor > 1.1 else 0.0
    radius = round(4 * sigma)
    reach = side / 2 + radius + 2
    left, right = max(0, math.floor(x - reach)), min(width, math.ceil(x + reach))
    top, bottom = max(0, math.floor(y - reach)), min(height, math.ceil(y + reach))
    window: np.ndarray = np.ascontiguousarray(image[top:bottom, left:right])
    if sigma or sampling == "centres":
        window = window.astype(np.float32)
    if sigma:
        kernel = (2 * radius + 1, 2 * radius + 1)
        window = cv2.GaussianBlur(window, kernel, sigma, borderType=cv2.BORDER_REPLICATE)
    scale, corner = rows / side, 0.5 if sampling == "centres" else 0.0
    shift = (columns / 2 - corner + scale * (corner + left - x), rows / 2 - corner + scale * (corner + top - y))
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float64)
    crop = cv2.warpAffine(window, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.ascontiguousarray(((crop.astype(np.float32) / 255 - _MEAN) / _STD).transpose(2, 0, 1), dtype=np.float32)


class _Inert:
    """Stands in for whatever class or function a checkpoint names: making one gives an empty dictionary."""

    def __new__(cls, *args: Any, **options: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def checkpoint_tensors(path: Path) -> dict[str, Any]:
    """Tensors of a PyTorch or Lightning checkpoint, without running any code that it names.

    Lightning stores its settings as objects of yacs or OmegaConf, which `weights_only` refuses. They are not wanted
    here: every class that is not a tensor's is replaced by an empty dictionary.
    """
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        inert: Any = [(type("Inert", (_Inert,), {}), name) for name in names]
        with torch.serialization.safe_globals(inert):
            read = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file makes the reader raise
        raise ValueError(
            f"human_poses: {path} cannot be read as weights alone ({type(error).__name__}): it is cut short or broken, "
            "or names what no checkpoint should; fetch it again, or save its 'state_dict' as safetensors"
        ) from error
    state = read.get("state_dict", read) if isinstance(read, dict) else {}
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
