"""`fourmill fit`: the tokenizers that are missing or were fitted with other settings."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from ...infra import stopping
from .. import arguments, checkup, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...project import Project
    from ...train.tokenizers.job import FitJob

ORDER = 60
HELP = "fit the tokenizers that are missing"
EXAMPLES = ("fourmill fit recipe.yaml", "fourmill fit recipe.yaml --set fit.workers=4")

add_arguments = arguments.add_stage


def main(args: argparse.Namespace) -> int:
    return show([make(arguments.load_project(args))])


def make(project: Project) -> Summary:
    """Fit on crops of the training shards that can be read."""
    start, fit, missing = time.monotonic(), project.recipe.fit, project.unfitted
    summary = Summary("fit", existed=len(project.fitted))
    if missing:
        from ...train.tokenizers import fit as fitting
        from ...train.workers import Resources

        checkup.refuse_endless_fits(project)
        stage.prepare_root(project)
        stage.pin_weights(project, project.specialists, project.inventory.records(project.label_outputs).values())
        resources = Resources(fit.workers, fit.cpus, fit.gpus)
        job, failure = project.fit_job(missing), "it was not fitted"
        try:
            fitting.run(job, resources, project.recipe.engine.address)
        except KeyboardInterrupt as interrupt:
            raise stopping.because_of(interrupt, _kept(job)) from None
        except RuntimeError as error:
            failure = str(error)
        project.refresh()
        reasons = fitting.reasons(failure, missing)
        for name in missing:
            if name not in project.fitted:
                summary.missing[f"tokenizers/{name}"] = reasons.get(name, failure)
        summary.made = len(missing) - len(summary.missing)
    for name, tokenizer in project.fitted.items():
        quality = ", ".join(f"{measure} {value:.4g}" for measure, value in tokenizer.quality.items())
        summary.notes.append(f"{name}: {tokenizer.vocab_size} entries{', ' + quality if quality else ''}")
    return stage.finish(project, summary, start, "tokenizers", project.fit_fingerprints)


def _kept(job: FitJob) -> str:
    """Where the next start of a fit that was stopped goes on, for people."""
    from ...train.tokenizers import fit as fitting

    steps = {name: fitting.saved_step(job, name) for name in job.tokenizers}
    begun = [f"{name} from step {step}" for name, step in steps.items() if step is not None]
    goes_on = f"goes on with {', '.join(begun)}" if begun else "begins with those that are not finished at step 0"
    return f"finished tokenizers are kept; the same command {goes_on}"
