"""Published tokenizers of 4M and TerraMind, from a folder, a file or the Hugging Face hub.

    tokenizer = load("EPFL-VILAB/4M_tokenizers_rgb_16k_224-448")
    ids = tokenizer.encode(images)              # (B, 3, H, W) in [-1, 1] -> (B, H / 16, W / 16)
    images = tokenizer.decode(ids)

The weights have a licence of their own: those of 4M are Sample Code Licence, TerraMind's Apache-2.0. Nothing that is
fetched can run code: safetensors and JSON are read, and of a .pt tensors alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..infra.formats import pth
from . import tokenizer
from .published import terramind
from .tokenizer import ARCH, CONFIG, WEIGHTS, Tokenizer


def load(folder_or_hub_id: str | Path, revision: str | None = None) -> Tokenizer:
    """A tokenizer in evaluation mode: `encode(x) -> ids`, `decode(ids) -> x`, see `VQ.encode` for shapes. AION-1's
    codec of spectra is a `Spectra`, whose `encode` takes wavelengths as well.

    Args:
        folder_or_hub_id: a folder with `model.safetensors` and, unless the weights' header holds it, `config.json`; a
            .pt of TerraMind's, or a folder that holds one; or "org/name" on the hub.
        revision: branch, tag or commit on the hub; None is its main branch.

    Raises:
        ValueError: there is no such folder or hub id, or it holds no tokenizer.

    Examples:
        >>> tokenizer = fourmill.load_tokenizer("out/tokenizers/tok_dinov2_global")
        >>> ids = tokenizer.encode(torch.randn(2, 12))
        >>> ids.shape, ids.dtype, tokenizer.decode(ids).shape
        (torch.Size([2, 4]), torch.int64, torch.Size([2, 12]))
    """
    place = located(folder_or_hub_id, revision)
    # The declared type is frozen, and is that of all that a recipe can take.
    return cast(Tokenizer, tokenizer.load_spectra(place)) or tokenizer.load(place)


def located(folder_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The folder or file of a tokenizer, fetched if it is on the hub. Arguments and errors as in `load`."""
    # A folder wins over a hub id of the same spelling: nothing is fetched that is there already.
    place = Path(folder_or_hub_id).expanduser()
    if place.is_dir() or pth.alone(place, WEIGHTS):
        return place
    name = str(folder_or_hub_id)
    if not is_hub_id(name):
        raise ValueError(f"tokenizer: got {name!r}; expected a folder that exists, or a hub id of the form org/name")
    return fetch(name, revision, [WEIGHTS, CONFIG, ARCH, terramind.HUB_PATTERN])


def is_hub_id(name: str) -> bool:
    """Whether a name has the form org/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) is not None


def hub_settings(name: str, revision: str | None = None, said: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a tokenizer on the hub; its weights are fetched only if it has no config.json, for their header.

    Args:
        said: see `tokenizer.load`.

    ValueError as for `load`.
    """
    # A few kB instead of all weights: sizes are needed when a recipe is resolved, long before a fit.
    config = fetch(name, revision, [CONFIG]) / CONFIG
    if config.is_file() and "enc_type" in (found := tokenizer.read_json(config)):
        return found
    return tokenizer.read_settings(located(name, revision), said)


def fetch(name: str, revision: str | None, files: list[str]) -> Path:
    """A folder with those of the files that a hub id has, fetched if they are not here; "spaces/org/name" is a space.

    ValueError if the hub cannot be asked, or knows no such id.
    """
    # Imported here: it takes a while, and most runs fit their own tokenizers.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    kind, repository = ("space", name.removeprefix("spaces/")) if name.startswith("spaces/") else ("model", name)
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=files))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"tokenizer: could not fetch {name!r} (revision {revision or 'main'}) from the Hugging Face hub: {error}; "
            "check the name and the connection, or download it and give its folder"
        ) from error
