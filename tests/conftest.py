"""All tests train in float32, whatever the processor multiplies natively: what they compare to the last digit
is not to depend on the machine."""

import os

os.environ.setdefault("HANLIN_PRECISION", "float32")
