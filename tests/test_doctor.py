"""The doctor: each illness is told from the others, and says what to type next."""

import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from batchrunner import doctor
from batchrunner.origins import resolve
from batchrunner.report.visit import Visit, told
from tests.server import FaultServer, Peer, chat, json_reply, reply, sse

MODELS = json_reply(200, {"object": "list", "data": [{"id": "m-1"}, {"id": "m-2"}]})
LIMITS = {"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "599"}
MISSING = json_reply(404, {"error": {"message": "not found"}})
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}
STREAM = sse(
    [
        CHUNK | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "ok"}}]},
        CHUNK | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        CHUNK | {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
        "[DONE]",
    ]
)


def api(
    models: bytes = MODELS, answer: bytes = json_reply(200, chat(model="m-1"), LIMITS), stream: bytes = STREAM, root: str = "/v1"
) -> Callable[[Peer], Awaitable[None]]:
    """A server that knows two paths below its root."""

    async def script(peer: Peer) -> None:
        while True:
            seen = await peer.request()
            known = {f"{root}/models": models, f"{root}/chat/completions": answer}
            said = known.get(seen.path, MISSING)
            await peer.send(stream if seen.body and seen.json().get("stream") else said)

    return script


async def visited(url: str, environ: Mapping[str, str] = {}, **options: Any) -> Visit:
    settings = resolve({"base_url": url, "connect_timeout": "2s", **options}, {}, Path("/nowhere")).settings
    (visit,) = await doctor.examine(settings, environ)
    return visit


def states(visit: Visit) -> dict[str, str]:
    return {step.name: step.state for step in visit.steps}


async def test_all_is_well() -> None:
    async with FaultServer(api()) as server:
        visit = await visited(f"{server.url}/v1")
    assert set(states(visit).values()) == {"ok"}
    assert list(states(visit)) == ["address", "name", "TCP", "models", "answer", "stream", "usage", "limits"]
    assert visit.exit_code == 0
    assert "x-ratelimit-limit-requests 600" in visit.steps[-1].said
    assert "m-1, m-2" in told([visit])
    assert told([visit]).endswith("It works.")
    assert [seen.path for seen in server.requests] == ["/v1/models", *["/v1/chat/completions"] * 2]
    assert server.requests[1].json()["model"] == "m-1"


async def test_the_embedded_endpoint_is_well() -> None:
    visit = await visited("simulated")
    assert visit.exit_code == 0
    assert states(visit)["stream"] == "ok"
    assert "simulated" in visit.steps[0].said


async def test_a_dead_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused for as long as we hold it
        visit = await visited(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert states(visit) == {"address": "ok", "name": "ok", "TCP": "fail"}
    assert "refused" in visit.steps[-1].said
    assert "start the server" in visit.steps[-1].remedy
    assert visit.exit_code == 1


async def test_a_name_that_does_not_exist() -> None:
    visit = await visited("http://nowhere.invalid/v1")
    assert states(visit) == {"address": "ok", "name": "fail"}
    assert "spelling" in visit.steps[-1].remedy


@pytest.mark.parametrize(
    ("environ", "remedy"), [({}, "no key was sent: export OPENAI_API_KEY"), ({"K": "sk-wrong-1234567"}, "check the key")]
)
async def test_a_wrong_key(environ: dict[str, str], remedy: str) -> None:
    refused = json_reply(401, {"error": {"message": "Incorrect API key: sk-wrong-1234567", "code": "invalid_api_key"}})
    async with FaultServer(api(models=refused, answer=refused)) as server:
        visit = await visited(f"{server.url}/v1", environ, **({"api_key_env": "K"} if environ else {}))
    assert states(visit)["models"] == "fail"
    assert "401" in visit.steps[-1].said
    assert remedy in visit.steps[-1].remedy
    assert "sk-wrong-1234567" not in told([visit]) or not environ
    assert visit.exit_code == 1


async def test_a_wrong_path_names_the_right_one() -> None:
    async with FaultServer(api()) as server:
        visit = await visited(f"{server.url}/api")
        assert states(visit)["models"] == "fail"
        assert visit.steps[-1].remedy == f"--base-url {server.url}/v1"


async def test_a_wrong_path_where_no_right_one_is_found() -> None:
    async with FaultServer(MISSING) as server:
        visit = await visited(f"{server.url}/v1", model="m")
    assert states(visit) == {"address": "ok", "name": "ok", "TCP": "ok", "models": "warn", "answer": "fail"}
    assert "404" in visit.steps[-1].said
    assert "--base-url" in visit.steps[-1].remedy


async def test_a_server_without_a_list_of_models_is_asked_for_the_model_named() -> None:
    async with FaultServer(api(models=MISSING)) as server:
        visit = await visited(f"{server.url}/v1", model="mine")
        assert (states(visit)["models"], states(visit)["answer"]) == ("warn", "ok")
        unnamed = await visited(f"{server.url}/v1")
    assert unnamed.steps[-1].name == "answer"
    assert "--model NAME" in unnamed.steps[-1].remedy
    assert told([unnamed]).endswith("whether it answers is not known: see the arrow.")
    assert unnamed.exit_code == 1, "nobody has answered"


async def test_a_model_that_is_not_there() -> None:
    unknown = json_reply(404, {"error": {"message": "The model `nope` does not exist", "code": "model_not_found"}})
    async with FaultServer(api(answer=unknown)) as server:
        visit = await visited(f"{server.url}/v1", model="nope")
    assert (states(visit)["models"], states(visit)["answer"]) == ("warn", "fail")
    assert "--model m-1" in visit.steps[-2].remedy


async def test_a_login_page() -> None:
    page = reply(b"<!DOCTYPE html><html><body>Sign in</body></html>", 200, {"Content-Type": "text/html"})
    async with FaultServer(page) as server:
        visit = await visited(f"{server.url}/v1")
    assert states(visit)["models"] == "fail"
    assert "a page for people" in visit.steps[-1].remedy
    assert "Sign in" not in visit.steps[-1].remedy


async def test_a_stream_that_is_cut_and_tokens_that_are_not_counted() -> None:
    cut = sse([CHUNK | {"choices": [{"index": 0, "delta": {"content": "o"}}]}])
    async with FaultServer(api(stream=cut)) as server:
        visit = await visited(f"{server.url}/v1")
    assert (states(visit)["answer"], states(visit)["stream"]) == ("ok", "fail")
    uncounted = json_reply(200, {key: value for key, value in chat().items() if key != "usage"})
    async with FaultServer(api(answer=uncounted)) as server:
        visit = await visited(f"{server.url}/v1")
    assert states(visit)["usage"] == "warn"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path), "-days", "3")
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    out = path.with_suffix(".crt")
    subprocess.run(["openssl", "req", "-x509", *curve, *subject, "-out", str(out)], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + out.read_bytes())
    return path


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_tls_trusted_and_not(certificate: Path) -> None:
    async with FaultServer(api(), tls=serving(certificate), host="localhost") as server:
        visit = await visited(f"{server.url}/v1", ca_bundle=str(certificate))
        assert states(visit)["TLS"] == "warn"  # it ends in three days
        assert "days" in visit.steps[3].said
        assert states(visit)["answer"] == "ok"
        visit = await visited(f"{server.url}/v1")
        assert states(visit)["TLS"] == "fail"
        assert "--ca-bundle FILE" in visit.steps[-1].remedy


async def test_tls_and_plain_mixed_up(certificate: Path) -> None:
    async def chatty(peer: Peer) -> None:  # HTTP servers answer what they do not understand
        await peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with FaultServer(chatty) as server:
        visit = await visited(f"https://127.0.0.1:{server.port}/v1")
        assert states(visit)["TLS"] == "fail"
        assert f"--base-url http://127.0.0.1:{server.port}/v1" in visit.steps[-1].remedy
    async with FaultServer(api(), tls=serving(certificate)) as server:
        visit = await visited(f"http://127.0.0.1:{server.port}/v1")
        assert states(visit)["models"] == "fail"
        assert f"--base-url https://127.0.0.1:{server.port}/v1" in visit.steps[-1].remedy


async def test_no_secret_of_the_address_is_shown() -> None:
    async with FaultServer(api()) as server:
        visit = await visited(f"{server.url}/v1?api-key=hush-hush-hush", {}, api_key_env="")
    assert "hush" not in told([visit]) + json.dumps([step.said for step in visit.steps])
