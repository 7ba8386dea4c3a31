"""The command line: `python -m vocseg_lib COMMAND`; `--help` lists the commands."""

from vocseg_lib.study.cli import main

if __name__ == "__main__":
    main()
