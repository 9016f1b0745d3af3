"""What the Hugging Face hub's HTTP interface answers for one model repository, on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "a" * 40


@contextmanager
def hub_server(
    repo: str, files: dict[str, bytes], revision: str = "v1", seen: list[tuple[str, str]] | None = None
) -> Iterator[str]:
    """Serves `files` of `repo` at `revision` and at its commit; yields the endpoint.

    Args:
        seen: takes the path and the Authorization header of each request.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer()

        def log_message(self, *args: object) -> None: ...

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if seen is not None:
                seen.append((path, self.headers.get("Authorization", "")))
            for known in (revision, COMMIT):
                is_default = path == f"/api/models/{repo}" and revision == "main"
                if is_default or path == f"/api/models/{repo}/revision/{known}":
                    return self._json({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]})
                if path == f"/api/models/{repo}/paths-info/{known}":
                    is_json = self.headers.get("Content-Type", "").startswith("application/json")
                    text = self._body.decode()
                    asked = json.loads(text)["paths"] if is_json else parse_qs(text)["paths"]
                    return self._json([self._info(name) for name in asked if name in files])
                tree = f"/api/models/{repo}/tree/{known}"
                if path == tree or path.startswith(f"{tree}/"):
                    folder = path.removeprefix(tree).strip("/")
                    return self._json([self._info(name) for name in files if name.rpartition("/")[0] == folder])
                for name, data in files.items():
                    if path == f"/{repo}/resolve/{known}/{name}":
                        return self._file(data)
            is_known = f"/{repo}/" in path and any(f"/{known}/" in path for known in (revision, COMMIT))
            kind = "EntryNotFound" if is_known else "RevisionNotFound" if f"/{repo}/" in path else "RepoNotFound"
            return self._json({"error": "not here"}, 404, {"X-Error-Code": kind})

        def _info(self, name: str) -> dict[str, object]:
            return {"type": "file", "path": name, "size": len(files[name]), "oid": "b" * 40}

        def _json(self, value: object, code: int = 200, headers: dict[str, str] | None = None) -> None:
            self._send(code, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

        def _file(self, data: bytes) -> None:
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
            first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            if not first:
                return self._send(200, data, headers)
            end = min(int(last) + 1 if last else len(data), len(data))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            return self._send(206, data[int(first) : end], headers)

        def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
