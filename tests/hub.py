"""A small Hugging Face hub on this machine: what the hub's client asks for, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Serves folders as repositories; notes what was asked for.

    gated: repositories that answer as gated. token: what may write. breaks: bytes after which
    the first answer with a file of that name breaks off.
    """

    repos: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    token: str = "good"
    breaks: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_POST(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, ask: BaseHTTPRequestHandler, body: bool) -> None:
        path = ask.path.partition("?")[0]
        self.asked.append((ask.command, path, ask.headers.get("Range", "")))
        if path == "/api/whoami-v2":
            good = ask.headers.get("authorization") == f"Bearer {self.token}"
            return self._json(ask, {"name": "me", "type": "user"} if good else {}, 401 - 201 * good)
        if path == "/api/repos/create":
            return self._json(ask, {"error": "no rights"}, 403)
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/revision/[^/]+|/tree/.+)?", path):
            repo = found.group(1)
            if repo not in self.repos:
                return self._json(ask, {}, 401, {"X-Error-Code": "RepoNotFound"})
            files = sorted(p for p in self.repos[repo].iterdir() if p.is_file())
            if (found.group(2) or "").startswith("/tree"):
                tree = [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _etag(p)}
                    for p in files
                ]
                return self._json(ask, tree, 200)
            siblings = [{"rfilename": p.name, "size": p.stat().st_size} for p in files]
            return self._json(ask, {"id": repo, "sha": COMMIT, "siblings": siblings}, 200)
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/[^/]+/([^/]+)", path):
            return self._file(ask, found.group(1), found.group(2), body)
        return self._json(ask, {"error": f"{path} is not served here"}, 404)

    def _file(self, ask: BaseHTTPRequestHandler, repo: str, name: str, body: bool) -> None:
        if repo in self.gated:
            return self._json(ask, {}, 403, {"X-Error-Code": "GatedRepo"})
        path = self.repos[repo] / name
        if not path.is_file():
            return self._json(ask, {}, 404, {"X-Error-Code": "EntryNotFound"})
        data, start = path.read_bytes(), 0
        if found := re.fullmatch(r"bytes=(\d+)-", ask.headers.get("Range", "")):
            start = int(found.group(1))
        ask.send_response(206 if start else 200)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(path)}"', "Accept-Ranges": "bytes"}
        headers["Content-Length"] = str(len(data) - start)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        for key, value in headers.items():
            ask.send_header(key, value)
        ask.end_headers()
        if body:
            stop = len(data) if start else self.breaks.pop(name, len(data))
            ask.wfile.write(data[start:stop])
            ask.wfile.flush()
            if stop < len(data):
                ask.connection.close()
        return None

    def _json(
        self, ask: BaseHTTPRequestHandler, data: Any, status: int, headers: Any = None
    ) -> None:
        text = json.dumps(data).encode()
        ask.send_response(status)
        extra = {"Content-Type": "application/json", "Content-Length": str(len(text))}
        for key, value in {**extra, **(headers or {})}.items():
            ask.send_header(key, value)
        ask.end_headers()
        if ask.command != "HEAD":
            ask.wfile.write(text)


def _etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
