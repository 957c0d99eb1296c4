"""``dlc cache`` and ``dlc env``."""

import json

from dlc import config


def test_the_life_of_an_entry(dlc, linear, private_cache):
    assert "miss" in dlc("cache", "why", linear, "--threads", "3").output
    assert dlc("run", linear, "--threads", "3").exit_code == 0
    assert "hit" in dlc("cache", "why", linear, "--threads", "3").output
    differs = dlc("cache", "why", linear, "--threads", "4").output
    assert "options" in differs
    assert "executable" in dlc("cache", "ls").output
    assert "every entry is whole" in dlc("cache", "verify").output

    entry = next(private_cache.glob("executable/*"))
    entry.write_bytes(entry.read_bytes()[:-1])
    damaged = dlc("cache", "verify")
    assert damaged.exit_code == 1
    assert entry.name in damaged.output
    assert dlc("cache", "verify", "--remove").exit_code == 0
    assert not entry.exists()

    assert dlc("cache", "prune", "--all").exit_code == 0
    assert not list(private_cache.glob("*/*.dlc"))


def test_env_tells_options_even_wrong_ones(dlc, monkeypatch):
    monkeypatch.setenv("DLC_SPIN", "a while")
    result = dlc("env", "--json", "-")
    facts = json.loads(result.stdout)
    assert set(facts["options"]) == set(config.OPTIONS)
    assert facts["options"]["spin"].startswith("wrong: ")
    assert "numpy" in facts["environment"]
    assert dlc("env").exit_code == 0
