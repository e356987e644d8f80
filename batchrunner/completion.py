"""Completion for bash, zsh and fish, made from the table of settings and the verbs: `batchrunner completion SHELL`.

Rules:

1. Nothing is asked of batchrunner while somebody types: the script holds all there is to complete.
2. The first word is a verb or a file, for a command without a verb is a run. (That is why no ready-made generator serves.)
3. Options that name files complete files, options with choices their choices; every word is quoted for its shell.
"""

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from batchrunner.settings import OPTIONS

PATHS = ("FILE", "DIR")
"""How the placeholder of a path begins."""


class Flag(Struct, frozen=True):
    """One option as a shell completes it. `verbs` empty: of every verb."""

    names: tuple[str, ...]
    help: str
    choices: tuple[str, ...] = ()
    valued: bool = False
    files: bool = False  # its value is a path
    verbs: tuple[str, ...] = ()


def flags(own: Mapping[str, Mapping[str, Mapping[str, object]]]) -> list[Flag]:
    """Every option: those of the settings, and each verb's own as `own` tells them (flag to argparse's keywords)."""
    found = [
        Flag(
            each.flags,
            each.help,
            each.choices or (("auto",) if each.auto else ()),
            each.type is not bool and not each.bare,
            each.metavar.startswith(PATHS),
        )
        for each in OPTIONS.values()
    ]
    found += [Flag(("--config",), "read settings from this TOML file too", (), True, True), Flag(("--help",), "all of the help")]
    found.append(Flag(("--version",), "print the version"))
    for verb, options in own.items():
        found += [
            Flag((name,), f"of {verb}", (), words.get("action") != "store_true", str(words.get("metavar")) in PATHS, (verb,))
            for name, words in options.items()
        ]
    return found


def script(shell: str, verbs: Mapping[str, str], options: Iterable[Flag], words: Mapping[str, Iterable[str]]) -> str:
    """The script for a shell. `verbs` are told with their help, `words` are what follows a verb that takes no file."""
    return SHELLS[shell](verbs, list(options), {verb: tuple(each) for verb, each in words.items()})


# ---- bash ----


def _bash(verbs: Mapping[str, str], options: list[Flag], words: Mapping[str, tuple[str, ...]]) -> str:
    valued = [f"    {'|'.join(flag.names)}) {_bash_value(flag)}; return ;;" for flag in options if flag.valued or flag.choices]
    own = [
        f'    {verb}) options+=" {" ".join(name for flag in options if verb in flag.verbs for name in flag.names)}" ;;'
        for verb in verbs
        if any(verb in flag.verbs for flag in options)
    ]
    after = [
        f'    {verb}) mapfile -t COMPREPLY < <(compgen -W {_quoted(" ".join(each))} -- "$word"); return ;;'
        for verb, each in words.items()
    ]
    every = " ".join(name for flag in options if not flag.verbs for name in flag.names)
    lines = [
        "# bash completion for batchrunner",
        "_batchrunner() {",
        '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" verb="${COMP_WORDS[1]}" options',
        '  [[ $word == "=" ]] && word=""',
        '  [[ $before == "=" ]] && before="${COMP_WORDS[COMP_CWORD-2]}"',
        '  case "$before" in',
        *valued,
        "  esac",
        "  if [[ $word == -* ]]; then",
        f"    options={_quoted(every)}",
        '    case "$verb" in',
        *own,
        "    esac",
        '    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")',
        "    return",
        "  fi",
        "  compopt -o filenames 2> /dev/null",
        "  if (( COMP_CWORD == 1 )); then",
        f'    mapfile -t COMPREPLY < <(compgen -W {_quoted(" ".join(verbs))} -- "$word"; compgen -f -- "$word")',
        "    return",
        "  fi",
        '  case "$verb" in',
        *after,
        "  esac",
        '  mapfile -t COMPREPLY < <(compgen -f -- "$word")',
        "}",
        "complete -F _batchrunner batchrunner",
    ]
    return "\n".join(lines) + "\n"


def _bash_value(flag: Flag) -> str:
    if flag.files:
        return 'compopt -o filenames 2> /dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$word")'
    return (
        f'mapfile -t COMPREPLY < <(compgen -W {_quoted(" ".join(flag.choices))} -- "$word")' if flag.choices else "COMPREPLY=()"
    )


# ---- zsh ----


def _zsh(verbs: Mapping[str, str], options: list[Flag], words: Mapping[str, tuple[str, ...]]) -> str:
    told = " ".join(_quoted(f"{verb}:{said.replace(':', ' ')}") for verb, said in verbs.items())
    own = [
        f"    {verb}) specs+=({' '.join(spec for flag in options if verb in flag.verbs for spec in _zsh_specs(flag))}) ;;"
        for verb in verbs
        if any(verb in flag.verbs for flag in options)
    ]
    after = [f"    {verb}) rest={_quoted('*:word:(' + ' '.join(each) + ')')} ;;" for verb, each in words.items()]
    lines = [
        "#compdef batchrunner",
        "_batchrunner() {",
        "  local -a verbs specs",
        "  local rest='*:input:_files'",
        f"  verbs=({told})",
        "  if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then",
        "    _describe -t verbs verb verbs",
        "    _files",
        "    return",
        "  fi",
        "  specs=(",
        *(f"    {spec}" for flag in options if not flag.verbs for spec in _zsh_specs(flag)),
        "  )",
        '  case "$words[2]" in',
        *own,
        "  esac",
        '  case "$words[2]" in',
        *after,
        "  esac",
        "  if (( ${verbs[(I)$words[2]:*]} )); then",
        "    shift words",
        "    (( CURRENT-- ))",
        "  fi",
        '  _arguments -s "$specs[@]" "$rest"',
        "}",
        'if [[ $funcstack[1] == _batchrunner ]]; then _batchrunner "$@"; else compdef _batchrunner batchrunner; fi',
    ]
    return "\n".join(lines) + "\n"


def _zsh_specs(flag: Flag) -> list[str]:
    """`'--sync=[help]:value:(a b)'` for each name; the same option may come again."""
    said = flag.help.replace("[", "(").replace("]", ")").replace(":", " ")
    value = (
        ":file:_files"
        if flag.files
        else f":value:({' '.join(flag.choices)})"
        if flag.choices
        else ":value: "
        if flag.valued
        else ""
    )
    return [_quoted(f"*{name}{'=' if value and name.startswith('--') else ''}[{said}]{value}") for name in flag.names]


# ---- fish ----


def _fish(verbs: Mapping[str, str], options: list[Flag], words: Mapping[str, tuple[str, ...]]) -> str:
    lines = ["# fish completion for batchrunner"]
    lines += [f"complete -c batchrunner -n __fish_use_subcommand -a {verb} -d {_fished(said)}" for verb, said in verbs.items()]
    lines += [
        f"complete -c batchrunner -n '__fish_seen_subcommand_from {verb}' -f -a {_fished(' '.join(each))}"
        for verb, each in words.items()
    ]
    for flag in options:
        names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
        when = f" -n '__fish_seen_subcommand_from {' '.join(flag.verbs)}'" if flag.verbs else ""
        value = (
            " -r -F"
            if flag.files
            else f" -x -a {_fished(' '.join(flag.choices))}"
            if flag.choices
            else " -x"
            if flag.valued
            else ""
        )
        lines.append(f"complete -c batchrunner{when} {names}{value} -d {_fished(flag.help)}")
    return "\n".join(lines) + "\n"


def _fished(text: str) -> str:
    """Quoted for fish, whose single quotes know two escapes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quoted(text: str) -> str:
    """Quoted for bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


SHELLS: Mapping[str, Callable[[Mapping[str, str], list[Flag], Mapping[str, tuple[str, ...]]], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
