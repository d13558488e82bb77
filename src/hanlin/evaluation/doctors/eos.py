"""Whether the model has learnt to end: a reply, where it chats; a text, where it only continues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hanlin.common.atomic import read_json
from hanlin.common.messages import Text, listing
from hanlin.evaluation.batches import padded
from hanlin.evaluation.doctors.base import (
    Doctor,
    Finding,
    Sign,
    above,
    below,
    register_doctor,
)
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.levels import LEVELS
from hanlin.evaluation.statistics import FEWEST, Metric

STOPPED = (0.95, 0.80)  # share of replies that end by themselves: below is yellow, red (ours)
RANK = (1, 5)  # median rank of the end token at the end: above is yellow, red (ours)
SHARE = (0.5, 0.1)  # its mean probability there: below is yellow, red (ours)
CONTRAST = (10, 2)  # of a text: how many times likelier the end is where it ends, yellow and red (ours)
_LABELS_READ = 500

TRAIN = Text(
    "Check that the end token is among the labels of fine-tuning (not masked as padding), and fine-tune "
    "again."
)


@register_doctor
class EosDoctor(Doctor):
    """Share of replies that stop, and the end token's rank and probability where a held-out reply ends."""

    name = "eos"
    title = Text("Ends of replies")
    order = 10
    labels = {
        "stopped": Text("replies that end by themselves"),
        "stopped_greedy": Text("greedy replies that end by themselves"),
        "stopped_sampled": Text("sampled replies that end by themselves"),
        "end_rank": Text("median rank of the end token where a reply ends"),
        "end_share": Text("probability of the end token where a reply ends"),
        "early_share": Text("probability of the end token elsewhere"),
        "text_end_contrast": Text("how many times likelier the end is where a text ends"),
        "labels_end": Text("learnt answers of the training data that end with the end token"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        signs = _id_signs(context)
        metrics: dict[str, Metric] = {}
        if context.chat:
            self._replies(context, metrics, signs)
            self._gold(context, metrics, signs)
            self._labels(context, metrics, signs)
        else:
            self._texts(context, metrics, signs)
        healthy = (
            Text("The model ends its replies.")
            if context.chat
            else Text("The model has learnt where texts end.")
        )
        return Finding.of(metrics, signs, healthy)

    def _replies(self, context: DoctorContext, metrics: dict[str, Metric], signs: list[Sign]) -> None:
        replies = context.replies
        groups = {
            "stopped": replies,
            "stopped_greedy": [reply for reply in replies if reply.greedy],
            "stopped_sampled": [reply for reply in replies if not reply.greedy],
        }
        for name, group in groups.items():
            metrics[name] = Metric.proportion(sum(reply.stopped for reply in group), len(group))
        level = below(metrics["stopped"], *STOPPED)
        if level == "unknown":
            signs.append(Sign("unknown", Text("There are too few replies to judge whether they end.")))
        elif level != "ok":
            signs.append(
                Sign(
                    level,
                    Text(
                        "Many replies run on until they are cut off after {room} tokens.",
                        room=max(reply.room for reply in replies),
                    ),
                    TRAIN,
                )
            )

    def _gold(self, context: DoctorContext, metrics: dict[str, Metric], signs: list[Sign]) -> None:
        if len(context.conversations) < FEWEST:
            signs.append(
                Sign(
                    "ok",
                    Text(
                        "How likely the end is where a reply ends is not known without --chats "
                        "({fewest} conversations at least).",
                        fewest=FEWEST,
                    ),
                )
            )
            return
        token = context.tokenizer.im_end_id
        rows, ends = [], []
        for record in context.conversations:
            ids, mask = context.tokenizer.encode_conversation(record["messages"])
            learnt = np.flatnonzero(mask)
            if len(ids) <= context.model.config.max_position_embeddings and len(learnt) > 1:
                first = learnt[-1] - int(np.argmin(np.asarray(mask)[learnt[-1] :: -1])) + 1
                rows.append(np.asarray(ids[: learnt[-1] + 1], dtype=np.int64))
                ends.append((first, learnt[-1]))
        if len(rows) < FEWEST:
            signs.append(Sign("unknown", Text("The conversations are longer than the model's positions.")))
            return
        ranks, shares, early = end_statistics(context, rows, [first for first, _ in ends], token)
        metrics["end_rank"] = Metric.median(ranks, higher_is_better=False)
        metrics["end_share"] = Metric.mean(shares)
        metrics["early_share"] = Metric.mean(early, higher_is_better=False)
        level = max(
            (above(metrics["end_rank"], *RANK), below(metrics["end_share"], *SHARE)),
            key=LEVELS.index,
        )
        if level in ("yellow", "red"):
            signs.append(
                Sign(level, Text("Where a good reply ends, the model does not expect the end."), TRAIN)
            )

    def _labels(self, context: DoctorContext, metrics: dict[str, Metric], signs: list[Sign]) -> None:
        ends = good = 0
        for ids, mask in context.trained_conversations(_LABELS_READ):
            last = np.flatnonzero(mask & ~np.append(mask[1:], False))
            ends += len(last)
            good += int((ids[last] == context.tokenizer.im_end_id).sum())
        if not ends:
            return
        metrics["labels_end"] = Metric.proportion(good, ends)
        if good < ends:
            signs.append(
                Sign(
                    "red" if good < 0.5 * ends else "yellow",
                    Text(
                        "In the training data {bad} of {ends} answers do not end with a learnt end token.",
                        bad=ends - good,
                        ends=ends,
                    ),
                    Text("Build the data again with hanlin sft, whose mask includes the end of each answer."),
                )
            )

    def _texts(self, context: DoctorContext, metrics: dict[str, Metric], signs: list[Sign]) -> None:
        token = context.tokenizer.eos_id
        rows = [row for row in context.rows if row[-1] == token and len(row) > 2]
        if len(rows) < FEWEST:
            signs.append(
                Sign(
                    "unknown",
                    Text(
                        "To judge whether a text ends takes {fewest} texts (--text) that fit into the model.",
                        fewest=FEWEST,
                    ),
                )
            )
            return
        ranks, shares, early = end_statistics(context, rows, [1] * len(rows), token)
        metrics["text_end_contrast"] = Metric.ratio(shares, np.maximum(early, 1e-9))
        metrics["end_rank"] = Metric.median(ranks, higher_is_better=False)
        metrics["end_share"] = Metric.mean(shares)
        metrics["early_share"] = Metric.mean(early, higher_is_better=False)
        level = below(metrics["text_end_contrast"], *CONTRAST)
        if level in ("yellow", "red"):
            signs.append(
                Sign(
                    level,
                    Text("The model does not know where a text ends: the end is no likelier there."),
                    Text(
                        "Check that each document of the dataset ends with <|endoftext|> "
                        "(hanlin dataset build writes it)."
                    ),
                )
            )


def _id_signs(context: DoctorContext) -> list[Sign]:
    """Whether what the model's directory says of end tokens agrees with its tokenizer."""
    signs: list[Sign] = []
    wanted = {context.tokenizer.im_end_id} if context.chat else {context.tokenizer.eos_id}
    if context.folder is None:
        return signs
    file = context.folder / "generation_config.json"
    raw = read_json(file) if file.is_file() else {}
    said = raw.get("eos_token_id") if isinstance(raw, dict) else None
    ids = set(said) if isinstance(said, list) else {said} if said is not None else set()
    if file.is_file() and not wanted <= ids:
        signs.append(
            Sign(
                "red",
                Text(
                    "generation_config.json ends generation at {ids}, but replies end with {wanted}: other "
                    "programs will not stop.",
                    ids=listing(sorted(ids)) if ids else Text("nothing"),
                    wanted=listing(sorted(wanted)),
                ),
                Text(
                    "Put {wanted} into eos_token_id of generation_config.json.",
                    wanted=listing(sorted(wanted)),
                ),
            )
        )
    template = context.folder / "chat_template.jinja"
    if context.chat and template.is_file():
        end = next(n for n, at in context.tokenizer.special.items() if at == context.tokenizer.im_end_id)
        if end not in template.read_text(encoding="utf-8"):
            signs.append(
                Sign(
                    "red",
                    Text("chat_template.jinja never writes {end}, with which replies end.", end=end),
                    Text("Take chat_template.jinja from the run that trained the model."),
                )
            )
    return signs


@torch.inference_mode()
def end_statistics(
    context: DoctorContext, rows: Sequence[np.ndarray], firsts: Sequence[int], token: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row, whose last id is the end token: the end token's rank among all tokens and its probability
    where it stands, and its mean probability at the places from `firsts` on where it does not, (rows,)
    each."""
    model = context.model
    ranks, shares, early = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
    for at, (row, first) in enumerate(zip(rows, firsts, strict=True)):
        hidden = model.hidden(padded([row[:-1]], model.device))[0, first - 1 :]
        logits = model.logits(hidden).float()
        share = logits.log_softmax(-1).exp()[:, token].double().cpu().numpy()
        ranks[at] = 1 + int((logits[-1] > logits[-1, token]).sum())
        shares[at] = share[-1]
        early[at] = share[:-1].mean() if len(share) > 1 else 0.0
    return ranks, shares, early
