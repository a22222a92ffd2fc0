"""Training of the verifier: pairs of questions that ask the same or something else, and the model trained on them."""
