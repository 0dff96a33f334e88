"""An engine that loads no model: a real process with a real socket, which misbehaves as its settings say."""

from __future__ import annotations

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from isthmus.providers.engines import child


class Settings(msgspec.Struct, kw_only=True):
    """What it does. `says` is written to standard error at first, `says_ready` once it listens."""

    port: int = 0
    says: str = ""
    says_ready: str = ""
    exits: int | None = None
    refuses: str = ""
    announces: str = ""
    loading: int = 0
    deaf_to_sigterm: bool = False
    dies_when_ready: bool = False


def serve(settings: Settings) -> ThreadingHTTPServer:
    """A server whose health is 503 for the first `loading` answers; `/hang` makes it fall silent."""
    left = [settings.loading]
    hung = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/hang":
                hung.set()
            elif hung.is_set():
                threading.Event().wait()
            left[0] -= 1
            self.send_response(503 if left[0] >= 0 else 200)
            self.end_headers()
            if settings.dies_when_ready and left[0] < 0:
                self.wfile.flush()
                self.connection.close()
                os.kill(os.getpid(), signal.SIGKILL)

        def log_message(self, *_: object) -> None:
            pass

    try:
        return ThreadingHTTPServer(("127.0.0.1", settings.port), Handler)
    except OSError:
        return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def end_in_good_order(*_: object) -> None:
    """End as an engine does that was asked to."""
    sys.stderr.write("ended in good order\n")
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    out = child.keep_stdout()
    settings = child.read_settings(Settings)
    child.end_with_parent()
    sys.stderr.write(settings.says)
    sys.stderr.flush()
    if settings.exits is not None:
        sys.exit(settings.exits)
    if settings.refuses:
        child.announce(out, child.Refused(settings.refuses, "Do as the hint says."))
        sys.exit(1)
    if settings.announces:
        out.write(settings.announces.encode() + b"\n")
        out.flush()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if settings.deaf_to_sigterm else end_in_good_order)
    server = serve(settings)
    if not settings.announces:
        child.announce(out, child.Listening(f"http://127.0.0.1:{server.server_port}"))
    sys.stderr.write(settings.says_ready)
    sys.stderr.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
