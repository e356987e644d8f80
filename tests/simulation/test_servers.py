"""The server models themselves, and that a run of the simulation is a function of its seed."""

from math import inf

import pytest

from tests.simulation.scenarios import hangs, outage, recovery, saturated, sizes
from tests.simulation.servers import Bucket, Call, Nature, Refusal, Server, Weather, Window, listed, plateau, steps
from tests.simulation.world import Run, Sent, run


def entered(server: Server, line: int, now: float, sending: int = 1) -> Call:
    server.advance(now)
    call = server.arrive(line, sending, now)
    assert isinstance(call, Call)
    return call


def lines(server: Server, now: float) -> list[tuple[int, str]]:
    return [(call.line, end) for call, end in server.advance(now)]


def test_steps_hold_from_their_moment_on() -> None:
    rate = steps(400, (20, 200), (40, 300))
    assert [rate(now) for now in (0, 19.9, 20, 39.9, 40, 1e9)] == [400, 400, 200, 200, 300, 300]


def test_a_window_opens_with_each_second_of_the_clock() -> None:
    window = Window(steps(3))
    assert [window.early(0.5) for _ in range(4)] == [0, 0, 0, 0.5]
    assert window.early(0.9) == pytest.approx(0.1)
    assert window.early(1.0) == 0


def test_a_bucket_gives_its_rate_and_one_horizon() -> None:
    bucket = Bucket(steps(10))
    passed = sum(bucket.early(now / 100) == 0 for now in range(500))
    assert passed == pytest.approx(10 + 50, abs=1)
    assert 0 < bucket.early(5.0) <= 0.1


def test_work_is_shared_beyond_the_knee_and_conserved() -> None:
    server = Server(Nature(lambda *_: 1.0, speed=plateau(2)))
    for line in range(4):
        entered(server, line, 0.0)
    assert server.due() == pytest.approx(2.0)
    assert lines(server, 1.9) == []
    assert len(lines(server, server.due())) == 4


def test_a_client_that_leaves_frees_its_share_at_once() -> None:
    server = Server(Nature(lambda *_: 1.0, speed=plateau(1)))
    first = entered(server, 0, 0.0)
    entered(server, 1, 0.0)
    server.leave(first, 1.0)  # half of each is done
    assert server.due() == pytest.approx(1.5)
    assert lines(server, 1.5) == [(1, "answered")]
    assert server.serving == 0


def test_a_zombie_works_on_unseen() -> None:
    server = Server(Nature(lambda *_: 1.0, speed=plateau(1), zombies=True))
    first = entered(server, 0, 0.0)
    entered(server, 1, 0.0)
    server.leave(first, 1.0)
    assert server.due() == pytest.approx(2.0)
    assert lines(server, 2.0) == [(1, "answered")]
    assert server.serving == 0


def test_who_leaves_after_the_end_frees_nothing_twice() -> None:
    server = Server(Nature(lambda *_: 1.0))
    call = entered(server, 0, 0.0)
    entered(server, 1, 0.5)
    assert lines(server, 1.0) == [(0, "answered")]
    server.leave(call, 1.0)
    assert server.serving == 1


def test_a_hang_holds_its_place_until_it_is_left() -> None:
    server = Server(Nature(lambda line, sending, _: inf if sending == 1 else 1.0, slots=steps(1), refusal=429))
    call = entered(server, 0, 0.0)
    assert server.due() == inf
    assert server.arrive(1, 1, 5.0) == Refusal(429)
    server.leave(call, 5.0)
    entered(server, 0, 5.0, sending=2)
    assert lines(server, 6.0) == [(0, "answered")]


def test_an_outage_cuts_what_runs_and_refuses_what_comes() -> None:
    server = Server(Nature(lambda *_: 10.0, outages=((5.0, 20.0), (40.0, 50.0))))
    entered(server, 0, 0.0)
    assert server.due() == 5.0
    assert lines(server, 5.0) == [(0, "cut")]
    assert server.arrive(1, 1, 19.9) == Refusal(0)
    entered(server, 1, 20.0)
    assert server.due() == 30.0
    assert lines(server, 30.0) == [(1, "answered")]
    entered(server, 2, 39.0)
    assert lines(server, 45.0) == [(2, "cut")]
    assert server.arrive(3, 1, 45.0) == Refusal(0)
    entered(server, 3, 50.0)
    assert server.due() == 60.0


def test_what_falls_into_a_hole_is_taken_and_never_answered() -> None:
    server = Server(Nature(lambda *_: 1.0, hole=(5.0, 9.0)))
    entered(server, 0, 4.9)
    assert entered(server, 1, 5.0).seconds == inf
    entered(server, 2, 9.0)
    assert lines(server, 20.0) == [(2, "answered")]
    assert server.serving == 1


def test_errors_and_crowds_say_what_they_are_told_to_say() -> None:
    server = Server(
        Nature(lambda *_: 1.0, slots=steps(1), told=lambda early: f"{early:g}", fails=lambda line, *_: 500 * (line == 7))
    )
    assert server.arrive(7, 1, 0.0) == Refusal(500)
    entered(server, 0, 0.0)
    assert server.arrive(1, 1, 0.5) == Refusal(503, "1")


def test_a_stream_that_stalls_never_ends() -> None:
    server = Server(Nature(lambda *_: 4.0, stalls=lambda line, sending: 2.0 if (line, sending) == (0, 1) else inf))
    stalled, good = entered(server, 0, 0.0), entered(server, 1, 0.0)
    assert (stalled.seconds, stalled.silent, good.seconds, good.silent) == (inf, 2.0, 4.0, inf)
    assert lines(server, 9.0) == [(1, "answered")]
    server.leave(stalled, 9.0)
    assert entered(server, 0, 9.0, sending=2).seconds == 4.0


def test_weather_depends_on_line_and_sending_alone() -> None:
    weather, same = (Weather(1000, 3, median=0.3, sigma=0.8, hangs=0.01) for _ in range(2))
    assert [weather(n, 1, 0) for n in range(1000)] == [same(n, 1, 7) for n in range(1000)]
    assert 2 <= sum(weather(n, 1, 0) == inf for n in range(1000)) <= 25
    assert all(weather(n, 2, 0) < inf for n in range(1000)), "whoever asks again is answered"


def test_the_ideal_keeps_every_slot_full() -> None:
    assert listed(10, 2, lambda line, answered: 1.0) == 5.0
    assert listed(10, 2, lambda line, answered: 2.0 if answered >= 5 else 1.0) == pytest.approx(3.0 + 4.0)


def test_a_run_is_a_function_of_its_seed() -> None:
    first, second = (run(hangs(1000, 5), 5) for _ in range(2))
    assert first.sent == second.sent
    assert first.sent != run(hangs(1000, 6), 6).sent


def test_fixed_timeouts_show_what_they_cost() -> None:
    """The proof can fail: a long fixed timeout waits for every hang, a short one kills what is merely large."""
    assert run(hangs(1000, 1), 1, {"timeout": 600}).slower > 20
    short = run(sizes(500, 1), 1, {"timeout": 15})
    assert len(short.those("wronged")) > 50
    assert short.slower > 2


def test_more_in_flight_than_the_knee_only_waits_longer() -> None:
    crowded = run(saturated(2000, 1), 1)
    assert crowded.latency(0.5) >= 1.0
    assert crowded.slower >= 1.0


def test_recovery_is_counted_from_the_return() -> None:
    def answers(*moments: float) -> list[Sent]:
        return [Sent(0, "a", 0.0, moment, "answered") for moment in moments]

    before = [3.0 + n / 10 for n in range(30)]  # ten a second
    after = [127.0, 130.0, *(131.0 + n / 10 for n in range(30))]
    stage = outage(1, 1)
    assert recovery(Run(stage, answers(*before, *after), [], 200.0)) == pytest.approx(5.5)
