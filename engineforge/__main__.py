"""`python -m engineforge`."""

from engineforge.cli.main import main

if __name__ == "__main__":
    main()
