"""Where the method meets the record: training jobs, the loader of versions, and the commands that need a model."""
