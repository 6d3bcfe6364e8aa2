"""A recipe resolved, once: its specialists, shards, fitted tokenizers, outputs, plan, and the jobs that workers get.

Every property is computed when it is first needed and kept. A stage that has made something calls `refresh`; until then
no shard is listed twice, no specialist built twice and no record read twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from . import derived
from .infra import configuration, ledger, storage, versions
from .infra.configuration import RecipeError
from .infra.fingerprint import fingerprint, hashed
from .infra.ledger import SAMPLES
from .infra.versions import Part
from .modalities import MODALITIES, TEXT, TOKENIZERS, Form
from .pipelines import columns, outputs, source, stops
from .pipelines import plan as plans
from .pipelines.columns import Columns
from .pipelines.curation import selection as selections
from .pipelines.curation.selection import Chosen, Selection
from .pipelines.outputs import Fitted, LabelPrints, Output, TokenOptions
from .pipelines.plan import Inventory, Plan, Shards
from .pipelines.specialists import conventions, pins, registry, shared_weights
from .pipelines.specialists.base import Specialist
from .recipe import Recipe, code_of, parse
from .tokenize import codecs
from .tokenize import settings as tokenizer_settings
from .tokenize.class_lists import BOXES
from .tokenize.codecs import Options
from .train.downstream.evaluation import settings as evaluation
from .train.tokenizers import adopt

if TYPE_CHECKING:
    from .pipelines.worker.job import Job
    from .train.downstream.evaluation.job import EvaluateJob
    from .train.downstream.generation_job import GenerateJob
    from .train.pretrain.job import TrainJob
    from .train.tokenizers.job import FitJob


class Project:
    """A recipe with everything that follows from it and from what storage holds.

    Args:
        recipe: as it was loaded.
        update: ask again for what other versions of specialists, codecs or fits have made.
        checkpoint: the step of the run's checkpoint that is generated from and evaluated; None for its finished model,
            or its newest checkpoint until there is one.

    ValueError or RecipeError if it cannot be run: the root is a file, an option is wrong, a pattern matches
    nothing, a tokenizer cannot be found.
    """

    def __init__(self, recipe: Recipe, update: bool = False, checkpoint: int | None = None) -> None:
        self.update, self._checkpoint = update, checkpoint
        absolute = recipe.model_copy(update={"root": storage.absolute(recipe.root)})
        self.recipe = derived.complete(absolute)
        # What is wrong with the recipe is said now, before any process starts.
        storage.check_folder(self.root)
        self.classes = recipe.class_lists
        self.specialists = registry.build(recipe.made, recipe.labels, recipe.modules, self.classes)
        try:
            self.shards: Shards = plans.list_shards(recipe.samples, self.root)
        except RecipeError as error:
            raise RecipeError(f"{error}; `fourmill download` makes them" if recipe.download else str(error)) from None
        self.inventory = Inventory(self.root, self.shards)
        self._chosen: dict[str, Chosen] = {}  # by shard, what `train.select` selects
        try:
            if recipe.train.select is not None:
                selections.check(recipe.train.select, recipe.labels.keep, self.specialists)
            versions.check_pins(recipe.versions, self._parts())
            self.evaluation = evaluation.resolved(recipe.evaluate, conventions.depth_scales(self.specialists))
        except ValueError as error:
            raise RecipeError(str(error)) from None

    @property
    def root(self) -> str:
        return self.recipe.root

    def refresh(self, records: Iterable[ledger.Entry] = ()) -> None:
        """Drop what a stage may have changed: fitted tokenizers, plans, jobs, what is known of the source shards.

        Args:
            records: that the stage has committed; all others need not be read again.
        """
        self.inventory.add(records)
        self._drop()

    def refresh_all(self) -> None:
        """The same after a stage that failed: what it has committed is not known, and all records are read again."""
        self.inventory.read_again()
        self._drop()

    def _drop(self) -> None:
        self.inventory.look_again()
        for name in ("fitted", "token_outputs", "columns_plan", "columns", "train_job", "generate_job", "evaluate_job"):
            self.__dict__.pop(name, None)

    # What is asked for.

    @cached_property
    def label_prints(self) -> LabelPrints:
        return outputs.label_prints(self.recipe.images, self.specialists, self.classes, *self.recipe.keys)

    @cached_property
    def label_outputs(self) -> dict[str, Output]:
        """The kept labels, and with them the record of each shard's samples."""
        keep, keys = self.recipe.labels.keep, self.recipe.keys
        made = outputs.label_outputs(keep, self.specialists, self.label_prints, self.classes, *keys)
        return made | outputs.imported_labels(self.recipe.imported, not self.recipe.reads_samples)

    @cached_property
    def stored_labels(self) -> dict[str, Output]:
        """Kept labels, which a task may read instead of making them again."""
        return {name: one for name, one in self.label_outputs.items() if name != SAMPLES and not one.imported}

    @cached_property
    def fit_fingerprints(self) -> dict[str, str]:
        """Fingerprint of the settings of every tokenizer that the recipe needs.

        Shards do not count: adding some must not make every token of the others worthless.
        """
        return self._fit_fingerprints(self.label_prints.current)

    @cached_property
    def fits(self) -> dict[str, Output]:
        """The tokenizers that the recipe needs, by name."""
        former = self._fit_fingerprints(self.label_prints.former)
        return {
            name: Output(f"tokenizers/{name}", "", print_, parts=self.fit_parts(name), former=former[name])
            for name, print_ in self.fit_fingerprints.items()
        }

    def _fit_fingerprints(self, labels: Mapping[str, str]) -> dict[str, str]:
        recipe = self.recipe
        first = tokenizer_settings.FIRST_FIT_VERSION
        prints = {}
        if recipe.has_text:
            words = [list(self.classes[BOXES])] if BOXES in self.classes else []
            text = recipe.tokenizers.text
            prints[TEXT] = fingerprint("fit", first, adopt.identity(text) or hashed(text), *words)
        for name in recipe.tokenizers_needed:
            entry, settings = TOKENIZERS[name], recipe.tokenizer(name)
            idle = tokenizer_settings.useless(name) | {"weights", "revision"} if entry.is_table else frozenset()
            values = adopt.identity(settings) or hashed(settings, tokenizer_settings.NOT_OF_FITS | idle)
            own_size = entry.image_size or entry.form in (Form.VECTOR, Form.NUMBERS)
            label = labels.get(entry.label, "")  # none is made of what is imported
            parts = [values, label, 0 if own_size else recipe.images.size, recipe.seed]
            if entry.label in recipe.sensors:
                parts.append(recipe.sensors[entry.label].of_fits())
            prints[name] = fingerprint("fit", first, *parts)
        return prints

    def fit_parts(self, name: str) -> tuple[Part, ...]:
        """What a tokenizer is made by: the code that fits it, and its label's specialists."""
        labels = self.label_prints.parts.get(TOKENIZERS[name].label, ()) if name in TOKENIZERS else ()
        return (tokenizer_settings.fit_part(name), *labels)

    def _parts(self) -> list[Part]:
        """Everything with a version that the recipe uses."""
        coders = [codecs.part(MODALITIES[name].codec) for name in self.recipe.made]
        fits = [tokenizer_settings.fit_part(name) for name in self.recipe.tokenizers_needed]
        return [*(one.part() for one in self.specialists.values()), *coders, *fits]

    # What exists.

    @cached_property
    def fitted(self) -> dict[str, Fitted]:
        """The tokenizers that are fitted as the recipe asks, by name."""
        good = {}
        for name, fit in self.fits.items():
            record = ledger.read(self.root, "tokenizers", name)
            why = None if record is None else fit.outdated(record, self.recipe.versions)
            if record is None or why is None or (why and self.update):
                continue
            files = codecs.WORDPIECE_FILES if name == TEXT else codecs.CODEBOOK_FILES
            if set(files) <= set(storage.list_names(storage.join(self.root, "tokenizers", name))):
                identity = record.identity
                good[name] = Fitted(record.sha256, identity["vocab_size"], identity["quality"], tuple(why))
        return good

    @property
    def unfitted(self) -> list[str]:
        """The tokenizers that are yet to be fitted."""
        return [name for name in self.fit_fingerprints if name not in self.fitted]

    @cached_property
    def token_outputs(self) -> dict[str, Output]:
        """One column for each modality. RecipeError if a tokenizer is not fitted."""
        text = self.fitted.get(TEXT)
        specs = self.recipe.specs(text.vocab_size if text else 0)
        recipe, score = self.recipe, self.recipe.tokenizers.min_box_score
        options = TokenOptions(recipe.seed, recipe.images, score, recipe.precisions)
        imported = [spec for spec in specs if spec.name in recipe.imported]
        others = [spec for spec in specs if spec not in imported]
        made = outputs.token_outputs(others, options, self.label_prints, self.fitted)
        both = made | outputs.imported_tokens(imported, self.fitted)
        return {name: both[name] for name in (f"tokens/{spec.name}" for spec in specs)}

    def plan(
        self, asked: Mapping[str, Output], stored: Mapping[str, Output] | None = None, footers: bool = False
    ) -> Plan:
        """What of these outputs exists and what is left to do; see `plans.make`."""
        standing = stops.read(self.root, {**asked, **(stored or {})}, self.recipe.engine.max_reject_run)
        return plans.make(self.inventory, asked, stored, self.recipe.versions, self.update, footers, standing)

    @cached_property
    def columns_plan(self) -> Plan:
        """The plan of all columns."""
        return self.plan(self.token_outputs)

    @cached_property
    def columns(self) -> Columns:
        """The columns of the shards that have all of them."""
        return columns.complete(self.root, self.columns_plan)

    # What workers are sent.

    def codec_options(self) -> Options:
        """What the recipe says about tokens beyond the sizes of modalities."""
        recipe, images = self.recipe, self.recipe.images
        sizes, score = (images.size, images.crops), recipe.tokenizers.min_box_score
        return Options(recipe.seed, *sizes, images.pixel_format, images.jpeg_quality, score, recipe.precisions)

    @property
    def weights_place(self) -> str:
        """The folder that keeps weights of the hub for all nodes, "" for none."""
        return shared_weights.place(self.root, self.recipe.engine.weights, self.recipe.engine.address)

    def shard_job(self, specialists: dict[str, Specialist], asked: dict[str, Output]) -> Job:
        """What an actor needs to know to make outputs. RecipeError if one is pinned at another version than the code's,
        or if a specialist cannot make its label as the recipe has it.

        Args:
            specialists: that are loaded. asked: outputs to make.
        """
        from .pipelines.worker.job import Job

        if reasons := [why for one in specialists.values() if (why := one.why_not(self.specialists))]:
            raise RecipeError("\n".join(reasons))
        for output in asked.values():
            # Of a label that no task makes the stored one is read, whatever its version.
            parts = [p for p in output.parts if p.name.removeprefix("labels/") in {p.name, *specialists}]
            if why := versions.unmakeable(parts, self.recipe.versions):
                raise RecipeError(why)
        pins.apply(self.root, specialists.values())
        shared_weights.apply(self.weights_place, specialists.values())
        recipe, scratch = self.recipe, source.scratch_folder()
        # Of all specialists, and not of those that have work now: threads must not depend on what is there already.
        cpus = max((one.cpus for one in self.specialists.values()), default=1.0)
        options, modules = self.codec_options(), recipe.declares
        reads = {name for one in self.specialists.values() for name in one.reads()}
        reads |= {truth.member.lower() for truth in recipe.evaluate.truth.values()}
        return Job(
            self.root, scratch, recipe.images, options, recipe.engine, specialists, asked, modules, self.classes,
            frozenset(reads), cpus, key=recipe.samples.key,
        )  # fmt: skip

    def fit_job(self, names: list[str]) -> FitJob:
        """The fits of these tokenizers. RecipeError if no training shard can be read."""
        from .pipelines.fit_data import FitData, with_weights
        from .train.tokenizers.job import FitJob

        recipe = self.recipe
        for name in names:
            if why := versions.unmakeable(self.fit_parts(name), recipe.versions):
                raise RecipeError(why)
        self.check_fits(names)
        labels = with_weights({TOKENIZERS[name].label if name in TOKENIZERS else "caption" for name in names})
        text = recipe.tokenizers.text
        if brought := all((text if name == TEXT else recipe.tokenizer(name)).weights for name in names):
            plan = plans.Plan({}, {}, {split: [] for split in plans.SPLITS})  # no sample is needed
        else:
            plan = self.plan({}, self.stored_labels)
        job = self.shard_job(plans.unstored(self.specialists, labels, plan.tasks.values()), {})

        def data(split: str) -> FitData | None:
            there = (name for name in plan.splits[split] if name in plan.tasks and name not in plan.unseen)
            tasks = tuple(plan.tasks[name] for name in there)
            return FitData(job, tasks) if tasks else None

        train = FitData(job, ()) if brought else data("train")
        if train is None:
            raise RecipeError("fit: none of the training shards can be read: " + "; ".join(plan.unseen.values()))
        # Crops of stored labels are of the versions that made these.
        used = {part: version for task in train.tasks for part, version in task.versions.items()}
        return FitJob(
            root=recipe.root,
            seed=recipe.seed,
            image_size=recipe.images.size,
            text=recipe.text_of_fit if TEXT in names else None,
            tokenizers={name: recipe.tokenizer(name) for name in names if name != TEXT},
            prints=self.fit_fingerprints,
            versions={name: versions.identity(self.fit_parts(name), used) for name in names},
            train=train,
            val=data("val"),
            share=recipe.fit.share,
            classes=self.classes,
        )

    def check_fits(self, names: Iterable[str]) -> None:
        """RecipeError if the settings of one of these tokenizers would teach it nothing."""
        for name in names:
            if name != TEXT and (why := tokenizer_settings.never_warm(self.recipe.tokenizer(name))):
                raise RecipeError(f"tokenizers, {name}: {why}")

    def check_training(self) -> list[str]:
        """RecipeError if what training begins with, or also trains on, is not there, or does not fit: better known
        before labelling. Returns sentences for the user, on what training begins with."""
        recipe = self.recipe
        if not recipe.train.begins_with and not recipe.train.datasets:
            return []
        from .train.pretrain import initial, vocabularies  # loads torch

        initial.check(recipe.train)
        text = self.fitted.get(TEXT)
        known = text is not None or recipe.tokenizers.text.weights is not None
        specs = recipe.specs(text.vocab_size if text else 0)
        settings = {name: recipe.tokenizer(name) for name in recipe.tokenizers_needed}
        fitted = {name: one.fingerprint for name, one in self.fitted.items()}
        here = vocabularies.of(settings, recipe.tokenizers.text, fitted, recipe.images.size, self.classes)
        # A run that has begun goes on with what it has; its folder says by which tokenizers.
        return initial.check_fits(recipe.train, specs, known, None if self._has_begun() else here)

    def _has_begun(self) -> bool:
        """Whether the run is trained, or has a checkpoint."""
        try:
            return self.train_job.has_begun()
        except ValueError:  # there are no columns yet
            return False

    @cached_property
    def train_job(self) -> TrainJob:
        """The training run that the recipe asks for. RecipeError if no training shard has all of its columns.

        Shards that came after it began are no reason to begin another one: see `unseen_shards`. With `update` they are.
        """
        job = self._train_job(self.columns_for_training())
        return job if self.update or job.has_begun() else self._begun_on_fewer(job) or job

    def _train_job(self, of: Columns) -> TrainJob:
        sentinels = self._sentinels() if self.recipe.has_text else (5, 200)
        prints = {name: one.fingerprint for name, one in self.fitted.items()}
        found = self.selection([name for name, _ in of.shards["train"]])
        selected = None if found is None else {name: one.bits for name, one in found.shards.items()}
        return derived.train_job(self.recipe, of, prints, sentinels, columns_of, selected)

    def selection(self, shards: Iterable[str] | None = None) -> Selection | None:
        """What `train.select` selects of training shards, None without it. RecipeError as of `derived.selection`.

        Args:
            shards: that have their columns; None for all that have the labels, with columns or without.
        """
        if self.recipe.train.select is None:
            return None
        done = self.plan(derived.selecting(self.recipe, self.label_outputs)).done
        first = next(iter(self.columns_plan.outputs)) if shards is not None else ""
        rows = None if shards is None else {name: self.columns_plan.done[first, name] for name in shards}
        return derived.selection(self.recipe, done, self.shards.splits["train"], rows, self._chosen)

    def _begun_on_fewer(self, job: TrainJob) -> TrainJob | None:
        """The run of the same settings that began before some shards came; of several the one with the most samples."""
        from .pipelines.removal import seen

        here = {shard.name for shard in job.shards}
        runs = []
        for print_ in storage.list_names(folder := storage.join(self.root, "runs", job.settings.name)):
            try:
                shards = here.intersection(seen.read(storage.join(folder, print_)) or ())
            except ValueError:  # damaged: `check` says so
                continue
            if shards and shards < here:
                earlier = self._train_job(columns.complete(self.root, self.columns_plan, shards))
                if earlier.fingerprint == print_ and earlier.has_begun():
                    runs.append(earlier)
        return max(runs, key=lambda one: (one.rows, one.fingerprint), default=None)

    def unseen_shards(self) -> list[str]:
        """Training shards with all of their columns that came after the run began, which has not seen them."""
        seen = {shard.name for shard in self.train_job.shards}
        return [name for name, _ in self.columns.shards["train"] if name not in seen]

    def columns_for_training(self) -> Columns:
        """The complete columns. RecipeError if there are none, or none could be predicted."""
        if not any(MODALITIES[name].is_target for name in self.recipe.modalities):
            raise RecipeError("train: none of the modalities can be predicted; add grids or text, for example tok_rgb")
        if not self.columns.shards["train"]:
            raise RecipeError("train: no training shard has all of its columns; run `fourmill tokenize` first")
        return self.columns

    def _sentinels(self) -> tuple[int, int]:
        """(id of [S_1], how many sentinels there are) of the fitted text tokenizer."""
        from .tokenize.codecs import load_text

        ids = load_text(self.root).sentinel_ids
        return int(ids[1]), len(ids)

    @property
    def run_output(self) -> str:
        """The name of the run in the ledger."""
        return f"runs/{self.recipe.train.name}"

    def run_record(self) -> ledger.Record | None:
        """The record of the finished run, None if it is not trained as the recipe asks, or its model was deleted."""
        return self.train_job.record()

    def _validation_sources(self) -> list[tuple[str, str]]:
        """The validation shards of the run and the SHA-256 of their bytes."""
        records = self.inventory.records([output := f"tokens/{self.recipe.modalities[0]}"])
        return [(one.name, records[output, one.name].source.sha256) for one in self.train_job.val_shards]

    def model_step(self) -> int | None:
        """The step of the checkpoint that counts as the run's model, see `TrainJob.model_step`."""
        return self.train_job.model_step(self._checkpoint)

    def check_model(self) -> None:
        """RecipeError if there is neither a finished model of the recipe's run nor a checkpoint."""
        if self.model_step() is None and self.run_record() is None:
            raise RecipeError("the model of this recipe is not trained; run `fourmill train` first")

    @cached_property
    def generate_job(self) -> GenerateJob:
        """The generations that the recipe asks for. RecipeError as of `train_job`."""
        from .train.downstream.generation_job import of_run

        known = self._validation_sources(), self.model_step(), self.shards.urls, self.classes
        return of_run(self.train_job, self.recipe.generate, self.codec_options(), *known)

    def generated_record(self) -> ledger.Record | None:
        """The record of the finished generations, None if they are not made as the recipe asks, or were deleted."""
        return self.generate_job.record()

    @cached_property
    def evaluate_job(self) -> EvaluateJob:
        """The evaluation that the recipe asks for. RecipeError as of `train_job`, and without validation samples."""
        from .train.downstream.evaluation.job import of_run

        of = self.train_job, self.evaluation, self.codec_options(), self._validation_sources(), self.shards.urls
        return of_run(*of, frozenset(self.recipe.labels.keep), self.classes, self.model_step(), self.recipe.keys[1])


def columns_of(root: str) -> Columns:
    """The columns of another root, which its own recipe made. None of the code that it asks for is run."""
    url = storage.join(storage.absolute(root), "recipe.yaml")
    try:
        data = configuration.parse_yaml(storage.read_bytes(url))
    except FileNotFoundError:
        raise RecipeError(f"train.datasets: {root} is no root, there is no recipe.yaml; tokenize it first") from None
    recipe = parse(data | {"root": root}, url, trusted=False)
    if not code_of(data):
        return Project(recipe).columns
    text = ledger.read(root, "tokenizers", TEXT)
    specs = recipe.specs(text.identity["vocab_size"] if text else 0)
    shards = plans.list_shards(recipe.samples, storage.absolute(root))
    return columns.recorded(root, specs, data.get("modalities") or recipe.modalities, shards)
