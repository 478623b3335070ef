"""The order of the tests over the table."""

import pytest

from tests import table


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one entry follow each other, whichever file they are in.

    So they run in one process, which evaluates the entry once.
    """
    rank = {name: number for number, name in enumerate(table.EVERY)}

    def entry_of(item: pytest.Item) -> table.Entry | None:
        callspec = getattr(item, "callspec", None)
        return None if callspec is None else callspec.params.get("entry")

    places = [place for place, item in enumerate(items) if entry_of(item)]
    ordered = sorted((items[place] for place in places), key=lambda item: rank[entry_of(item).name])
    for place, item in zip(places, ordered, strict=True):
        items[place] = item
