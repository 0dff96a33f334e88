"""Server-sent events: any cut gives the same events, and what is written is read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects import sse
from tests.laws.calls import cuts

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
DATA = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20).map(str.encode)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[sse.Event]]:
    """A well-formed stream in every spelling that the standard allows, and the events that it means."""
    stream = b"\xef\xbb\xbf" if draw(st.booleans()) else b""
    expected = []
    for _ in range(draw(st.integers(0, 5))):
        end = draw(LINE_ENDS)
        name = draw(st.sampled_from(["", "message_start", "größe"]))
        lines = draw(st.lists(DATA, min_size=1, max_size=3))
        space = draw(st.sampled_from([b" ", b""]))
        if draw(st.booleans()):
            stream += b": keep-alive" + end
        if name:
            stream += b"event: " + name.encode() + end
        for line in lines:
            # A line that begins with a space loses one, so it is never written without one.
            stream += b"data:" + (space if not line.startswith(b" ") else b" ") + line + end
        stream += b"id: 7" + end if draw(st.booleans()) else b""
        stream += end
        expected.append(sse.Event(name, b"\n".join(lines)))
    return stream, expected


@given(st.data())
def test_any_cut_gives_the_same_events(data: st.DataObject) -> None:
    stream, expected = data.draw(streams())
    splitter = sse.Splitter()
    seen = [event for chunk in data.draw(cuts(stream)) for event in splitter.feed(chunk)]
    assert seen == expected
    assert splitter.close() == []
    assert splitter.stray == b""


@given(streams())
def test_parsed_events_keep_their_bytes(streamed: tuple[bytes, list[sse.Event]]) -> None:
    stream, expected = streamed
    parsed = sse.parse(stream)
    assert b"".join(raw for raw, _ in parsed) == stream
    assert [event for _, event in parsed if event is not None] == expected


@given(st.data())
def test_the_prefix_of_whole_events_can_be_cut_off(data: st.DataObject) -> None:
    stream, expected = data.draw(streams())
    buffer = stream[: data.draw(st.integers(0, len(stream)))]
    end = sse.whole_events(buffer)
    head, tail = sse.Splitter(), sse.Splitter()
    before = head.feed(buffer[:end])
    assert head.close() == []
    assert before + tail.feed(buffer[end:] + stream[len(buffer) :]) == expected


@given(st.sampled_from([None, "error", "ping"]), st.lists(DATA, min_size=1, max_size=3))
def test_what_is_written_is_read_back(name: str | None, lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    assert sse.Splitter().feed(sse.encode(name, data)) == [sse.Event(name or "", data)]


def test_the_last_event_may_lack_its_blank_line() -> None:
    splitter = sse.Splitter()
    assert splitter.feed(b"data: 1\n\ndata: [DONE]") == [sse.Event("", b"1")]
    assert splitter.close() == [sse.Event("", b"[DONE]")]


def test_what_is_no_stream_is_kept_to_be_read() -> None:
    splitter = sse.Splitter()
    assert splitter.feed(b"<html>\n\n<h1>Bad Gateway</h1>") == []
    assert splitter.close() == []
    assert b"Bad Gateway" in splitter.stray


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_an_endless_event_is_refused_after_the_events_before_it(size: int) -> None:
    splitter = sse.Splitter(limit=50)
    stream = b"data: ok\n\ndata: " + b"x" * 100 + b"\n\n"
    seen = []

    def feed_all() -> None:
        for at in range(0, len(stream), size):
            seen.extend(splitter.feed(stream[at : at + size]))
        splitter.feed(b"")

    with pytest.raises(IsthmusError) as caught:
        feed_all()
    assert caught.value.fault is Fault.MALFORMED_ANSWER
    assert seen == [sse.Event("", b"ok")]
