"""`isthmus serve`: the gateway, until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import gc
import ipaddress
import logging
import signal
import sys
from pathlib import Path

import click

from isthmus import __version__
from isthmus.bootstrap import House, in_background, load_routers, open_house, why
from isthmus.cli.greeting import greet
from isthmus.cli.options import config_option, load_or_exit
from isthmus.cli.progress import ProgressLine
from isthmus.config.config import Config
from isthmus.config.load import locate
from isthmus.config.reload import Watcher
from isthmus.config.report import render
from isthmus.core.errors import IsthmusError
from isthmus.gateway.server import listening

log = logging.getLogger("isthmus")


@click.command()
@config_option
@click.option("--host", help="Address to listen on; overrides the config. Default 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; overrides the config. Default 4141.")
@click.option("--greet", "greeting", is_flag=True, help="Send one real request when up, and show its answer.")
def serve(config_path: Path | None, host: str | None, port: int | None, greeting: bool) -> None:
    """Start the gateway, and the engines of its local models, and serve until SIGINT or SIGTERM.

    SIGHUP reads the config again; so does a change of the file, or of one that its perimeter is made of.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)-7s %(name)s: %(message)s")
    # The client of --greet tells of each request: no news here.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    path = locate(config_path)
    config = load_or_exit(path)
    raise_file_limit()
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        try:
            status = runner.run(_serve(config, path, host, port, greeting))
        except IsthmusError as error:
            click.echo(f"isthmus: {error.text}", err=True)
            status = 1
        except OSError as error:
            click.echo(f"isthmus: {_not_listening(error, config, host, port)}", err=True)
            status = 1
    raise SystemExit(status)


def _not_listening(error: OSError, config: Config, host: str | None, port: int | None) -> str:
    where = f"{host or config.gateway.host}:{config.gateway.port if port is None else port}"
    hint = " Is another gateway running? Try --port 0." if error.errno == errno.EADDRINUSE else ""
    return f"cannot listen on {where}: {error.strerror or error}.{hint}"


def raise_file_limit() -> None:
    """Let this process open as many files as it is allowed to: every connection is one, and the usual soft
    limits (1,024, or 256) are meant for programs that cannot count beyond them."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        # macOS says "unlimited" and means kern.maxfilesperproc.
        log.warning("at most %d files and connections may be open: %s", soft, error)


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


async def _serve(
    config: Config, path: Path | None, host: str | None, port: int | None, greeting: bool
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _ask_to_stop, loop, number, stop)
    # Until somebody heeds it, and where there is no file to read again, a hangup must not end the process.
    loop.add_signal_handler(signal.SIGHUP, log.info, "no config file is watched: nothing is read again")
    progress = ProgressLine()
    bound = (host or config.gateway.host, config.gateway.port if port is None else port)
    async with open_house(config, path, progress) as house, listening(house.gateway, *bound) as url:
        _settle_memory()
        _announce(house, path, url)
        if house.gateway.ring.empty and (warning := warning_without_keys(bound[0])):
            click.echo(click.style(warning, fg="red", bold=True), err=True)
        tasks = [in_background(_announce_engines(house, progress), "telling of the engines")]
        if path is not None:
            tasks.append(in_background(_reload_when_changed(house, path), "watching the config"))
        if greeting:
            tasks.append(in_background(_greet(house, url, tasks[0]), "greeting"))
        await stop.wait()
        click.echo("\nDraining: open requests may end, new ones are refused.", err=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    click.echo("Stopped.", err=True)
    return 0


def _settle_memory() -> None:
    """Spare the collector what lives for ever, and let it come seldom: a request leaves no cycles behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _ask_to_stop(loop: asyncio.AbstractEventLoop, number: signal.Signals, stop: asyncio.Event) -> None:
    """Ask once for a graceful end; whoever asks again gets the system's own answer."""
    stop.set()
    loop.remove_signal_handler(number)


def _announce(house: House, path: Path | None, url: str) -> None:
    config = house.gateway.snapshot.config
    click.echo(f"Isthmus {__version__}  {path or 'built-in config'}", err=True)
    click.echo(f"  OpenAI clients     base_url={url}/v1", err=True)
    click.echo(f"  Anthropic clients  base_url={url}", err=True)
    click.echo(f"  routes             {', '.join(config.routes)}", err=True)
    click.echo(f"  ledger             {house.ledger_path} ({config.ledger.mode})", err=True)
    if house.gateway.ring.empty:
        note = "none yet: only programs on this machine are served. `isthmus keys create` makes one."
        click.echo(f"  keys               {note}", err=True)


def warning_without_keys(host: str) -> str | None:
    """What to say where the gateway can be reached from elsewhere and no key exists; None where it cannot."""
    if _is_loopback(host):
        return None
    return (
        f"WARNING: listening on {host} without any key. Callers from other machines are refused, but "
        "whatever runs on this one is served, a proxy or a tunnel for others included. Create a key now: "
        "isthmus keys create --name NAME"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _announce_engines(house: House, progress: ProgressLine) -> None:
    for engine in house.workshop.engines().values():
        try:
            await engine.ready()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # A reload has ended this engine's life, not ours.
            continue
        progress.end()
        click.echo(f"  model {engine.name} is ready", err=True)


async def _reload_when_changed(house: House, path: Path) -> None:
    def adopt(config: Config) -> None:
        fixed = _fixed_at_start(house.gateway.snapshot.config, config)
        house.reload(config)
        log.info("config reloaded: %s", config.hash[:12])
        if fixed:
            log.warning("only the next start will heed the changes of: %s", ", ".join(fixed))

    def reject(reason: str) -> None:
        house.gateway.tally.reloads["rejected"] += 1
        log.error("the new config is not used, the last good one stays:\n%s", reason)

    current = house.gateway.snapshot.config
    watcher = Watcher(
        path,
        on_config=adopt,
        on_faults=lambda faults: reject(render(faults)),
        on_error=lambda error: reject(why(error)),
        prepare=load_routers,
        current=current,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watcher.wake)
    await watcher.run()


def _fixed_at_start(old: Config, new: Config) -> list[str]:
    """What has changed between two configs and cannot be taken by a running gateway."""
    names = ("host", "port", "drain")
    changed = [
        f"gateway.{name}" for name in names if getattr(old.gateway, name) != getattr(new.gateway, name)
    ]
    return [*changed, "ledger"] if old.ledger != new.ledger else changed


async def _greet(house: House, url: str, engines: asyncio.Task[None]) -> None:
    await asyncio.shield(engines)
    await greet(url, house)
    click.echo("\nServing. Ctrl-C ends it.", err=True)
