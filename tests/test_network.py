"""Proxies, authorities, names and descriptors: what is settled before the first request."""

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchrunner import network
from batchrunner.core.limit import Concurrency
from batchrunner.errors import UsageError
from batchrunner.network import bypassed, fitted, proxy_for, proxy_secrets, raise_descriptors, trust
from tests.server import FaultServer, Peer, ok_chat

CHAT = {"url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}


# Proxies.


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://a.example/v1", {}, ""),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ("https://a.example/v1", {"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, "http://low:1"),
        ("https://a.example/v1", {"HTTP_PROXY": "http://p:3128"}, ""),
        ("https://a.example/v1", {"ALL_PROXY": "http://all:1"}, "http://all:1"),
        ("https://a.example/v1", {"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a.example/v1", {"HTTPS_PROXY": "p:3128"}, "http://p:3128"),
        ("https://a.example/v1", {"HTTPS_PROXY": " "}, ""),
        ("http://a.example/v1", {"HTTP_PROXY": "http://p:3128"}, "http://p:3128"),
        ("http://a.example/v1", {"HTTP_PROXY": "http://evil:1", "REQUEST_METHOD": "POST"}, ""),
        ("http://a.example/v1", {"http_proxy": "http://p:1", "REQUEST_METHOD": "POST"}, "http://p:1"),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example"}, ""),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "no_proxy": "b.example,.a.example"}, ""),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "xa.example"}, "http://p:1"),
        ("http://localhost:8000", {"HTTP_PROXY": "http://p:1"}, ""),
        ("http://127.0.0.1:8000", {"ALL_PROXY": "http://p:1"}, ""),
        ("http://[::1]:8000", {"ALL_PROXY": "http://p:1"}, ""),
    ],
)
def test_the_environment_names_a_proxy(url: str, environ: dict[str, str], proxy: str) -> None:
    assert proxy_for(url, "", environ) == proxy


def test_the_users_own_word_goes_first() -> None:
    environ = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}
    assert proxy_for("https://a.example", "http://mine:1", environ) == "http://mine:1"
    assert proxy_for("http://localhost:8000", "http://mine:1", environ) == "http://mine:1"
    assert proxy_for("https://a.example", "none", {"HTTPS_PROXY": "http://p:1"}) == ""


@pytest.mark.parametrize(
    ("exceptions", "host", "port", "fits"),
    [
        ("", "a.example", 443, False),
        ("*", "a.example", 443, True),
        (" , a.example ,", "a.example", 443, True),
        ("A.Example", "a.example", 443, True),
        (".a.example", "a.example", 443, True),
        ("*.a.example", "x.a.example", 443, True),
        ("a.example", "xa.example", 443, False),
        ("a.example:8443", "a.example", 443, False),
        ("a.example:443", "x.a.example", 443, True),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("10.1.2.3:80", "10.1.2.3", 443, False),
        ("fd00::/8", "fd00::1", 443, True),
        ("[fd00::1]:443", "fd00::1", 443, True),
        ("[fd00::1]:80", "fd00::1", 443, False),
        ("fd00::1", "fd00::1", 443, True),
        (".", "a.example", 443, False),
    ],
)
def test_what_no_proxy_excepts(exceptions: str, host: str, port: int, fits: bool) -> None:
    assert bypassed(host, port, exceptions) is fits


@pytest.mark.parametrize("proxy", ["nope", "socks5://p:1080", "ftp://p", "http://", "socks5h://u:secret-pass@p:1"])
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(proxy: str) -> None:
    with pytest.raises(UsageError) as refused:
        proxy_for("https://a.example", "", {"ALL_PROXY": proxy})
    assert refused.value.code == "E002"
    assert "ALL_PROXY" in refused.value.message
    assert "secret-pass" not in str(refused.value)


def test_g9_a_proxys_password_is_a_secret_in_every_form() -> None:
    secrets = proxy_secrets("http://me:p%40ss-0123@p:1")
    assert {secret.reveal() for secret in secrets} == {"p%40ss-0123", "p@ss-0123", "bWU6cEBzcy0wMTIz"}
    assert proxy_secrets("http://p:1") == proxy_secrets("") == ()


# Authorities.


def test_certificates_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    for bundle, environ, word in (
        ("/no/such.pem", {}, "/no/such.pem"),
        (__file__, {}, "test_network.py"),
        ("", {"SSL_CERT_FILE": "/no/such.pem"}, "SSL_CERT_FILE"),
        ("", {"SSL_CERT_DIR": "/no/such"}, "SSL_CERT_DIR"),
    ):
        with pytest.raises(UsageError) as refused:
            trust(bundle, environ)
        assert refused.value.code == "E002"
        assert word in refused.value.message


def test_without_a_word_the_systems_authorities_count() -> None:
    assert trust("", {}) is True
    assert trust("", {"SSL_CERT_FILE": ""}) is True


# Names.


async def test_a_name_is_resolved_into_every_address() -> None:
    found = await network.Names().resolve("localhost", 80, socket.AF_UNSPEC)
    assert {(each["host"], each["port"]) for each in found} <= {("127.0.0.1", 80), ("::1", 80)}
    assert found
    with pytest.raises(OSError, match=r".+"):
        await network.Names().resolve("no.such.name.invalid", 80)


async def test_a2_a_lookup_that_hangs_is_given_up_and_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()
    real = socket.getaddrinfo
    monkeypatch.setattr(network, "LOOKUP", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hangs.wait() and [])
    with pytest.raises(socket.gaierror):
        await network.Names().resolve("slow.example", 80)
    monkeypatch.setattr(network, "LOOKUP", 30.0)
    monkeypatch.setattr(socket, "getaddrinfo", real)
    assert await network.Names().resolve("localhost", 80)
    hangs.set()


# Descriptors.


@contextmanager
def limited(soft: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_f8_concurrency_fits_the_open_files() -> None:
    with limited(164):
        assert fitted(Concurrency(concurrency=100), 1) == (Concurrency(concurrency=100), "")
        assert fitted(Concurrency(max_concurrency=50), 2) == (Concurrency(max_concurrency=50), "")
        lowered, note = fitted(Concurrency(), 2)
        assert lowered.max_concurrency == 50
        assert "50 requests" in note
        assert "164 open files" in note
        with pytest.raises(UsageError) as refused:
            fitted(Concurrency(concurrency=101), 1)
    assert refused.value.code == "E002"
    assert "ulimit -n 165" in refused.value.hint
    assert "-c 100" in refused.value.hint


@pytest.mark.parametrize(("files", "most"), [(128, "64 requests"), (64, "32 requests"), (40, "8 requests"), (20, "1 request")])
def test_f8_of_few_open_files_most_are_for_connections(files: int, most: str) -> None:
    with limited(files):
        lowered, note = fitted(Concurrency(), 1)
    assert note.startswith(f"at most {most} in flight: ")
    assert lowered.max_concurrency == int(most.split()[0])


def test_f8_the_soft_limit_is_raised_to_the_hard_one() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with limited(128):
        raise_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, network.MOST)


# The whole command.


def command(tmp_path: Path, *options: str, lines: int = 1, prelude: str = "", environ: dict[str, str] | None = None) -> Any:
    """The real command in a process of its own, after `prelude`."""
    jobs = tmp_path / "input.jsonl"
    jobs.write_text("".join(json.dumps(CHAT | {"custom_id": f"r-{n}"}) + "\n" for n in range(lines)))
    code = f"import sys; sys.argv[0] = 'batchrunner'\n{prelude}\nfrom batchrunner.cli import main\nsys.exit(main())"
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(jobs), *options),
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(Path(__file__).parent.parent), **(environ or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    out, err = await process.communicate()
    return process.returncode, (err + out).decode()


OCCUPY = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(100)]
"""


async def test_f8_too_few_descriptors_lower_concurrency_and_blame_nobody(tmp_path: Path) -> None:
    """96 requests may be in flight by the limit; a hundred descriptors are taken already, so that far fewer can be."""
    async with FaultServer(ok_chat()) as server:
        code, said = await ended(
            await command(tmp_path, "--base-url", server.url, "-c", "96", "--json", lines=400, prelude=OCCUPY)
        )
        summary = json.loads(said.splitlines()[-1])
        assert (code, summary["succeeded"], summary["failed"]) == (0, 400, 0), said
        assert server.connections < 60


async def test_f8_a_limit_that_cannot_be_held_is_refused(tmp_path: Path) -> None:
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))"
    code, said = await ended(await command(tmp_path, "--base-url", "http://127.0.0.1:9", "-c", "500", prelude=prelude))
    assert code == 2
    assert "160" in said
    assert "ulimit -n" in said


async def test_f8_auto_is_lowered_with_a_word(tmp_path: Path) -> None:
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))"
    async with FaultServer(ok_chat()) as server:
        code, said = await ended(await command(tmp_path, "--base-url", server.url, "--display", "plain", prelude=prelude))
    assert code == 0
    assert "at most 96 requests in flight" in said


HANG = """
import socket, threading
def hang(*_, **__):
    sys.stderr.write("looking up\\n"); sys.stderr.flush()
    threading.Event().wait()
socket.getaddrinfo = hang
"""


async def test_a2_f20_a_hung_lookup_does_not_delay_the_exit(tmp_path: Path) -> None:
    process = await command(
        tmp_path, "--base-url", "http://slow.example:8000", "--grace", "100ms", "--connect-timeout", "100s", prelude=HANG
    )
    assert process.stderr
    while b"looking up" not in (line := await process.stderr.readline()):
        assert line, "it ended before it looked up the name"
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await process.wait() == 143
    await process.communicate()


async def test_a_proxy_of_the_environment_is_used_and_netrc_is_not(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.test login me password netrc-password\n")

    async def script(peer: Peer) -> None:
        seen = await peer.request()
        assert seen.path == "http://api.test/v1/chat/completions"
        assert "netrc" not in str(seen.headers)
        await peer.send(ok_chat())

    async with FaultServer(script) as proxy:
        environ = {"HTTP_PROXY": proxy.url, "HOME": str(tmp_path)}
        code, said = await ended(await command(tmp_path, "--base-url", "http://api.test", environ=environ))
        assert code == 0, said
        assert proxy.connections == 1


def test_ssl_cert_file_is_believed(tmp_path: Path) -> None:
    """The command trusts what SSL_CERT_FILE names, and without it nobody of the kind."""
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost")
    subject = ("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(pem))
    subprocess.run([*made, *subject], check=True, capture_output=True)

    async def case() -> None:
        import ssl

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pem, key)
        async with FaultServer(ok_chat(), tls=tls, host="localhost") as server:
            good, said = await ended(await command(tmp_path, "--base-url", server.url, environ={"SSL_CERT_FILE": str(pem)}))
            assert good == 0, said
            named, _ = await ended(await command(tmp_path, "--base-url", server.url, "--fresh", "--ca-bundle", str(pem)))
            assert named == 0
            bad, said = await ended(await command(tmp_path, "--base-url", server.url, "--fresh"))
            assert bad == 3
            assert "certificate" in said

    asyncio.run(case())
