"""The OpenAI-compatible server and its chat page. HTTP lives here and nowhere else."""

from importlib.util import find_spec

from hanlin.common.errors import HanlinError

if find_spec("fastapi") is None or find_spec("uvicorn") is None:
    raise HanlinError("Serving needs fastapi and uvicorn: pip install 'hanlin[serve]'.")

from hanlin.serving.app import create_app  # noqa: E402
from hanlin.serving.server import serve  # noqa: E402
from hanlin.serving.service import Settings  # noqa: E402

__all__ = ["Settings", "create_app", "serve"]
