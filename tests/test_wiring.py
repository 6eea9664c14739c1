"""No setting gets lost on its way to the part that needs it."""

from dataclasses import asdict

from syncd.components import opened
from syncd.config import loading
from syncd.config.settings import ProcessingSettings


def test_each_setting_of_processing_reaches_the_poller_and_the_one_that_the_deleter_asks(tmp_path):
    given = {name: 7.0 + n for n, name in enumerate(ProcessingSettings.model_fields)}
    (tmp_path / "drop").mkdir()
    (tmp_path / "syncd.toml").write_text(
        "\n".join(
            (
                f'folders = [{{path = "{tmp_path / "drop"}"}}]',
                f'state.directory = "{tmp_path / "state"}"',
                *(f"processing.{name} = {value}" for name, value in given.items()),
            )
        )
    )
    config = loading.load(
        config=None,
        environ={"HOME": str(tmp_path), "AYMARA_AI_API_KEY": "sk-test"},
        working_directory=tmp_path,
    )
    with opened(config) as parts:
        for poller in (parts.poller, parts.deleter.ask.__self__):
            assert set(given.values()) <= set(asdict(poller.options).values())
