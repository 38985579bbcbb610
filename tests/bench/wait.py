"""Import what is named, say so, and wait: python -m tests.bench.wait MODULE..."""

import sys
from importlib import import_module

for name in sys.argv[1:]:
    import_module(name)
print("imported", flush=True)
sys.stdin.read()
