from importlib.util import find_spec

# the extra phantom
collect_ignore_glob = [] if find_spec("scipy") else ["test_*.py"]
