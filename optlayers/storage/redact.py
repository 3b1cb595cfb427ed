"""Masking: no password of a database leaves the process in a text that is shown or stored."""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"
# Shorter ones are left to the patterns: masked wherever they stand, they would garble any text.
_LEAST = 4

# To the last @, so that a password which holds one does not show its end. What is masked already
# stays, or the words up to a later @ would go with it.
_IN_URL = re.compile(r"(://[^:/@\s]*):(?!\*\*\*@).*@")
_IN_QUERY = re.compile(r"([?&](?:password|passwd|sslpassword)=)[^&\s]*")

_known: set[str] = set()


def remember_password(text: str) -> None:
    """Learn the passwords of a URL, so that they are masked wherever drivers write them."""
    found = [match[0][len(match[1]) + 1 : -1] for match in _IN_URL.finditer(text)]
    found += [match[0][len(match[1]) :] for match in _IN_QUERY.finditer(text)]
    for password in found:
        # A driver is given, and may show, what the URL writes with percent signs.
        _known.update(p for p in (password, unquote(password)) if len(p) >= _LEAST)


def mask_password(text: str) -> str:
    """A URL, or a text with one in it, with the password as `***`, fit to be shown."""
    masked = _IN_QUERY.sub(rf"\1{MASK}", _IN_URL.sub(rf"\1:{MASK}@", text))
    for password in sorted(_known, key=len, reverse=True):
        masked = masked.replace(password, MASK)
    return masked
