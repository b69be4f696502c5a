"""What the raw keys share. Specification: framework/keyring-interface.md#key-namespace."""

from __future__ import annotations

import pytest

from aioencrypt import AlgorithmSuite, RawAESMasterKey
from aioencrypt.format.context import odd_serializations, serialize_context
from aioencrypt.providers.raw.names import (
    KMS_PROVIDER_ID,
    check_names,
    namespaces_in_messages,
    not_copied,
    random_data_key,
)
from tests.support.messages import context_bytes

LONGEST = 0xFFFF - 20


@pytest.mark.parametrize(
    "namespace",
    [
        "",
        "mine",
        "größe",
        "a" * LONGEST,
        "aws",
        "aws-km",
        "aws_kms",
        "AWS-KMS",
        " aws-kms",
        "my-aws-kms",
        "🔑",
    ],
    ids=lambda text: text[:12],
)
def test_namespaces_that_are_allowed(namespace: str) -> None:
    check_names(namespace, "name")


@pytest.mark.spec("framework/keyring-interface.md#key-provider-id")
@pytest.mark.parametrize("namespace", ["aws-kms", "aws-kms-hierarchy", "aws-kms/", "aws-kmsx", "aws-kms\0"])
def test_namespaces_of_kms_are_reserved(namespace: str) -> None:
    with pytest.raises(ValueError, match="which is reserved for AWS KMS") as caught:
        check_names(namespace, "name")
    assert str(caught.value) == (
        f"key_namespace {namespace!r} starts with 'aws-kms', which is reserved for AWS KMS"
    )


@pytest.mark.parametrize(
    "name", ["", "aws-kms", "größe", "a" * LONGEST, "ß" * (LONGEST // 2)], ids=lambda text: text[:9]
)
def test_names_that_are_allowed(name: str) -> None:
    check_names("mine", name)


@pytest.mark.spec("framework/keyring-interface.md#key-namespace", "framework/keyring-interface.md#key-name")
@pytest.mark.parametrize("value", [b"mine", None, 5, ["mine"]], ids=repr)
def test_names_are_text(value: object) -> None:
    kind = type(value).__name__
    with pytest.raises(TypeError, match=rf"^key_namespace must be a str, not {kind}$"):
        check_names(value, "name")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=rf"^key_name must be a str, not {kind}$"):
        check_names("mine", value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["a" * (LONGEST + 1), "ß" * (LONGEST // 2 + 1)], ids=["ascii", "two bytes each"]
)
def test_names_that_the_format_cannot_hold(text: str) -> None:
    """Lengths count in UTF-8."""
    with pytest.raises(ValueError, match=r"^key_namespace is too long for the message format$"):
        check_names(text, "name")
    with pytest.raises(ValueError, match=r"^key_name is too long for the message format$"):
        check_names("mine", text)


@pytest.mark.parametrize("text", ["\udce9", "caf\ud800"], ids=ascii)
def test_names_are_valid_unicode(text: str) -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        check_names(text, "name")
    with pytest.raises(ValueError, match="surrogates not allowed"):
        check_names("mine", text)


@pytest.mark.spec("framework/keyring-interface.md#generate-data-key")
@pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: hex(suite.value))
def test_data_keys_are_random_and_as_long_as_the_suite_wants(suite: AlgorithmSuite) -> None:
    keys = [random_data_key(suite).plaintext for _ in range(20)]
    assert {len(key) for key in keys} == {suite.data_key_length}
    assert len(set(keys)) == 20


@pytest.mark.parametrize(
    ("keys", "orders"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("ab", ["ab"]),
        ("ba", ["ab", "ba"]),
        # UTF-8 has capitals first, a locale has letters first and pairs the two cases
        ("Ab", ["Ab"]),
        ("aB", ["Ba", "aB"]),
        ("Ba", ["Ba", "aB"]),
        ("aA", ["Aa", "aA"]),
        ("cBa", ["Bac", "cBa", "aBc"]),
        ("z-_1", ["-1_z", "z-_1", "_-1z"]),
        # what is not ASCII stays in some order
        ("ßa", ["aß", "ßa"]),
    ],
)
def test_the_orders_in_which_a_context_was_authenticated(keys: str, orders: list[str]) -> None:
    """That of the specification first, then that of the header, then that of a locale."""
    context = {key: f"of {key}" for key in keys}
    expected = [context_bytes([(key, f"of {key}") for key in order]) for order in orders]
    assert [serialize_context(context), *odd_serializations(context)] == expected


def test_longer_keys_in_the_order_of_a_locale() -> None:
    """Letters of all first, then the case of the first letter that has another one."""
    keys = ["tenant", "Tenant", "aws-crypto-public-key", "TenantId", "tenantid", "a"]
    *_, locale = odd_serializations(dict.fromkeys(keys, ""))
    expected = ["a", "aws-crypto-public-key", "tenant", "Tenant", "tenantid", "TenantId"]
    assert locale == context_bytes([(key, "") for key in expected])


def test_the_advice_against_copies() -> None:
    key = RawAESMasterKey("mine", "name", wrapping_key=bytes(16))
    error = not_copied(key)
    assert isinstance(error, TypeError)
    assert str(error) == (
        "RawAESMasterKey holds key bytes and cannot be pickled or copied; "
        "create it where it is used, from the stored key"
    )


def test_the_provider_id_of_kms() -> None:
    assert KMS_PROVIDER_ID == "aws-kms"


@pytest.mark.parametrize(
    ("namespace", "cut"),
    [
        ("", ""),
        ("ascii", "ascii"),
        ("größe", "grö\udcc3"),
        ("日本", "\udce6\udc97"),
        ("éab", "éa"),
        ("🔑", "\udcf0"),
    ],
)
def test_a_namespace_is_known_as_old_python_writers_cut_it(namespace: str, cut: str) -> None:
    assert namespaces_in_messages(namespace) == {namespace, cut}
