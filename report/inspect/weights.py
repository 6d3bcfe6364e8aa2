"""Tokenizers and 4M checkpoints for `fourmill inspect`: from config.json and the headers of safetensors files.

No tensor is read and no model is built, so that a 12 GB checkpoint in a bucket costs two range reads.
"""

from __future__ import annotations

import json
import math
import posixpath
from collections import Counter
from typing import Any

from ...infra import configuration, ledger, storage
from ...infra.formats import header as headers
from ...modalities import MODALITIES
from ...model.published.names import local_name
from ...tokenize.codecs import WORDPIECE_FILES
from ...tokenize.text.wordpiece import WordPiece
from .. import bands
from .view import Inspection

WEIGHTS, CONFIG, VOCABULARY = "model.safetensors", "config.json", "tokenizer.json"
_VQ_SETTINGS = (
    "codebook_size", "levels", "num_codebooks", "latent_dim", "quant_type", "image_size", "patch_size", "n_channels",
    "n_labels", "enc_type", "dec_type", "classes",
)  # fmt: skip
_MODEL_SIZES = (
    "dim", "encoder_depth", "decoder_depth", "num_heads", "mlp_ratio", "gated_mlp", "qk_norm", "num_register_tokens",
)  # fmt: skip


def read_json(url: str) -> dict[str, Any]:
    """The object in a JSON file. ValueError naming the file if there is none."""
    try:
        value = json.loads(storage.read_bytes(url))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{url}: this is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{url}: got JSON {type(value).__name__}, expected an object")
    return value


def _weights(url: str) -> tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, Any]]:
    """(tensors, metadata, facts) of a weights file."""
    found = headers.of_url(url)
    tensors, metadata = found.tensors, found.metadata
    elements = {name: math.prod(one["shape"]) for name, one in tensors.items()}
    parts: Counter[str] = Counter()
    for name, count in elements.items():
        parts[name.split(".")[0]] += count
    facts = {
        "bytes": found.end,
        "tensors": len(tensors),
        "elements": sum(elements.values()),  # weights and buffers; tied tables count as often as they are stored
        "dtypes": dict(Counter(one["dtype"] for one in tensors.values())),
        "parts": [{"part": name, "elements": count} for name, count in parts.most_common()],
    }
    return tensors, metadata, facts


def model_config(folder: str) -> dict[str, Any] | None:
    """config.json of a folder with weights, or the configuration in the weights' header (apple/ml-4m); None without."""
    if storage.exists(storage.join(folder, CONFIG)):
        return read_json(storage.join(folder, CONFIG))
    config = configuration.of_texts(headers.of_url(storage.join(folder, WEIGHTS)).metadata)
    return config if "domains_in" in config else None


def inspect_checkpoint(path: str, folder: str, config: dict[str, Any]) -> Inspection:
    """Facts of a 4M checkpoint, fourmill's own or apple/ml-4m's."""
    tensors, _, weights = _weights(storage.join(folder, WEIGHTS))
    own = "modalities" in config
    marker = storage.join(folder, "complete.json")
    step = read_json(marker).get("step") if storage.exists(marker) else None
    facts = {
        "path": path,
        "kind": "checkpoint",
        "format": "fourmill" if own else "apple/ml-4m",
        "step": step,
        **weights,
        "sizes_of_model": {name: config.get(name) for name in _MODEL_SIZES},
        "modalities": _own_modalities(config) if own else _published_modalities(config, tensors),
        "sample": None,
    }
    return Inspection(facts)


def _own_modalities(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The table of modalities of config.json; ValueError if it is another one's."""
    try:
        names = [spec["name"] for spec in config["modalities"]]
        inputs, outputs = config.get("inputs") or names, config.get("outputs") or []
        return [
            {
                "modality": spec["name"],
                "kind": spec["kind"],
                "vocab_size": spec["vocab_size"],
                "max_tokens": spec["max_tokens"],
                "input": spec["name"] in inputs,
                "output": spec["name"] in outputs,
            }
            for spec in config["modalities"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{CONFIG}: this is no configuration of a fourmill model ({error})") from None


def _published_modalities(config: dict[str, Any], tensors: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    inputs, outputs = config.get("domains_in") or [], config.get("domains_out") or []

    def size(side: str, name: str, tensor: str, axis: int) -> int | None:
        shape = tensors.get(f"{side}_embeddings.{name}.{tensor}", {}).get("shape", [])
        return shape[axis] if len(shape) > axis else None

    rows = []
    for name in dict.fromkeys([*inputs, *outputs]):
        side = "encoder" if name in inputs else "decoder"
        modality = MODALITIES.get(local_name(name).split("@")[0])
        row = {
            "modality": name,
            "kind": modality.kind.value if modality else None,
            "vocab_size": size(side, name, "token_emb.weight", 0) or 0,
            "max_tokens": size(side, name, "pos_emb", 1),
        }
        rows.append(row | {"input": name in inputs, "output": name in outputs})
    return rows


def inspect_tokenizer(path: str, folder: str, config: dict[str, Any]) -> Inspection:
    """Facts of a fitted or published VQ tokenizer."""
    _, _, weights = _weights(storage.join(folder, WEIGHTS))
    form = "vq-vae"
    if config.get("quant_type") == "memcodes":
        form = "mlp with memory codes"
    elif "num_train_timesteps" in config:
        form = "vq-vae with a diffusion decoder"
    size, patch = config.get("image_size"), config.get("patch_size")
    sides = [size] * 2 if isinstance(size, int) else size
    grid = [side // patch for side in sides] if sides and isinstance(patch, int) and patch else None
    facts = {
        "path": path,
        "kind": "tokenizer",
        "type": form,
        "name": posixpath.basename(folder),
        "grid": grid,
        **{name: config.get(name) for name in _VQ_SETTINGS},
        "ledger": _record(folder),
        **weights,
        "quality": config.get("quality") or {},
        "statistics": bands.rows(config),
        "sample": None,
    }
    return Inspection(facts)


def inspect_text(path: str, folder: str, row: int) -> Inspection:
    """Facts of a WordPiece vocabulary; `row` is the first of the words that are shown."""
    names = [name for name in WORDPIECE_FILES if name != CONFIG]
    with storage.local_folder(folder, names) as local:
        piece = WordPiece.load(local)
    sentinels = piece.sentinel_ids
    if not 0 <= row < piece.vocab_size:
        raise ValueError(f"--row: got {row}, expected an id, 0 to {piece.vocab_size - 1}")
    tokens = json.loads(storage.read_bytes(storage.join(folder, VOCABULARY)))
    by_id = {token_id: word for word, token_id in tokens["model"]["vocab"].items()}
    by_id |= {one["id"]: one["content"] for one in tokens.get("added_tokens", [])}
    special = {one["id"] for one in tokens.get("added_tokens", [])}
    learned = [i for i in sorted(by_id) if i not in special]
    shown = [by_id.get(i) for i in range(row, min(row + 12, piece.vocab_size))]
    facts = {
        "path": path,
        "kind": "tokenizer",
        "type": "wordpiece",
        "name": posixpath.basename(folder),
        "vocab_size": piece.vocab_size,
        "special_words": len(by_id) - len(learned),
        "learned_pieces": len(learned),
        "continuations": sum(by_id[i].startswith("##") for i in learned),
        "special_ids": {"PAD": piece.pad_id, "UNK": piece.unk_id, "SOS": piece.sos_id, "EOS": piece.eos_id},
        "sentinels": {"count": len(sentinels), "first": int(sentinels[0]), "last": int(sentinels[-1])},
        "fingerprint": piece.fingerprint(),
        "ledger": _record(folder),
        "last_learned": [by_id[i] for i in learned[-20:]],
        "sample": {"row": row, "key": by_id.get(row), "words": shown},
    }
    return Inspection(facts)


def _record(folder: str) -> dict[str, Any] | None:
    """What the ledger of the root around a tokenizer says of it: fingerprints and how it was fitted."""
    head, name = posixpath.split(folder)
    root, family = posixpath.split(head)
    record = ledger.read(root, family, name) if family == "tokenizers" else None
    if record is None:
        return None
    return {
        "fingerprint": record.sha256,
        "settings_fingerprint": record.fingerprint,
        "samples": record.rows,
        "seconds": record.seconds,
        "code": record.code,
    }
