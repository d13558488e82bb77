"""Doctors: each examines one side of a model and says what it found, how sure that is, and what to do. A new
one registers itself by name (`base.register_doctor`)."""

from hanlin.evaluation.doctors import calibration as calibration
from hanlin.evaluation.doctors import contamination as contamination
from hanlin.evaluation.doctors import drift as drift
from hanlin.evaluation.doctors import eos as eos
from hanlin.evaluation.doctors import exported as exported
from hanlin.evaluation.doctors import first_token as first_token
from hanlin.evaluation.doctors import frequency as frequency
from hanlin.evaluation.doctors import invariance as invariance
from hanlin.evaluation.doctors import loops as loops
from hanlin.evaluation.doctors import memorisation as memorisation
from hanlin.evaluation.doctors import ordering as ordering
from hanlin.evaluation.doctors import positions as positions
from hanlin.evaluation.doctors import sinks as sinks
from hanlin.evaluation.doctors import template as template
from hanlin.evaluation.doctors import tokenizer_use as tokenizer_use
from hanlin.evaluation.doctors import undertrained as undertrained
from hanlin.evaluation.doctors import wording as wording
