"""A hub on the loopback that keeps what is uploaded: repositories, Git LFS objects and commits.

`python hub_stub.py FOLDER` prints its port. FOLDER/OWNER/NAME holds the files of the last commits, and FOLDER/log.jsonl
the requests. The token `good` may write; a repository whose name ends in `-forbidden` may not be made.
"""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

COMMIT = "1" * 40
LFS_ENDINGS = (".safetensors", ".onnx", ".png")


class Hub(BaseHTTPRequestHandler):
    """Answers the requests of huggingface_hub's `create_repo` and `upload_folder`."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """No file exists yet."""
        self._answer(404, {"error": "not found"})

    def do_HEAD(self) -> None:
        """No file exists yet."""
        self._answer(404, {})

    def do_PUT(self) -> None:
        """Keep an LFS object."""
        (self.folder / "objects").mkdir(exist_ok=True)
        (self.folder / "objects" / self.path.rsplit("/", 1)[1]).write_bytes(self._body())
        self._answer(200, {})

    def do_POST(self) -> None:
        """Answer an API call."""
        path, body = urlsplit(self.path).path.strip("/"), self._body()
        self._note(path, body)
        parts = path.split("/")
        if path.endswith(".git/info/lfs/objects/batch"):
            self._answer(200, self._lfs_batch(json.loads(body)))
        elif self.headers.get("Authorization") != "Bearer good":
            self._answer(401, {"error": "Invalid credentials"})
        elif path == "api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path == "api/repos/create":
            self._create(json.loads(body))
        elif "preupload" in parts:
            self._answer(200, {"files": [_mode(file) for file in json.loads(body)["files"]]})
        elif "commit" in parts:
            self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": path})

    def _create(self, values: dict[str, Any]) -> None:
        name = f"{values['organization']}/{values['name']}"
        if name.endswith("-forbidden"):
            self._answer(403, {"error": f"You don't have the rights to create {name}"})
            return
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._answer(200, {"url": f"{self._address()}/{name}", "name": name, "id": name})

    def _lfs_batch(self, values: dict[str, Any]) -> dict[str, Any]:
        objects = [
            {
                **item,
                "authenticated": True,
                "actions": {"upload": {"href": f"{self._address()}/store/{item['oid']}", "header": {}}},
            }
            for item in values["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self._write(name, value["path"], base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                content = (self.folder / "objects" / value["oid"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                self._write(name, value["path"], content)
        url = f"{self._address()}/{name}/commit/{COMMIT}"
        self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    def _write(self, name: str, path: str, content: bytes) -> None:
        target = self.folder / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def _note(self, path: str, body: bytes) -> None:
        values = json.loads(body) if path == "api/repos/create" else {}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"path": path, **values}) + "\n")

    def _address(self) -> str:
        return f"http://{self.headers['Host']}"

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, values: dict[str, Any]) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    is_large = file["path"].endswith(LFS_ENDINGS)
    return {"path": file["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": None}


def main() -> None:
    """Serve until the process is ended."""
    Hub.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
