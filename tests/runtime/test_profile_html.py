"""The page of a profile: well formed, complete, in one file, and safe whatever a model's names are."""

import re
from html.parser import HTMLParser

import pytest

from dlc.runtime.profile import ARITHMETIC, MEMORY, Profile, StepTime
from dlc.runtime.profile_html import report_page
from dlc.runtime.roofline import Roofline

ROOF = Roofline("Some <Processor>", 2, 2e11, ((16384, 3e11), (1 << 27, 3.5e10)))
VOID = {"meta", "br"}
HOSTILE = '</script><script src="https://example.com/x.js">$model & "quoted"'


class Page(HTMLParser):
    """Checks nesting; collects tags, attributes and the text of cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def timed(number, milliseconds, floor=0.0, bound="", label="conv"):
    return StepTime(number, label, f"k{number}", 4, 1, milliseconds, 10.0, 1.0, 2.0, 0.0, floor, bound)


STEPS = (timed(0, 1.0, 0.5, MEMORY), timed(1, 3.0, 4.5, ARITHMETIC, label="dense (a, b)"), timed(2, 2.0))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "profile.html"
    Profile(STEPS, 7, 2, ROOF).write_html(path, "a model")
    return path.read_text(encoding="utf-8")


def test_every_step_has_a_row_slowest_first(text):
    headings, *rows = Page(text).rows
    assert headings[:4] == ["#", "ms", "%", "% of floor"] and len(headings) == len(rows[0])
    assert [row[0] for row in rows] == ["1", "2", "0"]
    assert [row[3] for row in rows] == ["150*", "-", "50"]
    assert [row[4] for row in rows] == [ARITHMETIC, "-", MEMORY]
    assert rows[0][-1] == "dense (a, b)k1"


def test_it_says_what_was_measured_and_what_it_means(text):
    for fact in ("a model", "6.000 ms", "5.000 ms", "200 GFLOP/s", "35 GB/s of 128 MiB", "7 runs", "Winograd"):
        assert fact in text
    assert "Some &lt;Processor&gt;" in text and "prefers-color-scheme: dark" in text


def test_bars_are_lengths_relative_to_the_slowest_step(text):
    widths = [float(w) for w in re.findall(r"width: ([\d.]+)%\"", text)]
    assert widths == [100.0, 100.0, 66.7, 0.0, 33.3, 16.7]


def test_nothing_is_loaded_from_elsewhere(text):
    page = Page(text)
    assert not {"link", "img", "iframe"} & set(page.tags) and page.tags.count("script") == 1
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert "://" not in text and "default-src 'none'" in text


def test_names_of_a_model_are_text():
    steps = (timed(0, 1.0, label=HOSTILE),)
    profile = Profile(steps, 1, 1, ROOF)
    plain = Page(report_page(profile, "m"))
    hostile = Page(report_page(profile, HOSTILE))
    assert hostile.tags == plain.tags and hostile.tags.count("script") == 1
    assert hostile.rows[1][-1] == HOSTILE + "k0"


def test_without_a_roofline_and_without_steps():
    text = report_page(Profile((timed(0, 1.0),), 1, 1), "m")
    assert "peak" not in text.split("<table>")[0].split("</style>")[1] and Page(text).rows[1][3] == "-"
    assert len(Page(report_page(Profile((), 1, 1, ROOF), "m")).rows) == 1
