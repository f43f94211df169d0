"""The fixtures of the scenarios live in fixtures/, where other users of the programs find them too."""

import pytest

from fixtures.volumes import default_volume

__all__ = ["default_volume"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every scenario mounts real volumes. (pytest hands a folder's conftest the items of all folders.)"""
    for item in items:
        if item.path.parent.name == "scenarios":
            item.add_marker(pytest.mark.root)
