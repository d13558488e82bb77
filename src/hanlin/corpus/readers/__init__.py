"""From files of any layout to documents, conversations and preferences: open, split into records, recognise
the schema. `read` is the door."""
