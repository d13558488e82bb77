"""From whatever text people have to clean, deduplicated, explained documents.

`text/` repairs characters, `readers/` opens every layout people have, `download/` fetches public data sets,
`filters/` decide which lines and documents stay, `dedup/` finds documents that say the same, `builder/` makes
the corpus artefact of all that, and `tinyworld/` is an embedded corpus with known answers. Each folder
imports only those before it. Nothing here knows of tokens or models, and torch may not be imported.
"""
