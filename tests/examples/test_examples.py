"""The programs in examples/ run, as a reader would run them, and fail where they should."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES, FIGURES, KEY, load, run, served
from tests.support.pages import ROOT
from tests.support.public import MODULES
from tests.support.rows import each_row
from tests.support.streaming import flipped, on_asyncio

pytestmark = pytest.mark.anyio

PROGRAMS = sorted(EXAMPLES.glob("*.py"))
demo = load("demo")


@each_row("path", PROGRAMS)
def test_a_program_says_what_it_is_and_how_to_run_it(path: Path) -> None:
    tree = ast.parse(path.read_text())
    docstring = ast.get_docstring(tree)
    assert docstring
    assert docstring[0].isupper()
    first = docstring.splitlines()[0]
    assert first.endswith((".", ":"))
    for name in re.findall(r"(?:python|pytest) (\w+\.py)", docstring):
        assert name == path.name
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    inner = {name for name in imported if name and name.startswith(("tests", "aioencrypt."))}
    public = {module.__name__ for module in MODULES} | {"aioencrypt.testing"}
    assert not {name for name in inner if not name.startswith("aioencrypt.integrations.")} - public, (
        "a reader copies public names only"
    )


def test_every_program_is_run_by_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [path.name for path in PROGRAMS if f'"{path.name}"' not in tests] == []


# Programs that need nothing


def test_encrypt_bytes() -> None:
    lines = run("encrypt_bytes.py").splitlines()
    assert re.fullmatch(r"465 bytes, ALG_\w+_COMMIT_KEY_ECDSA_P384, message id [0-9a-f]{64}", lines[0])
    assert lines[1] == "b'attack at dawn'"
    assert lines[2].startswith("refused: the header has other values than the caller")


def test_encrypt_a_file_of_its_own() -> None:
    lines = run("encrypt_a_file.py").splitlines()
    assert lines[0].split() == ["report.bin", "20,971,520", "bytes"]
    assert lines[-1] == "the same again"


@pytest.mark.parametrize("size", [0, 1, 65536, 200_001])
def test_encrypt_a_file_that_is_given(size: int, tmp_path: Path) -> None:
    given = tmp_path / "given.bin"
    given.write_bytes(os.urandom(size))
    output = run("encrypt_a_file.py", str(given))
    assert f"{size:,} bytes" in output
    assert output.endswith("the same again\n")
    assert [path.name for path in tmp_path.iterdir()] == ["given.bin"]


def test_encrypt_a_file_that_is_not_there() -> None:
    assert "nowhere is not a file" in run("encrypt_a_file.py", "nowhere", code=2)
    assert "usage: encrypt_a_file.py" in run("encrypt_a_file.py", "--help")


def test_encrypt_under_several_keys() -> None:
    output = run("encrypt_under_several_keys.py")
    assert output.count("encrypted under aws-kms: arn:aws:kms:") == 2
    assert "encrypted under my-company: recovery-2026\n" in output
    assert "without us-east-1: b'attack at dawn'\n" in output
    assert output.count("failed: decrypt under aws-kms") == 2
    assert output.endswith("with the recovery key: b'attack at dawn'\n")


def test_kms_rsa_offline() -> None:
    lines = run("kms_rsa_offline.py").splitlines()
    assert re.fullmatch(r"encrypted under aws-kms-rsa: \d+ bytes, 0 calls", lines[0])
    assert lines[1].startswith("refused: could not generate a data key; ")
    assert lines[2:] == ["decrypted by KMS: b'21.5 degrees'"]


def test_key_agreement() -> None:
    lines = run("key_agreement.py").splitlines()
    assert lines[:2] == ["under raw-ecdh: b'pay 10 to the baker'", "under aws-kms-ecdh: b'paid'"]
    assert lines[2].startswith("refused: none of the 1 encrypted data keys of the message belongs to ")
    assert lines[3] == "from anybody: b'pay 10,000 to me'"
    assert lines[4].startswith(
        "refused: none of the 1 encrypted data keys of the message could be decrypted; "
    )
    assert "an ephemeral key cannot decrypt" in lines[4]


def test_create_branch_keys() -> None:
    lines = run("create_branch_keys.py").splitlines()
    assert lines == [
        "table arn:aws:dynamodb:us-east-1:111122223333:table/branch-keys",
        "created the-baker",
        "created the-butcher",
        "left alone: nothing was written: the branch key 'the-baker' already exists",
        "left alone: nothing was written: the branch key 'the-butcher' already exists",
        "refused: a branch key store with KMSDiscovery is read-only; "
        "configure it with KMSKeyArn or KMSMRKeyArn to create keys and versions",
        "rotated by 1 of 2",
        "a new key: True; the old one is still there: True",
    ]


def test_hierarchical_keys() -> None:
    lines = run("hierarchical_keys.py").splitlines()
    assert lines[0] == "1000 messages of 2 tenants, 2 calls of KMS"
    assert lines[1] == "the baker reads b'order 1'"
    assert lines[2].startswith("refused: none of the 1 encrypted data keys of the message belongs to ")
    assert lines[3:] == ["after a new version: b'order 1'"]


def test_own_master_key() -> None:
    lines = run("own_master_key.py").splitlines()
    assert lines[:2] == ["encrypted under my-key-service", "b'attack at dawn'"]
    assert lines[2].startswith("refused: ")
    assert "the key service says that key or context is another one" in lines[2]
    assert lines[3].startswith("refused: ")
    assert "the key service gave no answer within 0.0001 seconds" in lines[3]


def test_own_manager() -> None:
    lines = run("own_manager.py").splitlines()
    assert lines[0] == "b'attack at dawn'"
    assert lines[1].startswith("refused: the header has other values than the caller")
    assert lines[2] == lines[3] == "refused: no key for that tenant; give encryption_context={'tenant': ...}"
    assert lines[4:] == [
        "42: encrypt under tenants key-of-42",
        "42: decrypt under tenants key-of-42",
        "41: decrypt refused: EncryptionContextMismatchError",
    ]


@pytest.mark.parametrize(
    ("page", "program", "names"),
    [
        ("own-keys.md", "own_master_key.py", ("class ServiceMasterKey", "def bound")),
        ("own-managers.md", "own_manager.py", ("class TenantCMM",)),
    ],
)
def test_a_page_shows_what_its_program_runs(page: str, program: str, names: tuple[str, ...]) -> None:
    text, shown = (EXAMPLES / program).read_text(), (ROOT / "docs" / page).read_text()
    for name in names:
        definition = re.search(rf"^{name}.*?(?=\n\n\n|\n```|\Z)", text, re.MULTILINE | re.DOTALL)
        assert definition
        assert f"{definition[0]}\n" in shown


def test_starlette_service_alone() -> None:
    lines = run("starlette_service.py").splitlines()
    assert lines[0].startswith("201 {'name': 'report.bin', 'message_id': '")
    assert lines[1:] == ["200 3,000,000 bytes", "206 1,000,000 bytes", "the same again"]


def test_test_your_service() -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "error",
            "test_your_service.py",
        ],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert re.search(r"^6 passed", result.stdout, re.MULTILINE), result.stdout


# The demo


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_demo_with_a_file_of_its_own() -> None:
    output = run("demo.py", "--size", "4")
    assert "plaintext 4,194,304 bytes, stored 4,19" in output
    assert "3 KMS calls: 1 GenerateDataKey, 1 Encrypt, 1 Decrypt" in output
    assert re.search(r"event loop delay of the service: p99 [\d.]+ ms, max [\d.]+ ms", output)
    assert re.search(r"peak memory of the service: \d+ MiB, -?\d+ above idle", output)
    assert re.search(r"sha256 \w{64}: sent, received and decrypted by the official SDK, all the same", output)


def test_demo_with_a_file_that_is_given(tmp_path: Path) -> None:
    given = tmp_path / "given.bin"
    given.write_bytes(os.urandom(1_234_567))
    output = run("demo.py", str(given))
    assert "plaintext 1,234,567 bytes" in output
    assert f"sha256 {digest_of(given)}: sent, received and decrypted by the official SDK" in output


def test_demo_with_a_file_that_is_not_there() -> None:
    assert "nowhere is not a file" in run("demo.py", "nowhere", code=2)
    assert "usage: demo.py" in run("demo.py", "--help")


@pytest.mark.parametrize("other", ["sent", "received", "official"])
def test_demo_fails_when_digests_differ(other: str) -> None:
    digests = dict.fromkeys(("sent", "received", "official"), "same")
    demo.check_same(**digests)
    with pytest.raises(SystemExit, match="digests differ"):
        demo.check_same(**{**digests, other: "different"})


@on_asyncio
async def test_demo_fails_when_a_transfer_does(tmp_path: Path) -> None:
    plaintext = tmp_path / "plaintext"
    plaintext.write_bytes(FIGURES)
    folder = tmp_path / "store"
    folder.mkdir()
    async with served(load("upload_service").make_app(KEY, folder)) as url:
        digest, seconds = await demo.transfer("upload", f"{url}/demo", plaintext, len(FIGURES))
        assert digest == digest_of(plaintext)
        assert seconds > 0
        stored = folder / "demo"
        stored.write_bytes(flipped(stored.read_bytes(), -1))
        with pytest.raises(SystemExit, match="the download failed"):
            await demo.transfer("download", f"{url}/demo", plaintext, len(FIGURES))
