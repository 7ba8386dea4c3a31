"""The command line: `python -m vocseg_lib COMMAND` or `vocseg COMMAND`; `--help` lists them.

Heavy packages are imported inside the commands, after their arguments have been checked.
"""

from vocseg_lib.study.cli import data, models, analysis, comparison  # noqa: F401, I001  # in this order
from vocseg_lib.study.cli.options import run_app as main  # noqa: F401
