"""The rows of one output of a shard: collected batch by batch, encoded at once, committed at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...infra import ledger, versions
from ...infra.ledger import SAMPLES
from ...modalities import LABELS
from ...tokenize import codecs, store, table_file
from ...tokenize import labels as label_files
from ...tokenize.sensors.raster import Drawing
from ...tokenize.table_file import Origin
from ..outputs import Output
from ..plan import ShardTask
from ..reject import Reject
from ..sensors import alarms
from ..sensors.alarms import Seen
from .isolate import Ward, batch
from .patience import Patience
from .sample import LabelledSample


@dataclass
class Rows:
    """The rows of one output so far; a row without a value is None, and its key and reason are in `rejects`.

    seen: of a sensor's values, what alarms are made from.
    """

    values: list[Any] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)

    def reject(self, key: str, reason: str) -> None:
        self.values.append(None)
        self.rejects.append({"key": key, "reason": reason})


def encode(
    output: Output,
    codec: codecs.Codec | None,
    samples: Sequence[LabelledSample],
    ward: Ward | None = None,
    drawing: Drawing | None = None,
) -> list[Any]:
    """What will be stored of samples that have the output's label, or an exception that says why one cannot be.

    Args:
        codec: of an output of tokens; None for a label.
        ward: of the shard.
        drawing: how crops of sensors are drawn, whose pixels are not the image's.

    Raises:
        PlaceError: the codec failed for a reason of the place.
    """
    if codec is not None:
        if not samples:
            return []
        name = output.label
        labelled = [
            codecs.Labelled(
                s.key, s.item.labels[name], s.crops_of(name, drawing) if drawing else s.crops, s.frame(name)
            )
            for s in samples
        ]
        return batch(output.name, codec.encode, labelled, ward or Ward())
    # Encoded at once: a shard of decoded pictures (1,000 of 36 MB) would not fit into memory.
    rows: list[Any] = []
    for sample in samples:
        try:
            rows.append(label_files.encode_cell(LABELS[output.label].storage, sample.item.labels[output.label]))
        except ValueError as error:
            rows.append(Reject(f"{output.label}: {error}"))
    return rows


@dataclass(frozen=True)
class Made:
    """What all outputs of a task are recorded with.

    origin: the bytes that they were made of. seconds: wall time of all. by: where, when and by what.
    splits: batches of the shard that did not fit into memory, in words.
    """

    origin: ledger.Source
    seconds: float
    by: dict[str, Any]
    splits: tuple[str, ...] = ()


def commit(
    root: str,
    task: ShardTask,
    output: Output,
    codec: codecs.Codec | None,
    made: Made,
    keys: list[str],
    rows: Rows,
    classes: Mapping[str, Sequence[str]] | None = None,
    patience: Patience | None = None,
) -> ledger.Committed:
    """Write the file of an output, unless it is its record alone (`samples`), and then its record.

    Args:
        classes: the recipe's own lists of classes, by label, which files of labels name.
        patience: with a root that cannot be written.
    """
    data, origin = None, Origin(task.shard, output.fingerprint)
    if codec is not None:
        data = store.encode_column(codec.column_spec(output.tokenizers), keys, rows.values, origin)
    elif output.name != SAMPLES:
        names = (classes or {}).get(output.label, ())
        data = label_files.encode_cells(output.label, LABELS[output.label].storage, keys, rows.values, names, origin)
    tokenizer = getattr(codec, "tokenizer", None)
    alarm = alarms.said(output.label, rows.seen, tokenizer and tokenizer.model.config.statistics)
    unit = " and ".join(alarms.units_of(rows.seen).values())
    keys_sum, content = table_file.content(data) if data is not None else (table_file.sum_of_keys(keys), "")
    record = ledger.Record(
        output=output.name,
        shard=task.shard,
        fingerprint=output.fingerprint,
        source=made.origin,
        rows=len(keys),
        nulls=sum(value is None for value in rows.values),
        rejects=rows.rejects,
        bytes=0,  # this, `sha256` and `footer` are filled in by `ledger.commit`
        sha256="",
        seconds=round(made.seconds, 3),
        identity=output.identity | versions.identity(output.parts, task.versions),
        splits=list(made.splits),
        keys=keys_sum,
        content=content,
        made=made.by | ({alarms.ALARM: alarm} if alarm else {}) | ({alarms.UNIT: unit} if unit else {}),
    )
    return (patience or Patience(0.0)).keep(lambda: ledger.commit(root, record, data))
