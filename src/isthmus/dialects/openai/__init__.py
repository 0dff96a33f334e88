"""OpenAI Chat Completions, both ways, and the ways in which compatible servers differ from it.

Source: developers.openai.com/api/reference/resources/chat (create, stream events), and the types of the
package `openai`. Fields of compatible servers: docs.vllm.ai (OpenAI-compatible server), api-docs.deepseek.com
(`reasoning_content`), openrouter.ai/docs (`reasoning`, errors in streams), docs.mistral.ai (content as
parts).
"""

from isthmus.dialects.openai.quirks import COMPATIBLE, OPENAI, Quirks
from isthmus.dialects.openai.wire import OpenAIChat

__all__ = ["COMPATIBLE", "OPENAI", "OpenAIChat", "Quirks"]
