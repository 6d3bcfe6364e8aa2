"""Tiny random feature networks, saved to folders as a user would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_VIT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _save(folder: Path, model: Any, processor: Any) -> Path:
    # Fresh LayerNorms and biases would hide a norm that is left out or applied twice.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clip(folder: Path, image_size: int = 224, **options: Any) -> Path:
    """CLIP with both towers: patches of 16 px, 32 wide, projected to 24."""
    import transformers as hf

    torch.manual_seed(0)
    vision = hf.CLIPVisionConfig(**_VIT, patch_size=16, image_size=image_size, projection_dim=24, **options)
    text = hf.CLIPTextConfig(**_VIT, vocab_size=64, max_position_embeddings=8, projection_dim=24)
    config = hf.CLIPConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=24)
    return _save(folder, hf.CLIPModel(config), hf.CLIPImageProcessor())


def clip_vision(folder: Path) -> Path:
    """CLIP's image tower alone, without its projection."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.CLIPVisionConfig(**_VIT, patch_size=16, image_size=224)
    return _save(folder, hf.CLIPVisionModel(config), hf.CLIPImageProcessor())


def dinov2(folder: Path, registers: int = 0) -> Path:
    """DINOv2: patches of 14 px, positions of 518 px as published; its processor resizes to 256 px and crops."""
    import transformers as hf

    torch.manual_seed(0)
    options = {key: value for key, value in _VIT.items() if key != "intermediate_size"}
    config: Any = hf.Dinov2Config(**options, mlp_ratio=2, patch_size=14, image_size=518)
    model: Any = hf.Dinov2Model(config)
    if registers:
        config = hf.Dinov2WithRegistersConfig(
            **options, mlp_ratio=2, patch_size=14, image_size=518, num_register_tokens=registers
        )
        model = hf.Dinov2WithRegistersModel(config)
    statistics = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    return _save(folder, model, hf.BitImageProcessor(size={"shortest_edge": 256}, **statistics))


def dinov3(folder: Path) -> Path:
    """DINOv3: patches of 16 px, rotary positions, 4 registers."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.DINOv3ViTConfig(**_VIT, patch_size=16, num_register_tokens=4)
    return _save(folder, hf.DINOv3ViTModel(config), hf.DINOv3ViTImageProcessor())


def siglip(folder: Path) -> Path:
    """SigLIP with both towers (as SigLIP 2's checkpoints of fixed resolution): no class token, no projection."""
    import transformers as hf

    torch.manual_seed(0)
    vision = hf.SiglipVisionConfig(**_VIT, patch_size=16, image_size=224)
    text = hf.SiglipTextConfig(**_VIT, vocab_size=64, max_position_embeddings=8)
    config = hf.SiglipConfig(vision_config=vision.to_dict(), text_config=text.to_dict())
    return _save(folder, hf.SiglipModel(config), hf.SiglipImageProcessor())


def siglip2(folder: Path) -> Path:
    """SigLIP 2 NaFlex, which takes patches of any grid."""
    import transformers as hf

    torch.manual_seed(0)
    vision = hf.Siglip2VisionConfig(**_VIT, patch_size=16, num_patches=256)
    text = hf.Siglip2TextConfig(**_VIT, vocab_size=64, max_position_embeddings=8)
    config = hf.Siglip2Config(vision_config=vision.to_dict(), text_config=text.to_dict())
    return _save(folder, hf.Siglip2Model(config), hf.Siglip2ImageProcessor())


def t5(folder: Path) -> Path:
    """A model of another task: a text encoder, with a processor that it has no use for."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return _save(folder, hf.T5EncoderModel(config), hf.ViTImageProcessor())


def imagebind_tensors(dim: int = 32, depth: int = 2, patch: int = 14, side: int = 16) -> dict[str, torch.Tensor]:
    """Tensors by the names of imagebind_huge.pth, with a few of other modalities and of the heads."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 0.1, mean: float = 0.0) -> torch.Tensor:
        return mean + scale * torch.randn(*shape, generator=generator)

    stem, trunk = "modality_preprocessors.vision", "modality_trunks.vision"
    tensors = {
        f"{stem}.cls_token": draw(1, 1, dim),
        f"{stem}.rgbt_stem.proj.1.weight": draw(dim, 3, 2, patch, patch, scale=0.05),
        f"{stem}.pos_embedding_helper.pos_embed": draw(1, 1 + side**2, dim),
        f"{trunk}.pre_transformer_layer.0.weight": draw(dim, mean=1),
        f"{trunk}.pre_transformer_layer.0.bias": draw(dim),
        "modality_heads.vision.0.weight": draw(dim),
        "modality_heads.vision.2.weight": draw(8, dim),
        "modality_trunks.audio.blocks.0.norm_1.weight": draw(dim),
    }
    for i in range(depth):
        for name, shape, mean in (
            ("attn.in_proj_weight", (3 * dim, dim), 0),
            ("attn.in_proj_bias", (3 * dim,), 0),
            ("attn.out_proj.weight", (dim, dim), 0),
            ("attn.out_proj.bias", (dim,), 0),
            ("norm_1.weight", (dim,), 1),
            ("norm_1.bias", (dim,), 0),
            ("mlp.fc1.weight", (4 * dim, dim), 0),
            ("mlp.fc1.bias", (4 * dim,), 0),
            ("mlp.fc2.weight", (dim, 4 * dim), 0),
            ("mlp.fc2.bias", (dim,), 0),
            ("norm_2.weight", (dim,), 1),
            ("norm_2.bias", (dim,), 0),
        ):
            tensors[f"{trunk}.blocks.{i}.{name}"] = draw(*shape, mean=mean)
    return tensors


def imagebind(folder: Path) -> Path:
    """ImageBind as one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(imagebind_tensors(), folder / "model.safetensors")
    return folder
