"""The command line: `python -m vocseg_lib COMMAND`; `--help` lists the commands."""

import sys

from vocseg_lib.study.cli import USER_ERRORS, run
from vocseg_lib.study.cli_options import build_parser


def main() -> int:
    arguments = build_parser().parse_args()
    try:
        return run(arguments)
    except USER_ERRORS as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
