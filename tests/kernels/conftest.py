"""Leaves out what only a process with Triton's interpreter can run, see test_interpreter.py."""

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
