"""4M written the obvious way, on the tensors of a published checkpoint: dense tensors of every modality, gathered by
sorting masks; softmax over masked scores; logits by boolean indexing.

It shares no code with fourmill.model: parity on checkpoints that nobody recorded is tested against it, and
benchmarks/gpu.py takes its speed as the named reference. Legend: B samples, n tokens of a modality, N kept ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = Mapping[str, Tensor]
ModDict = Mapping[str, Mapping[str, Tensor]]
KINDS = ("tokens", "sequence", "pixels", "embedding")


class EagerFourM:
    """Args:
    tensors: of the checkpoint, by their published names.
    config: config.json, with every optional key.
    kinds: published name -> one of KINDS.
    max_tokens: published name -> rows that a target's positions may use.
    """

    def __init__(
        self, tensors: Tensors, config: Mapping[str, Any], kinds: Mapping[str, str], max_tokens: Mapping[str, int]
    ) -> None:
        self.t, self.config, self.kinds, self.max_tokens = tensors, config, kinds, max_tokens

    def losses(self, mod_dict: ModDict, budgets: tuple[int, int], order: Sequence[str]) -> dict[str, Tensor]:
        """Mean cross-entropy of each output modality of `mod_dict`; 0 for those without targets."""
        logits, targets = self.logits(mod_dict, budgets, order)
        zero = self.t["mask_token"].sum() * 0
        return {m: F.cross_entropy(logits[m], targets[m]) if len(targets[m]) else zero for m in logits}

    def logits(
        self, mod_dict: ModDict, budgets: tuple[int, int], order: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(targets, vocabulary) and (targets,) of each output modality of `mod_dict`, in batch-major order."""
        c = self.config
        inputs = [self._embed_input(m, d) for m, d in mod_dict.items() if m in c["domains_in"]]
        x, emb, pad, _ = self._gather(inputs, budgets[0], ("x", "emb", "pad", "mod"))
        x = x + emb
        if registers := c["num_register_tokens"]:
            x = torch.cat([self.t["register_tokens"].expand(len(x), -1, -1), x], dim=1)
            emb, pad = F.pad(emb, (0, 0, registers, 0)), F.pad(pad, (registers, 0))
        for i in range(c["encoder_depth"]):
            x = self._block(f"encoder.{i}", x, pad[:, None, :])
        x = self._norm("encoder_norm", x)
        context = self._linear("decoder_proj_context", x) + emb
        names = [m for m in order if m in c["domains_out"]]
        targets = [self._embed_target(m, mod_dict[m]) for m in names]
        y, end, dpad, mod, ids = self._gather(targets, budgets[1], ("x", "end", "pad", "mod", "ids"))
        blocked = self._decoder_mask(end, mod)
        for i in range(c["decoder_depth"]):
            y = self._decoder_block(f"decoder.{i}", y, context, blocked, pad[:, None, :])
        y = self._norm("decoder_norm", y)
        chosen = {m: (mod == self._number(m)) & ~dpad for m in names}
        heads = {m: self.t[f"decoder_embeddings.{m}.to_logits.weight"] for m in chosen}
        return {m: y[at] @ heads[m].T for m, at in chosen.items()}, {m: ids[at] for m, at in chosen.items()}

    def _number(self, name: str) -> int:
        return self.config["domains_out"].index(name)

    def _embed_input(self, name: str, d: Mapping[str, Tensor]) -> dict[str, Tensor]:
        key, mask, kind = f"encoder_embeddings.{name}", d["input_mask"], self.kinds[name]
        if kind == "pixels":
            p = self.config["patch_size"]
            b, c, h, w = d["tensor"].shape
            patches = d["tensor"].view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
            x = patches @ self.t[f"{key}.proj.weight"].T
        elif kind == "embedding":
            x = F.linear(d["tensor"], self.t[f"{key}.emb_proj.weight"], self.t[f"{key}.emb_proj.bias"])
        else:
            x = self.t[f"{key}.token_emb.weight"][d["tensor"]]
        emb = self._positions(key, mask, ranked=kind in ("sequence", "embedding")) + self.t[f"{key}.mod_emb"]
        return {"x": x, "emb": emb, "pad": mask, "mod": torch.zeros_like(mask, dtype=torch.long)}

    def _positions(self, key: str, mask: Tensor, ranked: bool, limit: int = 0) -> Tensor:
        table = self.t[f"{key}.pos_emb"][0]
        if not ranked:
            return table.expand(len(mask), -1, -1)
        rank = (~mask).long().cumsum(1) - 1
        if limit:
            rank[rank >= limit] = 0
        emb = table[rank.clamp(min=0)]
        emb[mask] = 0
        return emb

    def _embed_target(self, name: str, d: Mapping[str, Tensor]) -> dict[str, Tensor]:
        key, mask, ids = f"decoder_embeddings.{name}", d["target_mask"], d["tensor"]
        ranked = self.kinds[name] == "sequence"
        emb = self._positions(key, mask, ranked, self.max_tokens[name]) + self.t[f"{key}.mod_emb"]
        end = d["decoder_attention_mask"]
        if ranked:
            x, emb = self.t[f"{key}.token_emb.weight"][ids[:, :-1]], emb[:, :-1]
            ids, mask, end = ids[:, 1:], mask[:, 1:] | mask[:, :-1], end[:, :-1]
        else:
            x = self.t["mask_token"].expand(*ids.shape, -1)
        return {"x": x + emb, "ids": ids, "pad": mask, "end": end, "mod": torch.full_like(ids, self._number(name))}

    @staticmethod
    def _gather(parts: Sequence[Mapping[str, Tensor]], budget: int, names: Sequence[str]) -> list[Tensor]:
        joined = {name: torch.cat([part[name] for part in parts], dim=1) for name in names}
        index = torch.arange(joined["pad"].shape[1], device=joined["pad"].device)
        keep = torch.argsort(joined["pad"] + 1e-6 * index, dim=1)[:, :budget]
        rows = torch.arange(len(keep), device=keep.device)[:, None]
        kept = {name: x[rows, keep] for name, x in joined.items()}
        for name in names:
            if name != "pad":
                kept[name][kept["pad"]] = 0
        return list(kept.values())

    def _decoder_mask(self, end: Tensor, mod: Tensor) -> Tensor:
        n = end.shape[1]
        place = torch.arange(n, device=end.device)
        blocked = place[None, None, :] >= end.cumsum(1)[:, :, None]
        if self.config["decoder_causal_mask"]:
            blocked = (place[None, :] > place[:, None]).expand(len(end), n, n)
        if self.config["decoder_sep_mask"]:
            blocked = blocked | (mod[:, :, None] != mod[:, None, :])
        return blocked

    def _linear(self, key: str, x: Tensor) -> Tensor:
        return F.linear(x, self.t[f"{key}.weight"], self.t.get(f"{key}.bias"))

    def _norm(self, key: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.t[f"{key}.weight"], self.t[f"{key}.bias"], 1e-6)

    def _attend(self, key: str, q: Tensor, k: Tensor, v: Tensor, blocked: Tensor) -> Tensor:
        heads = self.config["num_heads"]
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if self.config["qk_norm"]:
            q, k = self._norm(f"{key}.q_norm", q), self._norm(f"{key}.k_norm", k)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(blocked[:, None], -torch.finfo(scores.dtype).max)
        return self._linear(f"{key}.proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def _mlp(self, key: str, x: Tensor) -> Tensor:
        act = F.silu if self.config["act_layer"] == "SiLU" else F.gelu
        hidden = act(self._linear(f"{key}.fc1", x))
        if self.config["gated_mlp"]:
            hidden = hidden * self._linear(f"{key}.fc3", x)
        return self._linear(f"{key}.fc2", hidden)

    def _block(self, key: str, x: Tensor, blocked: Tensor) -> Tensor:
        q, k, v = self._linear(f"{key}.attn.qkv", self._norm(f"{key}.norm1", x)).chunk(3, dim=-1)
        x = x + self._attend(f"{key}.attn", q, k, v, blocked)
        return x + self._mlp(f"{key}.mlp", self._norm(f"{key}.norm2", x))

    def _decoder_block(self, key: str, y: Tensor, context: Tensor, blocked: Tensor, padded: Tensor) -> Tensor:
        q, k, v = self._linear(f"{key}.self_attn.qkv", self._norm(f"{key}.norm1", y)).chunk(3, dim=-1)
        y = y + self._attend(f"{key}.self_attn", q, k, v, blocked)
        q = self._linear(f"{key}.cross_attn.q", self._norm(f"{key}.query_norm", y))
        k, v = self._linear(f"{key}.cross_attn.kv", self._norm(f"{key}.context_norm", context)).chunk(2, dim=-1)
        y = y + self._attend(f"{key}.cross_attn", q, k, v, padded)
        return y + self._mlp(f"{key}.mlp", self._norm(f"{key}.norm2", y))
