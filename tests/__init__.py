"""Type hints are checked in tests: shapes by jaxtyping, the rest by beartype, ints as floats."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("vocseg_lib", "tests.checked")  # before any test imports it
