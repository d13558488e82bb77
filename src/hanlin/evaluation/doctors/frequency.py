"""Whether the model has learnt more than frequencies: bits of rare tokens beside those of a 5-gram model of
the training text."""

from __future__ import annotations

import numpy as np

from hanlin.common.messages import Text
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, few_texts, register_doctor, unknown
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.ngram import NGramModel
from hanlin.evaluation.statistics import FEWEST, Metric

GROUPS = 10
_COUNTED = 2_000_000  # tokens that the 5-gram model counts: 3 seconds


@register_doctor
class FrequencyDoctor(Doctor):
    """Bits per token by decile of the frequency in the training text, the rarest first."""

    name = "frequency"
    title = Text("Rare tokens")
    order = 70
    needs = ("text", "dataset")
    labels = {
        "rare_to_5gram": Text("bits of the rarest tenth: model / 5-gram"),
        "all_to_5gram": Text("bits of all tokens: model / 5-gram"),
        **{
            f"decile/{number}": Text("bits per token, tenth {number} from the rarest", number=number)
            for number in range(1, GROUPS + 1)
        },
    }

    def examine(self, context: DoctorContext) -> Finding:
        data = context.dataset
        assert data is not None
        plain = context.bare_rows
        step = max(1, -(-len(data.tokens) // _COUNTED))
        documents = [np.asarray(data.document(at), dtype=np.int64) for at in range(0, len(data), step)]
        size = context.model.config.vocab_size
        theirs = NGramModel(size).fit(documents).token_bits(plain)
        # the first token counts where a start token precedes it
        first = np.concatenate([np.arange(len(row)) for row in plain]) == 0
        theirs = theirs if context.start else theirs[~first]
        table = context.table
        # the table is in the order of lengths; the 5-gram's bits in that of the rows
        order = np.lexsort((table.position, table.document))
        document, token, bits = table.document[order], table.token[order], table.bits[order]
        frequency = np.bincount(np.concatenate(documents), minlength=size)[token]
        ranks = np.argsort(np.argsort(frequency, kind="stable"), kind="stable")
        group = ranks * GROUPS // len(ranks)
        metrics: dict[str, Metric] = {}
        deciles: dict[str, Metric] = {}
        for number in range(GROUPS):
            mine, other, counts, owners = _by_document(document, bits, theirs, group == number)
            deciles[f"decile/{number + 1}"] = Metric.ratio(mine, counts, higher_is_better=False).with_control(
                "5-gram", Metric.ratio(other, counts, higher_is_better=False)
            )
            if number == 0:
                if owners < FEWEST:
                    return unknown(few_texts())
                metrics["rare_to_5gram"] = Metric.ratio(mine, other, higher_is_better=False)
        mine, other, _, _ = _by_document(document, bits, theirs, np.ones(len(bits), dtype=bool))
        metrics["all_to_5gram"] = Metric.ratio(mine, other, higher_is_better=False)
        rare, signs = metrics["rare_to_5gram"], []
        if rare.high >= 1:
            signs.append(
                Sign(
                    "red" if rare.low > 1 else "yellow",
                    Text("Of rare tokens the model knows less than a 5-gram model of its training text.")
                    if rare.low > 1
                    else Text("Of rare tokens the model knows no more than a 5-gram model can be shown to."),
                    Text(
                        "Train longer or with more parameters; a model fine-tuned for long on chats may have "
                        "forgotten the text (mix some in)."
                    ),
                )
            )
        return Finding.of(
            metrics | deciles, signs, Text("Of rare tokens too the model knows more than a 5-gram model.")
        )


def _by_document(
    document: np.ndarray, mine: np.ndarray, theirs: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Sums over the chosen tokens by document that has some: bits of the model, of the control, tokens; and
    the number of documents."""
    owners, places = np.unique(document[chosen], return_inverse=True)
    sums = [np.bincount(places, weights=values[chosen]) for values in (mine, theirs, np.ones(len(mine)))]
    return sums[0], sums[1], sums[2], len(owners)
