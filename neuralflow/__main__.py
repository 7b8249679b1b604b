"""The entry point of `python -m neuralflow`."""

from neuralflow.cli import main

if __name__ == "__main__":
    main()
