"""Labelling by the engine's own worker, two shards overlapping as in an actor, with the largest models at random
weights: SAM ViT-H, Depth Anything with DINOv2-L, T5 (XL; XXL has four times its weights), DINOv2-L.

- GPU idle: share of the time in which no kernel ran, by nvidia-smi, where it is there.

SAM's random weights give masks that are not kept, so that what follows its network is not in these figures.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from gpu import Part, Place

from fourmill import recipe as recipes
from fourmill.pipelines import plan as plans
from fourmill.pipelines.worker.shard_worker import ShardWorker
from fourmill.project import Project

from .training import GIB

ORDER = 2
OPTIONS: dict[str, dict[str, Any]] = {"depth": {"predicts": "inverse_depth"}}
FEW_POINTS = {"points_per_side": 2}  # of SAM, at a toy's size


def depth(folder: Path, tiny: bool) -> None:
    import transformers as hf

    stages = [1, 2, 3, 4] if tiny else [5, 12, 18, 24]
    backbone = hf.Dinov2Config(
        hidden_size=32 if tiny else 1024, num_hidden_layers=stages[-1], num_attention_heads=2 if tiny else 16,
        image_size=56 if tiny else 518, patch_size=14, out_indices=stages, apply_layernorm=True,
        reshape_hidden_states=False,
    )  # fmt: skip
    config = hf.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32 if tiny else 1024, patch_size=14,
        neck_hidden_sizes=[8, 8, 8, 8] if tiny else [256, 512, 1024, 1024], fusion_hidden_size=8 if tiny else 256,
    )  # fmt: skip
    side = 56 if tiny else 518
    size = {"height": side, "width": side}
    processor = hf.DPTImageProcessor(size=size, keep_aspect_ratio=True, ensure_multiple_of=14)
    _save(hf.DepthAnythingForDepthEstimation(config), processor, folder)


def dinov2(folder: Path, tiny: bool) -> None:
    import transformers as hf

    config = hf.Dinov2Config(
        hidden_size=32 if tiny else 1024, num_hidden_layers=2 if tiny else 24, num_attention_heads=2 if tiny else 16,
        image_size=56 if tiny else 224, patch_size=14,
    )  # fmt: skip
    side = 56 if tiny else 224
    _save(hf.Dinov2Model(config), hf.BitImageProcessor(size={"shortest_edge": side}, crop_size=side), folder)


def t5_caption(folder: Path, tiny: bool) -> None:
    import transformers as hf
    from fourmill_tests.tiny.t5 import t5

    t5(folder)  # its tokenizer of letters
    if not tiny:
        config = hf.T5Config.from_pretrained(folder)
        sizes = {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32}
        _save(hf.T5EncoderModel(hf.T5Config(**(config.to_dict() | sizes))), None, folder)


def sam_instance(folder: Path, tiny: bool) -> None:
    import transformers as hf
    from fourmill_tests.tiny.sam import sam

    if tiny:
        sam(folder)
        return
    vision = {
        "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "global_attn_indexes": [7, 15, 23, 31],
        "mlp_dim": 5120,
    }  # fmt: skip
    _save(hf.SamModel(hf.SamConfig(vision_config=vision)), hf.SamImageProcessor(), folder)


MODELS: dict[str, Callable[[Path, bool], None]] = {
    "depth": depth, "dinov2": dinov2, "t5_caption": t5_caption, "sam_instance": sam_instance,
}  # fmt: skip


def _save(model: Any, processor: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)


def shards(folder: Path, count: int, samples: int) -> list[str]:
    """Tars of noisy pictures of 640 x 480 with captions of 5 to 14 words."""
    rng, made = np.random.default_rng(0), []
    for number in range(count):
        path = folder / f"{number:05d}.tar"
        with tarfile.open(path, "w") as tar:
            for i in range(samples):
                picture = cv2.resize(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8), (640, 480))
                words = " ".join(rng.choice(["a", "cat", "dog", "on", "the", "grass"], rng.integers(5, 15)))
                for kind, data in (("jpg", cv2.imencode(".jpg", picture)[1].tobytes()), ("txt", words.encode())):
                    info = tarfile.TarInfo(f"{number:03d}{i:05d}.{kind}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        made.append(str(path))
    return made


def labelled(labels: tuple[str, ...], samples: int, place: Place) -> dict[str, Any]:
    """Images/s of a worker that makes and commits these labels, its first shard not counted."""
    import transformers as hf

    hf.utils.logging.disable_progress_bar()
    specialists = {}
    with torch.device(place.device):  # a GPU draws random weights sooner
        for label in labels:
            MODELS[label](place.folder / label, place.tiny)
            few = FEW_POINTS if place.tiny and label == "sam_instance" else {}
            specialists[label] = {"weights": str(place.folder / label), **OPTIONS.get(label, {}), **few}
    count, samples = (2, 2) if place.tiny else (3, samples)
    paths = shards(place.folder, count, samples)
    keep = {"labels": {"keep": list(labels), "specialists": specialists}}
    asked = {"root": str(place.folder / "out"), "samples": paths, "modalities": ["rgb"], "generate": {"chains": []}}
    project = Project(recipes.parse(asked | keep))
    plan = project.plan(project.label_outputs)
    made, tasks = plans.working(project.specialists, project.label_outputs, plan.missing)
    worker = ShardWorker(project.shard_job(made, tasks))
    worker.setup(place.device)
    worker.run(plan.missing[0])
    if place.device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # the models were made on the GPU
    with idle_share() as idle, ThreadPoolExecutor(2) as pool:
        begin = time.perf_counter()
        list(pool.map(worker.run, plan.missing[1:]))
        spent = time.perf_counter() - begin
    figures: dict[str, Any] = {"images/s": (count - 1) * samples / spent, **idle}
    rejects = sum(worker.tally.rejects.values())
    if rejects:
        figures["rejects"] = rejects
    return figures | ({"peak GiB": torch.cuda.max_memory_allocated() / GIB} if place.device == "cuda" else {})


@contextmanager
def idle_share() -> Iterator[dict[str, float]]:
    """`GPU idle`, when it is over; nothing where there is no nvidia-smi."""
    found: dict[str, float] = {}
    if shutil.which("nvidia-smi") is None:
        yield found
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        busy: list[float] = []

        def read() -> None:
            assert process.stdout is not None
            busy.extend(float(line) for line in process.stdout if line.strip().isdigit())

        reader = threading.Thread(target=read)
        reader.start()
        yield found
        process.terminate()
        reader.join()
    if busy:
        found["GPU idle"] = 1 - sum(busy) / len(busy) / 100


PARTS = [
    Part("labels", partial(labelled, ("depth", "dinov2", "t5_caption"), 512), 45),
    Part("labels-SAM", partial(labelled, ("sam_instance",), 24), 45),
]
