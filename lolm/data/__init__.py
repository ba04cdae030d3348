"""Documents -> tokenizer -> shards -> batches.

`corpus` reads documents and splits them, `tokenizer` learns the subwords of the training split, `shards` keeps the token
ids in memory-mapped files, and `batches` cuts them into training batches and fixed evaluation sets.
"""
