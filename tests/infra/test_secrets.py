"""What may be printed and written of URLs and texts."""

from __future__ import annotations

import pytest

from fourmill.infra.secrets import hidden, hide, public


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/a.tar?X-Amz-Signature=S3CR3T&X-Amz-Credential=S3CR3T", "https://h/a.tar"),
        ("https://h/a.tar?sig=S3CR3T&versionId=7", "https://h/a.tar?versionId=7"),
        ("https://h/get?file=a.tar&token=S3CR3T", "https://h/get?file=a.tar"),
        ("https://user:S3CR3T@h/a@b.tar", "https://h/a@b.tar"),
        ("ftp://S3CR3T@h/a.tar", "ftp://h/a.tar"),
        ("s3://bucket/a?.tar", "s3://bucket/a?.tar"),
        ("s3://bucket/run[1]/{0..1}.tar", "s3://bucket/run[1]/{0..1}.tar"),
        ("/data/a?b=c.tar", "/data/a?b=c.tar"),
    ],
)
def test_urls(url: str, expected: str) -> None:
    assert public(url) == expected
    assert hide(f"shard {url}: damaged") == f"shard {expected}: damaged" or "://" not in url
    assert hidden({"samples": {"train": [url]}}) == {"samples": {"train": [expected]}}


@pytest.mark.parametrize(
    "text",
    [
        "AWS_SECRET_ACCESS_KEY=S3CR3T", '{"SessionToken": "S3CR3T"}'.replace("Session", "session_"),
        "X-Amz-Signature=S3CR3T", "'https://h/a?x=S3CR3T'", "(url='https://u:S3CR3T@h/a')", "password: S3CR3T",
        "there is no recipe at http:/h/a.tar?sig=S3CR3T; look",
    ],
)  # fmt: skip
def test_texts(text: str) -> None:
    assert "S3CR3T" not in hide(text)


def test_other_texts_stay() -> None:
    for text in ("a caption: key=value, 3:4", "s3://bucket/a/b.tar", "det: RuntimeError: this image only", ""):
        assert hide(text) == text
