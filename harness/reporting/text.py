"""Text that a terminal can be given: escaped, shortened, counted. Imports nothing, for speed of start."""


def printable(text: str) -> str:
    """One line as it can be shown: control characters and undecodable bytes escaped, so that no terminal obeys them."""
    text = text.expandtabs()
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def tail(text: str, lines: int) -> list[str]:
    """The last lines that hold something, each made printable."""
    return [printable(line) for line in text.splitlines() if line.strip()][-lines:]


def shortened(text: str, limit: int = 160) -> str:
    """At most `limit` characters, what is left out counted."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"


def of_bytes(raw: bytes, limit: int = 160) -> str:
    """Bytes as one printable, shortened line."""
    piece = raw[: 4 * limit].decode("utf-8", "backslashreplace")
    shown = printable(piece)
    if len(raw) <= 4 * limit and len(shown) <= limit:
        return shown
    return f"{shown[:limit]}... ({len(raw)} bytes)"


def count(number: int, noun: str) -> str:
    """`1 write`, `1,234 writes`, `2 discards`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(number: int) -> str:
    """Bytes for people: 512 B, 4 KiB, 1.5 MiB."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def seconds(number: float) -> str:
    """0.4 s, 12 s, 3 min 20 s."""
    if number < 10:
        return f"{number:.1f} s"
    whole = round(number)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"
