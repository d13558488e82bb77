"""Finding the other processes of a training: those that `torchrun` started, or none."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hanlin.common.devices import distributed_backends, resolve_device, traits
from hanlin.common.errors import HanlinError
from hanlin.training.config import Parallel
from hanlin.training.distributed.strategy import DataParallel, Sharded, Team, _timeout


@contextlib.contextmanager
def joined(
    parallel: Parallel = "ddp", device: str | None = None, ds_config: Path | None = None
) -> Iterator[tuple[Team, str | None]]:
    """The team that `torchrun` started (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`), or one process alone; and this process' device.

    Args:
        ds_config: file of DeepSpeed's settings, for `deepspeed`.

    Raises:
        HanlinError: the processes do not find one another, or one of them is lost.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) < 2
    if alone and parallel != "deepspeed":
        yield Team(), device
        return
    mine = resolve_device(device)
    if mine.type != "cpu":
        mine = torch.device(mine.type, int(os.environ.get("LOCAL_RANK", "0")))
        torch.accelerator.set_device_index(mine.index)
    try:
        whom: dict[str, Any] = (
            {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # type: ignore[reportPrivateImportUsage]
            if alone
            else _from_agent()
        )
        dist.init_process_group(traits(mine).distributed_backend, timeout=_timeout(), **whom)
        yield _team(parallel, mine, ds_config), str(mine)
    except (dist.DistError, RuntimeError) as error:
        if not _is_lost_connection(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise HanlinError(
            f"与其他进程的联系断了（{reason}）。最近的检查点完好：torchrun --max-restarts 会自动接着训练，或再运行同一条命令。",
            f"The other processes are out of reach ({reason}). The newest checkpoint is whole: torchrun --max-restarts goes on from it, or run the same command again.",
        ) from None
    finally:
        if dist.is_initialized():
            with contextlib.suppress(Exception):
                dist.destroy_process_group()


def _from_agent() -> dict[str, Any]:
    """Where the processes of this start meet, where `torchrun`'s agent hosts the store; nothing where the first process does.

    The agent keeps one store for all its restarts (torch 2.13), and torch takes it as it is: a process that starts first would read the
    addresses of those that died before. Measured with a process killed: two of six starts spent every `--max-restarts` on that.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(  # type: ignore[reportPrivateImportUsage]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, is_master=False, timeout=_timeout()
    )
    start = f"hanlin/{agreed_start(store, rank, size)}"
    store = dist.PrefixStore(start, store)  # type: ignore[reportPrivateImportUsage]
    return {"store": store, "rank": rank, "world_size": size}


def agreed_start(store: Any, rank: int, size: int) -> str:
    """A name for this start that all its processes know, whatever earlier starts have left in the store.

    The count of restarts is none: each machine's agent counts its own. So the first process makes a name up, and tells it to each
    process that asks, under a word that only this process knows; what a dead one has asked is answered as well and heard by nobody.

    Raises:
        DistStoreError, RuntimeError: not all processes were there in time.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"hanlin/asks/{rank}", mine)
        start = store.get(f"hanlin/answer/{mine}").decode()
        store.set(f"hanlin/heard/{start}/{rank}", "")
        return start
    waiting, until = set(range(1, size)), time.monotonic() + _timeout().total_seconds()
    while waiting:
        if time.monotonic() > until:
            raise RuntimeError(f"timed out waiting for processes {sorted(waiting)}")
        for other in sorted(waiting):
            if store.check([f"hanlin/heard/{mine}/{other}"]):
                waiting.remove(other)
            elif store.check([f"hanlin/asks/{other}"]):
                store.set(f"hanlin/answer/{store.get(f'hanlin/asks/{other}').decode()}", mine)
        time.sleep(0.02)
    return mine


def _team(parallel: Parallel, device: torch.device, ds_config: Path | None) -> Team:
    if parallel == "deepspeed":
        from hanlin.training.distributed.deepspeed import DeepSpeed

        return DeepSpeed(device, ds_config)
    return DataParallel(device) if parallel == "ddp" else Sharded(device, parallel == "hsdp")


def _is_lost_connection(error: BaseException) -> bool:
    words = ("connection", "timed out", "timeout", "peer", "rendezvous", "socket", *distributed_backends())
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
