"""Tiny random detectors of COCO's classes, saved to folders as a user would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fourmill.modalities import COCO_CLASSES
from fourmill.pipelines.specialists.detection.yolo import ultralytics

NAMES = {i: name for i, name in enumerate(COCO_CLASSES)}
_HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def _save(folder: Path, model: Any, processor: Any) -> Path:
    # A fresh class head says the same of every query; a few classes must stand out.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _resnet(**options: Any) -> Any:
    import transformers as hf

    return hf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
        **options,
    )


def _hybrid(**options: Any) -> dict[str, Any]:
    """Sizes of RT-DETR's kin, on three feature maps."""
    return {
        "d_model": 16,
        "encoder_hidden_dim": 16,
        "encoder_in_channels": [8, 16, 16],
        "decoder_in_channels": [16, 16, 16],
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "decoder_layers": 2,
        "num_queries": 20,
        "num_denoising": 0,
        **_HEADS,
        **options,
    }


def rtdetr_v2(folder: Path, names: dict[int, str] | None = None) -> Path:
    """RT-DETRv2, which sees squares; `names` instead of COCO's."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.RTDetrV2Config(backbone_config=_resnet(), id2label=names or NAMES, **_hybrid())
    processor = hf.RTDetrImageProcessor(size={"height": 64, "width": 64})
    return _save(folder, hf.RTDetrV2ForObjectDetection(config), processor)


def dfine(folder: Path) -> Path:
    """D-FINE, the family of the default."""
    import transformers as hf

    torch.manual_seed(0)
    backbone = hf.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 16],
        stage_mid_channels=[4, 4, 4, 4],
        stage_out_channels=[8, 8, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = hf.DFineConfig(backbone_config=backbone, id2label=NAMES, **_hybrid())
    return _save(folder, hf.DFineForObjectDetection(config), hf.RTDetrImageProcessor(size={"height": 64, "width": 64}))


def rfdetr(folder: Path) -> Path:
    """RF-DETR, on DINOv2 with windows."""
    import transformers as hf

    torch.manual_seed(0)
    backbone = hf.RfDetrDinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        num_windows=2,
        out_indices=[1, 2],
    )
    config = hf.RfDetrConfig(
        backbone_config=backbone,
        id2label=NAMES,
        d_model=16,
        decoder_ffn_dim=32,
        decoder_layers=1,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        num_queries=10,
        group_detr=1,
    )
    return _save(folder, hf.RfDetrForObjectDetection(config), hf.RfDetrImageProcessor(size={"height": 56, "width": 56}))


def yolos(folder: Path) -> Path:
    """YOLOS, which keeps the aspect, so that every size gives another input."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.YolosConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=10,
        id2label=NAMES,
    )
    processor = hf.YolosImageProcessor(size={"shortest_edge": 48, "longest_edge": 96})
    return _save(folder, hf.YolosForObjectDetection(config), processor)


def detr(folder: Path, pad: int = 0) -> Path:
    """DETR with its masks of padding; `pad`: its processor pads each image to so many pixels a side."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.DetrConfig(
        use_timm_backbone=False,
        backbone_config=hf.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage4"],
        ),
        d_model=16,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=10,
        id2label=NAMES,
        **_HEADS,
    )
    options = {"pad_size": {"height": pad, "width": pad}} if pad else {}
    processor = hf.DetrImageProcessor(size={"shortest_edge": 48, "longest_edge": 96}, **options)
    return _save(folder, hf.DetrForObjectDetection(config), processor)


def yolo(path: Path, name: str = "yolo26", names: dict[int, str] | None = None) -> Path:
    """A YOLO of ultralytics at a sixteenth of its smallest width, as its trainer saves it; for `detection_yolo`."""
    tasks = ultralytics("nn.tasks")
    torch.manual_seed(0)
    names = names or NAMES
    sizes = {**tasks.yaml_model_load(f"{name}n.yaml"), "scale": "n", "scales": {"n": [0.33, 0.0625, 1024]}}
    model = tasks.DetectionModel(sizes, nc=len(names), verbose=False)
    head = model.model[-1]
    with torch.no_grad():
        for branch in (*head.cv3, *(getattr(head, "one2one_cv3", None) or ())):
            # Fresh class heads are sure that there is nothing.
            branch[-1].bias.uniform_(-1, 1)
            branch[-1].weight.normal_(std=0.02)
        # Statistics of real activations: with those of a fresh network, nothing of the image reaches its heads.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        model.train()(torch.rand(4, 3, 128, 128))
        model.eval()
    model.names = names
    model.args = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.half(), "ema": None, "train_args": {}}, path)
    return path
