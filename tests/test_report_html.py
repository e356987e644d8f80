"""report.html: one offline file that says what happened, whatever the words in it would like to be."""

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchrunner
from batchrunner.core.model import Kind
from batchrunner.report import charts, html, svg
from batchrunner.report.parts import prose, typed
from batchrunner.report.story import GROUP_OF, GROUPS, Death, Endpoint, Finding, Leg, Moment, Slow, Story, Trouble
from tests.browser import FAINT, UNFIT, Tab
from tests.stories import HOSTILE, story

BARE = Story(job="a.jsonl", state="good", verdict="2 of 2 succeeded")
VOID = {"meta", "br", "link", "img", "input"}
SECTIONS = {"diagnosis", "troubles", "throughput", "latency", "concurrency", "deaths", "endpoints", "slowest", "cost", "sessions"}
SECTIONS |= {"settings", "files"}


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


def harmless(words: str) -> str:
    """As many plain words: each word of a command is an element of its own."""
    return " ".join("plain" for _ in words.split(" "))


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
    page, plain = html.page(story(HOSTILE)), html.page(story(harmless(HOSTILE)))
    assert Tree(page).count == Tree(plain).count
    assert Tree(page).attributes == Tree(plain).attributes
    assert "<script" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\ud800-\udfff]", page)
    page.encode()
    said = "".join(Tree(page).text)
    assert said.count("<script>alert(1)</script>") > 60
    assert "\\x1b[2J\\u202e\\ud800" in said


@given(word=st.text(min_size=1, max_size=12).filter(lambda word: "--" not in word))
@settings(max_examples=40, deadline=None)
def test_no_word_breaks_out(word: str) -> None:
    page = html.page(story(word, steps=2, rows=1))
    assert Tree(page).count == Tree(html.page(story(harmless(word), steps=2, rows=1))).count
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


def test_a_legend_names_only_what_is_drawn() -> None:
    silent = tuple(Moment(float(at), 1.0, (0.0, 3.0), timeout=60.0) for at in range(1, 9))
    page = html.page(msgspec.structs.replace(BARE, moments=silent))
    assert "timeout in force" in page
    assert "half took less" not in page


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


def test_a_sentence_breaks_neither_options_nor_figures() -> None:
    assert prose("5 of 9 (0.5 %) lost") == "5\u00a0of 9\u00a0(0.5\u00a0%) lost"
    assert prose("use --stream on <b>") == 'use <code class="whole">--stream</code> on &lt;b&gt;'
    assert (
        typed("a 'b  c' <d>") == "<span>a</span> <span>&#x27;b</span> <span></span> <span>c&#x27;</span> <span>&lt;d&gt;</span>"
    )


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

DRAWN = """({
  ids: [...document.querySelectorAll("section")].map((each) => each.id),
  plots: document.querySelectorAll(".plot > svg").length,
  flat: [...document.querySelectorAll(".plot > svg")].filter((each) => each.getBoundingClientRect().height < 100).length,
  scripts: document.scripts.length,
  h1: document.querySelector("h1").textContent,
})"""


@pytest.mark.parametrize("width", [400, 1400])
async def test_a_browser_shows_it_whole(tmp_path: Path, tab: Tab, width: int) -> None:
    place = tmp_path / "page.html"
    place.write_text(html.page(story(HOSTILE)))
    await tab.resize(width)
    await tab.go(place.as_uri())
    drawn = await tab.value(DRAWN)
    assert await tab.value(UNFIT) == []
    assert set(drawn["ids"]) == SECTIONS
    assert (drawn["plots"], drawn["flat"], drawn["scripts"]) == (4, 0, 0)
    assert "<script>alert(1)</script>" in drawn["h1"]
    assert (tab.complaints, tab.dialogues, tab.asked) == ([], [], [place.as_uri()])


async def test_what_is_typed_is_never_broken(tmp_path: Path, tab: Tab) -> None:
    place, options = tmp_path / "page.html", " ".join(["--first-byte-timeout or --max-timeout, --missing-finish"] * 9)
    told = msgspec.structs.replace(BARE, next=f"batchrunner {options}", troubles=(Trouble("timeout", 1, 1, options),))
    place.write_text(html.page(told))
    await tab.resize(400)
    await tab.go(place.as_uri())
    assert await tab.value("[...document.querySelectorAll('.whole')].map((each) => each.getClientRects().length)") == [1] * 27
    heights = await tab.value("[...document.querySelectorAll('.next span')].map((each) => each.offsetHeight)")
    assert heights == heights[:1] * 37


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a job that took two sessions, of which some lines failed."""
    job = tmp_path_factory.mktemp("ran") / "in.jsonl"
    rows = [json.dumps({"custom_id": f"{'long/' * 30}{n}", **batchrunner.chat(f"{n}", model="m")}) for n in range(60)]
    job.write_text("\n".join([*rows, "no request"]) + "\n")
    given = {"base_url": "simulated:flaky", "display": "none", "max_attempts": 2, "timeout": 0.5}
    batchrunner.run_sync(job, limit=20, **given)
    batchrunner.run_sync(job, price=("m=1/2",), **given)
    return job.with_name("in.run") / "report.html"


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_real_page_can_be_read(ran: Path, tab: Tab, width: int, scheme: str) -> None:
    await tab.resize(width)
    await tab.look(scheme=scheme)
    await tab.go(ran.as_uri())
    await tab.click("#settings summary")
    assert await tab.value(UNFIT) == []
    assert await tab.value(FAINT) == []
    assert (tab.complaints, tab.dialogues, tab.asked) == ([], [], [ran.as_uri()])


async def test_a_real_page_can_be_printed(ran: Path, tab: Tab) -> None:
    """On the width of a sheet, with no chart torn from its legend by the end of a page, and no default that nobody needs."""
    await tab.go(ran.as_uri())
    await tab.resize(720)
    await tab.look("print")
    assert await tab.value(UNFIT) == []
    assert await tab.value(FAINT) == []
    torn = "[...document.querySelectorAll('.plot')].map((each) => getComputedStyle(each.closest('section')).breakInside)"
    assert set(await tab.value(torn)) == {"avoid"}
    assert not await tab.value("document.querySelector('details').checkVisibility()")
    assert (await tab.paper()).startswith(b"%PDF")
