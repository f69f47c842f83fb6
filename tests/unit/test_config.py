"""Valid and invalid configurations."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.config import CONFIG_DIR, load_config
from src.mlops.errors import ConfigError
from src.mlops.modelfile.locate import LATEST_FILES


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lerning_rate=1", "training.lerning_rate"),
        ("+training.lerning_rate=1", "training.lerning_rate: "),
        ("training.batch_size=0", r"training\.batch_size: .*\b0\b"),
        ("training.epochs=many", "training.epochs: .*'many'"),
        ("data.split.test_size=1.0", "data.split.test_size"),
        ("data.split.test_size=nan", "data.split.test_size"),
        ("model=resnet_1000", "Could not find 'model/resnet_1000'"),
        ("device=tpu", "device"),
        ("training.epochs=${nowhere}", "nowhere"),
        ("device=cuda:01", "device: .*auto, cpu, mps, cuda, .*'cuda:01'"),
        ("export.opset=17", r"export\.opset: .*18.*\b17\b"),
        ("export.opset=24", r"export\.opset: .*23.*\b24\b"),
        ("export.variant=fp8", r"export\.variant: .*'fp16'.*'fp8'"),
        ("seed=-1", "seed"),
        ("seed=99999999999999999999", "seed: .*4294967295"),
        ("ckpt_path=models/x.pt", r"ckpt_path: .*\.pth.*models/x\.pt"),
        ("ckpt_path=models/x", r"ckpt_path: .*\.pth.*models/x"),
        ("ckpt_path=models/x.onnx", r"ckpt_path: .*\.pth.*models/x\.onnx"),
        ("training.start_from=models/x.pt", r"training\.start_from: .*\.pth.*models/x\.pt"),
        ("training.frozen_epochs=18", r"training: frozen_epochs .*below epochs=18, but is 18"),
        ("training.size_schedule=[[32,0.7],[40,0.4]]", r"training: .*size_schedule .*1\.1"),
        ("training.size_schedule=[[32,0]]", r"training\.size_schedule\.0\.1"),
        ("training.augmentation.brightness=1e9", r"training\.augmentation\.brightness: .*10"),
        ("training.optimizer.lr=true", "lr .*above 0.*True"),
        ("hparams_search.space=[]", r"hparams_search\.space"),
        ("hparams_search.space=[{key:seed,choices:[1]},{key:seed,choices:[2]}]", "space .*seed several times"),
        ("run_dir=''", "run_dir: .*path"),
        ("training.optimizer.lr=abc", "lr .*above 0.*'abc'"),
        ("training.optimizer.lr=0", "lr .*above 0.* 0\\."),
        ("training.optimizer.weight_decay=inf", "training\\.optimizer: all numbers must be finite.*inf"),
        ("model.dropout=nan", "model: all numbers must be finite.*nan"),
        ("~tracking", "^tracking: this key is missing\\. See configshydra/"),
        ("model=null", "^Config group .*NoneType\\. See configshydra/"),
        ("training.epochs", "'training\\.epochs' must have the form key=value"),
        ("tracking.project=signs", "tracking: project is not used with backend=csv.*tracking=wandb"),
        ("training.leave_out=33,34", r"several values.*A list needs brackets"),
        ("training.size_schedule=[[32,0.5]", r"closing bracket.*Write 'training\.size_schedule=\"\[\[32,0\.5\]\"'"),
        ("classes=france", "classes/france"),
        ("data.raw_url=gs://bucket/raw", "data: raw_url .*source=gcs.*data\\.raw_url=null"),
    ],
)
def test_invalid_overrides_are_rejected(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([override])


def test_relative_paths_start_at_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(["data.raw_dir=some/where"])
    assert config.data.raw_dir == ROOT / "some/where"
    assert config.to_dict()["data"]["raw_dir"] == "some/where"


def test_every_key_has_a_comment() -> None:
    for path in CONFIG_DIR.rglob("*.yaml"):
        if path.parent.name != "experiment":  # the keys of experiments are explained in other files
            keys = [line for line in path.read_text().splitlines() if ": " in line and "_target_" not in line]
            assert [line for line in keys if "#" not in line] == []


@pytest.mark.parametrize("experiment", [path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml")])
def test_experiments_compose(experiment: str) -> None:
    load_config([f"experiment={experiment}"])


@pytest.mark.parametrize("others", [[], ["data=synthetic"], ["experiment=record"], ["experiment=quickstart"]])
def test_more_classes_never_overwrite_the_model_of_the_others(others: list[str]) -> None:
    config = load_config(["classes=germany", *others])
    assert config.training.drawn
    assert config.training.drawn.signs == "germany"
    for other in (load_config(others), load_config()):
        assert config.ckpt_path != other.ckpt_path
        assert config.evaluation.reports_dir != other.evaluation.reports_dir
    # Otherwise, the model would be tested on drawings that it was trained on.
    assert config.training.drawn.seed != load_config(["data=synthetic"]).data.synthetic.seed


@pytest.mark.parametrize("section", ["training.drawn", "data.synthetic"])
def test_unknown_signs_are_refused(section: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}.signs: .*'gtsrb' or 'germany'"):
        load_config(["classes=germany", "data=synthetic", f"{section}.signs=france"])


def test_the_default_classes_change_nothing() -> None:
    assert load_config(["classes=gtsrb"]) == load_config()


def test_the_error_for_broken_yaml_has_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CONFIG_DIR, tmp_path / "configshydra")
    (tmp_path / "configshydra/training/default.yaml").write_text("epochs: [1\n")
    monkeypatch.setattr("src.mlops.config.CONFIG_DIR", tmp_path / "configshydra")
    with pytest.raises(ConfigError, match=r"while parsing a flow sequence.*default\.yaml"):
        load_config()


def test_the_service_finds_the_trained_model() -> None:
    assert load_config().ckpt_path == ROOT / LATEST_FILES[1]


@pytest.mark.parametrize(
    "value", ["~/x", "/a (b)/x", "/a,b/x", "/a=b/x", "/it's", '/"a"', "/a#b", "{x}", "[a", "C:\\a (b)\\", "/a=\\\\"]
)
def test_the_error_for_special_characters_has_the_quoted_override(value: str) -> None:
    with pytest.raises(ConfigError, match="quotes") as raised:
        load_config([f"run_dir={value}"])
    assert "hydra" not in str(raised.value).replace("configshydra", "")
    advice = re.search(r"(?:Write |around it: )(.*?)\.(?: To run|$)", str(raised.value))
    assert advice
    [override] = shlex.split(advice[1])  # as a shell reads it
    assert load_config([override]).run_dir == ROOT / Path(value).expanduser()


@pytest.mark.parametrize("key", ["project", "entity"])
def test_only_wandb_takes_a_project(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"tracking: {key} is not used with backend=tensorboard.*tracking=wandb"):
        load_config(["tracking=tensorboard", f"tracking.{key}=signs"])


def test_the_items_of_a_list_are_quoted() -> None:
    with pytest.raises(ConfigError, match=r"Write 'cloud\.train\.options=\[\"data=synthetic\",\"seed=1\"\]'"):
        load_config(["cloud.train.options=[data=synthetic, seed=1]"])


def test_a_long_value_is_shortened() -> None:
    with pytest.raises(ConfigError, match=r"^seed: ") as raised:
        load_config([f"seed=[{','.join(map(str, range(1000)))}]"])
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["data.raw_dir={0}", "data.processed_dir={0}"], r"data\.raw_dir and data\.processed_dir"),
        (["data.raw_dir={0}", "data.processed_dir={0}/../link"], r"data\.raw_dir and data\.processed_dir"),
        (["data.raw_dir={0}", "evaluation.reports_dir={0}"], r"data\.raw_dir and evaluation\.reports_dir"),
        (["run_dir={0}", "data.processed_dir={0}"], r"data\.processed_dir and run_dir"),
        (["data.raw_dir={0}/drawn", "data.processed_dir={0}", "experiment=record"], r"data\.raw_dir and .*/drawn"),
    ],
)
def test_folders_with_different_purposes(overrides: list[str], keys: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    with pytest.raises(ConfigError, match=rf"{keys}.* must be different folders"):
        load_config([override.format(folder) for override in overrides])
    assert list(folder.iterdir()) == []


def test_reports_may_be_next_to_prepared_data_or_a_run() -> None:
    load_config(["data.processed_dir=data/report", "evaluation.reports_dir=data/report"])
    load_config(["run_dir=models/one", "evaluation.reports_dir=models/one"])
