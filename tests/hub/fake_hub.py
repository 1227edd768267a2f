"""A Hugging Face Hub on loopback: what `huggingface_hub` asks for, with faults on request.

One port is the Hub, a second one its storage (LFS and Xet), so that a token that leaves the Hub's host is seen.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import ThreadingHTTPServer

from tests.hub.fake_answers import Handler
from tests.hub.fake_files import LFS_SUFFIXES, Blob, Repo, Request


class FakeHub:
    """The two servers; `repos` is what is published, `requests` what was asked, `faults` what goes wrong.

    A fault is a function of (handler, request) that returns True if it answered; by repository, each used once
    unless it is followed by itself in the list.
    """

    def __init__(self, token: str = "hf_" + "x" * 34) -> None:
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: dict[str, list[str]] = {}
        self.connections: list[socket.socket] = []
        self.hanging = 0
        self._go_on = threading.Event()
        self._hub, self._storage = (self._start(name) for name in ("hub", "storage"))
        self.url = f"http://127.0.0.1:{self._hub.server_port}"
        self.storage_url = f"http://localhost:{self._storage.server_port}"  # another host, by name

    def _start(self, name: str) -> ThreadingHTTPServer:
        handler = type("Handler", (Handler,), {"hub": self, "port": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def close(self) -> None:
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()
        for connection in self.connections:  # those that clients keep open
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Keep a request waiting until `release`."""
        self._go_on.clear()
        self.hanging += 1
        self._go_on.wait(30)

    def release(self) -> None:
        self.hanging = 0
        self._go_on.set()

    def publish(self, repo_id: str, files: dict[str, bytes], **flags: bool) -> str:
        """Put files into a repository, made where it is missing; the commit."""
        repo = self.repos.setdefault(repo_id, Repo(**flags))
        return repo.commit({name: Blob(data, name.endswith(LFS_SUFFIXES)) for name, data in files.items()})

    def fault(self, repo_id: str) -> str | None:
        """The fault that strikes now: the list's next one; the last one stays if it ends in "always"."""
        pending = self.faults.get(repo_id, [])
        if not pending:
            return None
        return pending[0] if pending[0].endswith("always") else pending.pop(0)
