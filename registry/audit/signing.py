"""The key that signs the heads of the chain. It is never in the database, whose owner it is to keep in check."""

import os
import tempfile
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from registry.base.digests import canonical_json
from registry.base.errors import InvalidRequest, NoSigningKey
from registry.base.settings import Settings

FILE = "signing-key.pem"
MAKE_ONE = "Make one with `openssl genpkey -algorithm ed25519 -out key.pem`, and set MELO_SIGNING_KEY to its path."


def signing_key(settings: Settings) -> Ed25519PrivateKey:
    """Return the operator's key, or the one in MELO_HOME, created there on first use. Raises NoSigningKey.

    A server without a MELO_HOME gets none created: it would be lost with its container, and nobody would know the next.
    """
    if settings.signing_key and (given := settings.signing_key.get_secret_value()):
        return _given(given)
    found = stored_key(settings.home)
    if found is None and settings.home.is_dir():
        found = _made(settings.home / FILE)
    if found is None:
        raise NoSigningKey(f"MELO_SIGNING_KEY is not set, and there is no folder {settings.home}.", MAKE_ONE)
    return found


def stored_key(home: Path) -> Ed25519PrivateKey | None:
    try:
        return _private((home / FILE).read_bytes(), str(home / FILE))
    except FileNotFoundError:
        return None


def public_text(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return a public key as text: base64 of its 32 bytes."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def public_key(text: str) -> Ed25519PublicKey:
    """Read a public key from base64 of its 32 bytes, or from PEM. Raises InvalidRequest."""
    try:
        if text.lstrip().startswith("-----BEGIN"):
            key = load_pem_public_key(text.encode())
        else:
            key = Ed25519PublicKey.from_public_bytes(b64decode(text.strip(), validate=True))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidRequest(
            "The public key is not an Ed25519 key.", "Give what `melo audit public-key` printed, or a PEM file."
        )
    return key


def signed(key: Ed25519PrivateKey, content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with the public key, and a signature over the canonical JSON of both."""
    content = {**content, "public_key": public_text(key)}
    return {**content, "signature": b64encode(key.sign(canonical_json(content))).decode()}


def is_signed(content: dict[str, Any], key: Ed25519PublicKey) -> bool:
    """Return whether `signature` is the key's signature over everything else in the content."""
    rest = {name: value for name, value in content.items() if name != "signature"}
    try:
        key.verify(b64decode(str(content.get("signature")), validate=True), canonical_json(rest))
    except (InvalidSignature, NotBase64, TypeError):
        return False
    return True


def _given(value: str) -> Ed25519PrivateKey:
    """Read a private key: a path, or the PEM text in base64, as an environment variable can carry it."""
    try:
        return _private(b64decode(value, validate=True), "MELO_SIGNING_KEY")
    except NotBase64:
        pass
    except NoSigningKey:
        if not Path(value).expanduser().is_file():  # a path may also happen to be valid base64
            raise
    path = Path(value).expanduser()
    try:
        return _private(path.read_bytes(), str(path))
    except OSError as error:
        raise NoSigningKey(f"MELO_SIGNING_KEY: {path} cannot be read: {error.strerror}.", MAKE_ONE) from None


def _private(pem: bytes, where: str) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise NoSigningKey(f"{where} holds no Ed25519 private key in PEM without a password.", MAKE_ONE)
    return key


def _made(path: Path) -> Ed25519PrivateKey:
    """Create a key, atomically and whole, in a file that only its owner can read."""
    key = Ed25519PrivateKey.generate()
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent) as draft:
            draft.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            draft.flush()
            os.fsync(draft.fileno())
            os.link(draft.name, path)
    except FileExistsError:  # another process created it first
        return _private(path.read_bytes(), str(path))
    except OSError as error:
        raise NoSigningKey(f"{path} cannot be written: {error.strerror}.", MAKE_ONE) from None
    return key
