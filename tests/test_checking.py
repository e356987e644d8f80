"""The check: every problem with its lines, and honest estimates."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchrunner import checking, estimate, landmarks, lines, listed
from batchrunner.checking import check
from batchrunner.core.model import Kind, Request, Result, Route
from batchrunner.core.trail import VERSION, AttemptLine, Moment, Spend
from batchrunner.identity import identify
from batchrunner.origins import resolve
from batchrunner.paths import Paths
from batchrunner.records import record
from batchrunner.report import preview
from batchrunner.report.invocation import Invocation


def row(number: int, text: str = "hello", **body: Any) -> str:
    content = {"model": "m", "messages": [{"role": "user", "content": text}], **body}
    return json.dumps({"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": content})


def checked(folder: Path, lines: list[str], **options: Any) -> Any:
    path = folder / "a.jsonl"
    path.write_text("\n".join(lines) + "\n")
    options = {"base_url": "http://127.0.0.1:1/v1", **options}
    return check(resolve({"input": str(path), **options}, {}, folder).settings, {})


def moment(**changes: Any) -> Moment:
    fields: dict[str, Any] = {"session": 1, "at": 10.0, "span": 10.0, "total": 100, "done": 100, "succeeded": 100}
    fields |= dict.fromkeys(("failed", "invalid", "resumed", "retries", "recovered", "maybe_billed", "tokens_in"), 0)
    fields |= dict.fromkeys(("tokens_out", "in_flight", "limit", "retrying"), 0)
    fields |= {"attempts": 100, "cost": None, "kinds": {}, "failures": {}, "causes": {}, "oldest": 0.0, "lanes": []}
    return Moment(**(fields | changes))


def trail(folder: Path, *records: Any, name: str = "events") -> None:
    run = folder / "a.run"
    run.mkdir(exist_ok=True)
    (run / f"{name}.jsonl").write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))


def attempt(prompt: int, tokens_in: int) -> AttemptLine:
    return AttemptLine(
        v=VERSION,
        session=1,
        at=1.0,
        line=1,
        id="x",
        endpoint="a",
        number=1,
        kind="ok",
        seconds=1.0,
        prompt=prompt,
        tokens_in=tokens_in,
    )


def test_every_problem_with_its_lines(tmp_path: Path) -> None:
    lines = [row(n) for n in range(10)]
    lines[2] = lines[3] = lines[4] = lines[8] = '{"custom_id": "x"}'
    lines[6] = "{nonsense"
    lines[9] = row(1)
    found = checked(tmp_path, lines)
    told = {problem.lines: problem.count for problem in found.examples}
    assert "3–5, 9" in told
    assert told["7"] == 1
    assert "10" in told
    said = preview.check(found, Invocation(input="a.jsonl"))
    assert "lines 3–5, 9" in said
    assert found.exit_code == 2
    assert "Nothing was sent. exit 2" in said


def test_line_numbers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "RANGES", 3)
    found = checked(tmp_path, [row(n) if n % 2 else '{"x": 1}' for n in range(20)])
    assert found.examples[0].lines == "1, 3, 5, …"
    assert found.examples[0].count == 10


@pytest.mark.parametrize(("overflow", "lines", "hint"), [("fail", "2–4", "--overflow"), ("truncate-middle", "4", "never cut")])
def test_what_a_run_would_fail_for_its_length_is_a_problem(tmp_path: Path, overflow: str, lines: str, hint: str) -> None:
    """All of them together, however long each is; what a run would cut counts as it is cut."""
    system = {"messages": [{"role": "system", "content": "s" * 900}]}
    texts = [row(1), row(2, "x" * 900), row(3, "x" * 1000), row(4, **system), row(5, "x" * 90)]
    found = checked(tmp_path, texts, max_prompt_tokens=100, overflow=overflow)
    [problem] = found.examples
    assert (problem.lines, problem.message, hint in problem.hint) == (lines, "prompt too long", True)
    assert (found.problems, found.exit_code, found.to_go) == (problem.count, 2, 5 - problem.count)
    assert found.tokens_in <= 100 * found.to_go


def test_what_is_answered_is_not_too_long(tmp_path: Path) -> None:
    texts = [row(1), row(2, "x" * 900), row(3, "x" * 900)]
    (tmp_path / "a.results.jsonl").write_bytes(written(texts[1].encode(), 2, Kind.OK))
    for more in ({}, {"where": "line > 1"}):
        assert checked(tmp_path, texts, max_prompt_tokens=100, **more).examples[0].lines == "3"


def test_cost_is_unknown_without_a_price_and_says_how_to_give_one(tmp_path: Path) -> None:
    found = checked(tmp_path, [row(1)])
    assert (found.cost, found.cost_most, found.unpriced) == (None, None, ("m",))
    assert "cost      unknown (no price of m: --price MODEL=IN/OUT)" in preview.check(found, Invocation(input="a"))


def test_cost_at_most_where_every_line_caps_its_answer(tmp_path: Path) -> None:
    lines = [row(1, max_tokens=1000), row(2, max_tokens=1000, n=2)]
    found = checked(tmp_path, lines, price=["m=0/1000"])
    assert found.tokens_out_most == 3000
    assert found.cost_most == 3.0
    assert found.cost is None  # how long the answers are going to be nobody knows
    assert checked(tmp_path, [*lines, row(3)], price=["m=0/1000"]).cost_most is None


def test_the_last_run_teaches_tokens_cost_and_time(tmp_path: Path) -> None:
    spend = Spend(endpoint="a", model="m", requests=100, input=3000, output=5000)
    trail(tmp_path, moment(spend=[spend]))
    trail(tmp_path, *[attempt(100, 150 + n % 2) for n in range(40)], name="attempts")
    (tmp_path / "other").mkdir()
    plain = checked(tmp_path / "other", [row(n) for n in range(200)])
    found = checked(tmp_path, [row(n) for n in range(200)], price=["m=0/1000000"])
    assert found.tokens_in == pytest.approx(plain.tokens_in * 1.5, rel=0.02)
    assert found.uncertainty <= 0.02
    assert found.tokens_out == 200 * 50
    assert found.cost == pytest.approx(10_000)
    assert (found.rate, found.seconds) == (10.0, 20.0)
    said = preview.check(found, Invocation(input="a"))
    assert "as counted by the last run" in said
    assert "time      ≈ 20 s at 10.0 req/s (last run)" in said


def test_the_users_own_numbers_tell_how_long_it_takes_at_least(tmp_path: Path) -> None:
    lines = [row(n) for n in range(61)]
    assert "time" not in preview.check(checked(tmp_path, lines), Invocation(input="a"))
    assert "time      at least 60 s, as --rpm" in preview.check(checked(tmp_path, lines, rpm=60), Invocation(input="a"))
    slow = checked(tmp_path, lines, tpm=100)
    assert slow.seconds_least == pytest.approx(60 * slow.tokens_in * 60 / 61 / 100, rel=0.05)
    trail(tmp_path, moment())
    assert "(last run)" in preview.check(checked(tmp_path, lines, rpm=60_000), Invocation(input="a"))
    own = [{"base_url": "http://a/v1", "rpm": 30}, {"base_url": "http://b/v1"}]
    two = resolve({"input": str(tmp_path / "a.jsonl"), "rpm": 90, "endpoint": own}, {}, tmp_path)
    assert check(two.settings, {}).seconds_least == pytest.approx(30.0)


def test_only_what_is_to_do_is_estimated(tmp_path: Path) -> None:
    everything = checked(tmp_path, [row(n) for n in range(10)])
    assert checked(tmp_path, [row(n) for n in range(10)], limit=4).to_go == 4
    assert checked(tmp_path, [row(n) for n in range(10)], limit=5).tokens_in == everything.tokens_in // 2
    assert everything.uncertainty == estimate.GUESSED


def test_no_key_and_no_endpoint_are_no_fault_of_the_input(tmp_path: Path) -> None:
    assert checked(tmp_path, [row(1)], base_url="https://api.openai.com/v1").exit_code == 0
    assert checked(tmp_path, [row(1)], base_url=[]).exit_code == 0


class _Listed(types.ModuleType):
    """Stands in for genai-prices."""

    class Usage:
        def __init__(self, **counts: int) -> None:
            self.counts = counts

    def calc_price(self, usage: Any, model_ref: str, provider_api_url: str) -> Any:
        if model_ref != "m" or "known" not in provider_api_url:
            raise LookupError("unknown")
        model = types.SimpleNamespace(context_window=1000)
        return types.SimpleNamespace(input_price=2, output_price=3, model=model)


def test_list_prices_and_contexts_where_the_package_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", _Listed("genai_prices"))
    lines = [row(1, max_tokens=10), row(2, "long " * 2000, max_tokens=10), row(3, max_tokens=990)]
    found = checked(tmp_path, lines, base_url="https://known.example/v1")
    assert found.cost_most is not None
    assert found.unpriced == ()
    assert (found.too_long, found.too_long_lines) == (2, "2–3")
    assert found.models[0].context == 1000
    assert found.cost_least == pytest.approx(found.tokens_in * 2 / 1e6, rel=0.001)
    open_ended = checked(tmp_path, [row(1)], base_url="https://known.example/v1")
    said = preview.check(open_ended, Invocation(input="a"))
    assert "cost      at least $" in said
    assert "for the prompts alone" in said
    assert "2 prompts too long for the model" in preview.check(found, Invocation(input="a"))
    elsewhere = checked(tmp_path, lines, base_url="http://127.0.0.1:8000/v1")
    assert (elsewhere.cost_most, elsewhere.too_long) == (None, 0)  # a server of one's own may call its model anything


def test_without_the_package_there_are_no_list_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert (listed.wanted("https://api.example.com/v1"), listed.wanted("http://127.0.0.1:8000/v1")) == (True, False)
    assert listed.price_of("https://known.example/v1", "m") is None
    assert listed.context_of("https://known.example/v1", "m") == 0
    assert listed.price_of("", "m") is None


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "http://gpu7:8000/v1", "http://[::1]/v1", "simulated", "http://10.0.0.7"]
)
def test_an_address_that_is_no_providers_costs_no_import(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed, "_package", pytest.fail)
    listed.load([url])
    assert listed.price_of(url, "m") is None


def test_the_tables_are_loaded_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(listed, "_package", lambda: called.append(1))
    listed.load(["http://127.0.0.1/v1", "https://api.example.com/v1"])
    assert called == [1]


@pytest.mark.parametrize("limit", [0, 5])
def test_one_reading_tells_what_two_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Nothing has been done, or something that is not of this input: the same is said, whatever a block holds."""
    monkeypatch.setattr(lines, "_BLOCK", 300)
    texts = [row(n, "x" * n, model=f"m{n % 7 // 5}", **({"max_tokens": n} if n % 4 else {})) for n in range(40)]
    texts[20:20] = ["", "{broken", row(3), "  ", row(41, tools=[])]
    once = checked(tmp_path, texts, limit=limit)
    (tmp_path / "a.results.jsonl").write_text('{"custom_id":"z","response":{"status_code":200,"body":{}},"error":null}\n')
    assert checked(tmp_path, texts, limit=limit) == once
    assert (once.requests, once.problems, once.to_go) == (43, 2, limit or 42)


@pytest.mark.parametrize("limit", [0, 5])
def test_what_is_answered_is_counted_and_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """The rest is judged as if it stood alone; refused lines keep their problems, and are not to do."""
    monkeypatch.setattr(lines, "_BLOCK", 300)
    monkeypatch.setattr(landmarks, "STRETCH", 700)
    texts = [row(n, "x" * n, max_tokens=n + 1) for n in range(60)]
    texts[20:20] = ["", "{broken", " "]
    texts[40:40] = ["{broken as well"]
    answered = [*range(1, 17), 19, *range(25, 41), *range(42, 55), 58]
    refused = [41, 60]
    paths = Paths.of(tmp_path / "a.jsonl")
    for path, kind, numbers in ((paths.results, Kind.OK, answered[::-1]), (paths.errors, Kind.REJECTED, refused)):
        told = (written(texts[number - 1].encode(), number, kind) for number in numbers)
        path.write_bytes(b"".join(told))
    seen: list[int] = []
    look = checking.glance
    monkeypatch.setattr(checking, "glance", lambda block, origins: seen.extend(map(len, block)) or look(block, origins))
    found = checked(tmp_path, texts, limit=limit)
    assert (found.requests, found.problems, found.done) == (62, 2, len(answered) + len(refused))
    assert len(seen) == len(texts) - len(answered)
    paths.results.unlink()
    paths.errors.unlink()
    left = [text for number, text in enumerate(texts, 1) if number not in {*answered, *refused}]
    alone = checked(tmp_path, left, limit=limit)
    assert (found.to_go, found.tokens_in, found.tokens_out_most) == (alone.to_go, alone.tokens_in, alone.tokens_out_most)
    assert found.to_go == (limit or 62 - len(answered) - 3)  # the refused ones, and the broken one that has no record


def written(raw: bytes, line: int, kind: Kind) -> bytes:
    """A record of this line."""
    name, digest = identify(raw, line)
    request = Request(line=line, id=name, digest=digest, route=Route.CHAT, path="/x")
    return record(Result(request=request, kind=kind, status=200, body=b"{}"))
