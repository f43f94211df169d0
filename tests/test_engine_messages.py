"""Bytes written to the promise file become lines, however the writes cut them; marks arrive whole."""

from hypothesis import given
from hypothesis import strategies as st

from harness.engine.messages import Frames, Lines


@given(st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"a", b"\n"))))
def test_lines_do_not_depend_on_how_the_writes_cut_them(pieces: list[bytes]) -> None:
    lines = Lines()
    found = [line for piece in pieces for line in lines.feed(piece)]
    *whole, rest = b"".join(pieces).split(b"\n")
    assert found == whole
    assert lines.pending == len(rest)
    assert lines.close() == ([rest] if rest else [])
    assert lines.close() == []


@given(st.lists(st.binary(max_size=40)), st.integers(1, 48))
def test_frames_give_each_mark_whole_and_forget_an_unfinished_one(texts: list[bytes], request: int) -> None:
    frames = Frames()
    for text in texts:
        message = Frames.pack(text)
        step = max(request, 8)  # the kernel cuts at a page or more, never within the length
        frames.feed(0, Frames.pack(b"cut short by a kill")[:12])
        found = [done for at in range(0, len(message), step) for done in frames.feed(at, message[at : at + step])]
        assert found == [text]
