"""The verbs: what each command does once its words are understood.

Rules:

1. What runs requests is imported only when requests are to run; help, `config`, `explain` cost no more than a start of Python.
2. A verb returns its exit code and raises BatchError; it prints its answer on stdout, and the verdict of a run on stderr when
   stdout carries the results.
3. The next command to type is said with the options it must repeat (`retyped`); none of them holds a secret.
"""

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from batchrunner import origins
from batchrunner.beside import early
from batchrunner.call import Call, given_before
from batchrunner.core.wording import visible
from batchrunner.crew import WORKER, starting
from batchrunner.errors import BatchError, UsageError, nearest
from batchrunner.masking import masked, rows_shown
from batchrunner.records import written_out
from batchrunner.reopening import Reopen, named, promising, whatever
from batchrunner.report import text
from batchrunner.report.invocation import Invocation
from batchrunner.settings import Settings, schema, values
from batchrunner.summary import Report
from batchrunner.terminal import say, width


def _run(call: Call) -> int:
    if call.own.get("dry_run"):
        return _check(call)
    return _executed(call)


def _submit(call: Call) -> int:
    return _run(msgspec.structs.replace(call, typed={**call.typed, "via": "batch"}))


def _retry(call: Call) -> int:
    kinds, every = call.own.get("kind", []), bool(call.own.get("all"))
    chosen = named(kinds) if kinds else whatever if every else promising
    if kinds and every:
        raise UsageError("E003", "--all and --kind exclude each other.")
    done = [Path(name) for flag in ("done", "errors") for name in call.own.get(flag, [])]
    return _executed(call, Reopen(chosen, done))


def _executed(call: Call, reopen: Reopen | None = None) -> int:
    resolved, again = call.of_job(), call.again()
    said = msgspec.structs.replace(again, own=reopen.words) if reopen else again
    settings = resolved.settings
    with early(WORKER, starting(settings.processes.workers - 1)):
        from batchrunner import foreground

        try:
            ending = foreground.execute(settings, reopen=reopen, origins=resolved.origins, said=said)
        except BatchError as failure:
            if failure.report:
                _conclude(failure.report, settings, said)
            raise
    _conclude(ending, settings, said)
    return ending.exit_code


def _conclude(ending: Report, settings: Settings, said: Invocation) -> None:
    """The last word on a run."""
    show = settings.display
    last = ending.summary.to_json().decode() if show.json else text.final(ending, said, show.quiet, width())
    say(last, sys.stderr if settings.output == "-" else sys.stdout)


def _check(call: Call) -> int:
    settings = call.of_job().settings
    from batchrunner import checking
    from batchrunner.report import preview

    found = checking.check(settings)
    say(
        found.to_json().decode()
        if settings.display.json
        else preview.check(found, call.again(given_before(settings), run=False), width())
    )
    return found.exit_code


def _status(call: Call) -> int:
    settings = call.of_job().settings
    from batchrunner import batch

    ending, typed = batch.status(settings), call.again(given_before(settings))
    say(written_out(ending.to_dict()).decode() if settings.display.json else text.status(ending, typed, width()))
    return ending.exit_code


def _simulate(call: Call) -> int:
    port, seed = (_whole(call, name, default) for name, default in (("port", 8765), ("seed", 1)))
    import asyncio

    from batchrunner import simulator

    profile = msgspec.structs.replace(simulator.profile_named(call.own.get("profile", "calm")), seed=seed)
    ready = partial(say, f"http://127.0.0.1:{port}/v1 answers until Ctrl-C; its answers are simulated", sys.stderr)
    try:
        asyncio.run(simulator.serve(port, profile, ready))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "there is no such port"
        raise UsageError("E002", f"--port: {port} cannot be used: {why}.", "Choose another with --port N") from None
    return 0


def _whole(call: Call, name: str, default: int) -> int:
    said = call.own.get(name, str(default))
    if not (said.isascii() and said.isdigit()):
        raise UsageError("E002", f"--{name}: {said!r} is not a whole number.")
    return int(said)


def _config(call: Call) -> int:
    wanted = call.words[0] if call.words else "show"
    if wanted == "schema":
        say(msgspec.json.format(msgspec.json.encode(schema())).decode())
    elif wanted == "show":
        _show(call)
    else:
        raise UsageError("E001", f"config {wanted}: no such command.", "Try: batchrunner config show --origin")
    return 0


def _show(call: Call) -> None:
    typed = {name: value for name, value in call.typed.items() if name != "json"}
    resolved = origins.resolve(typed, os.environ, Path(), origins.user_file(os.environ))
    shown = {name: masked(name, value) for name, value in values(resolved.settings).items()}
    if rows := rows_shown(resolved.settings.service.endpoints):
        shown["endpoint"] = rows
    told = bool(call.own.get("origin"))
    if call.typed.get("json"):
        known = {name: {"value": value, "origin": resolved.origins[name]} if told else value for name, value in shown.items()}
        say(written_out(known).decode())
        return
    literal = {name: visible(written_out(value).decode()) for name, value in shown.items()}
    wide = max(len(value) for value in literal.values())
    lines = (f"{name:<20} {value:<{wide}}  {visible(resolved.origins[name]) if told else ''}" for name, value in literal.items())
    say("\n".join(line.rstrip() for line in lines))


def _diagnose(call: Call) -> int:
    if not call.words and "base_url" in call.typed:
        return _visited(call)
    settings = call.of_job().settings
    from batchrunner.core.diagnosis import diagnose
    from batchrunner.looking import paths_of
    from batchrunner.replay import last_moments

    paths = paths_of(settings)
    moments = last_moments(paths)
    if not moments:
        hint = "Run the job first, or examine an endpoint: batchrunner diagnose --base-url URL"
        raise UsageError("E201", f"{paths.events}: no run of this job has sent a request by itself.", hint)
    findings = diagnose(moments)
    say(msgspec.json.encode(findings).decode() if settings.display.json else text.diagnosis(findings, call.again(), width()))
    return int(any(finding.verdict == "yes" for finding in findings))


def _visited(call: Call) -> int:
    settings = call.resolved().settings
    from batchrunner import doctor
    from batchrunner.loop import run_loop
    from batchrunner.report.visit import told

    reports = run_loop(doctor.examine(settings, os.environ))
    say(msgspec.json.encode(reports).decode() if settings.display.json else told(reports, width()))
    return max((report.exit_code for report in reports), default=0)


def _completion(call: Call) -> int:
    from batchrunner import completion, usage
    from batchrunner.report import explaining

    shell = call.words[0] if call.words else ""
    if shell not in completion.SHELLS:
        known = ", ".join(completion.SHELLS)
        raise UsageError("E002", f"{shell or 'no shell'}: completion is for {known}.", "Try: batchrunner completion bash")
    words = {
        "explain": explaining.KNOWN,
        "config": ["show", "schema"],
        "completion": completion.SHELLS,
        "simulate": [],
        "help": VERBS,
    }
    flags = completion.flags({name: verb.own for name, verb in VERBS.items()})
    say(completion.script(shell, usage.verbs(VERBS), flags, words).rstrip("\n"))
    return 0


def _merge(call: Call) -> int:
    if not call.words:
        raise UsageError(
            "E201", "no result files were named.", "Try: batchrunner merge a.results.jsonl b.results.jsonl -o all.jsonl"
        )
    settings = call.resolved().settings
    if settings.output in {"", "-"}:
        raise UsageError("E003", "merge has to know where to write.", "Name it: -o all.jsonl; failures go to all.errors.jsonl")
    from batchrunner import merging

    merged = merging.merge([Path(word) for word in call.words], Path(settings.output), call.own.get("input", ""))
    said = [visible(line) for line in str(merged).splitlines()]
    if merged.missing:
        run = msgspec.structs.replace(call.again(), input=call.own["input"], verb="")
        said.append(f"To ask what is missing: {run.command()}")
    say(written_out(merged).decode() if settings.display.json else "\n".join(said))
    return merged.exit_code


def _export(call: Call) -> int:
    if len(call.words) < 2:
        raise UsageError(
            "E201", "export has to know the input and the table to write.", "Try: batchrunner export INPUT table.csv"
        )
    settings = call.resolved().settings
    from batchrunner import export
    from batchrunner.looking import paths_of

    done = export.export(paths_of(settings), call.words[1], call.own.get("columns", ""), call.own.get("as", ""))
    said = written_out(done).decode() if settings.display.json else "\n".join(map(visible, str(done).splitlines()))
    say(said, sys.stderr if call.words[1] == "-" else sys.stdout)
    return 0


def _report(call: Call) -> int:
    settings = call.of_job().settings
    from batchrunner import batch, pages

    ending = batch.status(settings)
    say(str(pages.rebuilt(settings, ending, call.again(given_before(settings)))))
    return 0


def _explain(call: Call) -> int:
    from batchrunner.report import explaining

    wanted = call.words[0] if call.words else ""
    said = explaining.explained(wanted, min(width(), 96)) if wanted else explaining.listing()
    if not said:
        near = nearest(wanted, explaining.KNOWN)
        raise UsageError(
            "E002", f"{wanted!r} is no code, no kind of failure and no topic.", near or "All of them: batchrunner explain"
        )
    say(said)
    return 0


def _help(call: Call) -> int:
    from batchrunner import usage

    verb = call.words[0] if call.words else ""
    if verb and verb not in VERBS:
        raise UsageError("E001", f"{verb}: no such command.", nearest(verb, VERBS) or f"They are: {', '.join(VERBS)}")
    say(usage.of(verb, width()) if verb else usage.short(width()))
    return 0


class Verb(Struct, frozen=True):
    """What a verb does, and the options that only it takes: flag to argparse's keywords."""

    act: Callable[[Call], int]
    own: Mapping[str, Mapping[str, Any]] = {}
    most: int = 1  # words it takes


_FILES = {flag: {"action": "extend", "nargs": "+", "metavar": "FILE"} for flag in ("--done", "--errors")}
VERBS: Mapping[str, Verb] = {
    "run": Verb(_run, {"--dry-run": {"action": "store_true"}}),
    "submit": Verb(_submit),
    "check": Verb(_check),
    "retry": Verb(_retry, {"--all": {"action": "store_true"}, "--kind": {"action": "append"}, **_FILES}),
    "status": Verb(_status),
    "export": Verb(_export, {"--columns": {}, "--as": {"choices": ["csv", "tsv", "md", "txt", "parquet"]}}, 2),
    "merge": Verb(_merge, {"--input": {"metavar": "FILE"}}, sys.maxsize),
    "simulate": Verb(_simulate, {"--port": {}, "--profile": {}, "--seed": {}}),
    "config": Verb(_config, {"--origin": {"action": "store_true"}}),
    "explain": Verb(_explain),
    "diagnose": Verb(_diagnose),
    "report": Verb(_report),
    "completion": Verb(_completion),
    "help": Verb(_help),
}
