"""Tokens to what they say, for `fourmill inspect`: by the tokenizers of the root that a column lies in.

They are used only if their fingerprint is the one that the column names: another tokenizer would decode to noise.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

from ...infra import configuration, ledger, storage
from ...modalities import LABELS, MODALITIES, TEXT, Form, Kind, ModalitySpec
from ...sensors import declared
from ...tokenize import codecs
from ...tokenize.store import ColumnSpec

RECIPE = "recipe.yaml"


def decoded(codec: codecs.Codec | None, tokens: np.ndarray) -> Any:
    """The decoded crop, or why it cannot be decoded: a viewer is most needed where data are wrong."""
    if codec is None:
        return None
    import cv2

    try:
        return codec.decode(tokens)
    except (ValueError, KeyError, IndexError, cv2.error) as error:
        return f"cannot be decoded: {str(error).splitlines()[0]}"


def codec_beside(url: str, spec: ColumnSpec) -> tuple[codecs.Codec | None, str]:
    """The codec of a column, with the tokenizer of the root around it; None and why not, if there is none."""
    know_sensors(url, spec.modality)
    if spec.modality not in MODALITIES:
        return None, f"this release has no modality {spec.modality!r}"
    if spec.kind is Kind.EMBEDDING:
        return None, ""
    names = MODALITIES[spec.modality].tokenizers
    root = root_above(url, f"tokenizers/{names[-1]}/config.json") if names else ""
    if root is None:
        return None, f"no tokenizers/{names[-1]} in a folder above: tokens are not decoded"
    try:
        here = "+".join(_fingerprint(root, name) for name in names)
        if spec.tokenizer and here != spec.tokenizer:
            folders = ", ".join(f"tokenizers/{name}" for name in names)
            return None, f"{folders} is another one now ({here}): tokens are not decoded"
        no_place = LABELS[MODALITIES[spec.modality].label].form in (Form.VECTOR, Form.NUMBERS, Form.SERIES)
        sizes = ModalitySpec(
            spec.modality, spec.kind, spec.vocab_size, spec.length, learned_positions=no_place, columns=spec.width
        )
        return codecs.load(sizes, codecs.Options(seed=0, image_size=spec.length, crops=spec.crops), root), ""
    except (ValueError, OSError) as error:
        return None, f"tokens are not decoded: {error}"


def know_sensors(url: str, name: str) -> None:
    """Declare the sensors of the recipe in a folder above, if it may say what a label or modality is: plain settings,
    none of whose code is run."""
    if name in MODALITIES or name in LABELS or (root := root_above(url, RECIPE)) is None:
        return
    try:
        data = configuration.parse_yaml(storage.read_bytes(storage.join(root, RECIPE)))
        declared.declare_from(data.get("sensors") if isinstance(data, dict) else None)
    except (OSError, ValueError, yaml.YAMLError):  # what is wrong with it, others say
        return


def _fingerprint(root: str, name: str) -> str:
    record = ledger.read(root, "tokenizers", name)
    if record is not None:
        return record.sha256
    if name == TEXT:
        return codecs.load_text(root).fingerprint()
    from ...tokenize import tokenizer

    with storage.local_folder(storage.join(root, "tokenizers", name), codecs.CODEBOOK_FILES) as folder:
        return tokenizer.fingerprint(folder)


def root_above(url: str, name: str, levels: int = 8) -> str | None:
    """The nearest folder above `url` in which there is `name`."""
    folder = url
    for _ in range(levels):
        parent = posixpath.dirname(folder.rstrip("/"))
        if parent in ("", folder) or parent.endswith(":/"):
            return None
        folder = parent
        if storage.exists(storage.join(folder, name)):
            return folder
    return None


def words(codec: codecs.Codec | None) -> Callable[[int], str | None]:
    """What a token id is called; ids of a codebook have no names."""
    if not isinstance(codec, codecs.Text):
        return lambda token: None
    piece = codec.wordpiece
    special = {piece.pad_id: "[PAD]", piece.unk_id: "[UNK]", piece.sos_id: "[SOS]", piece.eos_id: "[EOS]"}
    return lambda token: special.get(token) or (piece.decode([token]) if token < piece.vocab_size else None)
