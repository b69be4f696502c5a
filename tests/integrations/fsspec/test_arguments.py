"""Arguments are passed on where the file system below takes them, and refused elsewhere: none vanishes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
import s3fs
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from aioencrypt import AlgorithmSuite, CommitmentPolicy, EncryptionClient, Limits, Offload
from aioencrypt.integrations.fsspec import EncryptedFileSystem
from tests.support.encrypted_fs import PROVIDER, make_provider, memory, over
from tests.support.moto import moto_server

BUCKET = "versions"
PATH = f"{BUCKET}/report.bin"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def s3(url: str) -> Iterator[Any]:
    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    yield client
    client.close()


@pytest.fixture
def fs(url: str, s3: Any) -> Iterator[Any]:
    options = {"provider": PROVIDER, "s3": {"endpoint_url": url, "version_aware": True}}
    yield fsspec.url_to_fs(f"aioencrypt::s3://{PATH}", **options)[0]
    for cls in (EncryptedFileSystem, s3fs.S3FileSystem):
        cls.clear_instance_cache()


def put(fs: Any, path: str, **given: Any) -> None:
    local = fs.local / "plain"
    local.write_bytes(b"figures")
    fs.put_file(str(local), path, **given)


def write(fs: Any, path: str, **given: Any) -> None:
    with fs.open(path, "wb", **given) as file:
        file.write(b"figures")


CALLS: dict[str, Callable[..., Any]] = {
    "cat_file": lambda fs, path, **given: fs.cat_file(path, **given),
    "a range": lambda fs, path, **given: fs.cat_file(path, start=1, end=2, **given),
    "cat": lambda fs, path, **given: fs.cat(path, **given),
    "cat_ranges": lambda fs, path, **given: fs.cat_ranges([path], 0, 1, **given),
    "open": lambda fs, path, **given: fs.open(path, **given).close(),
    "open text": lambda fs, path, **given: fs.open(path, "r", **given).close(),
    "get_file": lambda fs, path, **given: fs.get_file(path, str(fs.local / "back"), **given),
    "get": lambda fs, path, **given: fs.get(path, str(fs.local / "back"), **given),
    "info": lambda fs, path, **given: fs.info(path, **given),
    "exists": lambda fs, path, **given: fs.exists(path, **given),
    "ls": lambda fs, path, **given: fs.ls(path, **given),
    "find": lambda fs, path, **given: fs.find(path, **given),
    "glob": lambda fs, path, **given: fs.glob(f"{path}*", **given),
    "walk": lambda fs, path, **given: [*fs.walk(path, on_error="raise", **given)],
    "du": lambda fs, path, **given: fs.du(path, **given),
    "pipe_file": lambda fs, path, **given: fs.pipe_file(path, b"figures", **given),
    "pipe": lambda fs, path, **given: fs.pipe({path: b"figures"}, **given),
    "write": write,
    "put_file": put,
    "cp_file": lambda fs, path, **given: fs.cp_file(path, f"{path}.copy", **given),
    "mv": lambda fs, path, **given: fs.mv(path, f"{path}.new", **given),
    "rm_file": lambda fs, path, **given: fs.rm_file(path, **given),
    "rm": lambda fs, path, **given: fs.rm(path, **given),
    "mkdir": lambda fs, path, **given: fs.mkdir(f"{path}.folder", **given),
}


@pytest.mark.parametrize("target", ["memory", "local", "dir", "s3"])
@pytest.mark.parametrize("call", CALLS)
def test_an_argument_that_nobody_takes_is_refused_by_name(
    call: str, target: str, fs: Any, tmp_path: Path
) -> None:
    path = PATH
    if target != "s3":
        local = LocalFileSystem()
        below = {"memory": memory(), "local": local, "dir": DirFileSystem(path=str(tmp_path), fs=local)}
        fs = over(below[target])
        path = str(tmp_path / "report.bin") if target == "local" else "/report.bin"
    fs.local = tmp_path
    fs.pipe_file(path, b"what was there before")
    with pytest.raises(TypeError, match="nonsense"):
        CALLS[call](fs, path, nonsense=1)
    assert fs.cat_file(path) == b"what was there before"
    assert fs.isfile(path)
    assert not fs.exists(f"{path}.new")


def test_a_version_that_is_asked_for_is_the_one_that_is_read(fs: Any, s3: Any, tmp_path: Path) -> None:
    plaintexts = [b"first", b"the second one"]
    versions = []
    for plaintext in plaintexts:
        fs.pipe_file(PATH, plaintext)
        versions.append(s3.head_object(Bucket=BUCKET, Key="report.bin")["VersionId"])
    for plaintext, version in zip(plaintexts, versions, strict=True):
        given = {"version_id": version}
        assert fs.cat_file(PATH, **given) == plaintext
        assert fs.cat_file(PATH, start=1, end=4, **given) == plaintext[1:4]
        assert fs.cat_ranges([PATH], 1, None, **given) == [plaintext[1:]]
        with fs.open(PATH, **given) as file:
            assert (file.size, file.read(), file.info()["size"]) == (
                len(plaintext),
                plaintext,
                len(plaintext),
            )
            assert file.info()["VersionId"] == version
        fs.get_file(PATH, str(tmp_path / "back"), **given)
        assert (tmp_path / "back").read_bytes() == plaintext
        assert fs.info(PATH, **given)["size"] == len(plaintext)
        assert fs.exists(PATH, **given)
        versioned = f"{PATH}?versionId={version}"
        assert fs.info(versioned)["size"] == fs.size(versioned) == len(plaintext)
        assert fs.cat_file(versioned) == plaintext
    listed = fs.ls(f"{BUCKET}/", versions=True, detail=True, refresh=True)
    sizes = {info["VersionId"]: info["size"] for info in listed}
    assert [sizes[version] for version in versions] == [5, 14]


@pytest.mark.parametrize("cache", ["", "simplecache::", "filecache::", "blockcache::"])
@pytest.mark.parametrize("call", ["pipe_file", "pipe", "write", "put_file"])
def test_what_s3_takes_of_an_upload_reaches_it(
    call: str, cache: str, fs: Any, url: str, s3: Any, tmp_path: Path
) -> None:
    if cache:
        options = {"provider": PROVIDER, cache[:-2]: {"cache_storage": str(tmp_path / "cache")}}
        fs = fsspec.url_to_fs(f"aioencrypt::{cache}s3://{PATH}", s3={"endpoint_url": url}, **options)[0]
    fs.local = tmp_path
    given = {"ContentType": "text/csv", "StorageClass": "STANDARD_IA", "Metadata": {"owner": "reports"}}
    CALLS[call](fs, PATH, **given)
    head = s3.head_object(Bucket=BUCKET, Key="report.bin")
    assert {name: head[name] for name in given} == given
    fs.cp_file(PATH, f"{BUCKET}/copy", ContentType="text/plain", MetadataDirective="REPLACE")
    assert s3.head_object(Bucket=BUCKET, Key="copy")["ContentType"] == "text/plain"


@pytest.mark.parametrize("target", [memory, LocalFileSystem], ids=["memory", "local"])
def test_refresh_is_taken_everywhere(target: Any, tmp_path: Path) -> None:
    fs, path = over(target()), str(tmp_path / "report.bin")
    fs.pipe_file(path, b"figures")
    assert fs.info(path, refresh=True)["size"] == 7
    assert len(fs.ls(str(tmp_path), refresh=True)) == len(fs.find(str(tmp_path), refresh=True)) == 1
    assert fs.cat_file(path, refresh=True) == b"figures"
    assert fs.du(str(tmp_path), refresh=True) == 7


def test_refresh_sees_what_a_cached_listing_does_not(fs: Any, s3: Any) -> None:
    fs.pipe_file(f"{BUCKET}/folder/a", b"figures")
    assert len(fs.ls(f"{BUCKET}/folder")) == 1
    message = s3.get_object(Bucket=BUCKET, Key="folder/a")["Body"].read()
    s3.put_object(Bucket=BUCKET, Key="folder/b", Body=message)
    assert len(fs.ls(f"{BUCKET}/folder")) == 1
    assert len(fs.ls(f"{BUCKET}/folder", refresh=True)) == 2


def test_modes_and_lengths_that_make_no_sense() -> None:
    fs = over(memory())
    with pytest.raises(ValueError, match="mode is 'append'; it must be 'overwrite' or 'create'"):
        fs.pipe_file("/report.bin", b"", mode="append")
    with pytest.raises(ValueError, match="2 paths, 1 starts and 2 ends"):
        fs.cat_ranges(["/a", "/b"], [0], [1, 2])


# JSON


@pytest.mark.parametrize(
    "options",
    [
        {"provider": PROVIDER, "target_protocol": "file", "target_options": {"auto_mkdir": True, "x": None}},
        {"provider": make_provider, "fs": LocalFileSystem(auto_mkdir=True)},
        {"provider": PROVIDER, "fs": DirFileSystem(path="/tmp", fs=LocalFileSystem())},
        {
            "provider": PROVIDER,
            "target_protocol": "memory",
            "encryption_context": {"tenant": "42"},
            "algorithm_suite": AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384,
            "frame_length": 100,
            "plaintext_length_bound": 10,
            "accept_unverified_signature": True,
            "sizes": False,
            "encryption_client": EncryptionClient(
                commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT,
                max_encrypted_data_keys=2,
                limits=Limits(max_plaintext_length=None, max_header_length=5000),
                offload=Offload.INLINE,
                net_v4_0_0_retry=False,
                frame_length=777,
            ),
        },
    ],
    ids=["protocol", "instance", "instances", "all options"],
)
def test_a_file_system_is_made_again_from_json(options: dict[str, Any]) -> None:
    fs = EncryptedFileSystem(**options)
    text = fs.to_json()
    for other in (
        fsspec.AbstractFileSystem.from_json(text),
        fsspec.AbstractFileSystem.from_dict(fs.to_dict()),
    ):
        assert type(other) is EncryptedFileSystem
        assert other.to_json() == text
        assert type(other.fs) is type(fs.fs)
        assert other._writing == fs._writing
        assert settings(other) == settings(fs)


def settings(fs: Any) -> dict[str, Any]:
    client = fs._encryption_client
    return {name: getattr(client, name) for name in signature(EncryptionClient).parameters}


def test_what_json_cannot_name_is_refused() -> None:
    for provider in (make_provider(), lambda: make_provider()):
        with pytest.raises(TypeError, match=r"cannot be named in JSON: give provider='package\.module:name'"):
            over(memory(), provider=provider).to_json()


def test_json_leaves_passwords_out_where_it_is_asked_to() -> None:
    options = {"auto_mkdir": True, "password": "hunter2"}
    fs = EncryptedFileSystem(provider=PROVIDER, target_protocol="file", target_options=options)
    assert "hunter2" in fs.to_json()
    assert "hunter2" not in fs.to_json(include_password=False)
