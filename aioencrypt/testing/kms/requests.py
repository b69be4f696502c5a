"""Reading the parameters of a request. What AWS would refuse is a refusal (ValidationException) here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from aioencrypt.testing.kms.errors import Refusal

_MAX_KEY_ID = 2048
_MAX_GRANT_TOKENS = 10
_MAX_GRANT_TOKEN = 8192


def invalid(name: str, constraint: str) -> Refusal:
    """Return AWS's way of saying that a parameter breaks a rule. It never quotes the value."""
    member = name[0].lower() + name[1:]
    return Refusal(
        "ValidationException",
        f"1 validation error detected: Value at '{member}' failed to satisfy constraint: {constraint}",
    )


@attrs.frozen
class Request:
    """One request; an absent parameter and None are the same."""

    operation: str
    region: str
    parameters: Mapping[str, object] = attrs.field(repr=False)

    def text(self, name: str, maximum: int = _MAX_KEY_ID) -> str:
        """Return a required text of 1 to `maximum` characters."""
        value = self.optional_text(name, maximum)
        if value is None:
            raise invalid(name, "Member must not be null")
        return value

    def optional_text(self, name: str, maximum: int = _MAX_KEY_ID) -> str | None:
        """Return a text of 1 to `maximum` characters, or None."""
        value = self.parameters.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise invalid(name, "Member must be a string")
        if not value:
            raise invalid(name, "Member must have length greater than or equal to 1")
        if len(value) > maximum:
            raise invalid(name, f"Member must have length less than or equal to {maximum}")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        """Return one of the choices, or None."""
        value = self.parameters.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or value not in choices:
            raise invalid(name, f"Member must satisfy enum value set: [{', '.join(choices)}]")
        return value

    def blob(self, name: str, maximum: int) -> bytes:
        """Return required bytes, 1 to `maximum` of them."""
        value = self.parameters.get(name)
        if value is None:
            raise invalid(name, "Member must not be null")
        if not isinstance(value, bytes | bytearray | memoryview):
            raise invalid(name, "Member must be bytes")
        data = bytes(value)
        if not data:
            raise invalid(name, "Member must have length greater than or equal to 1")
        if len(data) > maximum:
            raise invalid(name, f"Member must have length less than or equal to {maximum}")
        return data

    def integer(self, name: str, minimum: int, maximum: int) -> int | None:
        """Return an integer from `minimum` to `maximum`, or None."""
        value = self.parameters.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise invalid(name, "Member must be an integer")
        if value < minimum:
            raise invalid(name, f"Member must have value greater than or equal to {minimum}")
        if value > maximum:
            raise invalid(name, f"Member must have value less than or equal to {maximum}")
        return value

    def flag(self, name: str) -> bool:
        """Return a truth value; False if it is absent."""
        value = self.parameters.get(name)
        if value is not None and not isinstance(value, bool):
            raise invalid(name, "Member must be a boolean")
        return bool(value)

    def texts(self, name: str, maximum: int, maximum_length: int) -> tuple[str, ...]:
        """Return up to `maximum` texts of 1 to `maximum_length` characters; none if it is absent."""
        value = self.parameters.get(name)
        if value is None:
            return ()
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise invalid(name, "Member must be a list")
        if len(value) > maximum:
            raise invalid(name, f"Member must have length less than or equal to {maximum}")
        for text in value:
            if not isinstance(text, str) or not 1 <= len(text) <= maximum_length:
                raise invalid(name, f"Member must be strings of 1 to {maximum_length} characters")
        return tuple(value)

    def context(self, name: str = "EncryptionContext") -> dict[str, str]:
        """Return an encryption context; empty if it is absent."""
        value = self.parameters.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise invalid(name, "Member must be a map")
        for pair in value.items():
            for text in pair:
                if not isinstance(text, str):
                    raise invalid(name, "Map keys and values must be strings")
                if any("\ud800" <= character <= "\udfff" for character in text):
                    raise invalid(name, "Map keys and values must be valid Unicode text")
        return dict(value)

    def grant_tokens(self) -> tuple[str, ...]:
        """Return the grant tokens; whether they are known is for the key store to say."""
        return self.texts("GrantTokens", _MAX_GRANT_TOKENS, _MAX_GRANT_TOKEN)
