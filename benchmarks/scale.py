"""A root of a size that nobody labels here: what its ledger costs, without models and without pixels.

    python benchmarks/scale.py [--shards 1242] [--columns 19] [--samples 1] [--folder DIR] [--s3] [--ray 0]
        [--steps write status plan run train] [--limit 600] [--curves FILE]

A recipe with so many columns of short texts, made by specialists that answer at once, is worked on by fourmill's own
verbs: `write` tokenizes shards (`--ray N` of them by the engine on Ray, all others by its shard worker in this
process: decoding, rows, Parquet, commits are the same), with a sample in fifty rejected; `status`, `plan`, `run`
(`tokenize`, with nothing to do) and `train` (the driver's job, and then a loader in a process of its own, up to its
first batch) are processes of their own, whose wall time, CPU time, largest memory and requests to storage are printed.
`tar`s of one sample hold what all shards hold. With `--folder` the root stays, and `write` goes on where it was, for
at most `--limit` seconds each time, so that a large root is made in parts. With `--s3` the root is on an S3 server of
this script, in a process of its own, which holds its objects in memory and lists in linear time.
`--curves` draws the figures of all sizes in a file of results (`--results FILE` adds to it) as an SVG.
"""
