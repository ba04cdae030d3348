"""What a person reads: figures, front page, study pages."""
