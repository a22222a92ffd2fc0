"""Where the method meets the record: training jobs, the loader of versions, and the commands that need a model."""

import os

# OpenMP's threads spin while they wait, which on a machine with other work to do (the database beside the worker) makes
# small operations 10 to 25 times slower. Read when torch is first imported, so set before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
