"""Images shrunk, prompts cut: only ever smaller, nothing else changed, and said in the record."""

import base64
import io
import json
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner import Kind
from batchrunner.core.cutting import MARK
from batchrunner.core.model import Request, Result, Slimmed
from batchrunner.errors import UsageError
from batchrunner.formats import parse
from batchrunner.images import pillow, shrink
from batchrunner.settings import Settings
from batchrunner.slimming import Slimming, slim, slimmer_of
from tests.crash import served
from tests.server import FaultServer, Peer, json_reply
from tests.server import chat as answer

Image = pytest.importorskip("PIL.Image")
SMALL = Slimming(max_image_px=64)


def picture(size: tuple[int, int] = (400, 200), form: str = "JPEG", mode: str = "RGB", **options: Any) -> str:
    image = Image.effect_mandelbrot(size, (-2, -1, 1, 1), 60).convert(mode)
    target = io.BytesIO()
    image.save(target, form, **options)
    return base64.b64encode(target.getvalue()).decode()


def opened(encoded: str) -> Any:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def asking(*parts: dict[str, Any], url: str = "/v1/chat/completions", field: str = "messages", **body: Any) -> Request:
    turns = [{"role": "user", "content": list(parts)}]
    line = {"custom_id": "a", "method": "POST", "url": url, "body": {"model": "m", field: turns, **body}}
    request = parse(json.dumps(line).encode(), 1)
    assert isinstance(request, Request)
    return request


def chat(encoded: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}", "detail": "low"}}


def test_off_it_is_not_there() -> None:
    assert slimmer_of(Settings().slimming) is None


@pytest.mark.parametrize(
    ("form", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB")],
)
def test_an_image_keeps_its_form_and_shape(form: str, mode: str) -> None:
    smaller = opened(shrink(picture(form=form, mode=mode), 100, 85))
    assert (smaller.format, smaller.size) == (form, (100, 50))


def test_a_photo_stands_upright_and_tells_nothing_of_its_camera() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010F] = "Camera"
    smaller = opened(shrink(picture(exif=exif), 100, 85))
    assert smaller.size == (50, 100)
    assert not smaller.getexif()


@pytest.mark.parametrize(
    "encoded",
    [
        picture((64, 64)),
        picture((400, 200), "GIF", "P"),
        picture((400, 200), "BMP"),
        base64.b64encode(b"no image at all").decode(),
        picture()[:300],
        "§§ not base64",
        "",
    ],
    ids=["small", "gif", "bmp", "text", "torn", "odd", "empty"],
)
def test_what_is_small_moves_or_cannot_be_read_stays(encoded: str) -> None:
    assert shrink(encoded, 64, 85) == ""


def test_what_would_grow_stays() -> None:
    blank = io.BytesIO()
    Image.new("1", (65, 1)).save(blank, "PNG", optimize=True)
    encoded = base64.b64encode(blank.getvalue()).decode()
    smaller = shrink(encoded, 64, 85)
    assert smaller == "" or len(smaller) < len(encoded)


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400 * 200 // 2 - 1)
    result = slim(asking(chat(picture())), SMALL)
    assert isinstance(result, Result)
    assert (result.kind, result.id) == (Kind.INVALID, "a")


@pytest.mark.parametrize(
    ("part", "url", "field", "where"),
    [
        (chat, "/v1/chat/completions", "messages", lambda part: part["image_url"]["url"].partition(",")[2]),
        (
            lambda encoded: {"type": "input_image", "image_url": f"data:image/png;base64,{encoded}"},
            "/v1/responses",
            "input",
            lambda part: part["image_url"].partition(",")[2],
        ),
        (
            lambda encoded: {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": encoded}},
            "/v1/messages",
            "messages",
            lambda part: part["source"]["data"],
        ),
    ],
    ids=["chat", "responses", "messages"],
)
def test_images_are_found_where_each_route_keeps_them(part: Any, url: str, field: str, where: Any) -> None:
    text = {"type": "text", "text": f"data:image/png;base64,{picture()}"}
    request = asking(text, part(picture()), url=url, field=field, seed=12345678901234567890123, max_tokens=5)
    smaller = slim(request, SMALL)
    assert isinstance(smaller, Request)
    found = json.loads(smaller.body)[field][0]["content"]
    assert opened(where(found[1])).size == (64, 32)
    assert found[0] == text, "a text is no image, whatever it holds"
    assert b"12345678901234567890123" in smaller.body, "the other fields keep their bytes"
    assert (smaller.id, smaller.digest, smaller.line) == (request.id, request.digest, request.line)
    assert smaller.slimmed == Slimmed(1, len(picture()), len(where(found[1])))
    assert slim(smaller, SMALL) is smaller, "once is enough"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/base64.jpg"}},
        {"type": "image_url", "image_url": "data:image/svg+xml;base64,AAAA"},
        {"type": "image_url", "image_url": None, "x": "base64"},
        {"type": "image_url", "x": "base64"},
        {"type": "image", "source": {"type": "url", "url": "file:///etc/hostname", "x": "base64"}},
        {"type": "image", "source": {"type": "base64", "data": 3}},
    ],
)
def test_nothing_is_fetched_and_nothing_odd_is_touched(part: dict[str, Any]) -> None:
    request = asking(part)
    assert slim(request, SMALL) is request


# ---- prompts ----


def long(overflow: Any, most: int = 60, **body: Any) -> Request | Result:
    request = asking({"type": "text", "text": "word " * 400}, **body)
    return slim(request, Slimming(max_prompt_tokens=most, overflow=overflow))


def test_a_prompt_that_is_too_long_fails_without_being_sent() -> None:
    result = long("fail")
    assert isinstance(result, Result)
    assert result.kind is Kind.CONTEXT
    assert result.error
    assert "at most 60" in result.error.message


@pytest.mark.parametrize("overflow", ["truncate-head", "truncate-middle"])
def test_or_is_cut_to_what_is_wanted(overflow: str) -> None:
    request = long(overflow)
    assert isinstance(request, Request)
    assert request.prompt_tokens <= 60
    assert request.slimmed
    assert 400 < request.slimmed.tokens_cut < 520
    [part] = json.loads(request.body)["messages"][0]["content"]
    assert part["text"].startswith(MARK) == (overflow == "truncate-head")
    assert part["text"].endswith("word ")


def test_a_system_prompt_is_kept_or_the_line_fails() -> None:
    system = {"role": "system", "content": "s" * 400}
    line = {"url": "/v1/chat/completions", "body": {"messages": [system, {"role": "user", "content": "u" * 4000}]}}
    request = parse(json.dumps(line).encode(), 1)
    assert isinstance(request, Request)
    made = slim(request, Slimming(max_prompt_tokens=200, overflow="truncate-middle"))
    assert isinstance(made, Request)
    assert json.loads(made.body)["messages"][0] == system
    failed = slim(request, Slimming(max_prompt_tokens=100, overflow="truncate-middle"))
    assert isinstance(failed, Result)
    assert failed.error
    assert "--overflow" not in failed.error.hint  # it was given, and is not enough


def test_an_image_counts_as_an_image_and_not_as_its_bytes() -> None:
    request = asking(chat(picture((1200, 900))), {"type": "text", "text": "hi"})
    assert request.prompt_tokens > 2000
    assert slim(request, Slimming(max_prompt_tokens=900)) is request
    assert isinstance(slim(request, Slimming(max_prompt_tokens=700)), Result)


def test_inputs_of_an_embedding_have_a_length_each() -> None:
    line = {"url": "/v1/embeddings", "body": {"model": "m", "input": ["short"] * 100 + ["x" * 4000]}}
    request = parse(json.dumps(line).encode(), 1)
    assert isinstance(request, Request)
    made = slim(request, Slimming(max_prompt_tokens=100, overflow="truncate-middle"))
    assert isinstance(made, Request)
    texts = json.loads(made.body)["input"]
    assert texts[:100] == ["short"] * 100
    assert len(texts[100].encode()) <= 400


@pytest.mark.parametrize("body", [{"messages": 1}, {"messages": []}, {}, {"messages": [None, 3, {"content": {"type": "text"}}]}])
def test_odd_bodies_are_left_to_the_endpoint(body: dict[str, Any]) -> None:
    raw = json.dumps({**body, "pad": "base64" + "x" * 1000}).encode()
    request = Request(line=1, id="a", digest="d", route=batchrunner.core.model.Route.CHAT, path="/", body=raw)
    assert slim(request, SMALL) is request


# ---- whole runs ----


async def test_a_run_records_what_was_changed_and_a_413_is_answered_smaller(tmp_path: Path) -> None:
    sizes: list[tuple[int, int]] = []

    async def script(peer: Peer) -> None:
        while True:
            body = (await peer.request()).json()
            size = opened(body["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2]).size
            sizes.append(size)
            refused = {"error": {"message": "too large", "type": "invalid_request_error"}}
            await peer.send(json_reply(200, answer(text="seen")) if max(size) <= 100 else json_reply(413, refused))

    job = tmp_path / "a.jsonl"
    line = {"custom_id": "a", "url": "/v1/chat/completions", "body": json.loads(asking(chat(picture())).body)}
    job.write_text(json.dumps(line) + "\n")
    with served(FaultServer(script)) as server:
        report = await batchrunner.run(job, base_url=server.url, max_image_px=200)
        assert (report.ok, sizes) == (True, [(200, 100), (100, 50)])
        record = json.loads((tmp_path / "a.results.jsonl").read_text())
        assert record["batchrunner"]["slimmed"]["images"] == 2
        again = await batchrunner.run(job, base_url=server.url, max_image_px=200)
        assert again.summary.resumed == 1, "the digest is that of the line"
        job.write_text(json.dumps({**line, "custom_id": "b"}) + "\n")
        report = await batchrunner.run(job, base_url=server.url, max_image_px=300)
        assert (report.failed, sizes[2:]) == (1, [(300, 150), (150, 75)]), "once more, and no more"
    assert json.loads((tmp_path / "a.errors.jsonl").read_text())["batchrunner"]["slimmed"]["images"] == 2


async def test_blocks_come_in_order_and_rows_that_come_late_are_not_waited_for() -> None:
    slimmer = slimmer_of(Slimming(max_image_px=64, max_prompt_tokens=50))
    assert slimmer
    first, second = asking(chat(picture())), asking({"type": "text", "text": "x" * 1000})

    async def blocks() -> AsyncIterator[list[Request | Result]]:
        yield [first, second, asking({"type": "text", "text": "hi"})]
        raise AssertionError("not asked for yet")

    found = await anext(slimmer.blocks(blocks()))
    slimmer.close()
    assert [type(item) for item in found] == [Result, Result, Request], "an image alone has more tokens than 50"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batchrunner-slim") and thread.daemon]


async def test_the_options_reach_the_wire_from_the_library() -> None:
    row = batchrunner.chat("word " * 500, model="m", id="a")
    [result] = await batchrunner.gather([row], base_url="simulated", max_prompt_tokens=50, overflow="truncate-head")
    assert result.ok
    assert result.request.slimmed
    assert result.request.slimmed.tokens_cut > 500
    [result] = await batchrunner.gather([row], base_url="simulated", max_prompt_tokens=50)
    assert (result.kind, result.attempts) == (Kind.CONTEXT, 0)


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow.cache_clear()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match="E206") as caught:
        slimmer_of(SMALL)
    assert "batchrunner[images]" in caught.value.hint
    assert slimmer_of(Slimming(max_prompt_tokens=5)), "cutting prompts needs none"
