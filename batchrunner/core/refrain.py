"""An event that comes again and again with other words in one place, as the deltas of a stream do: known by its bytes.

Rules:

1. A refrain is taken from an event that has been read; what takes it proves it, by reading it again with other words (`PROOF`).
2. Words are taken unread only where they can mean nothing but themselves: printable, without a quote or a backslash. All else
   in such an event is byte for byte what was read before, so nothing is believed that has not been checked.
"""

PROOF = "(other words)"


class Refrain:
    """What stands before and after the words."""

    __slots__ = ("_after", "_before", "_least", "proof")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        self._after = after
        self._least = len(before) + len(after)
        self.proof = before + PROOF.encode() + after

    def words(self, event: bytes) -> str | None:
        """The words of an event; "" where they have to be read, None where it is another event. ValueError: they are no UTF-8."""
        if len(event) < self._least or not event.startswith(self._before) or not event.endswith(self._after):
            return None
        words = event[len(self._before) : -len(self._after)].decode()
        return words if words.isprintable() and '"' not in words and "\\" not in words else ""


def refrain(event: bytes, words: str) -> Refrain | None:
    """The refrain of an event that was found to hold these words; None where it cannot be told in which place."""
    quoted = b'"%b"' % words.encode()
    if event.count(quoted) != 1:
        return None
    before, _, after = event.partition(quoted)
    return Refrain(before + b'"', b'"' + after)
