"""Redaction: no password of a database is shown or stored."""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"
# Shorter passwords are masked inside URLs only: elsewhere they would hit common words.
_LEAST = 4

# Up to the last @, since a password may hold one. What is masked already is left alone, or the
# words up to a later @ would be masked too.
_IN_URL = re.compile(r"(://[^:/@\s]*):(?!\*\*\*@).*@")
_IN_QUERY = re.compile(r"([?&](?:password|passwd|sslpassword)=)[^&\s]*")

_known: set[str] = set()


def remember_password(url: str) -> None:
    """Mask the passwords of this URL in all texts from now on."""
    found = [match[0][len(match[1]) + 1 : -1] for match in _IN_URL.finditer(url)]
    found += [match[0][len(match[1]) :] for match in _IN_QUERY.finditer(url)]
    for password in found:
        # Drivers show it without the percent signs of the URL.
        _known.update(p for p in (password, unquote(password)) if len(p) >= _LEAST)


def mask_password(text: str) -> str:
    """A URL, or a text with one in it, with `***` in place of the password."""
    masked = _IN_QUERY.sub(rf"\1{MASK}", _IN_URL.sub(rf"\1:{MASK}@", text))
    for password in sorted(_known, key=len, reverse=True):
        masked = masked.replace(password, MASK)
    return masked
