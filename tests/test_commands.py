"""The command as people use it: in this process where that is enough, as a process of its own where signals, pipes,
limits or masks matter. Always against a real server on the loopback; nothing of the program is replaced."""

import asyncio
import gzip
import io
import json
import os
import re
import resource
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, Self

import pytest

from batchrunner.cli import main
from batchrunner.core import endpoints
from batchrunner.simulator import Profile, Simulator
from batchrunner.simulator.ledger import Ledger
from batchrunner.summary import OF_A_RUN
from tests.crash import chat, environment, served
from tests.server import FaultServer, Peer, Script, Seen, json_reply, reply
from tests.server import chat as answer

COMMAND = (sys.executable, "-m", "batchrunner")


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Simulator]:
    """The embedded endpoint, without faults, in a thread of its own."""
    with served(Simulator(Profile())) as simulator:
        yield simulator


@pytest.fixture
def sim(endpoint: Simulator) -> Simulator:
    """The same, with fresh counters."""
    endpoint.ledger = Ledger()
    return endpoint


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder and see no user file."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CONFIG_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run one command in this process."""

    def run(*argv: str) -> Said:
        capfd.readouterr()
        code = main(list(argv))
        return Said(code, *capfd.readouterr())

    return run


@pytest.fixture
def run(command: Command, sim: Simulator) -> Command:
    """Run `a.jsonl`, or what is said, at the endpoint."""
    return lambda *argv: command(*(argv or ("a.jsonl",)), "--base-url", sim.url)


def write(*numbers: int, name: str = "a.jsonl", **changes: Any) -> list[dict[str, Any]]:
    """An input of the chat lines with these numbers."""
    made = [chat(number, **changes) for number in numbers]
    Path(name).write_text("".join(json.dumps(each) + "\n" for each in made))
    return made


def records(name: str = "a.results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(raw) for raw in Path(name).read_text().splitlines()]


def ids(name: str = "a.results.jsonl") -> list[int]:
    """The numbers of the lines that have a record there, in order of number."""
    return sorted(int(record["custom_id"].removeprefix("r-")) for record in records(name))


def summary(name: str = "a.run") -> dict[str, Any]:
    return dict(json.loads((Path(name) / "summary.json").read_text()))


# ---- servers that can be told what to do ----


def asked(seen: Seen) -> str:
    """The question of a chat request."""
    return str(seen.json()["messages"][-1]["content"])


def judging(judge: Callable[[str], tuple[int, object]]) -> Script:
    """Answer each question with the status and body that `judge` says."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.send(json_reply(*judge(asked(await peer.request()))))

    return script


def good(question: str) -> tuple[int, object]:
    return 200, answer(text=question)


def error(status: int, message: str, code: str = "") -> tuple[int, object]:
    return status, {"error": {"message": message, "type": "invalid_request_error", "code": code or None}}


class Held:
    """A server that answers the first `free` questions and holds the others until `release`."""

    def __init__(self, free: int, held: int) -> None:
        self.full = Event()  # so many are held
        self.asked = 0
        self._free, self._all = free, free + held
        self._loop: asyncio.AbstractEventLoop
        self._open: asyncio.Event

    async def __call__(self, peer: Peer) -> None:
        while True:
            question = asked(await peer.request())
            self.asked += 1
            if self.asked == 1:
                self._loop, self._open = asyncio.get_running_loop(), asyncio.Event()
            if self.asked >= self._all:
                self.full.set()
            if self.asked > self._free:
                await self._open.wait()
            await peer.send(json_reply(*good(question)))

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)


class Live:
    """The command as a process."""

    def __init__(self, *argv: str, before: Sequence[str] = (), stdin: bool = False, **env: str) -> None:
        self.process = subprocess.Popen(
            [*before, *COMMAND, *argv],
            env=environment(**env),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hear(self, word: str) -> str:
        """The next line on stderr that holds this word."""
        assert self.process.stderr
        for said in self.process.stderr:
            if word in said:
                return said
        raise AssertionError(f"never said {word!r}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> Said:
        out, err = self.process.communicate(timeout=30)
        return Said(self.process.returncode, out, err)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def piped(stdin: bytes, *argv: str) -> Said:
    done = subprocess.run([*COMMAND, *argv], input=stdin, capture_output=True, env=environment(), check=False)
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


# ---- to the end, and on again ----


def test_every_line_gets_its_answer_and_the_second_run_asks_nothing(run: Command, sim: Simulator) -> None:
    write(*range(50))
    code, out, err = run()
    assert (code, ids()) == (0, list(range(50)))
    assert out.startswith("✓ 50 of 50 succeeded")
    assert "50 to go" in err
    assert Path("a.errors.jsonl").read_bytes() == b""
    for record in records():
        number = record["custom_id"].removeprefix("r-")
        assert record["response"]["body"]["choices"][0]["message"]["content"].startswith(f"word{number}. say it")
    before = Path("a.results.jsonl").read_bytes()
    assert run().code == 0
    assert sim.stats()["requests"] == 50
    assert Path("a.results.jsonl").read_bytes() == before


def test_lines_that_fail_make_exit_1_and_have_one_record_each(run: Command, sim: Simulator) -> None:
    write(0, 1)
    with Path("a.jsonl").open("a") as file:
        file.write("\n{broken\n" + json.dumps(chat(2, n="many")) + "\n[1]\n")
    code, out, _ = run("a.jsonl", "--json")
    assert code == 1
    told = json.loads(out)
    assert {key: told[key] for key in ("total", "succeeded", "failed", "invalid", "pending")} == {
        "total": 5,
        "succeeded": 2,
        "failed": 1,
        "invalid": 2,
        "pending": 0,
    }
    assert told == summary()
    bad = {record["batchrunner"]["line"]: record for record in records("a.errors.jsonl")}
    assert {line: bad[line]["batchrunner"]["kind"] for line in bad} == {4: "invalid", 5: "rejected", 6: "invalid"}
    assert bad[5]["response"]["status_code"] == 400
    assert bad[4]["response"] is None
    assert sim.stats()["requests"] == 3


def test_only_bad_lines(run: Command, sim: Simulator) -> None:
    Path("a.jsonl").write_text("{\n[]\nnull\n")
    code, out, _ = run()
    assert (code, sim.stats()["requests"], len(records("a.errors.jsonl"))) == (1, 0, 3)
    assert "3 invalid" in out


@pytest.mark.parametrize("content", ["", "\n \n\r\n"])
def test_an_empty_input_is_done_at_once(run: Command, content: str) -> None:
    Path("a.jsonl").write_text(content)
    code, out, err = run("a.jsonl", "--json")
    assert (code, json.loads(out)["total"]) == (0, 0)
    assert "0 requests" in err


def test_limit_and_then_the_rest(run: Command, sim: Simulator) -> None:
    write(*range(60))
    code, out, _ = run("a.jsonl", "--limit", "20")
    assert (ids(), sim.stats()["requests"]) == (list(range(20)), 20)
    assert (code, summary()["pending"]) == (0, 40)
    assert "40 to go" in out
    assert run().code == 0
    assert (ids(), sim.stats()["requests"]) == (list(range(60)), 60)


def test_fresh_starts_over_and_keeps_what_was(run: Command, sim: Simulator) -> None:
    write(*range(10))
    with Path("a.jsonl").open("a") as file:
        file.write("broken\n")
    run()
    first = Path("a.results.jsonl").read_bytes(), Path("a.errors.jsonl").read_bytes()
    assert run("a.jsonl", "--fresh").code == 1
    assert sim.stats()["requests"] == 20
    [shelf] = Path("a.run/earlier").iterdir()
    assert (shelf / "a.results.jsonl").read_bytes() == first[0]
    assert (shelf / "a.errors.jsonl").read_bytes() == first[1]
    assert (ids(), len(records("a.errors.jsonl"))) == (list(range(10)), 1)
    assert run("a.jsonl", "--fresh").code == 1
    assert len(list(Path("a.run/earlier").iterdir())) == 2, "no shelf is written over, not even within a second"


REFUSED = {
    "E002": ["--proxy", "socks5://there"],
    "E102": ["--base-url", "ftp://there"],
    "E401": ["--report", "nowhere/x.html"],
    "E404": ["--min-free", "1000TiB"],
    "E209": ["--schema", "nothing"],
    "E409": ["--cache", "/dev/null/x"],
    "E205": ["--changed", "rerun"],
}


def files() -> dict[str, bytes]:
    """All that is here, and what is in it; who last held a lock is of no interest."""
    paths = (path for path in Path().rglob("*") if path.name != "lock" and "home" not in path.parts)
    return {str(path): b"" if path.is_dir() else path.read_bytes() for path in paths}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("code", REFUSED)
def test_a_run_that_is_refused_leaves_everything_as_it_was(run: Command, sim: Simulator, code: str, begun: bool) -> None:
    write(1, 2, 3)
    more = ["--fresh", "--dedupe"] if begun else ["--spill-dir", "spill"]
    if begun:
        assert run("a.jsonl", "--dedupe").code == 0
    if code == "E205":
        write(1, 2, 3, 3)
    before, asked = files(), sim.stats()["requests"]
    said = run("a.jsonl", *more, *REFUSED[code])
    assert (said.code, said.out) == (4 if code == "E404" else 2, "")
    assert f"[{code}]" in said.err
    assert files() == before
    assert sim.stats()["requests"] == asked


def test_an_input_without_lines_is_said_to_have_none(run: Command, command: Command) -> None:
    Path("a.jsonl").write_text("\n\n")
    for said in (run("a.jsonl"), command("check", "a.jsonl")):
        assert (said.code, "there are no lines" in said.out) == (0, True)


@pytest.mark.parametrize("through", ["pipe", "link"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "a.jsonl", "--report"], "E401"),
        (["report", "a.jsonl", "--report"], "E401"),
        (["run", "a.jsonl", "-o"], "E003"),
        (["merge", "a.results.jsonl", "-o"], "E003"),
        (["export", "a.jsonl", "--as", "csv"], "E003"),
        (["run", "t.csv", "--prompt", "{bio}", "--model", "m", "--render"], "E003"),
        (["check", "t.csv", "--prompt", "{bio}", "--model", "m", "--render"], "E003"),
    ],
)
def test_a_device_or_a_pipe_stays_one(command: Command, sim: Simulator, words: list[str], code: str, through: str) -> None:
    write(1)
    Path("t.csv").write_text("bio\nx\n")
    assert command("a.jsonl", "--base-url", sim.url, "-q").code == 0
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    said = command(*words, through, "--base-url", sim.url)
    assert (said.code, f"[{code}]" in said.err) == (2, True), said
    assert (Path("pipe").is_fifo(), Path("link").is_symlink()) == (True, True)


BARE = {"model": "m", "input": "Hi"}


@pytest.mark.parametrize(
    ("line", "mistaken", "corrected"),
    [
        (BARE, [], ["--route", "/v1/embeddings"]),
        (chat(1), ["--format", "anthropic"], []),
        ({"prompt": "Hi"}, [], ["--prompt", "{prompt}", "--model", "m"]),
    ],
)
@pytest.mark.parametrize("count", [1, 30])
def test_a_setting_that_makes_every_line_wrong_is_refused(
    run: Command, sim: Simulator, line: dict[str, Any], mistaken: list[str], corrected: list[str], count: int
) -> None:
    lines = [line | ({"custom_id": f"r-{number}"} if "prompt" not in line else {}) for number in range(count)]
    Path("a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    for output in ([], ["-o", "-"]):
        said = run("a.jsonl", *mistaken, *output)
        assert (said.code, "[E203]" in said.err, said.out) == (2, True, "")
        assert set(files()) == {"a.jsonl"}
    assert run("a.jsonl", *corrected).code == 0, "none was recorded as failed"
    assert sim.stats()["requests"] == count


@pytest.mark.parametrize(
    ("lines", "more"),
    [
        ([chat(1), *[BARE] * 30], []),
        ([*[BARE] * 19, chat(1), BARE], []),
        ([BARE, {"custom_id": "x"}], []),
        ([BARE] * 30, ["--max-alike", "0"]),
        ([BARE] * 30, ["--where", "model == 'm'"]),
        ([BARE, ["no", "object"]], []),
    ],
)
def test_lines_that_are_wrong_by_themselves_fail_by_themselves(run: Command, lines: list[Any], more: list[str]) -> None:
    Path("a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    good, more = sum("url" in each for each in lines), [*more, "--format", "openai"]
    assert run("a.jsonl", *more).code == 1
    assert (len(records("a.results.jsonl")), len(records("a.errors.jsonl"))) == (good, len(lines) - good)
    with Path("a.jsonl").open("r+") as file:
        kept = "".join(json.dumps(BARE) + "\n" for _ in range(20)) + file.read() if good else file.read()
        file.seek(0)
        file.write(kept)
    assert run("a.jsonl", *more, "--changed", "rerun").code == 1, "what was answered before shows how lines are read"


def test_a_table_that_is_refused_leaves_nothing(run: Command) -> None:
    Path("t.csv").write_text("id,bio\n1,x\n1,y\n")
    said = run("t.csv", "--prompt", "Sum {bio}", "--model", "m", "--id-column", "id")
    assert (said.code, "[E205]" in said.err) == (2, True)
    assert list(files()) == ["t.csv"]


def test_a_foreign_file_as_output_keeps_its_neighbours_away(run: Command) -> None:
    write(1, 2, 3)
    Path("diary.txt").write_text("Dear diary\n")
    assert "[E401]" in run("a.jsonl", "-o", "diary.txt").err
    assert set(files()) == {"a.jsonl", "diary.txt"}


def test_what_a_retry_asks_again_is_not_forgotten(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    write(1)
    run()
    before = files()
    assert "[E003]" in run("retry", "a.jsonl", "--fresh").err
    monkeypatch.setenv("BATCHRUNNER_FRESH", "true")
    assert "[E003]" in run("retry", "a.jsonl").err
    assert files() == before


def test_lines_may_be_added_removed_and_reordered(run: Command, sim: Simulator) -> None:
    write(*range(10))
    run()
    write(9, 3, 20, 1, 21)
    code, out, _ = run("a.jsonl", "--json")
    assert (code, sim.stats()["requests"]) == (0, 12)
    assert (json.loads(out)["total"], json.loads(out)["resumed"]) == (5, 3)
    assert ids() == [*range(10), 20, 21]
    write(*range(10), 20, 21)
    assert run().code == 0
    assert sim.stats()["requests"] == 12


def test_an_edited_line_that_is_done_is_refused_until_somebody_decides(run: Command, sim: Simulator) -> None:
    write(*range(5))
    run()
    write(*range(5), temperature=0.5)
    code, _, err = run()
    assert (code, sim.stats()["requests"]) == (2, 5)
    assert "[E402]" in err
    assert "5 lines have a result for another text" in err
    assert "--changed rerun" in err
    assert run("a.jsonl", "--changed", "keep").code == 0
    assert sim.stats()["requests"] == 5
    assert run("a.jsonl", "--changed", "rerun").code == 0
    assert sim.stats()["requests"] == 10
    assert run().code == 0, "once asked again, the line is the line"
    assert sim.stats()["requests"] == 10


def digests(name: str = "a.results.jsonl") -> list[str]:
    """The digests of the lines that the records of a file answer, in their order."""
    return [json.loads(line)["batchrunner"]["digest"] for line in Path(name).read_text().splitlines()]


def test_the_answer_to_an_older_text_is_kept_elsewhere_and_counts_no_more(run: Command, command: Command, sim: Simulator) -> None:
    write(*range(5))
    run()
    old = digests()
    write(*range(5), temperature=0.5)
    assert run("a.jsonl", "--changed", "rerun", "--limit", "2").code == 0
    assert len(digests()) == 5, "the two that were asked again have one answer each"
    assert run("a.jsonl", "--changed", "rerun").code == 0
    assert (len(digests()), set(digests()) & set(old)) == (5, set())
    kept = [digest for path in Path("a.run/earlier").iterdir() for digest in digests(str(path))]
    assert sorted(kept) == sorted(old)
    assert sim.stats()["requests"] == 10
    assert command("export", "a.jsonl", "out.csv").out.startswith("5 records")


NAMELESS = '{"model": "m", "messages": [{"role": "user", "content": "%s"}]}\n'


def nameless(*said: str) -> None:
    """Lines without a custom_id."""
    Path("a.jsonl").write_text("".join(NAMELESS % each for each in said))


def test_lines_without_an_id_that_moved_are_not_paid_for_again_unasked(run: Command, command: Command, sim: Simulator) -> None:
    nameless("one", "two", "three")
    run()
    nameless("one", "two", "three", "four")
    assert (run().code, sim.stats()["requests"]) == (0, 4), "what is added at the end is simply sent"
    nameless("zero", "one", "two", "three", "four")
    code, _, err = run()
    assert (code, sim.stats()["requests"]) == (2, 4)
    assert "[E402]" in err
    assert "4 of its results are for lines without a `custom_id`" in err
    assert "5 would be sent anew" in err
    assert run("a.jsonl", "--changed", "keep").code == 2
    assert (run("a.jsonl", "--changed", "rerun").code, sim.stats()["requests"]) == (0, 9)
    assert len(digests()) == 5
    assert command("export", "a.jsonl", "out.csv").out.startswith("5 records")
    assert (run().code, sim.stats()["requests"]) == (0, 9)


def test_removing_lines_without_an_id_costs_nothing(run: Command, sim: Simulator) -> None:
    nameless("one", "two", "three")
    run()
    nameless("one", "two")
    assert (run().code, sim.stats()["requests"], len(digests())) == (0, 3, 3)


def test_nor_does_it_keep_a_failure_from_being_retried(run: Command, sim: Simulator) -> None:
    rows = [chat(1, n="many"), *({**chat(number), "custom_id": None} for number in (2, 3))]
    refused, one, two = (json.dumps(row) + "\n" for row in rows)
    Path("a.jsonl").write_text(refused + one + two)
    assert (run().code, sim.stats()["requests"]) == (1, 3)
    Path("a.jsonl").write_text(refused + one)
    assert (run("retry", "a.jsonl", "--all").code, sim.stats()["requests"]) == (1, 4)


def test_the_record_of_a_line_without_an_id_goes_when_the_line_is_mended(run: Command, sim: Simulator) -> None:
    nameless("one", "two")
    with Path("a.jsonl").open("a") as file:
        file.write('{"custom_id": "x", "mess')
    assert run().code == 1
    nameless("one", "two", "three")
    assert (run().code, sim.stats()["requests"]) == (0, 3)
    assert Path("a.errors.jsonl").read_text() == ""


def test_results_that_have_gone_are_spoken_of(run: Command) -> None:
    write(*range(3))
    run()
    results = Path("a.results.jsonl")
    results.unlink()
    assert "3 answers of the last run are gone from a.results.jsonl: all is asked anew." in run("a.jsonl", "--limit", "1").err
    assert "gone from" not in run().err
    results.unlink()
    assert "gone from" not in run("a.jsonl", "--fresh").err


def test_answers_that_were_asked_otherwise_are_spoken_of(run: Command) -> None:
    write(*range(3))
    run("a.jsonl", "--model", "one", "--limit", "2")
    assert "Answers of earlier runs (2) stay as they are: --model one then, two now." in run("a.jsonl", "--model", "two").err
    assert "earlier runs" not in run("a.jsonl", "--model", "two").err
    assert "--model two then, not given now" in run().err
    assert "earlier runs" not in run("a.jsonl", "--model", "one", "--fresh").err


def test_an_edited_line_that_failed_is_simply_asked_again(run: Command, sim: Simulator) -> None:
    write(1, n="many")
    assert run().code == 1
    write(1)
    assert run().code == 0
    assert (ids(), records("a.errors.jsonl")) == ([1], [])


def test_duplicates_are_refused_before_anything_is_sent(run: Command, sim: Simulator) -> None:
    write(1, 2, 1, 3, 2)
    code, out, err = run()
    assert (code, out, sim.stats()["requests"]) == (2, "", 0)
    assert "[E205]" in err
    assert "line 3: 'r-1' is already on line 1" in err
    assert run("a.jsonl", "-o", "-").code == 2
    assert sim.stats()["requests"] == 0


@pytest.mark.parametrize("pack", [gzip.compress, "zstd"], ids=["gz", "zst"])
def test_packed_inputs(run: Command, pack: Any) -> None:
    if pack == "zstd":
        module = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
        pack = module.compress
    write(*range(30))
    Path("a.jsonl.zz").write_bytes(pack(Path("a.jsonl").read_bytes()))
    Path("a.jsonl").unlink()
    assert run("a.jsonl.zz", "-o", "a.results.jsonl").code == 0
    assert ids() == list(range(30))


def test_a_name_of_any_letters_in_any_folder(run: Command) -> None:
    folder = Path("früher und 'später'")
    folder.mkdir()
    write(1, name=str(folder / "-名 x.jsonl"))
    assert run(str(folder / "-名 x.jsonl")).code == 0
    assert ids(str(folder / "-名 x.results.jsonl")) == [1]


def test_a_packed_input_gives_its_name_without_the_ending(run: Command) -> None:
    write(1)
    Path("b.jsonl.gz").write_bytes(gzip.compress(Path("a.jsonl").read_bytes()))
    assert run("b.jsonl.gz").code == 0
    assert ids("b.results.jsonl") == [1]


def test_a_line_that_asks_for_a_stream_gets_the_ordinary_body(run: Command) -> None:
    write(1, stream=True)
    assert run("a.jsonl", "--max-attempts", "1").code == 0
    [record] = records()
    assert record["response"]["body"]["choices"][0]["message"]["content"].startswith("word1. say it")


# ---- retry ----


@pytest.fixture
def failed(command: Command) -> Iterator[tuple[Command, set[str]]]:
    """A job of six lines, of which r-3 was refused, r-4 and r-5 met a broken server; and the words that still fail."""
    ill = {"word3.", "word4.", "word5."}
    faults = {"word3.": error(400, "no such thing"), "word4.": error(500, "oh"), "word5.": error(500, "oh")}
    write(*range(6))
    script = judging(lambda question: faults[word] if (word := question.split()[0]) in ill else good(question))
    with served(FaultServer(script)) as server:

        def run(*argv: str) -> Said:
            return command(*argv, "--base-url", server.url, "--max-attempts", "1")

        assert run("a.jsonl").code == 1
        assert ids("a.errors.jsonl") == [3, 4, 5]
        yield run, ill


def test_a_plain_run_leaves_failures_alone(failed: tuple[Command, set[str]]) -> None:
    run, ill = failed
    ill.clear()
    assert run("a.jsonl").code == 1
    assert ids("a.errors.jsonl") == [3, 4, 5]


@pytest.mark.parametrize(
    ("options", "left"),
    [((), [3]), (("--all",), []), (("--kind", "rejected"), [4, 5]), (("--kind", "rejected", "--kind", "server_error"), [])],
    ids=["hopeful", "all", "kind", "kinds"],
)
def test_retry_asks_again_what_it_should_and_leaves_the_rest(
    failed: tuple[Command, set[str]], options: tuple[str, ...], left: list[int]
) -> None:
    run, ill = failed
    kept = {record["custom_id"]: record for record in records("a.errors.jsonl")}
    ill.clear()
    assert run("retry", "a.jsonl", *options).code == (1 if left else 0)
    assert ids("a.errors.jsonl") == left
    assert all(record == kept[record["custom_id"]] for record in records("a.errors.jsonl"))
    assert ids() == sorted({*range(6)} - {*left})


def test_what_fails_again_has_only_its_last_error(failed: tuple[Command, set[str]]) -> None:
    run, ill = failed
    ill.discard("word5.")
    assert run("retry", "a.jsonl").code == 1
    assert (ids("a.errors.jsonl"), ids()) == ([3, 4], [0, 1, 2, 5])
    assert (summary()["failed"], summary()["succeeded"], summary()["pending"]) == (2, 4, 0)


def test_the_end_of_a_run_says_how_to_retry(failed: tuple[Command, set[str]]) -> None:
    run, _ = failed
    out = run("a.jsonl").out
    assert "batchrunner retry a.jsonl --base-url http://127.0.0.1:" in out
    assert "the 2 that can succeed; the other 1 need other input" in out


# ---- looking only ----


def test_status_tells_how_a_job_stands_and_changes_nothing(run: Command, command: Command) -> None:
    write(*range(10))
    assert command("status", "a.jsonl").code == 3
    assert sorted(path.name for path in Path().iterdir()) == ["a.jsonl", "home"]
    run("a.jsonl", "--limit", "4")
    code, out, _ = command("status", "a.jsonl", "--json")
    told = json.loads(out)
    assert (code, told["succeeded"], told["pending"]) == (3, 4, 6)
    ran = summary()
    assert {name: told[name] for name in OF_A_RUN} == {name: ran[name] for name in OF_A_RUN} | {"seconds": told["seconds"]}
    assert (told["attempts"], 0 < told["seconds"] <= ran["seconds"]) == (4, True)
    Path("a.run/events.jsonl").unlink()
    told = json.loads(command("status", "a.jsonl", "--json").out)
    assert (told["succeeded"], OF_A_RUN.intersection(told)) == (4, frozenset()), "what is not known is no 0"
    run()
    code, out, _ = command("status", "a.jsonl")
    assert (code, out.splitlines()[0]) == (0, "a.jsonl  100 % · 10 of 10 done")


def test_check_reads_everything_and_sends_nothing(run: Command, sim: Simulator) -> None:
    write(0, 1, max_tokens=100)
    assert run("check", "a.jsonl").code == 0
    with Path("a.jsonl").open("a") as file:
        file.write("broken\n" + json.dumps(chat(1)) + "\n")
    code, out, _ = run("a.jsonl", "--dry-run")
    assert (code, sim.stats()["requests"], Path("a.run").exists()) == (2, 0, False)
    assert out.startswith("4 requests, 2 problems")
    assert "line 3" in out
    assert "already on line 2" in out


def test_check_and_status_say_the_command_that_runs(run: Command, command: Command, sim: Simulator) -> None:
    """With the address of the last run, and with a word on what was edited since; never with the --fresh of that run."""
    rows = write(*range(4))
    run("a.jsonl", "--fresh", "--limit", "3")
    assert command("check", "a.jsonl").out.splitlines()[-1] == f"To run it: batchrunner a.jsonl --limit 3 --base-url {sim.url}"
    rows[0]["body"]["temperature"] = 1
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "E402" in run("a.jsonl", "--limit", "3").err
    for verb in ("check", "status"):
        lines = [line for line in command(verb, "a.jsonl").out.splitlines() if "--changed" in line]
        ways = [shlex.split(line[line.index("batchrunner") :].split("     ")[0]) for line in lines]
        assert [way[-2:] for way in ways] == [["--changed", "rerun"], ["--changed", "keep"]]
        assert ways[0][:-2] == ["batchrunner", "a.jsonl", "--limit", "3", "--base-url", sim.url]
    assert command(*ways[0][1:]).code == 0
    assert command("status", "a.jsonl").out.splitlines()[0] == "a.jsonl  100 % · 4 of 4 done"


def test_config_show_tells_where_each_setting_comes_from(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("batchrunner.toml").write_text('max_attempts = 3\nbase_url = "http://127.0.0.1:1/v1"\n')
    monkeypatch.setenv("BATCHRUNNER_TIMEOUT", "90s")
    code, out, _ = command("config", "show", "--origin", "--max-outage", "5m")
    rows = {row.split()[0]: row.split(maxsplit=2)[1:] for row in out.splitlines()}
    assert code == 0
    assert rows["max_outage"] == ["300.0", "command line"]
    assert rows["timeout"] == ["90.0", "environment BATCHRUNNER_TIMEOUT"]
    assert rows["max_attempts"][1].strip() == "file batchrunner.toml"


# ---- standard streams ----


def test_stdin_is_kept_and_the_same_pipe_continues_the_job(sim: Simulator) -> None:
    write(*range(12))
    content = Path("a.jsonl").read_bytes()
    first = piped(content, "-", "-o", "x.jsonl", "--limit", "5", "--base-url", sim.url)
    assert (first.code, ids("x.jsonl")) == (0, [0, 1, 2, 3, 4])
    assert piped(content, "-", "-o", "x.jsonl", "--base-url", sim.url).code == 0
    assert (ids("x.jsonl"), sim.stats()["requests"]) == (list(range(12)), 12)


@pytest.mark.parametrize("verb", ["check", "status"])
def test_stdin_that_no_run_has_kept_cannot_be_looked_at(command: Command, verb: str) -> None:
    code, _, err = command(verb, "-", "-o", "x.jsonl")
    assert code == 2
    assert "no run has kept what came by stdin" in err
    assert "> requests.jsonl" in err


def test_ctrl_c_while_stdin_still_comes_ends_at_once(sim: Simulator) -> None:
    write(*range(2000))
    content = Path("a.jsonl").read_text()
    assert len(content) > 2 * 65536, "more than a pipe holds: whoever took it all has begun to read"
    with Live("-", "-o", "x.jsonl", "--base-url", sim.url, stdin=True) as process:
        assert process.process.stdin
        process.process.stdin.write(content)
        process.process.stdin.flush()
        process.signal(signal.SIGINT)
        assert process.process.wait(20) == -signal.SIGINT
    assert piped(content.encode(), "-", "-o", "x.jsonl", "--limit", "3", "--base-url", sim.url).code == 0
    assert ids("x.jsonl") == [0, 1, 2]


def test_stdin_without_a_place_for_the_results(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    code, _, err = command("-", "--base-url", "simulated")
    assert code == 2
    assert "[E003]" in err


def test_stdout_carries_records_and_nothing_else(run: Command) -> None:
    write(*range(8))
    with Path("a.jsonl").open("a") as file:
        file.write("broken\n")
    code, out, err = run("a.jsonl", "-o", "-")
    told = [json.loads(raw) for raw in out.splitlines()]
    assert (code, len(told), out[-1]) == (1, 9, "\n")
    assert {record["batchrunner"]["line"] for record in told} == set(range(1, 10))
    assert "8 of 9 succeeded" in err
    assert sorted(path.name for path in Path().iterdir()) == ["a.jsonl", "home"]


def test_records_on_a_terminal_command_it_nothing(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON escapes what is below a blank; what is above, terminals obey as well."""
    [line] = write(1)
    Path("a.jsonl").write_text(json.dumps({**line, "custom_id": "é\x7f\x9b2J\u202e"}) + "\n")
    assert json.loads(run("a.jsonl", "-o", "-").out)["custom_id"] == "é\x7f\x9b2J\u202e"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert '"é\\x7f\\x9b2J\\u202e"' in run("a.jsonl", "-o", "-").out


def test_from_pipe_to_pipe(sim: Simulator) -> None:
    write(*range(8))
    code, out, err = piped(Path("a.jsonl").read_bytes(), "-", "-o", "-", "--base-url", sim.url)
    assert (code, len(out.splitlines())) == (0, 8), err


def test_json_is_one_line_on_stdout(run: Command) -> None:
    write(*range(3))
    out = run("a.jsonl", "--json").out
    assert out.count("\n") == 1
    assert json.loads(out)["succeeded"] == 3
    code, out, err = run("a.jsonl", "-o", "-", "--json")
    assert (code, out, "[E003]" in err) == (2, "", True), "stdout cannot carry both"


def test_a_reader_who_has_seen_enough_is_no_disaster(sim: Simulator) -> None:
    """`… -o - | head -n 1`: the run stops, says so in a sentence, and its exit code is not 0."""
    write(*range(3000))
    words = shlex.join([*COMMAND, "a.jsonl", "-o", "-", "--base-url", sim.url])
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -n 1 >head; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert len(records("head")) == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "[E404]" in done.stderr
    assert re.search(r"\n  [1-9]\d* done, [1-9]", done.stderr), "what was paid"
    assert done.stdout == "4\n"
    assert sim.stats()["requests"] < 3000


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-"])
def test_a_closed_standard_stream_does_not_hurt_the_results(sim: Simulator, closed: str) -> None:
    write(*range(5))
    words = shlex.join([*COMMAND, "a.jsonl", "--base-url", sim.url])
    done = subprocess.run(["bash", "-c", f"{words} {closed}"], capture_output=True, env=environment(), check=False)
    assert b"Traceback" not in done.stderr
    assert ids() == list(range(5))
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("a.jsonl --base-url simulated -o - >&-", "E401"),
        ("export a.jsonl - >&-", "E401"),
        ("- --base-url simulated -o x.jsonl <&-", "E201"),
        ("- --base-url simulated -o - <&-", "E201"),
    ],
)
def test_a_closed_stream_that_is_needed(words: str, code: str) -> None:
    write(1)
    words = f"{shlex.join(COMMAND)} {words}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, f"[{code}]" in done.stderr) == (2, True), done.stderr


# ---- refused before anything is sent ----


def _directory(path: str) -> None:
    Path(path).mkdir()


def _link(path: str) -> None:
    Path("elsewhere").write_text("")
    Path(path).symlink_to("elsewhere")


def _hard_link(path: str) -> None:
    Path("elsewhere").write_text("")
    Path(path).hardlink_to("elsewhere")


@pytest.mark.parametrize("place", ["a.results.jsonl", "a.errors.jsonl", "a.run"])
@pytest.mark.parametrize("make", [_directory, _link, _hard_link, os.mkfifo], ids=["directory", "symlink", "hard link", "fifo"])
def test_what_is_no_place_for_output(run: Command, sim: Simulator, place: str, make: Callable[[str], None]) -> None:
    if (place, make) == ("a.run", _directory):
        pytest.skip("that is what it should be")
    write(1)
    make(place)
    code, _, err = run()
    assert (code, sim.stats()["requests"]) == (2, 0)
    assert "[E401]" in err
    assert place in err


def test_the_input_is_no_place_for_output(run: Command, sim: Simulator) -> None:
    write(1)
    before = Path("a.jsonl").read_bytes()
    for output in ("a.jsonl", "./a.jsonl", str(Path("a.jsonl").resolve())):
        code, _, err = run("a.jsonl", "-o", output)
        assert (code, "[E401]" in err, "it is the input itself" in err) == (2, True, True)
    Path("a.jsonl").rename("a.errors.jsonl")
    assert "it is the input itself" in run("a.errors.jsonl", "-o", "a.jsonl").err, "nor for errors"
    assert (Path("a.errors.jsonl").read_bytes(), sim.stats()["requests"]) == (before, 0)


def test_a_damaged_line_of_the_output_is_spoken_of(run: Command, sim: Simulator) -> None:
    write(*range(5))
    assert run("a.jsonl").code == 0
    whole = Path("a.results.jsonl").read_bytes().splitlines(keepends=True)
    Path("a.results.jsonl").write_bytes(b"".join([*whole[:2], b"{garbage\n", *whole[3:]]))
    code, _, err = run("a.jsonl", "--display", "log")
    assert (code, sim.stats()["requests"]) == (0, 6)
    assert "1 damaged line stays in the output, passed over; copied to a.run/torn" in " ".join(err.split())
    assert "damaged" not in run("a.jsonl", "--fresh", "--display", "log").err


def test_a_file_of_somebody_else_is_not_written_to(run: Command, sim: Simulator) -> None:
    write(1)
    Path("notes.txt").write_text("my notes\nwithout an end")
    code, _, err = run("a.jsonl", "-o", "notes.txt")
    assert (code, "[E401]" in err, sim.stats()["requests"]) == (2, True, 0)
    assert Path("notes.txt").read_text() == "my notes\nwithout an end"


@pytest.mark.parametrize("folder", [".", "..", "/", "sub/", "home"])
@pytest.mark.parametrize("option", ["-o", "--render"])
def test_a_folder_is_no_file_to_write_to(run: Command, option: str, folder: str) -> None:
    Path("a.jsonl").write_text('{"bio": "Ada"}\n')
    code, _, err = run("a.jsonl", "--prompt", "{bio}", "--model", "m", option, folder)
    assert (code, f"{folder} is a folder" in err) == (2, True)
    assert sorted(path.name for path in Path().iterdir()) == ["a.jsonl", "home"]


def test_a_folder_that_is_not_there(run: Command) -> None:
    write(1)
    code, _, err = run("a.jsonl", "-o", "nowhere/x.jsonl")
    assert (code, "[E401]" in err) == (2, True)
    assert "the folder does not exist" in err


@pytest.mark.parametrize(
    ("name", "word"), [("missing.jsonl", "E201"), ("home", "E202"), ("loop", "E201"), ("fifo", "E202"), ("/dev/zero", "E202")]
)
@pytest.mark.parametrize("verb", ["run", "check", "status", "retry"])
def test_an_input_that_cannot_be_read(command: Command, name: str, word: str, verb: str) -> None:
    Path("loop").symlink_to("loop")
    os.mkfifo("fifo")
    before = sorted(path.name for path in Path().iterdir())
    code, out, err = command(verb, name, "--base-url", "simulated")
    assert (code, out) == (2, "")
    assert f"[{word}]" in err
    assert sorted(path.name for path in Path().iterdir()) == before


@pytest.mark.parametrize("name", ["a.jsonl.gz", "A.ZST"])
def test_what_is_packed_by_its_name_alone(run: Command, command: Command, name: str) -> None:
    """Damaged, it is refused; unpacked on its way, or with one odd line, it is what it was."""
    Path(name).write_bytes(b"\x00\x01 damaged\nmore\n")
    before = sorted(path.name for path in Path().iterdir())
    for said in (run(name), command("check", name), command("status", name)):
        assert (said.code, said.out) == (2, "")
        assert "neither gzip nor zstd, nor lines of JSON [E204]" in said.err
    assert sorted(path.name for path in Path().iterdir()) == before
    write(1, name=name)
    assert run(name).code == 0
    Path("b.jsonl.gz").write_bytes(gzip.compress(b"odd\n" + Path(name).read_bytes()))
    assert (run("b.jsonl.gz").code, ids("b.results.jsonl")) == (1, [1])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_input_without_permission(command: Command) -> None:
    write(1)
    Path("a.jsonl").chmod(0)
    code, _, err = command("a.jsonl", "--base-url", "simulated")
    assert (code, "[E201]" in err) == (2, True)


@pytest.mark.parametrize(
    ("content", "word"),
    [("max_atempts = 3", "E001"), ("max_attempts = 0", "E002"), ("timeout = [", "E002"), ('display = "loud"', "E002")],
    ids=["unknown", "too small", "no TOML", "no choice"],
)
@pytest.mark.parametrize("where", ["batchrunner.toml", "--config"])
def test_config_files_with_errors(command: Command, content: str, word: str, where: str) -> None:
    write(1)
    Path("batchrunner.toml" if where != "--config" else "own.toml").write_text(content)
    code, _, err = command("a.jsonl", "--base-url", "simulated", *(["--config", "own.toml"] if where == "--config" else []))
    assert (code, f"[{word}]" in err) == (2, True), err
    assert not Path("a.results.jsonl").exists()


def test_no_endpoint_and_no_key(command: Command) -> None:
    write(1)
    code, _, err = command("a.jsonl")
    assert (code, "[E101]" in err) == (2, True)
    assert "--base-url simulated" in err


# ---- stopped by the endpoint ----


def test_a_line_that_is_refused_alone_fails_and_the_job_is_finished(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command has nothing left to do, a retry asks again, and what a wrong key stops is a failure still."""
    monkeypatch.setattr(endpoints, "RECHECK", 0.01)
    made = write(*range(50))
    poison = {made[0]["body"]["messages"][0]["content"]: 403, made[30]["body"]["messages"][0]["content"]: 404}
    again = ("a.jsonl", "--base-url")

    def refusing(question: str) -> tuple[int, object]:
        return error(poison[question], "no") if question in poison else good(question)

    with served(FaultServer(judging(refusing))) as server:
        assert command(*again, server.url).code == 1
        assert len(server.requests) == 50 + 2
        assert command(*again, server.url).code == 1
        assert len(server.requests) == 52
        assert command("retry", *again, server.url).code == 1
        assert len(server.requests) == 52 + 2 * 2
    failures = {record["custom_id"]: record["batchrunner"]["kind"] for record in records("a.errors.jsonl")}
    assert failures == {"r-0": "denied", "r-30": "config"}
    with served(FaultServer(judging(lambda question: error(401, "who?")))) as server:
        ran = command("retry", *again, server.url)
        assert (ran.code, "who? (line " in ran.out) == (3, True)
        assert command(*again, server.url).code == 1, "they have failed as before"
    with served(FaultServer(judging(good))) as server:
        assert command("retry", *again, server.url).code == 0
    assert ids() == list(range(50))


def test_a_wrong_key_stops_at_once_and_every_line_stays_pending(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    write(*range(100))
    refuse = error(401, "Incorrect API key provided", "invalid_api_key")
    with served(FaultServer(judging(lambda question: refuse))) as server:
        code, out, _ = command("a.jsonl", "--base-url", server.url)
        assert len(server.requests) <= 16 + 2, "what may be in flight, and two more"
    assert code == 3
    assert "Incorrect API key provided" in out
    assert (summary()["pending"], summary()["failed"], summary()["exit_code"]) == (100, 0, 3)
    assert (records(), records("a.errors.jsonl")) == ([], [])
    with served(FaultServer(judging(good))) as server:
        assert command("a.jsonl", "--base-url", server.url).code == 0
    assert ids() == list(range(100))


# ---- refused alike from the start ----


def unknown(question: str) -> tuple[int, object]:
    return error(400, f"Unknown parameter: 'max_tokenz' (request id: req_{abs(hash(question)) % 10**9}x)")


def test_c10_a_wrong_setting_stops_after_twenty_lines_and_burns_none(command: Command) -> None:
    write(*range(500))
    with served(FaultServer(judging(unknown))) as server:
        code, out, _ = command("a.jsonl", "--base-url", server.url)
        assert len(server.requests) < 100, "what was under way when the twentieth came, and no more"
    assert (code, records(), records("a.errors.jsonl")) == (3, [], [])
    assert "looks like configuration" in " ".join(out.split())
    assert "Unknown parameter: 'max_tokenz'" in " ".join(out.split())
    assert "explain E307" in out
    assert (summary()["pending"], summary()["failed"]) == (500, 0)
    assert summary()["attempts"] == len(server.requests)
    with served(FaultServer(judging(good))) as server:
        assert command("a.jsonl", "--base-url", server.url).code == 0
    assert ids() == list(range(500))


def test_c10_lines_that_are_meant_to_be_refused(command: Command) -> None:
    write(*range(40))
    with served(FaultServer(judging(unknown))) as server:
        assert command("a.jsonl", "--base-url", server.url, "--max-alike", "0").code == 1
    assert len(records("a.errors.jsonl")) == 40


def test_c10_a_small_file_is_simply_refused(command: Command) -> None:
    write(*range(7))
    with served(FaultServer(judging(unknown))) as server:
        assert command("a.jsonl", "--base-url", server.url).code == 1
        assert len(server.requests) == 7
    assert len(records("a.errors.jsonl")) == 7
    with served(FaultServer(judging(good))) as server:
        assert command("retry", "a.jsonl", "--kind", "rejected", "--base-url", server.url).code == 0
    assert ids() == list(range(7))


def test_a_retry_that_is_stopped_goes_on_with_the_words_that_it_prints(command: Command) -> None:
    write(*range(7))
    answers = [unknown]
    with served(FaultServer(judging(lambda question: answers[-1](question)))) as server:
        assert command("a.jsonl", "--base-url", server.url).code == 1
        answers.append(lambda _question: (401, {"error": {"message": "who are you?"}}))
        code, out, _ = command("retry", "a.jsonl", "--kind", "rejected", "--base-url", server.url)
        assert (code, "[E301]" in out) == (3, True)
        (words,) = re.findall(r"next +(?:python -m )?batchrunner (.+?)(?:  |$)", out, re.MULTILINE)
        assert words == f"retry a.jsonl --base-url {server.url} --kind rejected"
        answers.append(good)
        assert command(*shlex.split(words)).code == 0
    assert ids() == list(range(7))


def test_c10_bad_lines_at_the_head_of_a_good_file(command: Command) -> None:
    write(*range(200))
    bad = {f"word{n}." for n in range(60)}
    judge = judging(lambda question: unknown(question) if question.split()[0] in bad else good(question))
    with served(FaultServer(judge)) as server:
        code, _, _ = command("a.jsonl", "--base-url", server.url, "-c", "64")
    assert (code, ids(), len(records("a.errors.jsonl"))) == (1, list(range(60, 200)), 60)


def test_a22_a_login_page_stops_and_burns_no_line(command: Command) -> None:
    write(*range(300))

    async def portal(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(reply(b"<html><title>Sign in to the network</title></html>", headers={"Content-Type": "text/html"}))

    with served(FaultServer(portal)) as server:
        code, out, _ = command("a.jsonl", "--base-url", server.url, "-c", "32")
    assert (code, records(), records("a.errors.jsonl")) == (3, [], [])
    assert "Sign in to the network" in " ".join(out.split())
    assert "[E307]" in out


def test_a_dead_port_is_no_matter_beside_an_endpoint_that_answers(command: Command, sim: Simulator) -> None:
    write(*range(30))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        assert command("a.jsonl", "--base-url", dead, "--base-url", sim.url, "--max-outage", "1s").code == 0
    assert ids() == list(range(30))


def test_a_dead_port_is_given_up_with_what_it_said(command: Command) -> None:
    write(*range(20))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there
        dead = f"127.0.0.1:{taken.getsockname()[1]}"
        code, out, _ = command("a.jsonl", "--base-url", f"http://{dead}/v1", "--max-outage", "1s")
    assert code == 3
    assert "[E305]" in out
    assert "refused" in out
    assert dead in out
    assert (summary()["pending"], records("a.errors.jsonl")) == (20, [])


def test_a_dead_port_beside_a_key_that_is_refused_is_not_waited_for(
    command: Command, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(*range(20))
    monkeypatch.setattr("batchrunner.core.stopping.FIRST_OUTAGE", 1.0)
    refusing = FaultServer(judging(lambda question: error(401, "Incorrect API key provided", "invalid_api_key")))
    with socket.socket() as taken, served(refusing) as server:
        taken.bind(("127.0.0.1", 0))  # bound and not listening
        dead = f"127.0.0.1:{taken.getsockname()[1]}"
        code, out, _ = command("a.jsonl", "--base-url", server.url, "--base-url", f"http://{dead}/v1")
    said = " ".join(out.split())
    assert (code, summary()["pending"], records("a.errors.jsonl")) == (3, 20, [])
    assert re.search(r"Incorrect API key provided .+ \[E301\]; no other endpoint has answered yet, for [0-9]+ s \[E305\]", said)
    assert dead in said
    assert "next batchrunner a.jsonl --base-url" in said
    assert [f"explain {each}" in said for each in ("E301", "E305")] == [True, True]
    assert command("a.jsonl", "--base-url", sim.url).code == 0, "nothing is lost"
    assert ids() == list(range(20))


def test_the_users_own_cap(command: Command) -> None:
    write(*range(50))
    with served(FaultServer(judging(lambda question: error(400, "no")))) as server:
        code, out, _ = command("a.jsonl", "--base-url", server.url, "--max-failures", "5", "-c", "1")
    failures = len(records("a.errors.jsonl"))
    assert (code, failures) in [(3, 6), (3, 7)], "the next one may be under way when the sixth is known"
    assert "max_failures 5" in out
    assert summary()["pending"] == 50 - failures


# ---- signals ----


@pytest.fixture
def held() -> Iterator[tuple[Held, FaultServer]]:
    """A server that answers 5 questions and holds the 4 after them; and a job of 40 lines that `-c 4` brings there."""
    script = Held(free=5, held=4)
    write(*range(40))
    with served(FaultServer(script)) as server:
        yield script, server


def live(server: FaultServer, *options: str, before: Sequence[str] = ()) -> Live:
    return Live("a.jsonl", "--base-url", server.url, "-c", "4", *options, before=before)


def test_one_ctrl_c_lets_what_is_under_way_finish(held: tuple[Held, FaultServer], command: Command) -> None:
    script, server = held
    with live(server) as process:
        assert script.full.wait(20)
        code, _, err = command("a.jsonl", "--base-url", server.url)
        assert (code, "[E403]" in err) == (2, True), "a second run is refused"
        assert f"process {process.process.pid} " in err
        code, out, _ = command("status", "a.jsonl")
        assert (code, "5 of 40 done" in out) == (3, True), "one may look on"
        process.signal(signal.SIGINT)
        assert "4 in flight" in process.hear("stopping")
        script.release()
        code, out, _ = process.end()
    assert code == 130
    assert out.startswith("■ stopped at 22 % · SIGINT\n  9 done, 31 to go · nothing lost\n  next      ")
    assert (len(records()), summary()["pending"], summary()["exit_code"]) == (9, 31, 130)
    assert command("a.jsonl", "--base-url", server.url).code == 0
    assert (ids(), len(server.requests)) == (list(range(40)), 40)


@pytest.mark.parametrize(("first", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_drops_what_is_under_way(held: tuple[Held, FaultServer], command: Command, first: int, code: int) -> None:
    script, server = held
    with live(server, "--json", "--grace", "1h") as process:
        assert script.full.wait(20)
        process.signal(first)
        process.hear("stopping")
        process.signal(signal.SIGINT)
        said = process.end()
    told = json.loads(said.out)
    assert (said.code, told["exit_code"], told["stopped"]) == (code, code, signal.Signals(first).name)
    assert (told["succeeded"], told["pending"], len(records())) == (5, 35, 5)
    assert (told["attempts"], told["maybe_billed"]) == (9, 4), "what was dropped has cost as well, perhaps"
    logged = [json.loads(line) for line in Path("a.run/attempts.jsonl").read_text().splitlines()]
    assert [line["billed"] for line in logged if line.get("kind") == "cancelled" and "again" not in line] == [True] * 4
    script.release()
    assert command("a.jsonl", "--base-url", server.url).code == 0
    assert (ids(), len(server.requests)) == (list(range(40)), 44)


def test_the_grace_has_an_end(held: tuple[Held, FaultServer]) -> None:
    script, server = held
    with live(server, "--grace", "100ms") as process:
        assert script.full.wait(20)
        process.signal(signal.SIGTERM)
        code, out, _ = process.end()
    assert code == 143
    assert "5 done, 35 to go · nothing lost · 4 in flight dropped that may be billed" in out


def test_ignored_signals_and_a_status_on_demand(held: tuple[Held, FaultServer]) -> None:
    """nohup's SIGHUP stays ignored; the SIGINT that a shell's `&` ignores is obeyed; SIGUSR1 tells how things stand."""
    script, server = held
    with live(server, before=("bash", "-c", 'trap "" HUP INT; exec "$@"', "-")) as process:
        assert script.full.wait(20)
        process.signal(signal.SIGHUP)
        process.signal(signal.SIGUSR1)
        assert "40" in process.hear("5")
        process.signal(signal.SIGINT)
        assert "4 in flight" in process.hear("stopping")
        script.release()
        assert process.end().code == 130


def test_a_status_that_was_asked_for_is_told_however_quiet_the_run_is(held: tuple[Held, FaultServer]) -> None:
    script, server = held
    with live(server, "--quiet") as process:
        assert script.full.wait(20)
        process.signal(signal.SIGUSR1)
        assert process.hear("done").startswith("5/40 done")
        script.release()
        process.signal(signal.SIGINT)
        assert process.end().code == 130


def test_a_hangup_that_nobody_ignores_ends_the_run_in_order(held: tuple[Held, FaultServer]) -> None:
    script, server = held
    with live(server) as process:
        assert script.full.wait(20)
        process.signal(signal.SIGHUP)
        process.hear("stopping")
        script.release()
        assert process.end().code == 129
    assert summary()["pending"] == 31


def test_simulate_answers_until_it_is_interrupted(command: Command) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write(*range(5))
    with Live("simulate", "--port", str(port), "--profile", "calm") as process:
        assert f"http://127.0.0.1:{port}/v1" in process.hear("simulated")
        assert command("a.jsonl", "--base-url", f"http://127.0.0.1:{port}/v1").code == 0
        assert command("simulate", "--port", str(port)).code == 2, "the port is taken"
        process.signal(signal.SIGINT)
        code, out, err = process.end()
    assert (code, out, err) == (130, "", "")


def test_the_time_allowed_is_over(held: tuple[Held, FaultServer], command: Command) -> None:
    _, server = held
    code, out, _ = command("a.jsonl", "--base-url", server.url, "-c", "4", "--max-time", "300ms", "--grace", "100ms")
    assert (code, "max_time 300 ms" in out) == (3, True)
    assert (len(records()), summary()["pending"]) == (5, 35)


def test_an_output_that_is_taken_away_ends_the_run_and_the_answers_are_kept(
    held: tuple[Held, FaultServer], command: Command
) -> None:
    script, server = held
    with live(server, "--spill-dir", "spill") as process:
        assert script.full.wait(20)
        Path("a.results.jsonl").rename("moved")
        script.release()
        code, _, err = process.end()
    assert (code, "it was deleted or renamed" in err) == (4, True)
    asked = len(server.requests)
    Path("moved").rename("a.results.jsonl")
    assert command("a.jsonl", "--base-url", server.url, "--spill-dir", "spill").code == 0
    assert (ids(), asked <= 40, len(server.requests)) == (list(range(40)), True, 40)


# ---- the disk ----

# With -B: Python itself would leave half a .pyc behind, and not notice.
_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from batchrunner.cli import main
raise SystemExit(main())
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="file names there are Unicode")
def test_a_file_may_be_called_anything(run: Command, command: Command) -> None:
    """Names from old disks and archives are bytes, and seldom UTF-8."""
    name, output, page = os.fsdecode(b"old\xff.jsonl"), os.fsdecode(b"new\xfe.jsonl"), os.fsdecode(b"page\xfd.html")
    write(*range(3), name=name)
    assert run(name, "--json").code == 0
    assert ids(os.fsdecode(b"old\xff.results.jsonl")) == [0, 1, 2]
    assert summary(os.fsdecode(b"old\xff.run"))["input"] == "old?.jsonl"
    assert run(name, "-o", output, "--report", page).code == 0
    assert (ids(output), Path(page).stat().st_size > 1000) == ([0, 1, 2], True)
    for words in (["status", name, "--json"], ["check", name, "--json"], ["report", name], ["export", name, "t.csv"]):
        assert command(*words)[::2] == (0, ""), words
    assert command("config", "show", "-o", output)[::2] == (0, "")


@pytest.mark.parametrize("words", [("--model", "m\udcff"), ("--where", "custom_id == '\udcff'"), ("--header", "X-A=\udcff")])
def test_what_is_sent_is_text(words: tuple[str, str], run: Command, sim: Simulator) -> None:
    write(1)
    code, _, err = run("a.jsonl", *words)
    assert (code, "is not UTF-8. [E002]" in err, sim.stats()["requests"]) == (2, True, 0)


def test_a_full_disk_ends_the_run_and_no_answer_is_paid_twice(run: Command, sim: Simulator) -> None:
    assert resource.RLIM_INFINITY
    write(*range(200))
    argv = ["a.jsonl", "--base-url", sim.url, "--spill-dir", "spill", "--min-free", "0", "-c", "4"]
    done = subprocess.run(
        [sys.executable, "-B", "-c", _LIMITED, "20000", *argv], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 4
    assert "[E404]" in done.stderr
    assert "the file has reached the size limit" in done.stderr
    assert "go to spill" in done.stderr
    assert "Traceback" not in done.stderr
    assert Path("a.results.jsonl").read_bytes()[-1:] == b"\n", "what was half written was cut off"
    written, sent = len(records()), sim.stats()["requests"]
    assert 0 < written < sent < 200
    counted = re.search(r"\n  (\d+) done, (\d+) to go\n", done.stdout)
    assert counted
    assert (written <= int(counted[1]) <= sent, int(counted[1]) + int(counted[2])) == (True, 200)
    assert run("a.jsonl", "--spill-dir", "spill").code == 0
    assert (ids(), sim.stats()["requests"]) == (list(range(200)), 200)
    assert list(Path("spill").iterdir()) == []


def test_an_output_without_a_name_is_refused(run: Command) -> None:
    """As by `-o "$UNSET"`: the results would go where nobody looks for them."""
    write(1)
    code, out, err = run("a.jsonl", "-o", "")
    assert (code, out, "--output: '' names no file. [E002]" in err) == (2, "", True)


def test_a_name_that_is_too_long_is_said(run: Command, command: Command) -> None:
    write(1)
    long = "a" * 300
    for words in (["a.jsonl", "-o", f"{long}.jsonl"], [f"{long}.jsonl"], ["a.jsonl", "--report", f"{long}.html"]):
        code, out, err = run(*words)
        assert (code, out, ": the name is too long [E401]" in err) == (2, "", True)
    assert command("status", f"{long}.jsonl")[0] == 2


def test_a_directory_that_is_gone_is_said() -> None:
    words = shlex.join([*COMMAND, "status", "a.jsonl"])
    words = f"mkdir gone && cd gone && rmdir ../gone && {words}"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, "directory that this command was started in is gone [E401]" in done.stderr) == (2, True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_job_of_somebody_elses_is_named(run: Command, command: Command) -> None:
    write(1)
    assert run("a.jsonl").code == 0
    for place in (Path("a.run"), Path("a.results.jsonl")):
        mode = place.stat().st_mode
        place.chmod(0)
        for words in (["status", "a.jsonl"], ["check", "a.jsonl"], ["export", "a.jsonl", "-"]):
            code, _, err = command(*words)
            assert code == 0 or ("a.run" in err or "a.results.jsonl: permission denied" in err), words
            assert "E901" not in err
        place.chmod(mode)


def test_a_disk_with_too_little_room_is_not_paid_for(run: Command, sim: Simulator) -> None:
    write(*range(4))
    code, out, err = run("a.jsonl", "--min-free", "1000TiB")
    assert (code, out, sim.stats()["requests"]) == (4, "", 0)
    assert "less than 1000 TiB are left" in err
    assert "[E404]" in err
    assert run("a.jsonl").code == 0
    assert run("a.jsonl", "--min-free", "1000TiB").code == 0, "nothing is left to be sent"


def filling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is found full when there are a few results."""
    monkeypatch.setattr("batchrunner.filing.ROOM_EVERY", 0.0)
    monkeypatch.setattr("batchrunner.journal.Journal.room", lambda journal: journal.paths.results.stat().st_size < 3000)


def test_a_failure_of_our_own_is_an_orderly_end(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    write(*range(400))
    filling(monkeypatch)
    notify = "sh -c 'cat > told; echo $BATCHRUNNER_ERROR >> told'"
    code, out, err = run("a.jsonl", "-c", "4", "--min-free", "512KiB", "--notify", notify)
    done = len(records())
    assert 0 < done < 400
    assert (code, err.count("[E404]"), "allow less: --min-free SIZE" in err) == (4, 1, True)
    head, _, facts = out.partition("\n  next  ")
    assert re.sub(r"\s+", " ", head) == (
        f"■ stopped at {done * 100 // 400} % · less than 512 KiB are left on the disk of a.results.jsonl; stopped before paying "
        f"for more [E404] {done} done, {400 - done} to go"
    )
    assert re.search(r"explain E404 .*\n  exit      4$", facts.strip(), re.DOTALL)
    assert (summary()["succeeded"], summary()["pending"], summary()["exit_code"]) == (done, 400 - done, 4)
    assert "[E404]" in Path("a.run/report.html").read_text()
    told, _, named = Path("told").read_text().partition("\n")
    assert (json.loads(told)["succeeded"], json.loads(told)["error"]["code"], named) == (done, "E404", "E404\n")


def test_a_failure_of_our_own_is_counted_in_json(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    write(*range(400))
    filling(monkeypatch)
    code, out, err = run("a.jsonl", "-c", "4", "--min-free", "512KiB", "--json")
    assert (code, out.count("\n"), err.count("[E404]"), json.loads(out)) == (4, 1, 1, summary())
    assert (summary()["stopped"][-7:], summary()["succeeded"]) == (" [E404]", len(records()))


def test_everything_is_for_the_owners_eyes_only(sim: Simulator) -> None:
    write(1, 2)
    Path("b.jsonl").write_text("broken\n")
    masked = ("bash", "-c", 'umask 0; exec "$@"', "-")
    for argv, code in ((["a.jsonl"], 0), (["b.jsonl", "-o", "out.jsonl"], 1), (["a.jsonl", "--fresh"], 0)):
        with Live(*argv, "--base-url", sim.url, before=masked) as process:
            assert process.end().code == code
    made = [path for path in Path().rglob("*") if path.name not in {"a.jsonl", "b.jsonl", "home"}]
    assert {path.name for path in made} >= {"a.results.jsonl", "out.errors.jsonl", "summary.json", "lock", "earlier"}
    modes = {str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in made}
    assert modes == {str(path): "0o700" if path.is_dir() else "0o600" for path in made}


# ---- secrets ----

KEY = "sk-canary-0123456789abcdefghijklmnop"
TEAM = "tk-canary-9876543210"


def _loud(question: str) -> tuple[int, object]:
    """A server that says the key wherever it can."""
    if question.startswith("word1."):
        return error(400, f"Bearer {KEY} may not do this: {KEY}")
    if question.startswith("word2."):
        return error(500, f"trace: Authorization: Bearer {KEY}")
    if question.startswith("word3."):
        return error(401, f"Incorrect API key provided: {KEY}", "invalid_api_key")
    return 200, answer(text=f"your key is {KEY}")


def produced(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


def test_no_key_is_in_any_byte_we_produce(tmp_path: Path) -> None:
    write(5, 1, 2, 3)
    write(4, name="b.jsonl")
    with served(FaultServer(judging(_loud))) as server:
        more = ["--base-url", server.url, "--max-attempts", "2", "-v", "-c", "1", "--header", f"X-Team={TEAM}"]
        for words in (["b.jsonl"], ["a.jsonl", "--json"], ["retry", "a.jsonl"], ["status", "a.jsonl"], ["config", "--origin"]):
            with Live(*words, *more, OPENAI_API_KEY=KEY, BATCHRUNNER_DEBUG="1") as process:
                said = process.end()
            assert "canary" not in said.out + said.err
            assert said.out
        assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
        assert server.requests[0].headers["X-Team"] == TEAM
    assert "Incorrect API key provided" in summary()["stopped"]
    assert (len(records("b.results.jsonl")), len(records())) == (1, 1)
    assert records("a.errors.jsonl"), "the server quoted the key there"
    found = [path for path, content in produced(tmp_path) if b"canary" in content]
    assert found == []


def test_a_key_is_not_sent_in_clear_to_another_machine(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write(1)
    code, out, err = command("a.jsonl", "--base-url", "http://192.0.2.1/v1")
    assert (code, "[E103]" in err) == (2, True)
    assert "canary" not in out + err
