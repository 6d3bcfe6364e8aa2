"""`fourmill convert`: models, tokenizers and vocabularies between apple/ml-4m's formats and fourmill's."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import arguments

if TYPE_CHECKING:
    from ...runs.convert.sources import Format, Found

ORDER = 140
HELP = "models and tokenizers from apple/ml-4m's formats into fourmill's, and back"
EXAMPLES = (
    "fourmill convert checkpoint-final.pth 4m-b",
    "fourmill convert EPFL-VILAB/4M_tokenizers_rgb_16k_224-448 tok_rgb",
    "fourmill convert out/runs/4m/7022e2e3a5f84c3b for-ml-4m",
    "fourmill convert out/runs/4m/7022e2e3a5f84c3b step-4000 --checkpoint 4000",
    "fourmill convert out/tokenizers/text text_tokenizer.json",
)
_NAMES = {"fourmill": "fourmill's format", "ml4m": "apple/ml-4m's format"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "a .pth of ml-4m's training, a tokenizer.json, a folder (of a run, model or tokenizer), or a hub id"
    parser.add_argument("source", metavar="SOURCE", help=text)
    text = "the folder to write; or, for ml-4m's scripts, a file that ends in .pth (.json of a vocabulary)"
    parser.add_argument("dest", metavar="DEST", help=text)
    text = "the format to write (default: the other one than SOURCE has)"
    parser.add_argument("--to", choices=tuple(_NAMES), default=None, help=text)
    text = "of a .pth that holds both: the average (model_ema, the default), or model, which ml-4m's own loader reads"
    parser.add_argument("--weights", choices=("ema", "model"), default=None, help=text)
    text = "attention heads of a .pth whose model is none of ml-4m's own"
    parser.add_argument("--heads", type=int, default=None, metavar="N", help=text)
    parser.add_argument("--revision", default=None, help="branch, tag or commit of a hub id")
    arguments.add_checkpoint(parser)


def main(args: argparse.Namespace) -> int:
    from ...infra import storage
    from ...runs.convert import sources, write

    if args.heads is not None and args.heads < 1:
        raise ValueError(f"--heads: got {args.heads}, expected 1 or more")
    dest = args.dest.rstrip("/")
    if storage.absolute(args.source).rstrip("/") == storage.absolute(dest):
        raise ValueError(f"DEST is SOURCE, {args.source}; name another place")
    write.check_dest(dest)
    source = args.source
    if args.checkpoint is not None:
        from ...train.pretrain.load import at_step

        source = at_step(source, args.checkpoint)
    found = sources.find(source, args.weights, args.heads, args.revision)
    target: Format = args.to or ("ml4m" if found.format == "fourmill" else "fourmill")
    notes = write.write(found, dest, target)
    print(f"{source}: {found.said}; {_sizes(found)}")
    print(f"{dest}: written in {_NAMES[target]}; {_use(found, dest, target)}")
    for note in notes:
        print(note)
    return 0


def _sizes(found: Found) -> str:
    from ...model.fourm import FourM
    from ...tokenize.text.wordpiece import WordPiece

    content = found.content
    if isinstance(content, WordPiece):
        return f"{content.vocab_size:,} words, {len(content.sentinel_ids)} sentinels"
    parameters = f"{sum(p.numel() for p in content.parameters()):,} parameters"
    if isinstance(content, FourM):
        config = content.config
        names = ", ".join(spec.name for spec in config.modalities)
        depths = f"{config.encoder_depth} + {config.decoder_depth} layers, {config.dim} wide"
        return f"{depths}, {parameters}, of {names}"
    return f"{content.config.codebook_size:,} codes, {parameters}"


def _use(found: Found, dest: str, target: str) -> str:
    """What a reader does with what was written."""
    from ...model.fourm import FourM
    from ...tokenize.text.wordpiece import WordPiece

    if isinstance(found.content, FourM):
        theirs = "`--finetune`" if dest.endswith(".pth") else "`FM.from_pretrained`"
        return f"in a recipe `train: {{init: {dest}}}`" if target == "fourmill" else f"ml-4m reads it by {theirs}"
    if isinstance(found.content, WordPiece):
        ours = "`fourmill.WordPiece.load` opens it"
        return ours if target == "fourmill" else "ml-4m reads the file by `--text_tokenizer_path`"
    if target == "fourmill":
        return f"in a recipe `tokenizers: {{each: {{NAME: {{weights: {dest}}}}}}}`"
    theirs = "`get_image_tokenizer`" if dest.endswith(".pth") else "`VQVAE.from_pretrained` (`DiVAE` of diffusion)"
    return f"ml-4m reads it by {theirs}"
