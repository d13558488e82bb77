"""Doctors: each examines one side of a model and says what it found, how sure that is, and what to do. A new
one registers itself by name (`base.register_doctor`)."""

from hanlin.evaluation.doctors import eos as eos
from hanlin.evaluation.doctors import loops as loops
from hanlin.evaluation.doctors import template as template
