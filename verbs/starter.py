"""`fourmill init`: a commented starter recipe, after a look into the first shard."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence

from ..pipelines import images, source
from ..pipelines.reject import Reject

LOOKED_AT = 50  # samples of the first shard

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
  size: 224                 # pixels along a side of a crop
  patch_size: 16            # pixels along a side of a token: 14 x 14 tokens
  crops: 1                  # crop 0 is the centre crop, further ones are random

modalities:                 # what is tokenized and trained on
{modalities}

labels:
  keep: {keep}
                            # raw labels that are kept beside the tokens; dense ones are large
  specialists:              # options of each label's specialist; `specialist: module:Class` takes another one
    canny_edge: {{low: 100, high: 200}}
    det: {{specialist: hog_people}}   # people only, without a download; leave it out for a COCO detector

tokenizers:
  text: {{vocab_size: 30000}} # WordPiece, fitted on the captions
  common:                   # of all fitted tokenizers; these sizes suit a few GPUs and some hours
    decoder: vit            # 4M's own for pictures: unet, by diffusion; takes days
    codebook_size: 8192
    dim: 384
    encoder_depth: 8
    decoder_depth: 8
    heads: 6
    steps: 50000
    batch_size: 256
    precision: fp32         # bf16 on GPUs that have it
    samples: 100000         # crops that are fitted on
  # each: {{tok_rgb: {{codebook_size: 16384}}}}   # what differs for one of them

engine:                     # how the work is spread; changes no result
  # address: auto           # a running Ray cluster; a local one is started otherwise
  cpus: 1                   # for each actor
  batch_size: 32

train:
  name: 4m
  model: {{dim: 384, encoder_depth: 6, decoder_depth: 6, heads: 6}}   # 4M-B: dim 768, depths 12, heads 12
  input_tokens: 128
  target_tokens: 128
  mixtures:
    - {{input_alpha: 0.5, target_alpha: 0.5}}   # 4M-7: symmetric Dirichlets
  batch_size: 256
  steps: 100000
  base_lr: 1.0e-4           # for a batch of 256, scaled linearly
  # gpus: 1                 # for each of `workers`

generate:
  samples: 8
  chains:
{chains}
"""


def recipe_text(train: Sequence[str], val: Sequence[str], root: str) -> str:
    """The recipe as YAML text. ValueError if no shard is found, or the first one cannot be read."""
    urls = source.expand(list(train))
    findings, has_captions = look(urls[0])
    findings = [f"{len(urls)} training shards; {findings[0]}", *findings[1:]]
    text = ["caption"] if has_captions else []
    modalities = ["rgb", "tok_rgb", "tok_canny_edge", "color_palette", "metadata", *text, "det"]
    chains = ["    - {inputs: [rgb], to: [tok_canny_edge, " + ", ".join([*text, "det"]) + "]}"]
    if has_captions:
        chains.append("    - {inputs: [caption], to: [{target: tok_rgb, guidance: 2.0}]}")
    keep = [*text, "det", "color_palette", "metadata"]
    return TEMPLATE.format(
        findings="\n".join(f"# {line}" for line in findings),
        root=json.dumps(root),
        train=json.dumps(train[0] if len(train) == 1 else list(train)),
        val=json.dumps(list(val)),
        modalities="\n".join(f"  - {name}" for name in modalities),
        keep=json.dumps(keep).replace('"', ""),
        chains="\n".join(chains),
    )


def look(url: str) -> tuple[list[str], bool]:
    """What the first samples of a shard hold, as sentences, and whether any has a caption."""
    with tempfile.TemporaryDirectory() as scratch, source.open_shard(url, scratch) as shard:
        samples = shard.samples[:LOOKED_AT]
        kinds: Counter[str] = Counter(extension for sample in samples for extension in sample.members)
        captions, sizes = 0, []
        for sample in samples:
            try:
                captions += shard.caption(sample) is not None
                sizes.append(images.decode(shard.image(sample), 100_000_000).shape[:2])
            except Reject:
                continue
        findings = [f"the first has {len(shard.samples):,} samples ({url})"]
        if samples:
            findings.append(
                f"of its first {len(samples)}: "
                + ", ".join(f"{count} with .{kind}" for kind, count in kinds.most_common())
                + f"; {captions} with a caption"
            )
        if sizes:
            shorts = sorted(min(size) for size in sizes)
            findings.append(f"images are {shorts[0]} to {shorts[-1]} px along the shorter side")
        findings += [f"found: {reason}" for _, reason in shard.rejects[:3]]
        # An empty first shard says nothing about captions; assume the usual.
        return findings, captions > 0 or not samples
