"""Keys and signatures. OpenSSL, which shares no code with the runtime's verifier, is the judge of what holds."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from edgekit.deploy import keys as key_files
from edgekit.deploy import sign
from edgekit.errors import InputError, Shortfall
from edgekit.runtime import archive
from edgekit.runtime.bundle import open_bundle
from tests.small_bundle import small
from tests.support import complaint, edgekit


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Where ``NAME.key`` and ``NAME.pub`` lie, without the suffix."""
    key_files.keygen(tmp_path / "mine")
    return tmp_path / "mine"


def private(path: Path) -> Path:
    return path.with_name(f"{path.name}.key")


def public(path: Path) -> Path:
    return path.with_name(f"{path.name}.pub")


@pytest.fixture
def bundle(tmp_path: Path, keys: Path) -> Path:
    """A signed bundle."""
    path = small(tmp_path / "a.edgekit")
    sign.sign(path, private(keys))
    return path


def rewrite(path: Path, **members: bytes) -> None:
    """Replace members of a bundle, as someone with a zip tool of their own could."""
    found = {name: bytes(view) for name, view in archive.read(path.read_bytes()).items()}
    path.write_bytes(archive.canonical({**found, **{f"{name}.json": data for name, data in members.items()}}))


def test_keygen_writes_keys_that_others_read_and_only_the_owner_can(tmp_path: Path) -> None:
    answer = edgekit("keygen", "--out", tmp_path / "mine")
    key = serialization.load_pem_private_key((tmp_path / "mine.key").read_bytes(), None)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    assert serialization.load_pem_public_key((tmp_path / "mine.pub").read_bytes()) == key.public_key()
    assert base64.b64encode(key.public_key().public_bytes_raw()).decode() in answer.stdout
    assert (tmp_path / "mine.key").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in (tmp_path / "mine.pub").read_text() + answer.stdout


@pytest.mark.parametrize("there", ["mine.key", "mine.pub"])
def test_keygen_overwrites_nothing(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(InputError, match="never overwritten"):
        key_files.keygen(tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def test_openssl_confirms_a_signature(bundle: Path, keys: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    members = archive.read(bundle.read_bytes())
    (tmp_path / "message").write_bytes(members["manifest.json"])
    found = json.loads(bytes(members["signature.json"]))
    (tmp_path / "signature").write_bytes(base64.b64decode(found["signature"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public(keys)), "-rawin"]
    command += ["-in", "message", "-sigfile", "signature"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / "message").write_bytes(bytes(members["manifest.json"]) + b" ")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode != 0


def test_signing_changes_nothing_but_the_signature_and_twice_is_once(bundle: Path, keys: Path, tmp_path: Path) -> None:
    before = small(tmp_path / "b.edgekit")
    signed, plain = archive.read(bundle.read_bytes()), archive.read(before.read_bytes())
    assert {name for name in signed if name not in plain} == {"signature.json"}
    assert all(signed[name] == plain[name] for name in plain)
    again = bundle.read_bytes()
    sign.sign(bundle, private(keys))
    assert bundle.read_bytes() == again
    assert open_bundle(str(bundle), trusted_keys=[str(public(keys))], require_signature=True).trusted


def test_commands_answer_in_json(tmp_path: Path) -> None:
    made = json.loads(edgekit("keygen", "--out", tmp_path / "mine", "--json").stdout)
    public_key = serialization.load_pem_public_key(Path(made["public"]).read_bytes())
    assert isinstance(public_key, ed25519.Ed25519PublicKey)
    assert base64.b64decode(made["key"]) == public_key.public_bytes_raw()
    path = small(tmp_path / "a.edgekit")
    signed = json.loads(edgekit("sign", path, "--key", made["private"], "--json").stdout)
    assert signed == {"bundle": str(path), "signed_by": made["key"]}
    assert json.loads(edgekit("verify-signature", path, "--key", made["public"], "--json").stdout) == signed


def test_commands_sign_and_verify(tmp_path: Path, keys: Path) -> None:
    path = small(tmp_path / "a.edgekit")
    assert "not signed: edgekit sign" in complaint("verify-signature", path, "--key", public(keys), code=1)
    raw = edgekit("sign", path, "--key", private(keys)).stdout.split()[-1]
    assert edgekit("verify-signature", path, "--key", public(keys)).stdout == f"{path}: signed with {raw}\n"


def test_a_signature_of_another_key_does_not_hold(bundle: Path, tmp_path: Path) -> None:
    key_files.keygen(tmp_path / "other")
    with pytest.raises(Shortfall, match="signed with another key"):
        sign.verify(bundle, tmp_path / "other.pub")


def test_a_manifest_that_was_not_signed_does_not_hold(bundle: Path, keys: Path) -> None:
    manifest = json.loads(bytes(archive.read(bundle.read_bytes())["manifest.json"]))
    rewrite(bundle, manifest=json.dumps({**manifest, "name": "other"}).encode())
    with pytest.raises(Shortfall, match="the signature is invalid"):
        sign.verify(bundle, public(keys))


def test_a_member_that_was_exchanged_is_found(bundle: Path, keys: Path) -> None:
    found = {name: bytes(view) for name, view in archive.read(bundle.read_bytes()).items()}
    found["labels.txt"] = found["labels.txt"].replace(b"0", b"7")
    bundle.write_bytes(archive.canonical(found))
    with pytest.raises(Shortfall, match=r"labels\.txt"):
        sign.verify(bundle, public(keys))


@pytest.mark.parametrize("signature", [b"", b"[]", b"{}", b'{"key": 1, "signature": "%"}', b"\xff"])
def test_a_signature_member_of_nonsense_is_refused(bundle: Path, keys: Path, signature: bytes) -> None:
    rewrite(bundle, signature=signature)
    with pytest.raises(Shortfall, match=r"signature\.json is malformed"):
        sign.verify(bundle, public(keys))


def test_verifiers_that_disagree_are_not_believed(bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign, "_runtime_holds", lambda *_: False)
    with pytest.raises(Shortfall, match="disagree"):
        sign.verify(bundle, public(keys))


def _pem(key: object, password: bytes | None = None) -> bytes:
    assert isinstance(key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey)
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are no key to sign or verify with."""
    folder = tmp_path_factory.mktemp("odd")
    key, other = ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 1024)
    (folder / "encrypted").write_bytes(_pem(key, b"secret"))
    (folder / "rsa").write_bytes(_pem(other))
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "rsa.pub").write_bytes(other.public_key().public_bytes(*form))
    (folder / "ed.pub").write_bytes(key.public_key().public_bytes(*form))
    (folder / "ed").write_bytes(_pem(key))
    (folder / "noise").write_bytes(bytes(range(256)))
    (folder / "empty").touch()
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "cannot be read: No such file"),
        ("empty", "not a private key in PEM"),
        ("noise", "not a private key in PEM"),
        ("rsa", "not an Ed25519 key"),
        ("encrypted", "the key is encrypted"),
        ("ed.pub", "a public key; signing needs the private one"),
    ],
)
def test_signing_refuses_a_key_it_cannot_use_and_leaves_the_bundle(
    odd: Path, tmp_path: Path, name: str, message: str
) -> None:
    path = small(tmp_path / "a.edgekit")
    before = path.read_bytes()
    with pytest.raises(InputError, match=message):
        sign.sign(path, odd / name)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.edgekit"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "cannot be read: No such file"),
        ("noise", "not a public key in PEM"),
        ("rsa.pub", "not an Ed25519 key"),
        ("ed", "a private key, which should stay with its owner"),
    ],
)
def test_verifying_refuses_a_key_it_cannot_use(odd: Path, bundle: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sign.verify(bundle, odd / name)


@pytest.mark.parametrize("content", [b"", b"PK", bytes(100)])
def test_what_is_no_bundle_is_refused(tmp_path: Path, keys: Path, content: bytes) -> None:
    (tmp_path / "a.edgekit").write_bytes(content)
    for call, key in ((sign.sign, private(keys)), (sign.verify, public(keys))):
        with pytest.raises(InputError, match="not a sound bundle"):
            call(tmp_path / "a.edgekit", key)
