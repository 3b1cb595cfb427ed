"""A small Hugging Face hub on this machine: what the hub's client asks for, over real HTTP.

It takes uploads by the LFS protocol, as `huggingface_hub.lfs` and `_commit_api` speak it.
"""

from __future__ import annotations

import base64
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
    the first answer with a file of that name breaks off. uploads: where repositories that are made
    go (None: nobody may make any). private: those that were made so. full: how many large files it
    takes before it answers 507 once.
    """

    repos: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    token: str = "good"
    breaks: dict[str, int] = field(default_factory=dict)
    uploads: Path | None = None
    private: set[str] = field(default_factory=set)
    full: int | None = None
    objects: dict[str, bytes] = field(default_factory=dict)
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

            def do_PUT(self) -> None:
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
        sent = ask.rfile.read(int(ask.headers.get("Content-Length") or 0))
        self.asked.append((ask.command, path, ask.headers.get("Range", "")))
        if path == "/api/whoami-v2":
            good = ask.headers.get("authorization") == f"Bearer {self.token}"
            return self._json(ask, {"name": "me", "type": "user"} if good else {}, 401 - 201 * good)
        if ask.command in ("POST", "PUT"):
            return self._take(ask, path, sent)
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/revision/[^/]+|/tree/.+)?", path):
            repo = found.group(1)
            if repo not in self.repos:
                return self._json(ask, {}, 401, {"X-Error-Code": "RepoNotFound"})
            root = self.repos[repo]
            files = sorted(p for p in root.rglob("*") if p.is_file())
            names = [path.relative_to(root).as_posix() for path in files]
            if (found.group(2) or "").startswith("/tree"):
                tree = [
                    {"type": "file", "path": name, "size": p.stat().st_size, "oid": _etag(p)}
                    for name, p in zip(names, files, strict=True)
                ]
                return self._json(ask, tree, 200)
            siblings = [
                {"rfilename": name, "size": p.stat().st_size}
                for name, p in zip(names, files, strict=True)
            ]
            return self._json(ask, {"id": repo, "sha": COMMIT, "siblings": siblings}, 200)
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/[^/]+/(.+)", path):
            return self._file(ask, found.group(1), found.group(2), body)
        return self._json(ask, {"error": f"{path} is not served here"}, 404)

    def _take(self, ask: BaseHTTPRequestHandler, path: str, sent: bytes) -> None:
        """What an upload asks for, in its order."""
        good = ask.headers.get("authorization") == f"Bearer {self.token}"
        if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):  # its address is the permission
            oid = found.group(1)
            if self.full is not None and len(self.objects) >= self.full:
                self.full = None
                return self._json(ask, {"error": "no room"}, 507)
            self.objects[oid] = sent
            return self._json(ask, {}, 200)
        if self.uploads is None or not good:
            return self._json(ask, {"error": "no rights"}, 403)
        if path == "/api/validate-yaml":
            return self._json(ask, {"errors": [], "warnings": []}, 200)
        if path == "/lfs/verify":
            known = self.objects[json.loads(sent)["oid"]]
            whole = hashlib.sha256(known).hexdigest() == json.loads(sent)["oid"]
            return self._json(ask, {}, 200 if whole else 422)
        if path == "/api/repos/create":
            wanted = json.loads(sent)
            repo = f"{wanted['organization'] or 'me'}/{wanted['name']}"
            if repo in self.repos:
                return self._json(ask, {"url": f"{self.url}/{repo}"}, 409)
            self.repos[repo] = self.uploads / repo
            self.repos[repo].mkdir(parents=True)
            if wanted.get("visibility") == "private" or wanted.get("private"):  # older clients
                self.private.add(repo)
            return self._json(ask, {"url": f"{self.url}/{repo}"}, 200)
        if re.fullmatch(r"/api/models/[\w.-]+/[\w.-]+/preupload/main", path):
            modes = [
                {"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(sent)["files"]
            ]
            return self._json(ask, {"files": modes}, 200)
        if re.fullmatch(r"/[\w.-]+/[\w.-]+\.git/info/lfs/objects/batch", path):
            objects = [
                o if o["oid"] in self.objects else {**o, "actions": self._actions(o["oid"])}
                for o in json.loads(sent)["objects"]
            ]
            return self._json(ask, {"transfer": "basic", "objects": objects}, 200)
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/main", path):
            for text in sent.splitlines():
                item = json.loads(text)
                value = item["value"]
                if item["key"] == "file":
                    data = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    data = self.objects[value["oid"]]
                else:
                    if item["key"] == "deletedFile":
                        (self.repos[found.group(1)] / value["path"]).unlink()
                    continue
                (self.repos[found.group(1)] / value["path"]).write_bytes(data)
            done = {"commitUrl": f"{self.url}/{found.group(1)}/commit/{COMMIT}"}
            return self._json(ask, {**done, "commitOid": COMMIT, "success": True}, 200)
        return self._json(ask, {"error": f"{path} is not served here"}, 404)

    def _actions(self, oid: str) -> dict[str, Any]:
        verify = {"href": f"{self.url}/lfs/verify"}
        return {"upload": {"href": f"{self.url}/lfs/{oid}"}, "verify": verify}

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


def _mode(name: str) -> str:
    return "lfs" if name.endswith(".safetensors") else "regular"


def _etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
