"""Datasets of real traffic: every dialect becomes our form, labels come along, corrections are targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from isthmus.cli import main
from isthmus.evals.datasets import Dataset, open_dataset
from isthmus.testing import Simulator

from .gateway import DIALECTS, PROMPT, config_text, serving

ROUTES: dict[str, Any] = {
    "kept": {"model": "openai/sim-echo", "record_bodies": True},
    "other": {"model": "openai/sim-echo", "record_bodies": True},
    "bare": "openai/sim-echo",
    "ill": {"model": "openai/sim-400", "retries": 0, "record_bodies": True},
}
PERIMETER = {
    "default": "public",
    "clearance": {"closed": "restricted"},
    "labels": [{"when": "pii.email", "level": "confidential"}],
}
EMAIL = "ann@example.org"


def made(folder: Path, *options: str, name: str = "out.jsonl") -> tuple[Result, Path]:
    out = folder / name
    config = str(folder / "isthmus.yaml")
    return CliRunner().invoke(main, ["dataset", "from-records", "-c", config, "-o", str(out), *options]), out


def left_over(folder: Path) -> list[Path]:
    return [it for it in folder.iterdir() if it.name.endswith(".new")]


def opened(folder: Path, *options: str, name: str) -> Dataset:
    done, out = made(folder, *options, name=name)
    assert done.exit_code == 0, done.output
    return open_dataset(out)


async def test_traffic_becomes_a_dataset(tmp_path: Path) -> None:
    async with Simulator() as sim:
        text = config_text(sim.url, ROUTES, perimeter=PERIMETER)
        (tmp_path / "isthmus.yaml").write_text(text)
        async with serving(text, tmp_path) as served:
            asked = {}
            for dialect in DIALECTS:
                for stream in (False, True):
                    answer = await served.ask("kept", dialect, stream=stream)
                    asked[answer.headers["x-request-id"]] = dialect.text(answer)
            tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
            secret = await served.ask(
                "kept", messages=[{"role": "user", "content": f"Mail {EMAIL}"}], tools=[tool], temperature=0.5
            )
            quiet = await served.ask("other")
            await served.ask("bare")
            await served.ask("ill")
            for answer, said in (
                (secret, {"score": 0, "correction": "Done.", "comment": "wrong"}),
                (secret, {"score": 0.25}),
                (quiet, {"score": 1, "comment": f"ask {EMAIL}"}),
            ):
                body = {"request_id": answer.headers["x-request-id"], **said}
                assert (await served.post("/v1/feedback", body)).status == 200

    done, out = made(tmp_path)
    assert done.exit_code == 0, done.output
    assert out.stat().st_mode & 0o777 == 0o600
    assert "only you may read them" in done.stderr
    assert "the texts were not kept (record_bodies) (1)" in done.stderr
    samples = {sample.id: sample for sample in open_dataset(out).samples}
    assert len(samples) == len(asked) + 2
    for request_id, said in asked.items():
        sample = samples[request_id]
        assert [turn["content"] for turn in sample.request["messages"]] == [PROMPT]
        assert "model" not in sample.request
        assert (sample.metadata["answer"], sample.metadata["route"]) == (said, "kept")
        assert (sample.label.level, sample.target) == ("public", ())

    sensitive = samples[secret.headers["x-request-id"]]
    assert sensitive.label.level == "confidential"
    assert "pii.email" in sensitive.label.categories
    assert (sensitive.request["tools"], sensitive.request["temperature"]) == ([tool], 0.5)
    assert (sensitive.target, sensitive.metadata["score"]) == (("Done.",), 0.25)
    # What people add may be more sensitive than what was asked.
    assert samples[quiet.headers["x-request-id"]].label.level == "confidential"

    ids = {name: answer.headers["x-request-id"] for name, answer in (("secret", secret), ("quiet", quiet))}
    for number, (options, expected) in enumerate(
        (
            (("--corrected",), {ids["secret"]}),
            (("--min-feedback", "0.5"), {ids["quiet"]}),
            (("--min-feedback", "0.25"), set(ids.values())),
            (("--route", "other"), {ids["quiet"]}),
        )
    ):
        found = opened(tmp_path, *options, name=f"{number}.jsonl")
        assert {sample.id for sample in found.samples} == expected
    assert len(opened(tmp_path, "--limit", "2", name="few.jsonl").samples) == 2


async def test_where_no_text_is_kept_nothing_is_written(tmp_path: Path) -> None:
    async with Simulator() as sim:
        text = config_text(sim.url, ROUTES)
        (tmp_path / "isthmus.yaml").write_text(text)
        done, out = made(tmp_path)
        assert "There is no ledger" in done.stderr
        async with serving(text, tmp_path) as served:
            await served.ask("bare")
    done, out = made(tmp_path)
    assert done.exit_code == 1
    assert "No record gives a sample" in done.stderr
    assert "record_bodies: true" in done.stderr
    assert not out.exists()
    assert not left_over(tmp_path)
