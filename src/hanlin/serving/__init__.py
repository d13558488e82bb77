"""The OpenAI-compatible server and its chat page. HTTP lives here and nowhere else."""

from importlib.util import find_spec

from ..common.errors import HanlinError

if find_spec("fastapi") is None or find_spec("uvicorn") is None:
    raise HanlinError(
        "服务需要 fastapi 和 uvicorn：pip install 'hanlin[serve]'。",
        "Serving needs fastapi and uvicorn: pip install 'hanlin[serve]'.",
    )

from .app import create_app  # noqa: E402
from .server import serve  # noqa: E402
from .service import Settings  # noqa: E402

__all__ = ["Settings", "create_app", "serve"]
