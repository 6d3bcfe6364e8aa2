"""What a codec is: one modality's way from labels to tokens and back; and the fitted tokenizer that one may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..infra import faults, sums
from ..modalities import MODALITIES, Kind, ModalitySpec, Size, height_width
from .crops import Crop
from .settings import FLOAT32, Precision
from .store import ColumnSpec
from .text.sentences import DEFAULT_SCORE

if TYPE_CHECKING:
    import torch

    from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Labelled:
    """A sample's label with what its tokens depend on: the crops (pixels of the source image) and the image's size."""

    key: str
    value: Any
    crops: list[Crop]
    size: tuple[int, int]  # width, height


@dataclass(frozen=True)
class Options:
    """What the recipe says about tokens, beyond the sizes in a `ModalitySpec`.

    precisions: in what tokenizers encode, by name; float32 for others.
    """

    seed: int
    image_size: int
    crops: int
    pixel_format: str = "jpeg"
    jpeg_quality: int = 95
    min_box_score: float = DEFAULT_SCORE
    precisions: Mapping[str, Precision] = field(default_factory=dict)


class Codec:
    """One modality's way from labels to tokens and back.

    version: raise it when the same labels and options give other tokens than before, and say in `changes` what is
        other. first_version: the version that fingerprints hold; it never changes (see infra/versions.py).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 2
    first_version: ClassVar[int] = 2
    changes: ClassVar[dict[int, str]] = {}

    def __init__(self, spec: ModalitySpec, options: Options) -> None:
        self.spec, self.options = spec, options
        self.modality = MODALITIES[spec.name]

    @property
    def image_size(self) -> Size:
        """The size of its crops in pixels."""
        return self.modality.image_size or self.options.image_size

    @property
    def crops(self) -> int:
        """Crops that are tokenized of each sample."""
        # A caption or a vector of the whole image is the same for every crop: stored once.
        return self.options.crops if self.modality.spatial else 1

    def column_spec(self, tokenizers: Mapping[str, str]) -> ColumnSpec:
        """The spec of the columns that `encode` makes rows for, by tokenizers with these fingerprints."""
        # Pictures are as long as their side, since a JPEG has no fixed number of bytes.
        is_picture = self.spec.kind is Kind.PIXELS
        length = height_width(self.image_size)[0] if is_picture else self.spec.max_tokens
        columns = 0 if is_picture else self.spec.columns  # pictures are square
        fingerprints = "+".join(tokenizers.values())
        return ColumnSpec(
            self.spec.name, self.spec.kind, self.crops, length, self.spec.vocab_size, 0, fingerprints, columns
        )

    def made_with(self) -> dict[str, Any]:
        """What records say of its fitted tokenizer, by name; {} if it has none."""
        fitted = getattr(self, "tokenizer", None)
        return {fitted.name: {"precision": fitted.precision}} if isinstance(fitted, FittedTokenizer) else {}

    def encode(self, samples: Sequence[Labelled]) -> list[Any]:
        """For each sample its row (see store.Column.sample), or the exception that says why it has none."""
        return [self._guarded(self.encode_one, sample) for sample in samples]

    def _guarded(self, make: Callable[..., Any], *args: Any) -> Any:
        try:
            return make(*args)
        except Exception as error:
            if faults.of_place(error):
                raise
            if isinstance(error, ValueError):
                return error
            # Labels of a user's own specialist may have any form: reject the one sample, so that the shard goes on.
            return ValueError(f"{self.spec.name}: {type(error).__name__}: {error}")

    def encode_one(self, sample: Labelled) -> Any:
        raise NotImplementedError

    def truth(self, sample: Labelled, crop: int) -> Any:
        """What the tokens of one crop say if nothing is lost, in the form of `decode`."""
        return sample.value

    def decode(self, tokens: Any) -> Any:
        """One crop's tokens as the label in the crop's frame: pixels, maps, text, boxes, colours, numbers."""
        raise NotImplementedError


class FittedTokenizer:
    """A tokenizer loaded from its folder onto a device: rows of `inputs.examples` to ids, and ids to labels.

    precision: in what it encodes there: "fp32", or under autocast "bf16" or "fp16". Codes are compared in float32.
    """

    def __init__(self, name: str, folder: str, device: str, expected: str = "", precision: Precision = FLOAT32) -> None:
        from . import tokenizer

        # Before the weights are loaded: a tokenizer of another fit must not code a single sample. Damage first: it is
        # another fingerprint, too.
        if expected:
            sums.check(folder, (tokenizer.WEIGHTS, tokenizer.CONFIG))
            check_fingerprint(name, tokenizer.fingerprint(folder), expected)
        self.name, self.folder, self.device, self.precision = name, folder, device, precision.on(device)
        self.model: Tokenizer = tokenizer.load(folder).to(device).eval()

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, ...) to uint16 (n, tokens). ValueError if the tokenizer cannot read them, or they are not finite."""
        import torch

        from .inputs import to_input

        x = to_input(self.name, rows, self.model.config.frame, self.device, self.model.config.statistics)
        try:
            with torch.inference_mode():
                ids = self._ids(x)
        except ValueError as error:
            raise ValueError(f"{self.name} of {self.folder}: {error}") from error
        return ids.reshape(len(rows), -1).cpu().numpy().astype(np.uint16)

    def _ids(self, x: torch.Tensor) -> torch.Tensor:
        if self.precision == "fp32":
            return self._ids_in(x, None)
        import torch

        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        try:
            return self._ids_in(x, dtype)
        except ValueError:
            # What is too large for half precision alone is encoded in float32, by itself: no row depends on the others.
            return self._ids_in(x, None) if len(x) < 2 else torch.cat([self._ids(row) for row in torch.split(x, 1)])

    def _ids_in(self, x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        import torch

        with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
            return self.model.encode(x)

    def decode(self, tokens: np.ndarray, side: Size = 0) -> np.ndarray:
        """(n, tokens) to labels in the frame of a crop, see `inputs.to_label`.

        Args:
            side: of a square grid of tokens, or its rows and columns; 0 for tokens that have no place.
        """
        import torch

        from .inputs import to_label

        ids = torch.from_numpy(np.asarray(tokens, np.int64)).to(self.device)
        with torch.inference_mode():
            recon = self.model.decode(ids.view(-1, *height_width(side)) if side else ids)
            return to_label(self.name, recon, self.model.config.frame, self.model.config.statistics)


def check_fingerprint(name: str, actual: str, expected: str) -> None:
    """ValueError if a tokenizer's contents are not those that the job's columns are recorded with."""
    # Another fit may replace ROOT/tokenizers/NAME while a job runs; its ids mean other codes.
    if actual != expected:
        raise ValueError(
            f"tokenizers/{name}: it was fitted again while this job ran (contents {actual}, expected {expected}); "
            "run the same command again"
        )
