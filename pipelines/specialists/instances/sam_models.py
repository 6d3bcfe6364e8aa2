"""SAM's networks behind two functions: what the network is shown of an image, and images in, a `View` of each out.

- Weights of the package segment-anything (sam_vit_h_4b8939.pth and others, or the same tensors as safetensors): all
  sizes are read from the tensors.
- Folders of transformers (SAM, SAM 2, SAM-HQ, EdgeTAM): what their configuration says, preprocessed as their processor
  does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.transforms import ResizeLongestSide

from .. import shapes
from ..host import sent
from .sam_grid import View

_DECODER_HEADS = 8  # of every published model; the one size that the tensors do not tell
_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

ON_GPU = 4  # images that the encoder sees together there; on a CPU each alone, which is as fast


@dataclass(frozen=True)
class Network:
    """A SAM.

    prepare: uint8 (h, w, 3) RGB to what `encode` takes, on the host. encode: some of these to their views, the images
    encoded together. together: how many it likes.
    """

    prepare: Callable[[np.ndarray], Any]
    encode: Callable[[Sequence[Any]], list[View]]
    together: int = 1


def from_state(state: Mapping[str, torch.Tensor]) -> Sam:
    """segment-anything's model of any size with these weights, in evaluation mode. KeyError if they are others."""
    try:
        sam = Sam(_image_encoder(state), _prompt_encoder(state), _mask_decoder(state), _MEAN, _STD)
        sam.load_state_dict(dict(state))
    except (KeyError, RuntimeError, ZeroDivisionError) as error:
        raise KeyError(f"{type(error).__name__}: {error}") from error
    return sam.eval().requires_grad_(False)


def _count(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _image_encoder(state: Mapping[str, torch.Tensor]) -> ImageEncoderViT:
    width, channels, patch, _ = state["image_encoder.patch_embed.proj.weight"].shape
    grid = state["image_encoder.pos_embed"].shape[1]
    depth = _count(state, "image_encoder.blocks.")
    # A table of relative positions has 2 n - 1 rows for attention over n x n tokens: a window, or the whole grid.
    tables = [state[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]
    spans = [(rows + 1) // 2 for rows, _ in tables]
    return ImageEncoderViT(
        img_size=grid * patch,
        patch_size=patch,
        in_chans=channels,
        embed_dim=width,
        depth=depth,
        num_heads=width // tables[0][1],
        mlp_ratio=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        out_chans=state["image_encoder.neck.0.weight"].shape[0],
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=min(spans),
        global_attn_indexes=tuple(i for i, span in enumerate(spans) if span == grid),
    )


def _prompt_encoder(state: Mapping[str, torch.Tensor]) -> PromptEncoder:
    patch, grid = state["image_encoder.patch_embed.proj.weight"].shape[-1], state["image_encoder.pos_embed"].shape[1]
    return PromptEncoder(
        embed_dim=state["prompt_encoder.no_mask_embed.weight"].shape[1],
        image_embedding_size=(grid, grid),
        input_image_size=(grid * patch, grid * patch),
        mask_in_chans=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )


def _mask_decoder(state: Mapping[str, torch.Tensor]) -> MaskDecoder:
    width = state["mask_decoder.iou_token.weight"].shape[1]
    inner = state["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"].shape[0]
    transformer = TwoWayTransformer(
        depth=_count(state, "mask_decoder.transformer.layers."),
        embedding_dim=width,
        num_heads=_DECODER_HEADS,
        mlp_dim=state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        attention_downsample_rate=width // inner,
    )
    return MaskDecoder(
        transformer_dim=width,
        transformer=transformer,
        num_multimask_outputs=state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        iou_head_depth=_count(state, "mask_decoder.iou_prediction_head.layers."),
        iou_head_hidden_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    )


def _thickened(image: np.ndarray, side: int) -> np.ndarray:
    """The image, its short side stretched if less than a pixel of it would be left on a network of `side` pixels."""
    height, width = image.shape[:2]
    least = math.ceil(max(height, width) / side)
    return image if min(height, width) >= least else cv2.resize(image, (max(width, least), max(height, least)))


def segment_anything(sam: Sam, device: str, dtype: torch.dtype) -> Network:
    """segment-anything's model. Its weights stay in float32; below that, matrix products are in `dtype`."""
    side = sam.image_encoder.img_size
    resize = ResizeLongestSide(side)
    half = partial(torch.autocast, torch.device(device).type, dtype=dtype, enabled=dtype != torch.float32)

    def prepare(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(resize.apply_image(_thickened(image, side))).permute(2, 0, 1)[None]

    def encode(images: Sequence[torch.Tensor]) -> list[View]:
        with torch.inference_mode(), half():
            shown = [sam.preprocess(sent(image, device, image.dtype)) for image in images]
            features = sam.image_encoder(torch.cat(shown))
        return [
            View(partial(decode, features[i : i + 1]), (image.shape[-2], image.shape[-1]), side, device)
            for i, image in enumerate(images)
        ]

    def decode(features: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sparse, dense = _prompts(sam.prompt_encoder, points)
        with half():
            masks, iou = sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
        return masks, iou

    return Network(prepare, encode, _together(device))


def _prompts(encoder: PromptEncoder, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """segment-anything's prompts for single points (n, 2), each followed by its filler: (n, 2, C), (n, C, h, w).

    The package's own code finds points and fillers by boolean indexing, for which the host waits.
    """
    pairs = torch.stack([points + 0.5, torch.zeros_like(points)], 1)
    places = encoder.pe_layer.forward_with_coords(pairs, encoder.input_image_size)
    filler = encoder.not_a_point_embed.weight.expand(len(points), 1, -1)
    sparse = torch.cat([places[:, :1] + encoder.point_embeddings[1].weight, filler], 1)
    dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    return sparse, dense.expand(len(points), -1, *encoder.image_embedding_size)


class _Shown(NamedTuple):
    """pixels: float32 (1, 3, h, w). seen, padded: as of `View`."""

    pixels: torch.Tensor
    seen: tuple[int, int]
    padded: int | None


def transformers(model: Any, processor: Any, device: str) -> Network:
    """A model of transformers for mask generation, with the processor of its folder."""
    declared = getattr(model.config.vision_config, "image_size", None)
    side = declared if isinstance(declared, int) else 1024

    def prepare(image: np.ndarray) -> _Shown:
        inputs = processor(images=_thickened(image, side), input_data_format="channels_last", return_tensors="pt")
        pixels = inputs["pixel_values"]
        rows, columns = pixels.shape[-2:]
        padded = None
        if "reshaped_input_sizes" in inputs:  # SAM pads; SAM 2 stretches
            padded = rows
            rows, columns = (int(edge) for edge in inputs["reshaped_input_sizes"][0])
        return _Shown(pixels, (rows, columns), padded)

    def encode(images: Sequence[_Shown]) -> list[View]:
        pixels = torch.cat([sent(image.pixels, device, model.dtype) for image in images])
        with torch.inference_mode():
            features = model.get_image_embeddings(pixels)
        return [
            View(partial(decode, _row(features, i)), image.seen, image.padded, device) for i, image in enumerate(images)
        ]

    def decode(features: Any, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        known = {"image_embeddings": features}
        if isinstance(features, tuple):  # SAM-HQ
            known = {"image_embeddings": features[0], "intermediate_embeddings": features[1]}
        labels = torch.ones(1, len(points), 1, dtype=torch.int64, device=device)
        out = model(**known, input_points=points[None, :, None], input_labels=labels, multimask_output=True)
        return out.pred_masks[0], out.iou_scores[0]

    return Network(prepare, encode, _together(device))


def _together(device: str) -> int:
    return ON_GPU if shapes.as_on_gpu(device) else 1


def _row(features: Any, row: int) -> Any:
    """One image's share of features, or of lists of features."""
    if isinstance(features, torch.Tensor):
        return features[row : row + 1]
    return type(features)(_row(part, row) for part in features)
