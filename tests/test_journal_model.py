"""Any history of answers, crashes and edits leaves a survey that agrees with a dictionary."""

import asyncio
import hashlib
import json
import random
import shutil
import tempfile
from itertools import count
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batchrunner.checkpoint import Checkpoint
from batchrunner.disk import Disk
from batchrunner.journal import Durability, Journal, Paths
from batchrunner.resume import Evidence, survey, tidy
from batchrunner.standing import Standing
from tests.test_journal import Fast
from tests.test_resume import Record, evidence, identify, read_record

DISK: Disk = Fast()


class History(RuleBasedStateMachine):
    """`said` is the model: for each text of a line that was ever answered, the kinds of its records in order;
    `paid` are the texts that ever had a good answer."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.paths = Paths.of(self.folder / "in.jsonl")
        self.texts: list[str] = []
        self.said: dict[str, list[str]] = {}
        self.paid: set[str] = set()
        self.added = count()

    @initialize(size=st.integers(1, 12))
    def begin(self, size: int) -> None:
        self.write([f"r{number} 0" for number in range(size)])
        self.open()

    # -- the world

    def write(self, texts: list[str]) -> None:
        self.texts = texts
        self.paths.input.write_text("".join(f"{text}\n" for text in texts))

    def open(self) -> None:
        """A run begins as `batch` begins it: journal, checkpoint, else survey."""
        self.journal = Journal.open(self.paths, Durability(spill_dir=str(self.folder / "spill")), DISK)
        self.checkpoint = Checkpoint(self.journal, disk=DISK)
        self.standing = self.checkpoint.load(read_record) or self.survey()

    def survey(self) -> Standing:
        return survey(self.evidence())

    def evidence(self) -> Evidence:
        return evidence([text.encode() for text in self.texts], self.journal)

    def record(self, text: str, line: int, kind: str) -> bytes:
        name, digest = identify(text.encode(), line)
        return json.dumps(vars(Record(name, line, digest, kind == "ok", kind))).encode() + b"\n"

    def crash(self) -> None:
        """The kernel closes what a killed process had open; nothing else is done."""
        self.journal._pool.shutdown()
        self.journal._release()

    # -- rules

    def pending(self) -> list[int]:
        return [line for line in range(1, len(self.texts) + 1) if not self.standing.is_done(line)]

    @precondition(lambda self: self.pending())
    @rule(
        choice=st.randoms(use_true_random=False), kind=st.sampled_from(["ok", "ok", "ok", "policy", "invalid", "timeout_total"])
    )
    def settle(self, choice: random.Random, kind: str) -> None:
        line = choice.choice(self.pending())
        text = self.texts[line - 1]
        self.journal.append(self.record(text, line, kind), kind == "ok")
        self.standing.mark(line, kind == "ok", kind)
        self.said.setdefault(text, []).append(kind)
        self.paid.update([text] if kind == "ok" else [])

    @rule(ok=st.booleans(), share=st.floats(0, 0.999), zeros=st.integers(0, 20), line=st.integers(1, 12))
    def crash_while_writing(self, ok: bool, share: float, zeros: int, line: int) -> None:
        self.crash()
        whole = self.record(self.texts[(line - 1) % len(self.texts)], line, "ok" if ok else "policy")
        with (self.paths.results if ok else self.paths.errors).open("ab") as file:
            file.write(whole[: int(len(whole) * share)] + b"\0" * zeros)
        self.open()

    @rule(shuffle=st.randoms(use_true_random=False), edit=st.sampled_from(["reorder", "remove", "add", "change", "nothing"]))
    def another_run(self, shuffle: random.Random, edit: str) -> None:
        self.journal.close()
        texts = list(self.texts)
        at = shuffle.randrange(len(texts))
        if edit == "reorder":
            shuffle.shuffle(texts)
        elif edit == "remove" and len(texts) > 1:
            del texts[at]
        elif edit == "add":
            texts.insert(at, f"n{next(self.added)} 0")
        elif edit == "change":
            name, version = texts[at].split()
            texts[at] = f"{name} {(int(version) + 1) % 3}"
        self.write(texts)
        self.open()

    @rule()
    def save(self) -> None:
        asyncio.run(self.checkpoint.save(self.standing))

    @rule()
    def delete_checkpoint(self) -> None:
        self.paths.checkpoint.unlink(missing_ok=True)

    @rule(kind=st.sampled_from(["policy", "invalid", "timeout_total"]))
    def retry(self, kind: str) -> None:
        self.standing = survey(self.evidence(), lambda other: other == kind)

    @rule()
    def finish(self) -> None:
        self.standing = tidy(self.evidence())
        lasting = {text.split()[0] for text in self.texts}
        for text, kinds in list(self.said.items()):
            if text.split()[0] in lasting and text not in self.texts:
                self.said[text] = [kind for kind in kinds if kind == "ok" and not self.answered_now(text)]
        held = [read_record(raw) for raw in self.paths.errors.read_bytes().splitlines()]
        mine = [record.digest for record in held if record.id in lasting]
        failing = [text for text in self.texts if self.word(text) not in {"", "ok"}]
        assert sorted(mine) == sorted(identify(text.encode(), 0)[1] for text in failing)

    # -- what must hold

    def word(self, text: str) -> str:
        """The last word on a line: a success, else the last error."""
        kinds = self.said.get(text, [])
        return "ok" if "ok" in kinds else (kinds or [""])[-1]

    def answered_now(self, text: str) -> bool:
        """Whether the line that had this text has an answer to the one it has now."""
        name = text.split()[0]
        return any(self.word(other) == "ok" for other in self.texts if other.split()[0] == name)

    def answered_before(self, text: str) -> bool:
        name = text.split()[0]
        return any("ok" in kinds for other, kinds in self.said.items() if other != text and other.split()[0] == name)

    @invariant()
    def survey_agrees_with_the_model(self) -> None:
        if not self.texts:
            return
        standing = self.survey()
        words = [self.word(text) for text in self.texts]
        failures = [word for word in words if word not in {"", "ok"}]
        assert [standing.is_done(line) for line in range(1, len(words) + 1)] == [bool(word) for word in words]
        assert standing.kinds == {kind: failures.count(kind) for kind in failures}
        assert (standing.succeeded, standing.invalid) == (words.count("ok"), words.count("invalid"))
        assert standing.pending == words.count("")
        assert standing.changed == sum(not self.word(text) and self.answered_before(text) for text in self.texts)
        assert (standing.damaged, standing.duplicates) == (0, 0)

    @invariant()
    def the_kept_standing_agrees_with_a_survey(self) -> None:
        if self.texts and not self.standing.reopened and not self.standing.changed:
            fresh = self.survey()
            assert bytes(self.standing.answered) == bytes(fresh.answered)
            assert bytes(self.standing.refused) == bytes(fresh.refused)
            assert (self.standing.kinds, self.standing.superseded) == (fresh.kinds, fresh.superseded)

    @invariant()
    def no_answer_is_ever_gone(self) -> None:
        files = [self.paths.results, *self.paths.earlier.glob("*")] if self.texts else []
        held = {read_record(raw).digest for path in files for raw in path.read_bytes().splitlines()}
        assert {hashlib.sha256(text.encode()).hexdigest()[:16] for text in self.paid} <= held

    def teardown(self) -> None:
        if self.texts:
            self.journal.close()
        shutil.rmtree(self.folder)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
