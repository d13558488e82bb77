"""The verbs of `hanlin inspect`. `cli` names them and loads this file when one is asked for; what is heavy waits until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.cli.main import Flag, show
from hanlin.common.errors import HanlinError, tr

_CHARACTERS = 200
_SHOWN = 8


def spike(run: Path, /, *, step: int | None = None, json: Flag = False) -> None:
    """Show the documents of the steps that were skipped, worst first, with their text.

    Parameters
    ----------
    run
        Directory of a run or of one stage, finished or not.
    step
        Only the bad steps of this number.
    """
    found = [entry for folder in _folders(run) for entry in _entries(folder, step)]
    if step is not None and not found:
        raise HanlinError(
            f"{run} 里没有第 {step} 步的记录。不加 --step 可看到全部。",
            f"{run} has no record of step {step}. Leave --step out to see all.",
        )
    show(
        found,
        json,
        "\n\n".join(map(_render, found)) or tr(f"{run}：没有跳过任何一步。", f"{run}: no step was skipped."),
    )


def _folders(run: Path) -> list[Path]:
    """Work directories under a run, or beside the output of a single stage."""
    from hanlin.training.spikes import RUN

    roots = [run, run.parent / f".{run.name}.work"]
    folders = sorted({file.parent for root in roots if root.is_dir() for file in root.rglob(RUN)})
    if not folders:
        raise HanlinError(
            f"{run} 里没有训练的记录（{RUN}）。请给出 hanlin run 的 --out 目录，或单个阶段的 --out 目录。",
            f"{run} holds no record of a training ({RUN}). Give the --out directory of hanlin run, or that of a single stage.",
        )
    return folders


def _entries(folder: Path, step: int | None) -> list[dict[str, Any]]:
    """The bad steps of one training, with the text of their worst documents."""
    from hanlin.common.atomic import read_json_lines
    from hanlin.training.spikes import SPIKES

    entries = [entry for entry in read_json_lines(folder / SPIKES) if step is None or entry["step"] == step]
    if not entries:
        return []
    reader, problem = _reader(folder)
    for entry in entries:
        entry["training"] = folder.name
        if problem is not None:
            entry["text_missing"] = problem
        for document in entry["documents"][:_SHOWN] if reader else ():
            document["text"] = reader(document["document"])
    return entries


def _reader(folder: Path) -> tuple[Any, str | None]:
    """A function from a document's index to the beginning of its text; or None and why there is none."""
    from hanlin import load_tokenizer
    from hanlin.common.atomic import read_json
    from hanlin.dataset import TokenDataset
    from hanlin.training.spikes import RUN

    places = read_json(folder / RUN)
    if not places.get("dataset") or not places.get("tokenizer"):
        return None, tr("这一阶段没有词元数据集，只有编号", "this stage has no token dataset, only indices")
    try:
        dataset, tokenizer = (
            TokenDataset(places["dataset"], verify=False),
            load_tokenizer(places["tokenizer"]),
        )
    except HanlinError as error:
        return None, str(error)

    def read(document: int) -> str | None:
        return (
            tokenizer.decode(dataset.document(document)[: 4 * _CHARACTERS].tolist())[:_CHARACTERS]
            if document < len(dataset)
            else None
        )

    return read, None


def _render(entry: dict[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "NaN" if value is None else f"{value:.3f}"

    reasons = {
        "loss not finite": tr("损失不是有限数", "the loss is not finite"),
        "gradient not finite": tr("梯度不是有限数", "the gradient is not finite"),
        "loss": tr("损失突起", "the loss spiked"),
        "gradient": tr("梯度突起", "the gradient spiked"),
    }
    sigmas = entry["sigmas"]
    head = tr(
        f"{entry['training']} 第 {entry['step']} 步：{reasons.get(entry['reason'], entry['reason'])}（loss {number(entry['loss'])}，高出 {number(sigmas['loss'])} σ；"
        f"梯度范数 {number(entry['grad_norm'])}，高出 {number(sigmas['norm'])} σ）",
        f"{entry['training']} step {entry['step']}: {reasons.get(entry['reason'], entry['reason'])} (loss {number(entry['loss'])}, {number(sigmas['loss'])} σ above; "
        f"gradient norm {number(entry['grad_norm'])}, {number(sigmas['norm'])} σ above)",
    )
    lines = [head]
    if "text_missing" in entry:
        lines.append("  " + tr("看不到原文：", "no text: ") + entry["text_missing"])
    for document in entry["documents"][:_SHOWN]:
        lines.append(
            f"  {document['document']:>8}  {number(document['loss'])}  {document.get('text') or ''!r}"
        )
    rest = len(entry["documents"]) - _SHOWN
    if rest > 0:
        lines.append(tr(f"  另有 {rest} 篇", f"  and {rest} more"))
    return "\n".join(lines)
