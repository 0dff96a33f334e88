"""Runs TensorZero's gateway out of its Python wheel: prints its base URL, then serves until it is stopped.

The wheel carries the whole HTTP gateway (for `patch_openai_client`). It picks its own port. The interpreter
sleeps while the gateway's own threads serve, so what is measured is the gateway.

    python tensorzero_host.py CONFIG.toml
"""

from __future__ import annotations

import sys
import threading

from tensorzero.tensorzero import _start_http_gateway


def main() -> None:
    gateway = _start_http_gateway(
        config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
    )
    print(gateway.base_url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
