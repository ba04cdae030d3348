"""How our numbers are read from records, by theme. A measure raises :class:`~lolm.claims.entry.NotRun` for what was not made."""
