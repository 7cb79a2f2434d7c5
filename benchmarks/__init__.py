"""Benchmarks: training and input speed compared with other libraries, augmentation, scaling and start-up time."""

import sys

# As in train/__init__.py: from here on, signals stop the command without a traceback. Workers are stopped by their
# parent.
if (
    sys.argv[:1] == ["-m"]
    and "benchmarks.workers" not in sys.orig_argv
    and any(word.startswith("benchmarks.") for word in sys.orig_argv)
):
    from train import stopping

    stopping.install()
