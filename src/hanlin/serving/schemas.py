"""The bodies of requests, checked strictly: every number has a range, every list a length. Unknown fields are ignored and logged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

INT64 = 1 << 63

Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1 << 20)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Body(BaseModel):
    """Strict types, finite numbers, extra fields kept aside."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class TextPart(Body):
    """One part of a message that is given as a list; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One message. `reasoning` is another name of `reasoning_content`; the template shows it only after the last user message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class StreamOptions(Body):
    include_usage: bool | None = None


class TemplateOptions(Body):
    """What a request may say to the chat template: whether to think."""

    enable_thinking: bool | None = None


class ResponseFormat(Body):
    type: str


class SamplingBody(Body):
    """What both endpoints share."""

    model: str | None = Field(None, max_length=256)
    max_tokens: int | None = Field(None, ge=0, lt=1 << 31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=1 << 31, description="extension; 0 and -1 mean all tokens")
    min_p: float | None = Field(None, ge=0, le=1, description="extension")
    repetition_penalty: float | None = Field(None, ge=0.1, le=10, description="extension")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=1024)
    n: int | None = Field(None, ge=1, le=8)
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=1024)


class ChatRequest(SamplingBody):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
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
    separate_reasoning: bool | None = Field(None, description="extension; false keeps <think> … </think> in the content")


class CompletionRequest(SamplingBody):
    """`POST /v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)] | Ids | Annotated[list[Ids], Field(min_length=1, max_length=64)]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=8)
