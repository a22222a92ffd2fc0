"""The worker joins method and record: training jobs, the loader of versions, and commands that need a model."""

import os

# OpenMP's threads spin while they wait, by default for long. With other work on the machine, such as the database,
# small operations then take 10 to 25 times as long. Not spinning at all costs a fifth of the training speed; this
# value costs neither. It is read when torch is first imported, so it is set here.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
