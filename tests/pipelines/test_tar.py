"""Which bytes of a tar belong to which sample, and what is said of the rest."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from fourmill.pipelines import grouping, tar


def make_tar(
    entries: list[tuple[str, bytes]], *, extra: list[tarfile.TarInfo] | None = None, format: int = tarfile.PAX_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for info in extra or []:
            archive.addfile(info)
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def index(data: bytes) -> grouping.Index:
    return tar.index(io.BytesIO(data), len(data))


def layout(data: bytes) -> dict[str, set[str]]:
    return {sample.key: set(sample.members) for sample in index(data).samples}


def content(data: bytes, sample: grouping.SourceSample, extension: str) -> bytes:
    member = sample.members[extension]
    return data[member.offset : member.offset + member.size]


def test_members_are_grouped_by_key_in_their_order() -> None:
    data = make_tar([("b.txt", b"B"), ("a.jpg", b"A"), ("b.jpg", b"BB"), ("c.json", b"{}")])
    found = index(data)
    assert [sample.key for sample in found.samples] == ["b", "a", "c"]
    assert [sample.image for sample in found.samples] == ["jpg", "jpg", ""]
    assert content(data, found.samples[0], "txt") == b"B"
    assert content(data, found.samples[0], "jpg") == b"BB"
    assert found.rejects == []


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(format: int) -> None:
    folder = "/".join(["f" * 60] * 3) if format != tarfile.USTAR_FORMAT else "f" * 60
    assert layout(make_tar([(f"{folder}/caf\u00e9.jpg", b"x")], format=format)) == {f"{folder}/caf\u00e9": {"jpg"}}


def test_folders_stay_in_the_key_but_not_a_leading_dot() -> None:
    data = make_tar([("./x/a.JPG", b"1"), ("y/a.jpg", b"2"), ("./b.Png", b"3"), ("x.y/c.jpg", b"4")])
    assert layout(data) == {"x/a": {"jpg"}, "y/a": {"jpg"}, "b": {"png"}, "x.y/c": {"jpg"}}


def test_dots_belong_to_the_key_if_the_whole_group_has_them() -> None:
    data = make_tar([("img.001.jpg", b"1"), ("img.001.TXT", b"t"), ("img.002.jpg", b"2"), ("a.b.c.png", b"3")])
    assert layout(data) == {"img.001": {"jpg", "txt"}, "img.002": {"jpg"}, "a.b.c": {"png"}}


def test_a_plain_entry_keeps_webdatasets_rule_for_its_group() -> None:
    found = index(make_tar([("a.jpg", b"1"), ("a.left.jpg", b"2"), ("a.seg.png", b"3")]))
    assert [(s.key, set(s.members)) for s in found.samples] == [("a", {"jpg"})]
    assert found.ignored == {"left.jpg": 1, "seg.png": 1}
    assert set(found.samples[0].others) == {"left.jpg", "seg.png"}


def test_a_further_member_costs_no_dotted_key() -> None:
    found = index(
        make_tar([("a.1.jpg", b"1"), ("a.1.cls", b"7"), ("a.2.txt", b"2"), ("a.1.left.npy", b"8"), ("a.x", b"9")])
    )
    assert [(s.key, set(s.members), set(s.others)) for s in found.samples] == [
        ("a.1", {"jpg"}, {"cls", "left.npy"}),
        ("a.2", {"txt"}, set()),
    ]
    assert found.ignored == {"cls": 1, "left.npy": 1, "x": 1} and found.rejects == []


@pytest.mark.parametrize(
    ("names", "key", "image", "parts"),
    [
        (["0.image.jpg", "0.caption.txt"], "0", "0.image.jpg", {"image.jpg", "caption.txt"}),
        (["0.caption.txt", "0.output.jpg", "0.input.jpg"], "0", "0.input.jpg", {"input.jpg", "caption.txt"}),
        (["0.meta.json", "0.depth.png", "0.view.jpg"], "0", "0.view.jpg", {"meta.json", "view.jpg"}),
        (["0.depth.npy", "0.rgb.png"], "0", "0.rgb.png", {"rgb.png"}),
        (["0.cls", "0.image.jpg"], "0", "0.image.jpg", {"image.jpg"}),
        (["v1.0.image.jpg", "v1.0.caption.txt"], "v1.0", "v1.0.image.jpg", {"image.jpg", "caption.txt"}),
        (["0.txt", "0.view.jpg"], "0", "0.view.jpg", {"view.jpg"}),
        (["0.txt", "0.window.jpg"], "0", "0.window.jpg", {"window.jpg"}),  # no file is the label of this name
        (["0.json", "0.image.jpg", "0.text.txt"], "0", "0.image.jpg", {"image.jpg", "text.txt"}),
        (["x.y/0.IMAGE.JPG", "x.y/0.caption.txt"], "x.y/0", "x.y/0.IMAGE.JPG", {"image.jpg", "caption.txt"}),
    ],
)
def test_named_parts_are_one_sample(names: list[str], key: str, image: str, parts: set[str]) -> None:
    found = index(make_tar([(name, b"1") for name in names]))
    (sample,) = found.samples
    assert sample.key == key and sample.members[sample.image].name == image
    assert set(found.parts) == parts and found.rejects == []
    assert set(found.ignored) == set(sample.others) - parts


@pytest.mark.parametrize(
    ("names", "regrouped"),
    [
        (["a.jpg", "a.txt", "a.depth.npy", "b.cls"], False),
        (["img.001.jpg", "img.001.txt", "img.002.jpg"], False),
        (["0.image.jpg", "0.caption.txt"], True),
        (["a.1.jpg", "a.1.cls"], True),
        (["0.rgb.png", "0.depth.npy"], True),
        (["caf\u00e9.jpg", "cafe\u0301.txt"], True),
        (["caf\u00e9.jpg", "caf\u00e9.txt"], False),
    ],
)
def test_what_the_first_release_read_otherwise_is_known(names: list[str], regrouped: bool) -> None:
    assert index(make_tar([(name, b"1") for name in names])).regrouped is regrouped


def test_a_sample_that_lacks_a_part_is_read_as_its_neighbours() -> None:
    names = ["0.image.jpg", "0.caption.txt", "1.image.jpg", "2.caption.txt", "3.other.jpg"]
    assert layout(make_tar([(name, b"1") for name in names])) == {
        "0": {"jpg", "txt"}, "1": {"jpg"}, "2": {"txt"}, "3.other": {"jpg"},
    }  # fmt: skip


def test_versions_beside_their_first_one_are_keys() -> None:
    names = ["v1.jpg", "v1.txt", "v1.1.jpg", "v1.1.txt", "v1.1.depth.npy", "v1.2.0.txt", "v1.2.0.jpg", "v1.left.jpg"]
    found = index(make_tar([(name, b"1") for name in names]))
    assert [(s.key, set(s.members), set(s.others)) for s in found.samples] == [
        ("v1", {"jpg", "txt"}, {"left.jpg"}),
        ("v1.1", {"jpg", "txt"}, {"depth.npy"}),
        ("v1.2.0", {"jpg", "txt"}, set()),
    ]
    assert found.regrouped
    views = index(make_tar([(name, b"1") for name in ("0.jpg", "0.txt", "0.1.jpg", "0.2.jpg")]))
    assert [s.key for s in views.samples] == ["0"] and not views.regrouped  # views of one sample, as before


def test_maps_alone_are_no_images() -> None:
    found = index(
        make_tar(
            [
                ("0.depth.npy", b"1"),
                ("0.semseg.png", b"2"),
                ("1.json", b"{}"),
                ("1.left.jpg", b"3"),
                ("1.right.jpg", b"4"),
            ]
        )
    )
    assert [(s.key, s.image, set(s.others)) for s in found.samples] == [
        ("0", "", {"depth.npy", "semseg.png"}),
        ("1", "", {"left.jpg", "right.jpg"}),
    ]


def test_keys_that_share_a_beginning_are_no_parts() -> None:
    names = [f"1.2.{n}.{kind}" for n in range(200) for kind in (["jpg"] if n % 2 else ["txt"])]
    assert len(index(make_tar([(name, b"1") for name in names])).samples) == 200


def test_one_key_in_two_unicode_forms_is_one_sample() -> None:
    names = ["caf\u00e9.jpg", "cafe\u0301.txt", "cafe\u0301.cls", "u\u0308.jpg", "\u00fc.jpg"]
    found = index(make_tar([(name, b"1") for name in names]))
    assert [(s.key, set(s.members), set(s.others)) for s in found.samples] == [
        ("caf\u00e9", {"jpg", "txt"}, {"cls"}), ("u\u0308", {"jpg"}, set()), ("\u00fc", {"jpg"}, set()),
    ]  # fmt: skip
    assert found.rejects == [("\u00fc", "key: another sample has it in another Unicode form; both are kept")]


def test_second_member_of_an_extension_is_rejected() -> None:
    data = make_tar([("a.jpg", b"first"), ("b.jpg", b"x"), ("a.JPG", b"second")])
    found = index(data)
    assert content(data, found.samples[0], "jpg") == b"first"
    assert found.rejects == [("a", "duplicate key: a second .jpg is ignored")]


def test_a_second_image_is_rejected_and_the_first_kept() -> None:
    found = index(make_tar([("a.png", b"first"), ("a.jpg", b"second")]))
    assert found.samples[0].image == "png"
    assert found.rejects == [("a", "several images: .jpg is ignored, .png came first")]


@pytest.mark.parametrize("name", ["a", ".jpg", "x/.hidden.jpg", "a.cls", "__meta__/a.json"])
def test_what_names_no_sample_is_ignored_and_counted(name: str) -> None:
    found = index(make_tar([(name, b"1")]))
    assert found.samples == [] and found.rejects == []
    assert found.ignored.total() == 1


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_and_devices_are_never_followed() -> None:
    extra = [
        special("a.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        special("b.jpg", tarfile.LNKTYPE, "good.jpg"),
        special("c.jpg", tarfile.CHRTYPE),
        special("d.jpg", tarfile.FIFOTYPE),
        special("folder", tarfile.DIRTYPE),
    ]
    found = index(make_tar([("good.jpg", b"1")], extra=extra))
    assert [sample.key for sample in found.samples] == ["good"]
    assert found.rejects == [
        ("a", "tar: a link, never followed"),
        ("b", "tar: a link, never followed"),
        ("c", "tar: neither a file nor a folder"),
        ("d", "tar: neither a file nor a folder"),
    ]


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "x/../../a.jpg"])
def test_names_that_leave_the_archive_are_rejected(name: str) -> None:
    found = index(make_tar([(name, b"1"), ("b.jpg", b"2")]))
    assert [sample.key for sample in found.samples] == ["b"]
    assert [reason for _, reason in found.rejects] == ["tar: a name that leaves the archive"]


def test_name_that_is_not_utf8_is_rejected() -> None:
    found = index(make_tar([("a\udcff.jpg", b"1")], format=tarfile.GNU_FORMAT))
    assert found.samples == []
    assert found.rejects == [("a\\udcff", "tar: a name that is not UTF-8")]


def test_an_empty_tar_has_no_samples_and_no_rejects() -> None:
    assert index(make_tar([])) == grouping.Index()


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", random.Random(0).randbytes(5000), b"x" * 512])
def test_what_is_no_tar_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a tar archive"):
        index(data)


def test_every_truncation_keeps_what_is_whole_and_says_so() -> None:
    data = make_tar([(f"{i}.jpg", bytes([i]) * 700) for i in range(4)])
    whole = index(data).samples
    end = whole[-1].members["jpg"].offset + 1024
    for cut in range(512, end + 1, 100):
        found = index(data[:cut])
        expected = [s for s in whole if s.members["jpg"].offset + 700 <= cut]
        assert [s.key for s in found.samples] == [s.key for s in expected]
        keys = [key for key, _ in found.rejects]
        assert keys[-1] == "", "the shard itself is always named"
        torn = [s.key for s in whole if s.members["jpg"].offset <= cut < s.members["jpg"].offset + 700]
        assert keys[:-1] == torn


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (1024, "tar: truncated at byte 1024, the end-of-archive marker is missing"),
        (1524, "tar: truncated at byte 1524, in a header"),
    ],
)
def test_what_lacks_behind_a_whole_member_is_said(size: int, reason: str) -> None:
    found = index(make_tar([("0.jpg", b"x"), ("1.jpg", b"x")])[:size])
    assert [s.key for s in found.samples] == ["0"] and found.rejects == [("", reason)]


def test_a_damaged_header_ends_the_shard_with_a_reason() -> None:
    data = bytearray(make_tar([(f"{i}.jpg", b"x") for i in range(3)]))
    data[1024 + 10] ^= 0xFF
    found = index(bytes(data))
    assert [s.key for s in found.samples] == ["0"]
    assert found.rejects == [("", "tar: damaged header at byte 1024; what follows is lost")]


def test_tars_put_one_after_another_are_noticed() -> None:
    found = index(make_tar([("a.jpg", b"1")]) + make_tar([("b.jpg", b"2")]))
    assert [s.key for s in found.samples] == ["a"]
    assert [key for key, _ in found.rejects] == [""]
    assert "data after the end" in found.rejects[0][1]


def test_damaged_bytes_never_raise_anything_but_value_error() -> None:
    rng = random.Random(1)
    clean = make_tar([("x" * 120 + ".jpg", b"a" * 600), ("b.jpg", b"b")]) + bytes(512)
    for _ in range(300):
        data = bytearray(clean)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data) // 2)] = rng.choice([0, 0x80, 0xFF, ord("7"), rng.randrange(256)])
        try:
            found = index(bytes(data))
        except ValueError:
            continue
        for sample in found.samples:
            for member in sample.members.values():
                assert 0 <= member.offset <= member.offset + member.size <= len(data)


def test_a_negative_size_ends_the_scan() -> None:
    info = tarfile.TarInfo("a.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 8 + (-1024).to_bytes(4, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    first = make_tar([("0.jpg", b"x")])[:1024]
    found = index(first + bytes(header) + bytes(1024))
    assert [s.key for s in found.samples] == ["0"]
    assert found.rejects[-1][0] == ""


def test_keys_are_those_of_webdataset() -> None:
    tariterators = pytest.importorskip("webdataset.tariterators")
    names = ["a.jpg", "x/b.JPG", "x.y/c.txt", "x/y/d.png", "x/b.txt", "a.json", "z/a.webp", "caf\u00e9.jpeg"]
    expected: dict[str, set[str]] = {}
    for name in names:
        key, extension = tariterators.base_plus_ext(name)
        expected.setdefault(key, set()).add(extension.lower())
    assert layout(make_tar([(name, b"1") for name in names])) == expected
