"""Whether the model is as sure as it is right: calibration error of the next token, beside that of a
perfectly calibrated model on as many tokens."""

from __future__ import annotations

import numpy as np

from hanlin.common.messages import Text
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, exactly, few_texts, register_doctor, unknown
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.statistics import FEWEST, Metric

ERROR = (0.02, 0.10)  # expected calibration error: this much above its null is yellow, red (ours)
GAP = (0.1, 0.5)  # bits per token between loss and entropy: above is yellow, red (ours)
BINS, SIMULATIONS = 10, 500


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error in `BINS` bins of equal mass (Guo et al. 2017; Nixon et al. 2019)."""
    order = np.argsort(confidence, kind="stable")
    edges = np.linspace(0, len(order), BINS + 1).astype(int)
    gaps = np.concatenate([[0.0], np.cumsum(correct[order] - confidence[order])])[edges]
    return float(np.abs(np.diff(gaps)).sum() / len(order))


@register_doctor
class CalibrationDoctor(Doctor):
    """ECE with its null by simulation, Brier score, and loss minus entropy of the next token.

    Given a calibrated model's predictions, whether the likeliest token comes is a coin of that probability at
    each place, whatever came before; so the null is simulated with independent coins.
    """

    name = "calibration"
    title = Text("Calibration")
    order = 90
    needs = ("text",)
    labels = {
        "error": Text("calibration error of the next token"),
        "error_null": Text("the same of a perfectly calibrated model: mean and 95 % interval"),
        "brier": Text("Brier score, over the whole vocabulary"),
        "gap": Text("loss minus entropy, bits per token (above 0: too sure)"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        table = context.table
        documents = len(np.unique(table.document))
        if documents < FEWEST:
            return unknown(few_texts())
        confidence = table.confidence.astype(np.float64)
        correct = table.correct.astype(np.float64)
        error = calibration_error(confidence, correct)
        rng = np.random.default_rng(context.seed)
        null = np.array(
            [
                calibration_error(confidence, rng.random(len(confidence)) < confidence)
                for _ in range(SIMULATIONS)
            ]
        )
        low, high = map(float, np.quantile(null, (0.025, 0.975)))
        ones = np.ones(len(confidence))
        counts = table.by_document(ones)
        gap = Metric.ratio(table.by_document(table.bits - table.entropy), counts, higher_is_better=False)
        truth = 2.0 ** -table.bits.astype(np.float64)
        metrics = {
            "error": exactly(error, len(confidence)),
            "error_null": Metric(float(null.mean()), low, high, len(confidence), False),
            "gap": gap,
            "brier": Metric.ratio(
                table.by_document(1 - 2 * truth + table.square), counts, higher_is_better=False
            ),
        }
        signs: list[Sign] = []
        excess = error - float(null.mean())  # the error of few tokens is above 0 by chance
        if excess > ERROR[0] and error > float(np.quantile(null, 0.95)):
            signs.append(
                Sign(
                    "red" if excess > ERROR[1] else "yellow",
                    Text(
                        "The probability of the likeliest token is off by {error:.1%} on average, "
                        "rather {how}.",
                        how=self._how(confidence, correct),
                        error=error,
                    ),
                    self._advice(),
                )
            )
        distance = max(gap.low, -gap.high)  # of the interval's near end from 0
        if distance > GAP[0]:
            signs.append(
                Sign(
                    "red" if distance > GAP[1] else "yellow",
                    Text("Each token costs more bits than the model expects: it is surer than it is right.")
                    if gap.value > 0
                    else Text(
                        "Each token costs fewer bits than the model expects: it is less sure than right."
                    ),
                    self._advice(),
                )
            )
        return Finding.of(metrics, signs, Text("On these texts the model is as sure as it is right."))

    @staticmethod
    def _how(confidence: np.ndarray, correct: np.ndarray) -> Text:
        return Text("too high") if confidence.mean() > correct.mean() else Text("too low")

    @staticmethod
    def _advice() -> Text:
        return Text(
            "Read its probabilities with care: fine-tuning and reinforcement make models too sure, as do "
            "many epochs; compare with the pretrained model."
        )
