"""`fourmill transfer`: fine-tune the encoder of a trained model to classify images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import arguments

if TYPE_CHECKING:
    from ...model.fourm import FourM
    from ...pipelines.labelled import LabelledImages

ORDER = 110
HELP = "fine-tune the encoder to classify images"
EXAMPLES = ("fourmill transfer out/runs/4m/RUN/model --train 'pets/train-*.tar' --val pets/val.csv --out out/pets",)

OPTIONS = ("epochs", "batch_size", "lr", "clip_norm", "image_size", "lora_rank", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run, its model/ or one of its checkpoints, or a published checkpoint: folder or hub id",
    )
    arguments.add_checkpoint(parser)
    text = "tars of KEY.jpg and KEY.cls, or a CSV with the columns path and label; may be given several times"
    parser.add_argument("--train", required=True, action="append", metavar="URL", help=text)
    parser.add_argument("--val", required=True, action="append", metavar="URL", help="the same, to measure on")
    parser.add_argument("--out", required=True, metavar="DIR", help="a local folder for the classifier")
    parser.add_argument("--epochs", type=int, default=20, help="(default: 20)")
    parser.add_argument("--batch-size", type=int, default=256, help="(default: 256)")
    parser.add_argument("--lr", type=float, default=1e-4, help="of the head (default: 1e-4)")
    text = "largest norm of the gradient (default: no limit)"
    parser.add_argument("--clip-norm", type=float, default=None, metavar="NORM", help=text)
    text = "pixels (default: those that the model was trained at)"
    parser.add_argument("--image-size", type=int, default=None, help=text)
    parser.add_argument("--lora-rank", type=int, default=0, help="low-rank corrections instead of all weights")
    parser.add_argument("--seed", type=int, default=0)


def main(args: argparse.Namespace) -> int:
    options = {name: getattr(args, name) for name in OPTIONS}
    history = make(args.model, args.train, args.val, args.out, options, args.checkpoint)
    print(f"{'epoch':>5}  {'loss':>8}  {'top-1':>7}  {'top-5':>7}")
    for epoch, row in enumerate(history, 1):
        print(f"{epoch:>5}  {row['loss']:>8.4f}  {row['top1']:>7.2%}  {row['top5']:>7.2%}")
    print(f"classifier: {Path(args.out).resolve()}")
    return 0


def make(
    model: str,
    train: Sequence[str],
    val: Sequence[str],
    out: str,
    options: dict[str, Any],
    checkpoint: int | None = None,
) -> list[dict[str, float]]:
    """Fine-tune, write the classifier, and return loss, top-1 and top-5 of each epoch. A call that was stopped goes on;
    one that has written its classifier does nothing.

    Args:
        model: what `train.pretrain.load.load_model` takes: a run, a checkpoint, a published folder or hub id.
        train, val: tars with a .cls beside each image, or CSV tables with the columns path and label.
        out: a local folder for the classifier.
        options: fields of `train.downstream.transfer.Settings`.
        checkpoint: the step of a run's checkpoint.
    """
    from ...infra import stopping, storage
    from ...pipelines import labelled
    from ...runs import files
    from ...train.downstream import kept, transfer

    settings = transfer.Settings(**options)
    # All that it will read or write is looked at before the first step.
    if not storage.is_local(out):
        raise ValueError(f"--out {out}: the classifier is written to this machine; name a local folder")
    files.check_writable(out)
    images = labelled.read(list(train))
    held_out = labelled.read(list(val), images.classes)
    network, device = _network(model, checkpoint)
    settings = transfer.resolved(settings, network.config)
    transfer.check(network, images, settings)
    call = kept.call_of(network, settings, [images.identity(), held_out.identity()])
    if (history := kept.finished(out, call)) is not None:
        return history
    _look_at(images, held_out)
    with stopping.deferred() as stop:
        keeper = kept.Keeper(out, call, stop)
        try:
            classifier, history = transfer.finetune(network, images, held_out, settings, device, keeper)
        except KeyboardInterrupt as interrupt:
            steps = transfer.schedule(len(images), settings)["steps"]
            raise stopping.because_of(interrupt, keeper.said(steps)) from None
        except FloatingPointError as error:
            text = str(error).replace("lower lr", "lower --lr").replace("set clip_norm", "give --clip-norm")
            raise ValueError(text) from None
    about = {"call": call, "history": history}
    transfer.save(classifier, network.config, images.classes, settings, out, about)
    keeper.remove()
    return history


def _network(model: str, checkpoint: int | None) -> tuple[FourM, str]:
    """The model, and the device it is on."""
    import torch

    from ...train.pretrain.load import at_step, load_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(at_step(model, checkpoint), device), device


def _look_at(*sets: LabelledImages) -> None:
    from ...infra.progress import Progress

    with Progress("look at images", sum(map(len, sets)), "images") as progress:
        for images in sets:
            images.check(progress.update)
