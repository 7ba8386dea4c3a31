"""How pytest checks the library's type hints: shapes by jaxtyping, the rest by beartype, an int passing as a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
