"""Where settings come from, and how text becomes a value.

Rules:

1. First come, first served: command line (or argument) > environment > `--config FILE` > `batchrunner.toml` or
   `[tool.batchrunner]` in the current directory > the user's file > default. Nothing else is read, ever.
2. A name nobody knows is an error (E001), not a typo that waits; so is a value that does not fit (E002).
   Both say where they stand. Variables alone may be strange, for others also name theirs BATCHRUNNER_something, but not all
   but the name of one of ours: that is a typo.
3. What may hide a secret is not repeated in an error.
"""

import os
import re
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from batchrunner.core import units
from batchrunner.core.cost import price_table
from batchrunner.core.selection import array_piece, condition, piece
from batchrunner.core.service import check_variables
from batchrunner.core.stopping import cap_of
from batchrunner.core.template import Template
from batchrunner.errors import UsageError, misfit, nearest
from batchrunner.rendering import params
from batchrunner.roster import NAME, roster
from batchrunner.settings import FOREIGN, MASK, OPTIONS, PREFIX, SECRETIVE, Option, PriceRow, Settings, masked

COMMAND_LINE = "command line"
ARGUMENT = "argument"
FILE = "file "
ALL_BUT = 0.85  # how like the name of ours a variable must be to be taken for a typo
PROJECT_FILE, SHARED_FILE = "batchrunner.toml", "pyproject.toml"


class Given(Struct, frozen=True):
    """A value as it was given, and where. `label` is what the person typed there."""

    value: Any
    origin: str
    label: str


class Resolved(Struct, frozen=True):
    """Settings in force, and where each comes from."""

    settings: Settings
    origins: dict[str, str]


_READ: Mapping[Any, Callable[[str], Any]] = {
    "seconds": units.duration,
    "bytes": units.size,
    "count": units.count,
    bool: units.truth,
    int: units.count,
    float: units.number,
    tuple: lambda text: (text,),
}
_EXAMPLES = {
    "seconds": "30s, 2m, 1h30m, 500ms",
    "bytes": "4096, 64KiB, 256MiB",
    "count": "8, 40k",
    bool: "true, false",
    int: "8, 40k",
    "hedge": "1%, 20",
    "max_failures": "200, 5%",
    "header": "X-Team=research",
    "param": "temperature=0",
    "price": "gpt-x-mini=0.15/0.60",
    "prompt": "'Summarise: {bio}'",
    "shard": "3/8",
    "where": 'body.model == "x", "draft" not in custom_id and line > 100',
}


def _check_header(items: tuple[str, ...]) -> None:
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\r\n\0]", value):
            raise ValueError("is not NAME=VALUE")


_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "api_key_env": check_variables,
    "header": _check_header,
    "hedge": cap_of,
    "max_failures": cap_of,
    "param": params,
    "price": price_table,
    "prompt": Template.of,
    "shard": piece,
    "system": Template.of,
    "where": condition,
}
"""What a type cannot say of a value."""


def _check_number(each: Option, number: float) -> None:
    if number < each.least or (each.auto and number == 0):
        raise ValueError(f"is too small: at least {each.least:g}" if each.least else "must be more than 0")
    if not isfinite(number):
        raise ValueError("is not a finite number")


def _value(each: Option, raw: Any) -> Any:
    """A value as given to one that may be used. Raises ValueError with the end of a sentence."""
    if isinstance(raw, os.PathLike):
        raw = os.fspath(raw)
    if each.auto and raw == "auto":
        return raw
    if isinstance(raw, str):
        read = _READ.get(each.unit) or _READ.get(each.type)
        raw = read(raw.strip()) if read else raw
    if each.choices and raw not in each.choices:
        raise ValueError(f"is not one of {', '.join(each.choices)}")
    if isinstance(raw, int | float):
        _check_number(each, raw)
    try:
        value = msgspec.convert(raw, each.annotation)
    except msgspec.ValidationError as error:
        raise ValueError(f"does not fit: {misfit(error)}") from None
    _CHECKS.get(each.name, bool)(value)
    if each.name in SECRETIVE:
        _refuse_mask(each.name, value)
    return value


def _refuse_mask(name: str, value: Any) -> None:
    """What stands for a secret is not sent in its place."""
    shown = masked(name, value)
    same = {shown} & {value} if isinstance(value, str) else {*shown} & {*value}
    if any(MASK in item for item in same):
        raise ValueError(f"holds {MASK} for something that is not shown: put that in")


def _convert(each: Option, given: Given) -> Any:
    try:
        return _value(each, given.value)
    except ValueError as error:
        items = given.value if each.type is tuple and isinstance(given.value, list | tuple) else [given.value]
        told = "the value" if each.name in SECRETIVE else ", ".join(map(repr, items))
        examples = ", ".join(each.choices) or _EXAMPLES.get(each.name) or _EXAMPLES.get(each.unit) or _EXAMPLES.get(each.type)
        hint = f"Examples: {examples}{', auto' if each.auto else ''}" if examples else ""
        raise UsageError("E002", f"{given.label}: {told} {error}.", hint) from None


def _typed(flags: Mapping[str, Any], origin: str) -> dict[str, Given]:
    for name in flags:
        if name not in OPTIONS and name != NAME:
            raise UsageError("E001", f"{name}: no such setting.", nearest(name, OPTIONS))
    return {
        name: Given(value, origin, OPTIONS[name].flags[-1] if origin == COMMAND_LINE and name in OPTIONS else name)
        for name, value in flags.items()
        if value is not None
    }


def _environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """What the environment says. An empty variable says nothing; a list has one item per line, or is a JSON list."""
    found = {}
    for name, each in OPTIONS.items():
        variable = next((key for key in (each.variable, FOREIGN.get(name, "")) if environ.get(key)), None)
        if variable:
            text = environ[variable].strip()
            value = _items(text, variable) if each.type is tuple else text
            found[name] = Given(value, f"environment {variable}", variable)
    _refuse_typos(environ)
    return found


def _refuse_typos(environ: Mapping[str, str]) -> None:
    ours = {each.variable.removeprefix(PREFIX): each for each in OPTIONS.values()}
    for variable in environ:
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and name not in ours and (meant := nearest(name, ours, ALL_BUT)):
            raise UsageError("E001", f"{variable}: no such setting.", meant.replace("mean ", f"mean {PREFIX}"))


def _items(text: str, variable: str) -> list[str]:
    if not text.startswith("["):
        return text.splitlines()
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        raise UsageError("E002", f"{variable}: the value is not a JSON list of strings.", 'Examples: ["one", "two"]') from None


def _file(path: Path | None, kind: str = FILE, table: tuple[str, ...] = ()) -> dict[str, Given]:
    """What a TOML file, or a table in it, says. Raises UsageError for a name that is no setting."""
    content = _priced(_toml(path, table), path) if path else {}
    for name in content:
        if name not in OPTIONS and name != NAME:
            raise UsageError("E001", f"{path}: {name}: no such setting.", nearest(name, [*OPTIONS, NAME]))
    return {name: Given(value, f"{kind}{path}", f"{name} in {path}") for name, value in content.items()}


def _priced(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The table `prices` as the items of the option `price` that it stands for."""
    if "prices" not in content:
        return content
    try:
        rows = msgspec.convert(content.pop("prices"), dict[str, PriceRow])
    except msgspec.ValidationError as error:
        hint = '[prices."MODEL"]\ninput = 0.15\noutput = 0.60'
        raise UsageError("E002", f"{path}: prices: {misfit(error)}.", hint) from None
    items = [f"{model}={row.input!r}/{row.output!r}" for model, row in rows.items()]
    more = content.get("price", [])
    return {**content, "price": [*([more] if isinstance(more, str) else more), *items]}


def _toml(path: Path, table: tuple[str, ...]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        import tomllib  # most directories hold no file

        content: Any = tomllib.loads(text)
        for key in table:
            content = content.get(key, {})
        return dict(content)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UsageError("E002", f"{path}: cannot be read as TOML: {error}.") from None
    except (AttributeError, TypeError):
        raise UsageError("E002", f"{path}: [{'.'.join(table)}] is not a table.") from None


def _project(directory: Path) -> dict[str, Given]:
    """The current directory's file; only where there is none, its pyproject.toml."""
    own = directory / PROJECT_FILE
    return _file(own) if own.exists() else _file(directory / SHARED_FILE, table=("tool", "batchrunner"))


def _named(path: str | None, directory: Path) -> dict[str, Given]:
    """The file that `--config` names."""
    if not path:
        return {}
    chosen = directory / path
    if not chosen.exists():
        raise UsageError("E002", f"--config: {path} does not exist.")
    return _file(chosen, table=("tool", "batchrunner") if chosen.name == SHARED_FILE else ())


def user_file(environ: Mapping[str, str]) -> Path | None:
    """Where the user's own settings are, by the XDG rules: normally ~/.config/batchrunner/config.toml."""
    folder, home = environ.get("XDG_CONFIG_HOME") or "", environ.get("HOME") or environ.get("USERPROFILE")
    if not Path(folder).is_absolute():
        folder = f"{home}/.config" if home else ""
    return Path(folder, "batchrunner", "config.toml") if folder else None


def resolve(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    cwd: Path,
    user_config: Path | None = None,
    origin: str = COMMAND_LINE,
) -> Resolved:
    """Settings from every place that may say something.

    `flags` maps option names to text, lists, booleans or values as the library gets them; None says nothing.
    `input` and `config` (a file) may be among them. Raises UsageError: E001 no such setting, E002 bad value, E003 contradiction.
    """
    typed = dict(flags)
    path, config = typed.pop("input", ""), typed.pop("config", None)
    layers = (_file(user_config, "user file "), _project(cwd), _named(config, cwd), _environment(environ), _typed(typed, origin))
    given: dict[str, Given] = {}
    for layer in layers:
        given = _over(given, layer)
    rows = given.pop(NAME, None)
    told = {name: _convert(OPTIONS[name], found) for name, found in _situated(given, environ).items()}
    settings = _assembled(os.fspath(path), told)
    if rows:
        place = rows.label.removeprefix(NAME).removeprefix(" in ")
        service = msgspec.structs.replace(settings.service, endpoints=roster(rows.value, place))
        settings = msgspec.structs.replace(settings, service=service)
    _refuse_contradictions(settings)
    told_by = {name: given[name].origin if name in given else "default" for name in OPTIONS}
    return Resolved(settings, {**told_by, NAME: rows.origin} if rows else told_by)


def _over(given: dict[str, Given], layer: dict[str, Given]) -> dict[str, Given]:
    """What a layer above says goes first; addresses of one kind displace those of the other."""
    kinds = ("base_url", NAME)
    if all(kind in layer for kind in kinds):
        raise UsageError(
            "E003", f"{layer[NAME].label}: base_url and endpoint say the same thing twice.", "Take one of them away."
        )
    displaced = kinds if any(kind in layer for kind in kinds) else ()
    return {name: value for name, value in given.items() if name not in displaced} | layer


def _situated(given: dict[str, Given], environ: Mapping[str, str]) -> dict[str, Given]:
    """With a shard that the environment is to tell."""
    if "shard" not in given:
        return given
    shard = given["shard"]
    try:
        return {**given, "shard": msgspec.structs.replace(shard, value=array_piece(str(shard.value), environ))}
    except ValueError as error:
        raise UsageError("E002", f"{shard.label}: {shard.value} {error}.", "Examples: 3/8, auto, auto/8") from None


def _assembled(path: str, told: Mapping[str, Any]) -> Settings:
    sections: dict[str, dict[str, Any]] = {}
    for name, value in told.items():
        sections.setdefault(OPTIONS[name].section, {})[name] = value
    own = sections.pop("", {})
    defaults = Settings()
    parts = {section: msgspec.structs.replace(getattr(defaults, section), **fields) for section, fields in sections.items()}
    return Settings(input=path, **own, **parts)


def _outlasts(settings: Settings) -> bool:
    whole, first = settings.timeouts.timeout, settings.timeouts.first_byte_timeout
    return isinstance(whole, float) and isinstance(first, float) and first > whole


_CONTRADICTIONS: tuple[tuple[Callable[[Settings], bool], str], ...] = (
    (_outlasts, "first_byte_timeout is longer than timeout, which is for a whole attempt."),
    (lambda each: each.display.quiet and each.display.verbose, "quiet and verbose exclude each other."),
    (
        lambda each: each.records.strict_openai and each.records.output_format == "cookbook",
        "strict_openai leaves out what output_format cookbook needs to find a line again.",
    ),
    (
        lambda each: each.display.json and each.output == "-",
        "stdout can carry the results (output -) or the summary (json), not both.",
    ),
    (
        lambda each: each.service.via == "batch" and bool(each.slimming.max_image_px or each.slimming.max_prompt_tokens),
        "a batch service (via batch) gets the lines as they are: max_image_px and max_prompt_tokens are for calls.",
    ),
    (
        lambda each: each.service.via == "batch" and bool(each.spending.max_cost or each.spending.max_tokens_total),
        "a batch (via batch) is paid for as a whole: max_cost and max_tokens_total are for calls; to spend step by step: limit.",
    ),
)


def _refuse_contradictions(settings: Settings) -> None:
    for found, message in _CONTRADICTIONS:
        if found(settings):
            raise UsageError("E003", message, "Where each comes from: batchrunner config show --origin")
