"""Methods by name. To add a method, write one short file and one line here."""

from __future__ import annotations

import difflib

from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.methods.cot import COT
from tspo_cli.evaluation.methods.direct import DIRECT
from tspo_cli.evaluation.methods.ircot import IRCOT
from tspo_cli.evaluation.methods.iter_retgen import ITER_RETGEN
from tspo_cli.evaluation.methods.method import Method
from tspo_cli.evaluation.methods.rag import RAG
from tspo_cli.evaluation.methods.search_o1 import SEARCH_O1
from tspo_cli.evaluation.methods.search_r1 import SEARCH_R1
from tspo_cli.evaluation.methods.tool_call import TOOL_CALL

METHODS = {
    method.name: method
    for method in (SEARCH_R1, DIRECT, COT, RAG, IRCOT, SEARCH_O1, ITER_RETGEN, TOOL_CALL)
}


def find_method(name: str) -> Method:
    """The method of that name. For an unknown name, raises InvalidInputError with the nearest
    name.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name.lower(), METHODS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(METHODS)}"
    raise InvalidInputError(f"--method: unknown method {name!r}; {hint}")
