"""`python -m tspo_cli` is the same program as `tspo`."""

from tspo_cli.commands.app import main

if __name__ == "__main__":
    main()
