"""A small Chinese world from which everything the demo trains on and is judged by is derived."""

from .arithmetic import check_problem, problems
from .chat import chat_conversations, sample_prompts
from .dirt import CleaningScore, Dirt, check_cleaning
from .documents import documents
from .manner import manner
from .questions import check_story_answer, story_questions
from .requests import free_prompts, preferences

__all__ = [
    "CleaningScore",
    "Dirt",
    "chat_conversations",
    "check_cleaning",
    "check_problem",
    "check_story_answer",
    "documents",
    "free_prompts",
    "manner",
    "preferences",
    "problems",
    "sample_prompts",
    "story_questions",
]
