"""Checkpoints by their name on the Hub, from a server of its protocol here: what comes, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.hub import HubName, origin_of
from sdmobile.errors import CheckpointError, ResourceError, SdmobileError, UnsupportedError
from tests.checkpoints.single import REGULAR, write_single
from tests.hub_server import Files, Hub, Repository, commit_of, read_files

NAME = Path("someone/tiny-sd")
UNET, VAE = (f"{model}/diffusion_pytorch_model{{}}.safetensors" for model in ("unet", "vae"))
SMALL = [
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
]
PLAIN = [*SMALL, "text_encoder/model.safetensors", UNET.format(""), VAE.format("")]
WANTED = [*SMALL, "text_encoder/model.safetensors", UNET.format(".fp16"), VAE.format(".fp16")]
UNWANTED = [
    "text_encoder/pytorch_model.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_flax_model.msgpack",
    "unet/model.onnx",
    "vae/sdxl.vae.pt",
    "safety_checker/model.safetensors",
    "v1-5-pruned.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "setup.py",
    "pipeline.py",
    "pictures/cat.png",
]


@pytest.fixture
def files(tiny_checkpoint: Path) -> Files:
    """What a repository of a Diffusers checkpoint usually holds, fp16 variants too."""
    files = read_files(tiny_checkpoint)
    files |= {path.format(".fp16"): files[path.format("")] for path in (UNET, VAE)}
    files |= {"README.md": b"---\nlicense: mit\n---\n"} | dict.fromkeys(UNWANTED, b"not to be read")
    return {path: files[path] for path in sorted(files)}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from tests.synthetic import write_checkpoint

    folder = tmp_path_factory.mktemp("single")
    return write_single(
        write_checkpoint(folder / "diffusers", changes=REGULAR), folder / "one.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("stabilityai/sd-turbo", HubName("stabilityai/sd-turbo")),
        ("a/b.c-1@v1.0", HubName("a/b.c-1", "v1.0")),
        ("a/b@refs/pr/3", HubName("a/b", "refs/pr/3")),
        ("a/b@refs/pr/3/x.safetensors", HubName("a/b", "refs/pr/3", "x.safetensors")),
        ("a/b@feature%2Fnew/in/x.safetensors", HubName("a/b", "feature/new", "in/x.safetensors")),
        ("a/b/x.safetensors", HubName("a/b", None, "x.safetensors")),
        *(
            (text, None)
            for text in ("sd-turbo", "/a/b", "../a/b", "a/..", "a//b", "a/b@", "a/b@%2e%2e%2Fx", "a/b/../c")
        ),
        *(
            (text, None)
            for text in ("a/b--c", "a/-b", "C:/a/b", "models/a.safetensors", "models/b.ckpt", "a b/c", "é/b")
        ),
        *((text, None) for text in ("a/" + "b" * 96, "a/b@x\n", "a/b/x\0", "")),
    ],
)
def test_what_is_a_name(text: str, name: HubName | None) -> None:
    assert HubName.parse(text) == name
    assert name is None or HubName.parse(str(name)) == name


def test_only_what_is_needed_comes_and_it_is_the_checkpoint(hub: Hub, files: Files, tmp_path: Path) -> None:
    commit = hub.add(str(NAME), files)
    checkpoint = open_checkpoint(NAME)
    assert hub.downloads() == sorted(WANTED)
    assert any("sdmobile/" in agent for agent in hub.agents)
    origin = checkpoint.origin
    assert origin is not None
    assert (checkpoint.name, origin.repository, origin.commit) == ("tiny-sd", "someone/tiny-sd", commit)
    assert checkpoint.license == "mit"
    for path in WANTED:
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes(files[path])
    local = open_checkpoint(tmp_path / "copy")
    assert local.content_hash == checkpoint.content_hash
    assert local.origin is None
    for name in (NAME, Path(str(origin))):
        assert open_checkpoint(name).path == checkpoint.path
        assert len(hub.requests) == 1  # for the list alone
        assert hub.downloads() == []
    assert open_checkpoint(checkpoint.path).content_hash == checkpoint.content_hash  # as a worker opens it


def test_what_was_downloaded_before_decides_nothing(hub: Hub, files: Files) -> None:
    from huggingface_hub import snapshot_download

    hub.add(str(NAME), files)
    snapshot_download(str(NAME), endpoint=hub.endpoint, cache_dir=os.environ["HF_HUB_CACHE"])
    checkpoint = open_checkpoint(NAME)
    assert [file.name for file in checkpoint.components["unet"].weight_files] == [Path(UNET.format(".fp16")).name]
    assert any("unet: of the weights, the variant fp16 is used" in note for note in checkpoint.notes)


def test_revisions(hub: Hub, files: Files) -> None:
    hub.add(str(NAME), files)
    branch = {path: files[path] for path in PLAIN}
    hub.repositories[str(NAME)].revisions["feature/new"] = branch
    checkpoint = open_checkpoint(Path(f"{NAME}@feature%2Fnew"))
    assert hub.downloads() == sorted(PLAIN)
    assert checkpoint.path.name == commit_of(branch)
    assert open_checkpoint(NAME).path.name == commit_of(files)


def test_shards(hub: Hub, files: Files) -> None:
    whole = UNET.format(".fp16")
    index, shard = (
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        whole.replace(".fp16", ".fp16-00001-of-00001"),
    )
    files[index] = json.dumps({"weight_map": {"conv_in.bias": Path(shard).name}}).encode()
    files[shard] = files.pop(whole)
    hub.add(str(NAME), files)
    assert open_checkpoint(NAME).components["unet"].parameters == 792_964
    assert hub.downloads() == sorted([*set(WANTED) - {whole}, index, shard])


def test_a_repository_that_is_a_single_file(hub: Hub, files: Files, single: bytes) -> None:
    beside = {path: files[path] for path in SMALL if path.startswith(("tokenizer/", "scheduler/"))}
    wanted = {"v1.safetensors": single, "v1.yaml": b"parameterization: v\n", **beside}
    commit = hub.add("someone/one", {**wanted, "v1.ckpt": b"pickle", "README.md": b"", "in/lora.safetensors": b"x"})
    checkpoint = open_checkpoint(Path("someone/one"))
    assert hub.downloads() == sorted(wanted)
    assert (checkpoint.format, checkpoint.name, checkpoint.path.name) == ("single_file", "one", "v1.safetensors")
    assert checkpoint.tokenizer_dir == checkpoint.path.parent / "tokenizer"
    origin = origin_of(checkpoint.path)
    assert origin is not None
    assert origin.commit == commit
    hub.add("someone/two", {"a.safetensors": single, "in/b.safetensors": single + b"", "c.safetensors": b"x"})
    assert open_checkpoint(Path("someone/two/in/b.safetensors")).components["unet"].parameters > 0
    assert hub.downloads() == ["in/b.safetensors"]
    with pytest.raises(CheckpointError, match=r"has a\.safetensors, c\.safetensors\. Write someone/two/FILE"):
        open_checkpoint(Path("someone/two"))
    with pytest.raises(CheckpointError, match=r"has no d\.safetensors.*a\.safetensors"):
        open_checkpoint(Path("someone/two/d.safetensors"))
    with pytest.raises(CheckpointError, match=r"only \.safetensors.*v1\.ckpt is none"):
        open_checkpoint(Path("someone/one/v1.ckpt"))


def _index(files: Files, **entries: object) -> Files:
    return {**files, "model_index.json": json.dumps({**json.loads(files["model_index.json"]), **entries}).encode()}


def test_another_pipeline_is_refused_before_its_weights_come(hub: Hub, files: Files) -> None:
    flux = _index(files, _class_name="FluxPipeline", transformer=["diffusers", "FluxTransformer2DModel"])
    hub.add("someone/flux", flux)
    with pytest.raises(UnsupportedError, match="FluxTransformer2DModel"):
        open_checkpoint(Path("someone/flux"))
    assert hub.downloads() == SMALL
    config = json.loads(files["unet/config.json"]) | {"addition_embed_type": "text_time"}
    hub.add("someone/xl", {**files, "unet/config.json": json.dumps(config).encode()})
    with pytest.raises(SdmobileError, match=r"addition_embed_type|text_time"):
        open_checkpoint(Path("someone/xl"))
    assert not [path for path in hub.downloads() if path.endswith(".safetensors")]


def test_a_single_file_of_another_architecture_is_refused_by_its_header(hub: Hub) -> None:
    import numpy as np
    from safetensors.numpy import save

    names = ("double_blocks.0.img_attn.proj.weight", "single_blocks.0.linear1.weight")
    hub.add("someone/flux", {"flux.safetensors": save({name: np.zeros((2, 2), np.float16) for name in names})})
    with pytest.raises(UnsupportedError, match=r"someone/flux/flux\.safetensors"):
        open_checkpoint(Path("someone/flux"))
    assert any("bytes=" in line for line in hub.requests)
    assert hub.downloads() == []


@pytest.mark.parametrize("closed", ["gated", "private"])
def test_closed_repositories_need_a_token(hub: Hub, files: Files, closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(str(NAME), files, token="hf_mine", **{closed: True})
    told = (
        rf"accept its terms.*{hub.endpoint}/{NAME}, then log in"
        if closed == "gated"
        else "may read.*if it is private, log in"
    )
    with pytest.raises(CheckpointError, match=told):
        open_checkpoint(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert open_checkpoint(NAME).name == "tiny-sd"


def test_what_is_not_there_is_told_in_one_line(hub: Hub, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(str(NAME), files)
    hub.add(
        "someone/pickles", {path: data for path, data in files.items() if "unet/diffusion_pytorch_model." not in path}
    )
    hub.add("someone/llm", {"config.json": b"{}", "model.safetensors": b"12345678"})
    hub.add("someone/gguf", {"model.gguf": b"GGUF"})
    for name, told in {
        "someone/none": "may read: someone/none. Correct the name",
        f"{NAME}@v9": f"{NAME} has no v9. Those that there are: {hub.endpoint}/{NAME}/tree/main",
        "someone/pickles": "unet of someone/pickles has unet/config.json, unet/diffusion_flax_model.msgpack",
        "someone/llm": "holds model_index.json, or one .safetensors file with all components",
        "someone/gguf": "someone/gguf has model.gguf",
    }.items():
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(Path(name))
        assert told in caught.value.message()
        assert "\n" not in caught.value.message()
        assert not [path for path in hub.downloads() if path.endswith(".safetensors")]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"http://127\.0\.0\.1:9 does not answer.*HF_HUB_OFFLINE=1 takes"):
        open_checkpoint(NAME)


def _offline(*names: str) -> list[str]:
    """Opens checkpoints where the Hub's client is told before its import that there is no network."""
    code = (
        "import sys; from pathlib import Path\n"
        "from sdmobile.checkpoints import open_checkpoint\n"
        "from sdmobile.errors import SdmobileError\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(open_checkpoint(Path(name)).content_hash)\n"
        "    except SdmobileError as error: print(error.message())"
    )
    command, environment = [sys.executable, "-c", code, *names], {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()


def test_offline_takes_what_is_in_the_cache(hub: Hub, files: Files) -> None:
    hub.add(str(NAME), files)
    checkpoint = open_checkpoint(NAME)
    commit = f"{NAME}@{checkpoint.path.name}"
    hub.add("someone/half", files)
    half = open_checkpoint(Path("someone/half"))
    half.components["unet"].weight_files[0].unlink()
    hub.requests.clear()
    *found, none, branch, incomplete = _offline(str(NAME), commit, "someone/else", f"{NAME}@v9", "someone/half")
    assert found == [checkpoint.content_hash] * 2
    assert "someone/else is not in the cache. Run once with the network" in none
    assert f"{NAME}@v9 is not in the cache" in branch
    assert "unet of someone/half is not in the cache" in incomplete
    assert hub.requests == []


class _Moving(Repository):
    """One whose main branch gets a new commit after the first look at it."""

    looks = 0

    def files(self, revision: str) -> Files | None:
        self.looks += revision == "main"
        return self.revisions["old"] if revision == "main" and self.looks == 1 else super().files(revision)


def test_a_branch_that_moves_meanwhile(hub: Hub, files: Files) -> None:
    hub.repositories[str(NAME)] = _Moving({"old": files, "main": {**files, "README.md": b"new"}})
    with pytest.raises(CheckpointError, match=r"must stay what it is while it is read.*Run the command again"):
        open_checkpoint(NAME)
    assert open_checkpoint(NAME).license is None


def _outside(files: Files) -> Files:
    index = {"weight_map": {"conv_in.bias": "../../secret.safetensors"}}
    left = {path: data for path, data in files.items() if not path.startswith("unet/diffusion_pytorch_model.")}
    name = "unet/diffusion_pytorch_model.safetensors.index.json"
    return {**left, name: json.dumps(index).encode(), "../secret.safetensors": b"x", "/etc/x.json": b"{}"}


def _pickled(files: Files) -> Files:
    left = {path: data for path, data in files.items() if not path.startswith("unet/diffusion_pytorch_model.")}
    index = json.dumps({"weight_map": {"conv_in.bias": "evil.bin"}}).encode()
    return {**left, "unet/diffusion_pytorch_model.safetensors.index.json": index, "unet/evil.bin": b"pickle"}


@pytest.mark.parametrize(
    ("change", "more", "told"),
    [
        (_pickled, {}, r"weights of the Hub are \.safetensors files.*evil\.bin"),
        (lambda files: files, {"etag": "../../../../escaped"}, "by a plain word"),
        (lambda files: files, {"etag": "/nowhere/escaped.pth"}, "by a plain word"),
        (lambda files: files, {"bomb": "model_index.json"}, "must not send more"),
        (lambda files: files, {"endless": "model_index.json"}, "must not send more"),
        (_outside, {}, "every file of a checkpoint must be there"),
        (lambda files: files, {"commits": "../../../escaped"}, "which commit"),
        (lambda files: {**files, "tokenizer/vocab.json": b"0" * 64_000_001}, {}, "at most 64 MB"),
    ],
    ids=[
        "pickled shards",
        "an ETag that climbs",
        "an ETag that is a path",
        "compressed",
        "no end",
        "names that climb",
        "a commit that is a path",
        "a huge small file",
    ],
)
def test_the_server_is_not_trusted(
    hub: Hub, files: Files, tmp_path: Path, change: Any, more: dict[str, str], told: str
) -> None:
    hub.add(str(NAME), change(files), **more)
    with pytest.raises(CheckpointError, match=told):
        open_checkpoint(NAME)
    assert {path.name for path in tmp_path.iterdir()} <= {"hub-cache"}
    assert not any("evil" in line for line in hub.downloads())


def test_a_page_that_is_no_hub(hub: Hub, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import hub_server

    hub.add(str(NAME), files)
    monkeypatch.setattr(hub_server, "_json", lambda value: b"<html>\x1b[31mlog in\nfirst</html>")
    with pytest.raises(CheckpointError, match="answer of the Hub must be readable") as caught:
        open_checkpoint(NAME)
    assert caught.value.message().isprintable()


def test_a_full_disk_is_told_before_the_download(hub: Hub, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    hub.add(str(NAME), files)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1, 1, 500_000))  # type: ignore[attr-defined]
    with pytest.raises(ResourceError, match=r"needs 0\.00 GB.*HF_HUB_CACHE"):
        open_checkpoint(NAME)
    assert not [path for path in hub.downloads() if path.endswith(".safetensors")]


def test_a_local_path_wins(hub: Hub, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(str(NAME), files)
    (tmp_path / NAME).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"must hold model_index.*A path that exists goes before a repository"):
        open_checkpoint(NAME)
    assert hub.requests == []
