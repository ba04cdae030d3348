"""The dependency laboratory: interventions scored, contributions, refitted readouts, classes of tokens."""
