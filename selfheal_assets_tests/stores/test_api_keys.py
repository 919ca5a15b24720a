"""The file of the API keys: what it keeps, how it changes, and what it does when it is damaged."""

import hashlib
import json
import os
import stat
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from selfheal_assets.stores.api_keys import KeyFile, KeyRefused, KeyRing, KeysUnusable, UnknownKey

NOW = datetime(2026, 11, 25, 12)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "home" / "api_keys.json")


def ring(file: KeyFile, named: bool = False) -> KeyRing:
    """One that looks at the file at every question."""
    return KeyRing(file.path, named, every_s=0)


def test_only_the_hash_of_a_long_random_key_is_kept_where_its_owner_alone_reads(file: KeyFile):
    made, key = file.create("crm", NOW)
    content = file.path.read_text()
    secret = key.split("_", 2)[2]
    assert len(secret) >= 43, "256 bits in base64"
    assert key not in content and secret not in content
    assert hashlib.sha256(key.encode()).hexdigest() in content
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [p.name for p in file.path.parent.iterdir() if "lock" not in p.name] == [file.path.name]
    assert file.read() == [made]
    assert secret not in repr(made) and made.sha256 not in repr(made)


def test_a_key_opens_until_it_expires_or_is_revoked(file: KeyFile):
    expiring, first = file.create("crm", NOW, NOW + timedelta(days=90))
    _, second = file.create("batch", NOW)
    followed = ring(file)
    assert followed.holder(first.encode(), NOW) == expiring
    assert followed.holder(first.encode(), NOW + timedelta(days=89)).name == "crm"
    with pytest.raises(KeyRefused, match=r"'crm' \(.*is expired"):
        followed.holder(first.encode(), NOW + timedelta(days=90))
    assert file.revoke("batch", NOW).revoked_at == NOW
    assert followed.required
    with pytest.raises(KeyRefused, match=r"'batch' .*is revoked"):
        followed.holder(second.encode(), NOW)


@pytest.mark.parametrize(
    "change", [lambda k: k[:-1], lambda k: k + "a", lambda k: k.swapcase(), lambda k: "", lambda k: "a_b_c"]
)
def test_what_only_resembles_a_key_is_refused(file: KeyFile, change):
    _, key = file.create("crm", NOW)
    with pytest.raises(KeyRefused, match="not known"):
        ring(file).holder(change(key).encode(), NOW)


def test_one_keys_id_does_not_open_with_anothers_secret(file: KeyFile):
    keys = [file.create(name, NOW)[1] for name in ("a", "b")]
    mixed = "_".join([*keys[0].split("_", 2)[:2], keys[1].split("_", 2)[2]])
    with pytest.raises(KeyRefused):
        ring(file).holder(mixed.encode(), NOW)


def test_an_open_service_closes_with_the_first_key_and_follows_the_others(file: KeyFile):
    followed = ring(file)
    assert not followed.required
    _, first = file.create("a", NOW)
    assert followed.required
    _, second = file.create("b", NOW)
    assert [followed.required and followed.holder(k.encode(), NOW).name for k in (first, second)] == [
        "a",
        "b",
    ]


def test_a_service_whose_keys_are_all_revoked_stays_closed(file: KeyFile):
    made, _ = file.create("a", NOW)
    file.revoke(made.id, NOW)
    assert ring(file).required


DAMAGE = {
    "gone": lambda p: p.unlink(),
    "empty": lambda p: p.write_bytes(b""),
    "torn": lambda p: p.write_bytes(p.read_bytes()[:-20]),
    "no keys": lambda p: p.write_text('{"version": 1, "keys": []}'),
    "another version": lambda p: p.write_text(p.read_text().replace('"version": 1', '"version": 2')),
    "a hash too short": lambda p: p.write_text(p.read_text().replace('"sha256": "', '"sha256": "x')),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "no text": lambda p: p.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_lets_nobody_in_until_it_is_mended(file: KeyFile, damage):
    _, key = file.create("a", NOW)
    whole, followed = file.path.read_bytes(), ring(file)
    assert followed.required and followed.problem is None
    damage(file.path)
    with pytest.raises(KeysUnusable, match=r"api_keys\.json"):
        assert followed.required
    assert followed.problem is not None
    if file.path.is_dir():
        file.path.rmdir()
    file.path.write_bytes(whole)
    assert followed.required and followed.problem is None
    assert followed.holder(key.encode(), NOW).name == "a"


@pytest.mark.parametrize("damage", [d for name, d in DAMAGE.items() if name not in ("gone", "no keys")])
def test_a_service_does_not_start_open_on_a_damaged_file(file: KeyFile, damage):
    file.create("a", NOW)
    damage(file.path)
    with pytest.raises(KeysUnusable):
        assert ring(file).required
    with pytest.raises(KeysUnusable):
        file.create("b", NOW)


def test_a_file_that_an_operator_named_must_be_there(file: KeyFile):
    followed = ring(file, named=True)
    with pytest.raises(KeysUnusable, match="are not there"):
        assert followed.required
    _, key = file.create("a", NOW)
    assert followed.required and followed.holder(key.encode(), NOW)


def test_two_keys_of_one_id_are_damage(file: KeyFile):
    file.create("a", NOW)
    content = json.loads(file.path.read_text())
    content["keys"] *= 2
    file.path.write_text(json.dumps(content))
    with pytest.raises(KeysUnusable, match="same id"):
        file.read()


def test_a_name_that_several_keys_have_is_asked_about(file: KeyFile):
    made = [file.create("crm", NOW)[0] for _ in range(2)]
    with pytest.raises(UnknownKey) as told:
        file.revoke("crm", NOW)
    assert all(key.id in str(told.value) for key in made)
    with pytest.raises(UnknownKey, match="no API key has the id or name 'nobody'"):
        file.revoke("nobody", NOW)
    file.revoke(made[0].id, NOW)
    assert file.revoke("crm", NOW).id == made[1].id
    assert file.revoke(made[0].id, NOW + timedelta(days=1)).revoked_at == NOW, "revoked once"


@pytest.mark.parametrize("name", ["", " ", " crm", "a\nb", "a\x1b[31m", "x" * 65])
def test_a_name_is_plain_text(file: KeyFile, name: str):
    with pytest.raises(ValueError, match="no name of a key"):
        file.create(name, NOW)
    assert not file.path.exists()


def test_keys_made_at_once_are_all_kept(file: KeyFile):
    threads = [threading.Thread(target=file.create, args=(f"n{i}", NOW)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in file.read()) == sorted(f"n{i}" for i in range(16))


def test_a_file_is_looked_at_once_in_a_while(file: KeyFile, monkeypatch: pytest.MonkeyPatch):
    file.create("a", NOW)
    followed = KeyRing(file.path, every_s=3600)
    looked = []
    monkeypatch.setattr(Path, "stat", lambda self: looked.append(self) or os.stat(self))
    for _ in range(100):
        assert followed.required
    assert looked == []
