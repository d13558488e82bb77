"""Benchmarks as published: items, prompts, licences. `base.register_benchmark` adds one."""

from hanlin.evaluation.benchmarks import agieval as agieval
from hanlin.evaluation.benchmarks import belebele as belebele
from hanlin.evaluation.benchmarks import c3 as c3
from hanlin.evaluation.benchmarks import ceval as ceval
from hanlin.evaluation.benchmarks import cmmlu as cmmlu
from hanlin.evaluation.benchmarks import fewclue as fewclue
from hanlin.evaluation.benchmarks import gaokao as gaokao
from hanlin.evaluation.benchmarks import mifeval_zh as mifeval_zh
from hanlin.evaluation.benchmarks import safetybench as safetybench
from hanlin.evaluation.benchmarks import word_problems as word_problems
from hanlin.evaluation.benchmarks import xcopa as xcopa
from hanlin.evaluation.benchmarks import xstorycloze as xstorycloze
from hanlin.evaluation.benchmarks import xwinograd as xwinograd
from hanlin.evaluation.benchmarks import zhoblimp as zhoblimp
