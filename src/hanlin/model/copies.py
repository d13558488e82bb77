"""A model's modules once more, with weights from elsewhere."""

from __future__ import annotations

import collections
from collections.abc import Mapping

import torch
from torch import nn

from hanlin.model.causal_lm import LanguageModel

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def detached_copy(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """The model with these whole weights and its own buffers, not to be trained.

    Module by module, and not anew from the configuration: what has taken a module's place is copied as it
    is. Hooks stay behind, as they belong to who shards or watches the original; so does what was compiled.
    Attributes that are no modules, weights or buffers are shared.

    Args:
        weights: by the names of `model.named_parameters()`, on the device where the copy is to be.
    """
    parameters = {
        id(parameter): nn.Parameter(weights[name], requires_grad=False)
        for name, parameter in model.named_parameters()
    }
    return _copied(model, parameters, {})


def _copied(module: nn.Module, parameters: dict[int, nn.Parameter], known: dict[int, nn.Module]) -> nn.Module:
    from torch.distributed.fsdp import FSDPModule

    if id(module) in known:
        return known[id(module)]
    # `fully_shard` puts a class of its own in front
    kind = next(cls for cls in type(module).__mro__ if not issubclass(cls, FSDPModule))
    made = nn.Module.__new__(kind)
    known[id(module)] = made
    made.__dict__.update(module.__dict__)
    made.__dict__.update({name: collections.OrderedDict() for name in _HOOKS})
    made.__dict__.pop("forward", None)  # one put before the class's own
    made.__dict__["_compiled_call_impl"] = None
    made.__dict__["_parameters"] = {
        name: None if parameter is None else parameters[id(parameter)]
        for name, parameter in module._parameters.items()
    }
    made.__dict__["_buffers"] = dict(module._buffers)
    made.__dict__["_modules"] = {
        name: None if child is None else _copied(child, parameters, known)
        for name, child in module._modules.items()
    }
    if isinstance(made, LanguageModel):
        made.forget_compiled()
    return made
