"""`melo bench queue`: processes that are killed while they work, and the cost of the queue when they are not."""
