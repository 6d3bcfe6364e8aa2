"""The card of an export: README.md for people and the Hugging Face hub, croissant.json (Croissant 1.0) for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import yaml

from .... import __version__
from ....modalities import LABELS, MODALITIES
from ....report.doctor.licences import remark
from ...licences import Used, restricted
from . import placed
from .rows import name_of

README, CROISSANT = "README.md", "croissant.json"
CONFORMS = "http://mlcommons.org/croissant/1.0"
_MEDIA = {"hf": "application/x-parquet", "webdataset": "application/x-tar", "lance": "application/vnd.lance"}
# The official context of Croissant 1.0: names of Croissant's own, and of the vocabularies that it uses.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        name: f"cr:{name}"
        for name in (
            "citeAs column dataBiases dataCollection equivalentProperty extract field fileObject fileProperty fileSet "
            "format includes isLiveDataset jsonPath key md5 parentField path personalSensitiveInformation recordSet "
            "references regex repeated replace samplingRate separator source subField transform"
        ).split()
    },
}


@dataclass(frozen=True)
class Card:
    """What a card says.

    to: the format. splits: name -> rows. outputs: those that are columns. types: of the columns, by name.
    used: what each output was made with. images: licence -> how many images state it. licence: of the images, as the
    user says; "" if nobody does. left_out: what is not exported. made: a day, "2026-11-30". selected: a sentence of
    what was chosen, "" if nothing was.
    """

    name: str
    to: str
    splits: Mapping[str, int]
    outputs: Sequence[str]
    types: pa.Schema
    used: Mapping[str, Sequence[Used]]
    images: Mapping[str, int] = field(default_factory=dict)
    licence: str = ""
    left_out: Sequence[str] = ()
    made: str = ""
    selected: str = ""

    @property
    def licences(self) -> list[str]:
        """All that applies to the whole, each once: those of the images first."""
        of_images = [self.licence] if self.licence else list(self.images) or ["unknown"]
        used = [one.licence for several in self.used.values() for one in several if one.licence]
        return list(dict.fromkeys([*of_images, *used]))

    @property
    def restrictions(self) -> dict[str, list[str]]:
        """What has to be known before use, by column; "images" is of all columns."""
        images = [self.licence] if self.licence else list(self.images)
        said = [f"{one} {why}" for one in images if (why := remark(one))]
        if not images:
            said = ["the licence of the images is not known"]
        of_columns = {name_of(output): why for output, why in restricted(self.used).items()}
        return ({"images": said} if said else {}) | of_columns

    def summary_of(self, output: str) -> str:
        """What an output is, in a few words."""
        family, _, name = output.partition("/")
        table: Mapping[str, Any] = LABELS if family == "labels" else MODALITIES
        return str(table[name].summary) if name in table else name


def readme(card: Card) -> bytes:
    """The card for people, with the header that the Hugging Face hub reads."""
    head: dict[str, Any] = {"pretty_name": card.name, "tags": ["fourmill", "4m", "croissant"]}
    # The hub knows one licence by its identifier; several are said in words.
    head |= {"license": "other", "license_name": "see-below"}
    if card.to == "hf":
        files = [{"split": hub_split(split), "path": f"data/{split}/*.parquet"} for split in card.splits]
        head["configs"] = [{"config_name": "default", "data_files": files}]
    rows = ", ".join(f"{count:,} ({split})" for split, count in card.splits.items())
    lines = ["---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", "", f"# {_plain(card.name)}", ""]
    lines += [f"Samples: {rows}. Exported by fourmill {__version__} on {card.made}.", ""]
    lines += [_plain(card.selected), ""] if card.selected else []
    if card.restrictions:
        lines += ["## To be known before use", ""]
        lines += [f"- `{name}`: {_plain('; '.join(why))}" for name, why in card.restrictions.items()]
        lines.append("")
    lines += ["## Columns", "", "| column | type | what | made with | licence |", "|---|---|---|---|---|"]
    lines.append("| `key`, `shard` | string | name of the sample, and of its shard | | |")
    if card.types.get_field_index(placed.COLUMN) >= 0:
        what = (
            "where the frame of the sample lies, as JSON: crs and transform, or the WCS of a FITS, and its size in px"
        )
        lines.append(f"| `{placed.COLUMN}` | string | {what} | | |")
    for output in card.outputs:
        several = card.used.get(output, ())
        made = ", ".join(f"{one.by} ({one.weights})" if one.weights else one.by for one in several) or "the image"
        licence = ", ".join(dict.fromkeys(one.licence for one in several if one.licence))
        name = name_of(output)
        kind = _type_of(card, name)
        lines.append(f"| `{name}` | {kind} | {_plain(card.summary_of(output))} | {_plain(made)} | {_plain(licence)} |")
    lines += ["", "Every column is also under the licences of the images: " + _plain(_images(card)) + ".", ""]
    lines += ["Samples that were taken down have no row. A sample that lacks an output is null in its column.", ""]
    if card.left_out:
        lines += ["Not exported: " + _plain("; ".join(card.left_out)) + ".", ""]
    return "\n".join(lines).encode("utf-8", "replace")


def _type_of(card: Card, name: str) -> str:
    at = card.types.get_field_index(name)
    return f"`{card.types.field(at).type}`" if at >= 0 else ""


def _images(card: Card) -> str:
    if card.licence:
        return card.licence
    return ", ".join(f"{name} ({count:,})" for name, count in card.images.items()) or "not known"


def _plain(text: str) -> str:
    """Text from data on one line of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def hub_split(split: str) -> str:
    """The name that the Hugging Face hub has for a split."""
    return {"val": "validation"}.get(split, split)


def croissant(card: Card, url: str) -> bytes:
    """The card as Croissant 1.0, JSON-LD. url: where the export is."""
    pattern = {"hf": "data/{}/*.parquet", "webdataset": "data/{}/*.tar", "lance": "{}.lance/**"}[card.to]
    data: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": card.name,
        "description": f"Tokens and labels of {sum(card.splits.values()):,} samples, made by fourmill.",
        "license": card.licences,
        "url": url,
        "version": "1.0.0",
        "datePublished": card.made,
        "citeAs": "see https://arxiv.org/abs/2406.09406",
        "creator": {"@type": "sc:Organization", "name": f"fourmill {__version__}"},
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": f"files-{split}",
                "name": f"files-{split}",
                "encodingFormat": _MEDIA[card.to],
                "includes": pattern.format(split),
            }
            for split in card.splits
        ],
    }
    if card.to == "hf":  # the columns of Parquet are fields; README.md says what the others hold
        data["recordSet"] = [_records(card, split) for split in card.splits]
    if card.restrictions:
        said = "; ".join(f"{name}: {', '.join(why)}" for name, why in card.restrictions.items())
        data["usageInfo"] = f"To be known before use: {said}"
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _records(card: Card, split: str) -> dict[str, Any]:
    summaries = {name_of(output): card.summary_of(output) for output in card.outputs}
    fields = []
    for one in card.types:
        fields.append(
            {
                "@type": "cr:Field",
                "@id": f"{split}/{one.name}",
                "name": one.name,
                "description": summaries.get(one.name, f"the {one.name} of the sample"),
                "dataType": _data_type(one.type),
                "source": {"fileSet": {"@id": f"files-{split}"}, "extract": {"column": one.name}},
                **({"repeated": True} if pa.types.is_list(one.type) else {}),
            }
        )
    return {"@type": "cr:RecordSet", "@id": split, "name": split, "field": fields}


def _data_type(kind: pa.DataType) -> str:
    while pa.types.is_list(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
