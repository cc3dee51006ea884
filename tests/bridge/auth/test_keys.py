"""Keys in files: their modes, their names, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from worldsim.bridge.auth.keys import ServerKeys, add_client, main, read_clients
from worldsim.errors import BridgeError


def test_a_pair_is_made_for_the_client_and_once_for_the_server(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    secret = add_client(folder, "robot")
    server = ServerKeys.read(folder)
    add_client(folder, "other")
    assert ServerKeys.read(folder) == server
    assert (folder / "server.public").read_text().strip() == server.public
    public = zmq.curve_public(secret.read_bytes().strip()).decode()
    assert read_clients(folder)[public] == "robot"
    assert sorted(read_clients(folder).values()) == ["other", "robot"]


def test_keys_are_their_owners_only(tmp_path: Path) -> None:
    add_client(tmp_path / "keys", "robot")
    for path in [tmp_path / "keys", *(tmp_path / "keys").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    add_client(tmp_path, "robot")
    (tmp_path / "server.secret").chmod(0o644)
    with pytest.raises(BridgeError, match=r"owner only.*644.*chmod 600"):
        ServerKeys.read(tmp_path)


@pytest.mark.parametrize("name", ["", "server", "../up", "a/b", ".hidden", "-x", "a\n", "x" * 65, "ä"])
def test_a_name_must_be_a_plain_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(BridgeError, match="client's name"):
        add_client(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_given_once(tmp_path: Path) -> None:
    secret = add_client(tmp_path, "robot")
    with pytest.raises(BridgeError, match="must be new"):
        add_client(tmp_path, "robot")
    secret.unlink()
    with pytest.raises(BridgeError, match="must be new"):
        add_client(tmp_path, "robot")


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 41, b"\xff" * 40, b'"' * 40])
def test_what_is_no_key_is_refused_and_lets_nobody_in(tmp_path: Path, content: bytes) -> None:
    add_client(tmp_path, "robot")
    (tmp_path / "clients" / "broken.public").write_bytes(content)
    assert list(read_clients(tmp_path).values()) == ["robot"]
    (tmp_path / "server.secret").write_bytes(content)
    with pytest.raises(BridgeError, match="a key must be"):
        ServerKeys.read(tmp_path)


def test_without_a_folder_there_is_nobody_and_no_server(tmp_path: Path) -> None:
    assert read_clients(tmp_path / "none") == {}
    with pytest.raises(BridgeError, match="worldsim keys new"):
        ServerKeys.read(tmp_path / "none")


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    add_client(tmp_path, "robot")
    keys = ServerKeys.read(tmp_path)
    assert keys.secret not in repr(keys)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "robot", "--dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "robot.secret") in said
    assert (tmp_path / "robot.secret").read_text().strip() not in said
    with pytest.raises(SystemExit):
        main([])
