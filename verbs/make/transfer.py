"""`fourmill transfer`: fine-tune the encoder of a trained model to classify images, or to say what a sensor would."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import arguments

if TYPE_CHECKING:
    from ...model.fourm import FourM
    from ...pipelines.labelled import LabelledImages
    from ...project import Project
    from ...train.downstream.sensor_transfer import Result

ORDER = 110
HELP = "fine-tune the encoder to classify images, or to predict numbers or maps from sensors"
EXAMPLES = (
    "fourmill transfer out/runs/4m/RUN/model --train 'pets/train-*.tar' --val pets/val.csv --out out/pets",
    "fourmill transfer recipe.yaml --inputs s2 s1 dem --target agb --out out/biomass",
    "fourmill transfer recipe.yaml --inputs s2 tok_s1 --target lulc --samples 1000 --scratch --out out/lulc",
)

OPTIONS = ("epochs", "batch_size", "lr", "clip_norm", "image_size", "lora_rank", "seed")
ALL = sys.maxsize  # samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run, its model/ or one of its checkpoints, a published checkpoint (folder or hub id), or a recipe",
    )
    arguments.add_checkpoint(parser)
    text = "tars of KEY.jpg and KEY.cls, or a CSV with the columns path and label; may be given several times"
    parser.add_argument("--train", action="append", metavar="URL", help=text)
    parser.add_argument("--val", action="append", metavar="URL", help="the same, to measure on")
    text = "of a recipe: its pixels and grids that are given, all that the sample must have"
    parser.add_argument("--inputs", nargs="+", metavar="MODALITY", help=text)
    parser.add_argument("--target", metavar="SENSOR", help="of a recipe: the sensor that is predicted")
    text = "of a recipe: the first so many training samples (default: all)"
    parser.add_argument("--samples", type=int, metavar="N", help=text)
    text = "of a recipe: begin with fresh weights, to see what training has brought"
    parser.add_argument("--scratch", action="store_true", help=text)
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
    if args.model.endswith((".yaml", ".yml")):
        return _of_recipe(args, options)
    if missing := [name for name in ("train", "val") if not getattr(args, name)]:
        raise ValueError(
            f"--{missing[0]}: it is needed, as tars of KEY.jpg and KEY.cls, or a CSV; a recipe has its own"
        )
    if said := [name for name in ("inputs", "target", "samples", "scratch") if getattr(args, name)]:
        raise ValueError(f"--{said[0]}: it goes with a recipe (fourmill transfer recipe.yaml --{said[0]} ...)")
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


def _of_recipe(args: argparse.Namespace, options: Mapping[str, Any]) -> int:
    if not args.target or not args.inputs:
        lacking = "target" if not args.target else "inputs"
        raise ValueError(f"--{lacking}: it is needed with a recipe: what is given, and the sensor that is predicted")
    if said := [name for name in ("train", "val", "image_size") if getattr(args, name)]:
        raise ValueError(f"--{said[0].replace('_', '-')}: a recipe has its own; leave it out")
    result = predict(args, {name: value for name, value in options.items() if name != "image_size"})
    print(text(result))
    print(f"network: {Path(args.out).resolve()}")
    return 0


def predict(args: argparse.Namespace, options: Mapping[str, Any]) -> Result:
    """Fine-tune on the recipe's training samples, write the network, and return what it is worth. A call that was
    stopped goes on; one that has written its network does nothing."""
    from ...infra import side_files, stopping, storage
    from ...model.config import CONFIG
    from ...project import Project
    from ...recipe import load
    from ...runs import files
    from ...train.downstream import kept, sensor_transfer
    from ...train.downstream.tuning import Settings, schedule

    settings = Settings(**options)
    if not storage.is_local(args.out):
        raise ValueError(f"--out {args.out}: the network is written to this machine; name a local folder")
    files.check_writable(args.out)
    # The inputs are those of the evaluation, so that the recipe says what is wrong with their names.
    project = Project(
        load(args.model, [f"evaluate.inputs=[{', '.join(args.inputs)}]", "evaluate.chain=[]"]), args.checkpoint
    )
    job = project.evaluate_job
    target = sensor_transfer.target_of(args.target, job.generation.options.image_size)
    check_inputs(args.inputs, target.name)
    count = ALL if args.samples is None else args.samples
    if count < 1:
        raise ValueError(f"--samples: got {count}, expected at least 1")
    train, val = (
        sensor_transfer.read(job, split, args.inputs, target, most) for split, most in (("train", count), ("val", ALL))
    )
    network = _model(project, args.scratch, settings.seed)
    draws, device = job.settings.draws, job.device
    call = kept.call_of(
        network, settings, [job.fingerprint, args.inputs, target.name, target.sensor.plain(), train.places, draws]
    )
    if kept.finished(args.out, call) is not None:
        content = side_files.read_object(storage.join(args.out, CONFIG))
        assert content is not None
        return sensor_transfer.result_of(content)
    with stopping.deferred() as stop:
        keeper = kept.Keeper(args.out, call, stop)
        try:
            made, statistics, result = sensor_transfer.finetune(
                network, train, val, target, settings, draws, device, keeper
            )
        except KeyboardInterrupt as interrupt:
            steps = schedule(len(train), settings)["steps"]
            raise stopping.because_of(interrupt, keeper.said(steps)) from None
        except FloatingPointError as error:
            said = str(error).replace("lower lr", "lower --lr").replace("set clip_norm", "give --clip-norm")
            raise ValueError(said) from None
    sensor_transfer.save(made, network, target, statistics, settings, result, args.out, call)
    keeper.remove()
    return result


def check_inputs(inputs: list[str], target: str) -> None:
    """ValueError if what is to be said is given."""
    from ...modalities import MODALITIES

    if same := [name for name in inputs if MODALITIES[name].label == target]:
        raise ValueError(f"--inputs: {same[0]} is the target, {target}, itself; leave it out")


def _model(project: Project, scratch: bool, seed: int) -> FourM:
    """The recipe's trained model, or one of its sizes with fresh weights."""
    import torch

    from ...model.fourm import FourM
    from ...train.pretrain.weights import load_model

    project.check_model()
    job = project.evaluate_job
    model = load_model(job.generation.run, job.device, job.generation.step)
    if not scratch:
        return model
    torch.manual_seed(seed)
    return FourM(model.config).to(job.device)


def text(result: Result) -> str:
    """The results, for people."""
    from ...train.downstream.evaluation.table_files import said
    from ...train.downstream.sensor_transfer import TITLES

    names = list(next(iter(result.rows.values())))
    unit = "" if result.unit in ("", "1") else f", in {result.unit}"
    lines = [
        f"{result.target}{unit}, from {', '.join(result.inputs)}: {result.samples['train']:,} training and "
        f"{result.samples['val']:,} validation samples, intervals of 95 % ({result.draws:,} draws)"
    ]
    if lost := sum(result.lacking.values()):
        lines.append(f"({lost:,} samples have no {result.target}, and are left out)")
    titles = {row: TITLES[row] for row in result.rows}
    wide = max(map(len, titles.values()))
    for name in names:
        lines.append(f"  {name}")
        lines += [f"    {title:<{wide}}  {said(result.rows[row][name])}" for row, title in titles.items()]
    return "\n".join(lines)
