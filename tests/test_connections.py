"""The short way through a connection of aiohttp's, without a socket."""

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock, call

import aiohttp
import pytest

from batchrunner.connections import HANDFUL, Link, Mail
from batchrunner.core.whole import Whole
from tests.server import LAST_CHUNK, chunk, chunked, chunked_head, ok_chat, reply


def opened(mail: Mail | None = None) -> tuple[Link, Any]:
    """A connection, and the transport under it."""
    loop = asyncio.get_running_loop()
    link, transport = Link(loop, mail or Mail(loop)), Mock(**{"get_write_buffer_size.return_value": 0})
    link.transport = transport
    return link, transport


def odd(body: bytes) -> bytes:
    """A whole reply that only aiohttp reads."""
    return reply(body, headers={"Content-Encoding": "identity"})


async def test_what_one_turn_of_the_loop_asks_is_written_at_its_end() -> None:
    mail = Mail(asyncio.get_running_loop())
    links, order = [opened(mail) for _ in range(4)], Mock()
    for number, (link, transport) in enumerate(links):
        order.attach_mock(transport.write, f"write_{number}")
        link.ask(b"message", False)
    links[1][0].close()  # its request was given up before it left
    assert not order.mock_calls
    await asyncio.sleep(0)
    assert order.mock_calls == [getattr(call, f"write_{number}")(b"message") for number in (0, 2, 3)]
    links[0][0].ask(b"another", False)
    await asyncio.sleep(0)
    assert order.mock_calls[-1] == call.write_0(b"another")


async def test_what_is_asked_in_one_turn_leaves_a_handful_at_a_time() -> None:
    mail = Mail(asyncio.get_running_loop())
    links = [opened(mail) for _ in range(2 * HANDFUL + 1)]
    left = []
    for link, _ in links:
        link.ask(b"message", False)
        left.append(sum(transport.write.call_count for _, transport in links))
    assert left == [len(links[:number]) // HANDFUL * HANDFUL for number in range(1, len(links) + 1)]
    await asyncio.sleep(0)
    assert [transport.write.call_count for _, transport in links] == [1] * len(links)


async def asking(link: Link, silent: bool = False) -> "asyncio.Future[Whole | None]":
    """A request that has left."""
    asked = link.ask(b"message", silent)
    await asyncio.sleep(0)
    return asked


@pytest.mark.parametrize("answer", [ok_chat(), chunked([ok_chat()])], ids=["plain", "chunked"])
async def test_a_reply_is_the_same_however_it_is_cut(answer: bytes) -> None:
    body = answer.partition(b"\r\n\r\n")[2] if answer == ok_chat() else ok_chat()
    for cut in range(1, len(answer)):
        link, _ = opened()
        asked = await asking(link)
        link.data_received(answer[:cut])
        assert asked.result() is None
        link.data_received(answer[cut:])
        message, payload = await link.read()
        assert (message.code, await payload.read()) == (200, body)


async def test_a_whole_reply_needs_no_parser_and_leaves_the_connection_fit() -> None:
    link, _ = opened()
    for said in (b"one", b"two"):
        asked = await asking(link)
        link.data_received(reply(said))
        answer = asked.result()
        assert answer
        assert answer.body == said
    assert link._parser is None
    assert not link.should_close


async def test_a_parser_of_the_reply_before_does_not_read_the_next() -> None:
    link, _ = opened()
    for answer in (odd(b"one"), reply(b"two"), odd(b"three")):
        asked = await asking(link)
        link.data_received(answer)
        if asked.result() is None:
            _, payload = await link.read()
            assert payload.read_nowait() in {b"one", b"three"}
        assert not link.should_close


async def test_a_silent_reply_has_no_body_whatever_it_says() -> None:
    link, _ = opened()
    asked = await asking(link, True)
    link.data_received(reply(b"four")[:-4])
    assert asked.result() is None
    _, payload = await link.read()
    assert payload.is_eof()


async def test_what_nobody_asked_for_costs_the_connection() -> None:
    link, transport = opened()
    asked = await asking(link)
    link.data_received(reply(b"one"))
    link.data_received(reply(b"two"))
    answer = asked.result()
    assert answer
    assert answer.body == b"one"
    transport.close.assert_called_once()
    assert link.should_close


@pytest.mark.parametrize("answer", [reply, odd], ids=["plain", "odd"])
@pytest.mark.parametrize("more", [b"rubbish", ok_chat()], ids=["rubbish", "another"])
async def test_what_comes_behind_an_answer_costs_the_connection_and_not_the_answer(
    answer: Callable[[bytes], bytes], more: bytes
) -> None:
    for cut in (0, 1, 2, 3):  # of the body, in a packet of its own with what is behind it
        link, _ = opened()
        asked = await asking(link)
        said = answer(b"one")
        for packet in (said[:-cut], said[-cut:] + more) if cut else (said + more,):
            link.data_received(packet)
        assert (asked.result() is None) == (answer is odd or cut > 0)
        body = asked.result().body if asked.result() else await (await link.read())[1].read()
        assert (body, link.should_close) == (b"one", True)


async def test_what_comes_before_the_request_has_left_is_no_reply_to_it() -> None:
    """Else the real reply would be taken for that to the next request on this connection."""
    link, transport = opened()
    asked = link.ask(b"message", False)
    link.data_received(reply(b"late"))
    assert not asked.done()
    transport.close.assert_called_once()
    link.connection_lost(None)
    assert asked.result() is None
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await link.read()
    await asyncio.sleep(0)
    transport.write.assert_not_called()


async def test_a_connection_lost_before_the_request_takes_none() -> None:
    link, _ = opened()
    link.connection_lost(None)
    with pytest.raises(aiohttp.ClientConnectionResetError):
        link.ask(b"message", False)


async def test_a_connection_lost_before_the_reply_wakes_who_waits() -> None:
    link, _ = opened()
    asked = await asking(link)
    link.connection_lost(ConnectionResetError())
    assert asked.result() is None
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await link.read()


async def test_reading_what_has_come_does_not_go_back_to_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    link, transport = opened()
    await asking(link)
    link.data_received(chunked([b"one", b"two", b"three"], headers={"Content-Encoding": "identity"}))
    _, payload = await link.read()
    monkeypatch.setattr(link, "data_received", lambda data: pytest.fail("nothing was paused"))
    assert await payload.readany() == b"onetwothree"
    transport.resume_reading.assert_not_called()


async def test_reading_that_was_paused_goes_on() -> None:
    link, transport = opened()
    await asking(link)
    link.data_received(chunked_head() + chunk(b"x" * 200_000))
    transport.pause_reading.assert_called_once()
    _, payload = await link.read()
    assert len(await payload.readany()) == 200_000
    transport.resume_reading.assert_called_once()


async def streaming(link: Link) -> aiohttp.StreamReader:
    """The body of a chunked reply that has begun."""
    await asking(link)
    link.data_received(chunked_head())
    _, payload = await link.read()
    return payload


async def test_pieces_of_a_body_are_handed_on_while_the_task_sleeps() -> None:
    link, _ = opened()
    taken: list[bytes] = []
    task = asyncio.create_task(link.pour(await streaming(link), lambda piece: bool(taken.append(piece))))
    await asyncio.sleep(0)
    link.data_received(chunk(b"one"))
    link.data_received(chunk(b"two") + chunk(b"three"))
    assert taken == [b"one", b"twothree"]
    link.data_received(LAST_CHUNK)
    await task


async def test_whoever_has_enough_is_handed_no_more() -> None:
    link, _ = opened()
    taken: list[bytes] = []
    body = await streaming(link)
    link.data_received(chunk(b"before"))
    task = asyncio.create_task(link.pour(body, lambda piece: taken.append(piece) or piece == b"enough"))
    await asyncio.sleep(0)
    link.data_received(chunk(b"enough"))
    link.data_received(chunk(b"more"))
    await task
    assert taken == [b"before", b"enough"]
    assert body.read_nowait() == b"more"


@pytest.mark.parametrize("error", [LookupError, ConnectionResetError])
async def test_what_breaks_a_body_is_raised_where_it_is_waited_for(error: type[Exception]) -> None:
    link, _ = opened()

    def take(piece: bytes) -> bool:
        raise LookupError

    task = asyncio.create_task(link.pour(await streaming(link), take))
    await asyncio.sleep(0)
    if error is LookupError:
        link.data_received(chunk(b"one"))
    else:
        link.connection_lost(error())
    with pytest.raises(LookupError if error is LookupError else aiohttp.ClientPayloadError):
        await task


async def test_a_body_does_not_end_that_of_the_next_reply() -> None:
    """The connection is free, and taken again, before the task that waited for the first body runs."""
    link, _ = opened()
    taken: list[bytes] = []
    first = asyncio.create_task(link.pour(await streaming(link), lambda piece: False))
    await asyncio.sleep(0)
    second_body = await streaming(link)
    flow = asyncio.create_task(link.pour(second_body, lambda piece: bool(taken.append(piece))))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    link.data_received(chunk(b"two") + LAST_CHUNK)
    await flow
    assert taken == [b"two"]
