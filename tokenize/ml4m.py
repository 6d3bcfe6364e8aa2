"""Published tokenizers of 4M, from a folder or the Hugging Face hub.

    tokenizer = load("EPFL-VILAB/4M_tokenizers_rgb_16k_224-448")
    ids = tokenizer.encode(images)              # (B, 3, H, W) in [-1, 1] -> (B, H / 16, W / 16)
    images = tokenizer.decode(ids)

The weights have a licence of their own. Only safetensors and JSON are fetched and read, never a pickle.
"""

from __future__ import annotations

from pathlib import Path

from . import tokenizer
from .tokenizer import ARCH, CONFIG, WEIGHTS, Tokenizer


def load(folder_or_hub_id: str | Path, revision: str | None = None) -> Tokenizer:
    """A tokenizer in evaluation mode: `encode(x) -> ids`, `decode(ids) -> x`, see `VQ.encode` for shapes.

    Args:
        folder_or_hub_id: a folder with `model.safetensors` and, unless the weights' header holds it, `config.json`; or
            "org/name" on the hub.
        revision: branch, tag or commit on the hub; None is its main branch.

    Raises:
        ValueError: there is no such folder or hub id, or it holds no tokenizer.
    """
    folder = Path(folder_or_hub_id).expanduser()
    if folder.is_dir():
        return tokenizer.load(folder)
    name = str(folder_or_hub_id)
    if name.count("/") != 1 or folder.is_absolute() or name.startswith("."):
        raise ValueError(f"tokenizer: got {name!r}; expected a folder that exists, or a hub id of the form org/name")
    return tokenizer.load(_fetch(name, revision))


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS, CONFIG, ARCH]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"tokenizer: could not fetch {name!r} (revision {revision or 'main'}) from the Hugging Face hub: {error}; "
            "check the name and the connection, or download it and give its folder"
        ) from error
