"""What a retry asks again, from the command line and from the library alike."""

from pathlib import Path

import pytest

from batchrunner.core.model import Kind
from batchrunner.core.treatment import HOPELESS
from batchrunner.errors import UsageError
from batchrunner.reopening import Reopen, named, promising, whatever


def test_what_can_succeed_is_asked_again_and_so_is_what_others_call_by_names_of_their_own() -> None:
    assert {kind for kind in Kind if not promising(kind)} == HOPELESS
    assert promising("invented_later")


def test_only_the_kinds_named_and_only_those_there_are() -> None:
    chosen = named([Kind.QUOTA, "context"])
    assert {kind for kind in Kind if chosen(kind)} == {Kind.QUOTA, Kind.CONTEXT}
    with pytest.raises(UsageError, match="Did you mean rejected"):
        named(["quota", "rejectd"])


def test_it_says_in_words_what_it_asks_again() -> None:
    assert Reopen(promising).words == ()
    assert Reopen(whatever, [Path("done.jsonl")]).words == ("--all", "--done", "done.jsonl")
    assert Reopen(named(["context", "quota"])).words == ("--kind", "context", "--kind", "quota")
