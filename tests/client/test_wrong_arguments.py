"""Arguments that are wrong, or in the wrong place: said at once, by type, and with advice."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import aioencrypt
import aioencrypt.testing
from aioencrypt import (
    AWSConnection,
    CachingCMM,
    DecryptWriter,
    DefaultCMM,
    EncryptionClient,
    KMSMasterKeyProvider,
    Limits,
    MultiMasterKeyProvider,
    RequiredEncryptionContextCMM,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
    open_seekable,
)
from aioencrypt.aws import limit_regions
from aioencrypt.branch_keys import HierarchicalMasterKey, KMSMRDiscovery
from aioencrypt.inspection import inspect_message
from aioencrypt.rewrap import rewrap_stream
from aioencrypt.runtime.arguments import describe_type
from tests.support import public
from tests.support.providers import OwnKey
from tests.support.rows import each_row
from tests.support.streaming import in_chunks

pytestmark = pytest.mark.anyio

KEY = OwnKey("a")
SECRET: Any = b"attack at dawn, key of 32 bytes!"


@each_row(
    "call",
    [
        lambda: encrypt_stream(b"", SECRET),
        lambda: encrypt_stream(KEY, SECRET),  # type: ignore[arg-type]
        lambda: decrypt_stream(b"", SECRET),
        lambda: DecryptWriter(print, SECRET),  # type: ignore[arg-type]
        lambda: DecryptWriter(SECRET, KEY),
        lambda: DecryptWriter(print, KEY, encryption_client=SECRET),  # type: ignore[arg-type]
        lambda: open_seekable(b"", SECRET),
        lambda: aioencrypt.open("path", "rb", provider=SECRET),
        lambda: aioencrypt.open("path", SECRET, provider=KEY),
        lambda: DefaultCMM(SECRET),
        lambda: CachingCMM(SECRET, max_age=1),
        lambda: RequiredEncryptionContextCMM(SECRET, ["key"]),
        lambda: RequiredEncryptionContextCMM(KEY, [SECRET]),
        lambda: MultiMasterKeyProvider(SECRET),
        lambda: MultiMasterKeyProvider(KEY, SECRET),
        lambda: HierarchicalMasterKey(SECRET, branch_key_id="a", max_age=1),
        lambda: rewrap_stream(b"", SECRET, new_provider=KEY),
        lambda: rewrap_stream(b"", KEY, new_provider=SECRET),
        lambda: rewrap_stream(b"", KEY, new_provider=KEY, keep=SECRET),
        lambda: encrypt_stream(b"", KEY, encryption_context={SECRET: "a"}),
        lambda: encrypt_stream(b"", KEY, encryption_context={"a": SECRET}),
        lambda: encrypt_stream(b"", KEY, encryption_context=SECRET),
        lambda: decrypt_stream(b"", KEY, limits=SECRET),
        lambda: KMSMasterKeyProvider([SECRET]),
        lambda: KMSMasterKeyProvider(["alias/a"], connection=AWSConnection(kms=SECRET)),
        lambda: KMSMRDiscovery(SECRET),
        lambda: limit_regions(SECRET, ["us-east-1"]),
        lambda: limit_regions(print, [SECRET]),  # type: ignore[arg-type]
    ],
)
def test_no_error_shows_the_value_of_an_argument(call: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"bytes|mapping") as caught:
        call()
    assert "attack" not in str(caught.value)


SWAPPED = (
    "bytes is neither a master key, nor a provider, nor a CMM: "
    "key bytes go into a RawAESMasterKey, and a source comes before the provider"
)


@pytest.mark.parametrize(
    ("provider", "text"),
    [
        (b"plaintext", SWAPPED),
        (bytearray(b"plaintext"), SWAPPED.replace("bytes", "bytearray", 1)),
        (memoryview(b"plaintext"), SWAPPED.replace("bytes", "memoryview", 1)),
        (BytesIO(b"plaintext"), "BytesIO is neither .* CMM: a source comes before the provider"),
        (in_chunks(b"plaintext", 5), "async_generator is neither .* CMM: a source comes before the provider"),
        (OwnKey, "the class OwnKey is neither .* nor a CMM: give an object of it"),
        (None, "NoneType is neither a master key, nor a provider, nor a CMM"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_arguments_that_changed_places(provider: Any, text: str) -> None:
    for function in (encrypt, decrypt):
        with pytest.raises(TypeError) as caught:
            await function(KEY, provider)  # type: ignore[arg-type]
        assert re.fullmatch(text, str(caught.value))


ARN = "arn:aws:kms:us-east-1:123456789012:key/0e7b7a4e-4f27-4c5a-9f5b-2f0f6d3a1c11"
BY_NAME = "name keys of KMS with KMSMasterKeyProvider"
FROM_FILE = "read the key from its file and make a RawAESMasterKey or RawRSAMasterKey of it"


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (ARN, BY_NAME),
        ("alias/orders", BY_NAME),
        (ARN.partition("/")[2], BY_NAME),
        ("mrk-1234abcd12ab34cd56ef1234567890ab", BY_NAME),
        ([ARN], BY_NAME),
        ((ARN, ARN), BY_NAME),
        ({ARN}, BY_NAME),
        ([], BY_NAME),
        ("key.pem", FROM_FILE),
        (Path("key.pem"), FROM_FILE),
        ([KEY, KEY], "join several providers with MultiMasterKeyProvider"),
        ((KEY,), "join several providers with MultiMasterKeyProvider"),
        (bytes(32), "key bytes go into a RawAESMasterKey"),
        (rsa.generate_private_key(public_exponent=65537, key_size=2048), "make a RawRSAMasterKey or"),
        (OwnKey, "give an object of it"),
    ],
    ids=lambda value: type(value).__name__,
)
@each_row(
    "call",
    [
        lambda given: encrypt_stream(b"", given),
        lambda given: decrypt_stream(b"", given),
        lambda given: DecryptWriter(print, given),  # type: ignore[arg-type]
        lambda given: open_seekable(b"", given),
        lambda given: aioencrypt.open("path", "wb", provider=given),
        lambda given: rewrap_stream(b"", given, new_provider=KEY),
        lambda given: rewrap_stream(b"", KEY, new_provider=given),
        DefaultCMM,
        lambda given: CachingCMM(given, max_age=1),
        lambda given: RequiredEncryptionContextCMM(given, ["a"]),
        MultiMasterKeyProvider,
        lambda given: MultiMasterKeyProvider(KEY, given),
    ],
)
def test_what_is_no_provider_yet(call: Callable[[Any], object], given: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=f": {advice}") as caught:
        call(given)
    assert "123456789012" not in str(caught.value)
    assert "key.pem" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"max_plaintext_length": 5}, 5, Limits])
async def test_limits_of_another_type(wrong: Any) -> None:
    text = rf"^limits must be a Limits, not {describe_type(wrong)}: write Limits\(...\)$"
    with pytest.raises(TypeError, match=text):
        EncryptionClient(limits=wrong)
    with pytest.raises(TypeError, match=text):
        decrypt_stream(b"", KEY, limits=wrong)
    with pytest.raises(TypeError, match=text):
        await inspect_message(b"", limits=wrong)


async def test_a_writer_takes_no_text(tmp_path: Path) -> None:
    async with aioencrypt.open(tmp_path / "file", "wb", provider=KEY) as writer:
        with pytest.raises(TypeError, match=r"^write\(\) takes bytes, not str: encode the text$"):
            await writer.write("text")  # type: ignore[arg-type]
        await writer.write(b"bytes")
    async with aioencrypt.open(tmp_path / "file", "rb", provider=KEY) as reader:
        assert await reader.read() == b"bytes"


@pytest.mark.spec("client-apis/encrypt.md#input")
@pytest.mark.parametrize("source", [b"12345", bytearray(b"12345"), memoryview(b"12345")], ids=type)
async def test_a_bound_is_ignored_where_the_length_is_known(source: Any) -> None:
    message, _ = await encrypt(source, KEY, plaintext_length_bound=2)
    assert (await decrypt(message, KEY)).plaintext == b"12345"
    async with encrypt_stream(source, KEY, plaintext_length_bound=2) as stream:
        assert stream.ciphertext_length == len(message)
        message = await stream.read()
    assert (await decrypt(message, KEY)).plaintext == b"12345"


# from aioencrypt import *


@pytest.mark.parametrize(
    ("module", "left_out", "more"),
    [
        (
            aioencrypt,
            {"open", *(module.__name__.split(".")[1] for module in public.MODULES[1:])},
            {"__version__"},
        ),
        (aioencrypt.streams, set(), set()),
        (aioencrypt.testing, set(), set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_type_checkers_know_the_names_of_a_star_import(
    module: ModuleType, left_out: set[str], more: set[str]
) -> None:
    stub = ast.parse(Path(str(module.__file__)).with_suffix(".pyi").read_text())
    imported = {name.name for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names}
    [listed] = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    assert sorted(listed) == sorted(module.__all__) == sorted(imported - left_out | more)


def test_a_star_import_leaves_the_builtin_open_alone() -> None:
    names: dict[str, Any] = {}
    exec("from aioencrypt import *", names)
    assert names["encrypt"] is encrypt
    assert "open" not in names
