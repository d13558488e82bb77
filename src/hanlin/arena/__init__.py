"""Blind comparisons of models by people: answers written beforehand, a balanced schedule of battles, votes in
one SQLite file, and a report that says how sure one may be of the ranking. No network is needed."""
