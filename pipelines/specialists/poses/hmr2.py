"""HMR2.0's network (4D-Humans, Goel et al. 2023, section 3.1): a crop of a person in, a SMPL body and a camera out.

A ViT (ViTPose's: no class token, patches padded by 2 pixels) sees 256 x 192 pixels; one query token reads its output
through a transformer decoder; three linear heads say by how much pose, shape and camera differ from the mean body.

Names of parameters are those of the published checkpoint, and all sizes but the numbers of heads are read from it.
Nothing of SMPL itself is needed: its parameters are the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....tokenize.networks.vit import Block, ViTSize

JOINTS = 24
_USED = ("backbone.", "smpl_head.")  # of a checkpoint, which holds SMPL and a discriminator as well


@dataclass(frozen=True)
class Body:
    """n people. rotations: (n, 24, 3, 3) of the pelvis in the camera's frame and of each joint relative to its parent;
    betas: (n, 10), SMPL's shape; camera: (n, 3), [s, tx, ty], weak-perspective over the square that the crop is of."""

    rotations: Tensor
    betas: Tensor
    camera: Tensor


@dataclass(frozen=True)
class Sizes:
    """Of a network. A crop is `4 * unit` patches high and `3 * unit` wide."""

    width: int
    depth: int
    hidden: int
    patch: int
    unit: int
    head_width: int
    head_depth: int
    head_hidden: int
    head_inner: int
    token: int  # 1: the query is a constant; 157: it is the body as estimated so far
    heads: int = 16
    head_heads: int = 8
    iterations: int = 1

    @property
    def crop(self) -> tuple[int, int]:
        """Rows and columns of what the network sees."""
        return 4 * self.unit * self.patch, 3 * self.unit * self.patch


def sizes(state: Mapping[str, Tensor], heads: int = 16, head_heads: int = 8, iterations: int = 1) -> Sizes:
    """The sizes of the network that these weights are of. ValueError if a name is missing or the sizes cannot be."""
    decoder = "smpl_head.transformer"
    try:
        width, _, patch, _ = state["backbone.patch_embed.proj.weight"].shape
        tokens = state["backbone.pos_embed"].shape[1] - 1
        found = Sizes(
            width=width,
            depth=_count(state, "backbone.blocks."),
            hidden=state["backbone.blocks.0.mlp.fc1.weight"].shape[0],
            patch=patch,
            unit=isqrt(tokens // 12),
            head_width=state["smpl_head.decpose.weight"].shape[1],
            head_depth=_count(state, f"{decoder}.transformer.layers."),
            head_hidden=state[f"{decoder}.transformer.layers.0.2.fn.net.0.weight"].shape[0],
            head_inner=state[f"{decoder}.transformer.layers.0.1.fn.to_q.weight"].shape[0],
            token=state[f"{decoder}.to_token_embedding.weight"].shape[1],
            heads=heads,
            head_heads=head_heads,
            iterations=iterations,
        )
    except KeyError as error:
        raise ValueError(f"these are not the weights of HMR2.0: there is no {error}") from error
    if found.patch <= 4:  # with the padding of 2 pixels there would be a row of patches more than positions
        raise ValueError(f"HMR2.0's patches are larger than 4 pixels; these weights have {found.patch}")
    if tokens != 12 * found.unit**2:
        raise ValueError(f"HMR2.0 sees 4 n x 3 n patches; these weights have {tokens} positions")
    if found.width % heads or found.head_inner % head_heads:
        raise ValueError(
            f"widths of {found.width} and {found.head_inner} do not divide into {heads} and {head_heads} attention "
            "heads; say backbone_heads and decoder_heads"
        )
    return found


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def from_state(state: Mapping[str, Tensor], heads: int = 16, head_heads: int = 8, iterations: int = 1) -> Hmr2Network:
    """The network with these weights, in evaluation mode. ValueError if they are of something else or not all there."""
    weights = {name: tensor for name, tensor in state.items() if name.startswith(_USED)}
    known = sizes(weights, heads, head_heads, iterations)
    with torch.device("meta"):
        network = Hmr2Network(known)
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"these are not the weights of HMR2.0: {error}") from error
    return network.float().eval().requires_grad_(False)


class Hmr2Network(nn.Module):
    """(n, 3, rows, columns) of RGB, normalized as ImageNet's, to `Body`; see `Sizes.crop`.

    The decoder and its heads stay in float32, whatever the backbone is in: they cost little, and rotations show it.
    """

    def __init__(self, known: Sizes) -> None:
        super().__init__()
        self.sizes = known
        self.backbone = _Backbone(known)
        self.smpl_head = _SmplHead(known)

    def forward(self, crops: Tensor) -> Body:
        weight = self.backbone.patch_embed.proj.weight
        features = self.backbone(crops.to(weight.device, weight.dtype))
        return self.smpl_head(features.float())


def rotations_from_6d(numbers: Tensor) -> Tensor:
    """(..., 6) to rotations (..., 3, 3), whose first two columns are the two triples, made orthonormal in that order.

    (Zhou et al. 2019. HMR, and SPIN after it, interleave the triples; HMR2.0 does not.)
    """
    first, second = numbers.reshape(*numbers.shape[:-1], 2, 3).unbind(-2)
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


class _Backbone(nn.Module):
    def __init__(self, known: Sizes) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(known)
        self.pos_embed = nn.Parameter(torch.zeros(1, 12 * known.unit**2 + 1, known.width))
        size = ViTSize(known.width, known.depth, known.heads, known.hidden / known.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(known.depth))
        self.last_norm = nn.LayerNorm(known.width, eps=1e-6)

    def forward(self, crops: Tensor) -> Tensor:
        # The class token of its pretraining is gone; what its position learned is added to all others.
        x = self.patch_embed(crops) + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x)


class _PatchEmbed(nn.Module):
    def __init__(self, known: Sizes) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, known.width, known.patch, known.patch, padding=2)

    def forward(self, crops: Tensor) -> Tensor:
        patches: Tensor = self.proj(crops)
        return patches.flatten(2).transpose(1, 2)


def _attention(heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class _SmplHead(nn.Module):
    init_body_pose: Tensor
    init_betas: Tensor
    init_cam: Tensor

    def __init__(self, known: Sizes) -> None:
        super().__init__()
        self.token, self.iterations = known.token, known.iterations
        self.transformer = _Decoder(known)
        self.decpose = nn.Linear(known.head_width, 6 * JOINTS)
        self.decshape = nn.Linear(known.head_width, 10)
        self.deccam = nn.Linear(known.head_width, 3)
        for name, size in (("body_pose", 6 * JOINTS), ("betas", 10), ("cam", 3)):
            self.register_buffer(f"init_{name}", torch.zeros(1, size))

    def forward(self, features: Tensor) -> Body:
        mean = (self.init_body_pose, self.init_betas, self.init_cam)
        pose, betas, camera = (x.expand(len(features), -1) for x in mean)
        for _ in range(self.iterations):
            query = features.new_zeros(len(features), 1)
            if self.token > 1:
                query = torch.cat([pose, betas, camera], dim=1)
            read = self.transformer(query[:, None], features)[:, 0]
            pose, betas, camera = pose + self.decpose(read), betas + self.decshape(read), camera + self.deccam(read)
        return Body(rotations_from_6d(pose.reshape(-1, JOINTS, 6)), betas, camera)


class _Decoder(nn.Module):
    def __init__(self, known: Sizes) -> None:
        super().__init__()
        self.to_token_embedding = nn.Linear(known.token, known.head_width)
        self.pos_embedding = nn.Parameter(torch.zeros(1, 1, known.head_width))
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    _PreNorm(known.head_width, _HeadSelfAttention(known)),
                    _PreNorm(known.head_width, _CrossAttention(known)),
                    _PreNorm(known.head_width, _FeedForward(known)),
                ]
            )
            for _ in range(known.head_depth)
        )

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        x: Tensor = self.to_token_embedding(query) + self.pos_embedding
        for self_attention, cross_attention, feed_forward in self.transformer.layers:  # type: ignore[union-attr]
            x = x + self_attention(x)
            x = x + cross_attention(x, context)
            x = x + feed_forward(x)
        return x


class _PreNorm(nn.Module):
    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        return self.fn(self.norm(x), *context)


class _HeadSelfAttention(nn.Module):
    def __init__(self, known: Sizes) -> None:
        super().__init__()
        self.heads = known.head_heads
        self.to_qkv = nn.Linear(known.head_width, 3 * known.head_inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(known.head_inner, known.head_width))

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(_attention(self.heads, *self.to_qkv(x).chunk(3, -1)))


class _CrossAttention(nn.Module):
    def __init__(self, known: Sizes) -> None:
        super().__init__()
        self.heads = known.head_heads
        self.to_q = nn.Linear(known.head_width, known.head_inner, bias=False)
        self.to_kv = nn.Linear(known.width, 2 * known.head_inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(known.head_inner, known.head_width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.to_out(_attention(self.heads, self.to_q(x), *self.to_kv(context).chunk(2, -1)))


class _FeedForward(nn.Module):
    def __init__(self, known: Sizes) -> None:
        super().__init__()
        # Numbered as in the checkpoint, where a dropout stands between.
        layers = (nn.Linear(known.head_width, known.head_hidden), nn.GELU(), nn.Identity())
        self.net = nn.Sequential(*layers, nn.Linear(known.head_hidden, known.head_width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
