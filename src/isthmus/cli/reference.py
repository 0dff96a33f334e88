"""The reference pages of what runs: commands, endpoints, metrics, records and errors, made from the code.

`python -m isthmus.cli.reference FOLDER` writes them; a test proves that the committed ones are current. The
pages of the config are made by `isthmus.config.reference`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
from prometheus_client import Metric

from isthmus.bootstrap import open_house
from isthmus.cli import main as isthmus
from isthmus.config.config import Config
from isthmus.config.load import parse
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.record import AttemptRecord, Purpose, Record, Timings
from isthmus.core.usage import Charge, Usage
from isthmus.dialects import CLIENT_WIRES
from isthmus.gateway.endpoints import ENDPOINTS, Endpoint
from isthmus.gateway.openapi import HEADERS
from isthmus.store.export import fields
from isthmus.telemetry.metrics import OVERHEAD_SECONDS, REQUEST_SECONDS, Tally

_MADE = "<!-- Made by `python -m isthmus.cli.reference`; changes here are lost. -->"

_CLI_INTRODUCTION = """\
stdout is data, stderr is talk. Every command that reads has `--json`. A command that fails says why on
stderr and exits with 1; wrong usage exits with 2. Colours are used on a terminal only, and never where
`NO_COLOR` is set.

| variable | meaning |
| --- | --- |
| `ISTHMUS_CONFIG` | the config file, where `--config` is not given |
| `ISTHMUS_HOME` | the folder of ledger, keys, logs and fetched weights, instead of the ones below |
| `ISTHMUS_KEY` | the key that `isthmus chat` sends |
| `ISTHMUS_TRAIN_PYTHON` | the Python that has the extra `train`, for `isthmus distill train` |

Without `ISTHMUS_HOME`, ledger, keys and engine logs are in `.isthmus` beside the config file; with the
built-in config they are in `$XDG_DATA_HOME/isthmus`, else `~/.local/share/isthmus`. Fetched weights are in
`$XDG_CACHE_HOME/isthmus/weights`, else `~/.cache/isthmus/weights`. `ledger.path` in the config moves the
ledger with its keys."""

_HTTP_INTRODUCTION = """\
`/openapi.json` of a running gateway describes the same endpoints in OpenAPI 3.1.

A key travels as `Authorization: Bearer isk_...` or as `x-api-key: isk_...`. While no key exists, endpoints
that want one serve programs on the gateway's own machine, and nobody else.

`model` names a route. Errors come in the dialect of the endpoint, with `request_id`, which is the header
`x-request-id`, too; see [errors.md](errors.md). The ledger has those of the endpoints with a wire, but
for 401."""

_HTTP_REQUEST_HEADERS = (
    ("authorization", "`Bearer` and a key."),
    ("x-api-key", "A key, as Anthropic's clients send it. `authorization` comes first."),
    (
        "x-isthmus-receipt",
        "Any value: a stream ends with a comment `: isthmus {...}` that tells model, cost, usage, overhead.",
    ),
    (
        "x-isthmus-label",
        "How sensitive the request is at least: a level, or a name of the config's. Can raise, never lower.",
    ),
    (
        "x-isthmus-conversation",
        "The conversation's name, of your choice: its label only rises, and `continuity` goes by it.",
    ),
    (
        "x-isthmus-revisions",
        "`accept`: a stream of Chat Completions may be begun before it is judged, and be taken back.",
    ),
    (
        "x-isthmus-task",
        "The name of the request's task, as the samples call it of which its route has learned to choose.",
    ),
    ("anthropic-version", "On `/v1/models`: the answer is in Anthropic's form."),
)

_HTTP_FIELDS = """\
The OpenAPI document says their types. The other fields of a dialect are taken too: where the model's endpoint
speaks the caller's dialect they pass through unchanged; where the request is translated they are translated,
refused, or dropped and named in `x-isthmus-dropped`."""

_METRICS_INTRODUCTION = """\
`GET /metrics` answers in Prometheus' text format, or in OpenMetrics to whom accepts it. It wants a key, once
one exists. Counters and histograms start from 0 with the process; money and tokens that must last are in the
[records](records.md). A label has no series before its first event.

`isthmus_first_token_seconds` of an answer that is not streamed is the time to the whole answer.
`isthmus_overhead_seconds` ends with the first byte to the client; [what a record
says](../explanation/what-a-record-says.md) defines it."""

_RECORDS_INTRODUCTION = """\
The fields of `isthmus records export`, the same in JSONL and in Parquet. Names are stable: fields may be
added, none is ever renamed or dropped. `decision` and `findings` are objects in JSONL and JSON text in
Parquet.
`isthmus records list --json` and `show --json` print the same facts nested, as the gateway holds them; `show`
adds the `feedback` on the request.

What usage, charge and overhead mean is told in [what a record
says](../explanation/what-a-record-says.md)."""

_ERRORS_INTRODUCTION = """\
Every failure has a class, which decides the HTTP status, and a code, which says more exactly what happened.
Both are stable; the words around them are not. Records and metrics show the class as `fault`.

- *retried*: the same model is asked again, where the plan allows it and nothing has reached the client.
- *falls back*: the next plan of a `fallback` is tried.
- *trips the breaker*: it counts as a failure of the endpoint.

Two headers tell clients what to do. `retry-after` says when to come back, in seconds. `x-should-retry: false`
stands on failures that another try cannot mend; the official clients heed it.

A stream that has begun has status 200. Its failure is an error event, in the caller's dialect, as its last
event."""

_ERRORS_STATUSES = """\
Where a client's dialect has a status of its own for a failure, its clients get that one:"""

_FAULTS = {
    Fault.INVALID_REQUEST: "The request is not one, or the provider refused it as wrong.",
    Fault.CONTEXT_TOO_LONG: "The prompt does not fit the model's context.",
    Fault.UNSUPPORTED: "The request asks for what this model's dialect cannot say.",
    Fault.UNAUTHENTICATED: "No key, or one that is wrong, revoked or expired.",
    Fault.FORBIDDEN: "The key may not use this route, or a key is wanted and none exists.",
    Fault.NOT_PERMITTED: "A plan asked for a model that this request may not reach.",
    Fault.NOT_FOUND: "There is no such route or endpoint.",
    Fault.METHOD_NOT_ALLOWED: "The endpoint does not take this method.",
    Fault.TOO_LARGE: "The request is larger than the gateway or the provider takes.",
    Fault.RATE_LIMITED: "The provider limits the rate.",
    Fault.BUDGET_SPENT: "A budget has not so much left; another model may be cheap enough.",
    Fault.OVERLOADED: "The provider, or the gateway itself, has no free place.",
    Fault.UPSTREAM_AUTHENTICATION: "The provider refused the gateway's own credential.",
    Fault.UPSTREAM_NOT_FOUND: "The provider does not know the model, or the address is wrong.",
    Fault.UPSTREAM_ERROR: "The provider failed.",
    Fault.UNREACHABLE: "No connection to the provider.",
    Fault.TIMEOUT: "One of the provider's timeouts has passed.",
    Fault.TOOK_TOO_LONG: "The answer did not end in the time that it had: it would take as long again.",
    Fault.BROKEN_STREAM: "The answer ended before its end.",
    Fault.MALFORMED_ANSWER: "What the provider sent is not of its dialect.",
    Fault.CANCELLED: "The client went away.",
    Fault.UNAVAILABLE: "The model cannot be asked now: its engine, its breaker, its quota, or the ledger.",
    Fault.INTERNAL: "A bug of the gateway; its log says where.",
}

CODES = (
    ("missing_key", Fault.UNAUTHENTICATED, "Keys exist, and the request carries none."),
    ("invalid_key", Fault.UNAUTHENTICATED, "No key has this secret."),
    ("revoked_key", Fault.UNAUTHENTICATED, "The key was revoked."),
    ("expired_key", Fault.UNAUTHENTICATED, "The key has expired."),
    ("keys_required", Fault.FORBIDDEN, "No key exists, and the request is not from this machine."),
    ("route_not_allowed", Fault.FORBIDDEN, "The key is for other routes."),
    ("unknown_route", Fault.NOT_FOUND, "No route has this name or fits it."),
    ("unknown_endpoint", Fault.NOT_FOUND, "Nothing is mounted at this path."),
    ("unknown_request", Fault.NOT_FOUND, "No record has this id, or one of another key."),
    ("invalid_feedback", Fault.INVALID_REQUEST, "The feedback says nothing, or too much."),
    ("too_much_feedback", Fault.RATE_LIMITED, "There is feedback on this request 32 times already."),
    ("malformed_json", Fault.INVALID_REQUEST, "The body is not JSON."),
    ("no_model_allowed", Fault.INVALID_REQUEST, "No model of the route can serve this kind of request."),
    ("stateless", Fault.UNSUPPORTED, "The request needs a stored response, and none is stored."),
    ("body_too_large", Fault.TOO_LARGE, "The body is beyond `gateway.max_body_mb`."),
    ("budget_spent", Fault.BUDGET_SPENT, "A budget has not left what the call may cost at most."),
    ("cost_unbounded", Fault.BUDGET_SPENT, "Nobody can tell what the call may cost at most."),
    ("gateway_overloaded", Fault.OVERLOADED, "`gateway.max_in_flight` is reached, and so is the line."),
    ("breaker_open", Fault.UNAVAILABLE, "The model failed repeatedly and is left alone."),
    ("engine_fetching", Fault.UNAVAILABLE, "The engine's weights are being fetched."),
    ("engine_starting", Fault.UNAVAILABLE, "The engine loads its weights."),
    ("engine_restarting", Fault.UNAVAILABLE, "The engine died and is being started."),
    ("engine_failed", Fault.UNAVAILABLE, "The engine does not start, or its weights are not as signed."),
    ("ledger_unavailable", Fault.UNAVAILABLE, "The strict ledger's disk cannot be written."),
    ("shutting_down", Fault.UNAVAILABLE, "The gateway ends, and the time to drain is over."),
    ("connect_failed", Fault.UNREACHABLE, "The name does not resolve, or the port refuses."),
    ("connect_timeout", Fault.UNREACHABLE, "No connection within `timeouts.connect`."),
    ("proxy_failed", Fault.UNREACHABLE, "The proxy cannot be reached, or does not let the request through."),
    ("tls_failed", Fault.UNREACHABLE, "No agreement on TLS; most often the certificate is not trusted."),
    ("pool_exhausted", Fault.UNAVAILABLE, "All of `max_connections` are busy, and the line is full."),
    ("first_byte_timeout", Fault.TIMEOUT, "No byte of an answer within `timeouts.first_token`."),
    ("idle_timeout", Fault.TIMEOUT, "The answer fell silent for `timeouts.idle`."),
    ("total_timeout", Fault.TOOK_TOO_LONG, "The answer did not end within `timeouts.total`."),
    ("connection_lost", Fault.BROKEN_STREAM, "The connection ended early; `unreachable` where nothing came."),
    (
        "answer_interrupted",
        Fault.BROKEN_STREAM,
        "The provider says that it broke its answer off. Trips no breaker.",
    ),
    ("malformed_response", Fault.MALFORMED_ANSWER, "What came is not HTTP/1.1."),
    ("response_too_large", Fault.MALFORMED_ANSWER, "A whole answer is larger than 64 MiB."),
    ("wrong_content_type", Fault.MALFORMED_ANSWER, "A stream was asked, and something else came."),
    ("model_not_permitted", Fault.NOT_PERMITTED, "A plan asked for a model outside its decision."),
)
"""The codes of the gateway itself, each with its class."""

_PORTFOLIO = """
providers: {p: {dialect: openai, base_url: "http://127.0.0.1:9/v1", kind: local}}
models: {m: {provider: p}}
routes: {r: m}
ledger: {path: ledger.db}
"""


class Family(NamedTuple):
    """A metric as the reference shows it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def pages() -> dict[str, str]:
    """Every page that is made here, by its name in docs/reference."""
    return {
        "cli.md": cli_page(),
        "http.md": http_page(),
        "metrics.md": metrics_page(),
        "records.md": records_page(),
        "errors.md": errors_page(),
    }


def cli_page() -> str:
    """Every command, with its arguments and options."""
    parts = ["# isthmus", _MADE, _CLI_INTRODUCTION]
    for path, command in _commands(isthmus, ("isthmus",)):
        parts += [f"## `{' '.join(path)}`", _paragraphs(command)]
        if isinstance(command, click.Group):
            continue
        parts.append(f"```\n{_usage(path, command)}\n```")
        options = [_option(each) for each in command.params if isinstance(each, click.Option)]
        parts.append(_table(("option", "", "default"), options))
    return _joined(parts)


def http_page() -> str:
    """Every endpoint that is mounted, and the headers."""
    rows = [
        (f"`{it.method} {it.path}`", it.summary, it.access, it.wire or "-", _statuses(it)) for it in ENDPOINTS
    ]
    answers = [(f"`{name}`", text) for name, text in HEADERS.items()]
    requests = [(f"`{name}`", text) for name, text in _HTTP_REQUEST_HEADERS]
    parts = [
        "# HTTP",
        _MADE,
        _HTTP_INTRODUCTION,
        _table(("endpoint", "", "access", "wire", "statuses"), rows),
        "## Headers of a request",
        _table(("header", ""), requests),
        "## Headers of a model's answer",
        _table(("header", ""), answers),
    ]
    parts += ["## Fields of a request", _HTTP_FIELDS]
    parts.append(_table(("endpoint", "required", "also described"), _fields_of_requests()))
    return _joined(parts)


def metrics_page() -> str:
    """Every metric, as a gateway that has served one request shows it."""
    rows = [
        (f"`{it.name}`", it.kind, ", ".join(f"`{label}`" for label in it.labels) or "-", it.meaning)
        for it in asyncio.run(families())
    ]
    parts = [
        "# Metrics",
        _MADE,
        _METRICS_INTRODUCTION,
        _table(("metric", "type", "labels", ""), rows),
        f"Buckets of `isthmus_overhead_seconds`: {_numbers(OVERHEAD_SECONDS)}.",
        f"Buckets of every other histogram: {_numbers(REQUEST_SECONDS)}.",
    ]
    return _joined(parts)


def records_page() -> str:
    """Every field of an exported record."""
    rows = [(f"`{name}`", kind, meaning) for name, kind, meaning in fields()]
    return _joined(["# Records", _MADE, _RECORDS_INTRODUCTION, _table(("field", "type", ""), rows)])


def errors_page() -> str:
    """Every class of failure, and the gateway's own codes."""
    faults = [
        (
            f"`{fault}`",
            str(fault.status),
            *map(_mark, (fault.retryable, fault.falls_back, fault.trips_breaker, fault.blames_model)),
            _FAULTS[fault],
        )
        for fault in Fault
    ]
    heads = ("fault", "status", "retried", "falls back", "trips the breaker", "counts against an arm", "")
    parts = [
        "# Errors",
        _MADE,
        _ERRORS_INTRODUCTION,
        "## Classes",
        _table(heads, faults),
        _ERRORS_STATUSES,
        _table(("fault", "wire", "status"), _own_statuses()),
        "## Codes",
        "The gateway's own. Where a provider's error has a code, that one is passed on.",
        _table(("code", "fault", ""), [(f"`{code}`", f"`{fault}`", text) for code, fault, text in CODES]),
        "The faults of a config have codes of their own: see [config.md](config.md#faults).",
    ]
    return _joined(parts)


def _own_statuses() -> list[tuple[str, ...]]:
    """Where a client's wire answers with another status than the table of classes says."""
    return [
        (f"`{fault}`", f"`{name}`", str(status))
        for fault in Fault
        for name, wire in CLIENT_WIRES.items()
        if (status := wire.status_of(IsthmusError(fault, ""))) != fault.status
    ]


async def families() -> list[Family]:
    """Every metric of a gateway that has counted one request."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "isthmus.yaml"
        async with open_house(_small_config(path), path) as house:
            tally = house.gateway.tally
            tally.count(_some_record())
            return [_family(metric, tally) for metric in tally.collect()]


def _small_config(path: Path) -> Config:
    config, faults = parse(_PORTFOLIO, str(path))
    assert config is not None, faults
    return config


def _some_record() -> Record:
    """One that touches every label: a priced answer and an unpriced draft, with tokens of every class."""
    usage = Usage(input=1, output=1, cache_read=1, reasoning=1)
    charges = [Charge(nanousd=amount, basis="", snapshot="") for amount in (1, None)]
    purposes: tuple[Purpose, ...] = ("answer", "draft")
    attempts = tuple(
        AttemptRecord(
            number=number,
            model="m",
            provider="p",
            model_id="m",
            outcome="ok",
            started_ms=0.0,
            first_token_ms=1.0,
            usage=usage,
            charge=charge,
            purpose=purpose,
        )
        for number, (charge, purpose) in enumerate(zip(charges, purposes, strict=True), start=1)
    )
    return Record(
        id="req_0",
        at_us=0,
        dialect="openai",
        operation="chat",
        route="r",
        stream=False,
        status=200,
        outcome="ok",
        attempts=attempts,
        timings=Timings(queue_ms=0.0, overhead_ms=0.0, first_token_ms=None, total_ms=1.0),
        config_hash="",
    )


def _family(metric: Metric, tally: Tally) -> Family:
    name = metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")
    gauge = tally.gauges.get(metric.name.removeprefix("isthmus_"))
    if gauge is not None:
        labels: tuple[str, ...] = gauge[1]
    else:
        labels = tuple(name for name in metric.samples[0].labels if name != "le")
    return Family(name, metric.type, labels, metric.documentation)


def _commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{name} is listed and not there"
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


def _paragraphs(command: click.Command) -> str:
    paragraphs = (command.help or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _usage(path: Sequence[str], command: click.Command) -> str:
    return " ".join((*path, *command.collect_usage_pieces(click.Context(command))))


def _option(option: click.Option) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len, reverse=True))
    choices = f" One of {_code(option.type.choices)}." if isinstance(option.type, click.Choice) else ""
    default = "" if option.is_flag or not option.show_default else f"`{option.default}`"
    return names, f"{option.help or ''}{choices}".strip(), default


def _statuses(endpoint: Endpoint) -> str:
    return ", ".join(map(str, endpoint.statuses))


def _fields_of_requests() -> Iterator[tuple[str, str, str]]:
    for endpoint in ENDPOINTS:
        if endpoint.request is not None:
            required = endpoint.request["required"]
            also = [name for name in endpoint.request["properties"] if name not in required]
            yield f"`{endpoint.path}`", _code(required), _code(also)


def _mark(fact: bool) -> str:
    return "yes" if fact else "-"


def _numbers(bounds: Iterable[float]) -> str:
    return ", ".join(f"{bound:g}" for bound in bounds)


def _code(words: Iterable[object]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def main(folder: Path) -> None:
    """Write every page into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
