"""A local server that answers rightly and wrongly; nothing here uses the network."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, unquote

ANSWERS = {  # of servers, before the archive; the slow ones send no more
    "slow status": b"200",
    "slow headers": b"200 OK\r\nContent-Type: application/x-tar\r\n",
    "slow body": b"200 OK\r\nContent-Length: 9999\r\n\r\nsome bytes",
    "302": b"302 Found\r\nLocation: /302\r\n\r\n",
    "endless headers": b"200 OK\r\n" + b"X: y\r\n" * 200,
    "negative": b"200 OK\r\nContent-Length: -1\r\n\r\n",
    "no number": b"200 OK\r\nContent-Length: many\r\n\r\n",
    "too large": b"200 OK\r\nContent-Length: 2000000001\r\n\r\n",
    "too long": b"200 OK\r\n\r\nmore",
    "broken chunks": b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
    "compressed": b"200 OK\r\nContent-Encoding: gzip\r\n\r\n",
    "another part": b"206 Partial\r\nContent-Range: bytes 7-9/10\r\n\r\n",
    "garbage": b"\0\x1b[2J\r\n",
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves /whole (with ranges), /norange, /cut (half), /wrong, /page, /short; 404 /missing."""

    def do_GET(self):
        wanted, path, archive = self.headers.get("Range"), self.path, self.server.archive
        self.server.requests.append((path, wanted))
        if answer := ANSWERS.get(unquote(path[1:])):
            self.wfile.write(b"HTTP/1.1 " + answer)
            if path.startswith("/slow"):
                self.server.finished.wait()
            elif not path.startswith("/302"):
                self.wfile.write(archive)
            return
        bodies = {"/page": b"<html>moved</html>", "/short": b"short", "/wrong": b"w" * len(archive)}
        body, start, status = bodies.get(path, archive), 0, 200
        if wanted and path not in ("/norange", "/page", "/short"):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
        if path == "/missing" or start >= max(len(body), 1):
            return self.send_error(404 if path == "/missing" else 416)
        body = body[start : start + 1_000] if path == "/less" else body[start:]
        self.send_response(status)
        if path == "/less":
            end = start + len(body)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(archive)}")
        self.send_header("Content-Type", "text/html" if path == "/page" else "application/x-tar")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if path == "/cut" else body)

    def log_message(self, *arguments):
        pass


@contextmanager
def serve(content: bytes) -> Iterator[http.server.ThreadingHTTPServer]:
    """Context manager: a server of `content`, with the `requests` that it got."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.archive, server.requests, server.finished = content, [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield server
        server.finished.set()
        server.shutdown()


def urls(server, *paths):
    return [f"http://127.0.0.1:{server.server_port}/{quote(path)}" for path in paths]
