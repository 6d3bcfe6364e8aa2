"""What a tar may hold. Samples must not vanish, or be torn apart, without a word."""

from __future__ import annotations

import json
from pathlib import Path

from fourmill_tests import data
from fourmill_tests.cases import require

from fourmill.pipelines import source

JPEG = data.encode(data.picture(0, 32, 32))


def test_dotted_keys_survive_a_foreign_member(tmp_path: Path) -> None:
    """UIDs, dates and versions as keys (webdataset#237, datasets#6880): all 6 samples, or a reject."""
    keys = [*(f"1.2.840.{n}" for n in range(4)), "2024.05.17-a", "2024.05.17-b"]
    pairs = [(f"{key}.jpg", JPEG) for key in keys] + [(f"{key}.txt", b"a caption") for key in keys]
    lost = []
    for extra in ("1.2.840.0.cls", "2024.05.17-a.npy"):
        (tmp_path / "00000.tar").write_bytes(data.tar([*pairs, (extra, b"0")]))
        with source.open_shard(str(tmp_path / "00000.tar"), tmp_path) as shard:
            if len(shard.samples) != len(keys) and not shard.rejects:
                lost.append(f"{len(shard.samples)} of {len(keys)} samples beside {extra}")
    require(not lost, f"samples are lost, and no record says so: {lost}")


def test_named_parts_are_one_sample(tmp_path: Path) -> None:
    """WebDataset's KEY.image.jpg with KEY.caption.txt (webdataset#20, #375): one sample KEY, or a reject."""
    torn = []
    for parts in (("image.jpg", "caption.txt"), ("input.jpg", "output.jpg", "prompt.txt"), ("rgb.jpg", "meta.json")):
        content = {"jpg": JPEG, "txt": b"a red square", "json": json.dumps({"caption": "a red square"}).encode()}
        members = [(f"{n:05d}.{part}", content[part.rpartition(".")[2]]) for n in range(4) for part in parts]
        (tmp_path / "00000.tar").write_bytes(data.tar(members))
        with source.open_shard(str(tmp_path / "00000.tar"), tmp_path) as shard:
            whole = sum(bool(sample.image) and shard.caption(sample) is not None for sample in shard.samples)
            if whole != 4 and not shard.rejects:
                torn.append(f"{parts}: {len(shard.samples)} samples, {whole} with image and caption")
    require(not torn, f"torn apart without a word: {torn}")


def _header(name: bytes, size: int, kind: bytes = b"0", field: bytes = b"", magic: bytes = b"ustar\x0000") -> bytes:
    """A tar header; `field` in the place of its size."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = field or b"%011o\0" % size
    block[136:148], block[156:157], block[257:265] = b"00000000000\0", kind, magic
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 512)


def test_what_precedes_a_damaged_size_is_kept(tmp_path: Path) -> None:
    """docs/bad-input.md: "a damaged header: what follows is lost"; so the first sample of each tar is there."""
    one, two = (_header(name, len(JPEG)) + _padded(JPEG) for name in (b"one.jpg", b"two.jpg"))
    huge = b"\x80" + (10**18).to_bytes(11, "big")
    tars = {
        "pax size=1e18": _header(b"pax", 28, b"x") + _padded(b"28 size=1000000000000000000\n") + two,
        "pax header of 1e18 bytes": _header(b"pax", 0, b"x", huge) + two,
        "base-256 size 1e18": _header(b"big.jpg", 0, field=huge) + two,
        "base-256 size 2^87": _header(b"big.jpg", 0, field=b"\x80\x80" + bytes(10)) + two,
        "1,200 pax headers": (_header(b"pax", 12, b"x") + _padded(b"12 mtime=1.\n")) * 1200 + two,
    }
    lost = []
    for name, rest in tars.items():
        (tmp_path / "a.tar").write_bytes(one + rest + bytes(1024))
        try:
            with source.open_shard(str(tmp_path / "a.tar"), tmp_path) as shard:
                keys = [sample.key for sample in shard.samples]
        except (OSError, MemoryError, ValueError, OverflowError, RecursionError) as error:
            keys = [f"{type(error).__name__}: {error}"]
        if "one" not in keys:
            lost.append(f"{name}: {keys}")
    require(not lost, f"the sample before is lost: {lost}")
