"""Processes that tests start and kill: forked from one that has imported everything, so that they begin at once."""

import importlib
import multiprocessing

for _name in ("torch._dynamo", "ddrsapc.cli.app", "tests.training.small"):  # the first optimizer imports Dynamo
    importlib.import_module(_name)

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "tests.training.processes"])
