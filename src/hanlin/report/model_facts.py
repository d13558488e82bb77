"""What model a run made, in figures, and what its stages read: a sentence in tokens, an item of each stage's
data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.common.messages import Text
from hanlin.report.text import both, esc

# Fact → name; in the order in which they are shown.
ABOUT: dict[str, Text] = {
    "parameters": Text("parameters"),
    "layers": Text("layers"),
    "hidden_size": Text("width"),
    "heads": Text("attention heads"),
    "vocab_size": Text("vocabulary"),
    "context": Text("context, tokens"),
    "family": Text("family"),
    "training_tokens": Text("tokens of text"),
    "tokens_seen": Text("tokens read in pretraining"),
    "training_flops": Text("FLOP of pretraining"),
    "device": Text("device"),
}


def count(value: float) -> str:
    """`0.03M`, `26.1M`, `1.20B`."""
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value / 1e3:.3g}k" if value >= 1e4 else f"{value:,.0f}"


def shown_about(about: Mapping[str, Any]) -> list[tuple[Text, str]]:
    """(name, text) of what is known of a model."""
    found = []
    for name, words in ABOUT.items():
        value = about.get(name)
        if value is None:
            continue
        if name == "heads":
            text = f"{value} ({about.get('key_value_heads', value)} KV)"
        elif name == "training_flops":
            text = f"{value:.2e}"
        elif name == "tokens_seen" and about.get("training_tokens"):
            text = f"{count(value)} (×{value / about['training_tokens']:.2g})"
        elif name in ("parameters", "training_tokens", "tokens_seen"):
            text = count(value)
        else:
            text = f"{value:,}" if isinstance(value, int) else str(value)
        found.append((words, text))
    return found


def in_a_line(about: Mapping[str, Any]) -> Text:
    """`26.1M 参数，8 层，宽 512，词表 10,752，读过 516M 词元`: the run's own figures, whatever its recipe
    says of itself."""
    size, seen = count(about["parameters"]), count(about["tokens_seen"])
    layers, width, words = about["layers"], about["hidden_size"], about["vocab_size"]
    return Text(
        "{size} parameters, {layers}, width {width:,}, a vocabulary of {words:,}, pretrained on {seen} "
        "tokens",
        size=size,
        layers=Text("1 layer") if layers == 1 else Text("{layers} layers", layers=layers),
        width=width,
        words=words,
        seen=seen,
    )


def model_of(about: Mapping[str, Any]) -> str:
    """The model's figures as a section."""
    items = "".join(
        f"<div><dt>{both(words)}</dt><dd>{esc(text)}</dd></div>" for words, text in shown_about(about)
    )
    note = Text("FLOP: 6 × matrix weights for each token, and attention; pretraining only.")
    return (
        f'<section class="model" id="model"><h2>{both("This model")}</h2><dl class="facts">{items}</dl>'
        f'<p class="caption">{both(note)}</p></section>'
    )


def tokens_of(found: Mapping[str, Any] | None) -> str:
    """A sentence cut into tokens, and what the vocabulary makes of text."""
    if not found:
        return ""
    pieces = "".join(f'<span class="token">{esc(token)}</span>' for token in found["tokens"])
    words, share = found["vocab_size"], found.get("characters_per_token")
    about = Text("{words:,} tokens in the vocabulary", words=words)
    if share:
        about = Text("{about}; {share:.2f} characters a token in the training text", about=about, share=share)
    longest = "　".join(found.get("longest") or ())
    more = f'<p class="caption">{both("longest tokens: ")}{esc(longest)}</p>' if longest else ""
    return (
        f'<h3>{both("A sentence in tokens")}</h3><p class="tokens">{pieces}</p>'
        f'<p class="caption">{both("{about}.", about=about)}</p>{more}'
    )


def examples_of(examples: Sequence[Mapping[str, Any]] | None) -> str:
    """Items of a stage's training data as the model reads them; what it learns to write is marked."""
    if not examples:
        return ""
    cards = []
    for example in examples:
        text = "".join(
            f"<mark>{esc(part)}</mark>" if learned else esc(part) for part, learned in example["parts"]
        )
        label = f"<h4>{both(Text.from_dict(example['label']))}</h4>" if example.get("label") else ""
        cards.append(f'<div class="item">{label}<p>{text}</p></div>')
    marked = any(learned for example in examples for _, learned in example["parts"])
    note = both("What is marked it learns to write; the rest it only reads.") if marked else ""
    return (
        f'<details class="data"><summary>{both("An item of its training data")}</summary>'
        f'{"".join(cards)}<p class="caption">{note}</p></details>'
    )
