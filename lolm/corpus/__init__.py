"""Sources -> documents -> splits -> tokenizer -> shards."""
