"""The policy structs put together, and the table of settings that follows from them.

Rules:

1. Each policy lives beside the code that obeys it. `OPTIONS`, derived from them, is the only table of settings:
   command line, environment, configuration files, documentation and schema all come from it.
2. Seconds, bytes and tokens throughout; people may write 30s, 2m, 1h30m, 500ms, 64MiB, 40k (`core.units`).
3. A key is never a setting. What may hide one (headers, addresses with a password) is shown masked (`masking`).
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from batchrunner.attempts import Keeping
from batchrunner.core.cost import Spending
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.hedging import Hedging
from batchrunner.core.limit import Concurrency
from batchrunner.core.pace import Pacing
from batchrunner.core.policy import Auto, Group, Unit, option
from batchrunner.core.retry import Retries
from batchrunner.core.service import COUNTS, Connection, EndpointRow, Service
from batchrunner.core.stopping import Stopping
from batchrunner.core.streaming import Streaming
from batchrunner.crew import Processes
from batchrunner.expectation import Expectation
from batchrunner.foreign import OutputFormat
from batchrunner.journal import Durability
from batchrunner.masking import masked
from batchrunner.progress import Display
from batchrunner.rendering import Rendering
from batchrunner.reuse import Reusing
from batchrunner.slimming import Slimming
from batchrunner.source import Intake

SHORT = {"output": "-o", "concurrency": "-c", "quiet": "-q", "verbose": "-v"}
PREFIX = "BATCHRUNNER_"  # of the variables of our options
FOREIGN = {"base_url": "OPENAI_BASE_URL"}
"""Variables of the OpenAI SDK that fill an option of ours when our own variable is not set."""


class Records(Struct, frozen=True, kw_only=True):
    """What a line of the output holds."""

    strict_openai: Annotated[
        bool, option("leave our own facts out of each result line", group="Input and output", main=False)
    ] = False
    ordered: Annotated[
        bool,
        option(
            "results in the order of the input; files are put in it when the run has ended", group="Input and output", main=False
        ),
    ] = False
    output_format: Annotated[
        OutputFormat,
        option(
            "dialect of result lines, whatever the input's: openai, azure, mistral, vllm, anthropic, cookbook; "
            "auto goes on in that of the output, and begins in OpenAI's",
            group="Input and output",
            metavar="auto|NAME",
            main=False,
        ),
    ] = "auto"


class PriceRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[prices."MODEL"]` in a file: another way to write `price`."""

    input: Annotated[float, Meta(description="price of a million tokens of the prompt", ge=0)]
    output: Annotated[float, Meta(description="price of a million tokens of the answer", ge=0)] = 0.0


class Settings(Struct, frozen=True, kw_only=True):
    """Everything a run is told. `input` and `output` are paths; an empty `output` stands beside the input."""

    input: str = ""
    output: Annotated[
        str, option("where results go, by default beside the input; - is stdout", group="Input and output", metavar="FILE")
    ] = ""
    fresh: Annotated[bool, option("start over and ignore earlier results", group="Input and output")] = False
    changed: Annotated[
        Literal["refuse", "rerun", "keep"],
        option(
            "a finished line that was edited since: stop, send it again, or keep its result",
            group="Input and output",
            metavar="refuse|rerun|keep",
            main=False,
        ),
    ] = "refuse"
    service: Service = Service()
    connection: Connection = Connection()
    concurrency: Concurrency = Concurrency()
    hedging: Hedging = Hedging()
    pacing: Pacing = Pacing()
    processes: Processes = Processes()
    timeouts: Timeouts = Timeouts()
    streaming: Streaming = Streaming()
    retries: Retries = Retries()
    stopping: Stopping = Stopping()
    intake: Intake = Intake()
    rendering: Rendering = Rendering()
    durability: Durability = Durability()
    records: Records = Records()
    expectation: Expectation = Expectation()
    reusing: Reusing = Reusing()
    slimming: Slimming = Slimming()
    spending: Spending = Spending()
    keeping: Keeping = Keeping()
    display: Display = Display()

    def __repr__(self) -> str:
        told = [f"{name}={masked(name, value)!r}" for name, value in values(self).items() if value != OPTIONS[name].default]
        return f"Settings({', '.join([repr(self.input), *told])})"


class Option(Struct, frozen=True, kw_only=True):
    """One setting, as all the places where it can be given see it."""

    name: str
    section: str  # the attribute of `Settings` that holds its struct; "" for one of `Settings` itself
    type: Any  # str, bool, int, float, tuple, or Literal
    annotation: Any  # the same with its bounds, for msgspec
    auto: bool
    choices: tuple[str, ...]
    least: float
    positive: bool  # that 0 is no value
    default: Any
    help: str
    group: Group
    unit: Unit
    metavar: str
    main: bool
    bare: str

    @property
    def flags(self) -> tuple[str, ...]:
        """`-o`, `--output`."""
        long = "--" + self.name.replace("_", "-")
        return (SHORT[self.name], long) if self.name in SHORT else (long,)

    @property
    def variable(self) -> str:
        """The option's own environment variable."""
        return PREFIX + self.name.upper()


def _described(name: str, section: str, annotation: Any, default: Any) -> Option:
    kind, meta = get_args(annotation)
    parts = get_args(kind)
    auto = Auto in parts
    number = next((part for part in parts if part in (int, float)), None)
    return Option(
        name=name,
        section=section,
        type=number or (tuple if default == () else Literal if parts else kind),
        annotation=annotation,
        auto=auto,
        choices=() if number or default == () else parts,
        least=meta.ge if meta.ge is not None else 0,
        positive=auto or meta.gt == 0,
        default=default,
        help=meta.description,
        group=meta.extra["group"],
        unit=meta.extra["unit"],
        metavar=meta.extra["metavar"],
        main=meta.extra["main"],
        bare=meta.extra["bare"],
    )


def _derived() -> Iterator[Option]:
    for field in msgspec.structs.fields(Settings):
        if isinstance(field.default, Struct):
            for inner in msgspec.structs.fields(field.default):
                if get_origin(inner.type) is Annotated:
                    yield _described(inner.name, field.name, inner.type, inner.default)
        elif field.name != "input":
            yield _described(field.name, "", field.type, field.default)


_BY_GROUP = sorted(_derived(), key=lambda each: get_args(Group).index(each.group))
OPTIONS: Mapping[str, Option] = {each.name: each for each in _BY_GROUP}


def values(settings: Settings) -> dict[str, Any]:
    """Every option's value by name, flat."""
    return {name: getattr(getattr(settings, each.section) if each.section else settings, name) for name, each in OPTIONS.items()}


def schema() -> dict[str, Any]:
    """JSON schema of a configuration file, for editors."""
    fields = [(name, Annotated[_toml_type(each), Meta(description=each.help)], each.default) for name, each in OPTIONS.items()]
    tables: list[Any] = [
        ("prices", Annotated[dict[str, PriceRow], Meta(description="prices of models per million tokens")], {}),
        (
            "endpoint",
            Annotated[_written_rows(), Meta(description="endpoints, in order of preference, in place of base_url")],
            [],
        ),
    ]
    whole = msgspec.json.schema(msgspec.defstruct("batchrunner", [*fields, *tables], forbid_unknown_fields=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def _written_rows() -> Any:
    """Rows of endpoints as a file may have them."""
    fields = [(name, _toml_type(OPTIONS[name]) | None, None) for name in COUNTS]
    written = msgspec.defstruct("EndpointRow", fields, bases=(EndpointRow,), kw_only=True)
    written.__doc__ = EndpointRow.__doc__
    return list[written]  # type: ignore[valid-type]


def _toml_type(each: Option) -> Any:
    """What the file may hold for an option: numbers may also be written with their unit, lists as a single item."""
    if each.type is tuple:
        return str | list[str]
    return each.type | str if each.type in (int, float) else get_args(each.annotation)[0]
