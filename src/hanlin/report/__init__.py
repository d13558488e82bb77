"""Everything that draws: the report of a run, a corpus' page, comparisons and curves, model cards. No torch
here."""
