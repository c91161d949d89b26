"""The secrets that an engine has come to know, so that none reaches a log, a history, an error or a database."""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus

from workflow_core.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["REDACTION", "SHORTEST_SECRET", "Secrets"]

SHORTEST_SECRET: Final = 6
"""A shorter value cannot be told from ordinary text, so it is not masked."""

_PIECE: Final = 16
"""A piece of a secret, cut off where a message was shortened, is recognised from this length on."""

_SHORTEST_BASE64: Final = 8

logger = logging.getLogger("workflow_core")


class Secrets:
    """The values of secrets that were resolved, and where they stand in a text.

    A value is recognised as it is, as a part of JSON (also of JSON in JSON), of a Python literal, of a URL, in base64,
    line by line, and by a beginning or an end of 16 characters, because messages are shortened in the middle.

    Attributes:
        known: Whether there is anything to look for; while there is not, nobody need ask.
    """

    def __init__(self) -> None:
        self.known = False
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}
        self._forms: dict[str, str] = {}
        self._long: list[tuple[str, str]] = []
        self._too_short: set[str] = set()
        self._pattern = re.compile(r"(?!)")
        self._whole = re.compile(r"((?!))")

    def learn(self, name: str, value: str) -> str:
        """Note a secret, and return its value.

        Args:
            name: What it is called; stands in the place of the value from now on.
            value: The value.
        """
        if value in self._names:
            return value
        if len(value) < SHORTEST_SECRET:
            if name not in self._too_short:
                self._too_short.add(name)
                logger.warning(
                    "The secret %s is shorter than %d characters, so it cannot be told from ordinary text and is not "
                    "masked in logs and histories; use a longer one",
                    name,
                    SHORTEST_SECRET,
                )
            return value
        with self._lock:
            names = {**self._names, value: name}
            forms = {form: names[each] for each in names for form in _forms(each)}
            longest_first = sorted(forms, key=len, reverse=True)
            any_form = "|".join(re.escape(form) for form in longest_first)
            masks = "|".join(re.escape(each) for each in names.values())
            # Other threads look meanwhile: what a pattern finds has to be in the forms, and what is named can be found.
            self._forms = forms
            self._pattern = re.compile(any_form)
            self._whole = re.compile(rf"(\[secret (?:{masks})\]|{any_form})")
            self._long = [(form, forms[form]) for form in longest_first if len(form) > _PIECE]
            if not self.known:
                self.known = True
                REDACTION.know(self)
            self._names = names
        return value

    def name_in(self, text: str) -> str | None:
        """Return the name of a secret that stands in a text, or ``None``."""
        found = self._pattern.search(text)
        return None if found is None else self._forms[found[0]]

    def redact(self, text: str) -> str:
        """Return a text with ``[secret NAME]`` in the place of each secret."""
        if not self.known:
            return text
        parts = self._whole.split(text)
        forms, long = self._forms, self._long  # read after the pattern: they hold whatever it has found
        parts[1::2] = [f"[secret {forms[part]}]" if part in forms else part for part in parts[1::2]]
        # What was put in, or stands there from before, is not looked at again: a name may resemble its secret.
        for form, name in long:
            if any(form[:_PIECE] in part or form[-_PIECE:] in part for part in parts[::2]):
                mask = f"[secret {name}]"
                parts = [
                    each
                    for place, part in enumerate(parts)
                    for each in ((part,) if place % 2 else _cut(part, form, mask))
                ]
        return "".join(parts)

    def redact_all(self, value: object) -> object:
        """Return plain JSON data with all its texts redacted."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, dict):
            return {key: self.redact_all(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.redact_all(item) for item in value]
        return value


def _forms(value: str) -> set[str]:
    """Return the texts that a value may stand in a text as."""
    forms = {value, printable(value)}
    forms |= {line.strip() for line in value.splitlines() if len(line.strip()) >= _PIECE}
    for form in list(forms):
        forms |= {repr(form)[1:-1], ascii(form)[1:-1], repr(_raw(form))[2:-1]}
        forms |= {quote(_raw(form), safe=""), quote(_raw(form)), quote_plus(_raw(form))}
    for _ in range(2):
        forms |= {json.dumps(form, ensure_ascii=ascii_only)[1:-1] for form in forms for ascii_only in (True, False)}
    forms |= set(_in_base64(_raw(value)))
    return {form for form in forms if len(form) >= SHORTEST_SECRET}


def _raw(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def _in_base64(raw: bytes) -> Iterator[str]:
    """Yield what is the same in every base64 text of data that holds ``raw``, for each place that it can begin at."""
    for offset, changing in ((0, 0), (1, 2), (2, 3)):
        same = slice(changing, (offset + len(raw)) * 8 // 6)
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            core = encode(bytes(offset) + raw).decode()[same]
            if len(core) >= _SHORTEST_BASE64:
                yield core


def _cut(text: str, secret: str, mask: str) -> list[str]:
    """Take a text apart at the beginnings and ends of a secret: plain texts, with masks between them."""
    head, tail = secret[:_PIECE], secret[-_PIECE:]
    parts: list[str] = []
    while (begin := text.find(head)) >= 0:
        end = begin + _PIECE
        while end - begin < len(secret) and text.startswith(secret[end - begin], end):
            end += 1
        parts += _cut_at_ends(text[:begin], secret, tail, mask)
        parts.append(mask)
        text = text[end:]
    return parts + _cut_at_ends(text, secret, tail, mask)


def _cut_at_ends(text: str, secret: str, tail: str, mask: str) -> list[str]:
    parts: list[str] = []
    while (begin := text.find(tail)) >= 0:
        end = begin + _PIECE
        while begin and end - begin < len(secret) and text[begin - 1] == secret[begin - end - 1]:
            begin -= 1
        parts += text[:begin], mask
        text = text[end:]
    return [*parts, text]


class _Redaction(logging.Filter):
    """Redacts what is logged: the message, the traceback, and the texts that a caller added."""

    def __init__(self) -> None:
        super().__init__()
        self._knowing: tuple[weakref.ref[Secrets], ...] = ()
        self._lock = threading.Lock()

    def know(self, secrets: Secrets) -> None:
        """Look for these secrets, too, for as long as their engine lives."""
        with self._lock:
            self._knowing = (*(each for each in self._knowing if each() is not None), weakref.ref(secrets))

    def redact(self, text: str) -> str:
        """Return a text without the secrets that any engine of this process knows."""
        for each in self._knowing:
            secrets = each()
            if secrets is not None:
                text = secrets.redact(text)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, without secrets."""
        if self._knowing:
            _redact_record(record, self.redact)
        return True


def _redact_record(record: logging.LogRecord, clean: Callable[[str], str]) -> None:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong number of arguments; the handler reports it
        message = f"{record.msg} {record.args}"
    if clean(message) != message:
        record.msg, record.args = clean(message), None
    if record.exc_info and record.exc_info[1] is not None:
        text = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
        if clean(text) != text:
            record.exc_text, record.exc_info = clean(text), None
    for name, value in list(vars(record).items()):
        if isinstance(value, str):
            setattr(record, name, clean(value))


REDACTION: Final = _Redaction()
"""Belongs on each logger that this package writes to."""

logger.addFilter(REDACTION)
