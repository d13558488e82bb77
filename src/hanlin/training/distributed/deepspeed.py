"""DeepSpeed as one strategy more: ZeRO stages 1, 2 and 3 (Rajbhandari et al. 2020), with state or weights in
host memory.

The loop, the schedule, clipping, decay, guards and checkpoints stay Hanlin's. DeepSpeed cuts gradients,
optimiser state and (stage 3) weights among the processes, brings them together where they are needed, and
runs our AdamW on its part of them. It is asked for in
`train.parallel: deepspeed`, with `train.deepspeed_config`; this file is only imported then.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from hanlin.common.devices import device_capabilities
from hanlin.common.errors import HanlinError
from hanlin.common.locks import fcntl
from hanlin.common.messages import Text, tr
from hanlin.model import detached_copy
from hanlin.training.config import TrainConfig
from hanlin.training.distributed.deepspeed_config import read_ds_config, resolve_ds_config
from hanlin.training.distributed.process_group import TorchProcessGroup
from hanlin.training.distributed.strategy import Strategy
from hanlin.training.optim.optimizers import Optimizers

_MOMENTS = ("exp_avg", "exp_avg_sq")
_FOLDER = "hanlin-"
_FULL = 3  # the stage that cuts the weights too


class DeepSpeedStrategy(Strategy):
    """The processes of one training by DeepSpeed; one alone is possible too, for the sake of host memory.

    Checkpoints are gathered by the first process and look like those of one process, so any number may go on
    from them.

    Raises:
        HanlinError: DeepSpeed is not installed, or `ds_config` cannot be read.
    """

    sharded = True
    writes_shards = False
    can_compile = False
    _engine: Any

    def __init__(self, device: torch.device, ds_config: Path | None):
        self.given = read_ds_config(ds_config)
        self.stage = (self.given.get("zero_optimization") or {}).get("stage")
        os.environ.setdefault("DS_ACCELERATOR", device.type)
        os.environ.setdefault("LOCAL_RANK", "0")  # asked for even where there is one process
        imported()
        super().__init__(TorchProcessGroup())
        self.device = device

    def build_optimizers(self, model: nn.Module, config: TrainConfig, offload: bool) -> Optimizers:
        deepspeed = imported()
        settings = resolve_ds_config(
            self.given,
            config,
            device_capabilities(self.device).train_dtype,
            sum(parameter.numel() for parameter in model.parameters()),
        )
        optimizers = ZeroOptimizers(model, config)
        try:
            with contextlib.redirect_stdout(sys.stderr), builds(self._warn):
                self._engine, *_ = deepspeed.initialize(
                    model=self._module, optimizer=optimizers.all[0], config=settings, dist_init_required=False
                )
        except (ValueError, deepspeed.DeepSpeedConfigError) as error:
            reason = " ".join(str(error).split())
            raise HanlinError("DeepSpeed does not accept this ds_config: {reason}", reason=reason) from error
        optimizers.attach(self._engine)
        self._module = self._engine
        self._optimizers = optimizers
        return optimizers

    def _warn(self, message: Text) -> None:
        print(tr("warning: {message}", message=message), file=sys.stderr)

    @contextlib.contextmanager
    def gradient_sync(self, enabled: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(enabled)
        yield

    def reduce_gradients(self) -> None:
        raise RuntimeError("DeepSpeed reduces gradients in the backward pass")

    def clip_grad_norm(self, model: nn.Module, max_norm: float) -> torch.Tensor:
        """The norm; what it is found to be is clipped in the step, by the same formula as torch's."""
        return self._optimizers.norm().to(self.device)

    def unsharded(self, model: nn.Module) -> nn.Module:
        return (
            model
            if self.stage != _FULL
            else detached_copy(model, {name: self._full(part) for name, part in model.named_parameters()})
        )

    def assert_replicas_equal(self, model: nn.Module) -> None:
        if self.stage != _FULL:
            super().assert_replicas_equal(model)

    def full_state_dict(self, model: nn.Module) -> dict[str, torch.Tensor]:
        weights = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            full = self._full(tensor)
            if self.group.is_rank0:
                weights[name] = full.to("cpu").contiguous()
        return weights

    def checkpoint_weights(self, model: nn.Module) -> dict[str, torch.Tensor]:
        return self.full_state_dict(model)

    def load_weights(self, model: nn.Module, file: Path) -> None:
        """From the file of one process, parameter by parameter; every process reads it."""
        import deepspeed

        targets = model.state_dict(keep_vars=True)
        with safetensors.safe_open(file, framework="pt") as stored:  # type: ignore[attr-defined]
            require_fit(targets, stored)
            for name, tensor in targets.items():
                value = stored.get_tensor(name)
                with (
                    deepspeed.zero.GatheredParameters([tensor], modifier_rank=0, enabled=is_cut(tensor)),
                    torch.no_grad(),
                ):
                    if not is_cut(tensor) or self.group.is_rank0:
                        tensor.data.copy_(value)
        self._engine.optimizer.refresh_fp32_params()

    def _full(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a weight, of which this process may have but a part. All processes ask at once."""
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor], enabled=is_cut(tensor)):
            return tensor.detach().clone()


class ZeroOptimizers(Optimizers):
    """AdamW with the groups of every other strategy, on the flat parts that ZeRO gives each process.

    The state is there from the beginning, all zero, so that a checkpoint, a rollback and a resume find it in
    the same place.
    """

    def __init__(self, model: nn.Module, config: TrainConfig):
        super().__init__(
            model,
            learning_rate=config.learning_rate,
            muon=False,
            embedding_scale=config.embedding_scale,
            weight_decay=config.weight_decay,
            betas=(0.9, config.beta2),
        )
        self._zero: Any = None
        self._norm = torch.zeros(())

    def _make_state(self) -> None:
        """`attach` does, of the parts that DeepSpeed cuts."""

    def attach(self, engine: Any) -> None:
        """Take over what DeepSpeed has made of the parameters."""
        self._engine, self._zero = engine, engine.optimizer
        self._by_name = {
            name: parameter for parameter, name in self._names.items() if parameter.requires_grad
        }
        self._cut = engine.zero_optimization_stage() == _FULL
        self._flat = (
            self._zero.fp32_partitioned_groups_flat
            if self._cut
            else self._zero.single_partition_of_fp32_groups
        )
        for part in self._flat:
            self.all[0].state[part] = {"step": torch.zeros((), device=part.device)} | {
                key: torch.zeros_like(part, requires_grad=False) for key in _MOMENTS
            }
        if not self._cut:
            self._zero._lazy_init_hp_params_optimizer_state()
        measured = "_get_norm_groups" if self._cut else "scaled_global_norm"
        self._measure: Callable[[], Any] = getattr(self._zero, measured)
        # the step asks for the norm once more: it is told the one that was judged
        setattr(self._zero, measured, self._verdict)

    def norm(self) -> torch.Tensor:
        """Of the whole gradient, 0-d, the same in every process; infinite where a gradient is not finite."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        found = self._measure()
        self._norm = combine_grad_norm_groups(found) if isinstance(found, list) else found
        return self._norm

    def _verdict(self) -> Any:
        return [self._norm] if self._cut else self._norm

    def step(self, factor: float, bad: torch.Tensor | None = None) -> None:
        """A bad step is one whose norm is said to be infinite: DeepSpeed then drops the gradients and touches
        nothing else."""
        for group, peak in zip(self.all[0].param_groups, self._peaks[0], strict=True):
            group["lr"] = peak * factor
        if bad is not None and bool(bad):
            self._norm = torch.full_like(self._norm, float("inf"))
        self._engine.step()

    def zero_grad(self) -> None:
        self._zero.zero_grad()

    def forget(self) -> None:
        for state in self.all[0].state.values():
            for value in state.values():
                value.zero_()

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Gathered, one tensor at a time; in the first process, in host memory. All processes ask at once."""
        from deepspeed.utils import safe_get_full_optimizer_state

        found, first = {}, self._engine.global_rank == 0
        step = self.all[0].state[self._flat[0]]["step"]
        for name, parameter in self._by_name.items():
            for key in _MOMENTS:
                full: Any = safe_get_full_optimizer_state(parameter, key)
                if first:
                    found[f"{name}/{key}"] = full.detach().to("cpu", copy=True)
            if first:
                found[f"{name}/step"] = step.detach().to("cpu", copy=True)
        return found

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        steps = {float(value) for name, value in tensors.items() if name.endswith("/step")}
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition("/")
            if key in _MOMENTS:
                self._place(self._by_name[name], key, value)
            elif key != "step":
                raise KeyError(full_name)
        for state in self.all[0].state.values():
            state["step"].fill_(max(steps, default=0.0))

    def _place(self, parameter: Any, key: str, value: torch.Tensor) -> None:
        """Put this process' part of a whole state tensor where it belongs."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        value = value.to(parameter.device)
        if not self._cut:
            return safe_set_full_optimizer_state(parameter, value, key)
        # DeepSpeed's setter of whole tensors fails in stage 3 where their size does not divide by the
        # processes (0.19.8).
        length, count, rank = parameter.partition_numel(), self._engine.world_size, self._engine.global_rank
        padded = nn.functional.pad(value.flatten(), (0, length * count - value.numel()))
        safe_set_local_optimizer_state(parameter, padded[length * rank : length * (rank + 1)], key)


def is_cut(tensor: torch.Tensor) -> bool:
    """Whether stage 3 has cut it among the processes."""
    return hasattr(tensor, "ds_id")


def require_fit(targets: dict[str, torch.Tensor], stored: Any) -> None:
    """Check names and shapes of a file's weights.

    Raises:
        HanlinError: they are not this model's.
    """
    shapes = {name: tuple(getattr(tensor, "ds_shape", tensor.shape)) for name, tensor in targets.items()}
    found = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118 - not a dict
    if shapes != found:
        name = min(set(shapes.items()) ^ set(found.items()))[0]
        raise HanlinError(
            "Weight {name} does not fit: {found} in the file, {shapes} in the model.",
            name=name,
            found=found.get(name),
            shapes=shapes.get(name),
        )


def imported() -> Any:
    """The package.

    Raises:
        HanlinError: it is not installed.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import deepspeed
    except ImportError as error:
        raise HanlinError(
            "train.parallel=deepspeed needs deepspeed ({error}). Run pip install 'hanlin[deepspeed]', or "
            "take train.parallel=fsdp.",
            error=error,
        ) from None
    deepspeed.utils.logger.setLevel(logging.ERROR)  # what it says of a skipped step, the loop says better
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
        False  # for inference on a CPU only; not compiled, it cannot be waited for
    )
    return deepspeed


# ---------------------------------------------------------------- what DeepSpeed compiles at its first start


@contextlib.contextmanager
def builds(warn: Callable[[Text], None]) -> Iterator[Path]:
    """A folder of our own for what is compiled within the block, and no lock in it that nobody holds.

    PyTorch marks a build by a file named `lock`; a process that is killed meanwhile leaves it, and every
    later start waits for it without end. Here each process holds a lock of the kernel besides, shared, which
    dies with it. Whoever gets it alone knows that nobody builds.
    """
    if shutil.which("ninja") is None:  # it comes with DeepSpeed, beside a Python that need not be on the path
        os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", "")))
    folder = _build_folder()
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("TORCH_EXTENSIONS_DIR")
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    try:
        with open(folder / ".builders", "a+") as builders:
            _sweep(folder, builders, warn)
            yield folder
    finally:
        if before is None:
            del os.environ["TORCH_EXTENSIONS_DIR"]
        else:
            os.environ["TORCH_EXTENSIONS_DIR"] = before


def _sweep(folder: Path, builders: Any, warn: Callable[[Text], None]) -> None:
    """Remove stale locks if no other process of ours is building; then be one that does."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        fcntl.flock(builders, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for lock in sorted(folder.glob("*/lock")):
            lock.unlink(missing_ok=True)
            warn(
                Text(
                    "an earlier start was killed while it compiled {name}; its lock {lock} was removed",
                    name=lock.parent.name,
                    lock=lock,
                )
            )
    fcntl.flock(builders, fcntl.LOCK_SH)


def _build_folder() -> Path:
    """For these versions, under TORCH_EXTENSIONS_DIR or where PyTorch builds."""
    from torch.utils.cpp_extension import get_default_build_root

    versions = (
        f"py{sys.version_info.major}{sys.version_info.minor}-torch{torch.__version__}"
        f"-deepspeed{importlib.metadata.version('deepspeed')}"
    )
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()) / f"{_FOLDER}{versions}"
