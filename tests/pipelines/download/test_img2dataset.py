"""A fetcher that is not ours keeps to the recipe's rules all the same: what leaves goes through the gate."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from fourmill_tests.web import fetching, tool
from fourmill_tests.web.fetching import fetch, kinds
from fourmill_tests.web.server import Web

from fourmill.pipelines.download import failures, img2dataset
from fourmill.pipelines.download.img2dataset import Img2dataset, kind_of
from fourmill.pipelines.download.limits import Limiter
from fourmill.pipelines.download.pictures import Picture


@contextmanager
def fetcher(
    limiter: Limiter, name: str = "one", user_agent: str = "fourmill/0", **changes: Any
) -> Iterator[Img2dataset]:
    settings = fetching.settings(**changes)
    program = (sys.executable, tool.__file__)
    made = Img2dataset(settings, 1_000_000, partial(limiter.ask, name), user_agent, tool=(), program=program)
    try:
        yield made
    finally:
        made.close()


def test_it_gives_the_pictures_that_ours_gives(web: Web) -> None:
    urls = [web.url("image/1"), web.url("status/404"), web.url("large/2"), web.url("lie/1"), web.url("to/image/5")]
    with fetcher(Limiter(None)) as one, fetching.fetcher() as own:
        theirs, ours = fetch(urls, one), fetch(urls, own)
    assert kinds(theirs) == kinds(ours) == ["", "http-404", "", failures.NOT_IMAGE, ""]
    assert [one for one in theirs if isinstance(one, Picture)] == [one for one in ours if isinstance(one, Picture)]
    assert web.agents == {"fourmill/0", "fourmill/0 (+tests)"}


def test_what_leaves_keeps_to_the_rules(web: Web) -> None:
    web.robots["127.0.0.2"] = "User-agent: *\nDisallow: /image/7\n"
    expected = {
        web.url("to/http://169.254.169.254/latest"): failures.REFUSED,
        web.url("to/http://10.0.0.1/"): failures.REFUSED,
        web.url("to/ftp://127.0.0.1/x"): failures.BAD_URL,
        web.url("image/7", "127.0.0.2"): failures.ROBOTS,
        web.url("image/8", "127.0.0.2"): "",
        web.url("hang/1"): failures.TIMEOUT,
        web.url("endless/1"): failures.CONNECTION,
        web.url("circle/0"): failures.REDIRECTS,
        "https://127.0.0.3:9/x": failures.CONNECTION,
        "file:///etc/passwd": failures.BAD_URL,
    }
    with fetcher(Limiter(None), timeout=1.0, max_mib=1) as one:
        assert dict(zip(expected, kinds(fetch(list(expected), one)), strict=True)) == expected


def test_its_hosts_have_permits_too(web: Web) -> None:
    limiter = Limiter(1)
    urls = [web.url(f"image/{i}") for i in range(12)]
    results: list[list[str]] = []
    with fetcher(limiter, "one", robots=False) as one, fetcher(limiter, "two", robots=False) as two:
        threads = [threading.Thread(target=lambda by=by: results.append(kinds(fetch(urls, by)))) for by in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [[""] * 12] * 2 and web.most["127.0.0.1"] == 1


def test_what_passes_is_tried_again_in_a_second_run(web: Web) -> None:
    web.busy = 1
    with fetcher(Limiter(None), retries=1) as one:
        assert kinds(fetch([web.url("busy/1"), web.url("status/404")], one)) == ["", "http-404"]
    assert web.asked("busy/1") == 2 and web.asked("status/404") == 1


def test_a_tool_that_breaks_or_is_missing_is_a_sentence(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        fetcher(Limiter(None), user_agent="broken/1") as one,
        pytest.raises(ValueError, match=r"img2dataset ended with 1, .* no module named webdataset"),
    ):
        fetch([web.url("image/1")], one)
    monkeypatch.setattr(img2dataset, "TOOL", ("no-such-tool",))
    with pytest.raises(ValueError, match="which is not installed here"):
        img2dataset.check_tool()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("HTTP Error 404: Not Found", "http-404"),
        ("HTTP Error 470: refused-address", failures.REFUSED),
        ("<urlopen error Tunnel connection failed: 470 dns>", failures.DNS),
        ("HTTP Error 302: a redirect error that would lead to an infinite loop.", failures.REDIRECTS),
        ("Use of image disallowed by X-Robots-Tag directive", failures.NO_AI),
        ("The read operation timed out", failures.TIMEOUT),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", failures.TLS),
        ("<urlopen error [Errno 111] Connection refused>", failures.CONNECTION),
        ("IncompleteRead(4 bytes read, 99996 more expected)", failures.CONNECTION),
        ("URL can't contain control characters", failures.BAD_URL),
        ("", failures.OTHER),
    ],
)
def test_words_of_img2dataset_have_classes(said: str, kind: str) -> None:
    assert kind_of(said) == kind
