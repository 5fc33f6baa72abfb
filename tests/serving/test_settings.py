import re

import pytest

from fer_keras.errors import ConfigError, ModelError
from serving.model_paths import find_models
from serving.settings import RECEIVED_AT_ONCE, ServerConfig, config_from_environment, is_loopback


def test_a_network_is_let_in_with_a_token_only():
    with pytest.raises(
        ConfigError, match=r"192\.168\.1\.5 lets a network in, which needs a token; set --token or FER_KERAS_TOKEN"
    ):
        ServerConfig(host="192.168.1.5")
    assert ServerConfig(host="192.168.1.5", token="a" * 16).host == "192.168.1.5"
    assert ServerConfig(host="::1").token is None


def test_there_is_a_thread_for_every_endless_answer_of_every_source():
    """A viewer's picture and a listener's events are one each, a body is one; others must be served meanwhile."""
    config = ServerConfig(sources=("demo", "0", "film.mp4"), max_viewers=5)
    assert config.threads > 3 * (5 + 5) + RECEIVED_AT_ONCE


def test_the_largest_body_is_let_in_however_little_memory_all_may_take():
    assert ServerConfig(max_bodies_mb=1).bodies_bytes == ServerConfig().largest_body
    assert ServerConfig().bodies_bytes == 256 * 2**20


@pytest.mark.parametrize("token", ["", "short", "a" * 15, "ä" * 16, "a" * 15 + "\n"])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(token):
    with pytest.raises(ConfigError, match="16 or more plain characters; take this one: "):
        ServerConfig(token=token)


@pytest.mark.parametrize("token", [" " + "a" * 16, "a" * 16 + " ", " " * 16])
def test_a_token_that_begins_or_ends_with_a_blank_is_refused_since_no_header_brings_it(token):
    with pytest.raises(ConfigError, match="begins or ends with a blank"):
        ServerConfig(token=token)
    within = "a" * 8 + " " + "a" * 8
    assert ServerConfig(token=within).token == within


def test_the_token_that_is_proposed_can_be_given_on_the_command_line():
    from serving.app import build_parser

    for _ in range(1000):  # one of 64 would begin with -, if it could
        with pytest.raises(ConfigError) as refused:
            ServerConfig(host="192.168.1.5")
        token = re.search(r"for example to (\S+),", str(refused.value))[1]
        assert not token.startswith("-")
    assert build_parser().parse_args(["--token", token]).token == token


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]")),
        *((host, False) for host in ("192.168.1.5", "::", "localhost.evil.example", "10.0.0.1", "")),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(host, local):
    assert is_loopback(host) is local


def test_variables_fill_settings_and_arguments_win():
    environment = {
        "FER_KERAS_SOURCES": "demo, 0",
        "FER_KERAS_PORT": "9000",
        "FER_KERAS_BLUR": "1",
        "FER_KERAS_MAX_IMAGE_MB": "2.5",
        "PATH": "/bin",
    }
    config = config_from_environment(environment, port=9001)
    assert config == ServerConfig(sources=("demo", "0"), port=9001, blur=True, max_image_mb=2.5)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FER_KERAS_PROT", "1", "unknown variable FER_KERAS_PROT; the server knows FER_KERAS_SOURCES"),
        ("FER_KERAS_PORT", "many", "FER_KERAS_PORT must be a whole number, got 'many'"),
        ("FER_KERAS_BLUR", "perhaps", "FER_KERAS_BLUR must be 1 or 0"),
        ("FER_KERAS_PORT", "70000", "port must be 0 to 65535, got 70000"),
        ("FER_KERAS_DETECTOR", "eyes", "unknown detector 'eyes'; choose from haar, mtcnn"),
    ],
)
def test_a_variable_that_does_not_fit_is_named(variable, value, message):
    with pytest.raises(ConfigError, match=message):
        config_from_environment({variable: value})


def test_a_missing_model_is_told_with_those_that_are_there():
    with pytest.raises(ModelError, match="there is no model nobody.*ferplus-cnn"):
        find_models(["nobody"])


def test_the_shipped_model_is_taken_where_none_is_named():
    assert list(find_models([])) == ["ferplus-cnn"]


def test_two_models_of_one_name_are_refused(twin, tmp_path):
    import shutil

    shutil.copytree(twin, tmp_path / "twin")
    with pytest.raises(ConfigError, match="two models are named 'twin'"):
        find_models([str(twin), str(tmp_path / "twin")])
