"""Specialists with weights: where these come from, and how they are fetched, verified and loaded.

Decisions:
- Weights are a Hugging Face hub id ("org/name"), or a local folder or file. A recipe may name any that serve the task.
- Nothing is unpickled unless the recipe says `allow_pickle: true`: safetensors otherwise.
- A label depends on a hub id and its revision, or on the bytes of a local folder or file: moving a folder changes no
  fingerprint, changing a byte does. Pin `revision` to a commit where a dataset must be made again to the bit.
- Two specialists that name the same weights share one model (`loaded`); what they both compute of an item goes into
  `Item.shared`.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from weakref import WeakValueDictionary

from pydantic import Field, PrivateAttr, field_validator

from ...infra.versions import Part
from . import kept_weights, shapes, weight_files
from .base import Specialist

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import torch

_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")
_SAFE_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
_GIB = 2**30

_models: WeakValueDictionary[Any, Any] = WeakValueDictionary()


def loaded(key: Any, make: Callable[[], Any]) -> Any:
    """The object that `make` makes, once for each key in this process, for as long as somebody holds it."""
    if shapes.are_without_data():  # nobody else may get it
        return make()
    found = _models.get(key)
    if found is None:
        found = _models[key] = make()
    return found


def without_checks() -> None:
    """Have transformers leave out its checks of values in this process: for each of them, one in every layer of a
    detector, the host would wait for the device. Sizes are those that its own processor made."""
    os.environ.setdefault("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")


def batches(tensors: Sequence[torch.Tensor], most: int) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Tensors of equal shape stacked, at most `most` at a time: (their indices, the stack).

    Images of different sizes are never padded into each other: a label must not depend on its neighbours.
    """
    import torch

    groups: dict[tuple[int, ...], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault(tuple(tensor.shape), []).append(i)
    for indices in groups.values():
        for start in range(0, len(indices), most):
            part = indices[start : start + most]
            yield part, torch.stack([tensors[i] for i in part])


class Pretrained(Specialist):
    """Base of specialists with weights.

    task: what the weights are for, in words ("monocular depth"), for messages.
    licence: of the default weights; others have their own.
    gpu_precision: what `precision: auto` means on a GPU; it is fp32 on a CPU.
    memory_gb: of the default weights, with what a batch takes beyond them.
    first_weights: what the default weights were called in the first release, "" if they are the same: fingerprints of
        the default hold that name, so that a better place of weights makes nothing again.
    unneeded: regular expressions of tensors that a folder may lack, since inference does not use them.
    """

    task: ClassVar[str]
    licence: ClassVar[str]
    gpu_precision: ClassVar[Literal["fp32", "fp16", "bf16"]] = "bf16"
    gpus: ClassVar[float] = 1.0
    memory_gb: ClassVar[float] = 2.0
    first_weights: ClassVar[str] = ""
    unneeded: ClassVar[tuple[str, ...]] = ()

    weights: str = Field(..., description="Hub id (org/name), or a local folder or file.")
    revision: str | None = Field(
        None, description="Branch, tag or commit of the hub repository; its default branch unless given."
    )
    allow_pickle: bool = Field(
        False, description="Read .bin, .pt and .pth files. A pickle can run any code: only for weights that you trust."
    )
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="Sum of the one file of weights. Another file is refused; a pickle of this sum is read, as tensors "
        "alone, without allow_pickle.",
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="Of weights and activations. auto: fp32 on a CPU, what the model stands on a GPU."
    )

    _commit: str = PrivateAttr(default="")
    _kept_in: str = PrivateAttr(default="")
    _sums: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("weights")
    @classmethod
    def _absolute(cls, value: str) -> str:
        # Workers have another working directory.
        path = Path(value).expanduser()
        if value and path.exists():
            return str(path.resolve())
        if not _HUB_ID.match(value):
            raise ValueError(f"there is no file or folder {value!r}, and it is no hub id of the form org/name")
        return value

    @property
    def is_local(self) -> bool:
        return os.path.isabs(self.weights)

    @property
    def may_unpickle(self) -> bool:
        """Whether pickles may be read: the recipe trusts them, or names the sum of the one that it means."""
        return self.allow_pickle or self.sha256 is not None

    @property
    def read_revision(self) -> str | None:
        """The revision of a hub repository that is read: the commit that a root has pinned, or the recipe's own."""
        return self._commit or self.revision

    def pin(self, commit: str, sums: Mapping[str, str]) -> None:
        """Read this commit of a hub repository, whatever `revision` stands for by now.

        Args:
            sums: SHA-256 of its files, by name, as far as they are known.
        """
        self._commit, self._sums = commit, dict(sums)

    @property
    def kept_in(self) -> str:
        """The folder beside a root that holds the weights for all nodes, see shared_weights.py; "" for none."""
        return self._kept_in

    def copy_from(self, folder: str) -> None:
        """Copy weights that this machine has not fetched from a folder, which may be `kept_in` of all nodes."""
        self._kept_in = folder

    def setup_on_node(self) -> None:
        """Fetch the weights into the node's Hugging Face cache and look whether they are whole. Done once for each
        node, before its actors start. ValueError if there are none."""
        self._verify(self._fetch() if not self.is_local else Path(self.weights))

    def snapshot_folder(self) -> Path:
        """Where the node's Hugging Face cache has the commit that is read."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        name = repo_folder_name(repo_id=self.weights, repo_type="model")
        return Path(constants.HF_HUB_CACHE, name, "snapshots", str(self.read_revision))

    def folder(self) -> Path:
        """The local folder of the weights; a hub repository is fetched if it is not there yet."""
        if self.is_local:
            path = Path(self.weights)
            return path if path.is_dir() else path.parent
        # The cache first: asking the hub costs a request for each actor, and a cluster may have no way out.
        return self.fetched() or self._fetch()

    def _fetch(self) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )

        if self.kept_in and kept_weights.fetch(self.kept_in, self.patterns(), self.snapshot_folder()):
            return self.snapshot_folder()
        try:
            logger.info("%s: weights %s@%s are fetched", self.label, self.weights, self.read_revision)
            return self._snapshot(snapshot_download)
        except GatedRepoError as error:
            raise ValueError(
                f"{self.label}: {self.weights} asks for its terms to be accepted; do so on the hub and set HF_TOKEN"
            ) from error
        except RepositoryNotFoundError as error:
            raise ValueError(
                f"{self.label}: there is no repository {self.weights!r} on the hub and no such local folder; check "
                "`weights`, or set HF_TOKEN if the repository is private"
            ) from error
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise ValueError(
                f"{self.label}: the weights {self.weights!r} cannot be fetched ({error}); name a local folder in "
                f"labels.specialists.{self.label}.weights"
            ) from error

    def _snapshot(self, download: Callable[..., Any], **options: Any) -> Path:
        patterns = list(self.patterns())
        return Path(str(download(self.weights, revision=self.read_revision, allow_patterns=patterns, **options)))

    def patterns(self) -> tuple[str, ...]:
        """Which files of a hub repository are fetched, as patterns of their names."""
        return (*_SAFE_FILES, *(weight_files.PICKLED if self.may_unpickle else ()))

    def file(self, *patterns: str) -> Path:
        """The one file of the weights that matches the first of these patterns which any file matches.

        ValueError if none does, or if it is a pickle and `allow_pickle` is off.
        """
        if self.is_local and Path(self.weights).is_file():
            found = [Path(self.weights)]
        else:
            names = sorted(path for path in self.folder().rglob("*") if path.is_file())
            hits = ([path for path in names if fnmatch.fnmatch(path.name, pattern)] for pattern in patterns)
            found = next((part for part in hits if part), [])
        if len(found) != 1:
            raise ValueError(
                f"{self.label}: {self.weights} has {len(found)} files {' or '.join(patterns)}, expected one; name the "
                f"file itself in labels.specialists.{self.label}.weights"
            )
        if weight_files.is_pickle(found[0].name) and not self.may_unpickle:
            raise ValueError(f"{self.label}: {weight_files.refused(str(found[0]), self.label)}")
        return found[0]

    def state_dict(self, *patterns: str) -> dict[str, Any]:
        """Tensors by name of the one weight file (see `file`), on the CPU. Pickles are read with `weights_only`."""
        path = self.file(*(patterns or ("*.safetensors", *weight_files.PICKLED)))
        if path.suffix == ".safetensors":
            return shapes.stored(path)
        import torch

        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state)

    def dtype(self, device: str) -> torch.dtype:
        """Of weights and activations on a device."""
        import torch

        name = self.precision
        if name == "auto":
            name = self.gpu_precision if shapes.as_on_gpu(device) else "fp32"
        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]

    def load(self, auto: str, device: str, **settings: Any) -> Any:
        """The model by one of transformers' classes, in evaluation mode on the device; shared in this process.

        Args:
            auto: name of the class, for example "AutoModelForDepthEstimation".
            settings: what `from_pretrained` takes besides; the same for all who load these weights by this class.

        Raises:
            ValueError: the folder is of another task, lacks weights, or has only pickled ones.
        """
        folder, dtype = self._whole_folder(), self.dtype(device)

        def load() -> Any:
            if shapes.are_without_data():
                return shapes.of_configuration(auto, self.config(), dtype, settings)
            model = self._load(auto, folder, device, dtype, settings)
            if self.in_tf32(device):
                from ...tokenize.networks.products import in_tf32

                model.forward = in_tf32(model.forward, device)
            return model

        return loaded((auto, str(folder), device, dtype, self.in_tf32(device)), load)

    def in_tf32(self, device: str) -> bool:
        """Whether products of float32 are in TF32: on a GPU, where the recipe does not say fp32 itself."""
        import torch

        return self.precision == "auto" and device.startswith("cuda") and self.dtype(device) == torch.float32

    def _load(self, auto: str, folder: Path, device: str, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
        import transformers
        from safetensors import SafetensorError

        self._verify(folder)
        options = settings if self.may_unpickle else {**settings, "use_safetensors": True}
        try:
            with quiet():
                model, report = getattr(transformers, auto).from_pretrained(
                    folder, local_files_only=True, dtype=dtype, output_loading_info=True, **options
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"{self.label}: {self.weights} is no model for {self.task} that transformers' {auto} can open: {error}"
            ) from error
        # transformers fills missing tensors with random numbers and only warns: labels would be noise.
        missing = sorted(
            name for name in report["missing_keys"] if not any(re.search(pattern, name) for pattern in self.unneeded)
        )
        if missing:
            raise ValueError(
                f"{self.label}: the weights of {self.weights} lack {len(missing)} tensors of its {self.task} model, "
                f"{missing[0]!r} first; it was made for something else"
            )
        return model.to(device).eval()

    def _verify(self, path: Path) -> None:
        """ValueError for the first thing that is wrong with the files of the weights."""
        for problem in weight_files.problems(path, self.label, self.may_unpickle):
            raise ValueError(f"{self.label}: {problem}")
        files = weight_files.listed(path)
        if self.sha256 is not None and len(files) != 1:
            raise ValueError(f"{self.label}: sha256 is of one file, and {path} has {len(files)} of weights; name it")
        for file in files:
            # Safetensors hold no code and say where they are cut; pickles are what was meant, or they are not read.
            name = str(file.relative_to(path)) if path.is_dir() else file.name
            wanted = self.sha256 or (self._sums.get(name) if weight_files.is_pickle(name) else None)
            if wanted and (found := weight_files.file_digest(file)) != wanted:
                raise ValueError(f"{self.label}: the SHA-256 of {file} is {found}, expected {wanted}; fetch it again")

    def _whole_folder(self) -> Path:
        """The folder, whose configurations count as much as its weights. ValueError if a file in it was named."""
        if Path(self.weights).is_file():
            raise ValueError(
                f"{self.label}: {self.weights} is a file of a model's folder, whose configuration is needed too; "
                f"name the folder in labels.specialists.{self.label}.weights"
            )
        return self.folder()

    def config(self) -> Any:
        """The folder's configuration (transformers), which tells its architecture. ValueError if it has none."""
        import transformers

        try:
            return transformers.AutoConfig.from_pretrained(self._whole_folder(), local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.label}: {self.weights} is no model for {self.task} that transformers can open: {error}"
            ) from error

    def processor(self, auto: str = "AutoImageProcessor", **options: Any) -> Any:
        """The folder's own preprocessing (transformers). ValueError if it has none.

        Args:
            auto: name of the class; "AutoTokenizer" for text.
            options: settings that overrule the folder's.
        """
        import transformers

        try:
            return getattr(transformers, auto).from_pretrained(self._whole_folder(), local_files_only=True, **options)
        except ImportError as error:  # a package that this processor alone needs
            raise ValueError(f"{self.label}: the {auto} of {self.weights}: {str(error).strip()}") from error
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{self.label}: {self.weights} has no {auto} of its own: {error}") from error

    @property
    def has_default_weights(self) -> bool:
        return bool(self.weights == type(self).model_fields["weights"].default)

    def weights_licence(self) -> str:
        """Of the default weights; of others the user must know."""
        return self.licence if self.has_default_weights else "see its source"

    def resident_gb(self) -> float:
        """The size of the weights on disk, and a little. Of hub ids that are not fetched yet what the class says of
        its default ones, and at most 2 for others, of which nothing is known."""
        path = Path(self.weights) if self.is_local else self.fetched()
        if path is None:
            return self.memory_gb if self.has_default_weights else min(self.memory_gb, 2.0)
        # What is in memory beside the weights (buffers, the processor) is some 0.1 GiB.
        return sum(file.stat().st_size for file in weight_files.listed(path)) / _GIB + 0.1

    def fetched(self) -> Path | None:
        """The folder of a hub repository that is on this machine already."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return self._snapshot(snapshot_download, local_files_only=True)
        except LocalEntryNotFoundError:
            return None

    def made_with(self, device: str) -> dict[str, Any]:
        """The weights: a hub id with the commit that was read, or the digest of local ones; and the precision."""
        if self.is_local:
            weights = {"sha256": weight_files.digest(Path(self.weights))}
        else:  # the cache names a snapshot by its commit
            fetched = self.fetched()
            weights = {"weights": self.weights, "revision": fetched.name if fetched else str(self.revision)}
        precision = "tf32" if self.in_tf32(device) else str(self.dtype(device)).removeprefix("torch.")
        return weights | {"precision": precision}

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        options = dict(identity["options"])
        if self.is_local:
            options["weights"] = {"sha256": weight_files.digest(Path(self.weights))}
            options.pop("revision")
        # Which files may be read is about trust, not about the result.
        options.pop("allow_pickle")
        options.pop("sha256")
        return {**identity, "options": options}

    def fingerprint_parts(self) -> dict[str, Any]:
        """As of all specialists; default weights that have moved keep their first name."""
        parts = super().fingerprint_parts()
        if self.first_weights and self.has_default_weights:
            parts["options"] = parts["options"] | {"weights": self.first_weights}
        return parts

    def part(self) -> Part:
        """What a record says of its version; moved default weights make no version of other ones."""
        part = super().part()
        moved = self.first_weights and not self.has_default_weights
        return Part(part.name, part.first, part.first) if moved else part


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no report of tensors that nothing asked for: what is missing we say ourselves."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
