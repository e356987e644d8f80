"""Streams put together: the ordinary body, complete only with its finish marker, whatever else comes."""

import itertools
import json
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.classify import classify
from batchrunner.core.model import Attempt, Deadlines, Kind, Reply, Request, Route
from batchrunner.core.sse import Decoder, ServerEvent
from batchrunner.core.stream import STREAMED, Assembled, Assembler

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"


def sse(*events: Json, named: bool = False) -> bytes:
    """The text of a stream."""
    lines = ((f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n" for event in events)
    return "".join(lines).encode()


def events_of(chunks: Iterable[bytes]) -> list[ServerEvent]:
    decoder = Decoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    last = decoder.finish()
    return [*events, last] if last else events


def assembled(route: Route, text: bytes, choices: int = 1, chunks: Iterable[bytes] | None = None) -> Assembled:
    assembler = Assembler(route, choices)
    for event in events_of([text] if chunks is None else chunks):
        assembler.feed(event)
    return assembler.finish()


def body_of(route: Route, text: bytes, choices: int = 1) -> Json:
    answer = assembled(route, text, choices)
    assert b"\n" not in answer.body
    body: Json = json.loads(answer.body)
    return body


def chunk(*choices: Json, **more: Any) -> Json:
    head = {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "m-1", "system_fingerprint": "fp"}
    return {**head, "choices": list(choices), **more}


def delta(index: int = 0, finish: str | None = None, logprobs: Json | None = None, **said: Any) -> Json:
    return {"index": index, "delta": said, "logprobs": logprobs, "finish_reason": finish}


def text_chunk(index: int, text: str, finish: str | None = None, logprobs: Json | None = None, **more: Any) -> Json:
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
    return {"id": "t-1", "object": "text_completion", "created": 7, "model": "m-1", "choices": [choice], **more}


def chat(*choices: Json, **more: Any) -> Json:
    head = {"id": "c-1", "object": "chat.completion", "created": 7, "model": "m-1", "system_fingerprint": "fp"}
    return {**head, "choices": list(choices), **more}


def choice(index: int = 0, finish: str = "stop", logprobs: Json | None = None, **message: Any) -> Json:
    said = {"role": "assistant", "content": None, **message}
    return {"index": index, "message": said, "logprobs": logprobs, "finish_reason": finish}


def call(index: int, name: str | None = None, arguments: str = "", **more: Any) -> Json:
    named = {} if name is None else {"name": name}
    return {"index": index, "function": {**named, "arguments": arguments}, **more}


def prob(token: str) -> Json:
    return {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": [{"token": token, "logprob": -0.5}]}


START: Json = delta(role="assistant", content="", refusal=None)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}}
TOOL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"city":"Bonn"}'}}

MESSAGE: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
MESSAGE_START = {
    "type": "message_start",
    "message": {**MESSAGE, "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 25, "output_tokens": 1}},
}
MESSAGE_STOP = {"type": "message_stop"}


def opened(index: int, **block: Any) -> Json:
    return {"type": "content_block_start", "index": index, "content_block": block}


def part(index: int, kind: str, **said: Any) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **said}}


def closed(index: int) -> Json:
    return {"type": "content_block_stop", "index": index}


def stopped(reason: str | None = "end_turn", **usage: int) -> Json:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


def message(*content: Json, reason: str = "end_turn", **usage: int) -> Json:
    return {**MESSAGE, "content": list(content), "stop_reason": reason, "stop_sequence": None, "usage": usage}


RESPONSE: Json = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "error": None,
    "model": "m-1",
    "output": [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi\n☃", "annotations": []}]}
    ],
    "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
}
RESPONSE_START = {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", "output": []}}

# name: route, choices, text of the stream, the ordinary body
PAIRS: dict[str, tuple[Route, int, bytes, Json]] = {
    "chat": (
        Route.CHAT,
        1,
        sse(chunk(START), chunk(delta(content="Hel")), chunk(delta(content="lo\n")), chunk(delta(finish="stop"))) + DONE,
        chat(choice(content="Hello\n", refusal=None)),
    ),
    "chat with a usage chunk, padding and a service tier": (
        Route.CHAT,
        1,
        sse(
            chunk(START, usage=None, obfuscation="xx", service_tier="default"),
            chunk(delta(content="Hi"), usage=None, obfuscation="yyy", service_tier="default"),
            chunk(delta(finish="stop"), usage=None, service_tier="default"),
            chunk(usage=USAGE, service_tier="default"),
        )
        + DONE,
        chat(choice(content="Hi", refusal=None), usage=USAGE, service_tier="default"),
    ),
    "chat with usage in every chunk": (
        Route.CHAT,
        1,
        sse(chunk(START, usage={"total_tokens": 3}), chunk(delta(content="Hi"), usage={"total_tokens": 4}))
        + sse(chunk(delta(finish="stop"), usage=USAGE))
        + DONE,
        chat(choice(content="Hi", refusal=None), usage=USAGE),
    ),
    "chat by Groq": (
        Route.CHAT,
        1,
        sse(
            chunk(START, x_groq={"id": "req_1"}),
            chunk(delta(content="Hi")),
            chunk(delta(finish="stop"), x_groq={"id": "req_1", "usage": USAGE}),
        )
        + DONE,
        chat(choice(content="Hi", refusal=None), x_groq={"id": "req_1"}, usage=USAGE),
    ),
    "chat by Azure": (
        Route.CHAT,
        1,
        sse(
            {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
            chunk({**START, "content_filter_results": {}}),
            chunk({**delta(content="Hi"), "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}),
            chunk({**delta(content="!"), "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}),
            chunk({**delta(finish="stop"), "content_filter_results": {}}),
        )
        + DONE,
        chat(
            {**choice(content="Hi!", refusal=None), "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}},
            prompt_filter_results=[{"prompt_index": 0}],
        ),
    ),
    "chat of two choices, out of order": (
        Route.CHAT,
        2,
        sse(
            *(chunk(delta(1, role="assistant", content="")), chunk(delta(1, content="b")), chunk(delta(0, role="assistant"))),
            chunk(delta(1, content="B"), delta(0, content="a")),
            *(chunk(delta(0, content="A")), chunk(delta(1, finish="stop")), chunk(delta(0, finish="length"))),
        )
        + DONE,
        chat(choice(0, "length", content="aA"), choice(1, content="bB")),
    ),
    "chat with tool calls": (
        Route.CHAT,
        1,
        sse(
            chunk(delta(role="assistant", content=None)),
            chunk(delta(tool_calls=[call(0, "find", id="call_1", type="function")])),
            chunk(delta(tool_calls=[call(0, None, '{"city":')])),
            chunk(delta(tool_calls=[call(1, "tell", "{}", id="call_2", type="function"), call(0, None, '"Bonn"}')])),
            chunk(delta(finish="tool_calls")),
        )
        + DONE,
        chat(
            choice(
                finish="tool_calls",
                tool_calls=[TOOL, {"id": "call_2", "type": "function", "function": {"name": "tell", "arguments": "{}"}}],
            )
        ),
    ),
    "chat with text, then a tool call": (
        Route.CHAT,
        1,
        sse(
            chunk(START),
            chunk(delta(content="Let me see")),
            chunk(delta(content=None, tool_calls=[call(0, "find", '{"city":"Bonn"}', id="call_1", type="function")])),
            chunk(delta(finish="tool_calls")),
        ),
        chat(choice(finish="tool_calls", content="Let me see", refusal=None, tool_calls=[TOOL])),
    ),
    "chat with a function call": (
        Route.CHAT,
        1,
        sse(
            chunk(delta(role="assistant", content=None, function_call={"name": "find", "arguments": ""})),
            chunk(delta(function_call={"arguments": '{"a"'})),
            chunk(delta(function_call={"arguments": ":1}"})),
            chunk(delta(finish="function_call")),
        ),
        chat(choice(finish="function_call", function_call={"name": "find", "arguments": '{"a":1}'})),
    ),
    "chat with probabilities": (
        Route.CHAT,
        1,
        sse(
            chunk(delta(role="assistant", content="", logprobs={"content": [], "refusal": None})),
            chunk(delta(content="a", logprobs={"content": [prob("a")], "refusal": None})),
            chunk(delta(content="b", logprobs={"content": [prob("b")], "refusal": None})),
            chunk(delta(finish="stop")),
        )
        + DONE,
        chat(choice(content="ab", logprobs={"content": [prob("a"), prob("b")], "refusal": None})),
    ),
    "chat with probabilities of a refusal": (
        Route.CHAT,
        1,
        sse(
            chunk(START),
            chunk(delta(refusal="No", logprobs={"content": None, "refusal": [prob("No")]})),
            chunk(delta(refusal=".", logprobs={"content": None, "refusal": [prob(".")]})),
            chunk(delta(finish="stop")),
        ),
        chat(choice(content="", refusal="No.", logprobs={"content": None, "refusal": [prob("No"), prob(".")]})),
    ),
    "chat with thoughts": (
        Route.CHAT,
        1,
        sse(
            *(chunk(delta(role="assistant", reasoning_content="Hm")), chunk(delta(reasoning_content=", well", content=None))),
            *(chunk(delta(reasoning="R")), chunk(delta(reasoning="S")), chunk(delta(thinking="T")), chunk(delta(thinking="U"))),
            *(chunk(delta(content="Yes")), chunk(delta(finish="stop"))),
        )
        + DONE,
        chat(choice(content="Yes", reasoning_content="Hm, well", reasoning="RS", thinking="TU")),
    ),
    "chat with reasoning details": (
        Route.CHAT,
        1,
        sse(
            chunk(
                delta(role="assistant", reasoning_details=[{"type": "reasoning.text", "text": "Hm", "index": 0, "format": "x"}])
            ),
            chunk(delta(reasoning_details=[{"type": "reasoning.text", "text": "m", "index": 0, "format": "x"}])),
            chunk(delta(reasoning_details=[{"type": "reasoning.encrypted", "data": "QQ==", "index": 1}])),
            chunk(delta(content="Yes")),
            chunk(delta(finish="stop")),
        ),
        chat(
            choice(
                content="Yes",
                reasoning_details=[
                    {"type": "reasoning.text", "text": "Hmm", "index": 0, "format": "x"},
                    {"type": "reasoning.encrypted", "data": "QQ==", "index": 1},
                ],
            )
        ),
    ),
    "chat by Mistral, thoughts as parts of the content": (
        Route.CHAT,
        1,
        sse(
            chunk(delta(role="assistant", content="")),
            chunk(delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "H"}]}])),
            chunk(delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "m"}]}])),
            *(chunk(delta(content="Ye")), chunk(delta(content="s")), chunk(delta(finish="stop"))),
        ),
        chat(
            choice(
                content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "Yes"}],
            )
        ),
    ),
    "chat with parts that come in lists at once and as text": (
        Route.CHAT,
        1,
        sse(
            chunk(delta(role="assistant", content="a")),
            chunk(delta(content=[{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "u"}}])),
            *(chunk(delta(content="c")), chunk(delta(finish="stop"))),
        ),
        chat(
            choice(
                content=[
                    {"type": "text", "text": "ab"},
                    {"type": "image_url", "image_url": {"url": "u"}},
                    {"type": "text", "text": "c"},
                ],
            )
        ),
    ),
    "chat with sound": (
        Route.CHAT,
        1,
        sse(
            chunk(delta(role="assistant", audio={"id": "audio_1", "transcript": "He"})),
            chunk(delta(audio={"transcript": "llo", "data": "AAAA"})),
            chunk(delta(audio={"data": "BBBB", "expires_at": 9})),
            chunk(delta(finish="stop")),
        ),
        chat(choice(audio={"id": "audio_1", "transcript": "Hello", "data": "AAAABBBB", "expires_at": 9})),
    ),
    "chat with citations": (
        Route.CHAT,
        1,
        sse(
            chunk(delta(role="assistant", annotations=[{"type": "url_citation", "url_citation": {"url": "a"}}])),
            chunk(delta(content="x", annotations=[{"type": "url_citation", "url_citation": {"url": "b"}}])),
            chunk(delta(finish="stop")),
        ),
        chat(
            choice(
                content="x",
                annotations=[
                    {"type": "url_citation", "url_citation": {"url": "a"}},
                    {"type": "url_citation", "url_citation": {"url": "b"}},
                ],
            )
        ),
    ),
    "chat sent whole in one event": (
        Route.CHAT,
        1,
        sse(chat(choice(content="Hi"), usage=USAGE)),
        chat(choice(content="Hi"), usage=USAGE),
    ),
    "completions": (
        Route.COMPLETIONS,
        2,
        sse(text_chunk(0, "Hel"), text_chunk(1, "Wor"), text_chunk(0, "lo"), text_chunk(1, "ld"), text_chunk(0, "", "stop"))
        + sse(text_chunk(1, "!", "length"), {**text_chunk(0, ""), "choices": [], "usage": USAGE})
        + DONE,
        {
            **text_chunk(0, "Hello", "stop"),
            "choices": [*text_chunk(0, "Hello", "stop")["choices"], *text_chunk(1, "World!", "length")["choices"]],
            "usage": USAGE,
        },
    ),
    "completions with probabilities": (
        Route.COMPLETIONS,
        1,
        sse(
            text_chunk(0, "a", None, {"tokens": ["a"], "token_logprobs": [-1.5], "top_logprobs": None, "text_offset": [0]}),
            text_chunk(0, "b", None, {"tokens": ["b"], "token_logprobs": [-2.5], "top_logprobs": None, "text_offset": [1]}),
            text_chunk(0, "", "stop"),
        )
        + DONE,
        text_chunk(
            0, "ab", "stop", {"tokens": ["a", "b"], "token_logprobs": [-1.5, -2.5], "top_logprobs": None, "text_offset": [0, 1]}
        ),
    ),
    "responses": (
        Route.RESPONSES,
        1,
        sse(
            RESPONSE_START,
            {"type": "response.output_text.delta", "delta": "Hi", "output_index": 0},
            {"type": "response.output_text.done", "text": "Hi"},
            {"type": "response.completed", "response": RESPONSE},
            named=True,
        ),
        RESPONSE,
    ),
    "responses cut by the token limit": (
        Route.RESPONSES,
        1,
        sse(
            RESPONSE_START,
            {
                "type": "response.incomplete",
                "response": {**RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            },
        ),
        {**RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
    ),
    "messages": (
        Route.MESSAGES,
        1,
        sse(
            *(MESSAGE_START, opened(0, type="text", text=""), {"type": "ping"}),
            *(part(0, "text_delta", text="Hel"), part(0, "text_delta", text="lo"), closed(0)),
            *(stopped(output_tokens=15), MESSAGE_STOP),
            named=True,
        ),
        message({"type": "text", "text": "Hello"}, input_tokens=25, output_tokens=15),
    ),
    "messages with thoughts and a tool": (
        Route.MESSAGES,
        1,
        sse(
            *(MESSAGE_START, opened(0, type="thinking", thinking="", signature="")),
            *(part(0, "thinking_delta", thinking="Let "), part(0, "thinking_delta", thinking="me see")),
            *(part(0, "signature_delta", signature="EqQB"), closed(0)),
            *(opened(1, type="tool_use", id="toolu_1", name="find", input={}), part(1, "input_json_delta", partial_json="")),
            *(part(1, "input_json_delta", partial_json='{"city": "Bo'), part(1, "input_json_delta", partial_json='nn", "n": 2}')),
            *(closed(1), opened(2, type="tool_use", id="toolu_2", name="now", input={}), closed(2)),
            *(stopped("tool_use", output_tokens=40), MESSAGE_STOP),
            named=True,
        ),
        message(
            {"type": "thinking", "thinking": "Let me see", "signature": "EqQB"},
            {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"city": "Bonn", "n": 2}},
            {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
            reason="tool_use",
            input_tokens=25,
            output_tokens=40,
        ),
    ),
    "messages with citations and a search": (
        Route.MESSAGES,
        1,
        sse(
            *(MESSAGE_START, opened(0, type="web_search_tool_result", tool_use_id="s", content=[{"type": "text", "text": "t"}])),
            *(closed(0), opened(1, type="text", text="", citations=[])),
            *(part(1, "citations_delta", citation={"type": "char_location", "cited_text": "a"}), part(1, "text_delta", text="x")),
            *(part(1, "citations_delta", citation={"type": "char_location", "cited_text": "b"}), closed(1)),
            *({"type": "soon_to_come", "index": 1}, part(1, "note_delta", note="n"), part(1, "note_delta", note="m")),
            *(stopped(output_tokens=5, cache_read_input_tokens=9), stopped(None, output_tokens=7), MESSAGE_STOP),
        ),
        message(
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "text", "text": "t"}]},
            {
                "type": "text",
                "text": "x",
                "citations": [{"type": "char_location", "cited_text": "a"}, {"type": "char_location", "cited_text": "b"}],
                "note": "nm",
            },
            input_tokens=25,
            output_tokens=7,
            cache_read_input_tokens=9,
        ),
    ),
}
pairs = pytest.mark.parametrize("name", PAIRS)


@pairs
def test_the_body_is_the_one_without_a_stream(name: str) -> None:
    route, choices, text, expected = PAIRS[name]
    answer = assembled(route, text, choices)
    assert json.loads(answer.body) == expected
    assert (answer.complete, answer.why, answer.error) == (True, "", b"")
    assert set(answer.flags) <= {"no_done"}


@pairs
def test_the_body_is_an_answer_to_classify(name: str) -> None:
    route, choices, text, _ = PAIRS[name]
    request = Request(line=1, id="r", digest="d", route=route, path="/v1/x", choices=choices)
    attempt = Attempt(request, "e", 1, 0.0, Deadlines(1, 1, 1, 1), stream=True)
    outcome = classify(attempt, Reply(200, {"content-type": "application/json"}, assembled(route, text, choices).body))
    assert outcome.kind is (Kind.POLICY if "refusal" in name else Kind.OK), outcome


@pairs
def test_b12_the_cuts_do_not_matter(name: str) -> None:
    route, choices, text, _ = PAIRS[name]
    whole = assembled(route, text, choices)
    for size in (1, 7, 64):
        assert assembled(route, text, choices, (text[at : at + size] for at in range(0, len(text), size))) == whole
    assert assembled(route, text.replace(b"\n", b"\r\n"), choices) == whole


@pairs
def test_cut_anywhere_it_is_incomplete_until_its_finish_marker(name: str) -> None:
    """The marker of a chat is the last finish_reason, of a message its last event, of a response the terminal one."""
    route, choices, text, _ = PAIRS[name]
    events = events_of([text])
    finish = max((at for at, event in enumerate(events) if b'"finish_reason": "' in event.data), default=len(events) - 1)
    for length in range(len(events) + 1):
        assembler = Assembler(route, choices)
        for event in events[:length]:
            assembler.feed(event)
        assert assembler.finish().complete is (length > finish), f"after {length} of {len(events)} events"
        assert bool(assembler.finish().why) is (length <= finish)


@pairs
def test_a_cut_in_the_midst_of_an_event_never_completes_it(name: str) -> None:
    route, choices, text, _ = PAIRS[name]
    last = text.removesuffix(DONE).rstrip(b"\n").rfind(b"\n\n") + 2
    before = assembled(route, text[:last], choices).complete
    for place in range(last, len(text.removesuffix(DONE).rstrip(b"\n"))):
        assert assembled(route, text[:place], choices).complete is before


_COUNTS = ("usage", "service_tier", "system_fingerprint", "x_groq")  # what may come behind the end of an answer


@pairs
@pytest.mark.parametrize("glue", [b"", b"\n\ndata: [DONE]\n\n"], ids=["cut", "cut-and-done"])
def test_what_is_cut_at_any_byte_and_still_complete_is_the_whole_answer(name: str, glue: bytes) -> None:
    """Promise P3, also of relays that say [DONE] behind whatever they got."""
    route, choices, text, _ = PAIRS[name]
    whole = json.loads(assembled(route, text, choices).body)
    for place in range(0, len(text), 5):
        got = assembled(route, text[:place] + glue, choices)
        if got.complete:
            said = json.loads(got.body)
            assert [each for each in whole if said.get(each) != whole[each] and each not in _COUNTS] == []


INTERJECTIONS = {
    "openai": b'data: {"error":{"message":"x","code":500}}',
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}',
    "words": b"event: error\ndata: upstream died",
    "fastapi": b'data: {"detail":"x"}',
    "bare": b'data: {"code":20015,"message":"busy"}',
    "vllm": b'data: {"object":"error","message":"m","code":50001}',
    "message": b'data: {"message":"out of quota"}',
}


@pairs
@pytest.mark.parametrize("said", INTERJECTIONS)
def test_an_error_anywhere_before_the_end_spoils_the_answer(name: str, said: str) -> None:
    route, choices, text, _ = PAIRS[name]
    parts = [part + b"\n\n" for part in text.split(b"\n\n") if part.strip()]
    for place in range(len(parts)):
        spoiled = b"".join((*parts[:place], INTERJECTIONS[said], b"\n\n", *parts[place:]))
        got = assembled(route, spoiled, choices)
        assert (got.complete, bool(got.error)) == (False, True), f"before event {place}"


HI = sse(chunk(START), chunk(delta(content="Hi")))
END = sse(chunk(delta(finish="stop")))

# row of the fault matrix, stream, and what is said of it: what is missing, flags, a part of the body, a part of the error
FAULTS: dict[str, tuple[Route, int, bytes, str, tuple[str, ...], bytes, bytes]] = {
    "B13 CR and BOM": (Route.CHAT, 1, b"\xef\xbb\xbf" + (HI + END + DONE).replace(b"\n", b"\r"), "", (), b'"Hi"', b""),
    "B14 comments, fields, no space": (
        Route.CHAT,
        1,
        b": ping\n\nid: 7\nretry: 1\nfoo\n" + (HI + END).replace(b"data: ", b"data:") + b"data:[DONE]\n\n",
        "",
        (),
        b'"Hi"',
        b"",
    ),
    "B14 an event over several lines": (Route.CHAT, 1, HI + END.replace(b', "', b',\ndata: "') + DONE, "", (), b'"Hi"', b""),
    "B17 DONE alone": (Route.CHAT, 1, DONE, "no finish_reason for choice 0", (), b"", b""),
    "B17 DONE without finish_reason": (Route.CHAT, 1, HI + DONE, "no finish_reason for choice 0", (), b'"Hi"', b""),
    "B18 no DONE": (Route.CHAT, 1, HI + END, "", ("no_done",), b'"Hi"', b""),
    "B18 no DONE, no blank line": (Route.CHAT, 1, (HI + END).rstrip(b"\n"), "", ("no_done",), b'"Hi"', b""),
    "B19 error, then DONE": (
        Route.CHAT,
        1,
        HI + sse({"error": {"message": "full", "code": 503}}) + DONE,
        "an error came in the stream",
        (),
        b'"Hi"',
        b'{"error":{"message":"full","code":503}}',
    ),
    "B19 error after the finish": (
        Route.CHAT,
        1,
        HI + END + sse({"error": {"message": "late"}}) + sse({"error": {"message": "later"}}),
        "an error came in the stream",
        (),
        b'"stop"',
        b'"late"',
    ),
    "B20 one of two choices": (Route.CHAT, 2, HI + END + DONE, "no finish_reason for choice 1", (), b'"stop"', b""),
    "B20 the first of two choices is missing": (
        Route.COMPLETIONS,
        2,
        sse(text_chunk(1, "x", "stop")) + DONE,
        "no finish_reason for choice 0",
        (),
        b'"x"',
        b"",
    ),
    "B20 more choices than can be told": (
        Route.CHAT,
        0,
        HI + sse(chunk(delta(1, content="b"))) + END + DONE,
        "no finish_reason for choice 1",
        (),
        b'"b"',
        b"",
    ),
    "B22 empty": (Route.CHAT, 1, b"", "no finish_reason for choice 0", (), b"", b""),
    "B22 HTML": (Route.CHAT, 1, b"<html>\n\n<p>data: no</p>\n\n", "no finish_reason for choice 0", (), b"", b""),
    "B23 half surrogates over two deltas": (
        Route.CHAT,
        1,
        HI + sse(chunk(delta(content="@1"))).replace(b"@", b"\\ud83d") + sse(chunk(delta(content="x"))),
        "no finish_reason for choice 0",
        (),
        "Hi�1x".encode(),
        b"",
    ),
    "B24 invalid UTF-8": (
        Route.CHAT,
        1,
        HI + END.replace(b'"delta": {}', b'"delta": {"content": "\xff\xe2\x82"}') + DONE,
        "",
        ("invalid_utf8",),
        "Hi��".encode(),
        b"",
    ),
    "B25 chunks without choices": (
        Route.CHAT,
        1,
        sse(chunk()) + HI + sse(chunk()) + END + sse({"usage": USAGE}) + DONE,
        "",
        (),
        b'"total_tokens":5',
        b"",
    ),
    "B26 bytes after DONE": (Route.CHAT, 1, HI + END + DONE + HI + b"\xff\n\ndata: {\n\n", "", (), b'"content":"Hi"', b""),
    "B28 blank lines first": (Route.CHAT, 1, b"\n\n\r\n\n" + HI + END + DONE, "", (), b'"Hi"', b""),
    "B29 message without message_stop": (
        Route.MESSAGES,
        1,
        sse(MESSAGE_START, opened(0, type="text", text=""), part(0, "text_delta", text="Hi"), closed(0), stopped()),
        "ended without message_stop",
        (),
        b'"Hi"',
        b"",
    ),
    "B29 message without stop_reason": (
        Route.MESSAGES,
        1,
        sse(MESSAGE_START, opened(0, type="text", text="Hi"), stopped(None), MESSAGE_STOP),
        "message_stop without a stop_reason",
        (),
        b'"Hi"',
        b"",
    ),
    "B29 response without terminal event": (
        Route.RESPONSES,
        1,
        sse(RESPONSE_START, {"type": "response.output_text.delta", "delta": "Hi"}),
        "ended without a terminal response event",
        (),
        b"",
        b"",
    ),
    "B29 terminal event without its response": (
        Route.RESPONSES,
        1,
        sse({"type": "response.completed", "response": None}),
        "ended without a terminal response event",
        ("malformed_event",),
        b"",
        b"",
    ),
    "B30 no index": (
        Route.CHAT,
        1,
        sse(chunk({"delta": {"content": "a"}}), chunk({"delta": {"content": "b"}, "finish_reason": "stop"})) + DONE,
        "",
        ("malformed_event",),
        b'"ab"',
        b"",
    ),
    "B30 duplicated index": (
        Route.CHAT,
        1,
        HI + sse(chunk(delta(content="a"), delta(content="b"))) + END + DONE,
        "",
        (),
        b'"Hiab"',
        b"",
    ),
    "B30 a choice nobody asked for": (
        Route.CHAT,
        1,
        HI + sse(chunk(delta(1, content="b", finish="stop"))) + END + DONE,
        "",
        ("malformed_event",),
        b'"b"',
        b"",
    ),
    "B30 a finish_reason that is none": (
        Route.CHAT,
        1,
        HI + END.replace(b'"stop"', b'["stop"]') + DONE,
        "no finish_reason for choice 0",
        ("malformed_event",),
        b'"Hi"',
        b"",
    ),
    "B30 lists where objects are due, and the other way round": (
        Route.CHAT,
        1,
        HI
        + sse(
            chunk([], delta(tool_calls=["x"]), delta(tool_calls=[])),
            chunk({**delta(), "delta": ["x"]}),
            {"choices": {}, "id": []},
        )
        + b'data: "x"\n\ndata: [HEARTBEAT]\n\n'
        + sse(chunk(delta(finish="stop"), usage=["x"]))
        + DONE,
        "",
        ("malformed_event",),
        b'"Hi"',
        b"",
    ),
    "B24 a part that is no JSON": (
        Route.CHAT,
        1,
        HI + b'data: {"choices":[{"index":0,"delta":{"content":" and\n\n' + END + DONE,
        "a part of it could not be read",
        ("malformed_event",),
        b'"Hi"',
        b"",
    ),
    "B24 a torn usage behind the end": (
        Route.CHAT,
        1,
        HI + END + b'data: {"choices":[],"usage":{"prompt_to\n\n' + DONE,
        "",
        ("malformed_event",),
        b'"Hi"',
        b"",
    ),
    "B24 a torn delta of a response that comes whole": (
        Route.RESPONSES,
        1,
        sse(RESPONSE_START)
        + b'data: {"type":"response.output_text.delta","del\n\n'
        + sse({"type": "response.completed", "response": {"id": "resp_1", "status": "completed"}}),
        "",
        ("malformed_event",),
        b'"completed"',
        b"",
    ),
    "B30 absurd index": (
        Route.CHAT,
        1,
        HI + sse(chunk(delta(10**12, content="b")), chunk(delta(-1, content="b"))) + END + DONE,
        "",
        ("malformed_event",),
        b'"Hi"',
        b"",
    ),
    "B30 message begun twice": (
        Route.MESSAGES,
        1,
        sse(MESSAGE_START, {"type": "message_start", "message": {"id": "other"}}, stopped(), MESSAGE_STOP),
        "",
        ("malformed_event",),
        b'"id":"msg_1"',
        b"",
    ),
    "B30 block opened twice, delta before its block": (
        Route.MESSAGES,
        1,
        sse(
            *(MESSAGE_START, MESSAGE_START, part(1, "text_delta", text="b"), opened(0, type="text", text="a")),
            *(opened(0, type="text", text="z"), stopped(), MESSAGE_STOP),
        ),
        "",
        ("malformed_event",),
        b'"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]',
        b"",
    ),
    "a tool's input cut by the token limit": (
        Route.MESSAGES,
        1,
        sse(MESSAGE_START, opened(0, type="tool_use", input={}), part(0, "input_json_delta", partial_json='{"a'))
        + sse(stopped("max_tokens"), MESSAGE_STOP),
        "",
        ("invalid_tool_input",),
        b'{"INVALID_JSON":"{\\"a"}',
        b"",
    ),
}


@pytest.mark.parametrize("row", FAULTS)
def test_fault_matrix(row: str) -> None:
    route, choices, text, why, flags, body, error = FAULTS[row]
    answer = assembled(route, text, choices)
    assert (answer.why, answer.complete, answer.flags) == (why, not why, flags)
    assert body in answer.body
    assert bool(answer.body) is bool(body)
    assert error in answer.error
    assert bool(answer.error) is bool(error)


# What a stream says when it fails, and the ordinary error body made of it.
ERRORS: dict[str, tuple[Route, bytes, Json]] = {
    "an object": (Route.CHAT, b'data: {"error":{"message":"m"}}\n\n', {"error": {"message": "m"}}),
    "a text": (Route.CHAT, b'data: {"error":"m","error_type":"overloaded"}\n\n', {"error": "m", "error_type": "overloaded"}),
    "detail": (Route.CHAT, b'data: {"detail":"m"}\n\n', {"detail": "m"}),
    "a list": (Route.CHAT, b'data: [{"error":{"code":503}}]\n\n', {"error": {"code": 503}}),
    "bare, by its object": (Route.CHAT, b'data: {"object":"error","code":1}\n\n', {"error": {"object": "error", "code": 1}}),
    "bare, by its message": (Route.CHAT, b'data: {"message":"m","code":503}\n\n', {"error": {"message": "m", "code": 503}}),
    "bare, by its code": (Route.COMPLETIONS, b'data: {"code":503}\n\n', {"error": {"code": 503}}),
    "beside choices": (
        Route.CHAT,
        sse(chunk(delta(content="x"), error={"code": 502, "message": "m"})),
        {"error": {"code": 502, "message": "m"}},
    ),
    "inside a choice": (Route.CHAT, sse(chunk({**delta(finish="error"), "error": {"code": 502}})), {"error": {"code": 502}}),
    "inside x_groq": (Route.CHAT, sse(chunk(delta(), x_groq={"error": "m"})), {"error": "m"}),
    "a named event": (
        Route.MESSAGES,
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m"}}\n\n',
        {"type": "error", "error": {"type": "overloaded_error", "message": "m"}},
    ),
    "a named event of text": (Route.CHAT, b"event: error\ndata: upstream died\n\n", {"error": {"message": "upstream died"}}),
    "a typed event": (
        Route.RESPONSES,
        b'data: {"type":"error","code":"server_error","message":"m","param":null}\n\n',
        {"error": {"type": "error", "code": "server_error", "message": "m", "param": None}},
    ),
    "half a surrogate in it": (Route.CHAT, b'data: {"error":{"message":"\\ud83d"}}\n\n', {"error": {"message": "�"}}),
}


@pytest.mark.parametrize("shape", ERRORS)
@pytest.mark.parametrize("begun", [False, True], ids=["first", "later"])
def test_b19_errors_of_every_shape_are_kept(shape: str, begun: bool) -> None:
    route, text, error = ERRORS[shape]
    starts = {Route.CHAT: HI, Route.COMPLETIONS: sse(text_chunk(0, "Hi")), Route.MESSAGES: sse(MESSAGE_START)}
    start = starts.get(route, sse(RESPONSE_START)) if begun else b""
    answer = assembled(route, start + text + END + DONE)
    assert json.loads(answer.error) == error
    assert (answer.complete, answer.why) == (False, "an error came in the stream")
    assert answer.flags == ()


def test_a_failed_response_is_its_own_body() -> None:
    failed = {**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": "m"}}
    answer = assembled(Route.RESPONSES, sse(RESPONSE_START, {"type": "response.failed", "response": failed}, named=True))
    assert (json.loads(answer.body), answer.complete, answer.error) == (failed, True, b"")


def test_an_event_may_have_its_type_in_its_name_only() -> None:
    text = b'event: response.completed\ndata: {"response":{"id":"r","status":"completed"}}\n\n'
    assert assembled(Route.RESPONSES, text).complete


HALVES = [
    pytest.param(r"\ud83d", r"\ude00", "😀", id="a pair"),
    pytest.param(r"a\ud83d", r"\ude00b", "a😀b", id="a pair inside text"),
    pytest.param(r"\ud83d\ude00\ud83d", r"\ude00", "😀😀", id="after a whole one"),
    pytest.param(r"\ud83d", r"x", "�x", id="a high one alone"),
    pytest.param(r"\ude00", r"\ud83d", "��", id="the wrong way round"),
]


@pytest.mark.parametrize(("first", "second", "text"), HALVES)
def test_b23_half_surrogates(first: str, second: str, text: str) -> None:
    def halves(*templates: bytes) -> bytes:
        return b"".join(line.replace(b"@1", first.encode()).replace(b"@2", second.encode()) for line in templates)

    chats = halves(sse(chunk(START)), sse(chunk(delta(content="@1"))), sse(chunk(delta(content="@2"))), END, DONE)
    assert body_of(Route.CHAT, chats)["choices"][0]["message"]["content"] == text
    calls = [chunk(delta(tool_calls=[call(0, None, half)])) for half in ("@1", "@2")]
    tools = halves(sse(*calls), END)
    assert body_of(Route.CHAT, tools)["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == text
    texts = halves(sse(text_chunk(0, "@1"), text_chunk(0, "@2", "stop")))
    assert body_of(Route.COMPLETIONS, texts)["choices"][0]["text"] == text
    blocks = [opened(0, type="text", text="@1"), part(0, "text_delta", text="@2")]
    assert body_of(Route.MESSAGES, halves(sse(MESSAGE_START, *blocks)))["content"][0]["text"] == text
    inputs = [
        opened(0, type="tool_use"),
        part(0, "input_json_delta", partial_json='{"a":"'),
        part(0, "input_json_delta", partial_json="@1"),
    ]
    inputs += [part(0, "input_json_delta", partial_json="@2"), part(0, "input_json_delta", partial_json='"}')]
    assert body_of(Route.MESSAGES, halves(sse(MESSAGE_START, *inputs)))["content"][0]["input"] == {"a": text}


def calls_of(*pieces: list[Json]) -> list[Json]:
    text = sse(*(chunk(delta(tool_calls=piece)) for piece in pieces), chunk(delta(finish="tool_calls")))
    answer = assembled(Route.CHAT, text)
    assert answer.flags == ("no_done",)
    calls: list[Json] = json.loads(answer.body)["choices"][0]["message"]["tool_calls"]
    return calls


def test_tool_calls_of_servers_with_their_own_ideas() -> None:
    two = [TOOL, {"id": "call_2", "type": "function", "function": {"name": "tell", "arguments": "{}"}}]
    first, second = '{"city":', '"Bonn"}'
    # every call whole, and all with the same index
    same = [call(0, "find", first + second, id="call_1", type="function"), call(0, "tell", "{}", id="call_2", type="function")]
    assert calls_of(same[:1], same[1:]) == calls_of(same) == two
    # no index at all
    assert calls_of([{key: item for key, item in each.items() if key != "index"} for each in same]) == two
    # a new id for every piece
    pieces = [[call(0, "find", "", id="call_1")], [call(0, None, first, id="x")], [call(0, None, second, id="y")]]
    assert calls_of(*pieces) == [TOOL]
    # id, type and name with every piece
    assert calls_of(*([call(0, "find", text, id="call_1", type="function")] for text in (first, second))) == [TOOL]
    # the name in pieces
    assert calls_of([call(0, "fi", "", id="call_1")], [call(0, "nd", first)], [call(0, None, second)]) == [TOOL]
    # the second call first
    assert calls_of([call(1, "tell", "{}", id="call_2")], [call(0, "find", first + second, id="call_1")]) == two


# What moves the deadline for silence, and what does not.
PROGRESS: list[tuple[Route, Json, bool]] = [
    (Route.CHAT, chunk(delta(content="x")), True),
    (Route.CHAT, chunk(delta(reasoning_content="x")), True),
    (Route.CHAT, chunk(delta(reasoning="x")), True),
    (Route.CHAT, chunk(delta(thinking="x")), True),
    (Route.CHAT, chunk(delta(refusal="x")), True),
    (Route.CHAT, chunk(delta(tool_calls=[call(0, None, "x")])), True),
    (Route.CHAT, chunk(delta(finish="stop")), True),
    (Route.CHAT, chunk(delta(logprobs={"content": [prob("x")]})), True),
    (Route.CHAT, chunk(delta()), False),
    (Route.CHAT, chunk(delta(role="assistant", content="")), False),
    (Route.CHAT, chunk(delta(tool_calls=[call(0, None, "")])), False),
    (Route.CHAT, chunk(delta(annotations=[])), False),
    (Route.CHAT, chunk(), False),
    (Route.CHAT, chunk(usage=USAGE), False),
    (Route.CHAT, {"what": "ever"}, False),
    (Route.CHAT, {"error": {"message": "x"}}, False),
    (Route.COMPLETIONS, text_chunk(0, "x"), True),
    (Route.COMPLETIONS, text_chunk(0, ""), False),
    (Route.COMPLETIONS, text_chunk(0, "", "stop"), True),
    (Route.MESSAGES, {"type": "ping"}, False),
    (Route.MESSAGES, part(0, "text_delta", text="x"), True),
    (Route.MESSAGES, part(0, "text_delta", text=""), False),
    (Route.MESSAGES, part(0, "thinking_delta", thinking="x"), True),
    (Route.MESSAGES, part(0, "input_json_delta", partial_json="x"), True),
    (Route.MESSAGES, part(0, "citations_delta", citation={"cited_text": "x"}), True),
    (Route.MESSAGES, stopped(), True),
    (Route.MESSAGES, stopped(None, output_tokens=3), False),
    (Route.MESSAGES, {"type": "soon_to_come"}, False),
    (Route.RESPONSES, {"type": "response.created", "response": {}}, False),
    (Route.RESPONSES, {"type": "response.in_progress", "response": {}}, False),
    (Route.RESPONSES, {"type": "keepalive", "sequence_number": 3}, False),
    (Route.RESPONSES, {"type": "response.output_item.added", "item": {}}, True),
    (Route.RESPONSES, {"type": "response.output_text.delta", "delta": "x"}, True),
    (Route.RESPONSES, {"type": "response.output_text.delta", "delta": ""}, False),
    (Route.RESPONSES, {"type": "response.completed", "response": RESPONSE}, True),
]


@pytest.mark.parametrize(
    ("route", "event", "progress"), PROGRESS, ids=lambda value: json.dumps(value)[-60:] if isinstance(value, dict) else None
)
def test_progress(route: Route, event: Json, progress: bool) -> None:
    starts = {Route.CHAT: HI, Route.COMPLETIONS: sse(text_chunk(0, "Hi")), Route.RESPONSES: b""}
    assembler = Assembler(route)
    for begin in events_of([starts.get(route, sse(MESSAGE_START, opened(0, type="text", text="")))]):
        assembler.feed(begin)
    assert assembler.feed(ServerEvent("", json.dumps(event).encode())) is progress


def test_an_end_said_again_is_no_progress() -> None:
    assembler = Assembler(Route.CHAT)
    assert [assembler.feed(event) for event in events_of([END * 3])] == [True, False, False]


def test_it_says_when_nothing_more_is_of_interest() -> None:
    ends = {
        Route.CHAT: DONE,
        Route.COMPLETIONS: b"[DONE] \n\n",
        Route.MESSAGES: sse(MESSAGE_STOP),
        Route.RESPONSES: sse({"type": "response.completed", "response": RESPONSE}),
    }
    assert ends.keys() == STREAMED
    for route, end in ends.items():
        for last in (end, b'data: {"error":{"message":"m"}}\n\n'):
            assembler = Assembler(route)
            assembler.feed(ServerEvent("", b'{"type":"ping"}'))
            assert not assembler.ended
            for event in events_of([last]):
                assembler.feed(event)
            assert assembler.ended
            assert assembler.feed(ServerEvent("", json.dumps(chunk(delta(content="late"))).encode())) is False
            assert b"late" not in assembler.finish().body


NAMES = """
    choices delta content index tool_calls function name arguments id type finish_reason logprobs usage error message
    content_block content_block_start content_block_delta message_delta message_stop message_start text thinking partial_json
    citation stop_reason text_delta response response.completed x_groq code object role detail
"""
WORDS = st.sampled_from([*NAMES.split(), "\ud83d", "\ude00", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)
CHUNKS = st.builds(
    lambda choices, more: {**more, "choices": choices},
    st.lists(st.dictionaries(WORDS, VALUES, max_size=4) | VALUES, max_size=3),
    st.dictionaries(WORDS, VALUES, max_size=3),
)
DELTAS = st.builds(
    lambda said, more: chunk({"index": 0, **more, "delta": said}), VALUES, st.dictionaries(WORDS, VALUES, max_size=2)
)
BLOCKS = st.builds(
    lambda kind, index, block, part: {"type": kind, "index": index, "content_block": block, "delta": part, "message": block},
    st.sampled_from(["message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop"]),
    st.integers(0, 1) | VALUES,
    st.dictionaries(WORDS, VALUES, max_size=3) | VALUES,
    st.dictionaries(WORDS, VALUES, max_size=3) | VALUES,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(STREAMED)),
    st.integers(0, 3),
    st.lists(CHUNKS | DELTAS | BLOCKS | VALUES, max_size=6),
    st.sampled_from([b"", b"error", b"message_start"]),
)
def test_b30_nonsense_raises_nothing_and_its_body_can_be_written(
    route: Route, choices: int, events: list[Any], name: bytes
) -> None:
    assembler = Assembler(route, choices)
    for event in events:
        assert assembler.feed(ServerEvent(name.decode(), json.dumps(event).encode())) in (True, False)
    first, again = assembler.finish(), assembler.finish()
    assert first == again
    for text in (first.body, first.error):
        assert not text or isinstance(json.loads(text.decode()), dict)
        assert b"\n" not in text


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(STREAMED)),
    st.lists(st.binary(max_size=40) | st.sampled_from([HI[6:], b"{", b"[" * 100_000]), max_size=6),
)
def test_any_bytes_raise_nothing(route: Route, texts: list[bytes]) -> None:
    assembler = Assembler(route)
    for text in texts:
        assembler.feed(ServerEvent("", text))
    assert not assembler.finish().complete


@pytest.mark.parametrize("depth", [10, 600, 900, 5000])
@pytest.mark.parametrize("place", ["delta", "top", "choice", "block"])
def test_nesting_of_any_depth_raises_nothing(depth: int, place: str) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    texts = {
        "delta": sse(chunk(delta(a="@"))),
        "top": sse(chunk(delta(content="x"), a="@")),
        "choice": sse(chunk({**delta(), "a": "@"})),
        "block": sse(MESSAGE_START, opened(0, type="text", a="@"), part(0, "x", a="@")),
    }
    route = Route.MESSAGES if place == "block" else Route.CHAT
    text = texts[place].replace(b'"@"', deep)
    answer = assembled(route, HI + text if route is Route.CHAT else text)
    assert not answer.complete
    assert answer.body
    if depth <= 600:
        assert deep in answer.body or place == "top"  # what a later chunk adds at the top is not looked at
        assert answer.flags == ()


def test_a_body_too_deep_to_be_written_is_incomplete() -> None:
    """What could be read here may be too deep for a stack that is nearly full."""
    event = json.dumps(chunk(delta(content="x", finish="stop"), a="@")).encode().replace(b'"@"', b"[" * 500 + b"]" * 500)
    assembler = Assembler(Route.CHAT)
    assembler.feed(ServerEvent("", event))

    def finish(depth: int) -> Assembled:
        return finish(depth - 1) if depth else assembler.finish()

    answer = finish(sys.getrecursionlimit() - 300)
    assert answer.complete is bool(answer.body) is (answer.why == "") is ("malformed_event" not in answer.flags)


def test_a_hundred_thousand_deltas_are_joined_once() -> None:
    pieces = [chunk(delta(content="x" * 50)), chunk(delta(tool_calls=[call(0, None, "y" * 50)]))]
    events = [ServerEvent("", json.dumps(piece).encode()) for piece in pieces]
    assembler = Assembler(Route.CHAT)
    for event in itertools.chain.from_iterable(itertools.repeat(events, 50_000)):
        assembler.feed(event)
    said = json.loads(assembler.finish().body)["choices"][0]["message"]
    assert len(said["content"]) == len(said["tool_calls"][0]["function"]["arguments"]) == 2_500_000
