"""Whether the model knows the order in which a test's questions were published (Oren et al. 2023)."""

from __future__ import annotations

from hanlin.common.messages import Text
from hanlin.evaluation.contamination.ordering import (
    FEWEST_SHARDS,
    SHORTEST_SHARD,
    item_text,
    ordering_test,
)
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, exactly, register_doctor, unknown
from hanlin.evaluation.doctors.context import DoctorContext

P_VALUE = (0.01, 0.001)  # below is yellow, red: as rarely is a model accused that has not seen the file


@register_doctor
class OrderingDoctor(Doctor):
    """The published order of the questions against shuffles; the p value is exact where questions can be
    exchanged."""

    name = "ordering"
    title = Text("Order of the questions")
    order = 130
    needs = ("questions",)
    labels = {
        "p_value": Text("p value of the published order against shuffles"),
        "gain": Text("bits that the published order of a shard saves"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        texts = [item_text(item) for item in context.questions]
        found = ordering_test(context.model, context.tokenizer, texts, seed=context.seed)
        if found is None:
            return unknown(
                Text("It takes {count} questions (--questions).", count=FEWEST_SHARDS * SHORTEST_SHARD)
            )
        metrics = {"p_value": exactly(found.p_value, found.shards), "gain": found.gain}
        signs = []
        if found.p_value < P_VALUE[0]:
            signs.append(
                Sign(
                    "red" if found.p_value < P_VALUE[1] else "yellow",
                    Text(
                        "The model finds the published order of the questions likelier than shuffles: it was "
                        "trained on that file."
                    ),
                    Text("Its score on these questions is void; ask others."),
                )
            )
        healthy = Text(
            "The published order is no likelier than shuffles. Small models learn an order only after many "
            "epochs, so this does not clear them."
        )
        return Finding.of(metrics, signs, healthy, {"items": found.items})
