"""Processes that tests start and kill: forked from one that has imported everything, so that they begin at once."""

import importlib
import multiprocessing
from contextlib import suppress

import ddrsapc.cli.app  # noqa: F401
import tests.training.small  # noqa: F401

for name in ("matplotlib.figure", "matplotlib.backends.backend_agg"):  # an extra
    with suppress(ImportError):
        importlib.import_module(name)

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.processes"])
