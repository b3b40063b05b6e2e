"""Freezing prompts: from sources of any size to manifests and unit plans; no row is held longer than a batch.

    shards.py   which parts of which files are read apart
    pieces.py   a shard as a piece: its rows as token ids on storage, and a few numbers of each row (pure but for that)
    rows.py     the numbers of all rows in one place: what repeats, what is held out, what is too long, in which order
    blocks.py   units of the rows that are left
    packing.py  the rows of some units, gathered from the pieces into a manifest shard
    freeze.py   all of it

What is written hangs on the rows and the settings alone: not on how sources were cut, and not on who worked when.
"""
