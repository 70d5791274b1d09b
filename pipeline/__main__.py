"""`python -m lengthwise`: the console command."""

from lengthwise.cli.main import main

if __name__ == "__main__":
    main(prog_name="lengthwise")
