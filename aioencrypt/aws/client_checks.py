"""Reject clients and sessions that cannot work, before the first call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from aioencrypt.runtime.arguments import describe_type

C = TypeVar("C")


def _is_a(value: object, name: str) -> bool:
    # By name, because botocore and aiobotocore are optional.
    return any(f"{cls.__module__}.{cls.__qualname__}" == name for cls in type(value).__mro__)


def check_client(client: C, service: str, methods: Iterable[str]) -> C:
    """Return the client unchanged.

    Raises `TypeError` if it blocks, was not entered, or has none of the `methods`.
    """
    # Other blocking clients show at their first call only, because aiobotocore's methods are plain functions.
    if _is_a(client, "botocore.client.BaseClient") and not _is_a(client, "aiobotocore.client.AioBaseClient"):
        raise TypeError(
            "this is a boto3 client, which blocks the event loop: give an aiobotocore client, or leave it "
            "out to have one created"
        )
    if _is_a(client, "aiobotocore.session.ClientCreatorContext"):
        raise TypeError(
            f"this {service} client was not entered: give the client of "
            "`async with session.create_client(...) as client`"
        )
    if isinstance(client, type) or not any(callable(getattr(client, name, None)) for name in methods):
        raise TypeError(f"{describe_type(client)} is not a client of {service}: give an aiobotocore client")
    return client


def check_session(session: object) -> None:
    """Check a session that creates clients; raises `TypeError`."""
    blocking = _is_a(session, "botocore.session.Session") and not _is_a(
        session, "aiobotocore.session.AioSession"
    )
    if blocking or isinstance(session, type) or not callable(getattr(session, "create_client", None)):
        raise TypeError(
            f"session must be an aiobotocore session, not {describe_type(session)}: "
            "give aiobotocore.session.get_session(), or leave it out"
        )


def check_config(config: object) -> None:
    """Check a client configuration; raises `TypeError`."""
    if not _is_a(config, "botocore.config.Config"):
        raise TypeError(
            f"client_config must be an AioConfig of aiobotocore, not {describe_type(config)}: "
            "write AioConfig(...)"
        )
