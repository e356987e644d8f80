"""`diagnose` and the settings of money, as people use them; what the core tells the trail."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

import batchrunner
from batchrunner import cli
from batchrunner.core.classify import classify
from batchrunner.core.deadlines import Patience, Timeouts
from batchrunner.core.diagnosis import QUESTIONS
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Attempt, Deadlines, Kind, Outcome, Phase, Reply, Timing, Usage
from batchrunner.core.retry import Retries
from batchrunner.core.scheduler import Scheduler
from batchrunner.errors import UsageError
from batchrunner.origins import resolve
from batchrunner.settings import schema
from tests.virtual import chat


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def job(folder: Path, count: int = 40) -> str:
    path = folder / "job.jsonl"
    path.write_text("".join(json.dumps(batchrunner.chat(f"q{n}", model="m", id=f"r{n}")) + "\n" for n in range(count)))
    return str(path)


# ---- diagnose INPUT ----


def test_every_question_is_answered_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = job(tmp_path)
    assert said(capsys, path, "--base-url", "simulated")[0] == 0
    code, out, err = said(capsys, "diagnose", path)
    assert (code, err) == (0, "")
    assert "nothing is the matter" in out
    assert all(question in out for question in QUESTIONS.values())
    code, out, _ = said(capsys, "diagnose", path, "--json")
    assert [finding["code"] for finding in json.loads(out)] == list(QUESTIONS)


def test_the_exit_code_says_that_something_is_the_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = job(tmp_path)
    said(capsys, path, "--base-url", "http://127.0.0.1:9/v1", "--max-outage", "50ms", "--max-attempts", "2")
    code, out, _ = said(capsys, "diagnose", path)
    assert code == 1
    assert "yes      Is it the network?" in out
    assert "→" in out


def test_little_evidence_is_not_told_as_health(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = job(tmp_path, 5)
    said(capsys, path, "--base-url", "simulated")
    code, out, _ = said(capsys, "diagnose", path)
    assert code == 0
    assert "no cause found; too little is known for 8 of 8 questions" in out


def test_a_job_without_a_trail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "diagnose", job(tmp_path))
    assert code == 2
    assert "no run of this job has sent a request by itself" in err
    assert "--base-url URL" in err
    assert said(capsys, "diagnose")[0] == 2


def test_an_endpoint_is_examined(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "diagnose", "--base-url", "simulated")
    assert code == 0
    assert "It works." in out
    code, out, _ = said(capsys, "diagnose", "--base-url", "http://127.0.0.1:9/v1", "--json")
    assert code == 1
    assert json.loads(out)[0]["steps"][-1]["state"] == "fail"


# ---- prices ----


def settings(folder: Path, toml: str, **flags: Any) -> Any:
    (folder / "batchrunner.toml").write_text(toml)
    return resolve(flags, {}, folder)


def test_a_table_of_prices_is_another_way_to_write_the_option(tmp_path: Path) -> None:
    found = settings(tmp_path, '[prices."gpt-x"]\ninput = 0.15\noutput = 0.60\n[prices.emb]\ninput = 0.02\n')
    assert found.settings.spending.price == ("gpt-x=0.15/0.6", "emb=0.02/0.0")
    assert "batchrunner.toml" in found.origins["price"]
    typed = settings(tmp_path, "[prices.m]\ninput = 1\n", price="m=2/3")
    assert typed.settings.spending.price == ("m=2/3",)
    both = settings(tmp_path, 'price = "a=1/2"\n[prices.m]\ninput = 1\n')
    assert both.settings.spending.price == ("a=1/2", "m=1.0/0.0")


@pytest.mark.parametrize(
    "toml",
    [
        "prices = 3",
        "[prices.m]\nin = 1",
        '[prices.m]\ninput = "x"',
        "[prices.m]\ninput = -1",
        "[prices.m]\noutput = 1",
        'price = "m"',
    ],
)
def test_a_table_that_holds_no_prices_is_refused(tmp_path: Path, toml: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(tmp_path, toml)
    assert caught.value.code == "E002"


def test_the_schema_knows_the_table() -> None:
    assert "prices" in schema()["$defs"]["batchrunner"]["properties"]


# ---- what the provider says of the price ----


def outcome(usage: dict[str, Any]) -> Outcome:
    choice = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}
    body = json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()
    return classify(Attempt(chat(1), "a", 1, 0.0, Deadlines(1, 1, 1, 1)), Reply(200, {}, body))


@pytest.mark.parametrize(
    ("cost", "told"),
    [
        (0.25, 0.25),
        (0, 0.0),
        ({"total_cost": 0.5}, 0.5),
        ({"other": 1}, UNSET),
        ("free", UNSET),
        (-1, UNSET),
        (None, UNSET),
        ([], UNSET),
    ],
)
def test_the_providers_own_cost(cost: Any, told: Any) -> None:
    found = outcome({"prompt_tokens": 3, "completion_tokens": 1, "cost": cost})
    assert found.usage == Usage(3, 1, told)


# ---- what the core tells the trail ----


def scheduler() -> Scheduler:
    return Scheduler([Endpoint("a", "http://a/v1", Limit(Concurrency()))], Retries(), Timeouts(), 10)


def test_a_retry_says_how_long_it_waited_for_a_place() -> None:
    core = scheduler()
    core.offer(chat(1))
    first = core.next("a", 0.0)
    assert isinstance(first, Attempt)
    assert first.queued == 0.0
    again = core.settle(first, Outcome(Kind.SERVER_ERROR, 500), 1.0, 0.5)
    second = core.next("a", again.at + 2.5)  # type: ignore[union-attr]
    assert isinstance(second, Attempt)
    assert second.queued == pytest.approx(2.5)
    assert core.sent == 2


def test_the_deadlines_in_force_are_those_an_attempt_would_get() -> None:
    patience = Patience(Timeouts())
    first, whole, why = patience.in_force(chat(1), False)
    assert first == whole == 60.0
    assert "no answers yet" in why
    sent = Attempt(chat(1), "a", 1, 0.0, Deadlines(1, 1, 1, 1))
    for second in range(600):
        patience.success(sent, Timing(0.0, 1.0, 1.0), float(second))
    _, whole, why = patience.in_force(chat(1), False)
    more, _ = patience.review(sent, Phase.FIRST_BYTE, 1.0, 600.0)
    assert whole == pytest.approx(1.0 + more)
    assert "p99" in why
    assert patience.in_force(chat(1), True)[1] == 600.0
    fixed = Patience(Timeouts(timeout=30.0, first_byte_timeout=5.0))
    assert fixed.in_force(chat(1), False)[:2] == (5.0, 30.0)
