"""API keys: one JSON file beside the warehouse, written by ``selfheal keys`` and followed by the service.

A key is 256 random bits, and the file holds the SHA-256 of each, never the key. That is enough: salt and slow
hashes protect passwords, which people choose and attackers can therefore guess; 2**256 random values can neither
be guessed nor be in a table, however fast the hash, and a fast one costs a request a microsecond.
"""

import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from selfheal_assets.stores.durable import sync_folder

logger = logging.getLogger(__name__)

_PREFIX = b"shk"
_ID_BYTES, _SECRET_BYTES = 4, 32
_MODE = 0o600
_NOBODY = hashlib.sha256(b"").hexdigest()

Name = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,63}$")]


class KeysUnusable(ValueError):
    """The file of the keys cannot be read or is damaged: nobody may be let in."""


class KeyRefused(PermissionError):
    """What was presented is not a key that is valid now; the message tells its owner what to do."""


class UnknownKey(LookupError):
    """No key, or more than one, answers to what was named."""


class ApiKey(BaseModel):
    """What is kept of one key; times are naive UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
    name: Name
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        """Whether the key opens anything at ``now``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: list[ApiKey] = []

    @model_validator(mode="after")
    def _ids_differ(self) -> "_Content":
        if len({key.id for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same id")
        return self


class KeyFile:
    """The file, as ``selfheal keys`` changes it: one change at a time, each whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[ApiKey]:
        """All keys, the revoked ones too; none where there is no file.

        Raises:
            KeysUnusable: it cannot be read, or is not as it was written.
        """
        try:
            return _Content.model_validate_json(self.path.read_bytes()).keys
        except FileNotFoundError:
            return []
        except OSError as error:
            reason = error.strerror or str(error)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise KeysUnusable(
            f"the API keys in {self.path} cannot be read ({reason}): restore the file, or mend its rights; "
            "if it is lost, move it away and create new keys"
        )

    def create(self, name: str, now: datetime, expires_at: datetime | None = None) -> tuple[ApiKey, str]:
        """Add a key; returns what is kept of it, and the key itself, which is nowhere else.

        Raises:
            KeysUnusable: as :meth:`read`.
            ValueError: the name is empty, too long, or not plain text.
        """
        identity, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
        key = f"{_PREFIX.decode()}_{identity}_{secret}"
        try:
            made = ApiKey(
                id=identity, name=name, sha256=_hash(key.encode()), created_at=now, expires_at=expires_at
            )
        except ValidationError as error:
            raise ValueError(
                f"'{name}' is no name of a key: give 1 to 64 printable characters that do not begin with a space"
            ) from error
        with self._alone():
            self._write([*self.read(), made])
        return made, key

    def revoke(self, which: str, now: datetime) -> ApiKey:
        """Revoke the key of this id, or the one valid key of this name; it stays in the file.

        Raises:
            KeysUnusable: as :meth:`read`.
            UnknownKey: no key is called so, or several are; the message names those there are.
        """
        with self._alone():
            keys = self.read()
            key = _named(keys, which)
            revoked = key.model_copy(update={"revoked_at": key.revoked_at or now})
            self._write([revoked if k.id == key.id else k for k in keys])
        return revoked

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, _MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, keys: list[ApiKey]) -> None:
        """Beside and renamed, so that whoever reads sees the old or the new."""
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "wb") as file:
            file.write(_Content(keys=keys).model_dump_json(indent=2).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self.path)
        sync_folder(self.path.parent)


class KeyRing:
    """The file, as the service follows it: read again when it has changed. Safe to share between threads.

    It only ever closes: once this process has seen a key, a file that is gone, empty or damaged lets nobody in.

    Args:
        path: of the file.
        named: an operator named the file, so that it must be there.
        every_s: how often the file is looked at; a revoked key opens nothing after that.
    """

    def __init__(self, path: Path, named: bool = False, every_s: float = 1.0) -> None:
        self._file, self._every_s = KeyFile(path), every_s
        self._closed = named
        self._keys: dict[str, ApiKey] = {}
        self._problem: str | None = None
        self._seen: tuple[int, int, int] | None = None
        self._look_at = 0.0
        self._mutex = threading.Lock()
        self._follow()

    @property
    def required(self) -> bool:
        """Whether a request needs a key.

        Raises:
            KeysUnusable: it does, but no key can be checked.
        """
        self._follow()
        if self._problem is not None:
            raise KeysUnusable(self._problem)
        return self._closed

    @property
    def problem(self) -> str | None:
        """Why no key can be checked, or ``None``."""
        self._follow()
        return self._problem

    def holder(self, presented: bytes, now: datetime) -> ApiKey:
        """The key that was presented, if it is valid at ``now`` (naive UTC).

        Raises:
            KeyRefused: it is not.
        """
        identity = presented.split(b"_", 2)[1] if presented.count(b"_") > 1 else b""
        key = self._keys.get(identity.decode("latin-1"))
        # The id is no secret; the same work is done whether it exists or not.
        if not hmac.compare_digest(_hash(presented), key.sha256 if key else _NOBODY) or key is None:
            raise KeyRefused("this API key is not known: ask the operator for one (`selfheal keys create`)")
        if (state := key.state(now)) != "valid":
            raise KeyRefused(
                f"the API key '{key.name}' ({key.id}) is {state}: ask the operator for a new one"
            )
        return key

    def _follow(self) -> None:
        """Look at the file if it is time to, and read it if it is another one than before."""
        if time.monotonic() < self._look_at:
            return
        with self._mutex:
            self._look_at = time.monotonic() + self._every_s
            seen = _signature(self._file.path)
            if seen is None and self._closed:
                self._fail(
                    f"the API keys in {self._file.path} are not there: restore the file, or create a key"
                )
            elif seen is not None and (seen != self._seen or self._problem is not None):
                self._read()
            self._seen = seen

    def _read(self) -> None:
        try:
            keys = {key.id: key for key in self._file.read()}
        except KeysUnusable as error:
            self._closed = True
            self._fail(str(error))
            return
        if not keys and self._closed:
            self._fail(f"{self._file.path} holds no API key any more: restore the file, or create a key")
            return
        if self._problem is not None or keys != self._keys:
            logger.info("%d API keys in %s are followed", len(keys), self._file.path)
        self._keys, self._closed, self._problem = keys, self._closed or bool(keys), None

    def _fail(self, problem: str) -> None:
        if problem != self._problem:
            logger.error("%s; until then every request is refused", problem)
        self._problem = problem


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return (0, 0, 0)  # reading it will tell what is wrong
    return status.st_ino, status.st_mtime_ns, status.st_size


def _hash(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _named(keys: list[ApiKey], which: str) -> ApiKey:
    for key in keys:
        if key.id == which:
            return key
    found = [key for key in keys if key.name == which and key.revoked_at is None]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownKey(f"{len(found)} keys are called '{which}': name one by its id, {_ids(found)}")
    left = [key for key in keys if key.revoked_at is None]
    known = f"those there are: {_ids(left)}" if left else "there is none to revoke"
    raise UnknownKey(f"no API key has the id or name '{which}'; {known}")


def _ids(keys: list[ApiKey]) -> str:
    return ", ".join(f"{key.id} ({key.name})" for key in keys)
