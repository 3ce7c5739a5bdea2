"""Keys as files: made whole, read by openssl and from openssl, refused with a line that says what is wrong."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.sync.commands.signing import (
    MOST_KEYS,
    Signer,
    TrustedKeys,
    decode_signature,
    new_key,
    signed_bytes,
)


def openssl(*arguments: str | Path) -> bytes:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True).stdout


def test_a_new_key_signs_what_its_public_part_verifies(tmp_path: Path) -> None:
    public, name = new_key(tmp_path / "operator.pem")
    signer, keys = Signer.load(tmp_path / "operator.pem"), TrustedKeys.load(public)
    signature = decode_signature(signer.sign("a/b", b"payload"))
    assert signature is not None
    assert keys.signer_of("a/b", b"payload", signature) == signer.key_id == name
    assert keys.signer_of("a", b"b\0payload", signature) is None
    assert stat.S_IMODE((tmp_path / "operator.pem").stat().st_mode) == 0o600
    assert public.name == "operator.pub.pem"


def test_openssl_makes_the_same_keys_and_reads_our_signatures(tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    signer = Signer.load(private)
    assert TrustedKeys.load(public).keys.keys() == {signer.key_id}
    signature = decode_signature(signer.sign("topic", b"{}"))
    assert signature is not None
    (tmp_path / "sig").write_bytes(signature)
    (tmp_path / "text").write_bytes(signed_bytes("topic", b"{}"))
    openssl(
        "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", tmp_path / "text",
        "-sigfile", tmp_path / "sig",
    )  # fmt: skip


def test_a_folder_or_a_file_may_hold_several_keys(tmp_path: Path) -> None:
    made = [new_key(tmp_path / f"{name}.pem") for name in ("a", "b")]
    device = tmp_path / "device"
    device.mkdir()
    for public, _ in made:
        (device / public.name).write_bytes(public.read_bytes())
    (device / "README").write_text("not a key")
    assert TrustedKeys.load(device).keys.keys() == {name for _, name in made}
    (tmp_path / "both").write_bytes(b"# ours\n".join(public.read_bytes() for public, _ in made))
    assert TrustedKeys.load(tmp_path / "both").keys.keys() == {name for _, name in made}


def test_a_private_key_on_a_device_is_refused(tmp_path: Path) -> None:
    new_key(tmp_path / "key.pem")
    with pytest.raises(ConfigError, match="holds a private key"):
        TrustedKeys.load(tmp_path / "key.pem")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    new_key(tmp_path / "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        new_key(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").read_bytes() == before
    (tmp_path / "key.pem").unlink()
    with pytest.raises(ConfigError, match=r"key\.pub\.pem: exists already"):
        new_key(tmp_path / "key.pem")
    assert not (tmp_path / "key.pem").exists()


@pytest.mark.parametrize("algorithm", [("ed448",), ("rsa", "-pkeyopt", "rsa_keygen_bits:2048")])
def test_another_kind_of_key_is_refused(tmp_path: Path, algorithm: tuple[str, ...]) -> None:
    openssl("genpkey", "-algorithm", *algorithm, "-out", tmp_path / "key")
    openssl("pkey", "-in", tmp_path / "key", "-pubout", "-out", tmp_path / "pub")
    with pytest.raises(ConfigError, match="Ed25519"):
        Signer.load(tmp_path / "key")
    with pytest.raises(ConfigError, match="Ed25519"):
        TrustedKeys.load(tmp_path / "pub")


def test_what_is_no_key_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    for content in (
        b"",
        b"hello",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"x" * 70_000,
    ):
        bad.write_bytes(content)
        for load in (TrustedKeys.load, Signer.load):
            with pytest.raises(ConfigError, match=r"bad\.pem") as caught:
                load(bad)
            assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        Signer.load(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match="cannot be written"):
        new_key(tmp_path / "no" / "folder" / "key.pem")


def test_a_folder_without_keys_or_with_too_many_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got 0"):
        TrustedKeys.load(tmp_path)
    for count in range(MOST_KEYS + 1):
        public, _ = new_key(tmp_path / f"{count}")
        public.rename(tmp_path / f"{count}.pem")
    with pytest.raises(ConfigError, match=f"got {MOST_KEYS + 1}"):
        TrustedKeys.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "A", "A" * 85, "A" * 87, "A" * 85 + "=", "A" * 85 + "B", "+" * 86, "A" * 40 + "\n" + "A" * 45],
)
def test_a_signature_has_one_spelling(text: str) -> None:
    assert decode_signature(text) is None
