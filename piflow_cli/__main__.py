"""`python -m piflow_cli` is `piflow`."""

from piflow_cli.cli.app import main

if __name__ == "__main__":
    main()
