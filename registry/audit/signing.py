"""The keys that sign events, checkpoints and backups: never in the database, whose owner they keep in check."""

import os
import tempfile
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol

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
_EVENT = b"melo-event/1\n"  # before an event's hash, so that no signature of anything else passes for one of an event


class Signer(Protocol):
    """A private Ed25519 key: one of a file or of the environment, or one of a KMS, which signs and never gives it away.

    `Ed25519PrivateKey` is one itself.
    """

    def public_key(self) -> Ed25519PublicKey: ...

    def sign(self, data: bytes, /) -> bytes:
        """Return the signature, 64 bytes."""
        ...


def known_signer(settings: Settings) -> Signer | None:
    """Return the operator's signer or key, else the key in MELO_HOME; None where there is none. Raises NoSigningKey."""
    if settings.signer:
        return _resolved(settings.signer)
    if settings.signing_key and (given := settings.signing_key.get_secret_value()):
        return _given(given)
    return stored_key(settings.home)


def signing_key(settings: Settings) -> Signer:
    """Return the operator's key, or the one in MELO_HOME that `melo up` made. Raises NoSigningKey.

    None is created here: from a first key on, every event has to be signed.
    """
    found = known_signer(settings)
    if found is None:
        raise NoSigningKey(f"MELO_SIGNING_KEY is not set, and {settings.home / FILE} is not there.", MAKE_ONE)
    return found


def stored_key(home: Path) -> Ed25519PrivateKey | None:
    try:
        return private_key((home / FILE).read_bytes(), str(home / FILE))
    except FileNotFoundError:
        return None


def made_key(home: Path) -> Ed25519PrivateKey:
    """Return the key in a MELO_HOME, created if there is none: atomically, in a file that only its owner can read."""
    path = home / FILE
    if (found := stored_key(home)) is not None:
        return found
    key = Ed25519PrivateKey.generate()
    try:
        with tempfile.NamedTemporaryFile(dir=home) as draft:  # its mode is 0600
            draft.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            draft.flush()
            os.fsync(draft.fileno())
            os.link(draft.name, path)
    except FileExistsError:  # another process created it first
        return private_key(path.read_bytes(), str(path))
    except OSError as error:
        raise NoSigningKey(f"{path} cannot be written: {error.strerror}.", MAKE_ONE) from None
    return key


def public_text(key: Signer | Ed25519PublicKey) -> str:
    """Return a public key as text: base64 of its 32 bytes."""
    public = key if isinstance(key, Ed25519PublicKey) else key.public_key()
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


def signed(key: Signer, content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with the public key, and a signature over the canonical JSON of both."""
    content = {**content, "public_key": public_text(key)}
    return {**content, "signature": b64encode(key.sign(canonical_json(content))).decode()}


def is_signed(content: dict[str, Any], key: Ed25519PublicKey) -> bool:
    """Return whether `signature` is the key's signature over everything else in the content."""
    rest = {name: value for name, value in content.items() if name != "signature"}
    return _fits(content.get("signature"), canonical_json(rest), key)


def event_signature(key: Signer, event_hash: str) -> str:
    """Sign an audit event by its hash, which covers all of it and the event before it."""
    return b64encode(key.sign(_EVENT + event_hash.encode())).decode()


def is_event_signature(signature: object, event_hash: object, key: Ed25519PublicKey) -> bool:
    return _fits(signature, _EVENT + str(event_hash).encode(), key)


def _fits(signature: object, message: bytes, key: Ed25519PublicKey) -> bool:
    try:
        key.verify(b64decode(str(signature), validate=True), message)
    except (InvalidSignature, NotBase64, TypeError, ValueError):
        return False
    return True


def _resolved(name: str) -> Signer:
    """Call the function of MELO_SIGNER, `package.module:function`."""
    try:
        found = resolve_name(name)()
        public_text(found)
    except Exception as error:  # whatever another's code raises
        detail = f"MELO_SIGNER: {name} gives no signer: {type(error).__name__}: {error}."
        raise NoSigningKey(
            detail, "Name a function as package.module:function that returns an object with public_key() and sign()."
        ) from error
    signer: Signer = found
    return signer


def _given(value: str) -> Ed25519PrivateKey:
    """Read a private key: a path, or the PEM text in base64, as an environment variable can carry it."""
    try:
        return private_key(b64decode(value, validate=True), "MELO_SIGNING_KEY")
    except NotBase64:
        pass
    except NoSigningKey:
        if not Path(value).expanduser().is_file():  # a path may also happen to be valid base64
            raise
    path = Path(value).expanduser()
    try:
        return private_key(path.read_bytes(), str(path))
    except OSError as error:
        raise NoSigningKey(f"MELO_SIGNING_KEY: {path} cannot be read: {error.strerror}.", MAKE_ONE) from None


def private_key(pem: bytes, where: str) -> Ed25519PrivateKey:
    """Read a private key. where: where it was read, for the error. Raises NoSigningKey."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise NoSigningKey(f"{where} holds no Ed25519 private key in PEM without a password.", MAKE_ONE)
    return key
