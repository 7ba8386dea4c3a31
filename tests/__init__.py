"""Type hints are checked in tests: shapes by jaxtyping, the rest by beartype, ints as floats."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
