"""`isthmus workload`: what is asked of models now, and where it belongs."""

from __future__ import annotations

import codecs
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click
import msgspec

from isthmus.accounting.charge import charge
from isthmus.bootstrap import inspection_of
from isthmus.catalog.prices import PriceBook
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.table import table
from isthmus.cli.workers import here, on_ray
from isthmus.config.load import locate
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.usage import Usage
from isthmus.economics.workloads.advice import LARGE, SMALL, Open, Proposal, UsdRange, is_monthly, propose
from isthmus.economics.workloads.draft import PROVIDERS, draft, main_model
from isthmus.economics.workloads.grouping import Audit, Workload
from isthmus.economics.workloads.traffic import read
from isthmus.perimeter.policy import RULES, Policy

BATCH = 200
"""So many lines are given to a worker at once."""
LARGEST = 32_000_000
"""A line or element of a log may have so many bytes; a longer one is counted as unread."""


_BETWEEN = re.compile(r"[\s,]*")


class _Line(NamedTuple):
    where: str
    raw: bytes


@click.group()
def workload() -> None:
    """What is asked of models now, and where it belongs."""


@workload.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@config_option
@click.option(
    "--draft", "draft_path", type=click.Path(path_type=Path), help="Write a first isthmus.yaml to this file."
)
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Show so many workloads.")
@click.option("--jobs", type=click.IntRange(1), help="Processes; default: one for each core.")
@click.option(
    "--ray",
    "ray_address",
    metavar="ADDRESS",
    help="Work on this Ray cluster: host:port, auto, or local (extra isthmus[ray]).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each workload.")
@told
def audit(
    files: tuple[Path, ...],
    config_path: Path | None,
    draft_path: Path | None,
    top: int,
    jobs: int | None,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Audit recorded traffic in FILES: which workloads there are, and where each belongs.

    Reads JSON Lines, JSON arrays and OTLP files: bodies of OpenAI's kind, its batch files, logs of LiteLLM,
    exports of Langfuse, spans of OpenTelemetry's GenAI conventions, and exported records of Isthmus. Each
    request is labelled by the perimeter's detectors, on this machine; no text is kept or shown. Prices are
    those of genai-prices where the log has none.

    With --ray, the machines of a cluster see the texts, too; they keep none.
    """
    if draft_path is not None and draft_path.exists():
        raise click.BadParameter(
            f"{draft_path} is there already, and is not overwritten", param_hint="--draft"
        )
    policy = load_or_exit(locate(config_path)).perimeter
    if not policy.rules:
        policy = Policy(rules=RULES)
    found = _audited(files, policy, jobs, ray_address)
    if not found.workloads:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"Nothing in these files is traffic in a form that is known ({found.unread} lines).",
            code="no_traffic",
            hint="See `isthmus workload audit --help` for the forms.",
        )
    price = _Prices(time.time_ns() // 1000)
    proposals = [price.propose(each) for each in found.gathered()]
    if draft_path is not None:
        draft_path.write_text(draft(proposals, price.strong(main_model(proposals))), encoding="utf-8")
    if as_json:
        for proposal in proposals:
            click.echo(msgspec.json.encode(_as_data(proposal)))
        return
    click.echo(_report(proposals, top))
    if found.unread:
        click.echo(f"\n{found.unread:,} lines are of no form that is known, and were left out.", err=True)
    if draft_path is not None:
        click.echo(f"\nA first config is in {draft_path}: try `isthmus check -c {draft_path}`.", err=True)


# Reading, in as many processes as there are cores


def _audited(files: Sequence[Path], policy: Policy, jobs: int | None, ray_address: str | None) -> Audit:
    size = sum(file.stat().st_size for file in files)
    talk, whole = sys.stderr, Audit()
    with click.progressbar(length=size, label="Auditing", file=talk, hidden=not talk.isatty()) as bar:
        lines = (line for file in files for line in _lines(file, bar.update))
        batches = iter(lambda: list(islice(lines, BATCH)), [])
        make = partial(_Auditor, policy)
        if ray_address is None:
            parts = here(make, batches, jobs or os.cpu_count() or 1)
        else:
            parts = on_ray(make, batches, ray_address, jobs)
        for part in parts:
            whole.merge(part)
    return whole


class _Auditor:
    """What is done to each batch of lines, wherever that is."""

    def __init__(self, policy: Policy) -> None:
        self._inspection = inspection_of(policy, secrets.token_bytes(32))

    def __call__(self, lines: Sequence[_Line]) -> Audit:
        audit = Audit()
        for line in lines:
            seen = _decoded(line.raw)
            if not seen:
                audit.unread += 1
            for one in seen:
                known = self._inspection.look(msgspec.json.encode(one.asked), ())
                audit.add(one, known.label, bool(known.seen.blind), line.where)
        return audit


def _decoded(raw: bytes) -> list[Any]:
    if len(raw) > LARGEST:
        return []
    try:
        return list(read(msgspec.json.decode(raw)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _lines(file: Path, tell: Callable[[int], None]) -> Iterator[_Line]:
    with file.open("rb") as opened:
        if _begins_array(opened):
            yield from _elements(file, opened, tell)
            return
        for number, raw in enumerate(opened, 1):
            tell(len(raw))
            if raw.strip():
                yield _Line(f"{file}:{number}", raw)


def _begins_array(opened: BinaryIO) -> bool:
    """True where a JSON array begins the file, which is read to behind its bracket then."""
    begins = opened.read(256)
    at = len(begins) - len(begins.lstrip())
    is_array = begins[at : at + 1] == b"["
    opened.seek(at + 1 if is_array else 0)
    return is_array


def _elements(file: Path, opened: BinaryIO, tell: Callable[[int], None]) -> Iterator[_Line]:
    """The elements of a JSON array, one after the other, however long it is."""
    # A block may end within a character.
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    decoder, number = json.JSONDecoder(), 0
    text = ""
    for block in iter(lambda: opened.read(1 << 20), b""):
        tell(len(block))
        text += characters.decode(block)
        at = _behind(text, 0)
        with suppress(ValueError):
            # It ends where an element is not whole yet, or at the end of the array.
            while True:
                value, end = decoder.raw_decode(text, at)
                yield _Line(f"{file}[{number}]", json.dumps(value).encode())
                number += 1
                at = _behind(text, end)
        text = text[at:]
        if len(text) > LARGEST:
            raise _not_json(file)
    if text.strip() != "]":
        raise _not_json(file)


def _behind(text: str, at: int) -> int:
    """Where the next element of an array begins."""
    between = _BETWEEN.match(text, at)
    assert between is not None, "nothing at all may stand between them"
    return between.end()


def _not_json(file: Path) -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"{file} begins like a JSON array, and is none to its end.",
        code="not_json",
        hint="Was it cut off? Export it again, or as JSON Lines.",
    )


# Money


class _Prices:
    """What models cost, by genai-prices, whoever serves them."""

    def __init__(self, at_us: int) -> None:
        self._at_us = at_us
        self._book = PriceBook()
        self._hosts: dict[str, str | None] = {}

    def propose(self, of: Workload) -> Proposal:
        """The proposal for a workload."""
        prompt, output = of.prompt_tokens, of.output_tokens
        return propose(of, self._of, self._range(SMALL, prompt, output), self._range(LARGE, prompt, output))

    def strong(self, model: str) -> tuple[str, str] | None:
        """The preset and the id of a model, where its maker has one."""
        host, id_ = self._split(model)
        preset = {"google": "gemini"}.get(host or "", host)
        return (preset, id_) if preset in PROVIDERS else None

    def _of(self, model: str, prompt: int, output: int) -> float | None:
        host, id_ = self._split(model)
        return None if host is None else self._cost(Open(host=host, id=id_), prompt, output)

    def _range(self, models: Sequence[Open], prompt: int, output: int) -> UsdRange | None:
        costs = [it for it in (self._cost(model, prompt, output) for model in models) if it is not None]
        return (min(costs), max(costs)) if costs else None

    def _cost(self, model: Open, prompt: int, output: int) -> float | None:
        # As one long request it would be priced by a tier for long prompts: rates are of an ordinary one.
        usage = Usage(input=1_000, output=1_000)
        price = self._book.price(model.host, model.id)
        both = charge(price, usage, self._at_us).nanousd
        said = charge(price, Usage(output=1_000), self._at_us).nanousd
        if both is None or said is None:
            return None
        return ((both - said) * prompt + said * output) / 1_000 / 1e9

    def _split(self, model: str) -> tuple[str | None, str]:
        """The host of a model, as genai-prices knows it, and its id there; LiteLLM writes `host/id`."""
        host, slash, rest = model.partition("/")
        if slash and self._book.price(host, rest).lists:
            return host, rest
        if model not in self._hosts:
            self._hosts[model] = self._book.host_of(model)
        return self._hosts[model], model


# Telling


def _report(proposals: Sequence[Proposal], top: int) -> str:
    heads = (
        "WORKLOAD",
        "CALLER",
        "REQUESTS",
        "TOKENS IN",
        "OUT",
        "SENSITIVE",
        "HARD",
        "BELONGS",
        "NOW USD",
        "SAVES USD",
    )
    shown = table(heads, [_row(it) for it in proposals[:top]])
    details = "\n".join(line for it in proposals[:top] for line in _details(it))
    rest = (
        f"\n\n{len(proposals) - top} smaller workloads are not shown (--top)." if len(proposals) > top else ""
    )
    return f"{shown}\n\n{details}{rest}\n\n{_ASSUMED}"


_ASSUMED = """\
Assumed: a hybrid sends 10 to 50 % of its requests on to the strong model; open models cost what gpt-oss and
GLM cost where they are hosted, small to large; a machine of your own is not priced here. Tasks and
complexity are told by rules from the words of a request. What is saved is worth nothing before the
proof."""


def _row(it: Proposal) -> tuple[str, ...]:
    of = it.workload
    per = "/mo" if is_monthly(of) else ""
    return (
        of.name,
        of.group.app[:24] or "-",
        f"{of.requests:,}",
        f"{of.prompt_tokens:,}",
        f"{of.output_tokens:,}",
        f"{of.share('confidential', 'restricted'):.0%}",
        f"{of.hardness_at(0.5):.2f}",
        it.place,
        "unknown" if it.now_usd is None else f"{it.now_usd:,.2f}{per}",
        "-" if it.saving is None else f"{_cents(it.saving[0])} to {_cents(it.saving[1])}{per}",
    )


def _cents(usd: float) -> str:
    return f"{round(usd, 2) + 0.0:,.2f}"


def _details(it: Proposal) -> Iterator[str]:
    yield f"{it.workload.name}: {it.place}"
    for reason in it.reasons:
        yield f"  because {reason}"
    if it.workload.kinds:
        kinds = ", ".join(f"{kind} in {count:,}" for kind, count in it.workload.kinds.most_common(5))
        yield f"  found {kinds}"
    yield f"  prove first: {it.proof}"
    yield f"  for example {', '.join(it.workload.examples)}"


def _as_data(it: Proposal) -> dict[str, Any]:
    of = it.workload
    return {
        "workload": of.name,
        "caller": of.group.app,
        "task": of.group.task,
        "requests": of.requests,
        "models": msgspec.to_builtins(of.models),
        "prompt_tokens": of.prompt_tokens,
        "output_tokens": of.output_tokens,
        "levels": dict(of.levels),
        "kinds": dict(of.kinds),
        "blind": of.blind,
        "complexity_p50": of.hardness_at(0.5),
        "complexity_p90": of.hardness_at(0.9),
        "first_us": of.first_us,
        "last_us": of.last_us,
        "place": it.place,
        "reasons": it.reasons,
        "now_usd": it.now_usd,
        "saving_usd": it.saving,
        "per_month": is_monthly(of),
        "proof": it.proof,
        "examples": of.examples,
    }
