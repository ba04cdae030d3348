"""What training reads: token stream, batches, synthetic tasks."""
