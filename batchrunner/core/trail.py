"""What a run writes about itself, line by line: the records of `events.jsonl` and `attempts.jsonl` in the run folder.

    events.jsonl     start · moment, moment, … · end        for each session: one run of the same command
    attempts.jsonl   session · attempt, attempt, …          failures and retries, and a sample of the successes

Rules:

1. One JSON object a line. `event` names the record, `v` its version, `session` the run it belongs to, counted from 1.
   Fields are only ever added to a version; a reader leaves out what it does not know.
2. Seconds are floats; `at` counts from the start of the session, whose wall clock stands in its first line.
3. Counters of a moment are cumulative within their session; `done`, `succeeded`, `failed`, `invalid` count the whole job.
   Tables of buckets (`phases`, `deaths`, `kills`) hold only what is new since the moment before, so that they add up.
4. Bucket b of a table counts durations from 0.0001 · 1.05^b to 0.0001 · 1.05^(b+1) seconds.
5. Neither file holds a prompt, an answer or a key.

Some questions to them:

    jq -r 'select(.event=="attempt" and .kind!="ok") | [.at,.id,.kind,.status,.message] | @tsv' attempts.jsonl
    jq -c 'select(.event=="moment") | [.at, .done, .in_flight, .lanes[0].limit]' events.jsonl
    jq -s 'map(select(.event=="moment").lanes[].phases.total // {} | to_entries[]) | group_by(.key|tonumber)
           | map({seconds: (0.0001 * pow(1.05; (.[0].key|tonumber) + 0.5)), n: (map(.value)|add)})' events.jsonl
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from batchrunner.core.buckets import Buckets, merged

VERSION = 1


# ---- attempts.jsonl ----


class SessionLine(Struct, frozen=True, kw_only=True, tag="session", tag_field="event"):
    """The first line of each session in attempts.jsonl."""

    v: int = VERSION
    session: int
    wall: str  # ISO 8601, UTC: what `at` counts from
    log_attempts: str  # failed, sample or all


class AttemptLine(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="attempt", tag_field="event"):
    """One attempt. What is not known, empty or 0 is left out."""

    v: int
    session: int
    at: float  # when it ended
    line: int
    id: str
    endpoint: str
    model: str = ""
    number: int  # 1 for the first sending
    kind: str  # `core.model.Kind`
    status: int = 0
    code: str = ""  # the provider's own, or the cause on the wire: dns, refused, reset, timeout, …
    message: str = ""  # cut after 300 characters
    phase: str = ""  # where it ended: connect, write, first_byte, body; "" for a complete answer
    queue: float | None = None  # waited for a place after it was due; the five phases add up to what the request waited
    connect: float | None = None  # name, TCP, TLS, proxy; left out on a reused connection
    write: float | None = None  # until the request was written; left out where it went in one piece
    first_byte: float | None = None  # from there to the reply's first byte; of a stream, to its first word
    body: float | None = None  # from there to the end
    seconds: float  # from its start to its end, the queue not counted
    stream: bool = False
    reused: bool = False  # on a connection that an earlier request had made
    deadline: float | None = None  # of a timeout: the age at which our own deadline struck
    why: str = ""  # and where that deadline came from
    wait: float | None = None  # the pause that the server asked for
    again: bool = False  # the request is sent again
    request_id: str = ""
    twin: bool = False  # sent beside one of the same line that was still under way
    billed: bool = False  # it failed, and may be on the bill
    prompt: int = 0  # tokens of the prompt, guessed from its bytes
    tokens_in: int = 0
    tokens_out: int = 0
    stands_for: int = 1  # of a sampled success: so many like it were not written


# ---- events.jsonl ----


class Start(Struct, frozen=True, kw_only=True, tag="start", tag_field="event"):
    """The first line of each session in events.jsonl."""

    v: int = VERSION
    session: int
    wall: str  # ISO 8601, UTC: what `at` counts from
    version: str  # of batchrunner
    python: str
    platform: str
    libraries: dict[str, str]  # aiohttp, uvloop, …: name to version
    pid: int
    input: str
    total: int | None  # lines of the input; None while it has not been counted
    resumed: int  # of them done by earlier sessions
    endpoints: list[str]  # names, in order of preference
    simulated: bool
    settings: dict[str, object]  # every option in force by name; what may hold a secret is masked
    origins: dict[str, str] = {}  # where each option came from, as far as known


class LaneMoment(Struct, frozen=True, kw_only=True):
    """One endpoint in a moment."""

    name: str
    attempts: int = 0
    succeeded: int = 0
    pushed_back: int = 0  # attempts answered by rate limited or overloaded
    by_chance: int = 0  # of them, as far as it is known that they would have been whatever was sent
    in_flight: int = 0
    limit: int = 0  # how many may be in flight, as found so far
    state: str = "up"  # up, paused (it asked for a pause), resting (after failures in a row), stopped
    stopped: str = ""  # why it is out of use
    rate: float = 0.0  # requests a second that may go there, told or found out; 0: any number
    own: bool = False  # that rate comes from the headers of the endpoint's own answers
    deadline: float = 0.0  # for a whole first attempt like the last one settled, seconds; 0: none yet
    first_byte_deadline: float = 0.0
    why: str = ""  # where these came from
    phases: dict[str, Buckets] = {}  # good answers: connect, first_byte, body, total. At high rates of a sample
    deaths: Buckets = {}  # ages at which attempts were lost by others: cut, reset, gateway timeout
    kills: Buckets = {}  # ages at which our own deadline ended attempts


class Ourselves(Struct, frozen=True, kw_only=True):
    """The process itself, since the moment before; with workers, all of them together (`together`)."""

    lag: float = 0.0  # the longest time the loop was late, seconds
    cpu: float = 0.0  # cores' worth of CPU time used, by the busiest process
    rss: int = 0  # resident bytes of all; 0: not known
    fds: int = 0  # descriptors open in the process with the most; 0: not known
    most_fds: int = 0  # that may be open; 0: any number
    disk: float = 0.0  # share of the time that results waited for the disk


class Spend(Struct, frozen=True, kw_only=True):
    """Tokens of one model at one endpoint."""

    endpoint: str
    model: str
    requests: int = 0
    input: int = 0
    output: int = 0
    told: float | None = None  # what the provider says it costs, in its own currency


class Size(Struct, frozen=True, kw_only=True):
    """Attempts whose prompt has from `tokens` to 4 · `tokens` tokens (guessed), or whose answer has (counted)."""

    tokens: int
    good: int = 0
    seconds: float = 0.0  # of the good ones, together
    killed: int = 0  # by our own deadline; of answers always 0, for nobody knows how long they would have been


class Judged(Struct, frozen=True, kw_only=True):
    """What became of the requests that our own deadlines ended."""

    kills: int = 0
    right: int = 0  # answered later in less time than they had been given before
    wrong: int = 0  # answered later, and it took longer than they had been given before: a false kill, as far as one can tell
    held: float = 0.0  # seconds that slots were held by attempts we ended
    worked: float = 0.0  # seconds that slots were held by good answers


class Moment(Struct, frozen=True, kw_only=True, tag="moment", tag_field="event"):
    """A snapshot, every few seconds."""

    v: int = VERSION
    session: int
    at: float
    span: float  # seconds since the moment before
    total: int | None
    done: int
    succeeded: int
    failed: int
    invalid: int
    resumed: int
    attempts: int
    retries: int
    recovered: int
    maybe_billed: int
    tokens_in: int
    tokens_out: int
    cost: float | None  # so far; None: not known
    kinds: dict[str, int]  # attempts by what they amounted to
    failures: dict[str, int]  # requests that failed for good, by kind
    causes: dict[str, int]  # attempts without an HTTP answer, by cause on the wire
    in_flight: int
    limit: int
    retrying: int
    oldest: float  # age of the oldest request in flight
    lanes: list[LaneMoment]
    us: Ourselves = Ourselves()
    spend: list[Spend] = []
    prompts: list[Size] = []
    answers: list[Size] = []
    judged: Judged = Judged()
    unsent: int = 0  # requests of this run that came to their end without a sending
    untold: int = 0  # answers that do not say how many tokens they used
    room: int = 0  # in flight at each endpoint that open files leave room for; 0: for as many as are wanted

    @property
    def asked(self) -> int:
        """Requests of this run that were sent and need nothing more."""
        return self.done - self.resumed - self.unsent


def together(run: Ourselves, workers: Sequence[Ourselves]) -> Ourselves:
    """A run and its workers as one: each figure is that of the process that will be the first in trouble, memory is the sum."""
    each = [run, *workers]
    return replace(
        run,
        lag=max(one.lag for one in each),
        cpu=max(one.cpu for one in each),
        rss=sum(one.rss for one in each),
        fds=max(one.fds for one in each),
    )


def joined(first: Moment, second: Moment) -> Moment:
    """Two moments in a row as one."""
    before = {lane.name: lane for lane in first.lanes}
    us = replace(
        second.us,
        lag=max(first.us.lag, second.us.lag),
        cpu=_mean(first, second, first.us.cpu, second.us.cpu),
        disk=_mean(first, second, first.us.disk, second.us.disk),
    )
    lanes = [_joined_lane(before[lane.name], lane) if lane.name in before else lane for lane in second.lanes]
    return replace(second, span=first.span + second.span, lanes=lanes, us=us)


def _mean(first: Moment, second: Moment, one: float, other: float) -> float:
    span = first.span + second.span
    return round((one * first.span + other * second.span) / span, 3) if span else other


def _joined_lane(first: LaneMoment, second: LaneMoment) -> LaneMoment:
    names = [*first.phases, *(name for name in second.phases if name not in first.phases)]
    return replace(
        second,
        phases={name: merged((first.phases.get(name, {}), second.phases.get(name, {}))) for name in names},
        deaths=merged((first.deaths, second.deaths)),
        kills=merged((first.kills, second.kills)),
    )


class Finding(Struct, frozen=True, kw_only=True):
    """One question of the diagnosis and its answer."""

    code: str  # network, request, service, server, proxy, us, timeouts_short, timeouts_long
    question: str
    verdict: str  # yes, no, unknown
    said: str  # one sentence, with the number behind it
    remedy: str = ""  # what to do, with the option or command


class End(Struct, frozen=True, kw_only=True, tag="end", tag_field="event"):
    """The last line of a session. It is missing when the process was killed."""

    v: int = VERSION
    session: int
    at: float
    wall: str
    stopped: str | None
    exit_code: int
    summary: dict[str, object]  # as in summary.json
    findings: list[Finding] = []


TrailLine = Start | Moment | End
"""A line of events.jsonl."""
