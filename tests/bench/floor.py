"""The floor under a resume without a checkpoint: what any program does that compares both files by id and digest.

    python -m tests.bench.floor INPUT      one JSON line: {"seconds"}

Each line of the input is read, hashed, and its id decoded; each line of the results is read and decoded. Nothing is kept,
compared or looked at, and no line may be odd.
"""

import json
import sys
import time
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct


class Asked(Struct, gc=False):
    custom_id: str


class Facts(Struct, gc=False):
    line: int
    digest: str


class Told(Struct, gc=False):
    custom_id: str
    batchrunner: Facts


def main(source: str) -> None:
    start = time.perf_counter()
    asked, told = msgspec.json.Decoder(Asked).decode, msgspec.json.Decoder(Told).decode
    with Path(source).open("rb", buffering=1 << 18) as file:
        for raw in file:
            sha256(raw[:-1]).digest()
            asked(raw)
    with Path(source).with_suffix(".results.jsonl").open("rb", buffering=1 << 18) as file:
        for raw in file:
            told(raw)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main(*sys.argv[1:])
