"""The training queue: the row is the job, a message only wakes a worker."""
