"""A `ds_config.json` beside the recipe: what it may say, what Hanlin fills in, and what the two may not
disagree about.

DeepSpeed's file can also hold a batch size, an optimiser, a schedule, clipping and a precision. Of these
there is one source, the recipe. `"auto"` leaves a value to it, as elsewhere in the field; another value than
the recipe's is an error that names both.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson

from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing
from hanlin.training.config import TrainConfig

AUTO = "auto"
STAGES = (1, 2, 3)
_BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
_PASSED_ON = {
    "communication_data_type",
    "comms_logger",
    "dump_state",
    "memory_breakdown",
    "steps_per_print",
    "wall_clock_breakdown",
}
_ZERO = {
    "stage",
    "offload_optimizer",
    "offload_param",
    "overlap_comm",
    "contiguous_gradients",
    "reduce_scatter",
    "reduce_bucket_size",
    "allgather_partitions",
    "allgather_bucket_size",
    "round_robin_gradients",
    "sub_group_size",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_gather_16bit_weights_on_model_save",
}
_OFFLOAD = {"device", "pin_memory", "buffer_count", "buffer_size", "max_in_cpu"}
_BUCKET = 500_000_000  # elements; DeepSpeed's own default


def read_ds_config(path: Path | None) -> dict[str, Any]:
    """The object in a `ds_config.json`.

    Raises:
        HanlinError: no path, no such file, or no JSON object in it.
    """
    if path is None:
        raise HanlinError(
            "train.parallel=deepspeed also needs train.deepspeed_config, the path of a ds_config.json. The "
            'shortest: {"zero_optimization": {"stage": 2}}.'
        )
    try:
        found = orjson.loads(Path(path).read_bytes())
    except OSError as error:
        raise HanlinError(
            "Cannot read train.deepspeed_config={path}: {error}.", path=path, error=error.strerror
        ) from None
    except orjson.JSONDecodeError as error:
        raise HanlinError(
            "train.deepspeed_config={path} is not JSON: {error}.", path=path, error=error
        ) from None
    if not isinstance(found, dict):
        raise HanlinError("train.deepspeed_config={path} should hold a JSON object.", path=path)
    return found


def resolve_ds_config(
    given: dict[str, Any], config: TrainConfig, dtype: str, parameters: int
) -> dict[str, Any]:
    """The configuration DeepSpeed is started with.

    Args:
        dtype: that the device trains in, with float32 weights.
        parameters: of the model; no bucket needs to be larger.

    Raises:
        HanlinError: a value contradicts the recipe, or is one that has not been tried here.
    """
    left = dict(given)
    for name in _BATCH:
        _same(name, left.pop(name, AUTO), AUTO, "batch_tokens / micro_tokens / pairs / prompts")
    _same(
        "gradient_clipping", left.pop("gradient_clipping", AUTO), config.max_grad_norm, "train.max_grad_norm"
    )
    _precision(left, dtype)
    _optimizer(left.pop("optimizer", None), config)
    scheduler = left.pop("scheduler", None)
    if scheduler is not None:
        raise _contradiction(
            "scheduler",
            scheduler.get("type") if isinstance(scheduler, dict) else scheduler,
            "train.schedule",
            config.schedule,
        )
    _same(
        "zero_force_ds_cpu_optimizer",
        left.pop("zero_force_ds_cpu_optimizer", AUTO),
        False,
        "torch.optim.AdamW, zero_force_ds_cpu_optimizer",
    )
    left.pop("zero_allow_untested_optimizer", None)
    zero = _zero(left.pop("zero_optimization", None), parameters)
    _known(left, _PASSED_ON, "")
    return left | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # counted by the loop, in tokens
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {"enabled": dtype != "float32", "dtype": dtype},
    }


def _precision(left: dict[str, Any], dtype: str) -> None:
    if dtype == "float16":
        raise HanlinError(
            "This device trains in float16, which the deepspeed strategy does not do yet. Take "
            "train.parallel=fsdp or ddp."
        )
    for name in ("bf16", "bfloat16", "fp16", "amp", "torch_autocast"):
        section = left.pop(name, None) or {}
        enabled, wanted = section.get("enabled", AUTO), section.get("dtype", dtype)
        ours = name == "torch_autocast" and dtype != "float32"
        if enabled not in (AUTO, ours) or (enabled is True and wanted not in (AUTO, dtype)):
            raise _contradiction(f"{name}.enabled", enabled, "float32 weights, computing in", dtype)


def _optimizer(section: dict[str, Any] | None, config: TrainConfig) -> None:
    """The optimiser is Hanlin's AdamW; a section that says the same may stay."""
    if config.muon:
        raise HanlinError(
            "DeepSpeed flattens matrices before it cuts them, and Muon needs them whole. Write train.muon: "
            "false (AdamW), or take train.parallel=fsdp."
        )
    if config.offload_optimizer:
        raise HanlinError(
            "train.offload_optimizer=true is DeepSpeed's own work here. Leave it out and write "
            'zero_optimization.offload_optimizer.device="cpu" in the ds_config.'
        )
    if section is None:
        return
    _same("optimizer.type", section.get("type", AUTO), "AdamW", "train.muon=false")
    ours = {
        "lr": (config.learning_rate, "train.learning_rate"),
        "betas": ([0.9, config.beta2], "0.9, train.beta2"),
        "eps": (1e-8, "eps"),
        "weight_decay": (config.weight_decay, "train.weight_decay"),
    }
    for name, value in section.get("params", {}).items():
        if name in ours:
            _same(f"optimizer.params.{name}", value, *ours[name])
        elif name not in ("torch_adam", "adam_w_mode"):
            _known({name: value}, set(ours), "optimizer.params.")


def _zero(section: Any, parameters: int) -> dict[str, Any]:
    section = section if isinstance(section, dict) else {}
    stage = section.get("stage")
    if stage not in STAGES:
        raise HanlinError(
            "ds_config: zero_optimization.stage should be 1, 2 or 3, not {stage}. Without sharding take "
            "train.parallel=ddp.",
            stage=stage,
        )
    _known(section, _ZERO, "zero_optimization.")
    kept = {name: value for name, value in section.items() if value != AUTO}
    for name in ("offload_optimizer", "offload_param"):
        part = {key: value for key, value in (kept.pop(name, None) or {}).items() if value != AUTO}
        _known(part, _OFFLOAD, f"zero_optimization.{name}.")
        if part.get("device", "none") in ("none", None):
            continue
        if part["device"] != "cpu":
            raise HanlinError(
                "ds_config: zero_optimization.{name}.device={device} has not been tried; cpu and none are "
                "what is supported.",
                name=name,
                device=part["device"],
            )
        if name == "offload_param" and stage != 3:
            raise HanlinError(
                "ds_config: zero_optimization.offload_param needs stage=3, not {stage}.", stage=stage
            )
        kept[name] = part
    # reserved in full, whatever the model's size
    kept.setdefault("reduce_bucket_size", max(1, min(_BUCKET, parameters)))
    return kept


def _same(name: str, theirs: Any, ours: Any, our_name: str) -> None:
    """Refuse a value that is neither `"auto"` nor the recipe's."""
    if theirs in (AUTO, ours):
        return
    numbers = [[*value] if isinstance(value, (list, tuple)) else [value] for value in (theirs, ours)]
    plain = all(isinstance(value, (int, float)) for pair in numbers for value in pair)
    if (
        plain
        and len(numbers[0]) == len(numbers[1])
        and all(math.isclose(one, other, rel_tol=1e-9) for one, other in zip(*numbers, strict=True))
    ):
        return
    raise _contradiction(name, theirs, our_name, ours)


def _contradiction(name: str, theirs: Any, our_name: str, ours: Any) -> HanlinError:
    expected = our_name if ours == AUTO else f"{our_name}={ours}"
    return HanlinError(
        "The ds_config's {name}={theirs} contradicts the recipe's {expected}: the recipe decides these. "
        'Leave it out of the ds_config (or write "auto", for most); to change it, change the recipe.',
        name=name,
        theirs=theirs,
        expected=expected,
    )


def _known(section: dict[str, Any], names: set[str], where: str) -> None:
    unknown = sorted(set(section) - names)
    if unknown:
        raise HanlinError(
            "The ds_config's {where}{unknown} has not been tried with Hanlin and is not passed on unseen. "
            "Leave it out; what is known: {names}.",
            where=where,
            unknown=unknown[0],
            names=listing(sorted(names)),
        )
