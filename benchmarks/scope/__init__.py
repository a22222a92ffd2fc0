"""`melo bench scope`: which questions corrections answer and which they leave alone, by routing alone."""
