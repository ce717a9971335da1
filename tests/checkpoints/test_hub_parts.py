"""LoRAs, learned words, autoencoders and control networks by their names on the Hub, as from a path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from typer.testing import CliRunner

from sdmobile.checkpoints import Changes, Checkpoint, LoraFile, open_checkpoint
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.checkpoints.embeddings import EmbeddingFile
from sdmobile.checkpoints.hub_parts import CONTROL, EMBEDDING, LORA, VAE, located
from sdmobile.cli.app import app
from sdmobile.cli.arguments import changes_of
from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError
from sdmobile.exporters.request import ExportRequest, make_plan
from tests.families.test_unet_control import write_controlnet
from tests.hub_server import Files, Hub, read_files

MATRIX = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _lora(tiny: Path, rank: int = 2) -> bytes:
    width = open_checkpoint(tiny).components["unet"].tensors[f"{MATRIX.removeprefix('unet.')}.weight"].shape[0]
    return save({f"{MATRIX}.lora_A.weight": _random(rank, width), f"{MATRIX}.lora_B.weight": _random(width, rank)})


@pytest.fixture(scope="module")
def lora(tiny_checkpoint: Path) -> bytes:
    return _lora(tiny_checkpoint)


@pytest.fixture(scope="module")
def word() -> bytes:
    return save({"<toy>": _random(2, 32)})


def _same(found: Checkpoint, wanted: Checkpoint) -> None:
    assert not found.misfits
    assert found.content_hash == wanted.content_hash != ""


def _put(place: Path, data: bytes) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def test_a_lora_is_that_of_the_path(hub: Hub, tiny_checkpoint: Path, lora: bytes, tmp_path: Path) -> None:
    commit = hub.add(
        "someone/style",
        {
            "README.md": b"",
            "pytorch_lora_weights.safetensors": lora,
            "other.safetensors": b"x",
            "in/a.safetensors": lora,
        },
    )
    path = _put(tmp_path / "a.safetensors", lora)
    wanted = open_checkpoint(tiny_checkpoint, changes=Changes(loras=(LoraFile(path, 0.5),)))
    for name, file in (
        ("someone/style", "pytorch_lora_weights.safetensors"),
        ("someone/style@main", "pytorch_lora_weights.safetensors"),
        (f"someone/style@{commit}/in/a.safetensors", "in/a.safetensors"),
        ("someone/style/in/a.safetensors", "in/a.safetensors"),
    ):
        found = open_checkpoint(tiny_checkpoint, changes=changes_of([f"{name}:0.5"], None, None))
        assert hub.downloads() in ([file], [])
        _same(found, wanted)
        stated = found.changes["loras"][0]
        assert (stated["name"], stated["scale"]) == (f"someone/style@{commit}/{file}", 0.5)
        again = LoraFile.parse(f"{stated['name']}:0.5")  # as an error names it
        assert again.path.read_bytes() == lora
        assert again.path.is_relative_to(os.environ["HF_HUB_CACHE"])
    assert LoraFile.parse("someone/style").scale == 1.0
    assert LoraFile.from_json(json.loads(json.dumps(again.to_json()))) == again  # to a worker, which asks nobody


def test_a_word_an_autoencoder_and_a_control_network(
    hub: Hub, tiny_checkpoint: Path, word: bytes, tmp_path: Path
) -> None:
    vae = {f"{file.name}": file.read_bytes() for file in (tiny_checkpoint / "vae").iterdir()}
    net = read_files(write_controlnet(tiny_checkpoint, tmp_path / "net"))
    pickled = tmp_path / "toy.bin"
    torch.save({"<toy>": _random(2, 32)}, pickled)
    hub.add(
        "someone/toy", {"learned_embeds.safetensors": word, "learned_embeds.bin": b"x", "token_identifier.txt": b""}
    )
    hub.add("someone/pickle", {"learned_embeds.bin": pickled.read_bytes()})
    hub.add("someone/vae", {**vae, "diffusion_pytorch_model.bin": b"x", "old.safetensors": b"x"})
    hub.add("someone/whole", {**read_files(tiny_checkpoint), "net/README.md": b""})
    hub.add("someone/sd-controlnet-canny", {**net, "diffusion_pytorch_model.bin": b"x"})
    hub.add("someone/nets", {f"canny/{path}": data for path, data in net.items()})

    local = EmbeddingFile(_put(tmp_path / "toy.safetensors", word), "cat")
    wanted = open_checkpoint(tiny_checkpoint, changes=Changes(embeddings=(local,)))
    for name in ("someone/toy", "someone/toy/learned_embeds.safetensors"):
        _same(open_checkpoint(tiny_checkpoint, changes=changes_of(None, [f"{name}:cat"], None)), wanted)
    assert hub.downloads() == ["learned_embeds.safetensors"]
    unpickled = open_checkpoint(tiny_checkpoint, changes=changes_of(None, ["someone/pickle"], None))
    assert unpickled.added_tokens == ("<toy>", "<toy>_1")
    assert (unpickled.embeddings[0].vectors("text_encoder") == _random(2, 32).numpy()).all()
    hub.requests.clear()

    wanted = open_checkpoint(tiny_checkpoint, changes=Changes(vae=tiny_checkpoint / "vae"))
    _same(open_checkpoint(tiny_checkpoint, changes=changes_of(None, None, Path("someone/vae"))), wanted)
    assert hub.downloads() == ["config.json", "diffusion_pytorch_model.safetensors"]
    for name in ("someone/whole", "someone/whole/vae"):
        found = open_checkpoint(tiny_checkpoint, changes=changes_of(None, None, Path(name)))
        _same(found, wanted)
        assert found.changes["vae"]["name"].startswith("someone/whole@")
    assert hub.downloads() == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]

    wanted = open_checkpoint(tiny_checkpoint, controls=[ControlFolder(tmp_path / "net")])
    for name, called in (("someone/sd-controlnet-canny", "sd_controlnet_canny"), ("someone/nets/canny", "canny")):
        found = open_checkpoint(tiny_checkpoint, controls=[ControlFolder.parse(name)])
        _same(found, wanted)
        assert [control.name for control in found.family.controls] == [called]
    controls = (ControlFolder.parse("someone/sd-controlnet-canny:0.5"),)
    request = ExportRequest(tiny_checkpoint, "onnx", tmp_path / "out", controls=controls)
    job = make_plan(request).job("unet", tmp_path)  # a worker finds the same files, and asks nobody
    hub.requests.clear()
    assert [control.scale for control in job.controls] == [0.5]
    assert job.controls[0].path.is_relative_to(os.environ["HF_HUB_CACHE"])
    _same(open_checkpoint(tiny_checkpoint, controls=[ControlFolder(job.controls[0].path)]), wanted)
    assert (
        ControlFolder.parse("./someone/sd-controlnet-canny:0.5").path == Path("someone/sd-controlnet-canny").absolute()
    )
    assert hub.requests == []


def _without(files: Files, ending: str) -> Files:
    return {path: data for path, data in files.items() if not path.endswith(ending)}


def test_what_is_not_there_is_told_by_its_kind(hub: Hub, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = read_files(tiny_checkpoint / "vae")
    net = {**folder, "config.json": b'{"_class_name": "ControlNetXSAdapter"}'}
    hub.add("someone/two", {"a.safetensors": b"x", "b.safetensors": b"x", "c.bin": b"x"})
    hub.add("someone/none", {"README.md": b"", "model.ckpt": b"x"})
    hub.add("someone/bin", {**_without(folder, ".safetensors"), "diffusion_pytorch_model.bin": b"x"})
    hub.add("someone/net", net)
    for name, part, told in (
        ("someone/else", LORA, "a LoRA must be a path that exists, or a repository of the Hub that you may read"),
        (
            "someone/two",
            LORA,
            r"a LoRA of the Hub is \.safetensors: someone/two has a\.safetensors, b\.safetensors\. Write",
        ),
        ("someone/two/d.safetensors", LORA, r"someone/two has no d\.safetensors\. Write someone/two/FILE"),
        ("someone/two/c.bin", LORA, r"someone/two has no c\.bin"),
        ("someone/two@v9", LORA, "someone/two has no v9"),
        ("someone/none", EMBEDDING, r"is \.safetensors or \.bin or \.pt: someone/none has README"),
        ("someone/none", VAE, "an autoencoder of the Hub is"),
        (
            "someone/bin",
            VAE,
            r"only \.safetensors files are taken from the Hub: someone/bin has config\.json, diffusion",
        ),
        (
            "someone/two",
            CONTROL,
            r"a folder with config\.json: someone/two has a\.safetensors, .*Write someone/two/FOLDER",
        ),
        ("someone/none/canny", CONTROL, "someone/none has no canny"),
    ):
        with pytest.raises(CheckpointError, match=told) as caught:
            located(name, part)
        assert "\n" not in caught.value.message()
    with pytest.raises(UnsupportedError, match=r"must be of ControlNetModel or .*someone/net: ControlNetXSAdapter"):
        located("someone/net", CONTROL)
    assert not [path for path in hub.downloads() if path.endswith((".safetensors", ".bin"))]


def test_what_is_said_to_be_here_is_not_asked_for(
    hub: Hub, tiny_checkpoint: Path, lora: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("someone/style", {"a.safetensors": lora})
    hub.add("someone/tiny", read_files(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["inspect", "./someone/tiny"],
        ["inspect", f"{tmp_path}/someone/tiny"],
        ["inspect", "~/someone/tiny"],
        ["inspect", "../someone/tiny"],
        ["export", "./someone/tiny", "--target", "onnx"],
        ["generate", "./someone/tiny", "-p", "x"],
        ["rewrites", "explain", "./someone/tiny"],
        ["inspect", str(tiny_checkpoint), "--lora", "./someone/style:0.5"],
        ["inspect", str(tiny_checkpoint), "--lora", "./someone/style/a.safetensors"],
        ["inspect", str(tiny_checkpoint), "--embedding", "./someone/style/a.safetensors:toy"],
        ["inspect", str(tiny_checkpoint), "--vae", "./someone/style"],
        ["export", str(tiny_checkpoint), "--target", "onnx", "--control", "./someone/style"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, SdmobileError), (arguments, result.output)
        assert "Hub must" not in str(result.exception)
    assert hub.requests == []
    save_file({"x": _random(1)}, _put(tmp_path / "someone/style/b.safetensors", b""))
    assert located("someone/style/b.safetensors", LORA) == Path("someone/style/b.safetensors")  # a path that exists
    assert hub.requests == []


def test_offline_takes_what_came_before(hub: Hub, lora: bytes) -> None:
    hub.add("someone/style", {"a.safetensors": lora, "b.safetensors": lora})
    located("someone/style/a.safetensors", LORA)
    hub.requests.clear()
    code = (
        "import sys; from sdmobile.checkpoints.hub_parts import LORA, located\n"
        "from sdmobile.errors import SdmobileError\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(located(name, LORA).name)\n"
        "    except SdmobileError as error: print(error.message())"
    )
    names = ["someone/style/a.safetensors", "someone/style/b.safetensors", "someone/else"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, env=environment, check=True
    )
    here, other, unknown = run.stdout.splitlines()
    assert here == "a.safetensors"
    assert "b.safetensors of someone/style/b.safetensors is not in the cache" in other
    assert "a LoRA of the Hub must have been downloaded before: someone/else is not in the cache" in unknown
    assert hub.requests == []
