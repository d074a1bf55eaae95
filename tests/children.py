"""Child processes that begin with the packages imported: where there is fork, from a server that did it once."""

import multiprocessing
import os
import runpy
import sys
from multiprocessing import forkserver

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
IMPORTED = [
    "distributed",
    "scanpy",
    "lemon_sc.datasets",
    "lemon_sc.pp",
    "lemon_sc.tl",
    "lemon_sc.pl",
    "lemon_sc.train.loop",
]


def children():
    """A context of multiprocessing; its children find modules of the tests by name."""
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload(IMPORTED)
        forkserver.ensure_running()
    return context


def run_script(path, folder, printed, environment):
    """What a child does to run a script as ``python PATH`` does, in a folder, with what it prints in a file."""
    os.environ.update(environment)
    os.chdir(folder)
    with printed.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
            stream.reconfigure(encoding="utf-8")
    runpy.run_path(path, run_name="__main__")
