"""An export: which columns of a root apple/ml-4m can read, under which names, and then shard by shard its folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from ... import recipe as recipes
from ...infra import configuration, ledger, storage
from ...infra.index import index
from ...infra.ledger import Record
from ...infra.progress import Progress
from ...modalities import MODALITIES, Kind
from ...pipelines import plan as plans
from ...pipelines.exchange import give, layout
from ...pipelines.exchange.bring import CROP_SETTINGS
from ...pipelines.exchange.give import Crops, Given, Outcome
from ...recipe import Recipe
from ...tokenize import codecs, table_file
from ...tokenize.open_store import Store, open_store
from ...tokenize.store import ColumnReader, ColumnSpec
from ...tokenize.text.wordpiece import WordPiece
from . import destination, wholes
from .tables import selected
from .tables.selected import Selected
from .wholes import Wholes

INT16_IDS = 2**15  # ml-4m keeps ids as int16


@dataclass
class Plan:
    """What is exported.

    splits: of the root, name -> its shards. modalities: names of columns. recipe: of the root.
    crops: how many of each sample. wholes: shard -> the URL of the images that it was made of, {} if they are not used.
    left_out: what is not exported, with the reason. selected: what alone is exported of training shards; None for all.
    """

    store: Store
    root: str
    splits: dict[str, list[str]]
    modalities: list[str]
    recipe: Recipe
    crops: int
    wholes: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    selected: Selected | None = None


def plan(root: str, modalities: str | None = None, select: str | None = None, only: bool = False) -> Plan:
    """Look at a root. ValueError if it has no recipe, or nothing that ml-4m reads.

    Args:
        modalities: names of columns with commas between them; all that ml-4m reads if None.
        select: an expression in place of the recipe's `train.select`.
        only: export what it selects, and nothing else of the training shards; without it all.
    """
    root = storage.absolute(root).rstrip("/")
    url = storage.join(root, "recipe.yaml")
    if not storage.exists(url):
        raise ValueError(f"{root} is no root, there is no recipe.yaml; name the root of a recipe")
    recipe = recipes.parse(configuration.parse_yaml(storage.read_bytes(url)) | {"root": root}, url, trusted=False)
    store = open_store(root)
    names = list(store.modalities)
    if modalities is not None:
        wanted = [name.strip() for name in modalities.split(",") if name.strip()]
        if missing := sorted(set(wanted) - set(names)):
            raise ValueError(f"--modalities: {root} has no {', '.join(missing)}; it has {', '.join(names)}")
        names = wanted
    has_settings = bool(storage.list_names(storage.join(root, "ledger", CROP_SETTINGS)))
    specs = {name: store.spec(name) for name in names}
    reasons = {name: why for name, spec in specs.items() if (why := _unusable(spec, has_settings))}
    chosen = [name for name in names if name not in reasons]
    left_out = [f"{name}: {why}" for name, why in reasons.items()]
    if not chosen:
        raise ValueError(f"{root}: nothing that ml-4m could read; {'; '.join(left_out)}")
    there = set(store.shards(chosen))
    shards = plans.list_shards(recipe.samples, root)
    splits = {split: [name for name in of if name in there] for split, of in shards.splits.items()}
    for split, of in shards.splits.items():
        if lacking := [name for name in of if name not in there]:
            left_out.append(f"{len(lacking)} shards of {split} lack a column ({', '.join(lacking[:3])}, ...)")
    splits = {split: of for split, of in splits.items() if of}
    if not splits:
        raise ValueError(f"{root}: no shard has all of {', '.join(chosen)}; choose some with --modalities")
    asked = Plan(store, root, splits, chosen, recipe, max(specs[name].crops for name in chosen), {}, left_out)
    if only:
        output, labels = f"tokens/{chosen[0]}", (one for one in ledger.outputs(root) if one.startswith("labels/"))
        read = index.read_many(root, [output], splits.get("train", ())).entries
        of_training = {name: record for (_, name), record in read.items()}
        names = [one.removeprefix("labels/") for one in labels]
        found = selected.asked(root, recipe, select, only, names, of_training)
        assert isinstance(found, Selected)  # it is an error otherwise, since somebody asks
        asked.selected = found
    if not recipe.imported:
        _place_crops(asked, {name: shards.urls[name] for of in splits.values() for name in of})
    return asked


def _place_crops(asked: Plan, urls: dict[str, str]) -> None:
    """Where crops lie can be said of images that are there; otherwise the centre is a picture of its own."""
    output = f"tokens/{asked.modalities[0]}"
    records = {name: record for name in urls if (record := ledger.read(asked.root, output, name)) is not None}
    # Crops of images without their bars are of other frames than the images.
    if not getattr(asked.recipe.images, "trim_borders", False) and wholes.can_be_read(urls, records):
        asked.wholes = urls
    elif asked.crops > 1:
        why = "the images are not there, in which ml-4m says where crops are; the centre is exported"
        asked.left_out.append(f"{asked.crops - 1} of {asked.crops} crops: {why}")
        asked.crops = 1


def _unusable(spec: ColumnSpec, has_settings: bool) -> str:
    """Why a column cannot be exported, "" if it can."""
    modality = MODALITIES.get(spec.modality)
    if spec.kind in (Kind.GRID, Kind.EMBEDDING):
        return ""
    if spec.kind is Kind.PIXELS:
        why = "ml-4m cuts crops from whole images, which the store does not hold; copy the folder that was imported"
        return why if has_settings else ""
    if spec.kind is Kind.SEQUENCE and modality is not None and modality.codec == "wordpiece":
        return ""
    return "ml-4m makes its tokens from labels while it trains, and the store holds tokens"


def write(asked: Plan, dest: str) -> Iterator[tuple[str, Outcome]]:
    """Export what is missing, one shard after the other: (shard, what came of it)."""
    shards = [(split, name) for split, of in asked.splits.items() for name in of]
    words = None
    if any(MODALITIES[name].kind is Kind.SEQUENCE for name in asked.modalities if name in MODALITIES):
        words = codecs.load_text(asked.root)
    with Progress("export", len(shards), "shards") as progress:
        for split, name in shards:
            # As it came: one split stands alone.
            place = storage.join(dest, split) if len(asked.splits) > 1 else dest
            records = _records(asked, name)
            with ExitStack() as stack:
                images = None
                if name in asked.wholes:
                    of_crops = asked.recipe.images, asked.recipe.seed
                    images = stack.enter_context(wholes.opened(asked.wholes[name], *of_crops))
                given = [_given(asked, records[f"tokens/{one}"], one, name, words, images) for one in asked.modalities]
                crops, record = _crops(asked, name, given[0].reader, images)
                if record is not None:
                    records[CROP_SETTINGS] = record
                chosen = None if asked.selected is None else asked.selected.rows(name)
                outcome = give.shard(records, given, crops, place, chosen)
            progress.update(1)
            yield name, outcome


def _records(asked: Plan, shard: str) -> dict[str, Record]:
    records = {}
    for name in asked.modalities:
        record = ledger.read(asked.root, f"tokens/{name}", shard)
        if record is None:
            raise ValueError(f"{asked.root}: tokens/{name} of {shard} has no good record; {ledger.again(asked.root)}")
        records[record.output] = record
    return records


def _given(asked: Plan, record: Record, name: str, shard: str, words: WordPiece | None, images: Wholes | None) -> Given:
    reader = asked.store.reader(name, shard)
    spec, said = reader.spec, record.identity.get("imported", {})
    folder = give.folder_of(record, spec, asked.recipe.images.size)
    if spec.kind is Kind.GRID:
        dtype = said.get("dtype", "<i2" if spec.vocab_size <= INT16_IDS else "<i4")
        return Given(folder, said.get("suffix", ".npy"), reader, give.ids(dtype, asked.crops))
    if spec.kind is Kind.EMBEDDING:
        return Given(folder, ".npz", reader, give.vectors)
    if spec.kind is Kind.PIXELS and images is not None:
        # Whatever kind of picture it is: ml-4m opens it by its contents.
        return Given(folder, ".jpg", reader, lambda column, row: images.bytes_of(column.keys[row].as_py()))
    if spec.kind is Kind.PIXELS:
        suffix = ".png" if reader.read([0]).crop(0, 0)[:4].tolist() == [0x89, 0x50, 0x4E, 0x47] else ".jpg"
        return Given(folder, suffix, reader, give.picture)
    assert words is not None
    return Given(folder, ".json", reader, give.text(words.decode, asked.crops))


def _crops(asked: Plan, shard: str, reader: ColumnReader, images: Wholes | None) -> tuple[Crops | None, Record | None]:
    """Settings of each row: as they were imported, or of the crops of the images, or of a crop that is a picture."""
    if (found := give.imported_crops(asked.root, shard)) is not None:
        return found
    if any(_is_imported(asked, name, shard) for name in asked.modalities):
        return None, None
    if images is not None:
        keys = table_file.keys(reader.source)
        return lambda row: images.windows(keys[row]), None
    side = asked.recipe.images.size
    whole = np.array([(0, 0, side, side, 0)])
    return lambda row: whole, None


def _is_imported(asked: Plan, name: str, shard: str) -> bool:
    record = ledger.read(asked.root, f"tokens/{name}", shard)
    return record is not None and "imported" in record.identity


def check_dest(dest: str, root: str) -> None:
    """ValueError if files of an export cannot go to a place."""
    marked = [dest, *(storage.join(dest, split) for split in layout.SPLITS)]
    destination.check(dest, root, lambda _: any(storage.list_names(storage.join(one, give.DONE)) for one in marked))
