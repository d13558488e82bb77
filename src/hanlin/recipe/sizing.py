"""Sizing: a number of parameters (or layers) decides width, vocabulary, tokens, batch and rates, each with
its reason.

Pure arithmetic on published laws and on figures measured here; what is given explicitly wins, and the rest is
derived around it. Measured: runs in the lab log. Literature: the paper is named. Judgement: neither, and it
says so.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from hanlin.common.config import flatten
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, joined, tr
from hanlin.common.terminal import table
from hanlin.model import ModelConfig, ModelShape, family_of
from hanlin.recipe.patch import STAGES, put
from hanlin.tokenizer.advise import advise, parameter_count

TOKENS_PER_PARAMETER = 20
EPOCHS = 4  # of repeats that still teach nearly as much as new text (Muennighoff et al. 2023)
LEAST, MOST = 0.5e6, 1e9
_HOT = 0.6  # share of Step Law's rate; see `learning_rate`
_HIGHEST_RATE = 5e-3
Basis = Literal["given", "measured", "literature", "judgement", "arithmetic"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One derived value: its dotted key in a recipe, and why it is what it is."""

    key: str
    value: Any
    basis: Basis
    why: Text


@dataclasses.dataclass(frozen=True)
class Sizing:
    """What the sizes came to, and why.

    Attributes:
        settings: in the order in which they were derived.
        parameters: the model's actual count.
        tokens: to read in pretraining.
        asked: parameters that were asked for; those of the depth's usual width when layers were.
        notes: what the reader should know, (Chinese, English).
    """

    settings: tuple[Setting, ...]
    parameters: int
    tokens: int
    asked: float
    notes: tuple[Text, ...] = ()

    def values(self) -> dict[str, Any]:
        """Dotted key → value."""
        return {setting.key: setting.value for setting in self.settings}


def usual_depth(width: int) -> float:
    """Layers that suit a width: 4·(width/128)^0.75, from 32 units of width a layer in a small model to 60 in
    a large one.

    Through the shapes in use here (128×4, 192×6) and near those of the field (512×8–12, 768×12, 1024×24,
    1536×24); small models gain from depth (Liu et al. 2024, MobileLLM), and nanochat found a ratio of 64
    better than 128.
    """
    return 4.0 * (width / 128) ** 0.75


def learning_rate(weights: float, tokens: float) -> float:
    """Peak rate of AdamW-sized updates, for Muon with Moonlight's scale too: min(5e-3,
    0.6·1.79·N^-0.713·D^0.307).

    N are the weights outside the embedding, D the tokens (Step Law, Li et al. 2025, fitted on N ≥ 60M). Six
    tenths of it are the peaks in use between 30M and 1B. Measured here: 5e-3 for 0.94M on 4.4M tokens,
    2.5e-3 for 3.6M on 6.6M; the rule says 5e-3 and 3.8e-3, a test holds it within a factor of two of both.
    """
    return min(_HIGHEST_RATE, _HOT * 1.79 * weights**-0.713 * tokens**0.307)


def batch_tokens(tokens: float, seq_len: int) -> int:
    """Tokens in a step: the power of two nearest to 0.58·D^0.571 (Step Law), 2,048 and four rows at least.

    Measured here on 4.4M tokens: 4,096 beats 8,192; the rule says 4,096.
    """
    best = 0.58 * tokens**0.571
    return max(2048, _power_of_two(4 * seq_len, math.ceil), _power_of_two(best, round))


def _power_of_two(value: float, rounding: Any) -> int:
    return 1 << int(rounding(math.log2(value)))


def derive_sizes(
    *,
    params: float | str | None = None,
    depth: int | None = None,
    tokens: float | str | None = None,
    data_tokens: int | None = None,
    given: Mapping[str, Any] | None = None,
) -> Sizing:
    """Derive a model and its pretraining.

    Args:
        params: parameters in all, a number or `26m`, between 0.5M and 1B. Either this or `depth`.
        depth: layers, 2 to 48; width follows.
        tokens: to read; 20 a parameter when absent.
        data_tokens: tokens there are, when that is known: no more than four passes are made.
        given: dotted keys whose values stand, such as `model.hidden_size`, `tokenizer.vocab_size`,
            `pretrain.seq_len`.

    Raises:
        HanlinError: neither or both of `params` and `depth`, a size out of range, or given values that leave
            no such model.
    """
    given = dict(given or {})
    if (params is None) == (depth is None):
        raise HanlinError("Give either --params or --depth, one of them.")
    asked = _asked(params) if params is not None else _of_depth(depth or 0)
    fixed = given if depth is None else {"model.num_hidden_layers": depth} | given
    shape, vocab, words = _shape(asked, fixed, exact=depth is None)
    size = shape.parameters()
    budget, notes = _budget(size, tokens, data_tokens)
    seq_len = int(
        given.get("pretrain.seq_len")
        or (256 if asked < 2e6 else 512 if asked < 5e7 else 1024 if asked < 3e8 else 2048)
    )
    batch = int(given.get("pretrain.batch_tokens") or batch_tokens(budget, seq_len))
    steps = int(given.get("pretrain.train.steps") or max(1, round(budget / batch)))
    outside = size - shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)
    long = budget >= 50 * size
    settings = [
        vocab,
        *_shape_settings(shape, words),
        Setting(
            "pretrain.seq_len",
            seq_len,
            "judgement",
            Text("short rows for small models; how long texts are is the data's affair, so give another"),
        ),
        Setting(
            "model.max_position_embeddings",
            max(
                2 * seq_len, shape.max_position_embeddings if "model.max_position_embeddings" in given else 0
            ),
            "judgement",
            Text("twice the row, so that fine-tuning may have longer ones"),
        ),
        Setting(
            "pretrain.batch_tokens",
            batch,
            "literature",
            Text(
                "the power of two nearest to 0.58·D^0.571 (Step Law); measured here on 4.4M tokens: 4,096 "
                "beats 8,192"
            ),
        ),
        Setting(
            "pretrain.micro_tokens",
            "auto",
            "arithmetic",
            Text("chosen to fit the free memory when it starts"),
        ),
        Setting(
            "pretrain.train.steps",
            steps,
            "arithmetic",
            Text("{budget} tokens, {batch:,} a step", budget=_short(budget), batch=batch),
        ),
        Setting(
            "pretrain.train.learning_rate",
            _two_digits(learning_rate(outside, budget)),
            "literature",
            Text(
                "six tenths of Step Law, 5e-3 at most; within a factor of two of 5e-3 (0.94M) and 2.5e-3 "
                "(3.6M), measured here"
            ),
        ),
        Setting(
            "pretrain.train.muon",
            True,
            "literature",
            Text("updates have AdamW's size (Moonlight), so matrices and embeddings share one rate"),
        ),
        Setting(
            "pretrain.train.embedding_scale",
            1.0,
            "judgement",
            Text("the embeddings' rate is the matrices'; so in both shipped recipes"),
        ),
        Setting(
            "pretrain.train.weight_decay",
            0.1,
            "literature",
            Text("on matrices only (OLMo, SmolLM3 and Moonlight use 0.1)"),
        ),
        Setting(
            "pretrain.train.schedule",
            "wsd",
            "literature",
            Text("warm-up, stable, decay (MiniCPM); the stable part can be gone on with"),
        ),
        Setting(
            "pretrain.train.warmup_ratio",
            round(min(0.1, max(0.01, size / budget)), 3),
            "literature",
            Text("as many tokens as parameters (OLMo), between 1 % and 10 %"),
        ),
        Setting(
            "pretrain.train.decay_ratio",
            0.2 if long else 0.5,
            "literature",
            Text(
                "20 % in long runs (50 tokens a parameter and more; SmolLM), 50 % in short ones (nanochat "
                "65 %; shipped recipes 50 %)"
            ),
        ),
    ]
    known = {setting.key for setting in settings}
    kept = (
        dataclasses.replace(s, value=given[s.key], basis="given", why=Text.in_context("why", "given"))
        if s.key in given
        else s
        for s in settings
    )
    unknown = tuple(
        Setting(key, value, "given", Text.in_context("why", "given"))
        for key, value in given.items()
        if key not in known and key.startswith("model.")
    )
    reached = batch * steps
    if not 0.5 <= reached / budget <= 2:
        notes.append(
            Text(
                "the given steps and batch make {reached} tokens; {budget} suit the size",
                reached=_short(reached),
                budget=_short(budget),
            )
        )
    return Sizing((*kept, *unknown), size, reached, asked, tuple(notes))


def _asked(params: float | str) -> float:
    count = parameter_count(params)
    if not LEAST <= count <= MOST:
        raise HanlinError(
            "--params {params} is out of range: these rules have grounds between 0.5m and 1b only.",
            params=params,
        )
    return count


def _of_depth(depth: int) -> float:
    """Parameters of the usual model of so many layers."""
    if not 2 <= depth <= 28:
        raise HanlinError(
            "--depth {depth} is out of range; it should be 2 to 28 (deeper ones pass 1b).", depth=depth
        )
    width = max(64, round(128 * (depth / 4) ** (4 / 3) / 64) * 64)
    count = 12.0 * depth * width**2
    for _ in range(40):  # the vocabulary depends on the count and is part of it
        count = 11.0 * depth * width**2 + advise(min(MOST, max(1e5, count)), width).vocab_size * width
    return min(MOST, max(LEAST, count))


def _shape(
    asked: float, given: Mapping[str, Any], exact: bool
) -> tuple[ModelConfig, Setting, dict[str, tuple[Basis, Text]]]:
    """The model nearest to the count, to the usual depth and to 8/3 of feed-forward width, among the shapes
    that are left."""
    best: tuple[float, ModelConfig] | None = None
    model = {key.removeprefix("model."): value for key, value in given.items() if key.startswith("model.")}
    widths = (
        [int(model["hidden_size"])]
        if model.get("hidden_size")
        else [*range(64, 256, 32), *range(256, 1024, 64), *range(1024, 2305, 128)]
    )
    # One question, one answer: what `hanlin tokenizer advise` says of this size, and not another vocabulary
    # for each width tried here.
    advised = advise(asked, int(model["hidden_size"]) if model.get("hidden_size") else None).vocab_size
    vocab = int(given.get("tokenizer.vocab_size") or advised)
    for width in widths:
        layers_usual = usual_depth(width)
        if not model.get("hidden_size") and not (
            model.get("num_hidden_layers") or 0.35 < _rest(asked, vocab, width) / layers_usual < 3
        ):
            continue
        lowest, highest = math.floor(0.6 * layers_usual), math.ceil(1.7 * layers_usual)
        layers_all = (
            [int(model["num_hidden_layers"])]
            if model.get("num_hidden_layers")
            else range(max(1, lowest), highest + 1)
        )
        forward = round(width * 8 / 3 / 32)
        forwards = (
            [int(model["intermediate_size"])]
            if model.get("intermediate_size")
            else [32 * n for n in range(max(2, round(0.7 * forward)), round(1.5 * forward) + 1)]
        )
        for layers, wide in itertools.product(layers_all, forwards):
            shape = _config(width, layers, wide, vocab, model, asked)
            off = abs(math.log(shape.parameters() / asked))
            cost = (
                (off / 0.01) ** 2 * (1.0 if exact else 0.01)
                + (1e3 if exact and off > 0.045 else 0.0)
                + (math.log(layers / layers_usual) / 0.15) ** 2
                + (math.log(wide / (width * 8 / 3)) / 0.1) ** 2
                + (
                    0.0 if shape.num_key_value_heads < shape.num_attention_heads else 30.0
                )  # GQA wants heads in pairs or threes
            )
            if best is None or cost < best[0]:
                best = cost, shape
    if best is None or (exact and abs(math.log(best[1].parameters() / asked)) > 0.045):
        near = "" if best is None else f"{best[1].parameters() / 1e6:.2f}M"
        raise HanlinError(
            "With what is given there is no model of {asked} parameters (the nearest: {near}). Leave out a "
            "setting of model or tokenizer, or change --params.",
            asked=_short(asked),
            near=near or Text("none"),
        )
    _, shape = best
    share = shape.vocab_size * shape.hidden_size / shape.parameters()
    setting = Setting(
        "tokenizer.vocab_size",
        shape.vocab_size,
        "literature",
        Text("hanlin tokenizer advise; the embedding is {share:.0%} of the parameters", share=share),
    )
    return shape, setting, _reasons(shape)


def _rest(asked: float, vocab: int, width: int) -> float:
    """Layers that the parameters outside the embedding make, roughly."""
    return max(0.0, asked - vocab * width) / (11.0 * width**2)


def _config(
    width: int, layers: int, wide: int, vocab: int, model: dict[str, Any], asked: float
) -> ModelConfig:
    per_head = 32 if width <= 256 else 64 if width < 1024 else 128
    heads = int(model.get("num_attention_heads") or width // int(model.get("head_dim") or per_head))
    usual = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "head_dim": width // heads,
        "num_key_value_heads": next(heads // n for n in (2, 3, 1) if heads % n == 0),
        "intermediate_size": wide,
        "tie_word_embeddings": asked < 3e8,
    }
    try:
        family = family_of(model.get("family") or ModelShape.family)
        usual |= {} if family.grouped_query else {"num_key_value_heads": heads}
        usual |= {"tie_word_embeddings": True} if family.tied_only else {}
        return ModelShape(
            **(usual | {name: value for name, value in model.items() if value is not None})
        ).config(vocab, 0)
    except (TypeError, ValueError) as error:
        raise HanlinError("The given model cannot be: {error}", error=error) from None


def _reasons(shape: ModelConfig) -> dict[str, tuple[Basis, Text]]:
    ratio = shape.hidden_size / shape.num_hidden_layers
    return {
        "hidden_size": ("literature", Text("a multiple of 32 or 64, settled together with the layers")),
        "num_hidden_layers": (
            "literature",
            Text(
                "about 4·(width/128)^0.75: {ratio:.0f} of width a layer (shipped recipes 32, nanochat 64)",
                ratio=ratio,
            ),
        ),
        "num_attention_heads": (
            "literature",
            Text(
                "{head_dim} a head: 32 in small models (shipped recipes), 128 from width 1024 on "
                "(nanochat: 128 beats 64)",
                head_dim=shape.head_dim,
            ),
        ),
        "num_key_value_heads": (
            "literature",
            Text("two query heads share one (GQA; three, or none, where the heads are odd)"),
        ),
        "head_dim": ("arithmetic", Text("width / heads")),
        "intermediate_size": ("arithmetic", Text("about 8/3 of the width, trimmed to meet the count")),
        "tie_word_embeddings": (
            "literature",
            Text("shared below 300M parameters, to save the embedding (as SmolLM2-135M)"),
        ),
    }


def _shape_settings(shape: ModelConfig, reasons: dict[str, tuple[Basis, Text]]) -> list[Setting]:
    return [Setting(f"model.{name}", getattr(shape, name), *reason) for name, reason in reasons.items()]


def _budget(size: int, tokens: float | str | None, data_tokens: int | None) -> tuple[float, list[Text]]:
    """Tokens to read, and what to say about them."""
    notes: list[Text] = []
    wanted = _token_count(tokens) if tokens is not None else float(TOKENS_PER_PARAMETER * size)
    if data_tokens is None:
        notes.append(
            Text(
                "the amount of data is not known: if {wanted} tokens are more than four passes, lower "
                "--tokens",
                wanted=_short(wanted),
            )
        )
        return wanted, notes
    most = float(EPOCHS * max(1, data_tokens))
    if wanted > most:
        notes.append(
            Text(
                "there are {data_tokens} tokens, read four times at most: {wanted} → {most}",
                data_tokens=_short(data_tokens),
                wanted=_short(wanted),
                most=_short(most),
            )
        )
    return min(wanted, most), notes


def _token_count(tokens: float | str) -> float:
    try:
        return parameter_count(tokens)
    except HanlinError:
        raise HanlinError(
            "Not a number of tokens: {tokens!r}. Write it as 500m or 2b, between 100k and 100b.",
            tokens=tokens,
        ) from None


def _short(count: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def apply_sizing(
    values: Mapping[str, Any],
    fixed: Mapping[str, Any],
    *,
    params: Any = None,
    depth: Any = None,
    tokens: Any = None,
    data_tokens: int | None = None,
) -> tuple[dict[str, Any], Sizing]:
    """A recipe's values with the derived sizes in them: a patch, made before the recipe is built.

    The values of `fixed` (dotted) stand. Rows and positions are the data's affair, so the recipe's stand
    too. Rates of the later stages keep their proportion to pretraining's, and their micro-batches are chosen
    to fit.

    Args:
        values: by stage id (`patch.by_id`).

    Returns:
        The values to build a recipe from; the sizing, whose notes name what it replaced.
    """
    order = [str(name) for name in values.get(STAGES, ())]
    first = next((name for name in order if (values.get(name) or {}).get("kind") == "pretrain"), "pretrain")
    flat = flatten({name: value for name, value in values.items() if name != STAGES})
    to_own, from_own = _renamer(first, "pretrain"), _renamer("pretrain", first)
    plain = {to_own(key): value for key, value in flat.items()}
    data = {
        key: plain[key]
        for key in (
            "pretrain.seq_len",
            "model.max_position_embeddings",
            "model.family",
            "model.qk_norm",
            "model.residual_init",
        )
        if key in plain
    }
    given = {**data, **{to_own(key): value for key, value in fixed.items()}}
    sizing = derive_sizes(params=params, depth=depth, tokens=tokens, data_tokens=data_tokens, given=given)
    if first != "pretrain":
        settings = tuple(dataclasses.replace(s, key=from_own(s.key)) for s in sizing.settings)
        sizing = dataclasses.replace(sizing, settings=settings)
    derived = sizing.values()
    rate = f"{first}.train.learning_rate"
    before = flat.get(rate)
    for name in order:
        key = f"{name}.train.learning_rate"
        if name != first and key in flat and before and key not in fixed:
            derived[key] = _two_digits(float(flat[key]) * float(derived[rate]) / float(before))
        if (values.get(name) or {}).get("kind") == "sft" and f"{name}.micro_tokens" not in fixed:
            derived[f"{name}.micro_tokens"] = "auto"
    changes = [
        f"{key} {flat[key]} → {value}" for key, value in derived.items() if key in flat and flat[key] != value
    ]
    note = Text(
        "values of the recipe were replaced: {changes}",
        changes=joined(changes, Text.in_context("between clauses", ", ")),
    )
    patched = dict(values)
    for key, value in derived.items():
        put(patched, key, value)
    return patched, dataclasses.replace(sizing, notes=(*sizing.notes, note) if changes else sizing.notes)


def _renamer(old: str, new: str) -> Callable[[str], str]:
    """Dotted keys of a section called `old` as those of one called `new`."""
    return lambda key: new + key.removeprefix(old) if key.startswith(f"{old}.") else key


def sizing_text(sizing: Sizing) -> str:
    """A sizing as a person reads it: a line for each setting with its grounds, then the notes."""
    title = tr(
        "{parameters:.2f}M parameters, {tokens} tokens",
        parameters=sizing.parameters / 1e6,
        tokens=_short(sizing.tokens),
    )
    head = [tr("setting"), tr("value"), tr("grounds"), tr("why")]
    return "\n".join(
        [title, "", *table([head, *sizing_rows(sizing)], right=(1,)), *(f"· {note}" for note in sizing.notes)]
    )


def sizing_rows(sizing: Sizing) -> list[list[str]]:
    """Key, value, grounds and reason of every setting, for a table."""
    names = {
        "given": tr("given"),
        "measured": tr("measured"),
        "literature": tr("literature"),
        "judgement": tr("judgement"),
        "arithmetic": tr("arithmetic"),
    }
    return [
        [
            s.key,
            f"{s.value:,}" if isinstance(s.value, int) and not isinstance(s.value, bool) else str(s.value),
            names[s.basis],
            str(s.why),
        ]
        for s in sizing.settings
    ]
