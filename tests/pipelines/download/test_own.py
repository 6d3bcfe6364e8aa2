"""fourmill's own fetcher against a server that misbehaves."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import pytest
from fourmill_tests.web import fetching, server
from fourmill_tests.web.fetching import fetch, fetcher, kinds
from fourmill_tests.web.server import Web

from fourmill.pipelines.download import failures, manners, own
from fourmill.pipelines.download.failures import Failure
from fourmill.pipelines.download.limits import Limiter
from fourmill.pipelines.download.pictures import Picture


def test_bytes_of_small_images_come_as_they_are(web: Web) -> None:
    with fetcher() as one:
        small, large = fetch([web.url("image/1"), web.url("large/2")], one)
    assert isinstance(small, Picture) and small.data == server.jpeg(1) and small.extension == "jpg"
    assert isinstance(large, Picture) and (large.width, large.height) == (341, 256)
    assert (large.original_width, large.original_height) == (800, 600)
    assert large.sha256 == hashlib.sha256(server.jpeg(2, 800, 600)).hexdigest()
    assert web.agents == {"fourmill/0 (+tests)"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("status/404", "http-404"),
        ("status/503", "http-503"),
        ("endless/1", failures.TOO_LARGE),
        ("huge/1", failures.TOO_LARGE),
        ("bomb/1", failures.TOO_LARGE),
        ("gzip-bomb/1", failures.TOO_LARGE),
        ("circle/0", failures.REDIRECTS),
        ("chain/0", failures.REDIRECTS),
        ("to/http://169.254.169.254/latest/meta-data", failures.REFUSED),
        ("to/http://[::ffff:10.0.0.1]/", failures.REFUSED),
        ("to/file:///etc/passwd", failures.BAD_URL),
        ("to/image/5", ""),
        ("lie/1", failures.NOT_IMAGE),
        ("plain/1", ""),
        ("broken/1", failures.UNDECODABLE),
        ("cut/1", failures.CONNECTION),
        ("noise/1", failures.CONNECTION),
        ("header/X-Robots-Tag=noai", failures.NO_AI),
        ("header/X-Robots-Tag=all,_NoImageAI", failures.NO_AI),
        ("header/X-Robots-Tag=fourmill:_noindex", failures.NO_AI),
        ("header/X-Robots-Tag=none", failures.NO_AI),
        ("header/X-Robots-Tag=otherbot:_noai", ""),
        ("header/X-Robots-Tag=max-image-preview:large,_noarchive", ""),
        ("header/tdm-reservation=1", failures.NO_AI),
    ],
)
def test_what_a_server_can_do(web: Web, path: str, kind: str) -> None:
    with fetcher(max_mib=1) as one:
        bad, good = fetch([web.url(path), web.url("image/1")], one)
    assert kinds([bad, good]) == [kind, ""], bad


@pytest.mark.parametrize("path", ["hang/1", "slow/1"])
def test_a_url_has_a_time_limit(web: Web, path: str) -> None:
    with fetcher(timeout=0.3, connections=2) as one:
        assert kinds(fetch([web.url(path), web.url(path), web.url("image/1")], one)) == ["timeout", "timeout", ""]


def test_a_slice_has_a_time_limit(web: Web) -> None:
    """What is fetched, what waits for its host, and what waits to be tried again ends together."""
    urls = [web.url("hang/1"), web.url("hang/2"), web.url("hang/3"), web.url("status/503", "127.0.0.2")]
    with fetcher(timeout=600.0, slice_minutes=0.5 / 60, per_host=2, retries=9) as one:
        found = kinds(fetch(urls, one))
        assert found == [failures.DEADLINE] * 4
        assert kinds(fetch([web.url("image/1", "127.0.0.3")], one)) == [""]  # the fetcher goes on


@pytest.mark.parametrize(
    "url", ["", "no url", "ftp://127.0.0.1/x", "http://", "http://[::1", "//host/x", "http://a:99999/x"]
)
def test_what_is_no_url_of_the_web(url: str) -> None:
    with fetcher() as one:
        assert kinds(fetch([url], one)) == [failures.BAD_URL]


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "localhost"])
def test_this_machine_is_refused_by_any_name(web: Web, host: str) -> None:
    with fetcher(allow=[]) as one:
        assert kinds(fetch([web.url("image/1", host)], one)) == [failures.REFUSED]
    assert not web.seen


def test_a_name_cannot_change_its_address_later(web: Web) -> None:
    """The first answer is checked and connected to; a second one, to another address, is never asked for."""
    answers = iter(["127.0.0.1", "10.0.0.1"])

    def lookup(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", (next(answers), 0))]

    with fetcher(lookup=lookup) as one:
        assert kinds(fetch([web.url("image/1", "photos.example")] * 3, one)) == ["", "", ""]
    assert web.seen["photos.example", "/image/1"] == 3


def test_a_hash_is_compared_with_the_bytes_that_came(web: Web) -> None:
    data, urls = server.jpeg(1), [web.url("image/1")] * 5
    good = [getattr(hashlib, name)(data).hexdigest() for name in ("md5", "sha1", "sha256")]
    with fetcher() as one:
        assert kinds(fetch(urls, one, [*good, "0" * 32, "none"])) == ["", "", "", *[failures.WRONG_HASH] * 2]


def test_small_images_are_left_out_if_asked(web: Web) -> None:
    with fetcher(min_size=200) as one:
        assert kinds(fetch([web.url("image/1"), web.url("large/1")], one)) == [failures.TOO_SMALL, ""]


def test_no_size_keeps_all_bytes(web: Web) -> None:
    with fetcher(size=None) as one:
        (large,) = fetch([web.url("large/1")], one)
    assert isinstance(large, Picture) and large.data == server.jpeg(1, 800, 600)


# Limits.


def test_one_host_has_few_connections_over_two_workers(web: Web) -> None:
    """Many URLs of one host, in two workers, with redirects from another host to it."""
    limiter = Limiter(3)
    mine = [web.url(f"image/{i % 7}") for i in range(150)]
    others = [web.url(f"to/{web.url(f'image/{i}')}", "127.0.0.2") for i in range(40)]
    with (
        fetcher(limiter, "one", per_host=3, robots=False) as one,
        fetcher(limiter, "two", per_host=3, robots=False) as two,
    ):
        results: list[list[str]] = []
        threads = [
            threading.Thread(target=lambda by=by, urls=urls: results.append(kinds(fetch(urls, by))))
            for by, urls in ((one, mine), (two, mine), (two, others))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(kind == "" for of in results for kind in of) and sum(map(len, results)) == 340
    assert 1 < web.most["127.0.0.1"] <= 3 and web.most["127.0.0.2"] <= 3


def test_a_busy_host_is_left_alone_as_it_asks(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with Retry-After: all URLs of the host come in the end, though each is tried once."""
    pauses: list[tuple[str, float]] = []
    pause = own.OwnFetcher._pause

    def noted(self: own.OwnFetcher, host: str, seconds: float) -> None:
        pauses.append((host, seconds))
        pause(self, host, seconds / 10)

    monkeypatch.setattr(own.OwnFetcher, "_pause", noted)
    web.busy, web.retry_after = 5, "2"
    with fetcher(per_host=2) as one:
        urls = [web.url(f"busy/{i}") for i in range(8)] + [web.url("image/1", "127.0.0.2")]
        assert kinds(fetch(urls, one)) == [""] * 9
    assert pauses == [("127.0.0.1", 2.0)] * 5


def test_a_host_that_asks_for_too_long_is_given_up(web: Web) -> None:
    web.busy, web.retry_after = 1000, "100000"
    with fetcher(per_host=2) as one:
        assert kinds(fetch([web.url(f"busy/{i}") for i in range(50)], one)) == ["http-429"] * 50
    assert sum(web.seen.values()) <= 4


def test_what_passes_is_tried_again(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "BACKOFF_SECONDS", 0.01)
    with fetcher(retries=2) as one:
        assert kinds(fetch([web.url("status/503"), web.url("status/404")], one)) == ["http-503", "http-404"]
    assert web.asked("status/503") == 3 and web.asked("status/404") == 1
    with fetcher(retries=1, retry=["http-404"]) as one:
        fetch([web.url("status/503"), web.url("status/404")], one)
    assert web.asked("status/503") == 4 and web.asked("status/404") == 3


def test_bytes_at_a_time_have_a_limit(web: Web) -> None:
    """Responses of unknown length wait for each other, and none waits for ever."""
    with fetcher(buffer_mib=1, max_mib=1, connections=16) as one:
        results = fetch([web.url("endless/1") if i % 2 else web.url(f"image/{i}") for i in range(20)], one)
    assert kinds(results) == ["", failures.TOO_LARGE] * 10


def test_a_result_that_cannot_be_kept_ends_the_slice(web: Web) -> None:
    def full(index: int, result: Picture | Failure) -> None:
        raise OSError(28, "No space left on device")

    with fetcher() as one, pytest.raises(OSError, match="No space left"):
        one.fetch([fetching.Row(i, web.url(f"image/{i}")) for i in range(20)], full)


# Robots.


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("User-agent: *\nDisallow: /image/1\n", [failures.ROBOTS, ""]),
        ("User-agent: *\nDisallow: /\nAllow: /image/2\n", [failures.ROBOTS, ""]),
        ("User-agent: fourmill\nDisallow: /*/2$\n", ["", failures.ROBOTS]),
        ("User-agent: otherbot\nDisallow: /\n", ["", ""]),
        ("\x00\xffnothing\n", ["", ""]),
    ],
)
def test_robots_txt_is_heeded(web: Web, rules: str, expected: list[str]) -> None:
    web.robots["127.0.0.1"] = rules
    urls = [web.url("image/1"), web.url("image/2")]
    with fetcher() as one:
        assert kinds(fetch([*urls, *urls], one)) == expected * 2
    assert web.seen["127.0.0.1", "/robots.txt"] == 1
    with fetcher(robots=False) as one:
        assert kinds(fetch(urls, one)) == ["", ""]


def test_headers_need_not_be_looked_at(web: Web) -> None:
    with fetcher(opt_out=[]) as one:
        assert kinds(fetch([web.url("header/X-Robots-Tag=noai")], one)) == [""]


def test_a_robots_txt_that_breaks_its_parser_stops_no_slice(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str) -> None:
        raise RecursionError(text)

    monkeypatch.setattr(manners.Protego, "parse", broken)
    web.robots["127.0.0.1"] = "User-agent: *"
    with fetcher() as one:
        found = kinds(fetch([web.url("image/1"), web.url("image/1", "127.0.0.2")], one))
    assert found == [failures.ROBOTS, ""]
