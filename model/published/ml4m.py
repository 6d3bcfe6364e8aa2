"""Checkpoints and inputs of apple/ml-4m: read what is published, write what it reads.

A published model is `model.safetensors` and `config.json`; the configuration may also sit in the safetensors header,
as strings. Vocabularies, patch sizes and embedding widths are taken from the tensors.

`pack` turns masked inputs of apple/ml-4m into packed batches (see inputs.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...modalities import MODALITIES, Kind, ModalitySpec
from ..checkpoint import read_tokenizers, write, write_tokenizers
from ..config import FourMConfig
from ..embeddings import Embeddings
from ..fourm import FourM
from . import files
from .inputs import pack
from .names import image_size, local_name, patch_size, published_name, published_names

__all__ = ["load", "local_name", "pack", "published_name", "save", "state_dict"]

_NORM_BIAS = re.compile(r"(^|[._])norm\d?\.bias$")
_ACTIVATIONS = {"SiLU": "silu", "GELU": "gelu"}
# Fields of the same name and meaning, with the default of apple/ml-4m's constructor.
_SAME: dict[str, Any] = {
    "dim": 768,
    "encoder_depth": 12,
    "decoder_depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "norm_bias": True,
    "gated_mlp": False,
    "qk_norm": False,
    "share_modality_embeddings": True,
    "num_register_tokens": 0,
}


def load(source: str | Path, revision: str | None = None) -> FourM:
    """Read a model in the format of apple/ml-4m.

    Args:
        source: a folder with model.safetensors (and config.json, if not in its header), a .pt as of TerraMind, or a
            Hugging Face Hub id.
        revision: branch, tag or commit on the Hub.

    Returns:
        The model on the CPU, in evaluation mode, float32. Saving it again writes the same tensors, as float32.

    Raises:
        ValueError: no such model, a damaged file, or tensors that do not fit the configuration; says which.
    """
    here = Path(source)
    folder = here if here.is_dir() or files.pickled(here) else files.download(str(source), revision)
    tensors, config = files.read(folder)
    try:
        model = build(tensors, config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    model.tokenizers = read_tokenizers(str(folder)) if folder.is_dir() else {}
    return model


def build(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> FourM:
    """The model of tensors and a configuration by apple/ml-4m's names. ValueError if they do not fit each other.

    Args:
        tensors: float32; it is emptied.
    """
    _untie(tensors)
    model = FourM(_to_config(config, tensors))
    for parameter in model.parameters():  # rows that the checkpoint has no use for are not left to chance
        parameter.data.zero_()
    # What is taken is popped: what is left at the end has no place, which must not go unnoticed.
    for key, target in _names(model).items():
        _take(key, target, tensors)
    _take_positions(model, tensors)
    _take_modality_embeddings(model, tensors)
    # Biases of zeros are buffers of the reference's norms without bias.
    left = [key for key in tensors if not (_NORM_BIAS.search(key) and not tensors[key].any())]
    if left:
        raise ValueError(f"tensors that the configuration has no place for: {sorted(left)[:8]} ({len(left)} in all)")
    return model.eval()


def save(model: FourM, folder: str | Path) -> None:
    """Write a model for apple/ml-4m: model.safetensors (with the configuration in its header) and config.json.

    Names and shapes are those of the published checkpoints; tied tables are written twice, as they are there. What the
    model knows of its tokenizers stands beside, in tokenizers.json, which only fourmill reads. The
    configuration comes last: killed before, the folder holds the model of its weights, old or new, or none.

    Raises:
        ValueError: two modalities of the model would have one name there.
    """
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in state_dict(model).items()}
    write_tokenizers(model, folder)
    write(Path(folder), tensors, configuration(model.config), header=True)


def state_dict(model: FourM) -> dict[str, Tensor]:
    """The model's tensors under the names and shapes of apple/ml-4m; views of the parameters where possible.

    ValueError if two modalities would have one name.
    """
    _check_unique(model.config)
    tensors = dict(_names(model))
    config, published = model.config, published_names(model.config.modalities)
    for i, spec in enumerate(config.modalities):
        name = published[spec.name]
        for side, embeddings in _sides(model, spec.name):
            table = model.modality_table
            if side == "decoder_embeddings" and model.decoder_modality_table is not None:
                table = model.decoder_modality_table
            tensors[f"{side}.{name}.pos_emb"] = _positions(spec, embeddings)[None]
            tensors[f"{side}.{name}.mod_emb"] = table[i][None, None]
    if not config.norm_bias:  # apple/ml-4m keeps buffers of zeros in their place
        biases = {key.removesuffix("weight") + "bias": value for key, value in tensors.items() if value.ndim == 1}
        tensors |= {key: torch.zeros_like(value) for key, value in biases.items() if _NORM_BIAS.search(key)}
    return tensors


def _check_unique(config: FourMConfig) -> None:
    published = published_names(config.modalities)
    owners: dict[str, list[str]] = {}
    for name, other in published.items():
        owners.setdefault(other, []).append(name)
    for other, names in owners.items():
        if len(names) > 1:
            raise ValueError(
                f"{' and '.join(names)} would both be {other} in apple/ml-4m's format; it tells modalities apart by "
                "the pixels that they cover, so save one of them under another name"
            )


def _names(model: FourM) -> dict[str, Tensor]:
    """apple/ml-4m's name and shape of every tensor but positions and modality embeddings; views."""
    tensors: dict[str, Tensor] = {"mask_token": model.mask_token[None]}
    if model.register_tokens is not None:
        tensors["register_tokens"] = model.register_tokens[None]
    own = ("encoder_embeddings.", "decoder_embeddings.", "projections.", "mask_token", "register_tokens", "heads")
    for key, parameter in model.named_parameters():
        if not key.startswith((*own, "modality_table", "decoder_modality_table")):
            tensors[key] = parameter
    published = published_names(model.config.modalities)
    for spec in model.config.modalities:
        name = published[spec.name]
        if spec.name in model.config.inputs:
            if spec.is_target:
                tensors[f"encoder_embeddings.{name}.token_emb.weight"] = model.encoder_embeddings.token_table(spec.name)
            else:
                layer = model.projections.layers[spec.name]
                part = "proj" if spec.kind is Kind.PIXELS else "emb_proj"
                for suffix, parameter in layer.named_parameters():
                    tensors[f"encoder_embeddings.{name}.{part}.{suffix}"] = parameter
        if spec.name in model.config.outputs:
            tensors[f"decoder_embeddings.{name}.token_emb.weight"] = model.decoder_embeddings.token_table(spec.name)
            tensors[f"decoder_embeddings.{name}.to_logits.weight"] = model.head(spec.name)
    return tensors


def _sides(model: FourM, name: str) -> list[tuple[str, Embeddings]]:
    sides = []
    if name in model.config.inputs:
        sides.append(("encoder_embeddings", model.encoder_embeddings))
    if name in model.config.outputs:
        sides.append(("decoder_embeddings", model.decoder_embeddings))
    return sides


def _untie(tensors: dict[str, Tensor]) -> None:
    """Give tied tables that were written once, under either name, both of them."""
    pair = ("token_emb.weight", "to_logits.weight")
    for key in [key for key in tensors if key.startswith("decoder_embeddings.") and key.endswith(pair)]:
        module = key.rsplit(".", 2)[0]
        for part in pair:
            tensors.setdefault(f"{module}.{part}", tensors[key])


def _positions(spec: ModalitySpec, embeddings: Embeddings) -> Tensor:
    """The positions of a modality; of a sequence without the zeros that fill its table up (see `_take_positions`)."""
    table = embeddings.position_rows_of(spec.name)
    if spec.kind in (Kind.GRID, Kind.PIXELS):
        return table
    # Trailing rows of zeros: any(dim=1) read from the end, up to the first row with a value.
    zeros = int(table.any(dim=1).flip(0).byte().argmax())
    return table[: len(table) - zeros]


def _take_positions(model: FourM, tensors: dict[str, Tensor]) -> None:
    """Tables of sequences have at least 512 rows here, as the published ones; shorter ones are filled up with zeros,
    which no row of a table is, so that as many rows are saved again."""
    published = published_names(model.config.modalities)
    for spec in model.config.modalities:
        for side, embeddings in _sides(model, spec.name):
            key = f"{side}.{published[spec.name]}.pos_emb"
            table = embeddings.position_rows_of(spec.name).data
            stored = _need(tensors, key)
            rows, fewest = stored.shape[1], len(table) if spec.kind in (Kind.GRID, Kind.PIXELS) else 1
            if stored.shape != (1, rows, table.shape[1]) or not fewest <= rows <= len(table):
                expected = f"(1, {fewest} to {len(table)}, {table.shape[1]})"
                raise ValueError(f"{key}: got shape {tuple(stored.shape)}, expected {expected}")
            table.zero_()
            table[:rows] = stored[0]


def _take(key: str, target: Tensor, tensors: dict[str, Tensor]) -> None:
    stored = _need(tensors, key)
    if stored.shape != target.shape:
        raise ValueError(f"{key}: got shape {tuple(stored.shape)}, expected {tuple(target.shape)}")
    target.data.copy_(stored)


def _need(tensors: dict[str, Tensor], key: str) -> Tensor:
    if key not in tensors:
        raise ValueError(f"the checkpoint lacks {key}; is its configuration that of another model?")
    return tensors.pop(key)


def _take_modality_embeddings(model: FourM, tensors: dict[str, Tensor]) -> None:
    """One table or two; where two are one, either or both may be stored."""
    published = published_names(model.config.modalities)
    for i, spec in enumerate(model.config.modalities):
        stored = {}
        for side, _ in _sides(model, spec.name):
            key = f"{side}.{published[spec.name]}.mod_emb"
            if key in tensors or model.decoder_modality_table is not None:
                vector = _need(tensors, key)
                if vector.shape != (1, 1, model.config.dim):
                    raise ValueError(f"{key}: got shape {tuple(vector.shape)}, expected {(1, 1, model.config.dim)}")
                stored[side] = vector[0, 0]
        if model.decoder_modality_table is not None:
            for side, vector in stored.items():
                table = model.modality_table if side == "encoder_embeddings" else model.decoder_modality_table
                table.data[i] = vector
            continue
        values = list(stored.values())
        if not values or (len(values) == 2 and not torch.equal(*values)):
            raise ValueError(
                f"modality embedding of {spec.name}: got {'two different ones' if values else 'none'}, expected one "
                "shared by encoder and decoder; set share_modality_embeddings to false in config.json if they differ"
            )
        model.modality_table.data[i] = values[0]


def describe(source: str | Path, revision: str | None = None) -> FourMConfig | None:
    """The configuration of a model in this format, from its configuration and the header of its weights alone; None if
    the hub cannot be asked. Whether its heads are tied is not known, and said to be no.

    ValueError as for `load`.
    """
    shapes, config = files.headers(source, revision)
    if not shapes or not config:
        return None
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    try:
        _untie(tensors)
        return _to_config(config, tensors)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def architecture(source: str | Path, revision: str | None = None) -> dict[str, Any]:
    """The fields of a model's configuration that say how its blocks are made and used, by the names of `FourMConfig`;
    of the hub its config.json alone is fetched. ValueError if there is none, or it says what nobody can build."""
    return _architecture(files.config(source, revision))


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    activation = config.get("act_layer", "GELU")
    if activation not in list(_ACTIVATIONS):
        raise ValueError(f"act_layer: got {activation!r}, expected one of {', '.join(_ACTIVATIONS)}")
    return {
        "activation": _ACTIVATIONS[activation],
        "decoder_causal": config.get("decoder_causal_mask", False),
        "decoder_separate": config.get("decoder_sep_mask", True),
        **{key: config.get(key, default) for key, default in _SAME.items()},
    }


def _to_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FourMConfig:
    for key in ("domains_in", "domains_out"):
        names = config.get(key)
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{key}: got {names!r}, expected the names of modalities, as of an apple/ml-4m model")
    blocks = _architecture(config)
    # As the reference does: raw modalities stand among the inputs, and input-only ones among the outputs.
    inputs = _embedded("encoder_embeddings", config["domains_in"], tensors)
    outputs = _embedded("decoder_embeddings", config["domains_out"], tensors)
    specs = _to_specs(list(dict.fromkeys(inputs + outputs)), tensors)
    tied = all(_is_tied(f"decoder_embeddings.{name}", tensors) for name in outputs)
    return FourMConfig(
        modalities=tuple(specs.values()),
        inputs=tuple(specs[name].name for name in inputs),
        outputs=tuple(specs[name].name for name in outputs),
        tied_heads=tied,
        **blocks,
    )


def _embedded(side: str, names: Sequence[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Those of the published names that have tensors on a side; ValueError if none has."""
    present = {key.split(".", 2)[1] for key in tensors if key.startswith(f"{side}.")}
    if kept := [name for name in names if name in present]:
        return kept
    raise ValueError(f"the checkpoint has no {side} of any of {', '.join(names)}, which its configuration names")


def _is_tied(module: str, tensors: Mapping[str, Tensor]) -> bool:
    read, written = (tensors.get(f"{module}.{part}.weight") for part in ("token_emb", "to_logits"))
    if read is None or written is None or read.device.type == "meta":
        return False
    return torch.equal(read, written)


def configuration(config: FourMConfig) -> dict[str, Any]:
    """The config.json of apple/ml-4m for a model."""
    published = published_names(config.modalities)
    if wide := [spec.name for spec in config.modalities if spec.columns]:
        raise ValueError(f"{', '.join(wide)}: grids of apple/ml-4m are square; the model stays in fourmill's format")
    pixels = [spec for spec in config.modalities if spec.kind is Kind.PIXELS]
    values = {
        "domains_in": [published[name] for name in config.inputs],
        "domains_out": [published[name] for name in config.outputs],
        "image_size": image_size(pixels[0]) if pixels else 224,
        "patch_size": patch_size(pixels[0]) if pixels else 16,
        "act_layer": {own: published for published, own in _ACTIVATIONS.items()}[config.activation],
        **{key: getattr(config, key) for key in _SAME},
    }
    if config.decoder_causal or not config.decoder_separate:
        values |= {"decoder_causal_mask": config.decoder_causal, "decoder_sep_mask": config.decoder_separate}
    return values


def _to_specs(names: Sequence[str], tensors: Mapping[str, Tensor]) -> dict[str, ModalitySpec]:
    """Published name -> the modality at the sizes of its tensors, under the name it has here.

    A grid whose published name does not say its size (other patches than usual, and no pixels to tell) keeps that name.
    """
    specs = {name: _sizes(name, tensors) for name in names}
    pixels = {n: s for n, s in specs.items() if s.kind is Kind.PIXELS and published_name(s) != n}
    specs |= {name: replace(spec, name=name) for name, spec in pixels.items()}
    there = published_names(list(specs.values()))
    return {n: spec if there[spec.name] == n else replace(spec, name=n) for n, spec in specs.items()}


def _sizes(published: str, tensors: Mapping[str, Tensor]) -> ModalitySpec:
    """Sizes of a modality, from its tensors; its kind from the tensors too where the registry does not know it."""

    def find(part: str, ndim: int = 2) -> Tensor | None:
        """The tensor of this part, which has the same number of rows on both sides."""
        keys = (f"{side}.{published}.{part}" for side in ("encoder_embeddings", "decoder_embeddings"))
        parts = {key: tensors[key] for key in keys if key in tensors}
        if any(x.ndim != ndim for x in parts.values()) or len({x.shape[-2] for x in parts.values()}) > 1:
            got = ", ".join(f"{key} {tuple(x.shape)}" for key, x in parts.items())
            raise ValueError(f"got {got}, expected {ndim} axes, and as many rows on both sides")
        return next(iter(parts.values()), None)

    modality = MODALITIES.get(published.split("@")[0])
    positions, table = find("pos_emb", 3), find("token_emb.weight")
    pixels, embedding = find("proj.weight"), find("emb_proj.weight")
    if positions is None or (table is None and pixels is None and embedding is None):
        raise ValueError(f"the checkpoint holds no embedding of {published}, which its configuration names")
    rows = positions.shape[1]
    if pixels is not None:
        return ModalitySpec(local_name(published), Kind.PIXELS, 0, rows, pixels.shape[1])
    length = min(modality.max_tokens, rows) if modality else rows
    if embedding is not None:
        return ModalitySpec(local_name(published), Kind.EMBEDDING, 0, length, embedding.shape[1])
    assert table is not None
    # Of a modality that is not declared, the shape of its positions tells grids from texts.
    square = round(rows**0.5) ** 2 == rows
    kind = modality.kind if modality else Kind.GRID if square else Kind.SEQUENCE
    return ModalitySpec(
        local_name(published),
        kind,
        table.shape[0],
        rows if kind is Kind.GRID else length,
        chunked=modality.chunked if modality else False,
        learned_positions=published.endswith("_global"),
    )
