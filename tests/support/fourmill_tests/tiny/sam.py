"""Tiny random SAM models, saved as a user would have them: segment-anything's files, folders of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SIDE, PATCH, WIDTH, WINDOW = 64, 8, 16, 3
STEP = 0.6
_RENAMED = {
    "image_encoder.": "vision_encoder.",
    "patch_embed.proj": "patch_embed.projection",
    ".blocks.": ".layers.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    "neck.0": "neck.conv1",
    "neck.1": "neck.layer_norm1",
    "neck.2": "neck.conv2",
    "neck.3": "neck.layer_norm2",
    "point_embeddings": "point_embed",
    "mask_downscaling.0": "mask_embed.conv1",
    "mask_downscaling.1": "mask_embed.layer_norm1",
    "mask_downscaling.3": "mask_embed.conv2",
    "mask_downscaling.4": "mask_embed.layer_norm2",
    "mask_downscaling.6": "mask_embed.conv3",
    "pe_layer.positional_encoding_gaussian_matrix": "shared_embedding.positional_embedding",
    "output_upscaling.0": "upscale_conv1",
    "output_upscaling.1": "upscale_layer_norm",
    "output_upscaling.3": "upscale_conv2",
    ".norm3.": ".layer_norm3.",
    ".norm4.": ".layer_norm4.",
    "norm_final_attn": "layer_norm_final_attn",
}


def tensors(seed: int = 25) -> dict[str, torch.Tensor]:
    """The state dict of segment-anything's SAM, 64 px, 8 x 8 patches, one windowed and one global layer."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(seed)
    grid = SIDE // PATCH
    sam = Sam(
        ImageEncoderViT(
            SIDE, PATCH, 3, WIDTH, 2, 2, 2.0, WIDTH, use_rel_pos=True, window_size=WINDOW, global_attn_indexes=(1,),
            norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        ),
        PromptEncoder(WIDTH, (grid, grid), (SIDE, SIDE), 8),
        MaskDecoder(
            transformer_dim=WIDTH, transformer=TwoWayTransformer(2, WIDTH, 8, 24), iou_head_depth=3,
            iou_head_hidden_dim=12,
        ),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    # Zeros and ones would hide what is left out or applied twice; steep logits make masks that are stable.
    return {
        name: (value + STEP * torch.randn(value.shape, generator=generator)) * (10 if _is_last(name) else 1)
        for name, value in sam.state_dict().items()
    }


def _is_last(name: str) -> bool:
    return "hypernetworks" in name and "layers.2" in name


def segment_anything(path: Path, seed: int = 25) -> Path:
    """As a file: .pth as published, or .safetensors."""
    state = tensors(seed)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def sam(folder: Path, seed: int = 25) -> Path:
    """The same weights in a folder of transformers."""
    import transformers as hf

    config: Any = hf.SamConfig(
        vision_config=dict(
            hidden_size=WIDTH, output_channels=WIDTH, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
            patch_size=PATCH, mlp_dim=2 * WIDTH, window_size=WINDOW, global_attn_indexes=[1], num_pos_feats=WIDTH // 2,
        ),
        prompt_encoder_config=dict(
            hidden_size=WIDTH, image_size=SIDE, patch_size=PATCH, mask_input_channels=8,
        ),
        mask_decoder_config=dict(hidden_size=WIDTH, mlp_dim=24, num_attention_heads=8, iou_head_hidden_dim=12),
    )  # fmt: skip
    model: Any = hf.SamModel(config)
    state = {_renamed(name): value for name, value in tensors(seed).items()}
    state["shared_image_embedding.positional_embedding"] = state["prompt_encoder.shared_embedding.positional_embedding"]
    model.load_state_dict(state)
    model.save_pretrained(folder)
    hf.SamImageProcessor(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    # Multi-layer perceptrons of three layers: the first and the last have names of their own.
    if "iou_prediction_head" in name or "output_hypernetworks_mlps" in name:
        name = name.replace("layers.0", "proj_in").replace("layers.2", "proj_out").replace("layers.1", "layers.0")
    return name


def sam2(folder: Path, seed: int = 25) -> Path:
    """SAM 2 for images of 64 px, random."""
    import transformers as hf

    torch.manual_seed(seed)
    backbone = dict(
        hidden_size=8, embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 2, 2, 2],
        blocks_per_stage=[1, 1, 2, 1], global_attention_blocks=[3], window_size_per_stage=[4, 2, 4, 2],
        image_size=[SIDE, SIDE], window_positional_embedding_background_size=[2, 2], model_type="sam2_hiera_det_model",
    )  # fmt: skip
    config: Any = hf.Sam2Config(
        vision_config=dict(
            backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=WIDTH,
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        ),
        prompt_encoder_config=dict(hidden_size=WIDTH, image_size=SIDE, patch_size=16, mask_input_channels=8),
        mask_decoder_config=dict(hidden_size=WIDTH, mlp_dim=24, num_attention_heads=4, iou_head_hidden_dim=12),
    )  # fmt: skip
    model: Any = hf.Sam2Model(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    hf.Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder
