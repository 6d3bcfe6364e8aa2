"""The fused stage, labels and tokens by networks in one pass, against a bare loop of the same models in the same order.

The bare loop reads a tar with `tarfile`, decodes with OpenCV, calls each specialist and each tokenizer on one batch
after the other, and writes nothing. The engine does the same in one actor, with safe decoding, rows and reasons,
columns, ledger, progress and Ray. Networks have random weights at the sizes given; both sides load the same files.

    python benchmarks/fused.py                  # the table
    python benchmarks/fused.py --memory         # resident memory of one worker over 200 shards
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from circumstances import state
from engine import read

from fourmill import recipe
from fourmill.pipelines import plan as plans
from fourmill.pipelines.demo import photos
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.worker import stage as engine
from fourmill.pipelines.worker.job import Job
from fourmill.pipelines.worker.shard_worker import ShardWorker
from fourmill.project import Project
from fourmill.tokenize import tokenizer
from fourmill.tokenize.codecs import Labelled
from fourmill.tokenize.crops import crops
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.train.tokenizers import fit as fitting

MODALITIES = ["tok_rgb", "tok_canny_edge", "tok_dinov2", "tok_dinov2_global", "tok_clip", "caption", "color_palette"]
BATCH = 16


class Silent:
    def post(self, **_: Any) -> None:
        pass


def save_models(folder: Path, dim: int, depth: int) -> dict[str, Any]:
    """DINOv2 and CLIP of a width and depth, and a tokenizer for each grid; `labels` and `tokenizers` of a recipe."""
    import transformers as hf

    torch.manual_seed(0)
    heads = dim // 64
    dino = hf.Dinov2Config(
        hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, image_size=224, patch_size=14
    )
    clip = hf.CLIPVisionConfig(
        hidden_size=dim, intermediate_size=4 * dim, num_hidden_layers=depth, num_attention_heads=heads, patch_size=16,
        projection_dim=dim,
    )  # fmt: skip
    hf.Dinov2Model(dino).save_pretrained(folder / "dinov2")
    hf.BitImageProcessor(size={"shortest_edge": 224}, crop_size=224).save_pretrained(folder / "dinov2")
    hf.CLIPVisionModelWithProjection(clip).save_pretrained(folder / "clip")
    hf.CLIPImageProcessor().save_pretrained(folder / "clip")
    each: dict[str, dict[str, str]] = {}
    images = {"tok_rgb": 3, "tok_canny_edge": 1}
    for name, patch in {"tok_rgb": 16, "tok_canny_edge": 16, "tok_dinov2": 14, "tok_clip": 16}.items():
        config = VQVAEConfig.small(
            192, 4, 3, image_size=224, n_channels=images.get(name, dim), patch_size=patch, codebook_size=1024,
            patch_proj=name in images,
        )  # fmt: skip
        each[name] = {"weights": str(folder / name)}
        tokenizer.save(VQVAE(config), folder / name, {})
    config = VQVAEConfig.mlp(dim, 256, 4, num_codebooks=16, codebook_size=1024)
    each["tok_dinov2_global"] = {"weights": str(folder / "global")}
    tokenizer.save(VQVAE(config), folder / "global", {})
    dinov2 = {"weights": str(folder / "dinov2")}
    specialists = {"dinov2": dinov2, "dinov2_global": dinov2, "clip": {"weights": str(folder / "clip")}}
    return {"labels": {"specialists": specialists}, "tokenizers": {"text": {"vocab_size": 5000}, "each": each}}


def bare_loop(paths: list[str], job: Job) -> float:
    """Seconds to read, decode, label and encode everything in this process."""
    worker = ShardWorker(job)  # for its loaded specialists and codecs alone
    worker.setup("cpu")
    start = time.perf_counter()
    for path in paths:
        listed = read(path)
        for first in range(0, len(listed), BATCH):
            batch = listed[first : first + BATCH]
            for item in batch:
                item.labels["rgb"] = item.image
            for label, specialist in job.specialists.items():
                for item, value in zip(batch, specialist(batch), strict=True):
                    item.labels[label] = value
            for name, codec in worker.codecs.items():
                label = job.outputs[name].label
                codec.encode([_labelled(item, label, job) for item in batch])
            for item in batch:
                item.labels.clear()
                item.shared.clear()
    return time.perf_counter() - start


def _labelled(item: Item, label: str, job: Job) -> Labelled:
    height, width = item.image.shape[:2]
    windows = crops(job.options.seed, item.key, width, height, job.options.crops)
    return Labelled(item.key, item.labels[label], windows, (width, height))


def prepared(root: Path, models: dict[str, Any], paths: list[str]) -> tuple[Job, plans.Plan]:
    """What the fused stage has to do, with its tokenizers in place."""
    asked = {"root": str(root), "samples": paths, "modalities": MODALITIES, **models}
    asked["engine"] = {"actors": 1, "batch_size": BATCH}
    project = Project(recipe.parse(asked))
    fitting.fit_all(project.fit_job(project.unfitted), 0, 1, "cpu", Silent())
    project.refresh()
    plan = project.plan(project.token_outputs)
    return project.shard_job(*plans.working(project.specialists, project.token_outputs, plan.missing)), plan


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def watch_memory(job: Job, plan: plans.Plan) -> None:
    """Resident memory of a worker as it goes through shards."""
    worker = ShardWorker(job)
    worker.setup("cpu")
    print(f"{'shards':>7}  {'resident':>12}")
    for number, task in enumerate(plan.missing, 1):
        worker.run(task)
        if number in (5, 10) or number % 20 == 0:
            print(f"{number:>7}  {resident_mb():>8.0f} MiB", flush=True)


def small_shards(folder: Path, paths: list[str], count: int, samples: int) -> list[str]:
    """`count` shards of the first samples of the given ones, so that there are many."""
    folder.mkdir()
    made = []
    for number in range(count):
        path = folder / f"{number:05d}.tar"
        with tarfile.open(paths[number % len(paths)]) as source, tarfile.open(path, "w") as target:
            for member in list(source)[: 3 * samples]:
                key, _, kind = member.name.partition(".")
                data = source.extractfile(member).read()
                member.name = f"{number:05d}-{key}.{kind}"
                target.addfile(member, io.BytesIO(data))
        made.append(str(path))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64, help="samples of a shard")
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--dim", type=int, default=384, help="width of DINOv2 and CLIP (ViT-S: 384)")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--crops", type=int, default=64, help="samples of each of the twenty photos")
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = photos.write_shards(folder / "samples", samples_per_shard=args.samples, crops_per_photo=args.crops)
        paths = [str(folder / "samples" / name) for names in made.shards.values() for name in names][: args.shards]
        if args.memory:
            paths = small_shards(folder / "small", paths, 200, 4)
        models = save_models(folder, 128 if args.memory else args.dim, 2 if args.memory else args.depth)
        job, plan = prepared(folder / "out", models, paths)
        if args.memory:
            watch_memory(job, plan)
            return
        total = args.samples * len(paths)
        print(f"{total} samples in {len(paths)} shards; {', '.join(MODALITIES)}; ViT {args.dim} x {args.depth}")
        bare = bare_loop(paths, job)
        outcome = engine.run(job, plan.missing, "tokenize")
        assert not outcome.failures and len(outcome.records) == len(MODALITIES) * len(paths)
        ours = outcome.seconds - outcome.ready_seconds
        print(f"{'':>10}  {'img/s':>8}")
        print(f"{'bare loop':>10}  {total / bare:>8.2f}")
        print(f"{'fused':>10}  {total / ours:>8.2f}  {bare / ours:.1%} of the bare loop")


if __name__ == "__main__":
    main()
