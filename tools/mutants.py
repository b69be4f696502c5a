"""Break one promise of the library at a time, and see whether a test notices.

python -m tools.mutants [NAME ...] [--again]

Each mutant replaces one text in one file of a copy of the package and runs the tests that should fail first.
Results are kept in `.mutants.json`, so that an interrupted run goes on where it stopped; `--again` forgets
them. The exit status is 1 if a mutant survives.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / ".mutants.json"
_COPIED = ("aioencrypt", "tests", "tools", "pyproject.toml")
# A mutant that hangs was noticed, too.
_SECONDS = 600
_KILLED, _SURVIVED, _HUNG = "killed", "survived", "killed (hangs)"


@attrs.frozen
class Mutant:
    """One broken promise. `tests` are paths below `tests`, in the order in which they should fail."""

    name: str
    path: str
    old: str
    new: str
    promise: str
    tests: str

    def apply(self, text: str) -> str:
        """Return the text of the file with the mutation; raises `ValueError` unless it fits exactly once."""
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"{self.name}: the text to replace is {found} times in {self.path}, not once")
        return text.replace(self.old, self.new)


FORMAT = [
    Mutant(
        "commitment-compared-in-variable-time",
        "format/derivation.py",
        'if not hmac.compare_digest(self.commitment or b"", expected):',
        'if (self.commitment or b"") != expected:',
        "The key commitment is compared in constant time.",
        "test_secrets.py",
    ),
    Mutant(
        "commitment-not-checked",
        "format/header.py",
        "key.check_commitment(self.header.commitment)",
        "pass",
        "A header with another commitment is refused.",
        "format/test_header_refused.py format/test_header.py",
    ),
    Mutant(
        "required-context-not-authenticated",
        "format/header.py",
        "key.aead.decrypt(self.iv, self.tag, self.body + authenticated_context)",
        "key.aead.decrypt(self.iv, self.tag, self.body)",
        "The header tag covers the pairs that are not stored.",
        "format/test_header.py managers/test_required_context.py",
    ),
    Mutant(
        "derivation-without-suite",
        "format/derivation.py",
        "info = suite.id_bytes + (",
        "info = (",
        "The message key depends on the algorithm suite.",
        "format/test_derivation.py",
    ),
    Mutant(
        "frames-without-number",
        "format/batches.py",
        'sequence.to_bytes(4, "big"),\n',
        "bytes(4),\n",
        "The AAD of a frame has its sequence number.",
        "format/test_body.py",
    ),
    Mutant(
        "final-frame-like-a-regular-one",
        "format/body.py",
        "aad = self.aad(_FINAL, sequence, length)",
        "aad = self.aad(REGULAR, sequence, length)",
        "The AAD tells the final frame from the others.",
        "format/test_body.py",
    ),
    Mutant(
        "final-frame-too-long",
        "format/decryptor.py",
        "if length > self._frame_length:",
        "if False:",
        "A final frame longer than the frame length is refused.",
        "format/test_decryptor_frames.py format/test_decryptor.py format/test_decryptor_rules.py",
    ),
    Mutant(
        "final-frame-out-of-place",
        "format/decryptor.py",
        "if sequence != self._sequence:",
        "if False:",
        "A final frame with another number is refused.",
        "format/test_decryptor_frames.py format/test_decryptor.py format/test_decryptor_rules.py",
    ),
    Mutant(
        "signed-end-not-withheld",
        "format/decryptor.py",
        "elif work.last and self._running:",
        "elif False:",
        "The last plaintext of a signed message waits for the signature.",
        "format/test_decryptor_rules.py format/test_decryptor.py",
    ),
    Mutant(
        "trailing-data-accepted",
        "format/decryptor.py",
        "        if len(self._queue):\n",
        "        if False:\n",
        "Bytes behind the message are an error.",
        "format/test_decryptor.py format/test_decryptor_rules.py",
    ),
    Mutant(
        "final-frame-without-limit",
        "format/decryptor.py",
        'self._check_limits(length, f"the length of final frame {sequence}")',
        "pass",
        "max_frame_length applies to the final frame.",
        "format/test_decryptor_limits.py",
    ),
    Mutant(
        "plaintext-limit-off-by-one",
        "format/decryptor.py",
        "total > self._max_plaintext_length:",
        "total > self._max_plaintext_length + 1:",
        "max_plaintext_length is exact.",
        "format/test_decryptor_limits.py",
    ),
    Mutant(
        "missing-verification-key",
        "format/decryptor.py",
        "if algorithm and verification_key is None:",
        "if False:",
        "A signed message without a verification key is refused.",
        "format/test_decryptor_rules.py format/test_decryptor.py format/test_decryptor_states.py",
    ),
    Mutant(
        "errors-of-the-machine-not-final",
        "format/decryptor.py",
        "self._failure = self._failure or error",
        "self._failure = None",
        "A machine that failed raises the same error again.",
        "format/test_decryptor_states.py format/test_decryptor.py",
    ),
    Mutant(
        "data-keys-limit-off-by-one",
        "format/header.py",
        "count > maximum:",
        "count > maximum + 1:",
        "max_encrypted_data_keys is exact.",
        "format/test_decryptor_limits.py format/test_header_refused.py",
    ),
    Mutant(
        "retry-without-asking",
        "format/header.py",
        "if not net_v4_0_0_retry:",
        "if False:",
        "Headers of .NET 4.0.0 are accepted only on request.",
        "interop/test_net_4_0_0.py format/test_header_refused.py",
    ),
    Mutant(
        "reserved-bytes-ignored",
        "format/header.py",
        "if cursor.take(len(_RESERVED)) != _RESERVED:",
        "if not cursor.take(len(_RESERVED)):",
        "The reserved bytes of a header are zero.",
        "format/test_header_refused.py format/test_header.py",
    ),
    Mutant(
        "forged-frames-not-wiped",
        "format/work.py",
        "            output.wipe()\n            raise",
        "            raise",
        "Plaintext that fails authentication is overwritten.",
        "format/test_work.py format/test_secrets.py",
    ),
    Mutant(
        "long-verification-keys",
        "format/signing.py",
        "if len(point) != algorithm.public_key_length:",
        "if not point:",
        "A verification key is a compressed point.",
        "format/test_signing.py",
    ),
    Mutant(
        "signers-on-other-curves",
        "format/signing.py",
        "if short or not (0 < r < order",
        "if not (0 < r < order",
        "A signer on a smaller curve is refused.",
        "format/test_signing.py",
    ),
    Mutant(
        "context-unsorted",
        "format/context.py",
        "        pairs.sort()\n",
        "        pass\n",
        "The pairs of a context are sorted by the bytes of their keys.",
        "format/test_context.py",
    ),
    Mutant(
        "context-with-a-key-twice",
        "format/context.py",
        "        if key in context:\n",
        "        if False:\n",
        "A header with the same key twice is refused.",
        "format/test_context.py",
    ),
    Mutant(
        "reserved-keys-accepted",
        "format/context.py",
        "if key.startswith(RESERVED_PREFIX) and not reserved:",
        "if False:",
        "Callers cannot use reserved keys of the context.",
        "format/test_context.py",
    ),
    Mutant(
        "short-plaintext-accepted",
        "format/encryptor.py",
        "(length > expected or (last and length < expected))",
        "length > expected",
        "A plaintext shorter than announced is an error.",
        "format/test_encryptor_refused.py format/test_encryptor.py",
    ),
    Mutant(
        "frame-count-off-by-one",
        "format/frames.py",
        "    if count > MAX_FRAMES:",
        "    if count > MAX_FRAMES + 1:",
        "A message has at most 2**32 - 1 frames.",
        "format/test_encryptor_refused.py format/test_frames.py",
    ),
]

STREAMS = [
    Mutant(
        "one-shot-not-wiped",
        "streams/decrypt.py",
        "                output.wipe()\n",
        "                pass\n",
        "decrypt() overwrites plaintext that it does not return.",
        "life/test_buffers.py",
    ),
    Mutant(
        "long-one-shot-not-wiped",
        "streams/decrypt.py",
        "await run_work(output.wipe, LONG)",
        "pass",
        "decrypt() overwrites long plaintext that it does not return.",
        "life/test_buffers.py",
    ),
    Mutant(
        "verified-too-early",
        "streams/decrypt.py",
        "self.verified = not chunk",
        "self.verified = True",
        "A stream is verified at its end, not before.",
        "streams/test_decrypt_release.py streams/test_decrypt.py",
    ),
    Mutant(
        "verified-release-ignored",
        "streams/decrypt.py",
        "Spool() if options.release is Release.VERIFIED else None",
        "None",
        "Release.VERIFIED releases nothing before the end.",
        "streams/test_decrypt_verified.py",
    ),
    Mutant(
        "policies-after-the-key",
        "streams/decrypt.py",
        "        self._check_policies(header)\n",
        "",
        "A message that a policy forbids is refused before a key service is called.",
        "streams/test_decrypt.py client/test_client.py",
    ),
    Mutant(
        "left-early-without-error",
        "streams/reading.py",
        "if exc is None and not self._closed_complete and not self._abandoned:",
        "if False:",
        "Leaving a stream before its end is an error.",
        "streams/test_decrypt_release.py streams/test_decrypt.py streams/test_reading.py",
    ),
    Mutant(
        "short-read-loses-bytes",
        "streams/reading.py",
        "            self._buffer = memoryview(data)\n",
        "",
        "readexactly() keeps the bytes that are too few.",
        "streams/test_reading.py",
    ),
    Mutant(
        "end-of-another-iterator",
        "streams/reading.py",
        "except (StopAsyncIteration, EndOfStream) as error:",
        "except EndOfStream as error:",
        "A source that raises StopAsyncIteration does not end our stream.",
        "streams/test_decrypt_release.py",
    ),
    Mutant(
        "spool-under-a-known-key",
        "streams/spool.py",
        "AESGCM(os.urandom(32))",
        "AESGCM(bytes(32))",
        "Plaintext on disk is encrypted under a key that nobody else has.",
        "streams/test_spool.py",
    ),
    Mutant(
        "rename-not-synced",
        "streams/replaced_file.py",
        "            self._sync_folder()\n",
        "            pass\n",
        "The name of a written file survives a power cut.",
        "streams/test_replaced_files.py",
    ),
    Mutant(
        "file-not-synced",
        "streams/replaced_file.py",
        "        os.fsync(self._descriptor)\n",
        "",
        "The content of a written file survives a power cut.",
        "streams/test_replaced_files.py",
    ),
    Mutant(
        "new-file-readable-by-all",
        "streams/replaced_file.py",
        "mode = 0o666 if replaced is None else 0o600",
        "mode = 0o666",
        "Nobody else reads a file that replaces a private one while it is written.",
        "streams/test_replaced_files.py streams/test_files_atomic.py",
    ),
    Mutant(
        "exception-commits",
        "streams/writing.py",
        "if exc is None and not self._busy:",
        "if not self._busy:",
        "An exception in the block leaves the old file.",
        "streams/test_files_atomic.py",
    ),
    Mutant(
        "closing-stops-at-an-error",
        "streams/lifecycle.py",
        "failure = failure or error",
        "raise",
        "All resources are closed, whatever the first one raises.",
        "streams/test_sources.py streams/test_sources_used_up.py life",
    ),
    Mutant(
        "errors-of-streams-not-final",
        "streams/lifecycle.py",
        "if self._failed_by and self._errors_are_final:",
        "if False:",
        "The error of a stream is raised again by every later call.",
        "streams/test_decrypt.py test_failed_again.py",
    ),
    Mutant(
        "two-tasks-at-once",
        "streams/lifecycle.py",
        "        if self._busy:\n            raise StreamBusyError(",
        "        if False:\n            raise StreamBusyError(",
        "A stream refuses a second task.",
        "streams/test_reading.py life/test_life.py",
    ),
    Mutant(
        "seekable-signature-ignored",
        "streams/seekable.py",
        "if suite.signed and not self._accept_unverified_signature:",
        "if False:",
        "Reading parts of a signed message must be asked for.",
        "streams/test_seekable.py",
    ),
    Mutant(
        "seekable-cache-grows",
        "streams/seekable.py",
        "while self._cost > self._capacity and len(self._costs) > 1:",
        "while False:",
        "The frame cache keeps to its size.",
        "streams/test_seekable_fetching.py streams/test_seekable.py",
    ),
    Mutant(
        "short-ranges-accepted",
        "streams/ranges.py",
        "if len(data) < end - start:",
        "if False:",
        "A range that is too short is a truncated message.",
        "streams/test_seekable_damage.py streams/test_seekable.py",
    ),
    Mutant(
        "long-ranges-accepted",
        "streams/ranges.py",
        "if len(data) > end - start:",
        "if False:",
        "A source that does not know ranges is noticed.",
        "streams/test_seekable_damage.py streams/test_seekable.py",
    ),
]

PROVIDERS = [
    Mutant(
        "kms-owns-all-of-kms",
        "providers/kms/symmetric.py",
        "if encrypted_data_key.provider_id != KMS_PROVIDER_ID:",
        "if not encrypted_data_key.provider_id.startswith(KMS_PROVIDER_ID):",
        "A symmetric KMS key owns data keys of aws-kms alone.",
        "providers/kms/test_symmetric.py",
    ),
    Mutant(
        "kms-used-another-key",
        "providers/kms/symmetric.py",
        'if text_of(answer, "KeyId") != self._key_id:',
        "if False:",
        "KMS must have decrypted with the key that was asked for.",
        "providers/kms/test_answers.py providers/kms/test_symmetric.py providers/kms/test_failures.py",
    ),
    Mutant(
        "exact-matches-replicas",
        "providers/kms/symmetric.py",
        "return str(stored) == self._key_id",
        "return matches_for_decrypt(self._key_id, str(stored))",
        "MultiRegion.EXACT accepts no replica.",
        "providers/kms/test_multi_region.py providers/kms",
    ),
    Mutant(
        "filter-ignores-partition",
        "providers/kms/symmetric.py",
        "arn.partition == self.partition and arn.account in self.accounts",
        "arn.account in self.accounts",
        "A discovery filter allows one partition.",
        "providers/kms/test_discovery.py",
    ),
    Mutant(
        "replicas-of-other-accounts",
        "providers/kms/arn.py",
        "attrs.evolve(ours, region=theirs.region)",
        "attrs.evolve(ours, region=theirs.region, account=theirs.account)",
        "Only keys of one account are replicas of each other.",
        "providers/kms/test_arn.py",
    ),
    Mutant(
        "kms-rsa-context-ignored",
        "providers/kms/rsa.py",
        "if not compare_digest(plaintext[:_DIGEST_LENGTH], _context_digest(request)):",
        "if False:",
        "A data key under another encryption context is refused.",
        "providers/kms/test_rsa_decrypt.py",
    ),
    Mutant(
        "kms-rsa-decrypts-signed",
        "providers/kms/rsa.py",
        "        _refuse_signed(request.algorithm_suite)\n        answer",
        "        answer",
        "A KMS RSA key decrypts no signed suite.",
        "providers/kms/test_rsa_decrypt.py providers/kms/test_rsa.py",
    ),
    Mutant(
        "raw-names-like-kms",
        "providers/raw/names.py",
        "if key_namespace.startswith(KMS_PROVIDER_ID):",
        "if key_namespace == KMS_PROVIDER_ID:",
        "A raw key cannot take a name of KMS.",
        "providers/raw/test_aes.py",
    ),
    Mutant(
        "pkcs1-of-any-length",
        "providers/raw/rsa.py",
        "if len(data_key) == request.algorithm_suite.data_key_length:",
        "if data_key:",
        "Random bytes in place of a PKCS1 error are no data key.",
        "providers/raw/test_rsa.py",
    ),
    Mutant(
        "ecdh-commitment-ignored",
        "providers/key_agreement.py",
        "if not hmac.compare_digest(commitment, ciphertext[_SALT_LENGTH:start]):",
        "if False:",
        "A wrapped key commits to the wrapping key.",
        "providers/test_key_agreement.py",
    ),
    Mutant(
        "another-branch-key-version",
        "providers/branch_keys/hierarchical.py",
        "if materials.branch_key_id != branch_key_id or version not in (None, materials.version):",
        "if materials.branch_key_id != branch_key_id:",
        "A key store must answer with the version that was asked for.",
        "providers/branch_keys/test_hierarchical_store.py providers/branch_keys/test_hierarchical.py",
    ),
    Mutant(
        "stores-share-keys",
        "providers/branch_keys/hierarchical.py",
        'f"{self._partition}\\0{logical_name}".encode()',
        "self._partition.encode()",
        "Key stores with other names share no branch keys.",
        "providers/branch_keys/test_hierarchical_cache.py",
    ),
    Mutant(
        "another-item-accepted",
        "providers/branch_keys/items.py",
        "if (attributes[ID], attributes[TYPE]) != (branch_key_id, item_type):",
        "if False:",
        "The table must return the item that was asked for.",
        "providers/branch_keys/test_items.py",
    ),
    Mutant(
        "data-key-of-any-length",
        "providers/base.py",
        "if len(key.plaintext) != suite.data_key_length:",
        "if False:",
        "A data key has the length that the suite needs.",
        "providers/test_base.py managers/test_wrong_answers.py",
    ),
    Mutant(
        "encrypting-goes-on-after-a-failure",
        "providers/base.py",
        "            group.cancel_scope.cancel()\n",
        "            pass\n",
        "The first key that fails cancels the others.",
        "providers/test_base_encrypt.py",
    ),
]

MANAGERS = [
    Mutant(
        "context-compared-without-case",
        "managers/default.py",
        "if stored.get(key, value) != value]",
        "if stored.get(key, value).lower() != value.lower()]",
        "The reproduced context equals the stored one, in case, too.",
        "managers/test_default.py",
    ),
    Mutant(
        "unsigned-with-a-verification-key",
        "managers/default.py",
        "        if encoded is not None:\n",
        "        if False:\n",
        "An unsigned message has no verification key.",
        "managers/test_default.py",
    ),
    Mutant(
        "policy-not-in-the-cache-key",
        "managers/caching.py",
        "            request.commitment_policy,\n            request.required_encryption_context_keys,",
        "            request.required_encryption_context_keys,",
        "Commitment policies share no cached data keys.",
        "managers/test_caching_matching.py",
    ),
    Mutant(
        "reproduced-context-not-in-the-cache-key",
        "managers/caching.py",
        "hashlib.sha384(given).digest(),",
        'b"",',
        "A cached data key serves one reproduced context.",
        "managers/test_caching_matching.py",
    ),
    Mutant(
        "bytes-limit-late",
        "managers/caching.py",
        "self.bytes + length > max_bytes:",
        "self.bytes > max_bytes:",
        "max_bytes is exact.",
        "managers/test_caching_limits.py",
    ),
    Mutant(
        "messages-limit-off-by-one",
        "managers/caching.py",
        "if self.messages >= max_messages or",
        "if self.messages > max_messages or",
        "max_messages is exact.",
        "managers/test_caching_limits.py",
    ),
    Mutant(
        "cached-without-derivation",
        "managers/caching.py",
        "return suite.kdf_hash is None",
        "return False",
        "Suites without key derivation get a data key for each message.",
        "managers/test_caching_limits.py managers/test_caching.py",
    ),
    Mutant(
        "materials-of-another-suite",
        "managers/answers.py",
        "if suite is not request.algorithm_suite:",
        "if False:",
        "A manager must answer for the suite of the message.",
        "managers/test_wrong_answers.py managers/test_custom.py",
    ),
    Mutant(
        "signers-for-unsigned-suites",
        "managers/answers.py",
        "if (signer is not None) is not suite.signed:",
        "if False:",
        "A signer comes with a signed suite, and only with one.",
        "managers/test_wrong_answers.py managers/test_custom.py",
    ),
    Mutant(
        "required-pairs-not-asked-for",
        "managers/required_context.py",
        "self._check_given(request.reproduced_encryption_context.keys())",
        "pass",
        "Decrypting needs the required pairs.",
        "managers/test_required_context.py",
    ),
]

MUTANTS = {mutant.name: mutant for mutant in (*FORMAT, *STREAMS, *PROVIDERS, *MANAGERS)}


def check_all(package: Path) -> None:
    """Raise `ValueError` for a mutation that does not fit the package, before any test runs."""
    for mutant in MUTANTS.values():
        mutant.apply((package / mutant.path).read_text())


def copied(folder: Path) -> None:
    """Copy what is tested; link the rest, which some tests read."""
    for path in ROOT.iterdir():
        if path.name in _COPIED:
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
        elif not path.name.startswith("."):
            (folder / path.name).symlink_to(path)


def outcome(mutant: Mutant, folder: Path) -> str:
    """Run the tests of a mutant in a copy of the tree."""
    path = folder / "aioencrypt" / mutant.path
    original = path.read_text()
    path.write_text(mutant.apply(original))
    paths = [f"tests/{name}" for name in mutant.tests.split()]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        *paths,
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""}
    try:
        run = subprocess.run(
            [*command, "-k", "not uvloop and not trio"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _HUNG
    finally:
        path.write_text(original)
    if run.returncode not in (0, 1):
        raise RuntimeError(f"{mutant.name}: pytest failed\n{run.stdout[-3000:]}{run.stderr[-3000:]}")
    return _KILLED if run.returncode else _SURVIVED


def main() -> int:
    """Run the mutants that have no result yet; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all without one")
    parser.add_argument("--again", action="store_true", help="forget the results of earlier runs")
    arguments = parser.parse_args()
    check_all(ROOT / "aioencrypt")
    names = arguments.names or [*MUTANTS]
    if unknown := [name for name in names if name not in MUTANTS]:
        parser.error(f"no such mutant: {', '.join(unknown)}")
    results: dict[str, str] = {}
    if RESULTS.exists() and not arguments.again:
        results = json.loads(RESULTS.read_text())
    with tempfile.TemporaryDirectory() as name:
        copied(Path(name))
        for mutant in map(MUTANTS.__getitem__, names):
            if mutant.name not in results:
                results[mutant.name] = outcome(mutant, Path(name))
                RESULTS.write_text(json.dumps(results, indent=1))
            print(f"{results[mutant.name]:15} {mutant.name:42} {mutant.promise}", flush=True)
    survivors = [name for name in names if results[name] == _SURVIVED]
    print(f"{len(names)} mutants, {len(names) - len(survivors)} killed, {len(survivors)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
