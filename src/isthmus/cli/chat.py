"""`isthmus chat`: a conversation in the terminal, and what each turn cost."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import SplitResult, urlsplit

import click
import msgspec

from isthmus.cli.options import use_colour
from isthmus.core.errors import IsthmusError
from isthmus.dialects.sse import Splitter

MARK = b": isthmus "
READ = 65536
PATIENCE_S = 600


class Address(click.ParamType[SplitResult]):
    """The URL of a gateway, with or without the `/v1` that OpenAI's clients want."""

    name = "url"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> SplitResult:
        text = str(value).rstrip("/").removesuffix("/v1")
        try:
            parts = urlsplit(text)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            sound = False
        if not sound:
            self.fail(f"{value!r} is no URL; write it like http://127.0.0.1:4141", param, ctx)
        return parts


@click.command()
@click.argument("route", default="default")
@click.option(
    "--url",
    type=Address(),
    default="http://127.0.0.1:4141",
    show_default=True,
    help="Where the gateway is.",
)
@click.option("--key", envvar="ISTHMUS_KEY", help="A key; default $ISTHMUS_KEY.")
@click.option("--system", help="A system message to begin with.")
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer.")
def chat(route: str, url: SplitResult, key: str | None, system: str | None, max_tokens: int | None) -> None:
    """Talk to ROUTE of a running gateway. One line is one turn; an empty line, Ctrl-D or /exit ends it.

    Answers go to stdout, everything else to stderr, so that a conversation can be piped.
    """
    talk = _Talk(url, key, route, system, max_tokens)
    live = sys.stdin.isatty()
    if live:
        click.echo(f"Talking to route {route!r} at {url.geturl()}. /exit ends, /new forgets.", err=True)
    for line in _lines():
        if line == "/new":
            talk.forget()
            continue
        # A person may say it again, or otherwise; a script must learn that there is no answer.
        if not talk.turn(line) and not live:
            raise SystemExit(1)


class _Talk:
    """The conversation so far, and the way to the gateway."""

    def __init__(
        self, url: SplitResult, key: str | None, route: str, system: str | None, max_tokens: int | None
    ) -> None:
        self._url = url
        self._headers = {"content-type": "application/json", "x-isthmus-receipt": "1"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._request: dict[str, Any] = {"model": route, "stream": True}
        if max_tokens is not None:
            self._request["max_tokens"] = max_tokens
        self._opening = [{"role": "system", "content": system}] if system else []
        self._messages: list[dict[str, str]] = []

    def forget(self) -> None:
        """Begin anew."""
        self._messages = []

    def turn(self, text: str) -> bool:
        """Say something and show the answer as it comes; False where there is none, or not all of it."""
        self._messages.append({"role": "user", "content": text})
        where, answer = self._url.geturl(), None
        try:
            answer = self._ask()
        except BrokenPipeError:
            # Whoever read the conversation has seen enough: click ends the process quietly.
            raise
        except (http.client.HTTPException, msgspec.DecodeError, IsthmusError):
            _say(f"\nWhat answers at {where} broke off, or does not speak as a gateway does.", "red")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            _say(f"No gateway answers at {where} ({reason}). Start one with: isthmus serve", "red")
        except KeyboardInterrupt:
            _say("\n  (interrupted: this turn is forgotten)", "bright_black")
        if answer is None:
            self._messages.pop()
            return False
        self._messages.append({"role": "assistant", "content": answer})
        return True

    def _ask(self) -> str | None:
        url = self._url
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=PATIENCE_S)
        body = msgspec.json.encode({**self._request, "messages": [*self._opening, *self._messages]})
        try:
            connection.request("POST", f"{url.path}/v1/chat/completions", body, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                _say(_error_text(response.read()), "red")
                return None
            if not (response.getheader("content-type") or "").startswith("text/event-stream"):
                raise http.client.HTTPException("no event stream")
            return self._show(response)
        finally:
            connection.close()

    def _show(self, response: http.client.HTTPResponse) -> str | None:
        said: list[str] = []
        receipt: dict[str, Any] | None = None
        for data in _events(response):
            if data.startswith(MARK):
                receipt = msgspec.json.decode(data[len(MARK) :])
                continue
            if data == b"[DONE]":
                continue
            chunk = msgspec.json.decode(data)
            if "error" in chunk:
                _say(f"\n{chunk['error'].get('message', 'the stream broke')}", "red")
                return None
            for choice in chunk.get("choices", ()):
                text = choice.get("delta", {}).get("content") or ""
                said.append(text)
                sys.stdout.write(text)
                sys.stdout.flush()
        sys.stdout.write("\n")
        sys.stdout.flush()
        if receipt is not None:
            _say(_footer(receipt), "bright_black")
        return "".join(said)


def _events(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The data of each event, and the gateway's receipt, which is a comment."""
    splitter = Splitter()
    tail = b""
    while chunk := response.read1(READ):
        tail = (tail + chunk)[-READ:]
        for event in splitter.feed(chunk):
            yield event.data
    start = tail.rfind(b"\n" + MARK)
    if start >= 0:
        yield tail[start + 1 :].strip()


def _footer(receipt: dict[str, Any]) -> str:
    tokens = f"{receipt['prompt_tokens']} in, {receipt['output_tokens']} out"
    about = "about " if receipt["cost_estimated"] else ""
    cost = "price unknown" if receipt["cost_usd"] == "unknown" else f"{about}{receipt['cost_usd']} USD"
    return (
        f"  {receipt['model']} · {tokens} · {cost} · "
        f"overhead {receipt['overhead_ms']:.2f} ms of {receipt['total_ms']:,.0f} ms"
    )


def _error_text(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "The gateway answered with an error that is not in its dialect; is this URL a gateway?"


def _lines() -> Iterator[str]:
    live = sys.stdin.isatty()
    while True:
        if live:
            sys.stderr.write("\n> ")
            sys.stderr.flush()
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            return
        if not line or (live and not line.strip()) or line.strip() == "/exit":
            return
        if line.strip():
            yield line.strip()


def _say(text: str, colour: str) -> None:
    click.echo(click.style(text, fg=colour) if use_colour(sys.stderr) else text, err=True)
