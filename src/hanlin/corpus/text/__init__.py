"""Characters and their repair: classes of code points, normalisation, script conversion. No files."""
