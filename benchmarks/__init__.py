"""What `melo bench` measures: the record, edits beside other methods, scope, and the queue under faults.

Not part of an installation: only of a checkout.
"""

import worker  # noqa: F401 (sets OpenMP's GOMP_SPINCOUNT, before anything here imports torch)
