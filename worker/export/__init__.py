"""`melo version export`: a version as a folder of PEFT adapters with its index, for programs that do not know MELO."""
