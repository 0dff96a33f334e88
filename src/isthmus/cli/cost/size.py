"""`isthmus cost size`: which GPUs a model needs for a traffic and a latency target, and how many."""

from __future__ import annotations

import difflib
import json
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import click
import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from isthmus.catalog.architectures import Architecture, Precision, architectures
from isthmus.catalog.hardware import Gpu, gpus, rents, typical_rent
from isthmus.catalog.huggingface import architecture_of
from isthmus.cli.options import told
from isthmus.cli.table import table
from isthmus.core.errors import Fault, IsthmusError
from isthmus.economics.sizing.calibrate import Point
from isthmus.economics.sizing.estimate import Efficiencies, Range, fitted
from isthmus.economics.sizing.load_tests import loads
from isthmus.economics.sizing.memory import BITS
from isthmus.economics.sizing.roofline import Setting
from isthmus.economics.sizing.search import Hardware, Option, Question, Target, Traffic, options
from isthmus.economics.sizing.starting import command, rows

PRECISIONS = ("bf16", "fp8", "int8", "fp4", "int4", "mxfp4")
ENGINES = ("vllm", "sglang", "trtllm", "llamacpp")
SECONDS = {"s": 1.0, "ms": 0.001}


class Latency(click.ParamType[float]):
    """A latency such as 1s, 0.5s or 50ms, in seconds."""

    name = "latency"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", str(value).strip())
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is not a latency; write it like 1s or 50ms", param, ctx)
        return float(match[1]) * SECONDS[match[2]]


class OwnGpu(Gpu, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU of the user's own file, with what an hour of it costs."""

    usd_per_hour: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints: the assumptions with their sources, and the options, cheapest first."""

    model: str
    architecture_source: str
    rents_of: str
    fitted_on: str
    errors: dict[str, float]
    options: list[Option]
    start: str | None
    config: str | None


@click.command()
@click.argument("model")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), required=True, help="Requests a second.")
@click.option("--input", "input_", type=click.IntRange(min=1), required=True, help="Mean input, in tokens.")
@click.option("--output", type=click.IntRange(min=1), required=True, help="Mean output, in tokens.")
@click.option("--ttft", type=Latency(), default="1s", show_default=True, help="Target of TTFT.")
@click.option("--tpot", type=Latency(), default="50ms", show_default=True, help="Target of TPOT.")
@click.option(
    "--percentile",
    type=click.FloatRange(50, 99.9),
    default=95.0,
    show_default=True,
    help="So many percent of the requests meet both targets.",
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "bursty"]),
    default="poisson",
    show_default=True,
    help="How requests come.",
)
@click.option(
    "--gpu", "gpu_names", multiple=True, help="Only these GPUs. Default: every one with a known price."
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    help="Only these precisions. Default: as published, and fp8.",
)
@click.option("--engine", type=click.Choice(ENGINES), default="vllm", show_default=True, help="The engine.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The model's config.json of the model hub, for a model that is not known.",
)
@click.option(
    "--gpu-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A YAML list of GPUs of your own, with `usd_per_hour`.",
)
@click.option(
    "--calibrate",
    "reports",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="A load test of your machine: JSON of GuideLLM, aiperf or `vllm bench serve`.",
)
@click.option("--calibrated-on", help="What it was run on, as GPU[:COUNT[:PRECISION]].")
@click.option(
    "--derate", type=click.FloatRange(0.1, 1), default=0.8, show_default=True, help="Planned share."
)
@click.option(
    "--spare", type=click.IntRange(0), default=1, show_default=True, help="Replicas kept in reserve."
)
@click.option("--most", type=click.IntRange(1, 50), default=8, show_default=True, help="Options to show.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the simulation's draws.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@told
def size(model: str, as_json: bool, seed: int, most: int, config_path: Path | None, **given: Any) -> None:
    """Say which GPUs MODEL needs for a traffic and a latency target, and how many; cheapest first.

    Every option fits into memory and meets the targets, TTFT (time to first token) and TPOT (time per output
    token), in a simulation of its queue. The interval holds the true value in four of five cases. Nothing is
    called: speed is estimated from published facts of the model and the GPU, with factors that were fitted to
    measurements; a load test of your own machine sharpens it.
    """
    shape = _shape(model, config_path)
    own = {} if given["gpu_file"] is None else _own_gpus(given["gpu_file"])
    question = Question(
        model=shape,
        traffic=Traffic(
            rate=given["rate"], input=given["input_"], output=given["output"], arrivals=given["arrivals"]
        ),
        target=Target(given["ttft"], given["tpot"], given["percentile"]),
        hardware=_hardware(given["gpu_names"], own),
        engine=given["engine"],
        precisions=given["precisions"] or _usual(shape),
        points=tuple(_points(shape, gpus() | own, given)),
        derate=given["derate"],
        spare=given["spare"],
    )
    efficiencies = fitted()

    def draws() -> Any:
        return iter(random.Random(seed).random, None)

    found = options(question, efficiencies, draws, most)
    answer = _answer(question, efficiencies, found)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2))
    elif found:
        click.echo(_report(answer, question))
    if not found:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "No option fits into memory and meets the target.",
            hint="Allow more GPUs, a lower precision or a slower target.",
        )


def _shape(model: str, config_path: Path | None) -> Architecture:
    if config_path is not None:
        try:
            return architecture_of(json.loads(config_path.read_bytes()), model)
        except ValueError as error:
            raise click.BadParameter(f"{config_path} is no JSON: {error}", param_hint="--config") from None
    known = architectures()
    meant = [name for name in known if model.lower() in (name.lower(), name.lower().rpartition("/")[2])]
    if len(meant) != 1:
        hint = _did_you_mean(model, known)
        raise click.BadParameter(
            f"{model} is not a model whose shape is known{hint}; give its config.json with --config",
            param_hint="MODEL",
        )
    return known[meant[0]]


def _usual(model: Architecture) -> tuple[Precision, ...]:
    return (model.native,) if BITS[model.native] <= 8 else (model.native, "fp8")


def _hardware(names: Iterable[str], own: dict[str, OwnGpu]) -> tuple[Hardware, ...]:
    chosen = tuple(names) or tuple(own) or tuple(dict.fromkeys(rent.gpu for rent in rents()))
    return tuple(
        Hardware(own[name], own[name].usd_per_hour) if name in own else _rented(_known_gpu(name, gpus()))
        for name in chosen
    )


def _rented(gpu: Gpu) -> Hardware:
    rent = typical_rent(gpu.gpu)
    if rent is None:
        raise click.BadParameter(
            f"no price of {gpu.gpu} is known; give it with --gpu-file", param_hint="--gpu"
        )
    return Hardware(gpu, rent.usd_per_hour)


def _known_gpu(name: str, known: Mapping[str, Gpu]) -> Gpu:
    if name not in known:
        raise click.BadParameter(f"{name} is not known{_did_you_mean(name, known)}", param_hint="--gpu")
    return known[name]


def _own_gpus(path: Path) -> dict[str, OwnGpu]:
    try:
        listed = msgspec.convert(YAML(typ="safe").load(path.read_bytes()), list[OwnGpu])
    except (YAMLError, msgspec.ValidationError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--gpu-file") from None
    return {gpu.gpu: gpu for gpu in listed}


def _points(model: Architecture, known: Mapping[str, Gpu], given: dict[str, Any]) -> Iterable[Point]:
    if not given["reports"]:
        return
    if not given["calibrated_on"]:
        raise click.UsageError("--calibrate needs --calibrated-on GPU[:COUNT[:PRECISION]]")
    name, _, rest = given["calibrated_on"].partition(":")
    count, _, precision = rest.partition(":")
    if count and not count.isdigit():
        raise click.BadParameter(f"{count!r} is no number of GPUs", param_hint="--calibrated-on")
    for path in given["reports"]:
        for load in loads(_parsed(path)):
            yield Point(
                Setting(
                    model=model,
                    gpu=_known_gpu(name, known),
                    gpus=int(count or 1),
                    engine=given["engine"],
                    precision=msgspec.convert(precision or model.native, Precision),
                    input=load.input,
                    output=load.output,
                    concurrency=load.concurrency,
                ),
                load.ttft_s,
                load.tpot_s,
            )


def _parsed(path: Path) -> object:
    """The file's JSON; one object a line is a list, as `vllm bench serve --append-result` writes it."""
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise click.BadParameter(f"{path} is no JSON: {error}", param_hint="--calibrate") from None


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    by_lower = {each.lower(): each for each in known}
    inside = [each for lower, each in by_lower.items() if name.lower() in lower]
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    best = inside[0] if inside else by_lower[close[0]] if close else None
    return f"; did you mean {best}?" if best else ""


def _answer(question: Question, efficiencies: Efficiencies, found: list[Option]) -> Answer:
    longest = _longest(question)
    model = question.model
    return Answer(
        model=model.model,
        architecture_source=model.source or "config.json",
        rents_of=max(rent.date for rent in rents()),
        fitted_on=efficiencies.fitted_on,
        errors=efficiencies.errors,
        options=found,
        start=command(found[0], model.hub_name, model.native, longest) if found else None,
        config=rows(found[0], model.hub_name) if found else None,
    )


def _longest(question: Question) -> int:
    return round(question.traffic.input + 1.5 * question.traffic.output)


def _report(answer: Answer, question: Question) -> str:
    percentile = f"P{question.target.percentile:g}"
    heads = (
        *("USD/M TOKENS", "80 %", "USD/MONTH", "REPLICAS", "GPUS", "PRECISION", "REQ/S EACH"),
        *(f"TTFT {percentile}", f"TPOT {percentile}", "BASIS"),
    )
    return "\n\n".join(
        (
            table(heads, [_row(option) for option in answer.options]),
            _basis(answer, question.target, percentile),
            f"Start each replica of the first with:\n\n  {answer.start}",
            "and name it in isthmus.yaml:\n\n" + indent(str(answer.config), "  "),
        )
    )


def _basis(answer: Answer, target: Target, percentile: str) -> str:
    errors = answer.errors
    return (
        f"Targets: TTFT {_time(target.ttft_s)}, TPOT {_time(target.tpot_s)} at {percentile}."
        f" Rents: on demand, list prices of {answer.rents_of}.\n"
        f"Speed: fitted on {answer.fitted_on}; median error on unseen models"
        f" {errors['throughput_mdape_unseen']:.0%} for tokens/s,"
        f" {errors['ttft_mdape_unseen']:.0%} for TTFT."
    )


def _row(option: Option) -> tuple[str, ...]:
    return (
        f"{option.usd_per_million.middle:.3f}",
        f"{option.usd_per_million.low:.3f}-{option.usd_per_million.high:.3f}",
        f"{option.usd_per_month:,.0f}",
        f"{option.replicas}+{option.spare}",
        f"{option.gpus} x {option.gpu}",
        option.precision,
        f"{option.rate_per_replica:.2f}",
        _span(option.ttft_s),
        _span(option.tpot_s),
        option.badge,
    )


def _span(span: Range) -> str:
    return f"{_time(span.middle)} ({_time(span.low)}-{_time(span.high)})"


def _time(seconds: float) -> str:
    return f"{seconds:.2f}s" if seconds >= 1 else f"{seconds * 1000:.0f}ms"
