"""The settings of alerts and hooks: whom syncd tells, and what it never shows."""

import json

import pytest

from syncd.config import loading
from syncd.exceptions import ConfigError

TOKEN = "T0p-s3cret-token"
FOLDER = '[[folders]]\npath = "drop"\n'


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setattr("syncd.config.locations.SYSTEM_FILE", tmp_path / "etc/syncd.toml")

    def run(toml, env=None):
        (tmp_path / "syncd.toml").write_text(toml + FOLDER)
        environ = {"HOME": str(tmp_path), "AYMARA_AI_API_KEY": "sk-0123456789"} | (env or {})
        return loading.load(config=None, environ=environ, working_directory=tmp_path)

    return run


def test_hooks_have_names_and_programs_are_found_beside_the_file(load, tmp_path):
    config = load(
        '[[hooks]]\non = "synced"\ncommand = ["bin/tell", "a"]\n'
        '[[hooks]]\non = "failed"\nname = "synced-2"\ncommand = ["true"]\n'
        '[[hooks]]\non = "synced"\nurl = "https://h/x"\n'
        '[alerts]\ncommand = ["no-such-program"]\n'
    )
    assert [hook.name for hook in config.hooks] == ["synced", "synced-2", "synced-3"]
    assert config.hooks[0].command == (f"{tmp_path}/bin/tell", "a")
    assert config.hooks[1].command == ("true",)
    about = "that this user may run; install it, or name its path"
    assert config.warnings == (
        f"[alerts] command: there is no program no-such-program {about}",
        f"[[hooks]] number 1: there is no program {tmp_path}/bin/tell {about}",
    )


def test_the_environment_can_hold_all_of_it(load):
    config = load(
        "",
        {
            "SYNCD_HOOKS": json.dumps([{"on": "deleted", "url": f"https://h/{TOKEN}"}]),
            "SYNCD_ALERTS__COMMAND": '["true", "x"]',
            "SYNCD_ALERTS__PING_URL": f"https://user:{TOKEN}@h/ping",
            # A syncd that a hook's command calls is told of no misspelled variable.
            "SYNCD_HOOK_PATH": "x",
        },
    )
    assert config.hooks[0].url.get_secret_value() == f"https://h/{TOKEN}"
    assert config.alerts.command == ("true", "x")
    assert config.warnings == ()


def test_nothing_that_may_hold_a_token_is_shown(load):
    config = load(
        f'[[hooks]]\non = "synced"\ncommand = ["true", "{TOKEN}"]\n'
        f'[[hooks]]\non = "synced"\nurl = "https://h/{TOKEN}"\n'
        f'[alerts]\nwebhook = "https://h/?{TOKEN}"\nping_url = "https://h/{TOKEN}"\n'
        f'command = ["true", "{TOKEN}"]\n'
    )
    for shown in (repr(config), str(config.hooks), repr(config.alerts)):
        assert TOKEN not in shown
    hidden = list(config.secrets())
    assert {f"https://h/{TOKEN}", f"https://h/?{TOKEN}", TOKEN} <= set(hidden)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[alerts]\nwebhook = "mail:x"', "[alerts] webhook: must be a URL such as https://"),
        (
            '[alerts]\nwebhook = "https://h[::]x/"',
            "[alerts] webhook: must be a URL such as https://",
        ),
        ('[alerts]\nping_url = "https://h/T0p-s3cret-token#x"', "without a fragment"),
        ('[alerts]\ncommand = "tell"', "[alerts] command: should be a list"),
        ('[alerts]\ncommand = [""]', "[alerts] command: must begin with a program"),
        ('[[hooks]]\non = "synced"', "[[hooks]] number 1: a hook needs either a command or a url"),
        ('[[hooks]]\non = "synced"\nurl = "https://h/T0p-s3cret-token"\ncommand = ["x"]', "either"),
        ('[[hooks]]\non = "sent"\nurl = "https://h"', "number 1 on: should be 'synced', 'failed'"),
        ('[[hooks]]\non = "synced"\nurl = "https://h"\nfolder = "x"', "unknown setting; known are"),
        ('[hooks]\non = "synced"', "in a file each hook is a table of its own: [[hooks]]"),
        (
            '[alerts]\nwebhook = "http://chat.lan/T0p-s3cret-token"',
            "[alerts] webhook: what is told would go to chat.lan in clear text",
        ),
        (
            2 * '[[hooks]]\non = "synced"\nname = "a"\nurl = "https://h"\n',
            "2 hooks have the name 'a'; give each its own name",
        ),
    ],
)
def test_a_wrong_target_says_where_and_what_is_right(load, toml, said):
    with pytest.raises(ConfigError) as raised:
        load(f"{toml}\n")
    assert said in str(raised.value)
    assert TOKEN not in str(raised.value)


def test_clear_text_is_for_this_machine_unless_it_is_allowed(load):
    url = 'webhook = "http://{}/x"\n'
    assert load(f"[alerts]\n{url.format('127.0.0.1:1')}").alerts.webhook
    assert load(f"[alerts]\n{url.format('localhost')}").alerts.webhook
    assert load(f"[api]\nallow_cleartext = true\n[alerts]\n{url.format('chat.lan')}").alerts.webhook
