"""A Hugging Face hub on the loopback interface, for model repositories in a folder."""

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
GATED = ".gated"
"""A file of this name in a repository's folder makes the repository gated."""


@contextmanager
def serve(root: Path) -> Generator[str]:
    """The hub's address, while it serves `root`/owner/name at the revisions COMMIT and main; requests are logged.

    `root`/requests.log has the method and the path of each request.
    """
    handler = type("Handler", (_Handler,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def log_message(self, *_: Any) -> None:
        with (self.root / "requests.log").open("a", encoding="utf-8") as log:
            log.write(f"{self.command} {self.path}\n")

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        owner, name, *rest = [*(parts[2:] if is_api else parts), "", ""]
        folder, rest = self.root / owner / name, [part for part in rest if part]
        revision = rest[1] if len(rest) > 1 else "main"
        if not folder.is_dir():
            self._refuse(404, "RepoNotFound")
        elif (folder / GATED).exists():
            self._refuse(401, "GatedRepo")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif is_api and (not rest or rest[0] == "revision"):
            self._answer(json.dumps(self._info(folder, f"{owner}/{name}")).encode())
        elif is_api and rest[0] == "tree":
            self._answer(json.dumps([self._entry(folder, item) for item in self._names(folder)]).encode())
        elif not is_api and rest and rest[0] == "resolve":
            self._file(folder / "/".join(rest[2:]))
        else:
            self._refuse(404, "EntryNotFound")

    do_HEAD = do_GET  # noqa: N815

    def _names(self, folder: Path) -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def _info(self, folder: Path, name: str) -> dict[str, Any]:
        siblings = [{"rfilename": item} for item in self._names(folder)]
        state = {"private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
        return {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, **state, "siblings": siblings}

    def _entry(self, folder: Path, name: str) -> dict[str, Any]:
        return {"type": "file", "oid": "0" * 40, "size": (folder / name).stat().st_size, "path": name}

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        content = path.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        first, headers, status = 0, {"ETag": f'"{tag}"', "Accept-Ranges": "bytes"}, 200
        if (wanted := self.headers.get("Range", "")).startswith("bytes="):
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or len(content) - 1), len(content) - 1)
            headers["Content-Range"], status = f"bytes {first}-{last}/{len(content)}", 206
            content = content[first : last + 1]
        self._answer(content, headers, status=status, kind="application/octet-stream")

    def _refuse(self, status: int, code: str) -> None:
        self._answer(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status=status)

    def _answer(
        self,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        status: int = 200,
        kind: str = "application/json",
    ) -> None:
        self.send_response(status)
        fixed = {"Content-Type": kind, "Content-Length": str(len(content)), "X-Repo-Commit": COMMIT}
        for name, value in {**fixed, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
