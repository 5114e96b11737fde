"""A generation that an operator sends to a node, or wants again: staged, checked, tried, served."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeNode
from live import Digits, Node, saved_sums
from nacl.signing import SigningKey
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from edgecc import generation, manifest, signing
from edgecc.learn.readout import Readout
from edgecc.manifest import FILES
from edgecc.planner import Plan
from edgecc.sample import Input
from edgecc.trunk import Trunk, stem_trunk

SPEC, TAUGHT = Input("image", (1, 8, 8)), 400
THEIRS, STRANGER = SigningKey(b"t" * 32), SigningKey(b"s" * 32)


@pytest.fixture
def taught(make_node: MakeNode, digits: Digits) -> Node:
    """A node that has learnt 400 digits, serves generation 1, and trusts the key of another."""
    node = make_node(trusted_keys=[THEIRS.verify_key.encode().hex()])
    node.start()
    teach(node, digits, range(TAUGHT))
    save(node, 1)
    return node


def teach(node: Node, digits: Digits, numbers: range, prefix: str = "d") -> None:
    chosen = slice(numbers.start, numbers.stop)
    node.receipt(node.stream(digits[0][chosen], digits[1][chosen], prefix)[-1])


def save(node: Node, number: int) -> None:
    done = node.run("checkpoint", "save")
    assert (done.returncode, json.loads(done.stdout)["generation"]) == (0, number), done.stderr
    node.ask(np.zeros((1, 8, 8), np.uint8), generation=number)


def pulled(node: Node, number: int) -> Path:
    done = node.run("checkpoint", "pull", str(number), "--json")
    assert done.returncode == 0, done.stderr
    return node.folder / json.loads(done.stdout)["folder"]


def made(
    root: Path, trunk: Trunk, readout: Readout | None = None, key: SigningKey = THEIRS,
    spec: Input = SPEC, **rest: Any,
) -> Path:
    """A generation that another node has signed."""
    about = generation.base_manifest(
        "other", spec, **({"cursor": 60, "recipe": {"seed": 0, "scaled_on": 0}} | rest))
    generation.write(
        root / "part", manifest=about, trunk=trunk, readout=readout or Readout(trunk.dim))
    (root / "made").mkdir(exist_ok=True)
    number = generation.adopt(root / "part", root / "made", key).number
    return root / "made" / generation.name_of(number)


def poor() -> Trunk:
    """Two features, which tell few digits apart."""
    return stem_trunk(Plan(1, 1, (), 16, 64, {}), SPEC, seed=0)


def push(node: Node, folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, answer, and what is on stderr."""
    done = node.run("checkpoint", "push", str(folder), *arguments)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def event(node: Node, kind: str, after: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = node.peer.wait(
        lambda m: m.topic == node.topic("event") and m.json["type"] == kind, after=after).json
    return found


def sums(node: Node) -> tuple[list[str], bytes, bytes]:
    """What the stopped node's readout knows; classes in order of name."""
    [path] = node.state.glob("live*.safetensors")
    return ordered(*saved_sums(path))


def ordered(classes: list[str], a: Any, b: Any) -> tuple[list[str], bytes, bytes]:
    order = np.argsort(classes)
    return sorted(classes), a.tobytes(), b[order].tobytes()


def test_p16_what_is_no_worse_serves_and_joins_what_both_nodes_know_to_the_bit(
    taught: Node, make_node: MakeNode, digits: Digits
) -> None:
    """Another node's samples, this one's before, and this one's after the push."""
    other = make_node()
    other.start()
    teach(other, digits, range(500, 700))
    save(other, 1)
    folder = pulled(other, 1)
    key = json.loads(other.run("keys", "show", "--json").stdout)[0]["public_key"]
    assert taught.stop() == 0
    mine = sums(taught)
    taught.settings["trusted_keys"] = [key]
    taught.__post_init__()
    taught.start()
    heard = len(taught.peer.messages)
    code, answer, said = push(taught, folder)
    assert code == 0, said
    assert (answer["generation"], answer["swapped"], answer["forced"]) == (2, True, False)
    assert 0 < answer["held_out_serving"] <= answer["held_out"] <= 1
    assert answer["held_rows"] == len(taught.rows(
        "SELECT 1 FROM sample WHERE held AND label IS NOT NULL")) > 10
    assert (answer["pushed"]["node"], answer["pushed"]["generation"]) == (other.name, 1)
    trial = event(taught, "trial", heard)
    assert trial["data"] == answer | {"asked": "push"}
    assert event(taught, "generation", heard)["data"]["generation"] == 2
    teach(taught, digits, range(TAUGHT, TAUGHT + 50), prefix="later")
    taught.ask(digits[0][0], generation=2)
    assert taught.stop() == 0
    theirs = generation.load(folder, [signing.parse_key(key)]).readout
    both = Readout(theirs.dim)
    both.merge(theirs)
    both.merge(readout(taught, mine))
    later = Readout(theirs.dim)
    trunk = generation.load(folder, [signing.parse_key(key)])
    learn(later, trunk, digits, range(TAUGHT, TAUGHT + 50))
    both.merge(later)
    assert sums(taught) == ordered(both.classes, *both.sums())
    assert not (taught.state / "pushed").exists()
    taught.start()
    assert taught.ask(digits[0][0])["generation"] == 2


def readout(node: Node, known: tuple[list[str], bytes, bytes]) -> Readout:
    classes, a, b = known
    d = len(b) // 8 // len(classes)
    found = Readout(d - 1, list(classes))
    found.A = np.frombuffer(a).reshape(d, d).copy()
    found.B = np.frombuffer(b).reshape(len(classes), d).copy()
    return found


def learn(into: Readout, found: generation.Generation, digits: Digits, numbers: range) -> None:
    from edgecc.interpreter import Interpreter
    from edgecc.learn.readout import to_whole

    run = Interpreter(found.model).run
    for n in numbers:
        into.learn(to_whole(run(found.trunk.scale(digits[0][n]))), str(digits[1][n]))


def test_a_node_that_knows_nothing_yet_predicts_at_once_what_was_taught_elsewhere(
    taught: Node, make_node: MakeNode, digits: Digits
) -> None:
    folder = pulled(taught, 1)
    fresh = make_node(trusted_keys=[
        json.loads(taught.run("keys", "show", "--json").stdout)[0]["public_key"]])
    fresh.start()
    code, answer, said = push(fresh, folder)
    assert (code, answer["held_rows"], answer["held_out"]) == (0, 0, None), said
    there = [taught.ask(image) for image in digits[0][1000:1020]]
    here = [fresh.ask(image, generation=1) for image in digits[0][1000:1020]]
    assert [one["top"] for one in here] == [one["top"] for one in there]


def test_p16_what_is_worse_is_refused_with_both_figures_and_swapped_by_force(
    taught: Node, tmp_path: Path, digits: Digits
) -> None:
    before, folder = taught.ask(digits[0][1000]), made(tmp_path, poor())
    heard = len(taught.peer.messages)
    code, answer, said = push(taught, folder)
    assert (code, answer["swapped"]) == (1, False)
    assert answer["held_out"] < answer["held_out_serving"]
    for figure in (answer["held_out"], answer["held_out_serving"]):
        assert f"{figure:.1%}" in said
    assert "--force" in said
    trial = event(taught, "trial", heard)
    assert (trial["severity"], trial["data"]["swapped"]) == ("warning", False)
    same = taught.ask(digits[0][1000])
    assert (same["generation"], same["top"]) == (1, before["top"])
    assert generation.numbers(taught.state / "generations") == [0, 1]
    code, answer, said = push(taught, folder, "--force")
    assert (code, answer["swapped"], answer["forced"], answer["generation"]) == (0, True, True, 2)
    assert answer["held_out"] < answer["held_out_serving"]
    assert taught.ask(digits[0][1000], generation=2)["generation"] == 2
    # ... and back: a rollback is tried like a push
    done = taught.run("checkpoint", "rollback", "1")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["swapped"], answer["generation"]) == (0, True, 1), done.stderr
    assert answer["held_out"] > answer["held_out_serving"]
    deadline_serves(taught, 1, digits)
    assert taught.ask(digits[0][1000])["top"] == before["top"]
    worse = taught.run("checkpoint", "rollback", "2")
    answer = json.loads(worse.stdout)
    assert (worse.returncode, answer["swapped"]) == (1, False)
    assert f"{answer['held_out']:.1%}" in worse.stderr
    assert f"{answer['held_out_serving']:.1%}" in worse.stderr
    assert taught.ask(digits[0][1000])["generation"] == 1
    assert taught.run("checkpoint", "rollback", "2", "--force").returncode == 0
    deadline_serves(taught, 2, digits)


def deadline_serves(node: Node, number: int, digits: Digits) -> None:
    node.peer.wait(lambda m: m.topic == node.topic("health") and m.json["generation"] == number,
                   after=len(node.peer.messages))


def test_p16_a_trial_leaves_the_live_sums_as_they_were_to_the_bit(
    taught: Node, tmp_path: Path
) -> None:
    assert taught.stop() == 0
    before = sums(taught)
    taught.start()
    assert push(taught, made(tmp_path, poor()))[0] == 1
    assert taught.stop() == 0
    assert sums(taught) == before


def test_an_own_generation_that_was_pruned_since_comes_back_as_in_a_rollback(
    taught: Node, digits: Digits
) -> None:
    folder, before = pulled(taught, 1), taught.ask(digits[0][1000])
    digest = json.loads(taught.run("checkpoint", "list", "--json").stdout)[1]["digest"]
    assert taught.run("checkpoint", "save").returncode == 0
    taught.ask(digits[0][0], generation=2)
    assert taught.stop() == 0
    shutil.rmtree(taught.state / "generations" / "000001")
    taught.start()
    code, answer, said = push(taught, folder)
    assert (code, answer["generation"], answer["digest"]) == (0, 3, digest), said
    assert taught.ask(digits[0][1000], generation=3)["top"] == before["top"]


def test_an_own_generation_of_another_log_is_refused(taught: Node) -> None:
    """Its cursor would count other labels than this log's."""
    folder = pulled(taught, 1)
    assert taught.stop() == 0
    for path in taught.state.iterdir():
        if path.name not in ("node.key", "keys.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    taught.start()
    code, _, said = push(taught, folder)
    assert (code, "not on the log that it has now" in said) == (76, True)


# --- what is refused ---


def wide() -> Trunk:
    return stem_trunk(Plan(200, 4, (), 16, 64, {}), SPEC, seed=0)


def other_input(root: Path) -> Path:
    spec = Input("image", (1, 9, 9))
    return made(root, stem_trunk(Plan(4, 3, (), 16, 64, {}), spec, seed=0), spec=spec)


def resigned(folder: Path, edit: Callable[[Path], object], key: SigningKey = THEIRS) -> Path:
    """After `edit` of its files, signed anew by the key that the node trusts."""
    found = generation.unsigned(folder)
    assert found is not None
    edit(folder)
    described = found.with_files(folder)
    (folder / "manifest.json").write_bytes(signing.sign(described.to_json(), key))
    return folder


def tensors(name: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        found = {k: v.copy() for k, v in load_tensors((folder / name).read_bytes()).items()}
        edit(found)
        (folder / name).write_bytes(save_tensors(found))

    return change


def nan(found: dict[str, Any]) -> None:
    found["0.bias"][-1] = np.nan


def another_model(folder: Path) -> None:
    (folder / "trunk.tflite").write_bytes(wide().compile())


def no_model(folder: Path) -> None:
    (folder / "trunk.tflite").write_bytes(b"not a model at all")


def longer_header(folder: Path) -> None:
    path = folder / "readout.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])


def fewer_rows(found: dict[str, Any]) -> None:
    found["0.conv.0"] = found["0.conv.0"][:, :, :2].copy()


def half_floats(found: dict[str, Any]) -> None:
    found["0.bias"] = found["0.bias"].astype(np.float16)


LIES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "unknown key": (lambda root: made(root, poor(), key=STRANGER), "no valid signature"),
    "NaN": (lambda root: resigned(made(root, poor()), tensors("blocks.safetensors", nan)), "NaN"),
    "dtype": (lambda root: resigned(
        made(root, poor()), tensors("blocks.safetensors", half_floats)), "float16"),
    "shapes": (lambda root: resigned(
        made(root, poor()), tensors("blocks.safetensors", fewer_rows)), "shapes"),
    "header": (lambda root: resigned(made(root, poor()), longer_header), "do not fit"),
    "another model": (lambda root: resigned(made(root, poor()), another_model), "features"),
    "no model": (lambda root: resigned(made(root, poor()), no_model), "does not run"),
    "another input": (other_input, "this node takes"),
    "more features than there is memory for": (lambda root: made(root, wide()), "memory_budget"),
    "a readout that cannot be solved": (lambda root: made(root, poor(), unsolvable()), "readout"),
}


def unsolvable() -> Readout:
    """Finite sums that no samples make."""
    found = Readout(poor().dim, ["0", "1"])
    found.A[:], found.A[0, 0] = 1e308, 0
    return found


def test_p15_a_push_that_lies_is_refused_with_76_by_name_and_what_serves_goes_on(
    taught: Node, tmp_path: Path, digits: Digits
) -> None:
    before, log = taught.ask(digits[0][1000]), taught.rows("SELECT MAX(seq) FROM label")
    for lie, (make, name) in LIES.items():
        root = tmp_path / lie.replace(" ", "-")
        root.mkdir()
        heard = len(taught.peer.messages)
        code, answer, said = push(taught, make(root))
        assert (code, answer) == (76, {}), (lie, said)
        assert name in said, (lie, said)
        if lie != "a readout that cannot be solved":  # found out in the trial
            assert name in event(taught, "push-refused", heard)["data"]["reason"]
    after = taught.ask(digits[0][1000])
    assert (after["generation"], after["top"]) == (1, before["top"])
    assert generation.numbers(taught.state / "generations") == [0, 1]
    assert taught.rows("SELECT MAX(seq) FROM label") == log


def test_p15_a_flipped_bit_in_any_file_that_is_pushed_is_refused_with_76(
    taught: Node, tmp_path: Path, digits: Digits
) -> None:
    folder = made(tmp_path, poor())
    for name in (*FILES, "manifest.json"):
        whole = (folder / name).read_bytes()
        data = bytearray(whole)
        data[len(whole) // 2] ^= 4
        (folder / name).write_bytes(data)
        code, _, said = push(taught, folder)
        assert code == 76, (name, said)
        (folder / name).write_bytes(whole)
    assert taught.ask(digits[0][1000])["generation"] == 1


# --- over the wire, by an operator that is not ours ---


def ask_push(node: Node, envelope: bytes, **args: Any) -> dict[str, Any]:
    heard = len(node.peer.messages)
    body = {"id": f"p{heard}", "args": {"manifest": envelope.decode(), **args}}
    node.peer.publish(node.topic("command/push"), json.dumps(body))
    found: dict[str, Any] = node.peer.wait(
        lambda m: m.topic == node.topic("response/push") and m.json["id"] == body["id"],
        after=heard).json
    return found


def chunks(folder: Path) -> dict[str, bytes]:
    """By their digests, as they are asked for."""
    found = {}
    for name in FILES:
        data = (folder / name).read_bytes()
        for index, digest in enumerate(manifest.describe(data).chunks):
            found[digest] = data[index * manifest.CHUNK : (index + 1) * manifest.CHUNK]
    return found


def test_p16_staging_takes_only_what_the_signature_vouches_for_and_goes_on_after_a_kill(
    taught: Node, tmp_path: Path, digits: Digits
) -> None:
    folder = made(tmp_path, poor())
    envelope, known = (folder / "manifest.json").read_bytes(), chunks(folder)
    first = ask_push(taught, envelope)["data"]
    assert (set(first["wants"]), first["missing"]) == (set(known), len(known))
    for junk in (b"", b"junk", b"x" * manifest.CHUNK, *(c + b"\0" for c in known.values())):
        taught.peer.publish(taught.topic("checkpoint/put"), junk)
    assert ask_push(taught, envelope)["data"] == first
    some, *rest = first["wants"]
    taught.peer.publish(taught.topic("checkpoint/put"), known[some])
    assert ask_push(taught, envelope)["data"]["wants"] == rest
    taught.kill()
    taught.start()
    assert ask_push(taught, envelope)["data"]["wants"] == rest
    [staged] = (taught.state / "pushed").iterdir()
    assert {path.name for path in staged.iterdir()} == set(FILES)
    for digest in rest * 2:
        taught.peer.publish(taught.topic("checkpoint/put"), known[digest])
    answer = ask_push(taught, envelope, force=True)
    assert (answer["status"], answer["data"]["generation"]) == ("ok", 2)
    assert taught.ask(digits[0][1000], generation=2)["generation"] == 2


def test_p16_staging_is_bounded_and_only_one_is_staged(taught: Node, tmp_path: Path) -> None:
    folder = made(tmp_path, poor())
    found = generation.unsigned(folder)
    assert found is not None
    huge = manifest.File(200 * 2**20, "0" * 64, ("0" * 64,) * 3200)
    lying = replace(found, files={**found.files, "readout.safetensors": huge})
    answer = ask_push(taught, signing.sign(lying.to_json(), THEIRS))
    assert (answer["code"], "more than this node takes" in answer["error"]) == (76, True)
    for cursor in (1, 2):
        ask_push(taught, (made(tmp_path, poor(), cursor=cursor) / "manifest.json").read_bytes())
        assert len(list((taught.state / "pushed").iterdir())) == 1
    assert ask_push(taught, b"{}")["code"] == 76
    answer = ask_push(taught, b"{}", manifest=5)
    assert (answer["code"], "push needs" in answer["error"]) == (1, True)


def test_a_full_disk_is_named_keeps_the_part_and_the_push_goes_on_once_there_is_room(
    taught: Node, tmp_path: Path, digits: Digits
) -> None:
    staged = taught.state / "pushed"
    staged.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", staged],
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs")
    try:
        folder = made(tmp_path, poor(), cursor=7)
        code, _, said = push(taught, folder)
        assert (code, "what has come so far is kept" in said) == (1, True), said
        assert taught.ask(digits[0][1000])["generation"] == 1
        part = next(staged.iterdir()) / "blocks.safetensors"
        assert part.read_bytes() == (folder / part.name).read_bytes()
        subprocess.run(["mount", "-o", "remount,size=4m", staged], check=True)
        code, answer, said = push(taught, folder)
        assert (code, answer["swapped"]) == (1, False), said  # it came whole, and it is worse
    finally:
        subprocess.run(["umount", "-l", staged], check=True)
