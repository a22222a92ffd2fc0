"""Training of the verifier: pairs of questions that ask the same or something else, and what is made of them."""
