"""A hub that has nothing: it answers "not found" to every question and keeps a list of them.

HF_HUB_OFFLINE=1 is not enough for a proof: loading a LoRA *folder* without a weight name fails under it (diffusers,
loaders/lora_base.py), and what a program would have asked stays unknown. Named in HF_ENDPOINT, this lets such loading
through, as a hub without that repository would. As the proxy it hears of other hosts too, so that every attempt to
reach the network is on record.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def no_hub() -> Iterator[tuple[str, list[str]]]:
    """Yield the endpoint's URL and the list its requests are added to, each as `METHOD path`."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            requests.append(f"{self.command} {self.path}")
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PUT = do_CONNECT = answer

        def log_message(self, format: str, *arguments: object) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)  # seconds until it sees the end
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()
