"""A story with everything in it, for the tests of what draws stories."""

import math
import random

from batchrunner.report.story import (
    GROUPS,
    Death,
    Endpoint,
    Finding,
    Leg,
    Moment,
    Price,
    Session,
    Slow,
    Spike,
    Story,
    Tile,
    Trouble,
    Value,
)

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[2J\u202e\ud800"


def story(word: str = "plain", steps: int = 240, rows: int = 20) -> Story:
    """`word` stands wherever a word from outside may stand."""
    chance = random.Random(1)
    legs = (Leg("queue", 0.0, 0.4), Leg("connect", 0.4, 0.6), Leg("first_byte", 0.6, 40.0), Leg("body", 40.0, 90.0))
    moments = [
        Moment(
            at=5.0 * step,
            span=5.0,
            counts=tuple(abs(200 * math.sin(step)) * chance.random() for _ in GROUPS),
            p50=0.0 if step % 50 == 7 else 3.0 + chance.random(),
            p95=9.0 + chance.random(),
            timeout=180.0 if step < 9 else 26.0,
            in_flight=200 + 50 * chance.random(),
            limit=256,
        )
        for step in range(1, steps + 1)
    ]
    return Story(
        job=word,
        state="bad",
        verdict=f"9 of 10 succeeded, 1 failed {word}",
        next=f"batchrunner retry {word}",
        why=word,
        made=word,
        program="batchrunner 0",
        share=0.31,
        tiles=tuple(Tile(f"tile {n}", word, word) for n in range(8)),
        moments=tuple(moments),
        sessions=(Session(word, 0.0, 600.0, 5, word), Session(word, 600.0, 600.0, 5, word)),
        endpoints=tuple(Endpoint(word, 10, 9, word, word, word, word, word, word) for _ in range(3)),
        troubles=tuple(Trouble(word, 3, n, word) for n in range(9)),
        findings=(Finding(word, "yes", word, word), Finding(word, "no", word), Finding(word, "open", word)),
        deaths=(Death(60.0, "cut", 70), *(Death(chance.lognormvariate(3, 1), "timeout", 2) for _ in range(300))),
        spikes=(Spike(60.0, 70, word),),
        slowest=tuple(Slow(word, n, 1, word, word, "good", legs, 60.0) for n in range(rows)),
        prices=(Price(word, 10, 20, word, word),),
        cost=word,
        settings=tuple(Value(f"option_{n}", word, word, n < 4) for n in range(60)),
        files=((word, word),),
    )
