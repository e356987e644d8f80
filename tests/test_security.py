"""Attacks, row by row of section G of the fault matrix: what comes from a line, a server, a folder or an environment that
somebody else controls. Always the whole program, against real servers on the loopback."""

import asyncio
import gzip
import json
import logging
import os
import pickle
import re
import stat
import subprocess
import sys
import tomllib
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

import batchrunner
from batchrunner.cli import main
from batchrunner.core.model import Kind, Result
from batchrunner.core.providers import AUTH
from batchrunner.dialects import Dialect
from batchrunner.errors import BatchError, UsageError
from batchrunner.formats import parse
from batchrunner.settings import OPTIONS
from tests.crash import environment, served
from tests.server import (
    SSE_HEAD,
    FaultServer,
    Peer,
    Script,
    chat,
    chunk,
    chunked_head,
    event,
    head,
    json_reply,
    ok_chat,
    reply,
)

ROOT = Path(__file__).parent.parent
KEY = "sk-canary-0123456789abcdefghijklmnop"
SECOND = "sk-second-9876543210zyxwvutsrqponmlk"
TRACES = tuple(
    trace for key in (KEY, SECOND) for trace in (key, key[3:], key.upper(), key[:12], b64encode(key.encode()).decode()[:12])
)
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, and no file of the user's."""
    (tmp_path / "home").mkdir()
    for name in ("HOME", "XDG_CONFIG_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """One command in this process."""

    def run(*argv: str) -> Said:
        capfd.readouterr()
        return Said(main(list(argv)), *capfd.readouterr())

    return run


def line(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": BODY} | changes


def job(*lines: object, name: str = "a.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(each) + "\n" for each in lines))
    return name


def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(raw) for raw in Path(name).read_text().splitlines()]


def failures(name: str = "a.errors.jsonl") -> dict[str, str]:
    """Message by id."""
    return {each["custom_id"]: (each["error"] or {}).get("message", "") for each in records(name)}


def produced(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file there, unpacked where it is packed."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            raw = path.read_bytes()
            yield path, raw
            if path.name == "checkpoint":
                yield path, zlib.decompress(raw[4:])


# G1


def attacks(port: int) -> list[str]:
    evil = f"127.0.0.1:{port}"
    return [
        *(
            f"{scheme}{evil}/v1/chat/completions"
            for scheme in ("http://", "https://", "//", "///", "HTTP://", "\\\\", "/\\", "http:\\\\")
        ),
        *(f"http:{evil}", f"http:/{evil}/x", f"@{evil}/", f"/v1/../../@{evil}", f"ftp://{evil}/", f"file://{evil}/etc/passwd"),
        *(f"http://api.openai.com@{evil}/", f"http://user:pass@{evil}/", f"http://{evil}#/v1", f"http://{evil}?/v1"),
        *("/v1/../x", "/v1/%2e%2e/x", "/v1/%252e%252e/x", "/v1/..%2fx", "/v1/..;/x", "/.", "/v1/./x", "/v1/%5c..%5cx"),
        *("/v1/x HTTP/1.1\r\nHost: evil", "/v1/x%0d%0aHost:evil", "/v1/\u2024\u2024/x", "/v1/\u0000", "/v1/x\ty", "/v1/é"),
        *("javascript:alert(1)", "data:text/html,x", "v1/chat/completions", "", " /v1/x", "/v1/%zz"),
    ]


def test_g1_no_url_of_a_line_leads_anywhere_else(command: Command) -> None:
    with served(FaultServer(ok_chat())) as server, served(FaultServer(ok_chat())) as evil:
        urls = attacks(evil.port)
        said = command(job(*(line(n, url=url) for n, url in enumerate(urls))), "--base-url", server.url)
        assert (server.connections, evil.connections) == (0, 0)
    assert said.code == 1
    assert len(failures()) == len(urls)
    assert all(re.search(r"url", message) for message in failures().values())


def test_g1_nor_does_a_route_or_another_dialect(command: Command) -> None:
    with served(FaultServer(ok_chat())) as server, served(FaultServer(ok_chat())) as evil:
        rows = [{"custom_id": "a", "params": BODY}, {"custom_id": "b", "params": BODY}]
        said = command(job(*rows), "--base-url", server.url, "--route", f"{evil.url}/v1/messages")
        assert (said.code, server.connections, evil.connections) == (1, 0, 0)


def test_g1_the_endpoints_own_origin_is_cut_down_to_its_path(command: Command) -> None:
    with served(FaultServer(ok_chat())) as server:
        said = command(job(line(url=f"{server.url}/v1/chat/completions")), "--base-url", server.url)
        assert (said.code, server.requests[0].path) == (0, "/v1/chat/completions")


# G2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("form", AUTH)
def test_g2_no_redirect_carries_a_key_or_a_prompt_away(
    command: Command, monkeypatch: pytest.MonkeyPatch, status: int, form: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with served(FaultServer(ok_chat())) as evil:
        away = reply(b"", status, {"Location": f"{evil.url}/v1/chat/completions"})
        with served(FaultServer(away)) as server:
            said = command(job(line()), "--base-url", server.url, "--auth", form, "--max-attempts", "2")
            assert server.requests
        assert evil.connections == 0
    assert said.code in (1, 3)


def test_g2_nor_one_to_the_same_origin(command: Command) -> None:
    async def script(peer: Peer) -> None:
        seen = await peer.request()
        assert seen.path == "/v1/chat/completions"
        await peer.send(reply(b"", 307, {"Location": "/elsewhere"}))

    with served(FaultServer(script)) as server:
        assert command(job(line()), "--base-url", server.url).code in (1, 3)


# G3


def test_g3_a_line_sets_no_header_that_frames_identifies_or_steers(command: Command) -> None:
    names = "Host Content-Length Transfer-Encoding Connection Authorization Cookie Proxy-Authorization api-key x-api-key"
    names += " X-Goog-Api-Key X-Forwarded-For X-Original-URL X-Host Upgrade Expect TE"
    hostile = [{name: "x"} for name in names.split()]
    hostile += [
        {"X Y": "1"},
        {"X-Y": "1\r\nX-Evil: 1"},
        {"X-Y": "1\n"},
        {"X-Y": "\u0000"},
        {"X-Y": "é"},
        {"": "x"},
        {"X-Y:": "1"},
    ]
    with served(FaultServer(ok_chat())) as server:
        rows = [line(n, headers=headers) for n, headers in enumerate(hostile)]
        said = command(job(*rows, line(99, headers={"X-Experiment": "7"})), "--base-url", server.url)
        (seen,) = server.requests
    assert (said.code, len(failures())) == (1, len(hostile))
    assert seen.headers["X-Experiment"] == "7"


# G4


@pytest.mark.parametrize("name", ["a\r\nX-Evil: 1", "é\u202e", "a" * 10_000, "\u0000"])
def test_g4_an_id_is_never_a_header(command: Command, name: str) -> None:
    with served(FaultServer(ok_chat())) as server:
        said = command(job(line(custom_id=name, body=BODY | {"model": name})), "--base-url", server.url)
        (seen,) = server.requests
    assert said.code == 0
    assert re.fullmatch(r"br-[0-9a-f]{10}-1-\d+", seen.headers["X-Client-Request-Id"])
    assert "X-Evil" not in seen.headers
    assert all(name not in value for value in seen.headers.values())
    assert records("a.results.jsonl")[0]["custom_id"] == name


def test_g4_each_sending_has_an_id_of_its_own_and_failures_keep_it(command: Command) -> None:
    bad = json_reply(500, {"error": {"message": "no"}})
    with served(FaultServer(bad)) as server:
        command(job(line(1), line(2)), "--base-url", server.url, "--max-attempts", "2")
        sent = [seen.headers["X-Client-Request-Id"] for seen in server.requests]
    assert len(set(sent)) == len(sent) == 4
    assert {each["response"]["request_id"] for each in records("a.errors.jsonl")} <= set(sent)


# G5


def test_g5_no_id_becomes_a_path(command: Command, tmp_path: Path) -> None:
    names = ["../../evil", "/tmp/evil", "a/b", "..", "CON", "x\u0000y", "~/.ssh/authorized_keys"]
    with served(FaultServer(ok_chat())) as server:
        assert command(job(*(line(custom_id=name) for name in names)), "--base-url", server.url).code == 0
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert all(path == "home" or path.startswith("a.") for path in made)


# G6


async def _endless(peer: Peer) -> None:
    await peer.request()
    await peer.send(chunked_head())
    while True:
        await peer.send(chunk(b" " * 65536))


async def _endless_stream(peer: Peer) -> None:
    await peer.request()
    await peer.send(SSE_HEAD)
    while True:
        await peer.send(chunk(event({"choices": [{"index": 0, "delta": {"content": "x" * 20_000}}]})))


async def _endless_event(peer: Peer) -> None:
    await peer.request()
    await peer.send(SSE_HEAD, chunk(b"data: "))
    while True:
        await peer.send(chunk(b"x" * 65536))


async def _tiny(peer: Peer) -> None:
    await peer.request()
    await peer.send(chunked_head())
    while True:
        await peer.send(chunk(b"x") * 5000)


async def _bomb(peer: Peer) -> None:
    await peer.request()
    packed = gzip.compress(b'{"a":"' + b"0" * 200_000_000 + b'"}', 9)
    await peer.send(head(200, {"Content-Encoding": "gzip", "Content-Length": str(len(packed))}), packed)
    await peer.hold()


@pytest.mark.parametrize("script", [_endless, _endless_stream, _endless_event, _tiny, _bomb])
def test_g6_an_answer_without_measure_ends_at_the_cap(command: Command, script: Script) -> None:
    with served(FaultServer(script)) as server:
        said = command(job(line()), "--base-url", server.url, "--max-response", "1MiB", "--max-attempts", "1", "--timeout", "60s")
    assert said.code == 1, said
    (record,) = records("a.errors.jsonl")
    assert record["batchrunner"]["kind"] == "response_too_large"
    assert len(Path("a.errors.jsonl").read_bytes()) < 200_000


async def _slowloris(peer: Peer) -> None:
    await peer.request()
    await peer.send(chunked_head())
    while True:
        await peer.send(chunk(b"\n"))
        await asyncio.sleep(0.02)


def test_g6_a_reply_that_drips_is_given_up(command: Command) -> None:
    with served(FaultServer(_slowloris)) as server:
        more = ("--idle-timeout", "200ms", "--first-byte-timeout", "200ms", "--timeout", "400ms", "--max-attempts", "1")
        assert command(job(line()), "--base-url", server.url, *more).code == 1
    (record,) = records("a.errors.jsonl")
    assert record["batchrunner"]["kind"].startswith("timeout")


# G7


def test_g7_lines_of_any_size_depth_and_width_are_bounded(command: Command) -> None:
    wide = {f"k{n}": n for n in range(50_000)}
    with served(FaultServer(ok_chat())) as server:
        Path("a.jsonl").write_text(
            f"{json.dumps(line(1))}\n"
            f'{{"custom_id":"big","url":"/v1/chat/completions","body":{{"x":"{"y" * 200_000}"}}}}\n'
            f'{{"custom_id":"deep","url":"/v1/chat/completions","body":{"[" * 50_000}{"]" * 50_000}}}\n'
            f"{json.dumps(line(4, custom_id='wide', body=BODY | wide))}\n"
        )
        said = command("a.jsonl", "--base-url", server.url, "--max-line", "1MiB")
        assert len(server.requests) == 3
        assert (said.code, list(failures().values())) == (1, ["not JSON at column 1081: depth limit exceeded"])
        again = command("a.jsonl", "--base-url", server.url, "--max-line", "100KiB", "-o", "b.jsonl")
        assert len(server.requests) == 4
    assert again.code == 1
    assert [message[:17] for message in failures("b.errors.jsonl").values()] == [
        "the line has 200,",
        "not JSON at colum",
        "the line has 827,",
    ]


# G8, G9: the canary


def _echo(*, stream: bool, key: str = KEY) -> Script:
    """A server that says the key in every place there is, and fails in every way there is, by the number of the line."""

    async def script(peer: Peer) -> None:
        while True:
            seen = await peer.request()
            said = f"you sent {seen.headers.get('Authorization')} {key} {key[:8]}****{key[-4:]} https://h/?key={key}"
            said += f" {b64encode(key.encode()).decode()}"
            heads = {"X-Request-Id": key, "X-Echo": said, "WWW-Authenticate": f"Bearer {key}"}
            match int(seen.json()["messages"][0]["content"]) % 8:
                case 0:
                    await peer.send(json_reply(200, chat(text=said, name=key)))
                case 7:
                    await peer.send(json_reply(200, chat(), heads))
                case 1:
                    await peer.send(json_reply(400, {"error": {"message": said, "code": key, "type": said}}, heads))
                case 2:
                    await peer.send(reply(f"<title>{said}</title>".encode(), 502, heads))
                case 3:
                    await peer.send(head(500, {"Content-Length": "9999", **heads}), said.encode())
                    peer.reset()
                    return
                case 4 if stream:
                    parts = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in (key[:9], key[9:], said)]
                    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
                    await peer.send(SSE_HEAD, *(chunk(event(part)) for part in (*parts, end, "[DONE]")), b"0\r\n\r\n")
                case 4 | 5:
                    await peer.send(json_reply(200, {"error": {"message": said, "code": 500}}, heads))
                case _:
                    await peer.send(f"{said} is no HTTP\r\n\r\n".encode())
                    return

    return script


def canary_lines(count: int = 8) -> list[dict[str, Any]]:
    return [line(n, body=BODY | {"messages": [{"role": "user", "content": str(n)}]}) for n in range(count)]


def assert_silent(text: str | bytes) -> None:
    raw = text.encode() if isinstance(text, str) else text
    assert not [trace for trace in TRACES if trace.encode() in raw], raw[:2000]


@pytest.mark.parametrize(
    ("dialect", "stream", "workers"),
    [
        ("openai", "on", "1"),
        ("openai", "off", "1"),
        ("openai", "off", "2"),
        ("vllm", "off", "1"),
        ("anthropic", "on", "1"),
        ("cookbook", "off", "1"),
    ],
)
def test_g8_g9_no_byte_we_produce_holds_the_key(tmp_path: Path, dialect: str, stream: str, workers: str) -> None:
    """The real command in a process of its own; every file, both streams, also when it is asked to show its inside."""
    job(*canary_lines())
    told = environment(OPENAI_API_KEY=KEY, BATCHRUNNER_DEBUG="1", PYTHONDEVMODE="1", HOME=str(tmp_path / "home"))
    with served(FaultServer(_echo(stream=stream == "on"))) as server:
        options = [
            "--base-url",
            f"{server.url}/v1?key={KEY}",
            "--stream",
            stream,
            "--workers",
            workers,
            "--max-attempts",
            "1",
            "-v",
        ]
        for words in (["a.jsonl", "--output-format", dialect], ["retry", "a.jsonl", "--all", "--output-format", dialect]):
            ended = subprocess.run(
                [sys.executable, "-m", "batchrunner", *words, *options], env=told, capture_output=True, check=False, timeout=60
            )
            assert ended.returncode in (1, 3), ended.stderr
            assert_silent(ended.stdout + ended.stderr)
        assert any(KEY in seen.headers["Authorization"] for seen in server.requests)
    found = list(produced(tmp_path))
    assert Path("a.results.jsonl").stat().st_size + Path("a.errors.jsonl").stat().st_size
    for path, raw in found:
        assert_silent(raw), path


async def test_g8_g9_nothing_that_the_library_hands_out_holds_the_key(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    events: list[object] = []
    with served(FaultServer(_echo(stream=False))) as server:
        runner = batchrunner.Runner(base_url=f"{server.url}/v1?key={KEY}", max_attempts=1, stream="off", on_event=events.append)
        async with runner:
            results = [each async for each in runner.stream(canary_lines())]
        assert_silent(repr(runner) + repr(vars(runner)).replace(f"?key={KEY}", ""))
    assert results
    for each in (*results, *events):
        shown = (
            f"{each!r} {each}" if not isinstance(each, Result) else f"{each.body!r} {each.error!r} {each.text} {each.request_id}"
        )
        assert_silent(shown)
    assert_silent(caplog.text)


def rows_of_endpoints(*urls: str) -> dict[str, str]:
    """A configuration file with an endpoint and a key for each address; the variables that hold the keys."""
    keys = dict(zip(("FIRST_KEY", "OTHER_KEY"), (KEY, SECOND), strict=True))
    rows = (f'[[endpoint]]\nbase_url = "{url}"\napi_key_env = "{name}"\n' for url, name in zip(urls, keys, strict=True))
    Path("batchrunner.toml").write_text("\n".join(rows))
    return keys


@pytest.mark.parametrize("workers", ["1", "2"])
def test_g8_g9_nor_that_of_any_endpoint_in_a_table(tmp_path: Path, workers: str) -> None:
    """Each of two endpoints is told its own key, and neither is found anywhere afterwards."""
    job(*canary_lines(24))
    with served(FaultServer(_echo(stream=False))) as one, served(FaultServer(_echo(stream=False, key=SECOND))) as two:
        told = environment(**rows_of_endpoints(one.url, two.url), BATCHRUNNER_DEBUG="1", HOME=str(tmp_path / "home"))
        options = ["--workers", workers, "--max-concurrency", "4", "--max-attempts", "1", "--report", "page.html", "-v"]
        for words in (["a.jsonl", *options], ["status", "a.jsonl"], ["diagnose", "a.jsonl"], ["config", "show", "--origin"]):
            ended = subprocess.run(
                [sys.executable, "-m", "batchrunner", *words], env=told, capture_output=True, check=False, timeout=60
            )
            assert ended.returncode in (0, 1, 3), ended.stderr
            assert_silent(ended.stdout + ended.stderr)
        for server, key in ((one, KEY), (two, SECOND)):
            assert {seen.headers["Authorization"] for seen in server.requests} == {f"Bearer {key}"}
    found = dict(produced(tmp_path))
    assert {Path("page.html"), Path("a.results.jsonl"), Path("a.run/learned.json")} <= {
        path.relative_to(tmp_path) for path in found
    }
    for raw in found.values():
        assert_silent(raw)


def test_g9_nor_does_a_command_that_is_told_of_the_end(command: Command, tmp_path: Path) -> None:
    said = command(job(line()), "--base-url", "simulated", "--notify", f"true --header {KEY}")
    assert said.code == 0
    assert_silent(said.out + said.err)
    found = dict(produced(tmp_path))
    assert b"true \xe2\x80\xa6" in found[tmp_path / "a.run/events.jsonl"]
    for raw in found.values():
        assert_silent(raw)


def test_g8_an_unexpected_fault_shows_no_key_with_its_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, key in rows_of_endpoints("http://127.0.0.1:9", "http://127.0.0.1:10").items():
        monkeypatch.setenv(name, key)
    monkeypatch.setenv("BATCHRUNNER_DEBUG", "1")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"a bug \x1b[31m with {KEY} and {SECOND}")

    monkeypatch.setattr("batchrunner.transport.proxy_for", broken)
    said = command(job(line()))
    assert (said.code, "Traceback" in said.err, "with [key] and [key]" in said.err) == (4, True, True)
    assert "\x1b" not in said.err
    assert_silent(said.out + said.err)


@pytest.mark.parametrize("status", [302, 401, 402, 404])
def test_g9_nor_does_the_reason_of_a_stop(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    heads = {"Location": f"/?key={KEY}", "X-Request-Id": KEY}
    with served(FaultServer(json_reply(status, {"error": {"message": f"bad key {KEY}", "code": KEY}}, heads))) as server:
        said = command(job(line()), "--base-url", server.url, "-v")
        assert server.requests
    assert said.code in (1, 2, 3)
    assert_silent(said.out + said.err)
    for _, raw in produced(tmp_path):
        assert_silent(raw)


def test_g8_no_option_takes_a_key() -> None:
    """Tokens are counts; a token would be a key."""
    assert [name for name in OPTIONS if re.search(r"key|token(?!s)|secret|password", name)] == ["api_key_env"]


def test_g9_a_placeholder_is_no_secret(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    with served(FaultServer(ok_chat(text="The list is EMPTY, not-needed."))) as server:
        assert command(job(line()), "--base-url", server.url).code == 0
    assert "EMPTY, not-needed" in Path("a.results.jsonl").read_text()


def test_g9_a_proxys_password_is_hidden_too(command: Command) -> None:
    async def script(peer: Peer) -> None:
        seen = await peer.request()
        await peer.send(json_reply(407, {"error": {"message": f"no: {seen.headers['Proxy-Authorization']} {KEY}"}}))

    with served(FaultServer(script)) as proxy:
        proxied = proxy.url.replace("//", f"//me:{KEY}@")
        said = command(job(line()), "--base-url", "http://api.test", "--proxy", proxied, "--max-attempts", "1", "-v")
        assert proxy.requests
    from base64 import b64encode

    for text in (said.out, said.err, *(raw.decode("latin-1") for _, raw in produced(Path.cwd()))):
        assert_silent(text)
        assert b64encode(f"me:{KEY}".encode()).decode() not in text


# G10


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:9/v1?key={KEY}", f"ftp://h/?key={KEY}", f"http://u:{KEY}@h/", f"http://h:99999/?key={KEY}"]
)
def test_g10_a_key_in_an_address_is_shown_nowhere(command: Command, url: str, tmp_path: Path) -> None:
    for words in ([job(line()), "--max-outage", "1ms", "--max-attempts", "1", "-v"], ["config", "show"]):
        said = command(*words, "--base-url", url)
        assert_silent(said.out + said.err)
    for _, raw in produced(tmp_path):
        assert_silent(raw)


# G11


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "VLLM_API_KEY"])
def test_g11_no_key_in_clear_to_another_machine(command: Command, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, KEY)
    said = command(job(line()), "--base-url", "http://192.0.2.1:8000/v1")
    assert (said.code, "[E103]" in said.err) == (2, True)
    assert variable in said.err
    assert not Path("a.results.jsonl").exists() or not Path("a.results.jsonl").read_bytes()


def test_p7_the_key_of_one_provider_is_not_sent_to_another(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said = command(job(line()), "--base-url", "https://api.groq.com/openai/v1")
    assert (said.code, "GROQ_API_KEY" in said.err) == (2, True)


# G12


def test_g12_certificates_are_always_checked(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ssl

    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost")
    subprocess.run([*made, "-keyout", str(key), "-out", str(pem)], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem, key)
    for name in ("PYTHONHTTPSVERIFY", "NODE_TLS_REJECT_UNAUTHORIZED", "CURL_INSECURE", "SSL_VERIFY"):
        monkeypatch.setenv(name, "0")
    with served(FaultServer(ok_chat(), tls=tls, host="localhost")) as server:
        said = command(job(line()), "--base-url", server.url)
        assert server.requests == []
    assert (said.code, "certificate" in said.out + said.err) == (3, True)
    assert not [name for name in OPTIONS if re.search(r"verify|insecure", name) and name != "allow_insecure"]


# G13, G14


def test_g13_nothing_planted_beside_the_job_is_read(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    with served(FaultServer(ok_chat())) as server, served(FaultServer(ok_chat())) as evil:
        planted = f'base_url = "{evil.url}"\nproxy = "{evil.url}"\n'
        (folder / "batchrunner.toml").write_text(planted)
        (folder / "pyproject.toml").write_text(f"[tool.batchrunner]\n{planted}")
        for place in (folder, tmp_path):
            (place / ".env").write_text(f"OPENAI_BASE_URL={evil.url}\nHTTP_PROXY={evil.url}\nOPENAI_API_KEY={KEY}\n")
            (place / ".netrc").write_text(f"machine 127.0.0.1 login me password {KEY}\n")
        name = job(line(), name=str(folder / "a.jsonl"))
        assert command(name, "--base-url", server.url).code == 0
        assert evil.connections == 0
        assert "Authorization" not in server.requests[0].headers
    assert command(name, "--fresh").code == 2, "no endpoint was named by anybody who may"


def test_g14_a_config_file_holds_values_and_nothing_that_acts(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMETHING", KEY)
    Path("batchrunner.toml").write_text("modle = 1\n")
    assert "[E001]" in command(job(line())).err
    for text in ("${SOMETHING}", "$SOMETHING", "$(id)", "{{ 7*7 }}", "!!python/object:os.system"):
        Path("batchrunner.toml").write_text(f'model = "{text}"\n')
        said = command("config", "show")
        assert text in said.out
        assert_silent(said.out)


# G15


class _Boom:
    def __reduce__(self) -> tuple[object, ...]:
        return Path("owned").touch, ()


def test_g15_no_cache_runs_code_or_is_believed_over_the_output(command: Command) -> None:
    with served(FaultServer(ok_chat())) as server:
        run = (job(line(1), line(2)), "--base-url", server.url)
        assert command(*run).code == 0
        packed = zlib.compress(pickle.dumps(_Boom()))
        lying = zlib.compress(msgspec.msgpack.encode({"standing": "all done"}))
        for cache in (packed, lying):
            Path("a.run/checkpoint").write_bytes(zlib.crc32(cache).to_bytes(4, "big") + cache)
            Path("a.results.jsonl").write_bytes(Path("a.results.jsonl").read_bytes().splitlines(True)[0])
            before = len(server.requests)
            assert command(*run).code == 0
            assert len(server.requests) == before + 1
    assert not Path("owned").exists()


def test_g15_nothing_in_the_package_unpickles_or_evaluates() -> None:
    for path in (ROOT / "batchrunner").rglob("*.py"):
        assert not re.search(
            r"\b(pickle|marshal|shelve)\b|\b(eval|exec)\(|os\.system|subprocess_shell|shell=True|yaml\.", path.read_text()
        ), path


# G16, G17

TRICKS = "\x1b[2J\x1b]0;owned\x07\x1b]8;;http://evil\x1b\\x\x1b]52;c;ZQ==\x07\r\x08\x9b31m\u202e\u2066\x00\n2026-01-01 all done\n"


def test_g16_g17_no_text_of_others_steers_the_terminal_or_forges_a_line(command: Command) -> None:
    async def script(peer: Peer) -> None:
        for n in range(9):
            await peer.request()
            if n % 3 == 0:
                await peer.send(json_reply(400, {"error": {"message": TRICKS, "code": TRICKS}}))
            elif n % 3 == 1:
                await peer.send(b"HTTP/1.1 500 \x1b[31mred\r\nX-Request-Id: \x1b[2Jx\xff\r\nContent-Length: 0\r\n\r\n")
            else:
                await peer.send(reply(f"<title>{TRICKS}</title>".encode(), 400))

    with served(FaultServer(script)) as server:
        rows = [line(n, custom_id=f"{TRICKS}{n}", body=BODY | {"model": TRICKS}) for n in range(4)]
        for display in ("plain", "log"):
            said = command(
                job(*rows), "--base-url", server.url, "--display", display, "-v", "--max-attempts", "1", "-c", "1", "--fresh"
            )
            assert said.code in (1, 3)
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", said.out + said.err)
            assert not [each for each in (said.out + said.err).splitlines() if each.startswith("2026-01-01 all done")]
    for _, raw in produced(Path.cwd()):
        assert b"\x1b" not in raw or raw[:1] not in (b"{", b"[")
    assert all(isinstance(each, dict) for each in records("a.errors.jsonl"))


def test_g16_problems_of_a_check_are_neutral_too(command: Command) -> None:
    said = command("check", job(line(1, custom_id=TRICKS), line(2, custom_id=TRICKS), {TRICKS: 1, "custom_id": "x"}))
    assert said.code == 2
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", said.out + said.err)


# G18


def test_g18_nothing_that_is_opened_elsewhere_carries_code(command: Command, tmp_path: Path) -> None:
    script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    bad = json_reply(400, {"error": {"message": f"=cmd|'/c calc'!A0 {script}", "code": script}})
    with served(FaultServer(bad)) as server:
        command(job(line(custom_id=script, body=BODY | {"model": script})), "--base-url", server.url)
    for path, raw in produced(tmp_path):
        if path.suffix in {".html", ".svg"}:
            assert b"<script>alert" not in raw
            assert b"<img src=x" not in raw


# G19, G20


def test_g19_what_we_make_is_for_its_owner_alone(command: Command, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with served(FaultServer(json_reply(400, {"error": {"message": "no"}}))) as server:
            command(job(line()), "--base-url", server.url)
            command("retry", "a.jsonl", "--all", "--base-url", server.url)
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("a.*") if path.name != "a.jsonl"]
    assert len(made) >= 3
    for path in (*made, *Path("a.run").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_g19_a_run_folder_that_others_may_write_to_is_refused(command: Command) -> None:
    Path("a.run").mkdir()
    Path("a.run").chmod(0o777)
    with served(FaultServer(ok_chat())) as server:
        said = command(job(line()), "--base-url", server.url)
        assert (said.code, server.requests) == (2, [])
    assert "[E401]" in said.err


@pytest.mark.parametrize("name", ["a.results.jsonl", "a.errors.jsonl", "a.run", "a.run/lock"])
@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symlink", "hardlink"])
def test_g20_nothing_is_written_through_a_link(
    command: Command, tmp_path: Path, name: str, plant: Callable[[Path, str], None]
) -> None:
    target = tmp_path / "home" / "precious"
    target.write_text("precious\n")
    if name == "a.run" and plant is os.link:
        pytest.skip("a folder has no second name")
    if "/" in name:
        Path("a.run").mkdir(0o700)
    plant(target, name)
    with served(FaultServer(ok_chat())) as server:
        said = command(job(line()), "--base-url", server.url)
        assert (said.code, server.requests) == (2, []), said
    assert target.read_text() == "precious\n"


@pytest.mark.parametrize("name", ["summary.json", "summary.json.partial", "checkpoint", "checkpoint.partial"])
def test_g20_nor_are_the_small_files(command: Command, tmp_path: Path, name: str) -> None:
    target = tmp_path / "home" / "precious"
    target.write_text("precious\n")
    Path("a.run").mkdir(0o700)
    (Path("a.run") / name).symlink_to(target)
    with served(FaultServer(ok_chat())) as server:
        assert command(job(line()), "--base-url", server.url).code == 0
    assert target.read_text() == "precious\n"


# G21, G22


def test_g21_g22_what_a_body_points_to_is_neither_fetched_nor_opened(command: Command, tmp_path: Path) -> None:
    (tmp_path / "local.png").write_text("local secret")
    with served(FaultServer(ok_chat())) as server, served(FaultServer(ok_chat())) as evil:
        parts = [
            *({"type": "image_url", "image_url": {"url": url}} for url in (f"{evil.url}/x.png", f"file://{tmp_path}/local.png")),
            {"type": "text", "text": f"@{tmp_path}/local.png {{{{ include 'local.png' }}}} <<<local.png"},
        ]
        body = BODY | {"messages": [{"role": "user", "content": parts}]}
        assert command(job(line(body=body)), "--base-url", server.url).code == 0
        assert evil.connections == 0
        assert server.requests[0].json()["messages"] == body["messages"]
        assert b"local secret" not in server.requests[0].body


# G23, G24


def test_g23_cookies_stay_with_nobody(command: Command) -> None:
    with served(FaultServer(json_reply(200, chat(), {"Set-Cookie": "session=1; Path=/"}))) as server:
        assert command(job(*map(line, range(5))), "--base-url", server.url.replace("127.0.0.1", "localhost"), "-c", "1").code == 0
        assert all("Cookie" not in seen.headers for seen in server.requests)


@pytest.mark.parametrize(
    "flood",
    [
        [("Set-Cookie", f"c{n}={n}") for n in range(5000)],
        [("X-Bomb", "x" * 500_000)],
        [(f"X-{n}", "x") for n in range(5000)],
    ],
    ids=["cookies", "long", "many"],
)
def test_g24_a_flood_of_headers_is_no_answer(command: Command, flood: list[tuple[str, str]]) -> None:
    with served(FaultServer(head(200, [*flood, ("Content-Length", "2")]) + b"{}")) as server:
        said = command(job(line()), "--base-url", server.url, "--max-attempts", "2", "--max-outage", "3s")
    assert said.code in (1, 3)
    assert Path("a.results.jsonl").read_bytes() == b""


# G25, G27


def test_g25_a_server_that_always_fails_costs_a_counted_number_of_calls(command: Command) -> None:
    with served(FaultServer(json_reply(500, {"error": {"message": "no"}}, {"Retry-After": "0"}))) as server:
        assert command(job(line(1), line(2)), "--base-url", server.url, "--max-attempts", "3").code == 1
        assert len(server.requests) == 6


def test_g25_the_same_id_twice_is_never_sent(command: Command) -> None:
    with served(FaultServer(ok_chat())) as server:
        assert command(job(line(1), line(1)), "--base-url", server.url).code == 2
        assert server.requests == []


@pytest.mark.parametrize("wait", ["1e9", "1000000000", "Fri, 01 Jan 2100 00:00:00 GMT", "901"])
def test_g27_no_server_makes_us_wait_for_ever(command: Command, wait: str) -> None:
    with served(FaultServer(json_reply(429, {"error": {"message": "later"}}, {"Retry-After": wait}))) as server:
        said = command(job(line()), "--base-url", server.url, "--max-attempts", "2")
        assert len(server.requests) <= 6
    assert said.code in (1, 3)


def test_g27_nor_ask_for_ever(command: Command) -> None:
    again = {"x-should-retry": "true", "Retry-After": "0"}
    with served(FaultServer(json_reply(400, {"error": {"message": "again!"}}, again))) as server:
        command(job(line()), "--base-url", server.url, "--max-attempts", "2")
        assert len(server.requests) <= 6


# G26


def test_g26_few_dependencies_and_no_known_hole() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=\[;~! ]", each)[0] for each in project["dependencies"]}
    assert names <= {"aiohttp", "aiolimiter", "msgspec", "orjson", "tqdm", "uvloop"}
    assert "aiohttp>=3.14.3" in project["dependencies"]


# G28


def test_g28_nothing_listens_while_a_run_goes_on(tmp_path: Path) -> None:
    asked = []

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.append(listening(process.pid))
        await peer.send(ok_chat())

    with served(FaultServer(script)) as server:
        words = [sys.executable, "-m", "batchrunner", job(line()), "--base-url", server.url]
        process = subprocess.Popen(words, env=environment(HOME=str(tmp_path)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert asked == [[]]


def listening(pid: int) -> Sequence[str]:
    """The TCP sockets of a process that listen."""
    own = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]


# Anything else that a hostile line may try.


def test_no_line_of_the_matrix_raises() -> None:
    for url in attacks(1):
        for format_ in ("openai", "cookbook"):
            raw = json.dumps(line(url=url)).encode()
            try:
                item = parse(raw, 1, ["http://127.0.0.1:2"], dialect=Dialect(format_, url))  # type: ignore[arg-type]
            except (BatchError, UsageError):
                pytest.fail("a line is data")
            assert not isinstance(item, Result) or item.kind is Kind.INVALID
