import stat
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from unit.demo.factories import summary, trace

from betcore_async.demo.report import check_report_path, render_report, write_report
from betcore_async.demo.summary import Verdict
from betcore_async.errors import ConfigError


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


def drawings(page):
    return [ET.fromstring("<svg" + part.split("</svg>")[0] + "</svg>") for part in page.split("<svg")[1:]]  # noqa: S314 - our own page


def test_the_page_needs_nothing_from_elsewhere():
    page = Page(render_report(summary(), trace()))
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in {"src", "href", "xlink:href"} or name.startswith("on")]
    assert "url(" not in "".join(page.text)
    assert "@import" not in "".join(page.text)


def test_the_page_has_each_chart_as_sound_svg():
    labels = [drawing.get("aria-label") for drawing in drawings(render_report(summary(), trace()))]
    assert labels == [
        "Price over the whole feed, with a mark at each rotation",
        "Price tick by tick, with the cells that were bet on",
        "Bets of each week",
        "Distribution of the balances at the end",
        "Latency of place",
        "Latency of query",
    ]


def test_charts_stay_inside_their_frames():
    for drawing in drawings(render_report(summary(), trace())):
        _, _, width, height = (float(value) for value in drawing.get("viewBox").split())
        for box in drawing.iter("rect"):
            assert 0 <= float(box.get("x")) <= float(box.get("x")) + float(box.get("width")) <= width
            assert 0 <= float(box.get("y")) <= float(box.get("y")) + float(box.get("height")) <= height


def test_the_close_up_shows_the_cells_around_the_first_rotation():
    page = render_report(summary(), trace())
    assert "Three hours around the first rotation" in page
    assert page.count('class="cell won"') > 5
    assert page.count('class="cell lost"') > 5


def test_texts_from_outside_are_escaped():
    bad = "<script>alert(1)</script>"
    verdict = Verdict(ok=False, violations=(bad,), counts={"money_in": 1, "money_out": 2})
    page = render_report(summary(feed=bad, audit=verdict), trace())
    assert bad not in page
    assert "&lt;script&gt;" in page
    assert "audit FAILED" in page


def test_a_run_that_ended_before_its_first_tick_still_has_a_report():
    nothing = trace(ticks=0)
    nothing.latencies, nothing.balances = {}, []
    page = render_report(summary(first=None, last=None, ticks=0, weeks=(), timings={}, elapsed=0.0), nothing)
    assert drawings(page) == []
    assert "no tick" in page


def test_one_tick_and_equal_balances_can_be_drawn():
    one = trace(ticks=1)
    one.balances = [0, 0]
    assert len(drawings(render_report(summary(), one))) == 6


def test_the_file_is_private_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(summary(), trace(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(summary(), trace(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_take_a_report_is_told_beforehand(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "report.html"):
        with pytest.raises(ConfigError, match="cannot be written to"):
            check_report_path(path)
    check_report_path(tmp_path / "report.html")
