"""Encrypt a data set of many objects on a Dask cluster, read it, and put it under new keys.

python dask_dataset.py [FOLDER] [--objects 40] [--workers 2] [--scheduler tcp://...] [--steps encrypt sum]

Stop it whenever you like and start it again: what is done is not done twice. No list is kept of that. An
encrypted object is there as a whole or not at all, and its header says which keys it is under.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import fsspec
import pandas as pd
from dask.distributed import Client, LocalCluster, as_completed

from aioencrypt import MultiMasterKeyProvider, RawAESMasterKey

# A program of yours would have functions that return a KMSMasterKeyProvider, or give one itself as
# `provider`. Here the keys are files, which every worker reads for itself: keys are never sent to it.
KEYS = "DASK_DATASET_KEYS"
OLD, NEW = "2026", "2027"


def old_keys() -> RawAESMasterKey:
    return key_from_file(OLD)


def new_keys() -> RawAESMasterKey:
    return key_from_file(NEW)


def both_keys() -> MultiMasterKeyProvider:
    """Return what reads everything while some objects are under the new keys already."""
    return MultiMasterKeyProvider(None, old_keys(), new_keys())


def key_from_file(name: str) -> RawAESMasterKey:
    return RawAESMasterKey("data-set", name, wrapping_key=Path(os.environ[KEYS], name).read_bytes())


def options(keys: str) -> dict[str, Any]:
    """Return the storage options for a URL: this is all that differs between plain and encrypted data."""
    return {"provider": f"dask_dataset:{keys}_keys"}


def file_system(keys: str) -> Any:
    """Return the encrypted file system; fsspec makes one for each process."""
    return fsspec.filesystem("aioencrypt", target_protocol="file", **options(keys))


def encrypt_one(plain: str, encrypted: str) -> str:
    """Encrypt one object, on a worker."""
    fs = file_system("old")
    if fs.exists(encrypted):
        return "done before"
    with open(plain, "rb") as source, fs.open(encrypted, "wb") as target:
        shutil.copyfileobj(source, target)
    return "encrypted"


def rewrap_one(path: str) -> str:
    """Put one object under the new keys, on a worker; its header says whether that is done."""
    fs = file_system("old")
    if NEW in [key.name for key in fs.inspect(path).keys]:
        return "done before"
    fs.rewrap(path, file_system("new"))
    return "rewrapped"


def on_all(client: Client, function: Callable[..., str], *arguments: list[str]) -> None:
    """Call a function for every object, on the cluster, and say how far it is."""
    counts: Counter[str] = Counter()
    for future, result in as_completed(client.map(function, *arguments, pure=False), with_results=True):
        counts[result] += 1
        print(f"{counts.total()} of {len(arguments[0])}: {result}", flush=True)
        future.release()
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())), flush=True)


def total(url: str, **given: Any) -> int:
    return int(dd.read_parquet(url, columns=["amount"], **given)["amount"].sum().compute())


def make_data_set(folder: Path, objects: int) -> list[str]:
    """Write a data set to have one, and the keys."""
    for name in ("plain", "encrypted", "keys"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in (OLD, NEW):
        if not (folder / "keys" / name).exists():
            (folder / "keys" / name).write_bytes(secrets.token_bytes(32))
    for index in range(objects):
        path = folder / "plain" / f"{index:06}.parquet"
        if not path.exists():
            frame = pd.DataFrame({"customer": range(1000), "amount": range(index, index + 1000)})
            frame.to_parquet(path)
    return sorted(str(path) for path in (folder / "plain").glob("*.parquet"))


@contextmanager
def cluster(scheduler: str | None, workers: int) -> Iterator[Client]:
    """Use a cluster that is there, or start one on this machine: a process for each worker."""
    with ExitStack() as stack:
        address = scheduler or stack.enter_context(
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
        )
        yield stack.enter_context(Client(address))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--objects", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scheduler")
    parser.add_argument("--steps", nargs="+", default=["encrypt", "sum", "rewrap"])
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp())).absolute()
    plain = make_data_set(folder, arguments.objects)
    encrypted = [path.replace("/plain/", "/encrypted/") for path in plain]
    os.environ[KEYS] = str(folder / "keys")  # workers have the environment that they are started with
    with cluster(arguments.scheduler, arguments.workers) as client:
        if "encrypt" in arguments.steps:
            on_all(client, encrypt_one, plain, encrypted)
        if "sum" in arguments.steps:
            url = f"aioencrypt::file://{folder}/encrypted/*.parquet"
            print(f"plain data: {total(f'{folder}/plain/*.parquet')}")
            print(f"encrypted data: {total(url, storage_options=options('both'))}")
        if "rewrap" in arguments.steps:
            on_all(client, rewrap_one, encrypted)
            print(f"under the new keys: {file_system('new').inspect(encrypted[0]).keys[0].name}")


if __name__ == "__main__":
    main()
