"""report.invocation: the next command is typed for a shell, and cannot command the terminal on its way."""

import shlex
import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.wording import visible
from batchrunner.report.invocation import Invocation

NAMES = st.text(min_size=1).filter(lambda path: "\0" not in path)


@given(NAMES.filter(lambda path: path == visible(path)))
@settings(deadline=None, max_examples=100)
def test_the_next_command_survives_a_shell(path: str) -> None:
    typed = Invocation(input=path, program=("python", "-m", "batchrunner"), options=("-o", path))
    assert shlex.split(typed.command("retry")) == ["python", "-m", "batchrunner", "retry", path, "-o", path]


@given(st.lists(NAMES | st.sampled_from(["we\x1b[31mird", "it's\x1bb\\", "\x9b1\u202e", "\udcff\n"]), min_size=1))
@settings(deadline=None, max_examples=20)
def test_the_next_command_sends_a_terminal_nothing_and_a_shell_everything(names: list[str]) -> None:
    typed = Invocation(input=names[0], program=("printf", "%s\\0"), options=tuple(names[1:])).command()
    assert typed == visible(typed)
    read = subprocess.run(["bash", "-c", typed], stdout=subprocess.PIPE, check=True, env={"LC_ALL": "C.UTF-8"}).stdout
    assert read == b"".join(name.encode(errors="surrogateescape") + b"\0" for name in names)
