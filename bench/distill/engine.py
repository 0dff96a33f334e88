"""llama.cpp's server with a base and a LoRA adapter: `python engine.py GGUF ADAPTER|-`.

Its address is the first line that it writes. It ends with its standard input.
"""

from __future__ import annotations

import os
import sys

import xllamacpp

from isthmus.providers.engines.child import keep_stdout


def main() -> None:
    out = keep_stdout()
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.model_alias = {"student"}
    params.hostnames = ["127.0.0.1"]
    params.n_ctx, params.n_parallel = 2048, 2
    params.ui = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(os.environ.get("THREADS", "1"))
    if sys.argv[2] != "-":
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(sys.argv[2], 1.0)]
    server = xllamacpp.Server(params)
    out.write(server.listening_address.encode() + b"\n")
    out.flush()
    sys.stdin.buffer.read()
    del server
    os._exit(0)


if __name__ == "__main__":
    main()
