"""A small web server for tests of downloads, with the failures that real ones have."""

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server holds and how it behaves; tests change it between or during requests."""

    files: dict[str, bytes] = field(default_factory=dict)  # path without the leading slash -> content
    honours_range: bool = True  # False: always the whole file, with status 200
    cut_after: list[int] = field(default_factory=list)  # bytes of body until the connection is closed, once per entry
    stays_connected: bool = False  # after a cut, until the client leaves
    statuses: list[int] = field(default_factory=list)  # answered with instead of the file, once per entry
    retry_after: str = "0"  # sent with every status that is no success
    location: str = ""  # likewise
    sends_length: bool = True  # False: the end of the connection is the end of the file
    before_body: Callable[[], None] = lambda: None
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range header
    logins: set[str] = field(default_factory=set)  # "user:password"
    url: str = ""

    @property
    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.requests]


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Run a server for `site` on a free local port; `site.url` says where."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            site.requests.append((self.path.lstrip("/"), self.headers.get("Range")))
            if login := self.headers.get("Authorization"):
                site.logins.add(base64.b64decode(login.removeprefix("Basic ")).decode())
            content = site.files.get(self.path.lstrip("/"))
            if site.statuses:
                self._refuse(site.statuses.pop(0))
            elif content is None:
                self._refuse(404)
            else:
                self._send(content)

        def _refuse(self, status: int, content_range: str | None = None) -> None:
            self.send_response(status)
            if content_range is not None:
                self.send_header("Content-Range", content_range)
            self.send_header("Retry-After", site.retry_after)
            if site.location:
                self.send_header("Location", site.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, content: bytes) -> None:
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if asked and site.honours_range:
                if start >= len(content):
                    self._refuse(416, f"bytes */{len(content)}")
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                start = 0
                self.send_response(200)
            if site.sends_length:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            site.before_body()
            body = content[start:]
            self.wfile.write(body[: site.cut_after.pop(0)] if site.cut_after else body)
            if site.stays_connected:
                self.rfile.read(1)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
