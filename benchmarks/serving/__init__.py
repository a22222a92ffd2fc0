"""`melo bench serve`: the serving engine beside transformers and PEFT, and a server under load whose alias moves."""
