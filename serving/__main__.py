"""`python -m serving`: `melo serve` as a program of its own; `melo up` starts it."""

import sys

from cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["serve"]
    main()
