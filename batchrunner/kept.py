"""What earlier runs of a job have kept of some requests, as results again.

Rules:

1. A record counts for the text that its line has now. A success goes before a failure; of several alike the last counts.
2. Only what a record says is told: where our facts were left out (`--strict-openai`) attempts, seconds and endpoint are empty.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from batchrunner.columns import Seen, place
from batchrunner.core.complaint import Complaint, complaint
from batchrunner.core.model import Error, Kind, Request, Result
from batchrunner.core.treatment import TREATMENT
from batchrunner.disk import records
from batchrunner.foreign import read_facts, read_record
from batchrunner.looking import kind_named
from batchrunner.records import Record, prevailing


def kept_results(requests: Iterable[Request], files: Sequence[Path], keep_changed: bool = False) -> list[Result]:
    """The results that the output `files` hold for these requests; `keep_changed` takes those of an older text as well."""
    asked = {request.id: request for request in requests}
    found: dict[str, Result] = {}
    for path in files:
        for _, raw in records(path):
            record = _read(raw)
            request = asked.get(record.id) if record else None
            if record and request and (keep_changed or record.digest in {"", request.digest}):
                found[record.id] = prevailing(found.get(record.id), _result(request, record, raw))
    return list(found.values())


def _read(raw: bytes) -> Record | None:
    try:
        return read_record(raw)
    except ValueError:
        return None  # the survey has told of it


def _result(request: Request, record: Record, raw: bytes) -> Result:
    seen, facts, kind = Seen(raw), read_facts(raw), kind_named(record.kind)
    return Result(
        request=request,
        kind=kind,
        status=seen.told.status,
        body=seen.told.body,
        request_id=seen.told.request_id,
        error=None if record.ok else _error(seen, kind, facts.hint),
        attempts=facts.attempts,
        seconds=facts.seconds,
        endpoint=facts.endpoint,
        usage=facts.usage,
        flags=facts.flags,
        maybe_billed=facts.maybe_billed,
        partial=bytes(facts.partial) if facts.partial else b"",
    )


def _error(seen: Seen, kind: Kind, hint: str) -> Error:
    """What the record says went wrong: in its error, or in the answer that the server refused the request with."""
    said = complaint(place(seen.whole, ("error",)) or place(seen.whole, ("1", "0")) or seen.body) or Complaint()
    return Error(kind, said.code, said.message, hint or TREATMENT[kind].hint)
