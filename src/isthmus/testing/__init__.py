"""A simulated upstream for tests: a real server on loopback that speaks every dialect, and can misbehave.

    async with Simulator() as sim:
        client = AsyncOpenAI(base_url=sim.url + "/v1", api_key="any")
        await client.chat.completions.create(model="sim-429", messages=[...])

Wires: OpenAI Chat Completions, Responses and Embeddings; Anthropic Messages; Gemini generateContent.
Requests are checked as strictly as the vendor does, and nothing here is shared with the dialects that it
helps to test.

What is said is a `Script`: set `sim.script`, or `sim.scripts[model]`, to one or to a function from `Asked`
to one; or ask for one of the models below. `sim.requests` holds what was received, `sim.aborted` counts the
clients that left too early, and an answer that waits goes on when `sim.release()` is called. `with
Simulator.thread() as sim:` is the same for code that is not asynchronous, and `python -m isthmus.testing
--port N` for programs.

The models:
"""

from __future__ import annotations

from isthmus.testing.behaviours import BEHAVIOURS, MODELS, Behaviour, Says, echo, table
from isthmus.testing.script import Fault, Finish, RawAnswer, Refusal, Script, ToolCall, Usage, words
from isthmus.testing.simulator import Simulator, SimulatorThread
from isthmus.testing.wire import Asked, Offered, Received

__doc__ = f"{__doc__}\n{table()}\n"

__all__ = [
    "BEHAVIOURS",
    "MODELS",
    "Asked",
    "Behaviour",
    "Fault",
    "Finish",
    "Offered",
    "RawAnswer",
    "Received",
    "Refusal",
    "Says",
    "Script",
    "Simulator",
    "SimulatorThread",
    "ToolCall",
    "Usage",
    "echo",
    "table",
    "words",
]
