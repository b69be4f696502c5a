"""How a file system comes to its provider: from storage options, in every process, on every loop."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fsspec
import pytest
from fsspec.asyn import sync
from fsspec.implementations.memory import MemoryFileSystem

from aioencrypt import (
    AWSConnection,
    CachingCMM,
    DefaultCMM,
    EncryptionClient,
    KMSMasterKeyProvider,
    Limits,
    MasterKeyProvider,
    RawAESMasterKey,
    encrypt,
)
from aioencrypt.integrations.fsspec import EncryptedFileSystem
from aioencrypt.integrations.fsspec.provider import OpenProviders, Option
from aioencrypt.runtime.event_loops import running_loop
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.encrypted_fs import PROVIDER, WRAPPING_KEY, make_provider, memory, over
from tests.support.pages import ROOT
from tests.support.streaming import on_asyncio

ARN = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
PATH = "/report.bin"


class Counting(RawAESMasterKey):
    """A key that is entered, and left, and says on which loop."""

    entered: list[object]
    left: list[object]

    def __init__(self) -> None:
        super().__init__("tests", "fsspec", wrapping_key=WRAPPING_KEY)
        self.entered, self.left = [], []

    async def __aenter__(self) -> Self:
        self.entered.append(running_loop())
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.left.append(running_loop())


class WithoutLife:
    """A manager that cannot be entered."""

    def __init__(self) -> None:
        manager = DefaultCMM(make_provider())
        self.get_encryption_materials = manager.get_encryption_materials
        self.decrypt_materials = manager.decrypt_materials


class Keys:
    provider = make_provider()


@pytest.fixture(autouse=True)
def no_instances() -> Iterator[None]:
    """Start without instances that other tests left."""
    EncryptedFileSystem.clear_instance_cache()
    yield
    EncryptedFileSystem.clear_instance_cache()


def of_url(provider: Any, **options: Any) -> Any:
    return fsspec.filesystem("aioencrypt", target_protocol="memory", provider=provider, **options)


@pytest.mark.parametrize(
    "provider",
    [
        PROVIDER,
        make_provider,
        make_provider(),
        f"{__name__}:Keys.provider",
        DefaultCMM(make_provider()),
        WithoutLife,
        WithoutLife(),
        lambda: CachingCMM(make_provider(), max_age=10),
    ],
    ids=["name", "function", "key", "name of a key", "manager", "class", "plain manager", "lambda"],
)
def test_a_provider_may_be_given_in_many_ways(provider: Any) -> None:
    fs = over(memory(), provider=provider)
    fs.pipe_file(PATH, b"figures")
    assert fs.cat_file(PATH) == b"figures"


@pytest.mark.parametrize(
    ("provider", "error"),
    [
        ("no_such_module:provider", ModuleNotFoundError),
        (f"{__name__}:no_such_name", AttributeError),
        (f"{__name__}:PATH", TypeError),
        (lambda: "text", TypeError),
        (lambda: 1 // 0, ZeroDivisionError),
    ],
)
def test_an_error_of_making_a_provider_passes_as_it_is(provider: Any, error: type[Exception]) -> None:
    fs = over(memory(), provider=provider)
    for _ in range(2):
        with pytest.raises(error):
            fs.pipe_file(PATH, b"figures")


def test_a_provider_is_entered_once_on_the_loop_of_the_file_system_and_left_on_it() -> None:
    provider = Counting()
    fs = over(memory(), provider=provider)
    assert provider.entered == []
    fs.pipe({f"/{index}": b"figures" for index in range(20)})
    assert fs.cat_file("/7") == b"figures"
    assert provider.entered == [fs.loop]
    assert provider.left == []
    fs.close()
    fs.close()
    assert provider.left == [fs.loop]
    assert fs.cat_file("/7") == b"figures"
    assert provider.entered == [fs.loop] * 2
    fs.close()


def test_a_provider_is_left_when_the_file_system_goes() -> None:
    provider = Counting()
    fs = over(memory(), provider=provider)
    fs.pipe_file(PATH, b"figures")
    loop = fs.loop
    del fs
    gc.collect()  # its methods hold it
    assert provider.left == [loop]


def test_a_provider_is_left_when_the_file_system_goes_on_its_own_loop() -> None:
    provider = Counting()
    instances = [over(memory(), provider=provider)]
    instances[0].pipe_file(PATH, b"figures")
    loop = instances[0].loop

    async def drop() -> None:
        instances.clear()
        gc.collect()
        assert provider.left == []
        await asyncio.sleep(0)
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})

    sync(loop, drop)
    assert provider.left == [loop]


def test_a_provider_is_left_when_the_program_ends(tmp_path: Path) -> None:
    program = f"""
    import fsspec
    from tests.integrations.fsspec.test_provider import Counting

    class Telling(Counting):
        async def __aexit__(self, *arguments):
            print("left", flush=True)

    with fsspec.open("aioencrypt::file://{tmp_path}/report", "wb", provider=Telling()) as file:
        file.write(b"figures")
    print("written", flush=True)
    """
    assert run(program) == ["written", "left"]


def run(program: str, **environment: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "", **environment},
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_a_provider_may_be_set_for_a_program_by_its_environment(tmp_path: Path) -> None:
    program = f"""
    import fsspec

    url = "aioencrypt::file://{tmp_path}/report"
    with fsspec.open(url, "w") as file:
        file.write("figures")
    with fsspec.open(url) as file:
        print(file.read())
    """
    assert run(program, FSSPEC_AIOENCRYPT_PROVIDER=PROVIDER) == ["b'figures'"]


def test_the_extra_is_named_where_fsspec_is_missing() -> None:
    program = """
    import sys

    sys.modules["fsspec"] = None
    try:
        import aioencrypt.integrations.fsspec
    except ImportError as error:
        print(error)
    """
    assert run(program) == ["aioencrypt.integrations.fsspec needs fsspec: pip install 'aioencrypt[fsspec]'"]


def test_a_factory_is_called_once_for_each_instance() -> None:
    made: list[RawAESMasterKey] = []

    def factory() -> RawAESMasterKey:
        made.append(make_provider())
        return made[-1]

    fs = over(memory(), provider=factory)
    fs.pipe({f"/{index}": b"" for index in range(50)})
    assert len(made) == 1


@on_asyncio
@pytest.mark.anyio
async def test_a_provider_that_is_open_on_another_loop_is_entered_on_this_one_too() -> None:
    kms = InMemoryKMS()
    with run_in_thread(kms) as url:
        async with KMSMasterKeyProvider([kms.create_key()], connection=AWSConnection(kms=url)) as provider:
            fs = over(memory(), provider=provider)
            fs.pipe_file(PATH, b"figures")
            assert fs.cat_file(PATH) == b"figures"
            fs.close()
            await encrypt(b"figures", provider)  # still open here


# Instances, and what their options show


def test_the_same_options_are_the_same_instance() -> None:
    for provider in (PROVIDER, make_provider, make_provider(), KMSMasterKeyProvider([ARN])):
        assert of_url(provider) is of_url(provider)
    assert of_url(KMSMasterKeyProvider([ARN])) is of_url(KMSMasterKeyProvider([ARN]))
    assert of_url(PROVIDER) is not of_url(make_provider)
    assert of_url(PROVIDER, encryption_client=EncryptionClient()) is of_url(
        PROVIDER, encryption_client=EncryptionClient()
    )


def test_providers_that_look_alike_are_told_apart() -> None:
    one, other = (RawAESMasterKey("tests", "fsspec", wrapping_key=bytes([n]) * 32) for n in (1, 2))
    assert repr(one) == repr(other)
    assert of_url(one) is not of_url(other)
    assert of_url(one) != of_url(other)
    first, second = (
        KMSMasterKeyProvider([ARN], connection=AWSConnection(kms=f"http://localhost:{port}"))
        for port in (1, 2)
    )
    assert repr(first) == repr(second)
    assert of_url(first) is not of_url(second)
    limited = EncryptionClient(net_v4_0_0_retry=False)
    assert repr(limited) == repr(EncryptionClient())
    assert of_url(PROVIDER, encryption_client=limited) is not of_url(
        PROVIDER, encryption_client=EncryptionClient()
    )


def test_nothing_shows_a_key() -> None:
    key = bytes(range(100, 132))
    fs = of_url(RawAESMasterKey("tests", "fsspec", wrapping_key=key))
    fs.pipe_file(PATH, b"figures")
    option = fs.storage_options["provider"]
    shown = f"{fs!r} {fs._fs_token} {fs.storage_options!r} {option!r} {vars(option)!r}"
    for text in (key.hex(), repr(key), repr(key)[2:-1], key.decode("latin-1")):
        assert text not in shown
    with pytest.raises(TypeError, match="RawAESMasterKey holds key bytes and cannot be pickled or copied"):
        pickle.dumps(fs)


@pytest.mark.parametrize(
    "provider", [PROVIDER, make_provider, KMSMasterKeyProvider([ARN], connection=AWSConnection(timeout=5))]
)
def test_a_file_system_goes_to_other_processes_with_its_options(provider: Any) -> None:
    fs = of_url(
        provider, frame_length=100, encryption_client=EncryptionClient(limits=Limits(max_frame_length=200))
    )
    assert pickle.loads(pickle.dumps(fs)) is fs
    EncryptedFileSystem.clear_instance_cache()
    other = pickle.loads(pickle.dumps(fs))
    assert other is not fs
    assert other == fs
    assert other._fs_token == fs._fs_token
    assert other._writing["frame_length"] == 100
    assert repr(other._encryption_client) == repr(fs._encryption_client)


def test_an_open_file_is_pickled_where_it_stands() -> None:
    MemoryFileSystem.store.clear()
    fs = of_url(PROVIDER)
    fs.pipe_file(PATH, b"figures of 2026")
    with fs.open(PATH) as file:
        file.seek(8)
        with pickle.loads(pickle.dumps(file)) as other:
            assert other.read() == b"of 2026"
        assert file.tell() == 8
    with fs.open(PATH, cache_type="readahead") as file, pickle.loads(pickle.dumps(file)) as other:
        assert (other.cache.name, other.read()) == ("readahead", b"figures of 2026")
    fs.rm(PATH)


def test_options_compare_by_what_they_hold() -> None:
    assert Option("a:b") == Option("a:b")
    assert Option("a:b") != Option("a:c")
    assert Option("a:b") != "a:b"
    assert len({Option("a:b"), Option("a:b"), Option(make_provider)}) == 2
    assert Option.of(option := Option("a:b")) is option
    assert copy.copy(option) == option


# Several loops


def test_each_loop_has_a_provider_of_its_own() -> None:
    providers = OpenProviders(Counting)

    async def use() -> tuple[MasterKeyProvider, object]:
        one, other = await asyncio.gather(providers.get(), providers.get())
        assert one is other
        assert isinstance(one, MasterKeyProvider)
        return one, running_loop()

    first, loop = asyncio.run(use())
    second, _ = asyncio.run(use())
    assert first is not second
    assert isinstance(first, Counting)
    assert first.entered == [loop]
    assert len(providers._open) == 1, "loops that are closed are forgotten"

    async def use_and_leave() -> None:
        provider, loop = await use()
        await providers.aclose()
        assert isinstance(provider, Counting)
        assert provider.left == [loop]

    asyncio.run(use_and_leave())
    asyncio.run(providers.aclose())


def test_a_provider_that_cannot_be_entered_is_tried_again() -> None:
    attempts: list[int] = []

    class Failing(Counting):
        async def __aenter__(self) -> Self:
            attempts.append(1)
            if len(attempts) == 1:
                raise OSError("no network")
            return self

    fs = over(memory(), provider=Failing())
    with pytest.raises(OSError, match="no network"):
        fs.pipe_file(PATH, b"")
    fs.pipe_file(PATH, b"figures")
    assert fs.cat_file(PATH) == b"figures"
    assert len(attempts) == 2
    sync(fs.loop, fs.aclose)
