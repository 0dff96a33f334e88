"""What an attempt consumed, and what that costs."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts of one attempt, partitioned so that no token is counted twice.

    `input` counts the prompt's tokens that were neither read from nor written to a cache; the whole prompt is
    `input + cache_read + cache_write_5m + cache_write_1h`. OpenAI and Gemini report a prompt that includes
    cached tokens, Anthropic one that excludes them: the codecs bring both into this form. `output` includes
    `reasoning`. `estimated` marks counts that the provider did not report.

    `beyond` names what no count of tokens and no list price says: how it was served, where that has its own
    prices (`tier.flex`, `speed.fast`, `geo.us`), and what the provider ran for it (`tool.web_search`).
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    input_audio: int = 0
    output_audio: int = 0
    estimated: bool = False
    beyond: tuple[str, ...] = ()

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, cached or not."""
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h

    @property
    def total(self) -> int:
        """All tokens, in and out."""
        return self.prompt + self.output

    @property
    def ran_tools(self) -> bool:
        """True where the provider ran tools of its own, which have prices of their own."""
        return any(name.startswith("tool.") for name in self.beyond)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input=self.input + other.input,
            output=self.output + other.output,
            cache_read=self.cache_read + other.cache_read,
            cache_write_5m=self.cache_write_5m + other.cache_write_5m,
            cache_write_1h=self.cache_write_1h + other.cache_write_1h,
            reasoning=self.reasoning + other.reasoning,
            input_audio=self.input_audio + other.input_audio,
            output_audio=self.output_audio + other.output_audio,
            estimated=self.estimated or other.estimated,
            beyond=tuple(dict.fromkeys(self.beyond + other.beyond)),
        )


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """The money of one attempt.

    `nanousd` is None where the price is unknown, which is never the same as 0. `basis` says where the price
    comes from (`genai-prices`, `config`, `own engine`, `unknown`), `snapshot` identifies the price list that
    was used. `estimated` marks a charge that is no more than an estimate: its usage was estimated, or it was
    served at other prices than the list's.
    """

    nanousd: int | None
    basis: str
    snapshot: str
    estimated: bool = False
