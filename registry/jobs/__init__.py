"""The training queue: a row is the job, and a message only wakes a worker."""
