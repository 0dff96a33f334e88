"""An endpoint that can be reached through a company's proxy only."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.forward_proxy import ForwardProxy

from isthmus.testing import Simulator

from .gateway import OPENAI, PROMPT, config_of, config_text, serving

UPSTREAM = "http://upstream.invalid"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_provider_is_reached_through_its_proxy(tmp_path: Path, stream: bool) -> None:
    login = tmp_path / "login"
    login.write_text("me:secret\n")
    async with Simulator() as sim, ForwardProxy("me:secret") as proxy:
        way = {"client": "aiohttp", "proxy": proxy.url, "proxy_key": f"file:{login}"}
        url = sim.url.replace("http://127.0.0.1", UPSTREAM)
        text = config_text(url, {"r": "openai/sim-echo"}, provider=way)
        async with serving(text, tmp_path) as served:
            answer = await served.ask("r", stream=stream)
        assert OPENAI.text(answer) == PROMPT
        assert proxy.asked == [(f"POST {url}/v1/chat/completions HTTP/1.1", True)]


async def test_a_new_login_for_the_proxy_counts_from_the_next_reload_on(tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text("me:old")
    async with Simulator() as sim, ForwardProxy("me:new") as proxy:
        way = {"client": "aiohttp", "proxy": proxy.url, "proxy_key": f"file:{login}"}
        url = sim.url.replace("http://127.0.0.1", UPSTREAM)
        text = config_text(url, {"r": {"model": "openai/sim-echo", "retries": 0}}, provider=way)
        async with serving(text, tmp_path) as served:
            refused = await served.ask("r")
            assert (refused.status, refused.error["code"]) == (502, "proxy_failed")
            login.write_text("me:new")
            served.house.reload(config_of(text))
            assert (await served.ask("r")).status == 200
