"""report.html: one offline file that says what happened, whatever the words in it would like to be."""

import json
import re
import shutil
import subprocess
from collections import Counter
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.model import Kind
from batchrunner.report import charts, html, svg
from batchrunner.report.story import GROUP_OF, GROUPS, Death, Endpoint, Finding, Leg, Moment, Slow, Story
from tests.stories import HOSTILE, story

BARE = Story(job="a.jsonl", state="good", verdict="2 of 2 succeeded")
VOID = {"meta", "br", "link", "img", "input"}
SECTIONS = {"diagnosis", "troubles", "throughput", "latency", "concurrency", "deaths", "endpoints", "slowest", "cost", "sessions"}
SECTIONS |= {"settings", "files"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tree(HTMLParser):
    """Counts elements, gathers text and ids, and insists that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.ids: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


# ---- the page ----


def test_a_page_holds_every_section_and_stays_small() -> None:
    page = html.page(story("a-name-of-forty-letters-or-so-for-the-size"))
    assert Tree(page).ids >= SECTIONS
    assert len(page.encode()) < 150_000


def test_a_page_needs_nothing_from_elsewhere() -> None:
    page = html.page(story())
    tree = Tree(page)
    assert not tree.count.keys() & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not re.search(r"https?://|url\(|@import|javascript:", page)
    assert not any(name.startswith("on") for name in tree.attributes)


def test_hostile_words_stay_words() -> None:
    """Same elements as with harmless words; nothing acts, turns round or cannot be encoded."""
    page, plain = html.page(story(HOSTILE)), html.page(story())
    assert Tree(page).count == Tree(plain).count
    assert Tree(page).attributes == Tree(plain).attributes
    assert "<script" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\ud800-\udfff]", page)
    page.encode()
    said = "".join(Tree(page).text)
    assert said.count("<script>alert(1)</script>") > 60
    assert "\\x1b[2J\\u202e\\ud800" in said


@given(word=st.text(min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_no_word_breaks_out(word: str) -> None:
    page = html.page(story(word, steps=2, rows=1))
    assert Tree(page).count == Tree(html.page(story("plain", steps=2, rows=1))).count
    page.encode()


def test_what_has_nothing_to_say_is_left_out() -> None:
    assert Tree(html.page(BARE)).ids == set()
    assert "2 of 2 succeeded" in html.page(BARE)
    one = msgspec.structs.replace(BARE, moments=(Moment(5.0, 5.0, (1.0,)),))
    assert Tree(html.page(one)).ids == set()


def test_a_running_job_shows_its_share() -> None:
    tree = Tree(html.page(msgspec.structs.replace(BARE, share=0.31)))
    assert "role" in tree.attributes
    assert 'aria-valuenow="31"' in html.page(msgspec.structs.replace(BARE, share=0.31))
    assert "progressbar" not in html.page(BARE)


def test_a_course_without_answers_has_no_latency() -> None:
    silent = tuple(Moment(float(at), 1.0, (0.0, 3.0)) for at in range(1, 9))
    ids = Tree(html.page(msgspec.structs.replace(BARE, moments=silent))).ids
    assert "throughput" in ids
    assert not ids & {"latency", "concurrency"}


def test_the_throughput_begins_with_the_run() -> None:
    moments = tuple(Moment(at=at, span=5.0, counts=(50.0,)) for at in (5.0, 10.0))
    page = html.page(msgspec.structs.replace(BARE, moments=moments))
    assert re.search(r'class="area good" d="M0\.0 ', page)


def test_a_seam_stands_where_a_session_began_anew() -> None:
    seamless = msgspec.structs.replace(story(), sessions=story().sessions[:1])
    assert html.page(seamless).count('class="mark seam"') == 0
    assert html.page(story()).count('class="mark seam"') == 3


def test_answers_of_the_diagnosis_are_words() -> None:
    found = (Finding("q1", "yes", "n", "r"), Finding("q2", "no", "n"), Finding("q3", "open", "n"))
    page = html.page(msgspec.structs.replace(BARE, findings=found))
    assert re.findall(r'class="sign (\w+)">([^<]+)', page) == [("yes", "yes"), ("no", "no"), ("open", "cannot tell")]


def test_an_endpoint_nobody_asked_divides_nothing() -> None:
    lane = Endpoint("A", 0, 0, "", "", "", "", "0/8")
    assert "0/8" in html.page(msgspec.structs.replace(BARE, endpoints=(lane,)))


def test_every_kind_has_one_colour() -> None:
    assert set(GROUP_OF) == set(Kind)
    assert sum(map(len, GROUPS.values())) == len(Kind)
    assert set(charts.GROUP_WORDS) == set(GROUPS)
    assert all(f".{group}" in html.style() for group in [*GROUPS, *charts.PHASE_WORDS])


# ---- charts ----


def test_axes_end_at_round_figures() -> None:
    assert svg.axis(46.4).ends == (0.0, 60.0)
    assert svg.axis(0.0).ends[1] > 0
    assert svg.axis(80.0).ticks == (0.0, 20.0, 40.0, 60.0, 80.0)
    assert svg.log_axis(0.35, 26.0).ends == (0.1, 100.0)
    assert svg.log_axis(5.0, 5.0).ends == (1.0, 10.0)
    assert svg.time_axis(0.0, 1078.0).ticks == (0.0, 300.0, 600.0, 900.0)
    assert svg.time_axis(0.0, 0.0).ends == (0.0, 1.0)
    assert svg.time_axis(0.0, 30 * 86400.0).ticks[1] == 5 * 86400.0


@given(most=st.floats(1e-6, 1e12), value=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_axes_hold_what_they_are_for(most: float, value: float) -> None:
    up = svg.axis(most)
    assert up.ends[1] >= most * (1 - 1e-9)
    assert 2 <= len(up.ticks) <= 7
    assert 0.0 <= up.place(value * most) <= 1.0 + 1e-9


def test_a_line_breaks_where_nothing_is_known() -> None:
    across, up = svg.Axis((0.0, 4.0), ()), svg.Axis((0.0, 10.0), ())
    drawn = svg.traced([0.0, 1.0, 2.0, 3.0, 4.0], svg.Line("p", "p50", [1.0, 2.0, -1.0, -1.0, 5.0]), across, up)
    assert drawn == '<path class="line p50" d="M0.0 180.0 250.0 160.0M1000.0 100.0h4"/>'
    assert svg.traced([0.0], svg.Line("p", "p50", [-1.0]), across, up) == ""


def test_areas_stand_on_one_another() -> None:
    across, up = svg.Axis((0.0, 1.0), ()), svg.Axis((0.0, 10.0), ())
    lines = [svg.Line("a", "good", [2.0, 2.0]), svg.Line("b", "busy", [0.0, 0.0]), svg.Line("c", "cut", [3.0, 3.0])]
    good, cut = re.findall(r'class="area (\w+)" d="([^"]+)"', svg.stacked([0.0, 1.0], lines, across, up))
    assert good == ("good", "M0.0 160.0 1000.0 160.0L1000.0 200.0 0.0 200.0Z")
    assert cut == ("cut", "M0.0 100.0 1000.0 100.0L1000.0 160.0 0.0 160.0Z")


def test_deaths_of_one_age_share_a_column() -> None:
    told = msgspec.structs.replace(BARE, deaths=(Death(60.0, "cut", 40), Death(60.2, "timeout", 7), Death(1.5, "cut", 2)))
    titles = re.findall(r"<title>([^<]+ at [^<]+)</title>", html.page(told))
    assert len(titles) == 3
    assert any(title.startswith(("40 × cut off by others at 60", "40 × cut off by others at 58")) for title in titles)


def test_phases_of_a_slow_attempt_add_up() -> None:
    legs = (Leg("connect", 0.0, 1.0), Leg("body", 1.0, 4.0))
    slow = Slow("r", 1, 1, "A", "good", "good", legs, deadline=2.0)
    page = html.page(msgspec.structs.replace(BARE, slowest=(slow,)))
    assert '<rect class="area connect" x="0.0" y="0" width="250.0"' in page
    assert '<rect class="area body" x="250.0" y="0" width="750.0"' in page
    assert 'class="mark deadline" d="M500.0 0V10"' in page
    late = msgspec.structs.replace(slow, deadline=9.0)
    assert "mark deadline" not in html.page(msgspec.structs.replace(BARE, slowest=(late,))).split("<main>")[1]


# ---- in a browser ----


def rendered(page: str, tmp_path: Path, width: int) -> dict[str, object]:
    """What Chromium made of it, in a frame of this width."""
    probe = """<script>
      const said = [];
      addEventListener("load", () => {
        const page = document.querySelector("iframe").contentDocument;
        const box = (each) => { const at = each.getBoundingClientRect(); return [at.width, at.height]; };
        document.title = JSON.stringify({
          overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
          ids: [...page.querySelectorAll("section")].map((each) => each.id),
          flat: [...page.querySelectorAll(".plot > svg")].filter((each) => Math.min(...box(each)) < 100).length,
          plots: page.querySelectorAll(".plot > svg").length,
          h1: page.querySelector("h1").textContent,
          alarms: window.alarms || 0,
          scripts: page.scripts.length,
        });
      });
      window.alert = () => { window.alarms = (window.alarms || 0) + 1; };
    </script>"""
    (tmp_path / "page.html").write_text(
        f'<meta charset="utf-8">{probe}<iframe style="width:{width}px;height:900px" srcdoc="{escape(page)}"></iframe>'
    )
    found = subprocess.run(
        [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    title = re.search(r"<title>(.*?)</title>", found.stdout)
    assert title

    told: dict[str, object] = json.loads(unescape(title[1]))
    return told


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_it_whole(tmp_path: Path, width: int) -> None:
    told = rendered(html.page(story(HOSTILE)), tmp_path, width)
    assert told["overflow"] == 0, "the page must not scroll sideways"
    assert set(told["ids"]) == SECTIONS  # type: ignore[call-overload]
    assert (told["plots"], told["flat"]) == (4, 0)
    assert (told["alarms"], told["scripts"]) == (0, 0)
    assert "<script>alert(1)</script>" in str(told["h1"])
