"""`python -m hanlin …`, which is what `torchrun -m hanlin …` starts."""

from .cli import main

if __name__ == "__main__":
    main()
