"""Gemini generateContent: parts, thought signatures, safety blocks, and embeddings of its own.

Sources: ai.google.dev/api/generate-content, .../api/embeddings, .../gemini-api/docs/thought-signatures,
google.rpc.Status for errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from isthmus.testing.embeddings import vector
from isthmus.testing.script import Refusal, Script, ToolCall
from isthmus.testing.seals import seal, unseal
from isthmus.testing.wire import (
    Asked,
    Frame,
    House,
    JsonObject,
    Offered,
    Received,
    RefusedError,
    Wire,
    count_words,
    field,
    known,
    names,
    number,
    objects,
    require,
    strings,
)

_DOCUMENTED = names(
    "cachedContent contents generationConfig labels model safetySettings serviceTier store systemInstruction"
    " toolConfig tools"
)
_GENERATION = names(
    "audioTimestamp audioTranscriptionConfig candidateCount enableAffectiveDialog enableEnhancedCivicAnswers"
    " frequencyPenalty imageConfig logprobs maxOutputTokens mediaResolution presencePenalty responseFormat"
    " responseJsonSchema _responseJsonSchema responseLogprobs responseMimeType responseModalities "
    "responseSchema seed speechConfig stopSequences temperature thinkingConfig topK topP"
)
_SCHEMA = names(
    "additionalProperties anyOf default defs description enum example format items maxItems maxLength"
    " maxProperties maximum minItems minLength minProperties minimum nullable pattern properties "
    "propertyOrdering ref required title type"
)
_DATA = names(
    "text inlineData fileData functionCall functionResponse executableCode codeExecutionResult toolCall"
    " toolResponse"
)
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
_FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tools": "STOP",
    "sequence": "STOP",
    "filter": "SAFETY",
    "refusal": "STOP",
    "pause": "OTHER",
    "context": "MAX_TOKENS",
}
_STATUS = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "The caller does not have permission"),
    404: ("NOT_FOUND", "models/x is not found for API version v1beta."),
    409: ("ABORTED", "The operation was aborted."),
    429: (
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    500: ("INTERNAL", "An internal error has occurred. Please retry."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
}
_NO_SIGNATURE = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
"""What Google lets stand for the signature of a call that another model made."""

_SIGNED_MODELS = re.compile(r"gemini-([3-9]|\d\d)|sim-signed")
"""Models that refuse a function call of the current turn without its signature."""


def read(received: Received, house: House) -> Asked:
    """The request, or RefusedError with what Google would say."""
    model, method = model_and_method(received.path)
    body = _body(received, house, _DOCUMENTED)
    stream = method == "streamGenerateContent"
    require(
        not stream or received.query.get("alt") == "sse",
        "The simulator streams Server-Sent Events only: ask with ?alt=sse.",
    )
    config = _camel(field(body, "generationConfig", dict, {}))
    known(config, _GENERATION, lambda name: _unknown(name, "generation_config"))
    number(config, "temperature", 0, 2)
    number(config, "topP", 0, 1)
    number(config, "candidateCount", 1, 8)
    contents = objects(field(body, "contents", list, []), "contents")
    _check_contents(contents, house, signed=_SIGNED_MODELS.match(model) is not None)
    tools = tuple(_offered(body))
    return Asked(
        wire="gemini",
        model=model,
        text=_text(contents[-1]),
        prompt_tokens=_prompt_tokens(body),
        stream=stream,
        include_usage=True,
        tools=tools,
        forced=_forced(body, tools),
        schema=_answer_schema(config),
        choices=field(config, "candidateCount", int, 1),
        logprobs=field(config, "logprobs", int, 0) if config.get("responseLogprobs") else None,
        max_tokens=field(config, "maxOutputTokens", int),
        stop=strings(config, "stopSequences"),
        organisation=house.organisation,
        received=received,
    )


def whole(asked: Asked, script: Script) -> JsonObject:
    """The GenerateContentResponse."""
    return _response(asked, script, _candidates(asked, script), final=True)


def frames(asked: Asked, script: Script) -> Iterator[Frame]:
    """Responses with a part each, the last with the finish reason. Usage is told in every one."""
    if script.ending == "blocked":
        yield Frame(_response(asked, script, None, final=True), kind="terminal")
        return
    for part in _parts(asked, script):
        candidate = {"content": {"parts": [part], "role": "model"}, "index": 0}
        yield Frame(_response(asked, script, [candidate], final=False), kind="piece")
    ending = {"content": {"parts": [{"text": ""}], "role": "model"}, "index": 0} | _finish(asked, script)
    yield Frame(_response(asked, script, [ending], final=True), kind="terminal")


def interruption(asked: Asked, sent: int) -> list[Frame]:
    """A data line with the error's body, after which nothing comes."""
    return [Frame(error(RefusedError("The model is overloaded. Please try again later.", status=503)))]


def error(refused: RefusedError) -> JsonObject:
    """A google.rpc.Status in JSON."""
    status, _ = _STATUS.get(
        refused.status, ("FAILED_PRECONDITION" if refused.status < 500 else "INTERNAL", "")
    )
    return {"error": {"code": refused.status, "message": refused.message, "status": status}}


def refusal(planned: Refusal) -> RefusedError:
    """Google's words for a planned refusal."""
    if planned.reason == "context":
        message = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
        return RefusedError(message, status=planned.status)
    _, message = _STATUS.get(planned.status, _STATUS[500])
    return RefusedError(message, status=planned.status)


def model_and_method(path: str) -> tuple[str, str]:
    """The model and the method of a path such as /v1beta/models/m:generateContent."""
    model, _, method = path.rpartition("/models/")[2].rpartition(":")
    return model, method


def count_tokens(received: Received, house: House) -> tuple[str, JsonObject]:
    """The model, and the answer of :countTokens."""
    body = _body(received, house, frozenset(("contents", "generateContentRequest", "model")))
    counted = _camel(field(body, "generateContentRequest", dict, {})) or body
    contents = objects(field(counted, "contents", list, []), "contents")
    _check_contents(contents, house, signed=False)
    total = _prompt_tokens(counted)
    answer = {"totalTokens": total, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": total}]}
    return model_and_method(received.path)[0], answer


def embed(received: Received, house: House) -> tuple[str, JsonObject]:
    """The model, and the answer of :embedContent or :batchEmbedContents."""
    model, method = model_and_method(received.path)
    if method == "embedContent":
        body = _body(received, house, _EMBEDDED)
        return model, {"embedding": _embedding(body)}
    body = _body(received, house, frozenset(("requests",)))
    requests = [_camel(one) for one in objects(field(body, "requests", list), "requests")]
    require(bool(requests), "* BatchEmbedContentsRequest.requests: at least one request is required")
    for one in requests:
        require(
            one.get("model") == f"models/{model}",
            "Model in EmbedContentRequest must match the model in the URL.",
        )
    return model, {"embeddings": [_embedding(one) for one in requests]}


_EMBEDDED = frozenset(("content", "model", "outputDimensionality", "taskType", "title", "embedContentConfig"))


def _embedding(body: JsonObject) -> JsonObject:
    content = field(body, "content", dict)
    require(content is not None, "* EmbedContentRequest.content: contents is not specified")
    text = _text(content)
    require(bool(text), "content is empty")
    number(body, "outputDimensionality", 1, 65536)
    return {"values": vector(text, *filter(None, [field(body, "outputDimensionality", int)]))}


def _parts(asked: Asked, script: Script, index: int = 0) -> Iterator[JsonObject]:
    for piece in script.reasoning:
        yield {"text": piece, "thought": True}
    for piece in script.choice(index) + script.refusal:
        yield {"text": piece}
    for position, call in enumerate(script.tools):
        if _well_formed(call):
            described = {"id": f"sim{asked.serial}_{position}", "name": call.name, "args": call.input}
            # Of parallel calls only the first is signed.
            signature = {"thoughtSignature": seal(asked.organisation, call.name)} if position == 0 else {}
            yield {"functionCall": described} | signature


def _candidates(asked: Asked, script: Script) -> list[JsonObject] | None:
    if script.ending == "blocked":
        return None
    return [
        {"content": {"parts": _joined(asked, script, index), "role": "model"}, "index": index}
        | _finish(asked, script)
        for index in range(asked.choices)
    ]


def _joined(asked: Asked, script: Script, index: int) -> list[JsonObject]:
    """The parts, with neighbouring texts of one sort joined as in a body that is not streamed."""
    joined: list[JsonObject] = []
    for part in _parts(asked, script, index):
        if (
            "text" in part
            and joined
            and "text" in joined[-1]
            and joined[-1].get("thought") == part.get("thought")
        ):
            joined[-1] = joined[-1] | {"text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(part)
    return joined


def _finish(asked: Asked, script: Script) -> JsonObject:
    reason = _FINISH.get(script.ending, script.ending)
    if not all(_well_formed(call) for call in script.tools):
        reason = "MALFORMED_FUNCTION_CALL"
    finish: JsonObject = {"finishReason": reason}
    if asked.logprobs is not None and script.text:
        finish |= _logprobs(asked, script)
    return finish


def _well_formed(call: ToolCall) -> bool:
    return bool(call.input) or call.arguments.strip() == "{}"


def _logprobs(asked: Asked, script: Script) -> JsonObject:
    values = script.logprobs + (-0.1,) * (len(script.text) - len(script.logprobs))
    pairs = zip(script.text, values, strict=False)
    chosen = [
        {"token": piece, "tokenId": position, "logProbability": value}
        for position, (piece, value) in enumerate(pairs)
    ]
    top = [{"candidates": [one]} for one in chosen] if asked.logprobs else []
    average = sum(values[: len(chosen)]) / len(chosen)
    return {"avgLogprobs": average, "logprobsResult": {"chosenCandidates": chosen, "topCandidates": top}}


def _response(
    asked: Asked, script: Script, candidates: list[JsonObject] | None, *, final: bool
) -> JsonObject:
    response: JsonObject = {"modelVersion": asked.model, "responseId": f"sim{asked.serial}"}
    if candidates is None:
        response["promptFeedback"] = {"blockReason": "SAFETY", "safetyRatings": []}
    else:
        response["candidates"] = candidates
    if script.fault.usage != "missing":
        response["usageMetadata"] = _usage(asked, script, final=final)
    return response


def _usage(asked: Asked, script: Script, *, final: bool) -> JsonObject:
    """Usage so far: before the last response only the prompt is counted."""
    usage = asked.usage(script)
    told = {"promptTokenCount": usage.prompt, "totalTokenCount": usage.total if final else usage.prompt}
    if final and script.ending != "blocked":
        told["candidatesTokenCount"] = usage.output
        # Google leaves out what is zero.
        told |= {"thoughtsTokenCount": usage.reasoning} if usage.reasoning else {}
    told |= {"cachedContentTokenCount": usage.cache_read} if usage.cache_read else {}
    return told


def _body(received: Received, house: House, documented: frozenset[str]) -> JsonObject:
    given = received.headers.get("x-goog-api-key") or received.query.get("key")
    given = given or received.headers.get("authorization", "").removeprefix("Bearer ")
    if house.key is not None and given != house.key:
        raise RefusedError("API key not valid. Please pass a valid API key.", status=400)
    if received.body is None:
        raise RefusedError("Invalid JSON payload received. Unexpected token.")
    body = _camel(received.body)
    if house.strict:
        known(
            body,
            documented,
            lambda name: f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.',
        )
    return body


def _camel(fields: JsonObject) -> JsonObject:
    """The object with its own field names in lowerCamelCase: protobuf's JSON admits both spellings."""
    return {
        re.sub(r"(?<=[a-z])_([a-z])", lambda found: found[1].upper(), name): fields[name] for name in fields
    }


def _unknown(name: str, where: str) -> str:
    return f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field."


def _check_contents(contents: list[JsonObject], house: House, *, signed: bool) -> None:
    require(bool(contents), "* GenerateContentRequest.contents: contents is not specified")
    turns = [
        (content.get("role", "user"), _content_parts(content, index))
        for index, content in enumerate(contents)
    ]
    for index, (role, parts) in enumerate(turns):
        require(
            role in ("user", "model", "function"),
            f"Please use a valid role: user, model. (contents[{index}])",
        )
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        replies = [part["functionResponse"] for part in parts if "functionResponse" in part]
        before = turns[index - 1][1] if index else []
        _check_replies(replies, [part["functionCall"] for part in before if "functionCall" in part])
        require(
            not calls or (index > 0 and role == "model"),
            "Please ensure that function call turn comes immediately after a user turn or after a "
            "function response turn.",
        )
        require(
            not calls
            or index + 1 == len(turns)
            or any("functionResponse" in part for part in turns[index + 1][1]),
            "Please ensure that the number of function response parts is equal to the number of "
            "function call parts of the function call turn.",
        )
    _check_signatures(turns, house, signed=signed)


def _content_parts(content: JsonObject, index: int) -> list[JsonObject]:
    parts = [_camel(part) for part in objects(field(content, "parts", list), f"contents[{index}].parts")]
    require(
        bool(parts), f"* GenerateContentRequest.contents[{index}].parts: contents.parts must not be empty."
    )
    for position, part in enumerate(parts):
        where = f"contents[{index}].parts[{position}]"
        given = _DATA & part.keys()
        require(
            len(given) == 1,
            f"* GenerateContentRequest.{where}.data: required oneof field 'data' must have one field",
        )
        require("text" not in given or isinstance(part["text"], str), f"Invalid value at '{where}.text'")
        for name in given & {"functionCall", "functionResponse"}:
            described = field(part, name, dict, {})
            require(isinstance(described.get("name"), str), f"{where}.{name}.name: Name cannot be empty.")
            inner = described.get("args" if name == "functionCall" else "response", {})
            require(isinstance(inner, dict), f"Invalid value at '{where}.{name}': expected a Struct")
    return parts


def _check_replies(replies: list[JsonObject], calls: list[JsonObject]) -> None:
    if not replies:
        return
    require(
        len(replies) == len(calls),
        "Please ensure that the number of function response parts is equal to the number of function "
        "call parts of the function call turn.",
    )
    named = sorted(str(call["name"]) for call in calls)
    require(
        sorted(str(reply["name"]) for reply in replies) == named,
        "Function response parts must name the functions of the preceding function call turn.",
    )


def _check_signatures(turns: list[tuple[str, list[JsonObject]]], house: House, *, signed: bool) -> None:
    """Each step of the current turn must have its signature; any signature must be one of this house."""
    starts = [
        index
        for index, (role, parts) in enumerate(turns)
        if role == "user" and not any("functionResponse" in part for part in parts)
    ]
    current = starts[-1] if starts else 0
    for index, (_, parts) in enumerate(turns):
        for part in parts:
            signature = field(part, "thoughtSignature", str)
            genuine = signature is None or not house.strict or _is_genuine(signature, house)
            require(genuine, "Corrupted thought signature.")
        first = next((part for part in parts if "functionCall" in part), None)
        require(
            not (signed and index > current and first is not None and "thoughtSignature" not in first),
            "Function call is missing a thought_signature in functionCall parts. This is required for "
            "tools to work correctly, and missing thought_signature may lead to degraded model performance.",
        )


def _is_genuine(signature: str, house: House) -> bool:
    """Whether the signature is of this house; protobuf's JSON admits both alphabets of base64."""
    standard = signature.replace("-", "+").replace("_", "/")
    return signature in _NO_SIGNATURE or unseal(house.organisation, standard) is not None


def _offered(body: JsonObject) -> Iterator[Offered]:
    for index, tool in enumerate(objects(field(body, "tools", list, []), "tools")):
        described = objects(
            _camel(tool).get("functionDeclarations", []), f"tools[{index}].function_declarations"
        )
        for position, raw in enumerate(described):
            where = f"tools[{index}].function_declarations[{position}]"
            declaration = _camel(raw)
            name = field(declaration, "name", str)
            require(
                name is not None and _NAME.fullmatch(name) is not None,
                f"* GenerateContentRequest.{where}.name: Invalid function name. Must start with a "
                "letter or an underscore.",
            )
            schema = field(declaration, "parameters", dict)
            _check_schema(schema, f"{where}.parameters")
            yield Offered(name, schema or field(declaration, "parametersJsonSchema", dict, {}))


def _check_schema(schema: JsonObject | None, where: str) -> None:
    """Refuses keywords of JSON Schema that Google's Schema, a subset of OpenAPI's, does not have."""
    if schema is None:
        return
    known(_camel(schema), _SCHEMA, lambda name: _unknown(name, where))
    require(
        not isinstance(schema.get("type"), list),
        f"Invalid value at '{where}.type': Proto field is not repeating, cannot start list.",
    )
    for name, part in field(schema, "properties", dict, {}).items():
        _check_schema(part if isinstance(part, dict) else {}, f"{where}.properties[{name}]")
    _check_schema(field(schema, "items", dict), f"{where}.items")
    for part in objects(schema.get("anyOf", []), f"{where}.any_of"):
        _check_schema(part, f"{where}.any_of")


def _forced(body: JsonObject, tools: tuple[Offered, ...]) -> str | None:
    config = _camel(field(body, "toolConfig", dict, {})).get("functionCallingConfig", {})
    require(isinstance(config, dict), "Invalid value at 'tool_config.function_calling_config'")
    calling = _camel(config)
    mode = calling.get("mode", "AUTO")
    require(mode in ("AUTO", "ANY", "NONE", "VALIDATED"), f"Invalid value at 'tool_config.mode': \"{mode}\"")
    if mode != "ANY":
        return None
    require(bool(tools), "Function calling config is set without function_declarations.")
    allowed = strings(calling, "allowedFunctionNames")
    require(
        set(allowed) <= {tool.name for tool in tools}, "allowed_function_names should be declared functions."
    )
    return allowed[0] if allowed else "*"


def _answer_schema(config: JsonObject) -> JsonObject | None:
    schema: JsonObject | None = field(config, "responseSchema", dict)
    _check_schema(schema, "generation_config.response_schema")
    full = field(config, "responseJsonSchema", dict) or field(config, "_responseJsonSchema", dict)
    as_json = config.get("responseMimeType") == "application/json"
    require(
        as_json or not (schema or full),
        "Response schema is only supported with response mime type application/json.",
    )
    return (schema or full or {}) if as_json else None


def _prompt_tokens(body: JsonObject) -> int:
    return count_words([body.get("contents"), body.get("systemInstruction"), body.get("tools")])


def _text(content: JsonObject) -> str:
    parts = objects(field(content, "parts", list, []), "content.parts")
    return "".join(
        str(part.get("text") or _reply_text(_camel(part).get("functionResponse"))) for part in parts
    )


def _reply_text(reply: JsonObject | None) -> str:
    values = field(reply or {}, "response", dict, {}).values()
    return " ".join(str(value) for value in values)


WIRE = Wire(
    name="gemini",
    read=read,
    whole=whole,
    frames=frames,
    error=error,
    refusal=refusal,
    interruption=interruption,
    newline="\r\n",
)
