"""report.text: what a run says, and that nothing from outside can command the terminal."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from batchrunner.core.model import Kind
from batchrunner.core.wording import WORDS
from batchrunner.meter import Gauges, Snapshot
from batchrunner.report import layout, preview, text
from batchrunner.report.invocation import Invocation
from batchrunner.report.preview import CheckReport, Problem
from batchrunner.summary import Report, summarise

JOB = Invocation(input="my input.jsonl", options=("-o", "out.jsonl"))
KINDS = {Kind.RATE_LIMITED: 3214, Kind.TIMEOUT_IDLE: 300, Kind.TIMEOUT_TOTAL: 102, Kind.TRUNCATED: 118, Kind.GATEWAY: 221}
FULL = Snapshot(
    seconds=1078.0,
    total=50000,
    succeeded=49871,
    failed=129,
    recovered=3700,
    maybe_billed=4,
    tokens_in=31_000_000,
    tokens_out=7_200_000,
    p50=3.2,
    p95=8.9,
    p99=21.0,
    first_byte_share=0.64,
    kinds=KINDS,
    failures={Kind.CONTEXT: 96, Kind.POLICY: 24, Kind.TIMEOUT_TOTAL: 6, Kind.TRUNCATED: 3},
)


def ending(snapshot: Snapshot, stopped: str = "", code: int = 0, page: str = "") -> Report:
    return Report(summarise(snapshot, "jobs/my input.jsonl", stopped, code), snapshot, "out.jsonl", "out.errors.jsonl", (), page)


# ---- the end ----


def test_all_good() -> None:
    said = text.final(ending(Snapshot(total=20, succeeded=20, seconds=4.0)), JOB)
    assert said.splitlines()[0].startswith("✓ 20 of 20 succeeded  ")
    assert said.splitlines()[0].endswith("4.0 s · 5.0 req/s")
    assert said.splitlines()[1:] == ["  results   out.jsonl", "  exit      0"]


def test_answers_cut_off_by_the_model_are_spoken_of() -> None:
    said = text.final(ending(Snapshot(total=4, succeeded=4, limited=1)), JOB)
    assert "  short     1 answer cut off at the token limit" in said


def test_finished_with_failures() -> None:
    lines = text.final(ending(FULL, page="out.run/report.html"), JOB).splitlines()
    assert lines[0].startswith("✗ 49,871 of 50,000 succeeded, 129 failed  ")
    assert lines[0].endswith("17 m 58 s · 46.4 req/s")
    assert lines[1:] == [
        "  tokens    31.0 M in · 7.2 M out · 4 attempts may be billed without an answer",
        "  latency   p50 3.2 s · p95 8.9 s · p99 21 s  (waiting for the first byte: 64 %)",
        "  trouble   429 × 3,214 · timeouts × 402 · cut answers × 118 · server errors × 221;",
        "            3,700 requests recovered",
        "  failed    96 prompt too long · 24 content filter · 6 timeout · 3 answer cut short",
        "  next      batchrunner retry 'my input.jsonl' -o out.jsonl",
        "            asks again the 9 that can succeed; the other 120 need other input",
        "  results   out.jsonl",
        "  failures  out.errors.jsonl",
        "  report    out.run/report.html",
        "  exit      1",
    ]


def test_dead_workers_are_not_the_network() -> None:
    said = text.final(ending(Snapshot(total=9, succeeded=9, kinds={Kind.OK: 9, Kind.CRASHED: 23, Kind.NETWORK: 2})), JOB)
    assert "  trouble   network × 2 · dead workers × 23\n" in said


def test_a_cost_of_which_some_is_not_known_is_the_least() -> None:
    known = ending(Snapshot(total=9, succeeded=9, tokens_in=40, tokens_out=60, untold=2, gauges=Gauges(cost=0.25)))
    assert "  tokens    40 in · 60 out · cost at least $ 0.25 · 2 answers without a count\n" in text.final(known, JOB)
    assert "without a count" not in text.final(ending(Snapshot(total=9, succeeded=9, untold=9)), JOB)


WORD = st.text(st.characters(categories=["L"]), max_size=30)


@given(st.integers(40, 120), st.lists(WORD, max_size=6), st.integers(0, 10**9), st.sampled_from(["", *WORDS]))
@settings(deadline=None, max_examples=100)
def test_prose_fits_the_screen_and_loses_no_word(width: int, words: list[str], figure: int, more: str) -> None:
    said = " ".join([*words, f"{figure:,} s", more, "≤ 26 s"])
    lines = layout.fold(said, width, 12)
    assert " ".join(lines).split() == said.split()
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)


@pytest.mark.parametrize("width", [45, 60, 80, 100])
def test_the_end_of_a_run_fits_the_screen(width: int) -> None:
    lines = text.final(ending(FULL, page="out.run/report.html"), JOB, width=width).splitlines()
    typed = "  next      batchrunner retry 'my input.jsonl' -o out.jsonl"
    assert max(len(line) for line in lines if line != typed) <= width
    assert typed in lines


def test_a_command_is_never_folded() -> None:
    long = Invocation(input="a" * 90)
    lines = text.final(ending(FULL), long, width=60).splitlines()
    assert f"  next      batchrunner retry {'a' * 90}" in lines


def test_a_unit_stays_with_its_figure() -> None:
    assert layout.fold("the longest timeout is 26 s", 25) == ["the longest timeout is", "26 s"]


def test_resumed_lines_are_no_speed() -> None:
    said = text.final(ending(Snapshot(total=1000, succeeded=1000, resumed=990, seconds=10.0)), JOB)
    assert "1.0 req/s" in said
    assert "req/s" not in text.final(ending(Snapshot(total=10, succeeded=10, resumed=10, seconds=1.0)), JOB)


def test_nor_are_lines_that_were_never_sent() -> None:
    assert "1.0 req/s" in text.final(ending(Snapshot(total=2010, succeeded=10, invalid=2000, unsent=2000, seconds=10.0)), JOB)
    assert "req/s" not in text.final(ending(Snapshot(total=2000, invalid=2000, unsent=2000, seconds=0.06)), JOB)


def test_nothing_to_retry_when_all_failures_are_hopeless() -> None:
    said = text.final(ending(Snapshot(total=2, failed=1, invalid=1, failures={Kind.CONTEXT: 1, Kind.INVALID: 1})), JOB)
    assert "next" not in said
    assert "1 failed, 1 invalid" in said


@pytest.mark.parametrize(("reason", "code"), [("interrupted", 130), ("the time allowed is over", 3)])
def test_stopped_early(reason: str, code: int) -> None:
    snapshot = Snapshot(total=50000, succeeded=15500, failed=2, failures={Kind.TIMEOUT_TOTAL: 2}, dropped=7)
    lines = text.final(ending(snapshot, reason, code), JOB).splitlines()
    assert lines[:3] == [
        f"■ stopped at 31 % · {reason}",
        "  15,502 done, 34,498 to go · nothing lost · 7 in flight dropped that may be billed",
        "  next      batchrunner 'my input.jsonl' -o out.jsonl     continues",
    ]
    assert lines[-1].split() == ["exit", str(code)]
    assert sum("batchrunner 'my" in line for line in lines) == 1


def test_what_a_limit_leaves_is_not_called_stopped() -> None:
    said = text.final(ending(Snapshot(total=100, succeeded=20)), JOB).splitlines()
    assert said[:2] == ["✓ 20 % done, as far as was asked for", "  20 done, 80 to go · nothing lost"]
    assert "continues" in said[2]


def test_a_small_try_that_failed_is_no_success() -> None:
    tried = ending(Snapshot(total=100, failed=1, failures={Kind.REJECTED: 1}))
    assert text.final(tried, JOB).startswith("✗ 1 % done, as far as was asked for\n")


def test_a_condition_that_fits_nothing_is_no_success() -> None:
    job = Invocation(input="a", options=("--where", "foo"))
    said = text.final(ending(Snapshot(total=100, succeeded=20, resumed=20)), job).splitlines()
    assert said[0] == "■ nothing was sent: no line that is left fits --where"
    assert "continues" not in said[2]
    assert text.final(ending(Snapshot(total=100, succeeded=20)), job).startswith("✓ 20 % done")
    assert text.final(ending(Snapshot(total=100, resumed=20, succeeded=20)), JOB).startswith("✓ 20 % done")


def test_a_retry_in_vain_says_so() -> None:
    hopeless = ending(Snapshot(total=2, failed=2, resumed=2, failures={Kind.CONTEXT: 2}))
    said = text.final(hopeless, Invocation(input="a", verb="retry"))
    assert "batchrunner retry a --all\n" in f"{said}\n"
    assert "nothing that failed can succeed as it is" in said


def test_a_code_of_a_stop_says_where_it_is_explained() -> None:
    lines = text.final(ending(Snapshot(total=2), "A: bad key [E301]", 3), JOB).splitlines()
    assert lines[0] == "■ stopped at 0 % · A: bad key [E301]"
    assert lines[3] == "            batchrunner explain E301     what E301 means"
    assert lines[2].endswith("     continues, once that is mended"), "and stops in the same way before"
    both = text.final(ending(Snapshot(total=2), "A: bad key [E301]; B: bad key [E301]; no other [E305]", 3), JOB).splitlines()
    assert [line.split()[2] for line in both if "explain" in line] == ["E301", "E305"], "each once"


@pytest.mark.parametrize(
    ("code", "waits"),
    [
        ("E301", True),
        ("E302", True),
        ("E303", False),
        ("E304", True),
        ("E305", False),
        ("E306", False),
        ("E307", True),
        ("E309", False),
    ],
)
def test_after_a_refusal_of_everything_the_same_command_helps_only_later(code: str, waits: bool) -> None:
    said = text.final(ending(Snapshot(total=2), f"why [{code}]", 3), JOB)
    assert ("continues, once that is mended" in said) == waits


def test_what_went_to_a_pipe_is_not_said_to_be_safe() -> None:
    for failures, stopped in (({}, "SIGINT"), ({Kind.QUOTA: 20}, "")):
        snapshot = Snapshot(total=100 if stopped else 20, failed=20, failures=failures)
        report = Report(summarise(snapshot, "-", stopped, 130 if stopped else 1), snapshot, "", "")
        said = text.final(report, Invocation(input="-", options=("-o", "-")))
        assert not any(word in said for word in ("nothing lost", "continues", "retry"))
        assert ("next      batchrunner - -o -" in said) == ("starts anew" in said) == bool(stopped)


def test_quiet_is_the_verdict_alone() -> None:
    assert len(text.final(ending(FULL), JOB, quiet=True).splitlines()) == 1


def test_a_reason_from_outside_is_made_visible() -> None:
    said = text.final(ending(Snapshot(total=1), "\x1b[2Jgone", 3), JOB)
    assert "\x1b" not in said


# ---- the start, a status, a check ----


def test_opening() -> None:
    said = text.opening("in\x1b.jsonl", "out.jsonl", Snapshot(total=50000, succeeded=2), ["A", "B"], simulated=True)
    assert said.splitlines() == [
        "in\\x1b.jsonl  50,000 requests to A, B · 2 done before, 49,998 to go",
        "results → out.jsonl · Ctrl-C is safe",
        "The answers are simulated: no model is asked.",
    ]
    for name, width in (("in.jsonl", 60), ("in.jsonl", 40), ("in/a/folder/of/its/own.jsonl", 40)):
        narrow = text.opening(name, "r.jsonl", Snapshot(total=50000), ["one.example.com:8080", "two.example.com"], width=width)
        assert max(map(len, narrow.splitlines())) <= width
    rows = text.opening("requests", "", Snapshot(), ["simulated"]).splitlines()
    assert rows[0] == "requests  to simulated · nothing done before"  # how many there are nobody knows yet
    loose = text.opening("a", "", Snapshot()).splitlines()
    assert loose == ["a  nothing done before", "results are not kept: what is stopped starts anew"]


def test_stopping_says_what_another_signal_does() -> None:
    assert text.stopping(256, 20.0) == "stopping: no new requests; 256 in flight may take 20 s more; again drops them"


def test_status_of_an_open_job() -> None:
    snapshot = Snapshot(total=100, succeeded=30, failed=1, failures={Kind.QUOTA: 1})
    assert text.status(ending(snapshot), JOB).splitlines() == [
        "my input.jsonl  31 % · 31 of 100 done",
        "  lines     30 succeeded · 1 failed · 69 to go",
        "  failed    1 out of money",
        "  next      batchrunner 'my input.jsonl' -o out.jsonl",
        "  results   out.jsonl",
        "  failures  out.errors.jsonl",
    ]


def test_check_with_problems() -> None:
    found = CheckReport(
        input="a",
        requests=50000,
        problems=5,
        examples=(
            Problem(1042, 'custom_id "r\x1b-77" already used on line 77', "rename one"),
            Problem(33900, "body.messages is missing"),
        ),
        tokens_in=29_400_000,
        tokens_out_most=50_000_000,
    )
    assert preview.check(found, JOB).splitlines() == [
        "50,000 requests, 5 problems",
        '  line 1042    custom_id "r\\x1b-77" already used on line 77  → rename one',
        "  line 33900   body.messages is missing",
        "  and 3 more",
        "  tokens    ≈ 29.4 M in (bytes / 4), ≤ 50.0 M out by max_tokens",
        "Nothing was sent. exit 2",
    ]


def test_check_without_problems_ends_with_the_command() -> None:
    said = preview.check(CheckReport(input="a", requests=2, done=1, to_go=1), JOB)
    assert said.splitlines()[0] == "2 requests, no problems, 1 done before"
    assert said.splitlines()[-2:] == ["Nothing was sent. exit 0", "To run it: batchrunner 'my input.jsonl' -o out.jsonl"]


def test_check_of_a_finished_job_names_no_command() -> None:
    said = preview.check(CheckReport(input="a", requests=1, done=1), JOB)
    assert said.splitlines() == [
        "1 request, no problems, 1 done before",
        "Nothing was sent. exit 0",
        "All is done: there is nothing left to run.",
    ]


def test_where_a_run_wants_a_word_on_edited_lines_the_commands_say_it() -> None:
    edited = structs.replace(ending(Snapshot(total=3, succeeded=2)), undecided=(1, 0))
    assert text.status(edited, JOB, 200).splitlines()[2:4] == [
        "  next      batchrunner 'my input.jsonl' -o out.jsonl --changed rerun     asks 1 line with another text again",
        "            batchrunner 'my input.jsonl' -o out.jsonl --changed keep     keeps their earlier results",
    ]
    found = CheckReport(input="a", requests=3, done=2, to_go=1, undecided=(1, 0))
    assert preview.check(found, JOB, 200).splitlines()[-2:] == [
        "To run it: batchrunner 'my input.jsonl' -o out.jsonl --changed rerun     asks 1 line with another text again",
        "           batchrunner 'my input.jsonl' -o out.jsonl --changed keep     keeps their earlier results",
    ]
    (moved,) = text.decisions(JOB, 0, 3)
    assert moved.typed.endswith("--changed rerun")
    assert "put the lines back" in moved.does


@pytest.mark.parametrize("width", range(24, 80))
def test_an_option_is_not_parted_from_its_value(width: int) -> None:
    said = "right? batchrunner diagnose --base-url URL; in a stream: --stream on; or take --max-timeout 20m, it is said"
    folded = layout.fold(said, width)
    assert " ".join(folded) == said
    assert not [line for line in folded if re.search(r"--[a-z-]+$", line)]


@pytest.mark.parametrize("width", range(40, 101, 4))
def test_a_list_is_folded_behind_its_dots(width: int) -> None:
    items = [
        f"{number} {word}" for number, word in enumerate(("rate limited", "endpoint overloaded", "not HTTP", "a good answer") * 3)
    ]
    lines = layout.fold(" · ".join(items), width, layout.MARGIN)
    assert max(map(len, lines)) <= width
    assert [item for line in lines for item in line.strip().removesuffix(" ·").split(" · ")] == items
