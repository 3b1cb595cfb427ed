"""`python -m optlayers` is the command line."""

from optlayers.cli import main

if __name__ == "__main__":
    main()
