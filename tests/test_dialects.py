"""Input lines of every dialect: what they become, how a file's dialect is found, and that identity never depends on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.cli import main
from batchrunner.core.model import Request, Result, Route
from batchrunner.dialects import Dialect, Format, detected, keys_of
from batchrunner.errors import UsageError
from batchrunner.foreign import read_record
from batchrunner.formats import parse
from batchrunner.identity import identify
from batchrunner.iterables import IterableSource
from batchrunner.source import Intake, Source, dialect_of
from tests.crash import served
from tests.server import FaultServer, Peer, chat, json_reply

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
FORMATS = [name for name in get_args(Format) if name != "auto"]


def good(row: Any, format_: Format, route: str = "", **more: Any) -> Request:
    request = parse(row if isinstance(row, bytes) else json.dumps(row).encode(), 3, dialect=Dialect(format_, route), **more)
    assert isinstance(request, Request), request.error
    return request


def why(row: Any, format_: Format, route: str = "") -> str:
    result = parse(json.dumps(row).encode(), 3, dialect=Dialect(format_, route))
    assert isinstance(result, Result)
    assert result.error
    assert result.error.hint
    return result.error.message


def test_a_row_of_an_anthropic_batch() -> None:
    request = good({"custom_id": "a-1", "params": CHAT}, "anthropic")
    assert (request.id, request.route, request.path, request.method) == ("a-1", Route.MESSAGES, "/v1/messages", "POST")
    assert (request.body, request.model, request.max_tokens) == (json.dumps(CHAT).encode(), "m", 5)
    assert good({"params": CHAT}, "anthropic").id.startswith("line-")
    assert good({"custom_id": "a", "params": CHAT}, "anthropic", "/v1/chat/completions").route is Route.CHAT
    assert "params" in why({"custom_id": "a"}, "anthropic")
    assert "body is" in why({"custom_id": "a", "params": [1]}, "anthropic")
    assert "body is missing" in why({"custom_id": "a", "params": None}, "anthropic")


def test_a_row_of_mistrals() -> None:
    request = good({"custom_id": "0", "body": CHAT}, "mistral")
    assert (request.id, request.route, request.path) == ("0", Route.CHAT, "/v1/chat/completions")
    assert good({"custom_id": "0", "body": {"model": "e", "input": "x"}}, "mistral", "/v1/embeddings").route is Route.EMBEDDINGS
    assert good({"custom_id": "0", "body": CHAT, "url": "/v1/responses"}, "mistral").route is Route.RESPONSES
    assert "body" in why({"custom_id": "0"}, "mistral")


def test_a_line_of_the_cookbook_is_the_body() -> None:
    raw = b'{"model":"m",  "messages":[{"role":"user","content":"1.50000000000000000001"}]}'
    request = good(raw, "cookbook")
    assert (request.body, request.route, request.id[:5], request.metadata) == (raw, Route.CHAT, "line-", b"")
    assert good({"model": "m", "prompt": "x"}, "cookbook").route is Route.COMPLETIONS
    assert good({"model": "m", "input": "x"}, "cookbook", "/v1/embeddings").route is Route.EMBEDDINGS
    assert "route" in why({"model": "m", "input": "x"}, "cookbook")
    assert good({"messages": CHAT["messages"]}, "cookbook", model="other").body.endswith(b'"model":"other"}')


def test_what_a_cookbook_line_says_of_itself_is_not_sent() -> None:
    row = CHAT | {"metadata": {"row": 7}, "custom_id": "mine"}
    request = good(row, "cookbook")
    assert json.loads(request.body) == CHAT
    assert (request.id, json.loads(request.metadata)) == ("mine", {"row": 7})


@pytest.mark.parametrize("name", ["openai", "azure", "vllm", "http"])
def test_the_four_whose_lines_are_openais(name: Format) -> None:
    request = good({"custom_id": "x", "method": "POST", "url": "/chat/completions", "body": CHAT}, name)
    assert (request.route, request.path) == (Route.CHAT, "/chat/completions")
    assert good({"custom_id": "x", "body": CHAT}, name, "/v1/chat/completions").route is Route.CHAT
    assert "url is missing" in why({"custom_id": "x", "body": CHAT}, name)
    scored = good({"custom_id": "x", "url": "/v1/score", "body": {"text_1": "a", "text_2": "b"}}, name)
    assert (scored.route, scored.path) == (Route.HTTP, "/v1/score")


@pytest.mark.parametrize("format_", ["anthropic", "mistral", "cookbook"])
def test_d9_a_key_that_stands_twice(format_: Format) -> None:
    raw = b'{"custom_id":"a","custom_id":"b","params":{},"body":{},"messages":[]}'
    result = parse(raw, 1, dialect=Dialect(format_))
    assert isinstance(result, Result)
    assert result.error
    assert "twice" in result.error.message


@pytest.mark.parametrize("format_", FORMATS)
def test_an_id_that_is_none_is_refused_in_every_dialect(format_: Format) -> None:
    for name in (7, ""):
        row = {"custom_id": name, "url": "/v1/chat/completions", "params": CHAT, "body": CHAT, **CHAT}
        assert "custom_id is" in why(row, format_)


@pytest.mark.parametrize("format_", FORMATS)
def test_g1_no_route_leaves_the_endpoint(format_: Format) -> None:
    assert "url" in why({"custom_id": "x", "params": CHAT, "body": CHAT, **CHAT}, format_, "https://evil.example/v1")


@pytest.mark.parametrize(
    ("row", "route", "found"),
    [
        ({"custom_id": "x", "method": "POST", "url": "/v1/x", "body": {}}, "", "openai"),
        ({"url": "/v1/x", "params": {}}, "", "openai"),
        ({"custom_id": "x", "method": "POST", "body": {}}, "", "openai"),
        ({"custom_id": "x", "params": {}}, "", "anthropic"),
        ({"custom_id": "x", "body": {}}, "", "mistral"),
        ({"body": {}}, "", "openai"),
        ({"messages": []}, "", "cookbook"),
        ({"model": "m", "prompt": ""}, "", "cookbook"),
        ({"model": "m", "input": ""}, "", "cookbook"),
        ({"prompt": "a row, not a body"}, "", "openai"),
        ({"anything": 1}, "/v1/x", "cookbook"),
        ({"custom_id": "x", "response": {}}, "/v1/x", "openai"),
        ({}, "", "openai"),
    ],
)
def test_the_keys_tell_the_dialect(row: dict[str, object], route: str, found: str) -> None:
    assert detected(keys_of(json.dumps(row).encode()), route) == Dialect(found, route)  # type: ignore[arg-type]


def file_of(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


async def everything(source: Any) -> list[Request | Result]:
    return [item async for block in source for item in block]


async def test_a_file_has_the_dialect_of_its_first_readable_line(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"not json", b"[1]", {"custom_id": "a", "params": CHAT}, {"custom_id": "b", "body": CHAT})
    assert dialect_of(path, Intake()).format == "anthropic"
    kinds = [type(item) for item in await everything(Source(path))]
    assert kinds == [Result, Result, Request, Result], "a line of another dialect is refused, not guessed"
    assert dialect_of(path, Intake(format="mistral", route="/v1/x")) == Dialect("mistral", "/v1/x")
    assert dialect_of(file_of(tmp_path), Intake()) == Dialect()


async def test_lines_done_already_still_tell_the_dialect(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"custom_id": "a", "params": CHAT}, {"custom_id": "b", "params": CHAT})
    (item,) = await everything(Source(path, to_do=lambda first, count: [2]))
    assert isinstance(item, Request)


async def test_rows_of_an_iterable_too() -> None:
    items = await everything(IterableSource([b"", {"custom_id": "a", "params": CHAT}, {"custom_id": "b", "body": CHAT}]))
    assert [type(item) for item in items] == [Request, Result]
    (item,) = await everything(IterableSource([{"model": "e", "input": "x"}], Intake(route="/v1/embeddings")))
    assert isinstance(item, Request)
    assert item.route is Route.EMBEDDINGS


ROWS = st.dictionaries(
    st.sampled_from(["custom_id", "params", "body", "messages", "metadata", "url", "method", "prompt", "input", "model"]),
    st.one_of(st.none(), st.text(max_size=5), st.just(CHAT), st.just([]), st.integers(), st.just("/v1/chat/completions")),
    max_size=6,
)


@settings(max_examples=400, deadline=None)
@given(ROWS, st.sampled_from(FORMATS), st.sampled_from(["", "/v1/embeddings"]), st.integers(0, 40), st.binary(max_size=2))
def test_any_line_in_any_dialect_has_one_identity(
    row: dict[str, object], format_: Format, route: str, at: int, damage: bytes
) -> None:
    whole = json.dumps(row).encode()
    for raw in (whole, whole[:at] + damage + whole[at:]):
        item = parse(raw, 9, dialect=Dialect(format_, route))
        request = item if isinstance(item, Request) else item.request
        assert (request.id, request.digest) == identify(raw, 9)


def test_a_format_that_is_none_is_refused() -> None:
    from batchrunner.origins import resolve

    with pytest.raises(UsageError) as refused:
        resolve({"format": "csv"}, {}, Path("/nowhere"))
    assert "cookbook" in str(refused.value)


# The whole command: read, written, interrupted, continued and retried in every dialect.


def rows_of(dialect: str) -> list[dict[str, Any]]:
    """Seven lines, the fifth of which the server refuses."""
    bodies = [CHAT | {"messages": [{"role": "user", "content": str(n)}]} for n in range(7)]
    made: dict[str, Callable[[int, Any], dict[str, Any]]] = {
        "anthropic": lambda n, body: {"custom_id": f"r-{n}", "params": body},
        "mistral": lambda n, body: {"custom_id": f"r-{n}", "body": body},
        "cookbook": lambda n, body: body | {"metadata": {"row": n}},
        "vllm": lambda n, body: {"custom_id": f"r-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body},
    }
    return [made[dialect](n, body) for n, body in enumerate(bodies)]


MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "stop_reason": "end_turn", "usage": {}}


async def answering_most(peer: Peer) -> None:
    while True:
        seen = await peer.request()
        assert "metadata" not in seen.json()
        if seen.json()["messages"][0]["content"] == "4":
            await peer.send(json_reply(400, {"error": {"message": "no", "type": "invalid_request_error"}}))
        else:
            await peer.send(json_reply(200, MESSAGE if seen.path == "/v1/messages" else chat()))


@pytest.mark.parametrize("strict", [[], ["--strict-openai"]], ids=["facts", "strict"])
@pytest.mark.parametrize("dialect", ["anthropic", "mistral", "cookbook", "vllm"])
def test_a_job_in_any_dialect_is_interrupted_continued_and_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], dialect: str, strict: list[str]
) -> None:
    if dialect == "cookbook" and strict:
        pytest.skip("refused: a line could not be found again")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file_of(tmp_path, *rows_of(dialect))
    with served(FaultServer(answering_most)) as server:
        words = ["in.jsonl", "--base-url", server.url, "--output-format", dialect, "--stream", "off", *strict]
        assert main([*words, "--limit", "3"]) == 0
        first = Path("in.results.jsonl").read_bytes()
        assert main(words) == 1
        assert len(server.requests) == 7
        assert main(words) == 1
        assert len(server.requests) == 7, "everything is known by its record"
        assert Path("in.results.jsonl").read_bytes().startswith(first)
        assert main(["retry", *words, "--all"]) == 1
        assert len(server.requests) == 8
        assert len(Path("in.errors.jsonl").read_bytes().splitlines()) == 1
        for path in Path("in.run").glob("checkpoint"):
            path.unlink()
        assert main(words) == 1
        assert len(server.requests) == 8, "the files alone tell"
    found = [read_record(raw) for path in ("in.results.jsonl", "in.errors.jsonl") for raw in Path(path).read_bytes().splitlines()]
    assert sorted(record.ok for record in found) == [False] + [True] * 6
    assert len({record.id for record in found}) == 7


def test_one_file_holds_one_dialect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file_of(tmp_path, *rows_of("anthropic"))
    with served(FaultServer(answering_most)) as server:
        words = ["in.jsonl", "--base-url", server.url, "--stream", "off"]
        assert main([*words, "--output-format", "anthropic"]) == 1
        asked = len(server.requests)
        capfd.readouterr()
        assert main(words) == 1  # what is begun in a dialect goes on in it
        assert main([*words, "--output-format", "openai"]) == 2
        assert "--output-format anthropic" in capfd.readouterr().err
        assert len(server.requests) == asked
        assert main([*words, "--fresh"]) == 1
        assert len(server.requests) == 2 * asked


def test_check_reads_every_dialect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for dialect in ("anthropic", "mistral", "cookbook", "vllm"):
        file_of(tmp_path, *rows_of(dialect))
        assert main(["check", "in.jsonl"]) == 0
    assert main(["check", "in.jsonl", "--format", "anthropic"]) == 2
    assert "params is missing" in capfd.readouterr().out
