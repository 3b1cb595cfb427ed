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
_IN_QUERY = re.compile(r"([?&][\w-]*(?:passw|pwd|secret|token)[\w-]*=)[^&\s]*", re.IGNORECASE)
# In what is a URL and nothing else, a password may hold spaces and line ends too.
_AS_URL = re.compile(r"://[^:/@\s]*:(.*)@", re.DOTALL)
_AS_QUERY = re.compile(r"[?&][\w-]*(?:passw|pwd|secret|token)[\w-]*=([^&]*)", re.IGNORECASE)

_known: set[str] = set()


def remember_password(url: str) -> None:
    """Mask the passwords of this URL in all texts from now on."""
    for password in [*_AS_URL.findall(url), *_AS_QUERY.findall(url)]:
        # Drivers show it without the percent signs of the URL.
        _known.update(p for p in (password, unquote(password)) if len(p) >= _LEAST)


def mask_password(text: str) -> str:
    """A URL, or a text with one in it, with `***` in place of the password."""
    for password in sorted(_known, key=len, reverse=True):
        text = text.replace(password, MASK)
    return _IN_QUERY.sub(rf"\1{MASK}", _IN_URL.sub(rf"\1:{MASK}@", text))
