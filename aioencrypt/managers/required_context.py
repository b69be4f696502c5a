"""The required encryption context CMM: keep pairs of the encryption context out of messages.

Specification: framework/required-encryption-context-cmm.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from aioencrypt.errors import ProviderError, RequiredEncryptionContextError
from aioencrypt.format.context import RESERVED_PREFIX
from aioencrypt.managers.answers import get_decryption_materials, get_encryption_materials
from aioencrypt.managers.base import CryptographicMaterialsManager
from aioencrypt.managers.default import OuterManager
from aioencrypt.providers.base import MasterKeyProvider
from aioencrypt.providers.values import (
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)
from aioencrypt.runtime.arguments import check_texts
from aioencrypt.runtime.secrets import hides_arguments


class RequiredEncryptionContextCMM(OuterManager):
    """Require certain pairs of the encryption context from every caller, and do not store them in messages.

    `required_keys` names the keys of the pairs. The pairs are authenticated like all others, so decrypting
    needs them again, in any SDK. If the caller omits one, this CMM raises `RequiredEncryptionContextError`
    before it uses any key. `async with` enters the provider or CMM.
    """

    @hides_arguments
    def __init__(
        self, provider: MasterKeyProvider | CryptographicMaterialsManager, required_keys: Iterable[str]
    ) -> None:
        super().__init__(provider)
        self._required = frozenset(check_texts("required_keys", required_keys, "required key"))
        if not self._required:
            raise ValueError("required_keys is empty; without any, leave this CMM out")
        for key in self._required:
            if key.startswith(RESERVED_PREFIX):
                raise ValueError(f"the required key {key!r} starts with the reserved {RESERVED_PREFIX!r}")

    def __repr__(self) -> str:
        return f"RequiredEncryptionContextCMM({self._manager!r}, {sorted(self._required)})"

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        """Request materials that keep the required pairs out of the message."""
        self._check_given(request.encryption_context.keys())
        required = request.required_encryption_context_keys | self._required
        asked = attrs.evolve(request, required_encryption_context_keys=required)
        materials = await get_encryption_materials(self._manager, asked)
        self._check_answer(materials.required_encryption_context_keys, "would store")
        return materials

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        """Request materials if the caller passed all required pairs."""
        self._check_given(request.reproduced_encryption_context.keys())
        materials = await get_decryption_materials(self._manager, request)
        self._check_answer(materials.encryption_context.keys(), "does not authenticate")
        return materials

    def _check_given(self, given: Iterable[str]) -> None:
        if missing := self._required.difference(given):
            raise RequiredEncryptionContextError(sorted(missing))

    def _check_answer(self, answered: Iterable[str], what: str) -> None:
        """Check that the underlying manager handled the required keys: it may be a user's, or a cache."""
        if missing := self._required.difference(answered):
            names = ", ".join(map(repr, sorted(missing)))
            raise ProviderError(
                f"{type(self._manager).__name__} {what} the required encryption context keys {names}"
            )
