"""Clients and arguments that cannot work are refused before S3 is asked for anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import botocore.session
import pytest
from aiobotocore.session import AioSession

from aioencrypt.integrations.s3 import (
    S3RangeSource,
    open_encrypted,
    open_seekable_encrypted,
    put_encrypted,
    rewrap_encrypted,
)
from tests.support.memory_s3 import BUCKET, KEY_NAME, MemoryS3
from tests.support.streaming import KEY

pytestmark = pytest.mark.anyio


def blocking() -> Any:
    client = botocore.session.get_session().create_client(
        "s3", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none"
    )
    client.meta.events.register("before-call", lambda **_: pytest.fail("called"))
    return client


OPERATIONS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "put": lambda client: put_encrypted(client, BUCKET, KEY_NAME, b"x", KEY),
    "open": lambda client: open_encrypted(client, BUCKET, KEY_NAME, KEY).__aenter__(),
    "seek": lambda client: open_seekable_encrypted(client, BUCKET, KEY_NAME, KEY).__aenter__(),
    "range": lambda client: S3RangeSource(client, BUCKET, KEY_NAME).read_range(0, 1),
    "rewrap": lambda client: rewrap_encrypted(client, BUCKET, KEY_NAME, KEY, new_provider=KEY),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (blocking, "a boto3 client, which blocks the event loop"),
        (lambda: AioSession().create_client("s3"), "was not entered"),
        (lambda: AioSession(), "AioSession is not a client of S3"),
        (botocore.session.get_session, "Session is not a client of S3"),
        (lambda: MemoryS3, "the class MemoryS3 is not a client of S3"),
        (lambda: None, "NoneType is not a client of S3"),
    ],
)
async def test_clients_that_cannot_work(operation: str, make: Any, text: str) -> None:
    client: Any = make()
    with pytest.raises(TypeError, match=text):
        await OPERATIONS[operation](client)
    if hasattr(client, "_coro"):
        client._coro.close()


class Synchronous:
    """A client of another SDK, whose methods wait."""

    def put_object(self, **arguments: Any) -> Mapping[str, Any]:
        return {}

    get_object = put_object


@pytest.mark.parametrize("operation", ["put", "open"])
async def test_a_client_whose_methods_are_not_asynchronous(operation: str) -> None:
    with pytest.raises(Exception, match="returned dict, which is not awaited: is it an async function"):
        await OPERATIONS[operation](Synchronous())


@pytest.mark.parametrize("name", ["metadata", "tagging"])
@pytest.mark.parametrize("value", [{"a": 1}, {1: "a"}, {"a": None}, {"a": b"x"}, "a=1", [("a", "1")]])
async def test_metadata_and_tags_are_text(name: str, value: Any) -> None:
    client = MemoryS3()
    options: dict[str, Any] = {name: value}
    with pytest.raises(TypeError, match=rf"^(a name in )?{name}(\['a'\])? must be an? (str|Mapping), not "):
        await put_encrypted(client, BUCKET, KEY_NAME, b"x", KEY, **options)
    assert not client.objects
