"""The bodies of requests, checked strictly: every number has a range, every list a length. Unknown fields are
ignored and logged.

A list's check ends at its first wrong element, and lengths are looked at first: collecting an error for each
of 300,000 elements of a 1 MiB body took a gigabyte and 5 s of the event loop.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

INT64 = 1 << 63
MAX_PARTS = 256
MAX_BIASES = 1024
# Parts that other models understand, for an error that says what is wrong; no other word of a request is
# repeated.
OTHER_PARTS = frozenset(
    {"image_url", "input_image", "image", "input_audio", "audio", "file", "input_file", "video_url", "video"}
)


def check_parts(content: Any) -> Any:
    """Refuse content that is a list of anything but some text parts, at the first that is not one."""
    if isinstance(content, list):
        if len(content) > MAX_PARTS:
            raise PydanticCustomError("too_long", "A message has at most {most} parts", {"most": MAX_PARTS})
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in OTHER_PARTS:
                message = "{kind} parts (images, audio, files) are not supported; this model reads text only"
                raise PydanticCustomError("not_supported", message, {"kind": kind})
            if kind != "text" or not isinstance(part.get("text"), str):
                raise PydanticCustomError("part", 'Every part must be an object with type "text" and a text')
    elif content is not None and not isinstance(content, str):
        raise PydanticCustomError("content", "Content must be a string or a list of text parts")
    return content


def check_bias(bias: Any) -> Any:
    """Refuse too many biases, or the first that is no number, before each becomes an error of its own."""
    if isinstance(bias, dict):
        if len(bias) > MAX_BIASES:
            raise PydanticCustomError("too_long", "At most {most} biases", {"most": MAX_BIASES})
        if not all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in bias.values()
        ):
            raise PydanticCustomError("number", "Every bias must be a number")
    return bias


Id = Annotated[int, Field(ge=0)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=1 << 20, fail_fast=True)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Body(BaseModel):
    """Strict types, finite numbers, extra fields kept aside."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class TextPart(Body):
    """One part of a message that is given as a list; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One message. `reasoning` is another name of `reasoning_content`; the template shows it only after the
    last user message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str | list[TextPart] | None, BeforeValidator(check_parts)] = None
    reasoning_content: str | None = None
    reasoning: str | None = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=1024, fail_fast=True)]


class StreamOptions(Body):
    include_usage: bool | None = None


class TemplateOptions(Body):
    """What a request may say to the chat template: whether to think."""

    enable_thinking: bool | None = None


class ResponseFormat(Body):
    type: str


class ModelBody(Body):
    """What all endpoints share."""

    model: str | None = Field(None, max_length=256)


class SamplingBody(ModelBody):
    """What the generating endpoints share."""

    max_tokens: int | None = Field(None, ge=0, lt=1 << 31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=1 << 31, description="extension; 0 and -1 mean all tokens")
    min_p: float | None = Field(None, ge=0, le=1, description="extension")
    repetition_penalty: float | None = Field(None, ge=0.1, le=10, description="extension")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]] | None, BeforeValidator(check_bias)
    ] = None
    n: int | None = Field(None, ge=1, le=8)
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    stop: Stop | Annotated[list[Stop], Field(max_length=4, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=1024)


class ChatRequest(SamplingBody):
    """`POST /v1/chat/completions`."""

    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=1, lt=1 << 31)
    max_tokens: int | None = Field(None, ge=1, lt=1 << 31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: TemplateOptions | None = None
    separate_reasoning: bool | None = Field(
        None, description="extension; false keeps <think> … </think> in the content"
    )


class CompletionRequest(SamplingBody):
    """`POST /v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=64, fail_fast=True)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=64, fail_fast=True)]
    )
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=8)


class TokenizeRequest(ModelBody):
    """`POST /tokenize`: a prompt or messages."""

    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = Field(
        None, description="of no effect: this tokenizer puts no token before or after a text"
    )
    parse_special: bool | None = Field(
        None, description="extension; names of control tokens in the prompt become those tokens"
    )
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = Field(None, description="of messages; true when absent")
    chat_template_kwargs: TemplateOptions | None = None
    tools: list[Any] | None = None
    continue_final_message: bool | None = None
    chat_template: Any = None


class DetokenizeRequest(ModelBody):
    """`POST /detokenize`."""

    tokens: Annotated[list[Id], Field(max_length=1 << 20, fail_fast=True)]
