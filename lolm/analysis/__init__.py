"""From records to estimates: statistics, efficiency multipliers, dependency, scaling. Nothing here trains or evaluates."""
