"""From records to a verdict: accounting, statistics, efficiency multipliers, the claims ledger, figures and the report.

Everything here reads the records of a scale through :mod:`lolm.analysis.results`; nothing here trains or evaluates.
"""
