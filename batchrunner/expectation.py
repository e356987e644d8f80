"""What an answer must look like: JSON, JSON of a schema, or whatever a Python type reads.

Rules:

1. Only good answers are looked at. One that does not fit is `invalid_output`: asked again, on a budget of its own (`reask`),
   and if it never fits recorded with the last answer.
2. What counts as JSON is decided in `core.fences`: the whole text, or one code fence round it; never a piece of a letter.
   Of an answer with several choices each must fit; where a route has no text, the body must.
3. With `feedback` the model is shown its answer and told why it did not fit. The line itself, its digest and its record stay.
4. Why an answer does not fit is said without quoting it. Nothing that a schema points to is fetched.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import msgspec
import orjson
from msgspec import Raw, Struct, structs

from batchrunner.core.fences import unfenced
from batchrunner.core.model import Attempt, Kind, Outcome, Request, Route
from batchrunner.core.policy import option
from batchrunner.core.route import answer_text, answer_texts
from batchrunner.dialects import read_entries, write
from batchrunner.errors import UsageError
from batchrunner.hooks import Judge


class Expectation(Struct, frozen=True, kw_only=True):
    """What is expected of an answer."""

    expect: Annotated[
        Literal["any", "json"],
        option(
            "take only answers that are JSON, or a code fence with it", group="Input and output", metavar="any|json", main=False
        ),
    ] = "any"
    schema: Annotated[
        str,
        option("take only answers that are JSON and fit this JSON Schema", group="Input and output", metavar="FILE", main=False),
    ] = ""
    feedback: Annotated[
        bool, option("tell the model why its answer did not fit when it is asked again", group="Input and output", main=False)
    ] = False


Check = Callable[[str], str]
"""Why a text does not fit: the end of "the answer …"; empty when it does."""
Misfits = Callable[[Route, bytes], str]
"""The same of the answer in a body, as a whole sentence."""


class Misfit(ValueError):  # noqa: N818  a fact about an answer, named as one
    """An answer does not fit. The message says why, without quoting it."""


def judge_of(policy: Expectation, judge: Judge | None = None) -> Judge | None:
    """The hook that holds answers to what is expected, then to what `judge` says. UsageError E206, E209."""
    misfits = misfits_of(policy)
    if misfits is fits and not policy.feedback:
        return judge

    async def judged(attempt: Attempt, outcome: Outcome) -> Outcome:
        if outcome.kind is Kind.OK and (why := misfits(attempt.request.route, outcome.body)):
            outcome = blamed(outcome, Kind.INVALID_OUTPUT, why)
        if judge:
            outcome = await judge(attempt, outcome)
        if policy.feedback and outcome.kind is Kind.INVALID_OUTPUT:
            outcome = structs.replace(outcome, instead=corrected(attempt.request, outcome))
        return outcome

    return judged


def seal(policy: Expectation) -> str:
    """What two jobs must have alike to take each other's answers: the rules themselves, not the name of their file."""
    digest = sha256(Path(policy.schema).read_bytes()).hexdigest() if policy.schema else ""
    return f"{policy.expect} {digest}"


def blamed(outcome: Outcome, kind: Kind, why: str) -> Outcome:
    """The outcome of an answer that came, and is not taken. It is on the bill."""
    return structs.replace(outcome, kind=kind, code="E501" if kind is Kind.HOOK else "", message=why, billed=True)


def fits(_route: Route, _body: bytes) -> str:
    """Whatever comes does."""
    return ""


def misfits_of(policy: Expectation) -> Misfits:
    """What tells why the answer in a body does not fit; `fits` where nothing is expected. UsageError E206, E209."""
    check = check_of(policy)
    if check is None:
        return fits

    def misfits(route: Route, body: bytes) -> str:
        whys = (check(unfenced(text)) for text in answer_texts(route, body))
        return next((f"the answer {why}" for why in whys if why), "")

    return misfits


# ---- checks ----


def check_of(policy: Expectation) -> Check | None:
    """What the options ask of a text; None: nothing. UsageError E206: an extra is missing. E209: the schema is none."""
    if policy.schema:
        return _schema(Path(policy.schema))
    return _json if policy.expect == "json" else None


def _json(text: str) -> str:
    return _parsed(text)[1]


def _parsed(text: str) -> tuple[Any, str]:
    try:
        return orjson.loads(text), ""
    except orjson.JSONDecodeError as error:
        where = f"not JSON (line {error.lineno}, column {error.colno})" if text else "empty"
        return None, f"is {where}"


def _schema(path: Path) -> Check:
    validator = _validator(path)

    def check(text: str) -> str:
        value, why = _parsed(text)
        error = None if why else next(validator.iter_errors(value), None)
        if error is None:
            return why
        at = "/".join(map(str, error.instance_path)) or "its top"
        return f"does not fit the schema at {at}: {error.message}"

    return check


def _validator(path: Path) -> Any:
    try:
        import jsonschema_rs
    except ImportError:
        raise UsageError("E206", "a JSON Schema needs an extra", "pip install 'batchrunner[schema]'") from None
    try:
        schema = orjson.loads(path.read_bytes())
        return jsonschema_rs.validator_for(schema, retriever=_refuse, mask="a value")
    except OSError as error:
        why = error.strerror or str(error)
    except (ValueError, jsonschema_rs.ReferencingError, jsonschema_rs.ValidationError) as error:
        why = str(error).splitlines()[0]
    raise UsageError(
        "E209", f"--schema {path}: {why}.", "A schema is a JSON object; what it points to must stand in it: #/$defs/…"
    )


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} is not fetched")


def reader_of(wanted: Any) -> Callable[[str], object] | None:
    """What reads a text as a type: a pydantic model or adapter, or whatever msgspec knows; None: `wanted` is a plain function."""
    for name in ("validate_json", "model_validate_json"):
        if read := getattr(wanted, name, None):
            return _told(read, _pydantic)
    if isinstance(wanted, type) or get_origin(wanted) is not None:
        return _told(msgspec.json.Decoder(wanted).decode, str)
    return None


def _told(read: Callable[[str], object], why: Callable[[Any], str]) -> Callable[[str], object]:
    def reading(text: str) -> object:
        try:
            return read(unfenced(text))
        except ValueError as error:
            raise Misfit(f"the answer does not fit: {why(error)}") from None

    return reading


def _pydantic(error: Any) -> str:
    """Pydantic's own words would quote the answer."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'its top'}: {fault['msg']}" for fault in faults[:3])


# ---- feedback ----


def corrected(request: Request, outcome: Outcome) -> Request | None:
    """The request with its answer and what is wrong with it as two more turns; None where a route has no turns."""
    name = _TURNS.get(request.route)
    if name is None:
        return None
    said = answer_text(request.route, outcome.body)
    told = f"This cannot be used: {outcome.message}. Answer again, with the corrected answer only."
    turns = [*([{"role": "assistant", "content": said}] if said else []), {"role": "user", "content": told}]
    fields = read_entries(request.body)
    given = msgspec.json.decode(fields[name], type=list[Raw] | str)
    before: list[Any] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return structs.replace(request, body=write({**fields, name: [*before, *turns]}))


_TURNS: Mapping[Route, str] = {Route.CHAT: "messages", Route.MESSAGES: "messages", Route.RESPONSES: "input"}
