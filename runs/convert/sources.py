"""What a place holds that can be converted: a model, a tokenizer or a vocabulary; in which format, and from where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...infra import storage
from ...infra.formats import pth
from ...model import checkpoint as model_files
from ...model.config import CONFIG, TOKENIZERS, WEIGHTS
from ...model.published import ml4m as published_models
from ...model.published import of_tensors
from ...tokenize import ml4m as published_tokenizers
from ...tokenize import tokenizer
from ...tokenize.text.wordpiece import WordPiece
from ...train import checkpoint
from ...train.pretrain.job import MODEL
from . import fourm, states, tokenizers

if TYPE_CHECKING:
    from ...model.fourm import FourM
    from ...tokenize.tokenizer import Tokenizer

Format = Literal["fourmill", "ml4m"]
VOCABULARY = "tokenizer.json"
CHECKPOINTS = "checkpoints"
FILES = (WEIGHTS, CONFIG, tokenizer.ARCH, VOCABULARY, TOKENIZERS, storage.SUMS)


@dataclass(frozen=True)
class Found:
    """What a source holds.

    format: whose it is in. said: what it is, for people. quality, classes: of a tokenizer of ours.
    """

    content: FourM | Tokenizer | WordPiece
    format: Format
    said: str
    quality: dict[str, float]
    classes: tuple[str, ...] = ()


def find(
    source: str, weights: states.Choice | None = None, heads: int | None = None, revision: str | None = None
) -> Found:
    """Open a source.

    Args:
        source: a .pth or tokenizer.json file, a folder (of a run, its model or a checkpoint; of a tokenizer; of the
            published layouts), any URL of these, or a hub id.
        weights, heads: of training checkpoints, see `states.state` and `fourm.of_training`.
        revision: branch, tag or commit on the hub.

    Raises:
        ValueError: it is nothing of that, or not whole; the text says what it is and what to do.
    """
    if storage.is_file(source):
        return _file(source, weights, heads)
    if weights or heads:
        option = "--weights" if weights else "--heads"
        raise ValueError(f"{option} is for .pth files of ml-4m's training; {source} is none")
    if storage.list_names(source):
        return _with_words(_folder(_model_within(source)), source)
    if published_tokenizers.is_hub_id(source) and not storage.list_names(source.partition("/")[0]):
        return _hub(source, revision)
    if storage.is_local(source) and Path(storage.local_path(source)).is_dir():
        raise ValueError(f"{source}: the folder is empty; name one that holds a model, a tokenizer or a run")
    raise ValueError(f"{source}: there is no such file or folder, and it is no hub id of the form org/name")


def _file(source: str, weights: states.Choice | None, heads: int | None) -> Found:
    if source.endswith(".json"):
        with _local_file(source) as path:
            return Found(WordPiece.load(path), "ml4m", "a vocabulary of text", {})
    if source.endswith(".safetensors"):
        raise ValueError(f"{source}: weights alone do not say what they are of; name their folder, with its {CONFIG}")
    with pth.opened(source) as content:
        try:
            return _training(content, weights, heads)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error


def _training(content: dict[str, Any], weights: states.Choice | None, heads: int | None) -> Found:
    tensors, chosen = states.state(content, weights)
    args = states.arguments(content)
    of = "the average of the weights (model_ema)" if chosen == "ema" else "the trained weights (model)"
    epoch = f", epoch {content['epoch']}" if isinstance(content.get("epoch"), int) else ""
    trained = "model" in content or chosen == "ema"
    whose = f"of ml-4m's training: {of}{epoch}" if trained else "of tensors by ml-4m's names"
    if of_tensors.is_model(tensors):
        return Found(fourm.of_training(tensors, args, heads), "ml4m", f"a 4M model {whose}", {})
    if tokenizers.is_tokenizer(tensors):
        model = tokenizer.build(tokenizers.settings(tensors, args, heads))
        tokenizer.fill(model, dict(tensors))
        domain = f" of {args['domain']}" if args.get("domain") else ""
        return Found(model.eval(), "ml4m", f"a tokenizer{domain} {whose}", {})
    raise ValueError(
        f"its tensors are those of no 4M model and no tokenizer ({', '.join(sorted(tensors)[:3])}, ...); expected "
        "`mask_token` or `quant_proj.weight` among them"
    )


def _model_within(source: str) -> str:
    """The folder of the weights, where a run is named: its finished model, or the newest checkpoint."""
    names = set(storage.list_names(source))
    if names & {WEIGHTS, CONFIG, VOCABULARY, checkpoint.MARKER}:
        return source
    if MODEL in names:
        return storage.join(source, MODEL)
    saved = checkpoint.newest(storage.join(source, CHECKPOINTS) if CHECKPOINTS in names else source)
    if saved is not None:
        return saved.url
    if files := sorted(name for name in names if name.endswith((*pth.ENDINGS, *pth.UNFINISHED))):
        raise ValueError(f"{source}: it holds {', '.join(files[:5])}; name one of these files")
    if {"tokenizers", "runs"} & names:
        raise ValueError(
            f"{source}: a root holds several; name one of its runs, {source}/runs/NAME/FINGERPRINT, or tokenizers, "
            f"{source}/tokenizers/NAME"
        )
    raise ValueError(f"{source}: it holds {', '.join(sorted(names)[:5])}; expected {WEIGHTS} and {CONFIG} in it")


def _with_words(found: Found, source: str) -> Found:
    """A model of a run that has written its words beside the model alone, as older releases did, with these."""
    from ...model.fourm import FourM

    if isinstance(found.content, FourM) and found.format == "fourmill" and not found.content.tokenizers:
        places = (source, source.rstrip("/").rpartition("/")[0])
        found.content.tokenizers = next(filter(None, map(model_files.read_tokenizers, places)), {})
    return found


def _folder(place: str) -> Found:
    if (saved := checkpoint.at(place)) is not None:
        from ...train.pretrain.weights import of_checkpoint

        return Found(of_checkpoint(saved), "fourmill", f"a 4M model of fourmill, step {saved.step}", {})
    names = storage.list_names(place)
    with storage.local_folder(place, [name for name in FILES if name in names and name != storage.SUMS]) as folder:
        return _local(folder, names)


def _local(folder: Path, names: list[str]) -> Found:
    if VOCABULARY in names and WEIGHTS not in names:
        ours = CONFIG in names and "fingerprint" in model_files.read_config(folder / CONFIG)
        said = f"a vocabulary of text, of {'fourmill' if ours else 'ml-4m'}"
        return Found(WordPiece.load(folder if ours else folder / VOCABULARY), "fourmill" if ours else "ml4m", said, {})
    if WEIGHTS not in names:
        raise ValueError(f"{folder}: there is no {WEIGHTS}, only {', '.join(names[:5])}; download the folder whole")
    pth.check(folder / WEIGHTS)
    config = model_files.read_config(folder / CONFIG) if CONFIG in names else {}
    if "modalities" in config:
        return Found(model_files.load(folder), "fourmill", "a 4M model of fourmill", {})
    if "domains_in" in config or (not config and "domains_in" in model_files.read_header(folder / WEIGHTS)):
        return Found(published_models.load(folder), "ml4m", "a published 4M model", {})
    model, ours = tokenizer.load(folder), "quality" in config
    said = f"a tokenizer of {'fourmill' if ours else 'ml-4m'}"
    quality, classes = tokenizer.read_quality(folder), tokenizer.read_classes(folder)
    return Found(model, "fourmill" if ours else "ml4m", said, quality, classes)


def _hub(name: str, revision: str | None) -> Found:
    folder = published_tokenizers.fetch(name, revision, [WEIGHTS, CONFIG, tokenizer.ARCH, TOKENIZERS])
    names = storage.list_names(str(folder))
    if not names:
        raise ValueError(f"{name}: the hub has no {WEIGHTS} there; name a repository that holds one, or a .pth file")
    found = _local(folder, names)
    return Found(found.content, found.format, f"{found.said}, {name} on the hub", found.quality, found.classes)


@contextmanager
def _local_file(url: str) -> Iterator[Path]:
    if storage.is_local(url):
        yield storage.local_path(url)
        return
    head, _, name = url.rpartition("/")
    with storage.local_folder(head, [name]) as folder:
        yield folder / name
