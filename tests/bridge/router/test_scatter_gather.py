from __future__ import annotations

from worldsim.bridge.router.scatter_gather import GatheredReplies, join_steps, split_items, sum_info
from worldsim.bridge.wire.protocol import Message, error_body
from worldsim.errors import BridgeError


def step(name: str, **more: object) -> dict[str, object]:
    return {"session": name, "step": {"seq": 1, **more}}


def test_items_go_to_their_engines() -> None:
    items = [{"session": "a"}, {"session": "b"}, {"session": "x"}, {"session": "a"}, 7]
    assert split_items(items, {"a": 0, "b": 1}) == ({0: [0, 3], 1: [1]}, [2, 4])


def test_pictures_come_back_in_the_order_of_the_items() -> None:
    failed = {"session": "c", "error": {}}
    one = Message({"items": [step("a"), failed, step("a")]}, [b"aaAA"])
    other = Message({"items": [step("b")]}, [b"bb"])
    items, payloads = join_steps(5, [([0, 2, 3], one), ([1], other)], {4: {"error": {}}})
    assert items == [step("a"), step("b"), failed, step("a"), {"error": {}}]
    assert payloads == [b"aabbAA"]


def test_pictures_of_many_lengths() -> None:
    one = Message({"items": [step("a", bytes=1), step("a", bytes=3)]}, [b"AXYZ"])
    other = Message({"items": [step("b", bytes=2)]}, [b"bb"])
    assert join_steps(3, [([0, 2], one), ([1], other)], {})[1] == [b"AbbXYZ"]


def test_no_pictures() -> None:
    assert join_steps(1, [([0], Message({"items": [step("a")]}))], {})[1] == []


def test_what_engines_tell_is_added_up() -> None:
    info = {"sessions": 2, "offloaded": 0, "slots": 4, "free": 2, "waiting": 1, "world": "w"}
    idle = {**info, "batch_mean": None, "step_p50_ms": None, "step_p99_ms": None}
    busy = {**info, "batch_mean": 3.0, "step_p50_ms": 5.0, "step_p99_ms": 9.0}
    total = sum_info([idle, busy])
    assert (total["sessions"], total["slots"], total["batch_mean"], total["step_p99_ms"]) == (4, 8, 3.0, 9.0)
    assert (total["world"], total["replicas"]) == ("w", 2)
    assert sum_info([idle])["step_p50_ms"] is None


def gather(*replies: Message | None) -> list[object]:
    heard: list[object] = []
    gathered = GatheredReplies(
        len(replies), on_success=heard.append, on_error=lambda error: heard.append(error.code)
    )
    for number, reply in enumerate(replies):
        assert not heard
        gathered.of(number)(reply)
    return heard


def test_replies_are_handed_on_together() -> None:
    good = Message({"ok": True})
    bad = Message({"ok": False, "error": error_body(BridgeError("no", code="RESOURCE_EXHAUSTED"))})
    assert gather(good, good) == [[(0, good), (1, good)]]
    assert gather(good, bad, good) == ["RESOURCE_EXHAUSTED"]
    assert gather(None, good) == ["UNAVAILABLE"]
