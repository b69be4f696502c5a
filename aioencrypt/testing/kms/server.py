"""The HTTP server of the in-memory KMS; the package says how to use it."""

from __future__ import annotations

import argparse
import asyncio
import base64
import datetime
import json
import re
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from anyio.from_thread import start_blocking_portal

from aioencrypt.testing.kms.errors import Refusal, service_error
from aioencrypt.testing.kms.memory import InMemoryKMS, InMemoryKMSError

try:
    from aiohttp import web
except ModuleNotFoundError as _missing:
    raise ImportError("aioencrypt.testing.kms needs aiohttp: pip install 'aioencrypt[testing]'") from _missing

_CONTENT_TYPE = "application/x-amz-json-1.1"
_TARGET_PREFIX = "TrentService."
_SCOPE = re.compile(r"Credential=[^/\s,]+/\d{8}/((?:[a-z]+-){2,3}\d+)/kms/aws4_request[\s,]")
_BLOBS = frozenset({"CiphertextBlob", "Plaintext", "PublicKey", "SharedSecret"})
# Requests still waiting for their latency when the server stops; it is not worth waiting with them.
_SHUTDOWN_SECONDS = 0.1


class KMSServer:
    """Serves an `InMemoryKMS` on the running asyncio loop for the time of an `async with`.

    `host` and `port` are where it listens; port 0 takes a free one. `url` is the endpoint to give to
    clients. May be entered again after it was left.
    """

    def __init__(self, kms: InMemoryKMS, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.kms = kms
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The endpoint, such as `http://127.0.0.1:45678`. Raises `RuntimeError` unless entered."""
        if self._runner is None:
            raise RuntimeError("the server is not running: enter it with `async with`")
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def __aenter__(self) -> KMSServer:
        if self._runner is not None:
            raise RuntimeError("the server is running already")
        # handler_cancellation: a client that hangs up ends the wait for the latency
        runner = web.AppRunner(
            _application(self.kms),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


@contextmanager
def run_in_thread(kms: InMemoryKMS, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve the KMS from a thread and a loop of its own, and yield the URL: for synchronous tests."""
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(KMSServer(kms, host=host, port=port)) as server,
    ):
        yield server.url


def _application(kms: InMemoryKMS) -> web.Application:
    handlers = _Handlers(kms)
    application = web.Application()
    application.add_routes(
        [
            web.post("/", handlers.service),
            web.get("/_calls", handlers.calls),
            web.delete("/_calls", handlers.reset_calls),
            web.post("/_faults", handlers.faults),
        ]
    )
    return application


class _Handlers:
    def __init__(self, kms: InMemoryKMS) -> None:
        self._kms = kms

    async def service(self, request: web.Request) -> web.Response:
        """Answer an AWS JSON 1.1 request."""
        try:
            region, operation, parameters = _parse(request.headers, await request.read())
            answer = await self._kms.invoke(region, operation, parameters)
        except Refusal as refusal:
            return _error(service_error(refusal, "", str(uuid.uuid4())))
        except InMemoryKMSError as error:
            return _error(error)
        except ConnectionError:
            # What the peer sees is a connection that ends without an answer.
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        return _answer(answer)

    async def calls(self, request: web.Request) -> web.Response:
        """Show the log."""
        calls = [
            {
                "operation": call.operation,
                "region": call.region,
                "key_id": call.key_id,
                "encryption_context": dict(call.encryption_context),
                "grant_tokens": list(call.grant_tokens),
                "error": call.error,
            }
            for call in self._kms.calls
        ]
        return web.json_response({"count": len(calls), "calls": calls})

    async def reset_calls(self, request: web.Request) -> web.Response:
        """Forget the log."""
        self._kms.reset_calls()
        return web.Response(status=204)

    async def faults(self, request: web.Request) -> web.Response:
        """Carry out what another process wants to go wrong."""
        try:
            for name, arguments in (await request.json()).items():
                self._controls()[name](**arguments)
        except (AttributeError, KeyError, TypeError, ValueError, InMemoryKMSError) as error:
            return web.json_response({"message": f"{type(error).__name__}: {error}"}, status=400)
        return web.Response(status=204)

    def _controls(self) -> dict[str, Callable[..., None]]:
        kms = self._kms

        def deny(*, key_arn: str, operations: Sequence[str] = ()) -> None:
            kms.deny(key_arn, *operations)

        def allow(*, key_arn: str, operations: Sequence[str] = ()) -> None:
            kms.allow(key_arn, *operations)

        def answer_next(*, operation: str, changes: Mapping[str, object], times: int = 1) -> None:
            kms.answer_next(operation, _decode_blobs(changes), times=times)

        def latency(*, seconds: float) -> None:
            kms.latency = seconds

        return {
            "allow": allow,
            "answer_next": answer_next,
            "deny": deny,
            "expire_credentials": kms.expire_credentials,
            "fail_next": kms.fail_next,
            "latency": latency,
            "outage": kms.outage,
            "recover": kms.recover,
            "renew_credentials": kms.renew_credentials,
        }


def _parse(headers: Mapping[str, str], body: bytes) -> tuple[str, str, dict[str, object]]:
    """Return region, operation and parameters of a request, blobs decoded."""
    target = headers.get("X-Amz-Target", "")
    if not target.startswith(_TARGET_PREFIX):
        raise Refusal("UnknownOperationException", f"X-Amz-Target must start with {_TARGET_PREFIX}")
    authorization = headers.get("Authorization")
    if authorization is None:
        raise Refusal("MissingAuthenticationTokenException", "Missing Authentication Token")
    scope = _SCOPE.search(authorization)
    if scope is None:
        raise Refusal("IncompleteSignatureException", "Authorization has no Credential scope of kms")
    try:
        parameters = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal("SerializationException", "the body is not JSON") from None
    if not isinstance(parameters, dict):
        raise Refusal("SerializationException", "the body is not a JSON object")
    try:
        return scope[1], target.removeprefix(_TARGET_PREFIX), _decode_blobs(parameters)
    except (TypeError, ValueError):
        raise Refusal("SerializationException", "a blob is not base64") from None


def _decode_blobs(fields: Mapping[str, Any]) -> dict[str, object]:
    return {
        name: base64.b64decode(value, validate=True) if name in _BLOBS and value is not None else value
        for name, value in fields.items()
    }


def _answer(answer: Mapping[str, Any]) -> web.Response:
    fields = {name: value for name, value in answer.items() if name != "ResponseMetadata"}
    return _json(fields, answer["ResponseMetadata"])


def _error(error: InMemoryKMSError) -> web.Response:
    fields = {"__type": error.response["Error"]["Code"], "message": error.response["Error"]["Message"]}
    return _json(fields, error.response["ResponseMetadata"])


def _json(fields: Mapping[str, object], metadata: Mapping[str, Any]) -> web.Response:
    return web.Response(
        body=json.dumps(fields, default=_encode).encode(),
        status=metadata["HTTPStatusCode"],
        content_type=_CONTENT_TYPE,
        headers={"x-amzn-RequestId": metadata["RequestId"]},
    )


def _encode(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    raise TypeError(f"{type(value).__name__} has no place in JSON")


# The command


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM. Prints the URL, then the ARN of each key, one a line."""
    parser = argparse.ArgumentParser(
        prog="python -m aioencrypt.testing.kms",
        description="An AWS KMS in memory, over HTTP. Prints its URL and the ARN of each key.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (a free one)")
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="SECONDS", help="time each answer takes"
    )
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="ARN",
        help="create this key; may be repeated. The same mrk- id in two regions is a key and its replica. "
        "The account of the first is that of the callers. (one key in us-east-1 and one in eu-west-1)",
    )
    parser.add_argument(
        "--alias",
        action="append",
        default=[],
        metavar="NAME=ARN",
        help="name a key alias/...; may be repeated",
    )
    options = parser.parse_args(arguments)
    try:
        kms, key_arns = _prepare(options.key, options.alias, options.latency)
    except (ValueError, InMemoryKMSError) as error:
        parser.error(str(error))
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(_serve(KMSServer(kms, host=options.host, port=options.port), key_arns))
        except OSError as error:
            parser.exit(1, f"{parser.prog}: {error}\n")


def _prepare(keys: Sequence[str], aliases: Sequence[str], latency: float) -> tuple[InMemoryKMS, list[str]]:
    """Return the KMS and the ARNs of its keys. Wrong options are `ValueError` and `InMemoryKMSError`."""
    if keys:
        partition, account = _split_key_arn(keys[0])[:2]
        kms = InMemoryKMS(account=account, partition=partition, latency=latency)
        key_arns = _create_keys(kms, partition, keys)
    else:
        kms = InMemoryKMS(latency=latency)
        key_arns = [kms.create_key(region=region) for region in ("us-east-1", "eu-west-1")]
    for alias in aliases:
        name, _, key_arn = alias.partition("=")
        kms.create_alias(name, key_arn)
    return kms, key_arns


def _create_keys(kms: InMemoryKMS, partition: str, keys: Sequence[str]) -> list[str]:
    created: list[str] = []
    primaries: dict[tuple[str, str], str] = {}
    for arn in keys:
        key_partition, account, region, key_id = _split_key_arn(arn)
        if key_partition != partition:
            raise ValueError(f"all keys are in one partition, unlike {arn} and {keys[0]}")
        multi_region = key_id.startswith("mrk-")
        if multi_region and (account, key_id) in primaries:
            created.append(kms.replicate_key(primaries[account, key_id], region))
            continue
        created.append(
            kms.create_key(region=region, account=account, multi_region=multi_region, key_id=key_id)
        )
        primaries[account, key_id] = created[-1]
    return created


def _split_key_arn(arn: str) -> tuple[str, str, str, str]:
    """Return partition, account, region and key id."""
    match arn.split(":"):
        case ["arn", partition, "kms", region, account, resource] if resource.startswith("key/"):
            return partition, account, region, resource.removeprefix("key/")
    raise ValueError(f"{arn!r} is not a key ARN")


async def _serve(server: KMSServer, key_arns: Sequence[str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no signal handlers in loops; there, Ctrl-C is a KeyboardInterrupt.
        with suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        sys.stdout.write("".join(f"{line}\n" for line in (server.url, *key_arns)))
        sys.stdout.flush()
        await stop.wait()
