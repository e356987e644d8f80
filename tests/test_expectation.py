"""Answers that must fit: what fits, what is said when one does not, and how often it is asked again."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import batchrunner
from batchrunner import Kind, Result
from batchrunner.cli import main
from batchrunner.core.model import Outcome, Request, Route
from batchrunner.errors import UsageError
from batchrunner.expectation import Expectation, check_of, corrected, reader_of, seal
from tests.crash import served
from tests.server import FaultServer, Peer, json_reply
from tests.server import chat as answer

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


class Replies:
    """A server whose answers to a question are what `said` makes of the turns so far."""

    def __init__(self, said: Callable[[list[dict[str, Any]]], str]) -> None:
        self.said = said
        self.turns: list[list[dict[str, Any]]] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            turns = (await peer.request()).json()["messages"]
            self.turns.append(turns)
            await peer.send(json_reply(200, answer(text=self.said(turns))))


@pytest.fixture
def schema(tmp_path: Path) -> str:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    return str(tmp_path / "schema.json")


@pytest.fixture
def asking() -> Iterator[Callable[[Callable[[list[dict[str, Any]]], str]], tuple[Replies, str]]]:
    replies = Replies(lambda turns: "")
    with served(FaultServer(replies)) as server:

        def start(said: Callable[[list[dict[str, Any]]], str]) -> tuple[Replies, str]:
            replies.said = said
            replies.turns.clear()
            return replies, server.url

        yield start


Asking = Callable[[Callable[[list[dict[str, Any]]], str]], tuple[Replies, str]]


def fits(text: str, schema: str = "") -> str:
    check = check_of(Expectation(expect="json", schema=schema))
    assert check
    return check(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", ""),
        ("1", ""),
        ("", "is empty"),
        ("{a", "is not JSON (line 1, column 2)"),
        ("NaN", "is not JSON (line 1, column 1)"),
    ],
)
def test_json_is_what_reads_as_json(text: str, why: str) -> None:
    assert fits(text) == why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"age": 3}', ""),
        ('{"age": "secret"}', 'does not fit the schema at age: a value is not of type "integer"'),
        ("[]", 'does not fit the schema at its top: a value is not of type "object"'),
        ("{}", 'does not fit the schema at its top: "age" is a required property'),
        ("no", "is not JSON"),
    ],
)
def test_a_schema_says_where_an_answer_does_not_fit_and_never_quotes_it(schema: str, text: str, why: str) -> None:
    said = fits(text, schema)
    assert said == why or (why == "is not JSON" and said.startswith(why))
    assert "secret" not in said


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"type": 3}', '{"$ref": "http://127.0.0.1:9/a"}', '{"$ref": "file:///etc/hostname"}', None]
)
def test_a_schema_that_is_none_is_refused_before_anything_is_sent(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_text(content)
    (tmp_path / "a.jsonl").write_text(json.dumps(batchrunner.chat("hi", model="m")) + "\n")
    before = sorted(tmp_path.iterdir())
    for verb in ("run", "check"):
        assert main([verb, str(tmp_path / "a.jsonl"), "--schema", str(path), "--base-url", "simulated"]) == 2
        assert "[E209]" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_schema_without_its_extra_says_what_to_install(schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    with pytest.raises(UsageError, match="E206") as caught:
        check_of(Expectation(schema=schema))
    assert "batchrunner[schema]" in caught.value.hint


def test_nothing_is_expected_where_nothing_was_said() -> None:
    assert check_of(Expectation()) is None


def test_answers_of_other_rules_are_sealed_apart(schema: str) -> None:
    before = seal(Expectation(schema=schema))
    Path(schema).write_text("{}")
    assert len({before, seal(Expectation(schema=schema)), seal(Expectation()), seal(Expectation(expect="json"))}) == 4


async def test_what_does_not_fit_is_asked_again_and_may_fit_then(asking: Asking) -> None:
    replies, url = asking(lambda turns: "no" if len(replies.turns) < 3 else '```json\n{"a": 1}\n```')
    [result] = await batchrunner.gather([batchrunner.chat("hi", model="m")], base_url=url, expect="json", max_attempts=1)
    assert (result.ok, result.attempts) == (True, 3)
    assert result.text.startswith("```"), "the answer is kept as it came"
    assert [len(turns) for turns in replies.turns] == [1, 1, 1]


@pytest.mark.parametrize("reask", [0, 1, 3])
async def test_what_never_fits_is_recorded_with_its_last_answer(asking: Asking, tmp_path: Path, reask: int) -> None:
    replies, url = asking(lambda turns: f"answer {len(replies.turns)}")
    job = tmp_path / "a.jsonl"
    job.write_text(json.dumps(batchrunner.chat("hi", model="m", id="a")) + "\n")
    report = await batchrunner.run(job, base_url=url, expect="json", reask=reask)
    assert (report.failed, len(replies.turns)) == (1, reask + 1)
    record = json.loads((tmp_path / "a.errors.jsonl").read_text())
    assert record["batchrunner"]["kind"] == record["error"]["code"] == "invalid_output"
    assert record["response"]["body"]["choices"][0]["message"]["content"] == f"answer {reask + 1}"
    assert ("gave up after" in record["error"]["message"]) == bool(reask)
    asking(lambda turns: "{}")
    report = await batchrunner.run(job, base_url=url, expect="json")
    assert report.failed == 1, "a plain run leaves it alone"


async def test_feedback_shows_the_model_what_was_wrong_and_leaves_the_line_alone(asking: Asking, tmp_path: Path) -> None:
    replies, url = asking(lambda turns: "{}" if len(turns) > 4 else f"turn {len(turns)}")
    job = tmp_path / "a.jsonl"
    job.write_text(json.dumps(batchrunner.chat("hi", model="m", id="a", n=1)) + "\n")
    report = await batchrunner.run(job, base_url=url, expect="json", feedback=True)
    assert report.ok
    first, second, third = replies.turns
    assert second[:2] == [*first, {"role": "assistant", "content": "turn 1"}]
    assert second[2]["role"] == "user"
    assert "the answer is not JSON (line 1, column 1)" in second[2]["content"]
    assert third[:3] == second
    assert third[3] == {"role": "assistant", "content": "turn 3"}
    before = json.loads((tmp_path / "a.results.jsonl").read_text())["batchrunner"]["digest"]
    report = await batchrunner.run(job, base_url=url, expect="json")
    assert (report.ok, report.summary.resumed) == (True, 1)
    assert before == json.loads((tmp_path / "a.results.jsonl").read_text())["batchrunner"]["digest"]


@pytest.mark.parametrize(
    ("route", "body", "name", "first"),
    [
        (Route.MESSAGES, {"messages": [{"role": "user", "content": "q"}]}, "messages", {"role": "user", "content": "q"}),
        (Route.RESPONSES, {"input": "q", "x": 1e400}, "input", {"role": "user", "content": "q"}),
    ],
)
def test_feedback_takes_the_form_of_its_route(route: Route, body: dict[str, Any], name: str, first: dict[str, str]) -> None:
    raw = json.dumps(body).replace("Infinity", "1.0e5").encode()
    request = Request(line=1, id="a", digest="d", route=route, path="/x", body=raw)
    changed = corrected(request, Outcome(Kind.INVALID_OUTPUT, body=b"{}", message="why"))
    assert changed
    assert (changed.id, changed.digest) == ("a", "d")
    told = json.loads(changed.body)
    assert told[name][0] == first
    assert "why" in told[name][1]["content"], "an empty answer is no turn"
    assert ("x" not in body) or b"1.0e5" in changed.body, "the other fields keep their bytes"


def test_a_route_without_turns_is_asked_as_it_was() -> None:
    request = Request(line=1, id="a", digest="d", route=Route.COMPLETIONS, path="/x", body=b'{"prompt": "q"}')
    assert corrected(request, Outcome(Kind.INVALID_OUTPUT)) is None


async def test_every_choice_must_fit(asking: Asking) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            body = answer(text="{}")
            body["choices"].append({**body["choices"][0], "index": 1, "message": {"role": "assistant", "content": "no"}})
            await peer.send(json_reply(200, body))

    with served(FaultServer(script)) as server:
        [result] = await batchrunner.gather([batchrunner.chat("hi", model="m", n=2)], base_url=server.url, expect="json", reask=0)
    assert result.kind is Kind.INVALID_OUTPUT


# ---- types ----


class Person(msgspec.Struct):
    name: str
    age: int


def pydantic_person() -> Any:
    pydantic = pytest.importorskip("pydantic")
    return pydantic.create_model("Person", name=(str, ...), age=(int, ...))


@pytest.mark.parametrize(
    "make", [lambda: Person, pydantic_person, lambda: dict[str, int | str]], ids=["msgspec", "pydantic", "generic"]
)
async def test_a_type_reads_the_text(asking: Asking, make: Callable[[], Any]) -> None:
    texts = iter(['{"name": "SECRET", "age": ["x"]}', '```\n{"name": "Ada", "age": 36}\n```'])
    _, url = asking(lambda turns: next(texts))
    runner = batchrunner.Runner(base_url=url, validate=make(), reask=0)
    bad, good = [(await runner.gather([batchrunner.chat("hi", model="m")]))[0] for _ in range(2)]
    assert (bad.kind, good.ok) == (Kind.INVALID_OUTPUT, True)
    assert bad.error
    assert bad.error.message.startswith("the answer does not fit: ")
    assert "SECRET" not in bad.error.message
    assert "age" in bad.error.message or make() == dict[str, int | str]


def test_a_function_is_no_type() -> None:
    assert reader_of(lambda result: True) is None
    assert reader_of(None) is None


async def test_a_function_sees_only_what_fits_and_its_words_are_fed_back(asking: Asking) -> None:
    seen: list[str] = []

    def validate(result: Result) -> bool:
        seen.append(result.text)
        if result.text != "[2]":
            raise ValueError("too small")
        return True

    texts = iter(["no", "[1]", "[2]"])
    replies, url = asking(lambda turns: next(texts))
    runner = batchrunner.Runner(base_url=url, expect="json", feedback=True, validate=validate)
    [result] = await runner.gather([batchrunner.chat("hi", model="m")])
    assert result.ok
    assert seen == ["[1]", "[2]"]
    assert "too small" in replies.turns[-1][-1]["content"]
