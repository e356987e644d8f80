"""The help, made from the table of settings.

Rules:

1. `short` is one screen: what people need on most days, each in its first few words. `full` holds everything there is, `of` what
   is a verb's own.
2. Frames are written by hand, option lines never: they follow from `OPTIONS`.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from msgspec import structs

from batchrunner.core.wording import size
from batchrunner.settings import OPTIONS, Option

COLUMN = 36
_VERBS = """\
usage: batchrunner [run] INPUT [options]
       batchrunner check INPUT     validate, count, estimate; send nothing
       batchrunner retry INPUT     send again what failed and can succeed
       batchrunner status INPUT    how the job stands
       batchrunner report INPUT    its page anew: what happened and why
       batchrunner diagnose INPUT  why it was slow or failed; or --base-url URL
       batchrunner export INPUT FILE  the results as a table
       batchrunner explain WORD    a code, a kind of failure, a topic (slurm)
"""
_MORE_VERBS = """\
       batchrunner submit INPUT    by the provider's Batch API (run --via batch)
       batchrunner simulate        an endpoint to rehearse with: --port N --profile NAME --seed N
       batchrunner config show     settings in force; --origin says where each comes from
       batchrunner merge FILE …    join result files, one record a request: -o OUT [--input INPUT]
       batchrunner help VERB       what a command does, and its own options
       batchrunner completion SH   for bash, zsh or fish: source <(batchrunner completion bash)
"""
_INTRODUCTION = """
Run a file of requests to the end, resumable. The same command again continues.

  batchrunner jobs/input.jsonl                     as fast as the server allows
  batchrunner jobs/input.jsonl --limit 20          try the first 20
  batchrunner jobs/input.jsonl --base-url A --base-url B      B when A is down
"""
_SHORT_END = """
All options: --help    Those of a command: batchrunner help VERB
Where each comes from: batchrunner config show --origin
Exit: 0 all succeeded · 1 some failed for good · 2 wrong usage or input
      and resumable: 3 stopped early · 4 local fault · 130/143 signal
"""
_OTHER = """
Other options
      --config FILE                 read settings from this TOML file too
      --dry-run                     the same as check
      --version                     print the version
  -h, --help                        one screen, or all of this

"""
_OWN: Mapping[str, str] = {
    "retry": """\
      --all                         send everything again that failed
      --kind KIND                   only failures of this kind; may be repeated
      --done FILE …                 output files of a batch of a provider's or vLLM's, failed or
      --errors FILE …               expired: take over what they answer, send only what they lack
""",
    "export": """\
      --columns A,B,C               custom_id, text, error, status, kind, model, usage.NAME,
                                    usage.*, json.PATH, body.PATH, or any place in a record
      --as csv|tsv|md|txt|parquet   whatever the ending of FILE says
""",
    "merge": """\
      --input INPUT                 count what INPUT asks and no file answers
""",
    "simulate": """\
      --port N                      where to listen on 127.0.0.1 [8765]
      --profile calm|flaky|storm    how it behaves [calm]
      --seed N                      another seed, other faults [1]
""",
    "config": """\
      --origin                      say where each setting comes from
      show | schema                 the settings in force, or the JSON schema of the file
""",
}
"""Options that one verb has alone."""
_ELSE = """
The options of a run, settings, exit codes: batchrunner --help
"""
_FULL_END = """
Where settings come from, first come, first served
  1. the command line
  2. the environment: BATCHRUNNER_MAX_ATTEMPTS=3 for --max-attempts 3; OPENAI_BASE_URL for --base-url
  3. the file named by --config
  4. max_attempts = 3 in batchrunner.toml, or in [tool.batchrunner] of pyproject.toml,
     of the current directory
  5. the user's own ~/.config/batchrunner/config.toml
  T is seconds, or 500ms, 30s, 2m, 1h30m; SIZE is bytes, or 64KiB, 1GiB; N may be 40k.
  --no-NAME turns off what a file or variable has turned on: --no-quiet.
  The key is read from the variable that --api-key-env names, and from nowhere else.

Signals
  SIGINT or SIGTERM once: no new requests, those in flight may finish;
  twice: drop them; three times: leave at once.
  SIGUSR1: print one block of status.

Exit codes
  0 every request succeeded · 1 finished, some failed for good · 2 wrong usage, settings or input
  3 stopped early by an endpoint or by a cap of yours · 4 a fault of disk or file, or one of ours
  130/143 stopped by SIGINT/SIGTERM · after 3, 4, 130 and 143 the same command continues
"""


def verbs(known: Iterable[str]) -> dict[str, str]:
    """Each verb with its line of the help."""
    told = {verb: does for _, verb, does in _told()}
    return {verb: told.get(verb, "a run, which is what a command without a verb is") for verb in known}


def _told() -> list[tuple[str, str, str]]:
    """A command as it is typed, its verb, and what it does."""
    return re.findall(r"^ +(batchrunner (\w+)(?: \S+)*?) {2,}(.*)$", _VERBS + _MORE_VERBS, re.MULTILINE)


def short(width: int = 100) -> str:
    """One screen."""
    main = {name: structs.replace(each, help=re.split("[;:] ", each.help)[0]) for name, each in OPTIONS.items() if each.main}
    return f"{_VERBS}{_INTRODUCTION}\n{_listed(main, width)}{_SHORT_END.rstrip()}"


def full(width: int = 100) -> str:
    """Everything."""
    own = "".join(f"Of {verb}\n{options}" for verb, options in _OWN.items())
    return f"{_VERBS}{_MORE_VERBS}{_INTRODUCTION}\n{_listed(OPTIONS, width)}{_OTHER}{own}{_FULL_END.rstrip()}"


def of(verb: str, width: int = 100) -> str:
    """One verb; all there is for that of a run."""
    typed, does = next(((typed, does) for typed, known, does in _told() if known == verb), ("", ""))
    own = f"\n{_OWN[verb]}" if verb in _OWN else ""
    return f"usage: {typed} [options]\n\n  {does}\n{own}{_ELSE.rstrip()}" if typed else full(width)


def written(each: Option) -> str:
    """An option's default, as a person would write it; "" for nothing."""
    value = each.default
    if value in ((), "", False) or (value == 0 and not each.auto):
        return ""
    if each.unit == "seconds" and value != "auto":
        return f"{value / 60:g}m" if value % 60 == 0 else f"{value:g}s"
    if each.unit == "bytes":
        return size(value).replace(" ", "")
    return str(value)


def _listed(options: Mapping[str, Option], width: int) -> str:
    groups = groupby(options.values(), key=lambda each: each.group)
    return "\n".join(line for group, members in groups for line in (group, *(_line(each, width) for each in members))) + "\n"


def _line(each: Option, width: int) -> str:
    """`  -c, --concurrency auto|N   what it does [default]`, continued below where it is long."""
    flags = ", ".join(each.flags) if len(each.flags) > 1 else f"    {each.flags[0]}"
    left = f"  {flags} {each.metavar}".rstrip()
    default = written(each)
    said = textwrap.wrap(f"{each.help} [{default}]" if default else each.help, max(width - COLUMN, 30))
    first = [] if len(left) < COLUMN - 1 else [left]
    lines = list(_columns("" if first else left, said))
    return "\n".join([*first, *lines])


def _columns(left: str, said: list[str]) -> Iterator[str]:
    for line in said:
        yield f"{left:<{COLUMN}}{line}"
        left = ""
