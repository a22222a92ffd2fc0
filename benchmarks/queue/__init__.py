"""`melo bench queue`: real processes that are killed while they work, and what the queue costs when they are not."""
