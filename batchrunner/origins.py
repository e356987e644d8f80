"""Where settings come from, and which of several places is heard.

Rules:

1. First come, first served: command line (or argument) > environment > `--config FILE` > `batchrunner.toml` or
   `[tool.batchrunner]` in the current directory > the user's file > default. Nothing else is read, ever.
2. A name nobody knows is an error (E001) that says where it stands, not a typo that waits. Variables alone may be strange, for
   others also name theirs BATCHRUNNER_something, but not all but the name of one of ours: that is a typo.
3. What is in force becomes a value (`conversion`), and all values together settings (`contradictions`). What another place
   displaces is not looked at.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from batchrunner.contradictions import HOOKS, refuse_contradictions
from batchrunner.conversion import Given, at_home, convert
from batchrunner.core.selection import array_piece
from batchrunner.disk import why
from batchrunner.errors import UsageError, misfit, nearest
from batchrunner.roster import NAME, roster
from batchrunner.settings import FOREIGN, OPTIONS, PREFIX, PriceRow, Settings

COMMAND_LINE = "command line"
ARGUMENT = "argument"
FILE = "file "
ALL_BUT = 0.85  # how like the name of ours a variable must be to be taken for a typo
_SETTING = 'One setting a line: max_time = "2h"'
PROJECT_FILE, SHARED_FILE = "batchrunner.toml", "pyproject.toml"


class Resolved(Struct, frozen=True):
    """Settings in force, and where each comes from."""

    settings: Settings
    origins: dict[str, str]


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
    items, place = [], "prices"
    try:
        for model, found in msgspec.convert(content.pop("prices"), dict[str, Any]).items():
            place = f'prices."{model}"'
            row = msgspec.convert(found, PriceRow)
            items.append(f"{model}={row.input!r}/{row.output!r}")
    except msgspec.ValidationError as error:
        hint = '[prices."MODEL"]\ninput = 0.15\noutput = 0.60'
        raise UsageError("E002", f"{path}: {place}: {misfit(error)}.", hint) from None
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
    except OSError as error:
        raise UsageError("E002", f"{path}: cannot be read: {why(error)}.", "A file is wanted there, or none.") from None
    except ValueError as error:
        raise UsageError("E002", f"{path}: cannot be read as TOML: {error}.", _SETTING) from None
    except (AttributeError, TypeError):
        raise UsageError("E002", f"{path}: [{'.'.join(table)}] is not a table.", _SETTING) from None


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
    told = {name: convert(OPTIONS[name], found) for name, found in _situated(given, environ).items()}
    settings = _assembled(at_home(os.fspath(path)), told)
    if rows:
        place = rows.label.removeprefix(NAME).removeprefix(" in ")
        service = msgspec.structs.replace(settings.service, endpoints=roster(rows.value, place))
        settings = msgspec.structs.replace(settings, service=service)
    by_hand = {name for name, value in typed.items() if value is not None}
    refuse_contradictions(settings, by_hand - HOOKS if origin == ARGUMENT else by_hand)
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
