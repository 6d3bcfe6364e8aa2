"""SAM's networks behind one function: image in, `View` out.

- Weights of the package segment-anything (sam_vit_h_4b8939.pth and others, or the same tensors as safetensors): all
  sizes are read from the tensors.
- Folders of transformers (SAM, SAM 2, SAM-HQ, EdgeTAM): what their configuration says, preprocessed as their processor
  does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.transforms import ResizeLongestSide

from .sam_grid import View

_DECODER_HEADS = 8  # of every published model; the one size that the tensors do not tell
_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

Embed = Callable[[np.ndarray], View]


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


def segment_anything(sam: Sam, device: str, dtype: torch.dtype) -> Embed:
    """Views by segment-anything's model. Its weights stay in float32; below that, matrix products are in `dtype`."""
    side = sam.image_encoder.img_size
    resize = ResizeLongestSide(side)
    half = partial(torch.autocast, torch.device(device).type, dtype=dtype, enabled=dtype != torch.float32)

    def embed(image: np.ndarray) -> View:
        shown = torch.from_numpy(resize.apply_image(_thickened(image, side))).to(device).permute(2, 0, 1)[None]
        with half():
            features = sam.image_encoder(sam.preprocess(shown))

        def decode(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            labels = torch.ones(len(points), 1, dtype=torch.int, device=device)
            sparse, dense = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
            with half():
                masks, iou = sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
            return masks, iou

        return View(decode, (shown.shape[-2], shown.shape[-1]), side, device)

    return embed


def transformers(model: Any, processor: Any, device: str) -> Embed:
    """Views by a model of transformers for mask generation, with the processor of its folder."""
    declared = getattr(model.config.vision_config, "image_size", None)
    side = declared if isinstance(declared, int) else 1024

    def embed(image: np.ndarray) -> View:
        inputs = processor(images=_thickened(image, side), input_data_format="channels_last", return_tensors="pt")
        pixels = inputs["pixel_values"].to(device, model.dtype)
        rows, columns = pixels.shape[-2:]
        padded = None
        if "reshaped_input_sizes" in inputs:  # SAM pads; SAM 2 stretches
            padded = rows
            rows, columns = (int(edge) for edge in inputs["reshaped_input_sizes"][0])
        features = model.get_image_embeddings(pixels)
        known = {"image_embeddings": features}
        if isinstance(features, tuple):  # SAM-HQ
            known = {"image_embeddings": features[0], "intermediate_embeddings": features[1]}

        def decode(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            labels = torch.ones(1, len(points), 1, dtype=torch.int64, device=device)
            out = model(**known, input_points=points[None, :, None], input_labels=labels, multimask_output=True)
            return out.pred_masks[0], out.iou_scores[0]

        return View(decode, (rows, columns), padded, device)

    return embed
