from __future__ import annotations

import base64
import hashlib
import re

import pytest

from fourmill.report.html import page


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (2.5, "2.5"), (9_999, "9,999"), (23_400, "23.4 k"), (1.2e9, "1.2 G"), (5e13, "50 T")],
)
def test_brief(number: float, text: str) -> None:
    assert page.brief(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (12.3, "12 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (7_500, "2 h 05 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert page.duration(seconds) == text


def test_policy_names_the_hash_of_the_script() -> None:
    from fourmill.report.html.gallery import Gallery, render_gallery

    html = render_gallery(Gallery("empty", []))
    code = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert code
    digest = base64.b64encode(hashlib.sha256(code[1].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in html


def test_a_page_without_a_script_allows_none() -> None:
    from fourmill.report.html.report import ReportData, render_report

    html = render_report(ReportData(title="empty"))
    assert "script-src &#39;none&#39;" in html
    assert "<script" not in html
