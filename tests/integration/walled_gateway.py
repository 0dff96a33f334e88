"""A gateway in a network of its own, where every address leads to this process, and each knock is heard.

Run as a program by `test_perimeter_network`, in a user and network namespace. It prints, as JSON, for each
scenario the answer's status and the places to which a TCP connection was begun or a datagram was sent.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .gateway import OPENAI, Answer, Served, serving

INSIDE, RENTED, OUTSIDE = "10.0.0.1:8000", "10.0.0.2:8000", "203.0.113.3:8000"
NOBODY = "10.0.0.99:8000"
CANARY = "canary.of.the.strait@example.org"

_ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "noon"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
_ALL_PROTOCOLS = 3
_TCP, _UDP = 6, 17
_SYN, _ACK = 2, 16
_SOL_PACKET, _PACKET_STATISTICS = 263, 6


class Ear:
    """Hears every packet of the namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        self._socket.bind(("lo", 0))
        self._socket.setblocking(False)

    def heard(self) -> set[str]:
        """Where a connection was begun, or a datagram sent to, since the last time; all that is not IPv4 is a
        place of its own."""
        places = set()
        while True:
            try:
                packet = self._socket.recv(65_535)
            except BlockingIOError:
                return places
            if (place := _knocked_at(packet)) is not None:
                places.add(place)

    @property
    def missed(self) -> int:
        """Packets that came too fast to be heard."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int(struct.unpack("II", statistics)[1])


def _knocked_at(frame: bytes) -> str | None:
    packet = frame[14:]
    if packet[0] >> 4 != 4:
        return "not IPv4"
    length = (packet[0] & 15) * 4
    rest = packet[length:]
    port = struct.unpack("!H", rest[2:4])[0]
    place = f"{socket.inet_ntoa(packet[16:20])}:{port}"
    if packet[9] == _TCP:
        return place if rest[13] & (_SYN | _ACK) == _SYN else None
    return f"{place} by {'UDP' if packet[9] == _UDP else packet[9]}"


class Upstream:
    """A server at an address, which says the same to everybody."""

    def __init__(self) -> None:
        self.head = b"HTTP/1.1 200 OK\r\n"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(lengths[0].partition(b":")[2]))
        body = msgspec.json.encode(_ANSWER)
        writer.write(
            b"%bcontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (self.head, len(body), body)
        )
        writer.close()


def config() -> str:
    """Models inside, on rented machines and outside, and routes over them."""
    places = {"inside": (INSIDE, "local"), "rented": (RENTED, "open"), "outside": (OUTSIDE, "closed")}
    places["nobody"] = (NOBODY, "local")
    providers = {
        name: {
            "dialect": "openai",
            "base_url": f"http://{place}/v1",
            "kind": kind,
            # Nobody is left alone: each scenario is to find everybody willing.
            "breaker": {"failures": 1000},
        }
        for name, (place, kind) in places.items()
    }
    models = {name: {"provider": name} for name in places}
    asked = {name: {"model": name, "retries": 1, "patience": 0} for name in places}
    routes = {
        "all": {"fallback": [asked["nobody"], asked["inside"], asked["rented"], asked["outside"]]},
        "split": {"split": [{"plan": asked[name], "weight": 1} for name in ("outside", "rented")]},
        "out": "outside",
    }
    document = {"providers": providers, "models": models, "routes": routes, "perimeter": {}}
    return msgspec.json.encode(document).decode()


async def _listen(place: str) -> Upstream:
    upstream = Upstream()
    host, _, port = place.partition(":")
    await asyncio.start_server(upstream.answer, host, int(port))
    return upstream


async def _scenarios() -> dict[str, Any]:
    ear = Ear()
    inside, rented, _ = [await _listen(place) for place in (INSIDE, RENTED, OUTSIDE)]
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with serving(config(), Path(folder)) as served:
            own = f"127.0.0.1:{served.port}"

            async def ask(scenario: str, route: str, text: str, **more: Any) -> None:
                answer = await _asked(served, route, text, more)
                told[scenario] = {"status": answer.status, "heard": sorted(ear.heard() - {own})}

            await ask("harmless", "all", "hello")
            await ask("harmless, outside", "out", "hello")
            inside.head = b"HTTP/1.1 500 No\r\n"
            await ask("harmless, inside fails", "all", "hello")
            await ask("personal, inside fails", "all", f"Write to {CANARY}")
            rented.head = b"HTTP/1.1 500 No\r\n"
            await ask("harmless, only outside is left", "all", "hello")
            await ask("personal, only outside is left", "all", f"Write to {CANARY}")
            rented.head = b"HTTP/1.1 200 OK\r\n"
            await ask("secret, inside fails", "all", "ghp_R7kW2mXq9LzT4vYb8NcJ5sHd1FgP3aQe6UoK")
            await ask("personal, split", "split", f"Write to {CANARY}")
            await ask("personal, outside", "out", f"Write to {CANARY}")
            inside.head = (
                b"HTTP/1.1 307 There\r\nlocation: http://%b/v1/chat/completions\r\n" % OUTSIDE.encode()
            )
            await ask("secret, redirected", "all", "ghp_R7kW2mXq9LzT4vYb8NcJ5sHd1FgP3aQe6UoK")
            inside.head = b"HTTP/1.1 200 OK\r\n"
            await ask("addresses in the request", "all", "", **_led_astray())
    return {"scenarios": told, "missed": ear.missed}


def _led_astray() -> dict[str, Any]:
    """Fields that have led other gateways to addresses of the caller's choice."""
    pictures = [
        {"type": "image_url", "image_url": {"url": url}}
        for url in (
            "http://169.254.169.254/latest/meta-data/",
            "http://[::ffff:127.0.0.1]/",
            "http://2852039166/",
            "file:///etc/passwd",
            "gopher://10.9.9.9:70/",
            "http://elsewhere.invalid/a.png",
        )
    ]
    elsewhere = "http://10.9.9.9:8000/v1"
    fields = ("api_base", "base_url", "api_url", "endpoint", "callback_url", "webhook")
    return {
        "messages": [{"role": "user", "content": pictures}],
        **dict.fromkeys(fields, elsewhere),
        "metadata": {"api_base": elsewhere},
        "extra_headers": {"host": "10.9.9.9"},
        "mcp_servers": [{"type": "url", "url": elsewhere, "name": "x"}],
        "headers": {"x-original-url": elsewhere, "x-api-base": elsewhere, "x-host": "10.9.9.9"},
    }


async def _asked(served: Served, route: str, text: str, more: Mapping[str, Any]) -> Answer:
    fields = {"messages": [{"role": "user", "content": text}], **more}
    return await served.ask(route, OPENAI, **fields)


if __name__ == "__main__":
    for command in (["link", "set", "lo", "up"], ["route", "add", "local", "default", "dev", "lo"]):
        subprocess.run(["ip", *command], check=True)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(_scenarios())))
