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

from hanlin.common.devices import device_capabilities, distributed_backends, resolve_device
from hanlin.common.errors import HanlinError, first_process
from hanlin.training.config import Parallel
from hanlin.training.distributed.ddp import DDPStrategy
from hanlin.training.distributed.fsdp import FSDPStrategy
from hanlin.training.distributed.process_group import ProcessGroup, collective_timeout
from hanlin.training.distributed.strategy import SingleProcess, Strategy


@contextlib.contextmanager
def init_distributed(
    parallel: Parallel = "ddp", device: str | None = None, ds_config: Path | None = None
) -> Iterator[tuple[Strategy, str | None]]:
    """The strategy of the processes that `torchrun` started (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`), or of one
    process alone; and this process' device.

    Args:
        ds_config: file of DeepSpeed's settings, for `deepspeed`.

    Raises:
        HanlinError: the processes do not find one another, were not started by `torchrun`, or one of them is
            lost.
    """
    single = int(os.environ.get("WORLD_SIZE", "1")) < 2
    if single and parallel != "deepspeed":
        yield SingleProcess(), device
        return
    if not single:
        _require_torchrun()
    own_device = resolve_device(device)
    if own_device.type != "cpu":
        own_device = torch.device(own_device.type, int(os.environ.get("LOCAL_RANK", "0")))
        torch.accelerator.set_device_index(own_device.index)
    try:
        rendezvous: dict[str, Any] = (
            {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # type: ignore[reportPrivateImportUsage]
            if single
            else _agent_rendezvous()
        )
        dist.init_process_group(
            device_capabilities(own_device).distributed_backend, timeout=collective_timeout(), **rendezvous
        )
        yield build_strategy(parallel, own_device, ds_config), str(own_device)
    except (dist.DistError, RuntimeError) as error:
        if not _is_lost_connection(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise HanlinError(
            "The other processes are out of reach ({reason}). The newest checkpoint is whole: torchrun "
            "--max-restarts goes on from it, or run the same command again.",
            reason=reason,
        ) from None
    finally:
        if dist.is_initialized():
            with contextlib.suppress(Exception):
                dist.destroy_process_group()


def _require_torchrun() -> None:
    """Refuse an environment that has `WORLD_SIZE` but not what else `torchrun` sets."""
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        error = HanlinError(
            "WORLD_SIZE is {size}, but {name} is not set, so the processes cannot find one another. Start "
            "them with torchrun --nproc-per-node={size} -m hanlin …, or unset WORLD_SIZE for one process.",
            size=os.environ["WORLD_SIZE"],
            name=missing[0],
        )
        error.already_reported = not first_process()
        raise error


def _agent_rendezvous() -> dict[str, Any]:
    """Where the processes of this start meet, where `torchrun`'s agent hosts the store; nothing where the
    first process does.

    The agent keeps one store for all its restarts (torch 2.13), and torch takes it as it is: a process that
    starts first would read the addresses of those that died before. Measured with a process killed: two of
    six starts spent every `--max-restarts` on that.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(  # type: ignore[reportPrivateImportUsage]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size,
        is_master=False,
        timeout=collective_timeout(),
    )
    prefix = f"hanlin/{agree_on_start(store, rank, world_size)}"
    store = dist.PrefixStore(prefix, store)  # type: ignore[reportPrivateImportUsage]
    return {"store": store, "rank": rank, "world_size": world_size}


def agree_on_start(store: Any, rank: int, world_size: int) -> str:
    """A name for this start that all its processes know, whatever earlier starts have left in the store.

    The count of restarts is none: each machine's agent counts its own. So the first process makes a name up,
    and tells it to each process that asks, under a word that only this process knows; what a dead one has
    asked is answered as well and heard by nobody.

    Raises:
        DistStoreError, RuntimeError: not all processes were there in time.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"hanlin/asks/{rank}", name)
        start = store.get(f"hanlin/answer/{name}").decode()
        store.set(f"hanlin/heard/{start}/{rank}", "")
        return start
    waiting, until = set(range(1, world_size)), time.monotonic() + collective_timeout().total_seconds()
    while waiting:
        if time.monotonic() > until:
            raise RuntimeError(f"timed out waiting for processes {sorted(waiting)}")
        for other in sorted(waiting):
            if store.check([f"hanlin/heard/{name}/{other}"]):
                waiting.remove(other)
            elif store.check([f"hanlin/asks/{other}"]):
                store.set(f"hanlin/answer/{store.get(f'hanlin/asks/{other}').decode()}", name)
        time.sleep(0.02)
    return name


def build_strategy(parallel: Parallel, device: torch.device, ds_config: Path | None) -> Strategy:
    if parallel == "deepspeed":
        from hanlin.training.distributed.deepspeed import DeepSpeedStrategy

        return DeepSpeedStrategy(device, ds_config)
    return DDPStrategy(device) if parallel == "ddp" else FSDPStrategy(device, hybrid=parallel == "hsdp")


def _is_lost_connection(error: BaseException) -> bool:
    words = ("connection", "timed out", "timeout", "peer", "rendezvous", "socket", *distributed_backends())
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def strategy_of(parallel: Parallel, group: ProcessGroup, device: str | None) -> Strategy:
    """A strategy for one training of processes that are joined already; DeepSpeed is for the commands of one
    stage."""
    if group.world_size == 1:
        return SingleProcess()
    return build_strategy(parallel, torch.device(str(device)), None)
