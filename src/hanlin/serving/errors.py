"""Errors as OpenAI's clients expect them: an HTTP status and one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        param: the offending field's path, if there is one.
        code: a short name that programs can compare.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON object."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400."""
    return ApiError(400, message, param=param, code=code)


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(BaseModel):
    """OpenAI's error object, for the description of the API."""

    error: ErrorDetail


STATUSES = {
    400: "the request is wrong, or its prompt beyond the context",
    401: "no valid API key",
    403: "a host name or origin that is not let in",
    404: "no such model or file",
    408: "the body took too long",
    413: "the body is too large",
    429: "too many requests are waiting",
    431: "the headers are too large",
    500: "generation failed",
    501: "not what this model can do",
    503: "too late, or shutting down",
}


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These error responses, for a route's description."""
    return {
        status: {"model": ErrorObject, "description": STATUSES[status]}
        for status in (400, 401, 403, 431, *statuses)
    }
