"""Text for terminals: nothing that a program printed can steer the terminal, and long things are shortened, counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.reporting import text


@given(st.text())
def test_printable_text_is_printable_and_leaves_plain_text_alone(raw: str) -> None:
    shown = text.printable(raw)
    assert shown.isprintable()
    if raw.isprintable():
        assert shown == raw


@given(st.binary(max_size=2000), st.integers(1, 200))
def test_bytes_become_one_short_printable_line(raw: bytes, limit: int) -> None:
    shown = text.of_bytes(raw, limit)
    assert shown.isprintable()
    assert len(shown) <= limit + len(f"... ({len(raw)} bytes)")


def test_escapes_are_shown_not_obeyed() -> None:
    assert text.printable("a\x1b[2Jb\udcff") == r"a\x1b[2Jb\udcff"
    assert text.tail("one\n\n  two\x07\nthree\n", 2) == [r"  two\x07", "three"]
    assert text.of_bytes(b"x" * 5000, 10) == "xxxxxxxxxx... (5000 bytes)"
    assert text.shortened("abcdef", 3) == "abc... (3 more characters)"


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (512, "512 B"), (4096, "4 KiB"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (5 << 40, "5120 GiB")],
)
def test_sizes(number: int, shown: str) -> None:
    assert text.size(number) == shown


def test_counts_and_times() -> None:
    assert text.count(1, "write") == "1 write"
    assert text.count(1234, "write") == "1,234 writes"
    assert [text.seconds(n) for n in (0.44, 12, 200)] == ["0.4 s", "12 s", "3 min 20 s"]
