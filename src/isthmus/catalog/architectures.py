"""The shapes of open models: what decides their memory and their speed. Pure data, one row a model.

The rows stand in architectures.csv, from the config.json that each model's makers publish (the column
`source`). Any other model is read from such a file by `architecture_of`.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, TypeAlias

import msgspec

from isthmus.catalog.hardware import rows

Precision: TypeAlias = Literal["bf16", "fp8", "int8", "fp4", "int4", "mxfp4"]


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a decoder.

    `total_b`, `active_b` and `routed_b` are parameters in billions: all, those that one token uses, and
    those in routed experts. `full_layers` attend to everything, `window_layers` to the last `window`
    tokens; the rest of `layers` keep a state of constant size, `state_mib` a sequence. `latent` is the
    width of a compressed cache (MLA), 0 without. `sparse_reads` bounds the tokens that one new token reads,
    0 without. `native` is the precision in which the makers publish the weights.
    """

    model: str
    total_b: float
    active_b: float
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    full_layers: int
    window_layers: int = 0
    window: int = 0
    window_kv_heads: int = 0
    latent: int = 0
    sparse_reads: int = 0
    state_mib: float = 0
    experts: int = 0
    experts_per_token: int = 0
    routed_b: float = 0
    vocabulary: int
    tied: bool = False
    multimodal: bool = False
    context: int
    native: Precision = "bf16"
    source: str = ""

    @property
    def hub_name(self) -> str:
        """The name under which its makers publish the weights, as engines take it."""
        owner_and_name = self.source.removeprefix("https://huggingface.co/").split("/")[:2]
        return "/".join(owner_and_name) if self.source else self.model

    @property
    def touched_share(self) -> float:
        """The share of the routed experts that one token goes through; 1 in a dense model."""
        return self.experts_per_token / self.experts if self.experts else 1.0


@cache
def architectures() -> dict[str, Architecture]:
    """Every open model whose shape is known, by name."""
    return {row.model: row for row in rows("architectures.csv", Architecture)}
