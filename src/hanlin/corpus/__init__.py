"""From whatever text people have to clean, deduplicated, explained documents.

The room's three schemas (`layouts.py`), its readers (`readers.py`), cleaning (`normalize.py`, `signals.py`, `clean.py`),
deduplication (`dedup.py`), the corpus artefact (`build.py`) and an embedded corpus (`tinyworld/`).
Nothing here knows of tokens or models, and torch may not be imported.
"""
