"""Tiny random models of depth, normals and segmentation, as folders that a user would have from the hub."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch

from fourmill.modalities import COCO_PANOPTIC_CLASSES
from fourmill.pipelines.specialists.base import Item

SIZES = ((97, 211), (120, 45), (64, 64), (97, 211))  # height, width: odd, slim, square, and one twice

_VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (height, width, 3): smooth grey blobs, different for each seed, which survive resizing."""
    noise = np.random.default_rng(seed).standard_normal((5, 5)).astype(np.float32)
    grey = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    grey = 255 * (grey - grey.min()) / (grey.max() - grey.min())
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def items(*sizes: tuple[int, int]) -> list[Item]:
    """An item of its own picture for each size (height, width); SIZES if none is given."""
    return [Item(f"key{i}", scene(*size, seed=i), None) for i, size in enumerate(sizes or SIZES)]


class Echo:
    """Stands for a loaded network: says of a pixel what `answer` makes of the network's input (B, 3, h, w).

    With it the label must show the picture itself, where the picture has it: preprocessing and postprocessing are seen
    alone.
    """

    def __init__(self, model: Any, answer: Any) -> None:
        self.config, self.dtype, self._answer = model.config, model.dtype, answer

    def __call__(self, pixel_values: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(**self._answer(pixel_values))


def _save(folder: Path, model: Any, processor: Any) -> Path:
    stir(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def stir(model: torch.nn.Module) -> None:
    """Random weights large enough that an output depends on the image: those of initialization leave it constant."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.is_floating_point():
            fan_in = parameter[0].numel() if parameter.shape[0] > 1 else parameter.shape[-1]
            torch.nn.init.normal_(parameter, std=1.5 / fan_in**0.5)


def _named(names: Mapping[int, str] | None) -> dict[str, Any]:
    names = dict(enumerate(COCO_PANOPTIC_CLASSES)) if names is None else dict(names)
    return {"id2label": names, "label2id": {name: i for i, name in names.items()}}


def depth_anything(folder: Path, kind: str = "relative") -> Path:
    """DepthAnything on DINOv2: relative (inverse depth) or metric."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8, depth_estimation_type=kind, max_depth=20 if kind == "metric" else 1,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(config).eval()
    torch.nn.init.constant_(model.head.conv3.bias, 1.0)  # its last ReLU would leave zeros
    size = {"height": 56, "width": 56}
    processor = DPTImageProcessor(size=size, ensure_multiple_of=14, keep_aspect_ratio=True, do_pad=False)
    return _save(folder, model, processor)


def dpt(folder: Path, **processing: Any) -> Path:
    """DPT on a plain ViT (MiDaS), 32 x 32 unless `processing` says otherwise."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(1)
    config = DPTConfig(
        **_VIT, image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    model = DPTForDepthEstimation(config).eval()
    torch.nn.init.constant_(model.head.head[4].bias, 1.0)
    return _save(folder, model, DPTImageProcessor(**{"size": {"height": 32, "width": 32}, **processing}))


def dpt_dinov2(folder: Path) -> Path:
    """DPT on DINOv2: metric depth, images padded to multiples of 14 instead of resized."""
    from transformers import Dinov2Config, DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(2)
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=False,
    )  # fmt: skip
    config = DPTConfig(
        backbone_config=backbone, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=256, add_projection=True,
        use_bias_in_fusion_residual=False,
    )  # fmt: skip
    model = DPTForDepthEstimation(config).eval()
    torch.nn.init.constant_(model.head.head[4].bias, 1.0)
    return _save(folder, model, DPTImageProcessor(do_resize=False, do_pad=True, size_divisor=14))


def zoedepth(folder: Path) -> Path:
    """ZoeDepth: pads by reflection, takes the padding off itself."""
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessor

    torch.manual_seed(3)
    backbone = BeitConfig(
        **_VIT, image_size=32, patch_size=16, out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
        use_absolute_position_embeddings=False, use_relative_position_bias=True,
        use_shared_relative_position_bias=False,
    )  # fmt: skip
    config = ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, bottleneck_features=8,
        num_relative_features=8, bin_embedding_dim=8, num_attractors=[4, 2, 2, 1], num_patch_transformer_layers=1,
        patch_transformer_hidden_size=8, patch_transformer_intermediate_size=16,
        patch_transformer_num_attention_heads=2,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    )  # fmt: skip
    model = ZoeDepthForDepthEstimation(config).eval()
    return _save(folder, model, ZoeDepthImageProcessor(size={"height": 32, "width": 32}, ensure_multiple_of=16))


def tipsv2(folder: Path, names: Mapping[int, str] | None = None) -> Path:
    """TIPSv2 with its three heads, for squares of 56 x 56; COCO panoptic's classes unless given."""
    from transformers import AutoConfig, Tipsv2DptConfig, Tipsv2DptForDensePrediction, Tipsv2DptImageProcessor

    torch.manual_seed(4)
    backbone = AutoConfig.for_model(
        "tipsv2_vision_model", **_VIT, image_size=56, patch_size=14, out_indices=[1, 2, 3, 4], apply_layernorm=True,
        reshape_hidden_states=False,
    )  # fmt: skip
    config = Tipsv2DptConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        num_depth_bins=8,
        **_named(names),
    )
    model = Tipsv2DptForDensePrediction(config).eval()
    return _save(folder, model, Tipsv2DptImageProcessor(size={"height": 56, "width": 56}))


def sapiens2(folder: Path, do_pad: bool = False) -> Path:
    """Sapiens2's normal estimator, 48 x 32."""
    from transformers import Sapiens2Config, Sapiens2ForNormalEstimation, Sapiens2ImageProcessor

    torch.manual_seed(5)
    config = Sapiens2Config(
        **_VIT, image_size=[48, 32], patch_size=8, num_labels=3,
        head_config={"upsample_out_channels": [8, 8], "conv_out_channels": [8]},
    )  # fmt: skip
    model = Sapiens2ForNormalEstimation(config).eval()
    return _save(folder, model, Sapiens2ImageProcessor(size={"height": 48, "width": 32}, do_pad=do_pad))


def mask2former(folder: Path, names: Mapping[int, str] | None = None, **processing: Any) -> Path:
    """Mask2Former on Swin, shorter side 64."""
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    torch.manual_seed(6)
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=6, **_named(names),
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config).eval()
    size = {"shortest_edge": 64, "longest_edge": 128}
    return _save(folder, model, Mask2FormerImageProcessor(**{"size": size, "size_divisor": 32, **processing}))


def eomt(folder: Path) -> Path:
    """EoMT: squares of 64 x 64, images padded into them."""
    from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

    torch.manual_seed(7)
    config = EomtConfig(**_VIT, image_size=64, patch_size=16, num_blocks=2, num_queries=6, num_upscale_blocks=1,
                        mlp_ratio=2, num_register_tokens=1, **_named(None))  # fmt: skip
    model = EomtForUniversalSegmentation(config).eval()
    return _save(folder, model, EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True))


def oneformer(folder: Path) -> Path:
    """OneFormer on Swin, with its tokenizer of task queries."""
    from transformers import (
        OneFormerConfig,
        OneFormerForUniversalSegmentation,
        OneFormerImageProcessor,
        SwinConfig,
    )

    torch.manual_seed(8)
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = OneFormerConfig(
        backbone_config=backbone, hidden_dim=32, conv_dim=32, mask_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=3, num_attention_heads=2, num_queries=6,
        text_encoder_width=32, text_encoder_num_layers=1, text_encoder_vocab_size=64, text_encoder_context_length=12,
        text_encoder_n_ctx=4, text_encoder_proj_layers=1, query_dec_layers=1, task_seq_len=12, strides=[4, 8, 16, 32],
        **_named(None),
    )  # fmt: skip
    model = OneFormerForUniversalSegmentation(config).eval()
    processor = OneFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    _save(folder, model, processor)
    clip_tokenizer(folder, ["the", "task", "is", "panoptic"])
    preprocessing = folder / "preprocessor_config.json"
    settings = json.loads(preprocessing.read_text()) | {"class_info_file": "coco_panoptic.json"}
    preprocessing.write_text(json.dumps(settings))  # as published; read, it would be fetched from the hub
    return folder


def clip_tokenizer(folder: Path, words: list[str]) -> None:
    """A CLIP tokenizer that knows letters and these words."""
    from transformers import CLIPTokenizer

    letters = sorted(set("".join(words)))
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[str] = []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merge = f"{parts[0]} {parts[1]}"
            parts[:2] = [parts[0] + parts[1]]
            if merge not in merges:
                merges.append(merge)
                vocabulary.append(parts[0])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    made = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    made.save_pretrained(folder)


def segformer(folder: Path, names: Mapping[int, str] | None = None) -> Path:
    """SegFormer: a semantic head."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(9)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
        **_named(names),
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config).eval()
    return _save(folder, model, SegformerImageProcessor(size={"height": 64, "width": 64}))


def marigold(folder: Path) -> Path:
    """Marigold's normals pipeline: 8 px latents, processing at 32 px, 2 steps."""
    from diffusers import AutoencoderKL, DDIMScheduler, MarigoldNormalsPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(10)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, in_channels=8, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=[8, 8], in_channels=3, out_channels=3, norm_num_groups=4, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        prediction_type="v_prediction", set_alpha_to_one=False, steps_offset=1, beta_schedule="scaled_linear",
        clip_sample=False, timestep_spacing="trailing",
    )  # fmt: skip
    text = CLIPTextConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=64,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    clip_tokenizer(folder / "tokenizer", ["an"])
    pipeline = MarigoldNormalsPipeline(
        unet=unet, vae=vae, scheduler=scheduler, text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"), prediction_type="normals",
        use_full_z_range=True, default_denoising_steps=2, default_processing_resolution=32,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def fill(model: torch.nn.Module) -> None:
    """Weights by the names of the parameters, the same with every version of torch: for recorded outputs."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(parameter.shape))
            fan_in = parameter[0].numel() if parameter.ndim > 1 and parameter.shape[0] > 1 else parameter.shape[-1]
            centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            scale = 1.5 / fan_in**0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.from_numpy(centre + scale * values))
