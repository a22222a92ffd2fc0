"""The benchmarks of `melo bench`: the record, edits beside other methods, scope, and the queue under faults.

They exist only in a checkout, not in an installation.
"""

import worker  # noqa: F401 (sets OpenMP's GOMP_SPINCOUNT, before anything here imports torch)
