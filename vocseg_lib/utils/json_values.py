"""JSON: numbers and ids in it; gzipped; large texts, read entry by entry of their lists."""

import gzip
import json
import re
import reprlib
from collections.abc import Callable
from io import BufferedIOBase, TextIOBase
from typing import Any

CHUNK_CHARACTERS = 1 << 22
GZIP = b"\x1f\x8b"  # how gzipped files start
BLANK = re.compile(r"[ \t\n\r]*")
SHORT_REPR = reprlib.Repr()
SHORT_REPR.maxlist = SHORT_REPR.maxtuple = SHORT_REPR.maxdict = 20
SHORT_REPR.maxstring = SHORT_REPR.maxlong = SHORT_REPR.maxother = 80
MAX_ID = 100  # characters of a number that is an id


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float, up to 2**53, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 2**53


def as_number(value: object) -> object:
    """The number that a text is; other values as they are."""
    try:
        if isinstance(value, str) and value.strip().isdecimal():
            return int(value)
        number = float(value) if isinstance(value, str) else value
        return int(number) if isinstance(value, str) and number == int(number) else number
    except (ValueError, OverflowError):
        return value


def id_key(value: object) -> str:
    """An id as text: 7, 7.0, "7" and "007" are the same one."""
    text = str(value).strip()
    number = re.fullmatch(r"(\d+)(\.0*)?", text) if len(text) <= MAX_ID else None
    return str(int(number[1])) if number else text


def unzipped(file: BufferedIOBase) -> BufferedIOBase:
    """A file, or what is in it if it is gzipped."""
    start = file.read(len(GZIP))
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if start == GZIP else file


def shorten(value: object) -> str:
    """The repr of a value, at most 60 characters, without making all of a long one."""
    text = SHORT_REPR.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class JsonStream:
    """A JSON text of which a part is read at a time.

    Streamed are the entries of a list at its top, or of those in an object at its top. `change`
    replaces each object. Methods raise ValueError.
    """

    def __init__(self, file: TextIOBase, change: Callable[[dict], object]):
        self.file, self.text, self.at, self.ended = file, "", 0, False
        self.decode = json.JSONDecoder(object_hook=change).raw_decode

    def read(self) -> Any:
        """The whole content."""
        first = self._next()
        content = self._fields() if first == "{" else self._value_or_entries()
        if self._next():
            raise ValueError("there is more after its end")
        return content

    def _more(self) -> None:
        chunk = self.file.read(max(CHUNK_CHARACTERS, len(self.text) - self.at))
        self.text, self.at, self.ended = self.text[self.at :] + chunk, 0, not chunk

    def _next(self) -> str:
        """The next character that is not blank, or "" at the end."""
        while True:
            self.at = BLANK.match(self.text, self.at).end()
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._more()

    def _take(self, expected: str) -> str:
        found = self._next()
        if not found or found not in expected:
            raise ValueError(f"expected one of {expected}, got {found or 'its end'}")
        self.at += 1
        return found

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except ValueError:
                if self.ended:
                    raise
            else:
                if end + len("e+1") < len(self.text) or self.ended:
                    self.at = end
                    return value
            self._more()  # cut off, or a number that may go on

    def _value_or_entries(self) -> Any:
        if self._next() != "[":
            return self._value()
        self._take("[")
        if self._next() == "]":
            self._take("]")
            return []
        entries = [self._value()]
        while self._take(",]") == ",":
            entries.append(self._value())
        return entries

    def _fields(self) -> dict:
        self._take("{")
        if self._next() == "}":
            self._take("}")
            return {}
        fields, separator = {}, ","
        while separator == ",":
            if self._next() != '"':
                raise ValueError("expected a name in quotes")
            name = self._value()
            self._take(":")
            fields[name] = self._value_or_entries()
            separator = self._take(",}")
        return fields
