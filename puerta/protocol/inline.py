"""Inline commands: one line of words, as a person types them into a telnet (networking.c, processInlineBuffer)."""

_ESCAPES = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}


def arguments(line: bytes) -> list[bytes] | None:
    """Take an inline command, without its line end, apart; None when its quotes are unbalanced.

    As Valkey does (sds.c, sdssplitargs), where a word may go on behind a closing quote; Redis refuses that.
    """
    found: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at : at + 1].isspace():
            at += 1
        if at >= len(line):
            return found
        word = bytearray()
        while at < len(line) and line[at] not in b" \t\r\n":
            quote = line[at]
            if quote in b"\"'":
                closed = _quoted(line, at + 1, quote, word)
                if closed is None:
                    return None
                at = closed
            else:
                word.append(quote)
                at += 1
        found.append(bytes(word))


def _quoted(line: bytes, at: int, quote: int, word: bytearray) -> int | None:
    """Append what the quotes hold to `word`; the position behind the closing quote, or None when there is none."""
    while at < len(line):
        byte = line[at]
        if byte == quote:
            return at + 1
        if byte == 92 and at + 2 < len(line):  # the last byte of a line is never escaped
            digits = line[at + 2 : at + 4]
            if quote == 39:
                if line[at + 1] == 39:
                    byte, at = 39, at + 1
            elif (
                line[at + 1] == 120 and len(digits) == 2 and all(digit in b"0123456789abcdefABCDEF" for digit in digits)
            ):
                byte, at = int(digits, 16), at + 3
            else:
                byte, at = _ESCAPES.get(line[at + 1], line[at + 1]), at + 1
        word.append(byte)
        at += 1
    return None
