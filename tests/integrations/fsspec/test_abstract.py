"""The tests that fsspec has for any file system, on encrypted ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from tests.support.encrypted_fs import AsyncMemoryFileSystem, memory, over

# some versions of fsspec have fixtures that pytest finds old
pytestmark = pytest.mark.filterwarnings("ignore:Class-scoped fixtures defined as instance methods")


class OverMemory(AbstractFixtures):  # type: ignore[misc]
    @pytest.fixture
    def fs(self) -> Any:
        return over(memory())

    @pytest.fixture
    def fs_path(self) -> str:
        return "/folder"

    @pytest.fixture
    def fs_join(self) -> Any:
        return lambda *parts: "/".join(parts)


class OverLocal(AbstractFixtures):  # type: ignore[misc]
    @pytest.fixture
    def fs(self) -> Any:
        return over(LocalFileSystem(auto_mkdir=True))

    @pytest.fixture
    def fs_path(self, tmp_path: Path) -> str:
        return str(tmp_path)


class OverObjects(OverMemory):
    @pytest.fixture
    def fs(self) -> Any:
        return over(AsyncMemoryFileSystem())

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestCopyOverMemory(AbstractCopyTests, OverMemory):  # type: ignore[misc]
    pass


class TestGetOverMemory(AbstractGetTests, OverMemory):  # type: ignore[misc]
    pass


class TestPutOverMemory(AbstractPutTests, OverMemory):  # type: ignore[misc]
    pass


class TestOpenOverMemory(AbstractOpenTests, OverMemory):  # type: ignore[misc]
    pass


class TestPipeOverMemory(AbstractPipeTests, OverMemory):  # type: ignore[misc]
    pass


class TestCopyOverLocal(AbstractCopyTests, OverLocal):  # type: ignore[misc]
    pass


class TestGetOverLocal(AbstractGetTests, OverLocal):  # type: ignore[misc]
    pass


class TestPutOverLocal(AbstractPutTests, OverLocal):  # type: ignore[misc]
    pass


class TestOpenOverLocal(AbstractOpenTests, OverLocal):  # type: ignore[misc]
    pass


class TestPipeOverLocal(AbstractPipeTests, OverLocal):  # type: ignore[misc]
    pass


class TestOpenOverObjects(AbstractOpenTests, OverObjects):  # type: ignore[misc]
    pass


class TestPipeOverObjects(AbstractPipeTests, OverObjects):  # type: ignore[misc]
    pass


class TestGetOverObjects(AbstractGetTests, OverObjects):  # type: ignore[misc]
    pass


class TestPutOverObjects(AbstractPutTests, OverObjects):  # type: ignore[misc]
    pass
