"""OpenAI Responses, both ways, without its memory: the gateway stores no response.

Source: developers.openai.com/api/reference/resources/responses (create, streaming events), the guides
`reasoning` and `conversation-state` there, and the types of the package `openai` 3.54. A request that leans
on stored state (`store`, `previous_response_id`, `conversation`, `background`, `prompt`, item references)
passes through untouched to an endpoint that speaks Responses, and is refused where it must be translated.
"""

from isthmus.dialects.responses.wire import OpenAIResponses

__all__ = ["OpenAIResponses"]
