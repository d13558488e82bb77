"""The OpenAI-compatible server and its chat page. HTTP lives here and nowhere else."""

from .app import create_app
from .server import serve
from .service import Settings

__all__ = ["Settings", "create_app", "serve"]
