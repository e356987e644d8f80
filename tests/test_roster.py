"""Endpoints in tables: what a row may say, where it counts, and that each gets its own key, model names and share."""

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner.batch import _endpoint
from batchrunner.cli import main
from batchrunner.core.service import EndpointRow
from batchrunner.errors import StopError, UsageError
from batchrunner.keyring import doors
from batchrunner.origins import ARGUMENT, resolve
from batchrunner.settings import schema
from tests.crash import served
from tests.server import FaultServer, Peer, chat, json_reply

README = Path(__file__).parent.parent / "README.md"
FILE = """
[[endpoint]]
base_url = "https://one.example/v1"
api_key_env = "ONE_KEY"
weight = 3
models = { small = "small-2" }

[[endpoint]]
base_url = "http://127.0.0.1:8000/v1"
concurrency = 8
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def rows(file: str = FILE, flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> tuple[EndpointRow, ...]:
    Path("batchrunner.toml").write_text(file)
    return resolve(flags or {}, environ or {}, Path()).settings.service.endpoints


def test_a_row_of_an_argument_has_no_place_but_its_number() -> None:
    with pytest.raises(UsageError) as refused:
        resolve({"endpoint": [{"base_url": "http://h", "wieght": 3}]}, {}, Path(), origin=ARGUMENT)
    assert str(refused.value).startswith("endpoint 1: wieght: no such setting")


def answering(status: int = 200) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(json_reply(status, chat()))

    return script


def sent(server: FaultServer, header: str = "authorization") -> Counter[tuple[str, str]]:
    return Counter((seen.json()["model"], seen.headers.get(header, "")) for seen in server.requests)


# ---- what is said ----


def test_a_file_names_endpoints_in_tables() -> None:
    one, two = rows()
    assert (one.base_url, one.api_key_env, one.weight, one.models) == (
        "https://one.example/v1",
        "ONE_KEY",
        3.0,
        {"small": "small-2"},
    )
    assert (two.concurrency, two.weight, two.models) == (8, None, {})
    assert "endpoint" in schema()["$defs"]["batchrunner"]["properties"]


@pytest.mark.parametrize(
    ("file", "code", "told"),
    [
        (FILE.replace("weight", "wieght"), "E001", "Did you mean weight?"),
        (FILE.replace("api_key_env", "api_key"), "E001", "endpoint 1: api_key"),
        (FILE.replace("weight = 3", "weight = -1"), "E002", "endpoint 1: weight: at least"),
        (FILE.replace("concurrency = 8", "concurrency = 0"), "E002", "endpoint 2"),
        (FILE.replace("concurrency = 8", 'concurrency = "many"'), "E002", "endpoint 2: concurrency: 'many' is not"),
        (FILE.replace("concurrency = 8", 'rpm = "40q"'), "E002", "endpoint 2: rpm: '40q' is not a whole number"),
        (FILE.replace("concurrency = 8", 'rpm = "auto"'), "E002", "2: rpm: a whole number or nothing is wanted, not a text"),
        (FILE.replace("concurrency = 8", 'concurrency = "0"'), "E002", "endpoint 2"),
        ('endpoint = "http://h/v1"', "E002", "list of tables"),
        ("endpoint = [3]", "E002", "endpoint 1"),
        ("[[endpoint]]\nweight = 1", "E002", "endpoint 1: base_url is missing"),
        (f'base_url = "http://h"\n{FILE}', "E003", "twice"),
    ],
)
def test_what_does_not_fit_is_refused(file: str, code: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        rows(file)
    assert refused.value.code == code
    assert told in str(refused.value)


def test_counts_are_written_as_on_the_command_line() -> None:
    counts = 'concurrency = "auto"\nmax_concurrency = " 2k "\nrpm = "1.5k"\ntpm = "2M"\nrpd = 9'
    _, row = rows(FILE.replace("concurrency = 8", counts))
    assert (row.concurrency, row.max_concurrency, row.rpm, row.tpm, row.rpd) == ("auto", 2000, 1500, 2_000_000, 9)
    described = schema()["$defs"]["EndpointRow"]["properties"]
    assert {"type": "string"} in described["tpm"]["anyOf"]


def test_what_counts_more_displaces_them() -> None:
    assert rows(flags={"base_url": ["http://h/v1"]}) == ()
    assert rows(environ={"OPENAI_BASE_URL": "http://h/v1"}) == ()
    Path("user.toml").write_text('base_url = "http://h/v1"')
    settings = resolve({}, {}, Path(), Path("user.toml")).settings
    assert (settings.service.base_url, len(settings.service.endpoints)) == ((), 2)


def test_config_show_tells_of_them_and_hides_what_is_in_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    Path("batchrunner.toml").write_text('[[endpoint]]\nbase_url = "http://h/v1?key=hush"\nheader = ["X-Token=hush"]\n')
    assert main(["config", "show", "--origin"]) == 0
    said = capsys.readouterr().out
    assert '"base_url":"http://h/v1?key=…"' in said
    assert "file batchrunner.toml" in said
    assert "hush" not in said


def test_the_readme_shows_tables_that_are_read() -> None:
    (table,) = re.findall(r"```toml\n(.*?\[\[endpoint\]\].*?)```", README.read_text(), re.DOTALL)
    assert len(rows(table)) == 2


# ---- what is done ----


@pytest.mark.parametrize("workers", [1, 2])
async def test_each_gets_its_own_key_and_its_own_names(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setenv("ONE_KEY", "sk-canary-one-1234567")
    monkeypatch.setenv("TWO_KEY", "sk-canary-two-1234567")
    asked = [batchrunner.chat("hi", model=model, id=f"{model}-{n}") for model in ("a", "b") for n in range(20)]
    Path("in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    with ExitStack() as stack:
        one, two = (stack.enter_context(served(FaultServer(answering()))) for _ in range(2))
        endpoints = [
            {"base_url": one.url, "api_key_env": "ONE_KEY", "models": {"a": "a-at-one"}},
            {"base_url": two.url, "api_key_env": "TWO_KEY", "models": {"b": "b-at-two"}, "header": ["X-Team=red"]},
        ]
        report = await batchrunner.Runner(endpoints=endpoints, workers=workers, stream="off").run("in.jsonl")
    assert report.summary.succeeded == 40
    assert sent(one) == {("a-at-one", "Bearer sk-canary-one-1234567"): 20}
    assert sent(two) == {("b-at-two", "Bearer sk-canary-two-1234567"): 20}
    assert sent(two, "x-team") == {("b-at-two", "red"): 20}
    assert sent(one, "x-team") == {("a-at-one", ""): 20}
    assert {json.loads(line)["batchrunner"]["model"] for line in Path("in.results.jsonl").read_text().splitlines()} == {"a", "b"}
    assert not [path for path in Path().rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


async def test_what_fails_at_one_is_renamed_for_the_other() -> None:
    with ExitStack() as stack:
        bad = stack.enter_context(served(FaultServer(answering(500))))
        good = stack.enter_context(served(FaultServer(answering())))
        endpoints = [{"base_url": bad.url, "models": {"m": "bad-m"}}, {"base_url": good.url, "models": {"*": "*"}}]
        runner = batchrunner.Runner(endpoints=endpoints, stream="off")
        (result,) = await runner.gather([batchrunner.chat("hi", model="m")])
    assert (result.ok, result.attempts) == (True, 2)
    assert [seen.json()["model"] for seen in (*bad.requests, *good.requests)] == ["bad-m", "m"]


async def test_a_model_that_nobody_serves_is_an_error_at_once() -> None:
    runner = batchrunner.Runner(endpoints=[{"base_url": "simulated", "models": {"m": "m"}}])
    good, bad = await runner.gather([batchrunner.chat("hi", model=model) for model in ("m", "k")])
    assert good.ok
    assert (bad.error and bad.error.code, bad.attempts) == ("E304", 0)


async def test_a_reserve_is_not_asked_while_another_serves() -> None:
    with served(FaultServer(answering())) as spare:
        endpoints = ["simulated", {"base_url": spare.url, "weight": 0}]
        results = await batchrunner.Runner(endpoints=endpoints).gather([batchrunner.chat(str(n), model="m") for n in range(200)])
    assert all(result.ok for result in results)
    assert spare.requests == []


def test_each_endpoint_has_the_limits_of_its_row_and_else_those_of_all() -> None:
    Path("batchrunner.toml").write_text(FILE.replace("concurrency = 8", "concurrency = 8\nrpm = 60\nrpd = 7") + "\n")
    settings = resolve({"rpm": "6000", "max_concurrency": "40"}, {}, Path()).settings
    one, two = (_endpoint(door, door.base_url, settings) for door in doors(settings.service, {"ONE_KEY": "k-0123456789"}))
    assert (one.limit.most, two.limit.most) == (40, 8)
    assert (one.pace("m").rate.value, two.pace("m").rate.value) == (100.0, 1.0)


def models(*names: str) -> None:
    """An input that asks for these models, and a file that maps "x" alone."""
    lines = (batchrunner.chat("Hi", model=name, id=f"r-{number}") for number, name in enumerate(names))
    Path("a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Path("batchrunner.toml").write_text('[[endpoint]]\nbase_url = "simulated"\nmodels = { x = "y" }\n')


@pytest.mark.parametrize(
    ("asked", "typed", "succeeded", "failed"),
    [
        (["a", "b"] * 25, [], 0, 0),
        (["a", "b"] * 25, ["--max-alike", "51"], 0, 50),
        (["a"] * 50, ["--max-alike", "0"], 0, 50),
        (["a"] * 19, [], 0, 19),
        (["a"] * 19 + ["x"] + ["a"] * 30, [], 1, 49),
        (["x"] + ["a"] * 30, ["--limit", "25"], 1, 24),
    ],
)
def test_a_map_that_fits_no_line_ends_the_run_and_none_has_failed(
    asked: list[str], typed: list[str], succeeded: int, failed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    models(*asked)
    code = main(["a.jsonl", "--display", "none", "--json", *typed])
    told = json.loads(capsys.readouterr().out)
    assert (told["succeeded"], told["failed"]) == (succeeded, failed)
    assert (code, "[E307]" in (told["stopped"] or "")) == ((1, False) if failed else (3, True))
    assert len(Path("a.errors.jsonl").read_text().splitlines()) == failed


def test_after_the_map_is_corrected_the_same_command_asks_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    models(*["a"] * 30)
    assert main(["a.jsonl", "--display", "none"]) == 3
    assert "no endpoint serves, such as 'a'" in " ".join(capsys.readouterr().out.split())
    config = Path("batchrunner.toml")
    config.write_text(config.read_text().replace("x =", "a ="))
    assert main(["a.jsonl", "--display", "none"]) == 0


async def test_a_caller_hears_of_a_map_that_fits_no_row() -> None:
    asked = [batchrunner.chat("Hi", model="a", id=str(number)) for number in range(30)]
    runner = batchrunner.Runner(endpoints=[{"base_url": "simulated", "models": {"x": "y"}}])
    with pytest.raises(StopError, match="no endpoint serves"):
        await runner.gather(asked)
