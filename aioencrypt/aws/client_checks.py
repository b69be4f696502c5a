"""Refuse clients and sessions that cannot work, before the first call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from aioencrypt.runtime.arguments import describe_type

C = TypeVar("C")


def _is_a(value: object, name: str) -> bool:
    # By name, because neither library need be installed.
    return any(f"{cls.__module__}.{cls.__qualname__}" == name for cls in type(value).__mro__)


def check_client(client: C, service: str, methods: Iterable[str]) -> C:
    """Return a client as it is.

    Raises `TypeError` for a client that blocks, that was not entered, or that has none of the `methods`.
    """
    # That another client blocks shows at its first call only: the methods of aiobotocore are plain functions.
    if _is_a(client, "botocore.client.BaseClient") and not _is_a(client, "aiobotocore.client.AioBaseClient"):
        raise TypeError(
            "this is a client of boto3, which blocks the event loop: give one of aiobotocore, or leave the "
            "client out, and it is made"
        )
    if _is_a(client, "aiobotocore.session.ClientCreatorContext"):
        raise TypeError(
            f"this client of {service} has not been entered: give the client of "
            "`async with session.create_client(...) as client`"
        )
    if isinstance(client, type) or not any(callable(getattr(client, name, None)) for name in methods):
        raise TypeError(f"{describe_type(client)} is not a client of {service}: give one of aiobotocore")
    return client


def check_session(session: object) -> None:
    """Check a session from which clients are made; raises `TypeError`."""
    blocking = _is_a(session, "botocore.session.Session") and not _is_a(
        session, "aiobotocore.session.AioSession"
    )
    if blocking or isinstance(session, type) or not callable(getattr(session, "create_client", None)):
        raise TypeError(
            f"session is a session of aiobotocore, not {describe_type(session)}: "
            "give aiobotocore.session.get_session(), or leave it out"
        )


def check_config(config: object) -> None:
    """Check a configuration of clients; raises `TypeError`."""
    if not _is_a(config, "botocore.config.Config"):
        raise TypeError(
            f"client_config is an AioConfig of aiobotocore, not {describe_type(config)}: write AioConfig(...)"
        )
