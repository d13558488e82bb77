"""`hanlin plan`. `cli` names it and loads this file when it is asked for; what is heavy waits until it
runs."""

from __future__ import annotations

from hanlin.cli.main import Flag, show
from hanlin.common.errors import HanlinError


def plan(
    recipe: str | None = None,
    /,
    *overrides: str,
    params: str | None = None,
    depth: int | None = None,
    tokens: str | None = None,
    device: str = "this",
    nodes: int = 1,
    gpus: int = 1,
    network: float = 25.0,
    price: float | None = None,
    vram: float | None = None,
    steps: int = 20,
    json: Flag = False,
) -> None:
    """Say what a recipe will take before it runs: memory, speed, time, money; with --params, what sizes it
    derives.

    Parameters
    ----------
    recipe
        A shipped recipe or a YAML file; without one, only the derived sizes are shown.
    overrides
        Dotted settings, such as pretrain.seq_len=1024.
    device
        A name of the table, such as rtx4090, t4 or 910b, or this machine, where a few steps are run.
    nodes
        Machines.
    gpus
        Devices in each.
    network
        Gbit/s between machines.
    price
        CNY for an hour of one device, instead of the table's.
    vram
        For a card that is not in the table, its memory in GiB; its speed is taken to be an RTX 3060's.
    steps
        Of the measurement on this machine.
    """
    import dataclasses

    from hanlin.common.progress import make_progress
    from hanlin.recipe.sizing import Sizing, derive_sizes, sizing_text

    if (
        recipe is not None and "=" in recipe
    ):  # an override in the recipe's place: the sizes alone are asked for
        recipe, overrides = None, (recipe, *overrides)
    sizings: list[Sizing] = []
    if recipe is None:
        from hanlin.common.config import apply_overrides, flatten

        if params is None and depth is None:
            raise HanlinError(
                "Name a recipe, or a size with --params. Examples: hanlin plan zh-mini, hanlin plan "
                "--params 26m"
            )
        sizing = derive_sizes(
            params=params, depth=depth, tokens=tokens, given=flatten(apply_overrides({}, overrides))
        )
        show(dataclasses.asdict(sizing), json, sizing_text(sizing))
        return
    from hanlin.planning.plan import plan_recipe, plan_text
    from hanlin.recipe.recipe import load_recipe

    loaded = load_recipe(
        recipe, overrides, params=params, depth=depth, tokens=tokens, on_sizing=sizings.append
    )
    progress = make_progress()
    try:
        found = plan_recipe(
            loaded,
            device,
            nodes=nodes,
            gpus=gpus,
            network=network,
            price=price,
            vram=vram,
            steps=max(1, steps),
            progress=progress,
        )
    finally:
        progress.close()
    text = "\n\n".join([*(sizing_text(sizing) for sizing in sizings), plan_text(found)])
    show(
        dataclasses.asdict(found) | {"sizing": [dataclasses.asdict(sizing) for sizing in sizings]}, json, text
    )
