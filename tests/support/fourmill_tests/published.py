"""Random checkpoints in the published format of 4M, and random masked inputs for them, from its table of names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fourmill_tests.eager import EagerFourM
from torch import Tensor

# Published name -> kind and tokens; of sequences the rows that a target's positions may use.
GRIDS = {f"tok_{m}@224": 196 for m in ("rgb", "depth", "normal", "semseg", "clip", "canny_edge", "sam_edge")}
GRIDS |= {f"tok_{m}@224": 256 for m in ("dinov2", "imagebind")}
GRIDS |= {f"tok_{m}_global": 16 for m in ("dinov2", "imagebind")}
GRIDS |= {f"tok_{m}@448": 784 for m in ("rgb", "depth", "normal", "semseg", "clip")}
SEQUENCES = {"caption": 256, "det": 256, "metadata": 40, "color_palette": 23, "human_poses": 263, "sam_instance": 290}
TABLE: dict[str, tuple[str, int]] = {
    "rgb@224": ("pixels", 196),
    "rgb@448": ("pixels", 784),
    "t5_caption": ("embedding", 77),
    **{name: ("tokens", n) for name, n in GRIDS.items()},
    **{name: ("sequence", n) for name, n in SEQUENCES.items()},
}
SEQUENCE_ROWS = 512


@dataclass(frozen=True)
class Published:
    """A checkpoint as someone else would have written it: tensors, config.json, and what its names stand for."""

    tensors: dict[str, Tensor] = field(repr=False)
    config: dict[str, Any]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.config["domains_in"], *self.config["domains_out"]]))

    def eager(self) -> EagerFourM:
        kinds = {name: TABLE[name][0] for name in self.names}
        return EagerFourM(self.tensors, self.config, kinds, {name: TABLE[name][1] for name in self.names})


def checkpoint(seed: int, inputs: list[str], outputs: list[str], **options: Any) -> Published:
    """A random checkpoint; `options` are keys of config.json."""
    config = {
        "domains_in": inputs, "domains_out": outputs, "image_size": 224, "patch_size": 16, "dim": 16,
        "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "mlp_ratio": 4.0, "qkv_bias": True, "proj_bias": True,
        "mlp_bias": True, "norm_bias": True, "act_layer": "GELU", "gated_mlp": False, "qk_norm": False,
        "share_modality_embeddings": True, "num_register_tokens": 0, "decoder_causal_mask": False,
        "decoder_sep_mask": True,
    } | options  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    tensors = _trunk(config, random)
    for side, names in (("encoder_embeddings", inputs), ("decoder_embeddings", outputs)):
        for name in names:
            tensors |= _embedding(config, f"{side}.{name}", name, random)
    if config["share_modality_embeddings"]:
        for name in set(inputs) & set(outputs):
            tensors[f"decoder_embeddings.{name}.mod_emb"] = tensors[f"encoder_embeddings.{name}.mod_emb"].clone()
    return Published(tensors, config)


def _embedding(config: dict[str, Any], key: str, name: str, random: Any) -> dict[str, Tensor]:
    dim, (kind, tokens) = config["dim"], TABLE[name]
    rows = tokens if kind in ("tokens", "pixels") else SEQUENCE_ROWS
    tensors = {f"{key}.pos_emb": random(1, rows, dim), f"{key}.mod_emb": random(1, 1, dim)}
    if kind == "pixels":
        tensors[f"{key}.proj.weight"] = random(dim, 3 * config["patch_size"] ** 2)
    elif kind == "embedding":
        tensors |= {f"{key}.emb_proj.weight": random(dim, 10), f"{key}.emb_proj.bias": random(dim)}
    else:
        size = 11 + sum(map(ord, name)) % 17  # the same on both sides, another for each modality
        tensors[f"{key}.token_emb.weight"] = random(size, dim)
        if key.startswith("decoder"):
            tensors[f"{key}.to_logits.weight"] = random(size, dim)
    return tensors


def _trunk(config: dict[str, Any], random: Any) -> dict[str, Tensor]:
    dim = config["dim"]
    hidden = int(dim * config["mlp_ratio"] * 2 / 3) if config["gated_mlp"] else int(dim * config["mlp_ratio"])
    tensors = {"mask_token": random(1, 1, dim)}

    def linear(key: str, out: int, into: int, bias: bool) -> None:
        tensors[f"{key}.weight"] = random(out, into)
        if bias:
            tensors[f"{key}.bias"] = random(out)

    def norm(key: str, size: int = dim) -> None:
        tensors[f"{key}.weight"] = 1 + random(size)
        tensors[f"{key}.bias"] = random(size) if config["norm_bias"] else torch.zeros(size)

    def attention(key: str, parts: dict[str, int]) -> None:
        for part, count in parts.items():
            linear(f"{key}.{part}", count * dim, dim, config["qkv_bias"])
        linear(f"{key}.proj", dim, dim, config["proj_bias"])
        if config["qk_norm"]:
            norm(f"{key}.q_norm", dim // config["num_heads"])
            norm(f"{key}.k_norm", dim // config["num_heads"])

    def mlp(key: str) -> None:
        linear(f"{key}.fc1", hidden, dim, config["mlp_bias"])
        linear(f"{key}.fc2", dim, hidden, config["mlp_bias"])
        if config["gated_mlp"]:
            linear(f"{key}.fc3", hidden, dim, config["mlp_bias"])

    for i in range(config["encoder_depth"]):
        attention(f"encoder.{i}.attn", {"qkv": 3})
        mlp(f"encoder.{i}.mlp")
        norm(f"encoder.{i}.norm1")
        norm(f"encoder.{i}.norm2")
    for i in range(config["decoder_depth"]):
        attention(f"decoder.{i}.self_attn", {"qkv": 3})
        attention(f"decoder.{i}.cross_attn", {"q": 1, "kv": 2})
        mlp(f"decoder.{i}.mlp")
        for part in ("norm1", "query_norm", "context_norm", "norm2"):
            norm(f"decoder.{i}.{part}")
    norm("encoder_norm")
    norm("decoder_norm")
    linear("decoder_proj_context", dim, dim, True)
    if config["num_register_tokens"]:
        tensors["register_tokens"] = random(1, config["num_register_tokens"], dim)
    return tensors


def masked_inputs(published: Published, seed: int, samples: int = 2, tokens: int = 12) -> dict[str, dict[str, Tensor]]:
    """Random mod_dict: a few inputs and targets of each modality, disjoint; texts as one span each.

    No sample is without inputs: the reference lets its targets attend to padding.
    """
    rng = np.random.default_rng(seed)
    result = {}
    for name in published.names:
        kind, length = TABLE[name]
        length = length if kind in ("tokens", "pixels") else min(length, 2 * tokens)
        shown, masked = (np.ones((samples, length), bool) for _ in range(2))
        ends = np.zeros((samples, length), np.int64)
        for row in range(samples):
            few = rng.integers((1, 0), tokens // 2)
            if kind in ("sequence", "embedding"):
                shown[row, : few[0]] = masked[row, few[0] : few[0] + few[1]] = False
                ends[row] = ~masked[row]
            else:
                order = rng.permutation(length)
                shown[row, order[: few[0]]] = masked[row, order[few[0] : few.sum()]] = False
                ends[row, np.argmin(masked[row])] = (~masked[row]).sum()
        result[name] = {
            "tensor": _values(published, name, kind, (samples, length), rng),
            "input_mask": torch.from_numpy(shown),
            "target_mask": torch.from_numpy(masked),
            "decoder_attention_mask": torch.from_numpy(ends),
        }
    return result


def _values(published: Published, name: str, kind: str, shape: tuple[int, int], rng: np.random.Generator) -> Tensor:
    if kind == "pixels":
        side = math.isqrt(shape[1]) * published.config["patch_size"]
        return torch.from_numpy(rng.standard_normal((shape[0], 3, side, side), np.float32))
    if kind == "embedding":
        return torch.from_numpy(rng.standard_normal((*shape, 10), np.float32))
    keys = (f"{side}.{name}.token_emb.weight" for side in ("encoder_embeddings", "decoder_embeddings"))
    table = next(published.tensors[key] for key in keys if key in published.tensors)
    return torch.from_numpy(rng.integers(0, len(table), shape))
