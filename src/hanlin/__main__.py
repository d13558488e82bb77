"""`python -m hanlin …`, which is what `torchrun -m hanlin …` starts."""

from hanlin.cli.main import main

if __name__ == "__main__":
    main()
