"""`hanlin arena serve`: the voting page for this machine, or for a classroom."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path

from hanlin.arena.app import create_app
from hanlin.arena.rules import read_arena, read_secret
from hanlin.arena.store import Store
from hanlin.common.locks import directory_lock
from hanlin.common.messages import tr
from hanlin.serving.connections import Limits, affordable, bound_logs, raise_file_limit
from hanlin.serving.security import LOOPBACK
from hanlin.serving.server import addresses, bind, make_server


def serve_arena(folder: Path, *, raters: int, port: int = 8010, lan: bool = False) -> None:
    """Serve the voting page until interrupted; the raters' codes go to stdout.

    Args:
        raters: codes there should be at least.
        lan: for other machines too. A code lets in, and codes travel unencrypted: a trusted network only.

    Raises:
        HanlinError: no arena, one that another process serves or holds, or a port in use.
    """
    config, secret = read_arena(folder), read_secret(folder)
    with directory_lock(folder):
        store = Store(folder, secret)
        store.note("rules", config.rules.digest())
        codes = store.ensure_raters(raters)
        host = "0.0.0.0" if lan else "127.0.0.1"
        listener = bind(host, port)
        here, beside = addresses(host, listener.getsockname()[1])
        url = beside or here
        print("\n".join(f"{number:>3}  {code}  {url}/#{code}" for number, code in enumerate(codes, start=1)))
        sys.stdout.flush()
        print(
            tr(
                "Voting page: {url}/ . A code for each rater is above. Ctrl-C stops it; all votes are kept.",
                url=url,
            ),
            file=sys.stderr,
            flush=True,
        )
        app = create_app(store, config, hosts=None if lan else LOOPBACK)
        limits = Limits()
        limits = dataclasses.replace(limits, connections=affordable(limits.connections, raise_file_limit()))
        server = make_server(app, limits)
        bound_logs()
        try:
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once all is closed
                server.run(sockets=[listener])
        finally:
            store.close()
