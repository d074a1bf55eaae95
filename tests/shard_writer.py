"""A process that writes a table slowly, to be killed at any moment: python shard_writer.py PATH N SHARD SECONDS."""

import sys
import time

import numpy as np

from lemon_sc.io.shards import Field, writing

FIELDS = {"rows": Field(dtype="int64", shape=(5,)), "flag": Field(dtype="uint8")}


def content(at):
    """Rows whose values follow from their position."""
    return {"rows": at[:, None] * 10 + np.arange(5), "flag": (at % 3).astype(np.uint8)}


def batches(wanted, pause=0.0, size=7):
    for start in range(0, len(wanted), size):
        time.sleep(pause)
        at = wanted[start : start + size]
        yield at, content(at)


def write(path, n, shard, *, pause=0.0, id="a"):
    """Write what is missing; return how many rows that was."""
    with writing(path, id=id, n=n, shard=shard, fields=FIELDS, attrs={"made": "by a test"}, fixed={}) as table:
        wanted = np.flatnonzero(table.todo)
        table.take(batches(wanted, pause))
    return len(wanted)


if __name__ == "__main__":
    path, n, shard, seconds = sys.argv[1:]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    write(path, int(n), int(shard), pause=float(seconds) * 7 / int(n))
