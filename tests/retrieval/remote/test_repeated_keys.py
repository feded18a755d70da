"""An answer in which an object has a key twice: which of the two is meant, nobody can know."""

from __future__ import annotations

import pytest

from tspo_cli.errors import RemoteServiceError
from tspo_cli.retrieval.remote.read_answer import read_answer
from tspo_cli.work_limits import at_most


@pytest.mark.parametrize("place", [0, 57, 99_999])
def test_it_is_named_whatever_else_the_object_has(place: int) -> None:
    names = ",".join(f'"key {number}":1' for number in range(100_000))
    answer = f'{{"result":[[]],{names},"key {place}":2}}'
    with at_most(20), pytest.raises(RemoteServiceError, match=f"the key 'key {place}' twice"):
        read_answer(answer.encode(), 1, 3, 1000)
