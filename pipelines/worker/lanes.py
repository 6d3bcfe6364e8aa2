"""Specialists at work beside each other: each has a lane of three threads, and batches of a shard go through all lanes.

While the device computes for one part of a batch, the next part is prepared and the last one is finished. What belongs
together is a pure function of shard and recipe all the same, and so is the order in which a specialist sees it:

- A lane takes batches in the order of the shard, and cuts each into parts of the specialist's `batch_size`. One that
  groups by itself gets some batches in one (`engine.window`), and of texts a thousand: what has equal sizes is rare.
- A specialist waits for the labels of the same batch that it needs or looks at, and for one of the same weights, which
  may leave it something in `Item.shared`.
- One thread computes on the device, for all specialists that take one (`gpus`), in the order in which parts are ready.
- Each shard has lanes of its own. Those of the next one begin when the last batch of a shard has begun, so that the
  device waits for no shard's end: each stage of a specialist is called by one of them at a time.
- A part that fails in any of its stages is tried again in one go, as isolate.py says.

Memory is bounded: a few batches of a shard at a time, fewer where images are large, and of each specialist a few parts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass

from ..reject import Reject
from ..specialists.base import Specialist
from .lane import Lane, Shared, Stopped, fail, failing, succeed
from .sample import LabelledSample

AHEAD = 4  # batches behind the oldest one: one each in preparation, inference, finish, and one that comes
WINDOWS_AHEAD = 2  # instead, where several batches are seen together
MOST_BYTES = 2**30  # of images of these, beyond which there are fewer
TEXTS = 1024  # samples whose texts are seen together


Texts = Callable[[int, int], Sequence[LabelledSample]]
Batch = tuple[list[LabelledSample], list[Future[None]]]


class Lanes:
    """The lanes of all specialists of a shard.

    Args:
        specialists: by label, each after those that it needs.
        shared: of these lanes alone.
        window: batches that specialists which group see together.
        texts: samples of the shard by (position, number), less their images: those that group and look at no image see
            `TEXTS` of them together. None for no more than a batch.
        begin: position of the first sample that comes. begin_texts: of the first text that is seen with it, see
            `begin_of_texts`.
    """

    def __init__(
        self,
        specialists: Mapping[str, Specialist],
        shared: Shared,
        window: int = 1,
        texts: Texts | None = None,
        begin: int = 0,
        begin_texts: int = 0,
    ) -> None:
        self._shared, self._window, self._texts = shared, window, texts
        self._lanes = {name: Lane(name, one, shared) for name, one in specialists.items()}
        self._after = {name: _before(name, specialists) for name in specialists}
        self._of_text = {name for name, one in specialists.items() if texts is not None and reads_text_alone(one)}
        self._grouping = {name for name, one in specialists.items() if window > 1 and one.groups} - self._of_text
        self._begun, self._begin_texts = begin, begin_texts  # samples
        self._read: dict[str, _Read] = {}

    def labelled(self, batches: Iterable[list[LabelledSample]], ahead: int = AHEAD) -> Iterator[list[LabelledSample]]:
        """The batches, in order, each once its samples have all labels or the reasons why not.

        Args:
            ahead: how many batches more may be begun, or windows of several; 0 where what is not asked for must cost
                nothing.

        Raises:
            PlaceError: a specialist failed for a reason of the place.
        """
        with closing(self.windows(batches, ahead)) as of_windows:
            for batch, _ in of_windows:
                yield batch

    def windows(
        self, batches: Iterable[list[LabelledSample]], ahead: int = AHEAD, all_begun: Callable[[], None] | None = None
    ) -> Generator[tuple[list[LabelledSample], bool]]:
        """`labelled`, and with each batch whether it is the last one of its window: what follows is seen together in
        the same way if the work begins there. `all_begun` is called once the last one is in the lanes."""
        flying: deque[list[Batch]] = deque()
        most = ahead if self._window == 1 else min(ahead, WINDOWS_AHEAD)
        try:
            for window in _windows(batches, self._window):
                flying.append(self._start(window))
                while len(flying) > most or (len(flying) > 1 and _held(flying) > MOST_BYTES):
                    yield from _awaited(flying[0])
                    flying.popleft()
            if all_begun is not None:
                all_begun()
            while flying:
                yield from _awaited(flying[0])
                flying.popleft()
        finally:
            self._stop([done for window in flying for _, dones in window for done in dones])

    def _start(self, window: Sequence[list[LabelledSample]]) -> list[Batch]:
        """Begin with batches; what is returned says of each what it waits for."""
        done: list[dict[str, Future[None]]] = [{} for _ in window]
        for name, lane in self._lanes.items():
            after = [[of_batch[other] for other in self._after[name]] for of_batch in done]
            if name in self._grouping:
                one = lane.start([s for batch in window for s in batch], [f for some in after for f in some], True)
                futures = [one] * len(window)
            elif name in self._of_text:
                futures = [self._from_texts(lane, batch) for batch in _placed(window, self._begun)]
            else:
                futures = [lane.start(batch, some) for batch, some in zip(window, after, strict=True)]
            for of_batch, future in zip(done, futures, strict=True):
                of_batch[name] = future
        self._begun += sum(map(len, window))
        return [(batch, list(of_batch.values())) for batch, of_batch in zip(window, done, strict=True)]

    def _from_texts(self, lane: Lane, placed: tuple[int, list[LabelledSample]]) -> Future[None]:
        """Let samples have the labels of their texts, which are begun with if they are not."""
        position, samples = placed
        read = self._read.get(lane.name)
        if read is None or position + len(samples) > read.start + len(read.texts):
            assert self._texts is not None
            start = self._begin_texts if read is None else position
            texts = self._texts(start, max(TEXTS, len(samples)))
            read = self._read[lane.name] = _Read(start, texts, lane.start(texts, [], True))
        first = position - read.start
        return _copied(lane.name, read.done, read.texts[first : first + len(samples)], samples)

    def _stop(self, waited_for: Sequence[Future[None]]) -> None:
        self._shared.stopped.set()
        for done in waited_for:  # lanes wait for each other
            fail(done, Stopped())
        for lane in self._lanes.values():
            lane.stop()
        for lane in self._lanes.values():
            lane.join()


@dataclass(frozen=True)
class _Read:
    """Texts of a shard from a position on, whose labels are there when `done` is."""

    start: int
    texts: Sequence[LabelledSample]
    done: Future[None]


def begin_of_texts(position: int, batch: int, count: int) -> int:
    """Where the texts begin that are seen together with those of the batch at a position.

    Args:
        batch: samples in a batch. count: of the shard.
    """
    start = 0
    while True:
        end, after = min(start + max(TEXTS, batch), count), start
        while after < count and min(after + batch, count) <= end:
            after += batch
        if position < after or after >= count:
            return start
        start = after


def reads_text_alone(one: Specialist) -> bool:
    return one.groups and not (one.sees_image or one.needs_image or one.needs or one.looks_at() or one.reads())


def _windows(batches: Iterable[list[LabelledSample]], count: int) -> Iterator[list[list[LabelledSample]]]:
    """`count` batches together, or as many as fill their share of memory: by the shard alone, whatever runs when."""
    window: list[list[LabelledSample]] = []
    for batch in batches:
        window.append(batch)
        if len(window) == count or _bytes(window) > MOST_BYTES // (WINDOWS_AHEAD + 1):
            yield window
            window = []
    if window:
        yield window


def _placed(window: Sequence[list[LabelledSample]], start: int) -> Iterator[tuple[int, list[LabelledSample]]]:
    """Batches with the position of their first samples."""
    for batch in window:
        yield start, batch
        start += len(batch)


def _copied(
    name: str, made: Future[None], texts: Sequence[LabelledSample], samples: Sequence[LabelledSample]
) -> Future[None]:
    """Done when the labels of texts are those of samples as well."""
    done: Future[None] = Future()

    def copy(made: Future[None]) -> None:
        with failing(done):
            made.result()
            for text, sample in zip(texts, samples, strict=True):
                reason = text.reasons.get(name)
                sample.keep(name, text.item.labels.get(name) if reason is None else Reject(reason))
            succeed(done)

    made.add_done_callback(copy)
    return done


def _before(name: str, specialists: Mapping[str, Specialist]) -> list[str]:
    """The specialists whose work on a batch one must wait for."""
    one, names = specialists[name], list(specialists)
    wanted, key = {*one.needs, *one.looks_at()}, one.model_key()
    earlier = names[: names.index(name)]
    return [n for n in earlier if n in wanted or (key is not None and specialists[n].model_key() == key)]


def _awaited(window: Sequence[Batch]) -> Iterator[tuple[list[LabelledSample], bool]]:
    for number, (samples, dones) in enumerate(window, 1):
        for done in dones:
            done.result()
        yield samples, number == len(window)


def _held(flying: Iterable[Sequence[Batch]]) -> int:
    return sum(_bytes([samples for samples, _ in window]) for window in flying)


def _bytes(batches: Iterable[Sequence[LabelledSample]]) -> int:
    """Of images."""
    return sum(s.item.image.nbytes for batch in batches for s in batch if s.item.image is not None)
