"""Where the method meets the record: training jobs, the loader of versions, and the commands that need a model."""

import os

# OpenMP's threads spin while they wait, for long by default: with other work on the machine (the database beside the
# worker) small operations then take 10 to 25 times as long. Never spinning costs a fifth of the training speed; this
# long costs neither. Read when torch is first imported, so set before.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
