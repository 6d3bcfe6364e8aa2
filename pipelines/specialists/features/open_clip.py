"""CLIP in OpenCLIP's layout, opened as transformers' image tower: `open_clip_config.json` and safetensors beside it.

The layout is that of mlfoundations/open_clip (89fb801, `src/open_clip/model.py` and `transformer.py`), in which LAION
and timm publish CLIP; OpenAI's own weights are there as safetensors (`src/open_clip/pretrained.py` names
timm/vit_base_patch16_clip_224.openai for ViT-B-16 `openai`). Of the file only the image tower is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import shapes

if TYPE_CHECKING:
    import torch

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_PREFIX = "visual."
# Settings of an image tower that transformers' CLIP has as well, and those that change nothing of what is computed.
_KNOWN = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout", "output_tokens"}
_TOKEN = ("pool_type", "tok")  # the class token, as CLIP has it
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's, the default
_NAMES = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
}
_LAYERS = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
_NORMS = {"ln_pre": "vision_model.pre_layrnorm", "ln_post": "vision_model.post_layernorm"}


def is_layout(folder: Path) -> bool:
    """Whether a folder is OpenCLIP's, and not one of transformers that has OpenCLIP's files as well."""
    if not (folder / CONFIG).is_file():
        return False
    config = folder / "config.json"  # timm's, of its own layout, in timm's repositories
    return not config.is_file() or "model_type" not in _read(config)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def vision_config(folder: Path) -> Any:
    """The image tower's configuration (transformers). ValueError if it is of another architecture than CLIP's ViT."""
    import transformers

    model = _read(folder / CONFIG).get("model_cfg", {})
    vision = model.get("vision_cfg", {})
    other = [name for name, value in vision.items() if name not in _KNOWN and value and (name, value) != _TOKEN]
    if other or not all(isinstance(vision.get(name), int) for name in ("layers", "width", "patch_size")):
        named = ", ".join(other) or "layers, width or patch_size that are no numbers"
        raise ValueError(f"{folder / CONFIG}: its image tower is no plain vision transformer of CLIP: {named}")
    width = int(vision["width"])
    return transformers.CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=int(width * vision.get("mlp_ratio", 4.0)),
        num_hidden_layers=int(vision["layers"]),
        num_attention_heads=width // int(vision.get("head_width", 64)),
        image_size=int(vision.get("image_size", 224)),
        patch_size=int(vision["patch_size"]),
        hidden_act="quick_gelu" if model.get("quick_gelu") else "gelu",
        projection_dim=int(model["embed_dim"]),
        layer_norm_eps=1e-5,
    )


def processor(folder: Path) -> Any:
    """The preprocessing that the folder states (transformers)."""
    import transformers

    said = _read(folder / CONFIG)
    side = int(said.get("model_cfg", {}).get("vision_cfg", {}).get("image_size", 224))
    stated = said.get("preprocess_cfg", {})
    resample = {"bicubic": 3, "bilinear": 2}.get(stated.get("interpolation", "bicubic"), 3)
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        resample=resample,
        image_mean=list(stated.get("mean", _MEAN)),
        image_std=list(stated.get("std", _STD)),
    )


def tower(folder: Path) -> Any:
    """The image tower with its projection (transformers), on the CPU in the file's precision.

    ValueError if there is no such file, or tensors lack or have other sizes.
    """
    import torch
    import transformers

    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise ValueError(f"{folder} has OpenCLIP's configuration and none of {' or '.join(WEIGHTS)}")
    tensors = shapes.stored(file, lambda name: name.startswith(_PREFIX))
    stored = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    config = vision_config(folder)
    with torch.device("meta"):
        model = transformers.CLIPVisionModelWithProjection(config)
    try:
        wanted = renamed(stored)
    except KeyError as error:
        raise ValueError(f"{file}: CLIP's image tower has no tensor {_PREFIX}{error.args[0]}") from None
    lacking = {name: tensor for name, tensor in model.state_dict().items() if name not in wanted}
    wanted |= {name: _positions(config) for name in lacking if name.endswith("position_ids")}
    try:
        model.load_state_dict(wanted, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from error
    if hasattr(model.vision_model.embeddings, "position_ids"):  # a buffer that no file holds
        model.vision_model.embeddings.position_ids = _positions(config)
    return model


def _positions(config: Any) -> torch.Tensor:
    import torch

    return torch.arange((config.image_size // config.patch_size) ** 2 + 1)[None]


def renamed(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an OpenCLIP image tower by transformers' names. KeyError for one that it does not know."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        module, _, kind = name.rpartition(".")
        if name == "proj":
            found["visual_projection.weight"] = tensor.T.contiguous()
        elif name in _NAMES:
            found[_NAMES[name]] = tensor
        elif module in _NORMS:
            found[f"{_NORMS[module]}.{kind}"] = tensor
        elif layer := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name):
            found |= _of_layer(f"vision_model.encoder.layers.{layer[1]}", layer[2], name, tensor)
        else:
            raise KeyError(name)
    return found


def _of_layer(place: str, inner: str, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if inner.startswith("attn.in_proj_"):  # queries, keys and values in one
        kind = inner.removeprefix("attn.in_proj_")
        parts = tensor.chunk(3)
        return {f"{place}.self_attn.{one}_proj.{kind}": part for one, part in zip("qkv", parts, strict=True)}
    module, _, kind = inner.rpartition(".")
    if module not in _LAYERS:
        raise KeyError(name)
    return {f"{place}.{_LAYERS[module]}.{kind}": tensor}
