"""Replace a file atomically: write a temporary file next to it, then rename. The only code that does this."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import NamedTuple, Self
from weakref import finalize

from aioencrypt.runtime.secrets import hides_arguments
from aioencrypt.streams.blocking_files import BINARY, PathLike, errors_name

# Windows has none of these, but does not rename a folder with an open file, so the path stays valid.
_DIR_FD = {os.open, os.rename, os.unlink} <= os.supports_dir_fd
# As the Linux kernel does.
_MOST_LINKS = 40
_ACL = "system.posix_acl_access"
# Errors of file systems that cannot sync a folder, and of folders without read permission.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)
_NO_ACL = (errno.ENODATA, errno.ENOTSUP) if hasattr(errno, "ENODATA") else (errno.ENOTSUP,)


class ReplacedFile:
    """A file that appears at its path complete, or not at all. Methods block.

    Symbolic links are followed, and stay. The new file gets the mode, owner, group and access control list
    of the file that it replaces. Every error names `path`.

    Any thread may call `drop`. If another method is running, that method removes the temporary file when it
    ends. Garbage collection and program exit also remove it.
    """

    def __init__(self, path: PathLike) -> None:
        self._path = os.fspath(path)
        self._lock = Lock()
        self._process = os.getpid()
        self._file: _TemporaryFile | None = None
        self._dropped = False

    def create(self) -> None:
        """Create the temporary file; raises the errors of ``open(path, "wb")``."""
        with self._operation():
            replaced = _Replaced.of(self._path)
            self._file = _TemporaryFile(*_final_place(self._path), replaced)
            finalize(self, self._file.remove)

    @hides_arguments
    def write(self, data: bytes) -> None:
        """Write all of `data`."""
        with self._operation() as file:
            file.write(data)

    def finish(self) -> None:
        """Sync the file to disk, so that `commit` only has to rename it."""
        with self._operation() as file:
            file.finish()

    def commit(self) -> None:
        """Finish the file and rename it to its path."""
        with self._operation() as file:
            file.finish()
            file.rename()

    def drop(self) -> None:
        """Remove the temporary file, unless it was committed."""
        self._dropped = True
        self._clean()

    @contextmanager
    def _operation(self) -> Iterator[_TemporaryFile]:
        try:
            with errors_name(self._path):
                if self._process != os.getpid():  # the lock may have been held when this process was forked
                    raise OSError(errno.EBADF, "the file belongs to the process that began to write it")
                with self._lock:
                    if self._dropped:
                        raise OSError(errno.EBADF, "the file was dropped before everything was written")
                    yield self._file  # type: ignore[misc]  # None while `create` makes it
        finally:
            if self._dropped:
                self._clean()

    def _clean(self) -> None:
        # The method that holds the lock reads `_dropped` after it has released the lock.
        if self._lock.acquire(blocking=False):
            try:
                if self._file is not None:
                    with errors_name(self._path):
                        self._file.remove()
            finally:
                self._lock.release()


class _Replaced(NamedTuple):
    """The metadata that a new file takes over from the file that it replaces."""

    status: os.stat_result
    acl: bytes | None

    @classmethod
    def of(cls, path: str) -> Self | None:
        """Read the metadata. Opens the file for writing, to fail wherever ``open(path, "wb")`` fails."""
        try:
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OSError(errno.EINVAL, "not a regular file, so it cannot be replaced")
            descriptor = os.open(path, os.O_WRONLY | BINARY)
        except FileNotFoundError:
            return None
        try:
            acl = None
            if hasattr(os, "getxattr"):
                with _ignored(*_NO_ACL):
                    acl = os.getxattr(descriptor, _ACL)
            return cls(os.fstat(descriptor), acl)
        finally:
            os.close(descriptor)

    def give_owner(self, descriptor: int) -> None:
        """Set owner and group of a new file, or only the group if changing the owner is not permitted."""
        for owner in (self.status.st_uid, -1):
            with suppress(OSError):  # `give_mode` looks at the outcome
                os.fchown(descriptor, owner, self.status.st_gid)
                return

    def give_mode(self, descriptor: int) -> None:
        """Set the mode of a new file, without the bits of an owner or group that could not be set."""
        mode = stat.S_IMODE(self.status.st_mode)
        new = os.fstat(descriptor)
        if new.st_uid != self.status.st_uid:
            mode &= ~stat.S_ISUID
        if new.st_gid != self.status.st_gid:
            mode &= ~(stat.S_ISGID | stat.S_IRWXG)
        if hasattr(os, "setxattr"):
            with _ignored(*_NO_ACL):
                if self.acl is None:
                    os.removexattr(descriptor, _ACL)  # that of the folder's default
                else:
                    os.setxattr(descriptor, _ACL, self.acl)
        # With an access list, the bits of the group are its mask: cleared, the list gives nobody anything.
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            os.fchmod(descriptor, mode)


class _TemporaryFile:
    """The temporary file, in a folder that may be renamed in the meantime."""

    def __init__(self, folder: str, name: str, replaced: _Replaced | None) -> None:
        self._final = name
        self._replaced = replaced
        self._process = os.getpid()
        self._descriptor: int | None = None
        self._named = False
        self._name = f".aioencrypt-{secrets.token_hex(8)}.partial"
        self._folder: int | str = os.path.abspath(folder)
        if _DIR_FD:
            # O_PATH needs no permission to list the folder.
            self._folder = os.open(folder or ".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
        try:
            if replaced is not None:
                # The links of /dev/fd may lead to a file without a name, which nothing can replace.
                os.stat(self._at(name), dir_fd=self._dir_fd)
            # Nobody else reads what replaces a file until it has the mode of that file.
            mode = 0o666 if replaced is None else 0o600
            self._descriptor = os.open(
                self._at(self._name),
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY,
                mode,
                dir_fd=self._dir_fd,
            )
            self._named = True
            if replaced is not None and hasattr(os, "fchown"):
                replaced.give_owner(self._descriptor)
        except BaseException:
            self.remove()
            raise

    @property
    def _dir_fd(self) -> int | None:
        return self._folder if isinstance(self._folder, int) else None

    def _at(self, name: str) -> str:
        return name if isinstance(self._folder, int) else os.path.join(self._folder, name)

    @hides_arguments
    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._descriptor is not None:
            rest = rest[os.write(self._descriptor, rest) :]

    def finish(self) -> None:
        if self._descriptor is None:
            return
        if self._replaced is not None and hasattr(os, "fchmod"):
            self._replaced.give_mode(self._descriptor)  # last, because a write clears setuid and setgid
        os.fsync(self._descriptor)
        self._close_file()  # Windows renames no open file

    def rename(self) -> None:
        if not self._named:
            return
        os.replace(
            self._at(self._name), self._at(self._final), src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd
        )
        self._named = False
        try:
            self._sync_folder()
        finally:
            self.remove()

    def _sync_folder(self) -> None:
        """Make the rename durable, because the caller may destroy the old key next."""
        if self._dir_fd is None:
            return
        with _ignored(*_CANNOT_SYNC):
            descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._dir_fd)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _close_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def remove(self) -> None:
        """Close everything and remove the file. Later calls do nothing."""
        path, dir_fd = self._at(self._name), self._dir_fd
        named, self._named = self._named, False
        self._folder = ""
        try:
            with suppress(OSError):  # closing may report a full disk again; the file is dropped anyway
                self._close_file()
            # A forked child has copies of the descriptors, but the file is its parent's.
            if named and self._process == os.getpid():
                with suppress(FileNotFoundError):
                    os.unlink(path, dir_fd=dir_fd)
        finally:
            if dir_fd is not None:
                os.close(dir_fd)


def _final_place(path: str) -> tuple[str, str]:
    """Follow the symbolic links at the end of a path; return the folder and name of the file."""
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(path)
        try:
            path = os.path.join(folder, os.readlink(path))
        except OSError:  # not a link, or nothing is there
            if not name:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
            return folder, name
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


@contextmanager
def _ignored(*errnos: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in errnos:
            raise
