"""A small Chinese world with state, from which everything the demo trains on and is judged by is derived.

**The world.** 60 children and 10 grown-ups, 39 places on one fixed map, 71 things with their measure words
and colours, days, hours, weather (`lexicon`). **A story** (`world`) begins with someone somewhere and goes on
by events drawn among those the state allows: going, arriving, meeting, buying where it is sold, finding out
of doors, giving what one holds to someone beside, swapping, putting down and fetching, eating what is food.
**Telling** (`telling`) words each event in two to eight ways, joins neighbours that share a subject, and adds
the time, the weather, a wish, a thank-you. **Questions** (`questions`) are answered from the replayed state.
Beside stories there are descriptions and dialogues (`prose`), sums and word problems with steps
(`arithmetic`), and requests with polite and impolite answers (`requests`), judged by `manner`. `documents`
mixes them for pretraining, `dirt` spoils some of them in known ways and `cleaning` judges a cleaner by it,
`chat` mixes the conversations of fine-tuning.

**Determinism.** Record i of a kind is a pure function of (seed, split, kind, i): no record depends on
another, none on the order.

**Splits.** A structure (the events of a story, the operands of a problem, the kind and slots of a request,
the facts of a description or dialogue) is held out when its own hash says so, one in eight; wording, seed and
kind of record play no part. A held-out story is therefore in no training document, conversation or problem,
however it is told. Only closed tables to be known by heart (single sums, who the assistant is) are the same
in both splits.

**How many.** Take only the stories "p brings t to A; r is at B; p meets q; p gives q t; q goes to C" with
three children, one of 70 things without its colour and A, B, C drawn from all 39 places: 60·59·58 · 70 ·
39·38·37 > 7·10^11 structures, before colours, activities, days, weather, longer stories, and the dozens of
wordings each has. A test counts this family from the lexicon.

**Difficulty.** Who, what and where are near-uniform and recur within a story, so what an n-gram model cannot
predict is most of the text. Answers mostly need the latest of at most three facts; about one in nine needs
two hops (the place of a thing somebody carries).
"""

from hanlin.corpus.tinyworld.arithmetic import check_problem, problems
from hanlin.corpus.tinyworld.chat import (
    as_typed,
    chat_conversations,
    check_exact,
    greetings,
    mixed_conversations,
    sample_prompts,
    turn_about,
)
from hanlin.corpus.tinyworld.cleaning import CleaningScore, check_cleaning
from hanlin.corpus.tinyworld.dirt import Dirt
from hanlin.corpus.tinyworld.documents import documents
from hanlin.corpus.tinyworld.manner import manner
from hanlin.corpus.tinyworld.outside import declines, outside_questions
from hanlin.corpus.tinyworld.questions import check_story_answer, story_questions
from hanlin.corpus.tinyworld.requests import free_prompts, preferences
from hanlin.corpus.tinyworld.storytime import is_story, story_requests

__all__ = [
    "CleaningScore",
    "Dirt",
    "as_typed",
    "chat_conversations",
    "check_cleaning",
    "check_exact",
    "check_problem",
    "check_story_answer",
    "declines",
    "documents",
    "free_prompts",
    "greetings",
    "is_story",
    "manner",
    "mixed_conversations",
    "outside_questions",
    "preferences",
    "problems",
    "sample_prompts",
    "story_questions",
    "story_requests",
    "turn_about",
]
