"""What a trained model is for beyond generation: `fourmill retrieve` and `fourmill transfer`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import jobs
from .infra import ledger
from .recipe import Recipe, RecipeError


def retrieve(recipe: Recipe, query: str, texts: Sequence[str], target: str, split: str, top: int, as_json: bool) -> int:
    """Search the images of a split and print what was found; see `train.retrieve.run`. Returns the exit status."""
    from .train.downstream import retrieve as retrieval
    from .train.pretrain import weights

    if top < 1:
        raise ValueError(f"--top: got {top}, expected 1 or more")
    recipe, specialists = jobs.prepare(recipe)
    run = jobs.train_job(recipe, specialists)
    if ledger.read(recipe.root, f"runs/{recipe.train.name}", run.fingerprint) is None:
        raise RecipeError("retrieve: the model of this recipe is not trained; run `fourmill train` first")
    job = jobs.generate_job(recipe, run)
    found = retrieval.run(job, weights.load_model, query, texts=texts, target=target, split=split, top=top)
    recall = {} if texts else retrieval.recall(found, (1, min(5, top)))
    if as_json:
        print(json.dumps({"found": [_plain(one) for one in found], "recall": recall}, indent=1, ensure_ascii=False))
        return 0
    for one in found:
        print(one.query if isinstance(one.query, str) else f"{query} of {one.query[1]} ({one.query[0]})")
        for (shard, key, _), cosine in one.places:
            print(f"  {cosine:6.3f}  {key}  ({shard})")
    for n, share in recall.items():
        print(f"own image among the first {n}: {share:.1%} of {len(found)} queries")
    return 0


def _plain(found: Any) -> dict[str, Any]:
    places = [{"shard": shard, "key": key, "row": row, "cosine": cosine} for (shard, key, row), cosine in found.places]
    return {"query": found.query, "places": places}


def transfer(model: str, train: Sequence[str], val: Sequence[str], out: str, options: dict[str, Any]) -> int:
    """Fine-tune a model's encoder to classify images, and print what it reached. Returns the exit status.

    Args:
        model: the model/ of a run, or a published checkpoint: folder or hub id.
        train, val: tars with a .cls beside each image, or CSV tables with the columns path and label.
        out: a local folder for the classifier.
        options: fields of `train.transfer.Settings`.
    """
    import torch

    from .pipelines import labelled
    from .train.downstream import transfer as tuning
    from .train.pretrain import initial

    settings = tuning.Settings(**options)
    images = labelled.read(list(train))
    held = labelled.read(list(val), images.classes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = initial.load(model)
    classifier, history = tuning.finetune(network, images, held, settings, device)
    tuning.save(classifier, network.config, images.classes, settings, out)
    print(f"{'epoch':>5}  {'loss':>8}  {'top-1':>7}  {'top-5':>7}")
    for epoch, row in enumerate(history, 1):
        print(f"{epoch:>5}  {row['loss']:>8.4f}  {row['top1']:>7.2%}  {row['top5']:>7.2%}")
    print(f"classifier: {Path(out).resolve()}")
    return 0
