"""What counts as a complete answer, route by route."""

import json

import pytest

from batchrunner.core.classify import classify
from batchrunner.core.finish import FINISH
from batchrunner.core.model import Kind, Route, Usage
from tests.core.answers import CHAT, WHOLE, attempt, chat, outcome, reply

ROUTES = list(WHOLE)


@pytest.mark.parametrize("route", ROUTES)
def test_a_whole_answer_is_ok(route: Route) -> None:
    got = outcome(200, WHOLE[route], {"x-request-id": "req-1"}, route)
    assert (got.kind, got.status, got.request_id, got.flags, got.billed) == (Kind.OK, 200, "req-1", (), False)
    assert json.loads(got.body) == WHOLE[route]


@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_cut_at_any_byte_is_never_ok(route: Route) -> None:
    """Promise P3."""
    whole = json.dumps(WHOLE[route], ensure_ascii=False, indent=1).encode()
    good = [cut for cut in range(len(whole)) if classify(attempt(route), reply(200, whole[:cut])).kind is Kind.OK]
    assert good == []
    assert classify(attempt(route), reply(200, whole)).kind is Kind.OK


@pytest.mark.parametrize(
    ("reason", "kind", "flags"),
    [
        *(
            (word, Kind.OK, ())
            for word in [
                "stop",
                "eos",
                "eos_token",
                "stop_sequence",
                "end_turn",
                "tool_calls",
                "tool_use",
                "function_call",
                "COMPLETE",
            ]
        ),
        *(
            (word, Kind.OK, ("hit_token_limit",))
            for word in ["length", "max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded"]
        ),
        *(
            (word, Kind.POLICY, ())
            for word in ["content_filter", "content_filtered", "refusal", "guardrail_intervened", "SAFETY", "RECITATION"]
        ),
        ("content_filter: PROHIBITED_CONTENT", Kind.POLICY, ()),
        ("max_output_tokens", Kind.OK, ("hit_token_limit",)),
        ("error", Kind.SERVER_ERROR, ()),
        ("abort", Kind.TRUNCATED, ()),
        ("pause_turn", Kind.TRUNCATED, ()),
        ("repetition", Kind.OK, ("repetition",)),
        ("insufficient_system_resource", Kind.OVERLOADED, ()),
        ("something_new", Kind.OK, ("unknown_finish_reason",)),
        (None, Kind.TRUNCATED, ("unmarked",)),
        ("", Kind.TRUNCATED, ("unmarked",)),
    ],
)
def test_finish_reasons(reason: str | None, kind: Kind, flags: tuple[str, ...]) -> None:
    got = outcome(200, chat(reason))
    assert (got.kind, got.flags) == (kind, flags)
    cut = kind is Kind.TRUNCATED and not got.final
    assert json.loads(got.partial if cut else got.body)["choices"]  # what came is kept in every case
    assert not (got.body if cut else got.partial)  # and never in the place of an answer when it is none
    stop = classify(attempt(Route.MESSAGES), reply(200, {"content": [], "stop_reason": reason}))
    assert stop.kind is kind


STOP = {"index": 0, "finish_reason": "stop"}
SAID = {**STOP, "message": {"role": "assistant", "content": "x"}}
REFUSED = {**STOP, "message": {"content": None, "refusal": "I can't help with that."}}


@pytest.mark.parametrize(
    ("route", "body", "kind"),
    [
        # a finish reason is there, and still it is no whole answer
        (Route.CHAT, {"choices": [STOP]}, Kind.TRUNCATED),
        (Route.CHAT, {"choices": [{**STOP, "message": None}]}, Kind.TRUNCATED),
        (Route.CHAT, {"object": "chat.completion.chunk", "choices": [{**STOP, "delta": {"content": "end."}}]}, Kind.TRUNCATED),
        (Route.COMPLETIONS, {"choices": [{**STOP, "text": None}]}, Kind.TRUNCATED),
        (Route.CHAT, {"choices": [{**SAID, "finish_reason": "null"}]}, Kind.TRUNCATED),
        (Route.CHAT, {"choices": [{**SAID, "finish_reason": "None"}]}, Kind.TRUNCATED),
        (Route.CHAT, {"choices": [{**SAID, "finish_reason": "canceled"}]}, Kind.TRUNCATED),
        (Route.CHAT, {"choices": [{**SAID, "finish_reason": "network_error"}]}, Kind.SERVER_ERROR),
        (Route.CHAT, {"choices": [{**SAID, "finish_reason": "function_call_filter: MALFORMED_CALL"}]}, Kind.SERVER_ERROR),
        (Route.CHAT, {"choices": [{**SAID, "finish_reason": "sensitive"}]}, Kind.POLICY),
        (Route.CHAT, {"choices": [REFUSED]}, Kind.POLICY),
        (Route.CHAT, {"choices": [{**SAID, "error": {"message": "cut"}}]}, Kind.SERVER_ERROR),
        # an error beside a whole answer
        (Route.CHAT, {"choices": [SAID], "error": {"message": "upstream died", "code": 502}}, Kind.GATEWAY),
        (Route.MESSAGES, {**WHOLE[Route.MESSAGES], "error": {"type": "overloaded_error", "message": "x"}}, Kind.OVERLOADED),
        (Route.RESPONSES, {**WHOLE[Route.RESPONSES], "error": {"code": "server_error", "message": "x"}}, Kind.SERVER_ERROR),
        # an error that does not say so
        (Route.CHAT, {"base_resp": {"status_code": 1004, "status_msg": "login fail"}, "choices": None}, Kind.GARBLED),
        (Route.CHAT, {"code": 20015, "message": "the service is busy", "data": None}, Kind.GARBLED),
        (Route.CHAT, {"success": False, "msg": "no", "choices": []}, Kind.TRUNCATED),
        (Route.MESSAGES, {"type": "error", "error": {"type": "api_error", "message": "x"}}, Kind.SERVER_ERROR),
        # fewer than were asked for
        (Route.IMAGES, {"data": [None]}, Kind.TRUNCATED),
        (Route.MODERATIONS, {"results": []}, Kind.TRUNCATED),
        (Route.EMBEDDINGS, {"data": [{"index": 0, "embedding": None}]}, Kind.TRUNCATED),
    ],
)
def test_what_only_looks_like_an_answer(route: Route, body: dict[str, object], kind: Kind) -> None:
    """Promise P3."""
    assert outcome(200, body, route=route).kind is kind


@pytest.mark.parametrize("message", [{}, {"content": ""}, {"content": None, "refusal": None}, {"content": "x", "refusal": ""}])
def test_an_answer_that_says_nothing_is_one(message: dict[str, object]) -> None:
    assert outcome(200, {"choices": [{**STOP, "message": message}]}).kind is Kind.OK


@pytest.mark.parametrize("route", [Route.IMAGES, Route.MODERATIONS])
def test_lists_are_counted(route: Route) -> None:
    body = {"data" if route is Route.IMAGES else "results": [{"url": "u"}]}
    assert classify(attempt(route, choices=2), reply(200, body)).code == "missing_results"
    assert classify(attempt(route, choices=0), reply(200, body)).kind is Kind.OK


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind"),
    [
        (200, JSON, b'{"a": [1, 2', Kind.TRUNCATED),
        (200, JSON | {"content-length": "11", "content-encoding": "gzip"}, b'{"a": [1, 2', Kind.TRUNCATED),
        (200, JSON | {"content-length": "11"}, b'{"a": [1, 2', Kind.OK),  # it ended where it said: so that is how it is
        (200, JSON | {"transfer-encoding": "chunked"}, b"{a: 1}", Kind.OK),
        (200, {"content-type": "text/csv"}, b"a;b", Kind.OK),
        (200, JSON, b'{"a": 1}', Kind.OK),
        (206, JSON | {"content-length": "8"}, b'{"a": 1}', Kind.REJECTED),
        (202, JSON | {"content-length": "8"}, b'{"a": 1}', Kind.OK),
    ],
)
def test_b3_b4_a_plain_line_whose_answer_is_a_part(status: int, headers: dict[str, str], body: bytes, kind: Kind) -> None:
    got = outcome(status, body, headers, Route.HTTP)
    assert (got.kind, bool(got.body)) == (kind, kind is Kind.OK)


def test_every_known_reason_is_in_lower_case() -> None:
    assert [reason for reason in FINISH if reason != reason.lower()] == []


def test_a_paused_turn_is_not_repeated() -> None:
    assert outcome(200, chat("pause_turn")).final


def test_choices_are_counted() -> None:
    one, null = chat("stop")["choices"][0], chat(None)["choices"][0]  # type: ignore[index]
    filtered = chat("content_filter")["choices"][0]  # type: ignore[index]
    kinds = {
        "none": [],
        "one": [one],
        "unfinished": [one, null],
        "filtered": [one, filtered],
        "both": [one, one],
    }
    got = {name: classify(attempt(choices=2), reply(200, {**CHAT, "choices": c})).kind for name, c in kinds.items()}
    bad = Kind.TRUNCATED
    assert got == {"none": bad, "one": bad, "unfinished": bad, "filtered": Kind.POLICY, "both": Kind.OK}
    assert classify(attempt(choices=0), reply(200, {**CHAT, "choices": [one, one]})).kind is Kind.OK


@pytest.mark.parametrize(
    ("body", "kind", "flags", "final"),
    [
        ({"status": "completed"}, Kind.OK, (), False),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, Kind.OK, ("hit_token_limit",), False),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, Kind.POLICY, (), False),
        ({"status": "incomplete", "incomplete_details": None}, Kind.OK, ("unknown_finish_reason",), False),
        ({"status": "failed", "error": {"code": "server_error", "message": "x"}}, Kind.SERVER_ERROR, (), False),
        ({"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "x"}}, Kind.RATE_LIMITED, (), False),
        ({"status": "failed", "error": {"code": "vector_store_timeout", "message": "x"}}, Kind.GATEWAY, (), False),
        ({"status": "failed", "error": {"code": "invalid_image", "message": "x"}}, Kind.REJECTED, (), False),
        ({"status": "failed", "error": {"code": "image_content_policy_violation", "message": "x"}}, Kind.POLICY, (), False),
        ({"status": "failed", "error": None}, Kind.SERVER_ERROR, (), False),
        ({"status": "queued"}, Kind.TRUNCATED, (), True),
        ({"status": "in_progress"}, Kind.TRUNCATED, (), True),
        ({"status": "cancelled"}, Kind.TRUNCATED, (), False),
        ({"output": []}, Kind.GARBLED, (), False),
    ],
)
def test_responses(body: dict[str, object], kind: Kind, flags: tuple[str, ...], final: bool) -> None:
    got = outcome(200, body, route=Route.RESPONSES)
    assert (got.kind, got.flags, got.final) == (kind, flags, final)


@pytest.mark.parametrize(
    ("vectors", "choices", "kind"),
    [
        ([{"index": 0, "embedding": [1]}, {"index": 1, "embedding": "AAAA"}], 2, Kind.OK),
        ([{"embedding": [1]}, {"embedding": [2]}], 2, Kind.OK),
        ([{"index": 0, "embedding": [1]}], 0, Kind.OK),
        ([{"index": 0, "embedding": [1]}], 2, Kind.TRUNCATED),
        ([{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1]}], 1, Kind.TRUNCATED),
        ([{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}], 2, Kind.TRUNCATED),
        ([{"index": 0, "embedding": []}], 1, Kind.TRUNCATED),
        ([{"index": 0, "embedding": None}], 1, Kind.TRUNCATED),
        ([], 0, Kind.TRUNCATED),
        (None, 1, Kind.GARBLED),
    ],
)
def test_embeddings(vectors: object, choices: int, kind: Kind) -> None:
    assert classify(attempt(Route.EMBEDDINGS, choices=choices), reply(200, {"data": vectors})).kind is kind


@pytest.mark.parametrize("route", [Route.IMAGES, Route.MODERATIONS])
def test_lists_must_hold_something(route: Route) -> None:
    assert outcome(200, {"data": []}, route=route).kind is Kind.TRUNCATED
    assert outcome(200, {"created": 1}, route=route).kind is Kind.GARBLED


@pytest.mark.parametrize(
    ("route", "usage"),
    [
        (Route.CHAT, Usage(9, 3)),
        (Route.RESPONSES, Usage(9, 3)),
        (Route.MESSAGES, Usage(9, 3)),
        (Route.EMBEDDINGS, Usage(9, 0)),
        (Route.IMAGES, None),
    ],
)
def test_usage(route: Route, usage: Usage | None) -> None:
    assert outcome(200, WHOLE[route], route=route).usage == usage


@pytest.mark.parametrize("usage", [None, "n/a", {"prompt_tokens": "x"}, [], {"prompt_tokens": -(2**80)}, {"total_tokens": None}])
def test_an_odd_usage_spoils_no_answer(usage: object) -> None:
    assert outcome(200, chat("stop", usage=usage)).kind is Kind.OK


@pytest.mark.parametrize("count", [{}, {"prompt_tokens": 0}, {"completion_tokens": -5}, {"prompt_tokens": 10**30}])
def test_what_no_request_can_use_is_no_count(count: object) -> None:
    assert outcome(200, chat("stop", usage=count)).usage is None


@pytest.mark.parametrize("cost", [-1, True, 1e300, 10**400, {"total_cost": 1e300}, "0.1"])
def test_what_no_answer_can_cost_is_no_price(cost: object) -> None:
    assert outcome(200, chat("stop", usage={"prompt_tokens": 9, "cost": cost})).usage == Usage(9, 0)


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ('{"a":1}', ()),
        ("{}", ()),
        ({"a": 1}, ()),
        ('{"a":', ("bad_tool_arguments",)),
        ("", ("bad_tool_arguments",)),
        ("\ud83d", ("bad_tool_arguments",)),
    ],
)
def test_tool_arguments_that_are_not_json_are_flagged(arguments: object, flags: tuple[str, ...]) -> None:
    message = {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": arguments}}]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode()
    got = outcome(200, body)
    assert got.kind is Kind.OK
    assert [flag for flag in got.flags if flag != "lone_surrogate"] == list(flags) or "\ud83d" in str(arguments)
