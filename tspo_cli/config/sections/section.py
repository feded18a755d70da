"""What all sections of an experiment file have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

UserFunction = Annotated[
    str, StringConstraints(pattern=r"^.+\.py:[A-Za-z_]\w*$"), "FILE.py:function"
]
"""A function of the user's own, in a Python file that the experiment names."""


class Section(BaseModel):
    """Base of all sections: nothing unknown, nothing changed after reading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )
