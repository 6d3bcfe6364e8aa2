"""The recipe that `fourmill init` writes: what the first shard holds, at sizes that suit the data and a machine."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..infra import storage
from ..infra.explain import reason_class
from ..infra.secrets import public
from ..pipelines import source
from ..pipelines.borders import photo
from ..pipelines.borders.look import BarsSeen
from ..pipelines.reject import Reject
from ..pipelines.settings import Images
from . import bars, known_truth, sensor_starter, sizes
from .known_truth import Held
from .machines import Machine, here
from .sensor_starter import Seen
from .sizes import Sizes

LOOKED_AT = 50  # samples of the first shard
NAMED = 10  # kinds of members that nothing reads

TEMPLATE = """\
# A fourmill recipe. Run it:  fourmill run recipe.yaml   See what exists:  fourmill status recipe.yaml
#
{findings}

root: {root}                # where everything goes; any fsspec URL (s3://bucket/out)
samples:
  train: {train}            # URL, brace pattern, glob, folder, or a list of these
  val: {val}                # shards for validation; without any, validation is skipped
seed: 0                     # of crops, shuffles and masks

images:
  size: {image_size:<18}  # pixels along a side of a crop; 4M's 224
  patch_size: {patch_size:<12}  # pixels along a side of a token: 14 x 14 tokens
{trim}  crops: 1                  # crop 0 is the centre crop, further ones are random

modalities:                 # what is tokenized and trained on
{modalities}
  # - det                   # boxes, by a COCO detector, which is downloaded; `fourmill plan` names it

labels:
  keep: {keep}
                            # raw labels that are kept beside the tokens; dense ones are large
  specialists:              # options of each label's specialist; `specialist: module:Class` takes another one
    canny_edge: {{low: 100, high: 200}}

tokenizers:
  text: {{vocab_size: {vocab_size}}}  # WordPiece, fitted on the captions
  common:                   # of all fitted tokenizers
    decoder: vit            # 4M's own for pictures: unet, by diffusion; takes days
    codebook_size: {tokenizer.codebook_size}
    dim: {tokenizer.dim}
    encoder_depth: {tokenizer.encoder_depth}
    decoder_depth: {tokenizer.decoder_depth}
    heads: {tokenizer.heads}
{quick}    steps: {fit_steps}
    batch_size: {fit_batch}
    accumulate: {fit_accumulate:<12}  # parts of a batch, one after the other, as memory allows
    base_lr: {fit_base_lr:<15}  # for a batch of 256, scaled linearly
    warmup_steps: {fit_warmup}
    precision: {fit_precision}
    samples: {fit_samples:<15}  # crops that are fitted on
    checkpoint_every: {fit_checkpoint}
  # each: {{tok_rgb: {{codebook_size: 16384}}}}   # what differs for one of them

engine:                     # how the work is spread; changes no result
  # address: auto           # a running Ray cluster; a local one is started otherwise
  cpus: 1                   # for each actor
  batch_size: 32

fit: {fit}  # each worker fits whole tokenizers

train:
  name: 4m
  model: {model_sizes}  # 4M-B: 768, 12, 12, 12
  input_tokens: 128
  target_tokens: 128
  mixtures:
    - {{input_alpha: 0.5, target_alpha: 0.5}}   # 4M-7: symmetric Dirichlets
  batch_size: {batch_size}
  accumulate: {accumulate:<14}  # parts of a batch, one after the other, as memory allows
  steps: {steps:<19}  # about {epochs:,.0f} times each sample
  warmup_steps: {warmup}
  base_lr: {base_lr:<17}  # for a batch of 256, scaled linearly
  clip_norm: 1.0
  validate_every: {validate_every}
  validation_samples: {validation_samples}
  checkpoint_every: {checkpoint_every}
  workers: {train_workers}
  gpus: {gpus:<20}  # for each worker

generate:
  samples: 8
  chains:
{chains}
{evaluate}"""


TRIM = """\
  trim_borders: true        # bars of one colour around photos are cut off
"""

# What makes a tokenizer of minutes: it begins as principal components of patches, and its codebook follows quickly.
QUICK = """\
    warm_start: true
    out_conv: false
    norm_latents: true
    loss: mse
    ema_decay: 0.95
    dead_code_coefficient: 8
    average: 0.9
    color_jitter: 0.15      # few photos do not hold every colour
"""


@dataclass(frozen=True)
class Look:
    """What the first shard holds.

    samples: of the whole shard. findings: sentences. bars, truth: around and beside the images that were looked at.
    has_photos: these are tars, and the first samples have some.
    """

    samples: int
    findings: list[str]
    has_captions: bool
    bars: BarsSeen
    truth: Held
    has_photos: bool = False


def recipe_text(
    train: Sequence[str], val: Sequence[str], root: str, machine: Machine | None = None, borders: str = ""
) -> str:
    """The recipe as YAML text.

    Args:
        train, val: shards: URLs, brace patterns, globs or folders.
        machine: that it is to run on; this one if None.
        borders: where a picture of images with bars is written, if there are some; "" for none.

    Raises:
        ValueError: no shard is found, the first one cannot be read, or the root is a file.
        FileNotFoundError: the first training or validation shard is not there.
    """
    sets, val_sets = sensor_starter.sets_of(train), sensor_starter.sets_of(val)
    _check_places([url for one in val_sets.values() for url in one], root)
    machine = machine or here()
    if list(sets) != [""]:
        return _of_sensors(sensor_starter.looked_at(sets), (sets, val_sets), root, machine)
    urls = source.expand(list(train))
    first = look(urls[0])
    if not first.has_photos and (seen := sensor_starter.looked_at(sets)).found:
        return _of_sensors(seen, (sets, val_sets), root, machine)
    samples = _estimated_samples(urls, first.samples)
    findings = [f"{len(urls)} training shards; {first.findings[0]}", *first.findings[1:]]
    if borders:
        findings.append(bars.write(first.bars, borders))
    findings.append(f"sizes are for about {samples:,} samples on {machine}")
    text = ["caption"] if first.has_captions else []
    modalities = ["rgb", "tok_rgb", "tok_canny_edge", "color_palette", "metadata", *text]
    chains = ["    - {inputs: [rgb], to: [" + ", ".join(["tok_canny_edge", *text]) + "]}"]
    if first.has_captions:
        chains.append("    - {inputs: [caption], to: [{target: tok_rgb, guidance: 2.0}]}")
    keep = [*text, "color_palette", "metadata"]
    return TEMPLATE.format(
        findings="\n".join(f"# {line}" for line in findings),
        root=json.dumps(root),
        train=json.dumps(train[0] if len(train) == 1 else list(train)),
        val=json.dumps(list(val)),
        modalities="\n".join(f"  - {name}" for name in modalities),
        trim=TRIM if first.bars.barred > bars.FEW * first.bars.images else "",
        keep=sensor_starter.flow(keep),
        chains="\n".join(chains),
        evaluate=known_truth.section(first.truth),
        **_fields(sizes.choose(samples, machine), samples, machine),
    )


def _of_sensors(
    seen: Seen, sets: tuple[Mapping[str, list[str]], Mapping[str, list[str]]], root: str, machine: Machine
) -> str:
    """The recipe of shards without photos."""
    samples = seen.samples * len(seen.shards)
    findings = [*seen.said, f"sizes are for about {samples:,} samples on {machine}"]
    fields = _fields(sizes.choose(samples, machine), samples, machine)
    return sensor_starter.text(seen.found, findings, sets, root, fields, seen.key)


def _check_places(val: Sequence[str], root: str) -> None:
    """Validation shards and the root are only looked up: a recipe with a wrong one would fail at its first run."""
    storage.check_folder(root)
    for url in source.expand(list(val))[:1] if val else ():
        if not storage.exists(url):
            raise FileNotFoundError(f"shard {public(url)}: there is no such file")


def _fields(chosen: Sizes, samples: int, machine: Machine) -> dict[str, object]:
    """The fields of the template that are sizes."""
    tokenizer, model = chosen.tokenizer, chosen.model
    cpus = max(1, machine.cores // chosen.fit_workers)
    fit = {"workers": chosen.fit_workers, "gpus" if chosen.gpus else "cpus": 1 if chosen.gpus else cpus}
    return {
        **vars(chosen),
        "quick": QUICK if tokenizer.short else "",
        "fit": sensor_starter.flow(fit),
        "fit_base_lr": _number(tokenizer.lr * 256 / chosen.fit_batch),
        "fit_warmup": chosen.fit_steps // 20,
        "fit_checkpoint": max(100, chosen.fit_steps // 20),
        "model_sizes": sensor_starter.flow(
            {name: getattr(model, name) for name in ("dim", "encoder_depth", "decoder_depth", "heads")}
        ),
        "base_lr": _number(model.lr * 256 / chosen.batch_size),
        "warmup": chosen.steps // 20,
        "epochs": chosen.steps * chosen.batch_size / max(samples, 1),
        "validate_every": max(1, chosen.steps // 4),
        "checkpoint_every": max(100, chosen.steps // 10),
    }


def _number(value: float) -> str:
    """In the form that YAML reads as a number: 6.4e-2."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _estimated_samples(urls: Sequence[str], first: int) -> int:
    """Samples of all shards: by their bytes if they are files here, else as if all were like the first."""
    try:
        bytes_ = [os.path.getsize(url) for url in urls]
    except OSError:
        return first * len(urls)
    return round(first * sum(bytes_) / max(bytes_[0], 1)) if first else 0


def look(url: str) -> Look:
    """Look into the first samples of a shard. ValueError or OSError if it cannot be read."""
    with tempfile.TemporaryDirectory() as scratch, source.open_shard(url, scratch) as shard:
        samples = shard.samples[:LOOKED_AT]
        kinds: Counter[str] = Counter(extension for sample in samples for extension in sample.members)
        captions, seen, rejected = 0, BarsSeen(), Counter[str]()
        for sample in samples:
            try:
                captions += shard.caption(sample) is not None
            except Reject as reject:
                rejected[reason_class(reject.reason)] += 1
            try:
                seen.add(*photo.decode(shard.image(sample), shard.info(sample), Images()))
            except Reject as reject:
                rejected[reason_class(reject.reason)] += 1
        findings = [f"the first has {len(shard.samples):,} samples ({public(url)})"]
        if samples:
            findings.append(
                f"of its first {len(samples)}: "
                + ", ".join(f"{count} with .{kind}" for kind, count in kinds.most_common())
                + f"; {captions} with a caption"
            )
        if sides := seen.shorter_sides:
            findings.append(f"images are {min(sides)} to {max(sides)} px along the shorter side")
        elif samples:
            findings.append("none of these has an image that can be read: every sample will be rejected")
        if shard.parts:
            named = ", ".join(f".{_in_line(name)} {count:,}" for name, count in shard.parts.most_common(NAMED))
            findings.append(f"named parts of one sample there: {named}")
        if seen.barred:
            findings.append(f"{seen.finding}; images.trim_borders cuts them off")
        held = known_truth.look(shard, samples)
        truth = [one if isinstance(one, str) else one["member"] for one in held.truth.values()]
        ignored = [name for name in shard.ignored if name.lstrip(".") not in truth]
        findings += _ignored(shard, truth)
        findings += held.findings
        findings += sensor_starter.beside_photos(shard, ignored)
        rejected.update(reason_class(reason) for _, reason in shard.rejects)
        findings += [
            f"rejected there, {count} of them: {_in_line(reason)}" for reason, count in rejected.most_common(NAMED)
        ]
        # An empty first shard says nothing about captions; assume the usual.
        return Look(
            len(shard.samples), findings, captions > 0 or not samples, seen, held, sensor_starter.has_photos(shard)
        )


def _ignored(shard: source.Shard, truth: Collection[str]) -> list[str]:
    """The members that nothing reads unless a specialist asks for them, in a sentence; [] if there are none.

    Args:
        truth: members that the evaluation reads.
    """
    unread = Counter({name: count for name, count in shard.ignored.items() if name.lstrip(".") not in truth})
    names = [(_in_line(name) or "without a suffix", count) for name, count in unread.most_common(NAMED)]
    more = ", ..." if len(unread) > NAMED else ""
    said = ", ".join(f"{name} {count:,}" for name, count in names)
    return [f"ignored there: {said}{more}; `specialist: member` reads such labels"] if said else []


def _in_line(name: str) -> str:
    """Names come from elsewhere, and stand in a comment: none may end its line."""
    return ascii(name)[1:-1]
