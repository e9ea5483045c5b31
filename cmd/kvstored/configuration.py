"""Where the values of flags come from, and the configuration they make.

The command line beats the environment; a configuration file, where there is one, is used alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kvstore.server.config import INITIAL_CORRUPT_CHECK, Config, ConfigError
from kvstore.server.durations import parse_duration
from kvstored.flags import FLAGS, Flag, UnknownFlag

HOUR: Final = 3600.0
CONFIG_FILE: Final = "config-file"
PREFIX: Final = "ETCD_"

# Sections of etcd's configuration file whose keys are flags under another name.
_SECTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "client-transport-security": {
        "cert-file": "cert-file",
        "key-file": "key-file",
        "client-cert-file": "client-cert-file",
        "client-key-file": "client-key-file",
        "client-cert-auth": "client-cert-auth",
        "trusted-ca-file": "trusted-ca-file",
        "auto-tls": "auto-tls",
        "allowed-hostname": "client-cert-allowed-hostname",
    },
    "peer-transport-security": {
        "cert-file": "peer-cert-file",
        "key-file": "peer-key-file",
        "client-cert-file": "peer-client-cert-file",
        "client-key-file": "peer-client-key-file",
        "client-cert-auth": "peer-client-cert-auth",
        "trusted-ca-file": "peer-trusted-ca-file",
        "auto-tls": "peer-auto-tls",
        "allowed-cn": "peer-cert-allowed-cn",
        "allowed-hostname": "peer-cert-allowed-hostname",
        "skip-client-san-verification": "peer-skip-client-san-verification",
    },
}


class ConfigFileError(Exception):
    """The configuration file cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Configured:
    """A configuration, and what is worth a line in the log about how it came to be."""

    config: Config
    notices: tuple[str, ...] = ()


def configure(arguments: Mapping[str, str], environ: Mapping[str, str], config_file: str | None) -> Configured:
    """The configuration of a member. arguments: texts of the flags on the command line, by name.

    Raises ConfigError, ConfigFileError or UnknownFlag.
    """
    path = config_file or environ.get(_variable(CONFIG_FILE))
    if path:
        ignored = sorted(arguments) + [name for name, flag in FLAGS.items() if environ.get(flag.variable)]
        notices = [f"used the configuration file alone, not {', '.join(dict.fromkeys(ignored))}"] if ignored else []
        return Configured(build_config(read_file(Path(path))), tuple(notices))
    from_environment = {name: environ[flag.variable] for name, flag in FLAGS.items() if environ.get(flag.variable)}
    return Configured(
        build_config({**from_environment, **arguments}),
        tuple(_notices(arguments, from_environment, environ)),
    )


def _variable(name: str) -> str:
    return PREFIX + name.upper().replace("-", "_")


def _notices(
    arguments: Mapping[str, str], from_environment: Mapping[str, str], environ: Mapping[str, str]
) -> Iterable[str]:
    for name in arguments.keys() & from_environment.keys():
        if arguments[name] != from_environment[name]:
            yield f"--{name} of the command line was used, not {FLAGS[name].variable}"
    known = {flag.variable for flag in FLAGS.values()} | {_variable(CONFIG_FILE)}
    if unknown := sorted(name for name in environ if name.startswith(PREFIX) and name not in known):
        yield f"did not recognize {', '.join(unknown)}"


def read_file(path: Path) -> dict[str, str]:
    """Texts of the flags that a YAML file sets, by name.

    Its keys are names of flags, or etcd's two sections of TLS settings. A bare number for a duration is nanoseconds, as
    in etcd's file. Raises ConfigFileError if it is no such file, UnknownFlag for a key that is no flag.
    """
    import yaml  # here, for most members are configured without a file

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigFileError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except Exception as error:  # not only YAMLError: a value that is not what its tag says ends in any error
        raise ConfigFileError(f"the configuration file {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigFileError(f"the configuration file {path} is not a mapping of flags to values")
    texts: dict[str, str] = {}
    for key, value in content.items():
        if key in _SECTIONS and isinstance(value, dict):
            for inner, nested in value.items():
                _add(texts, path, _SECTIONS[key].get(inner, f"{key}.{inner}"), nested)
        else:
            _add(texts, path, str(key), value)
    return texts


def _add(texts: dict[str, str], path: Path, name: str, value: object) -> None:
    flag = FLAGS.get(name)
    if flag is None:
        raise UnknownFlag(name, f"in {path}")
    if isinstance(value, dict):
        raise ConfigFileError(f"{name} in {path} is a mapping, not a value")
    if value is not None:
        texts[name] = _text(flag, value)


def _text(flag: Flag, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, int) and flag.parse is parse_duration:
        return f"{value}ns"
    return str(value)


def build_config(given: Mapping[str, str]) -> Config:
    """The configuration that flags make. given: texts of those that are set, by name.

    Raises ConfigError for a value that is wrong or asks for what this version cannot do.
    """
    fields: dict[str, Any] = {}
    for name, text in given.items():
        flag = FLAGS[name]
        if not flag.supported:
            _refuse_unless_default(flag, text)
        elif not (flag.zero_is_default and text == ""):
            value = flag.read(text)
            if value or not flag.zero_is_default:
                fields[flag.field] = value
    _take_former_names(fields)
    if (logger := fields.pop("logger", "zap")) != "zap":
        raise ConfigError("logger", logger, "must be zap")
    if "listen_client_urls" in fields and "advertise_client_urls" not in fields:
        fields["advertise_client_urls"] = ()
    if "auto_compaction_retention" in fields:
        mode = fields.get("auto_compaction_mode", "periodic")
        fields["auto_compaction_retention"] = _retention(fields["auto_compaction_retention"], mode)
    return Config(**fields)


def _take_former_names(fields: dict[str, Any]) -> None:
    """Put what was given under a name of etcd 3.5 under the present one, which wins where both are given."""
    if (seconds := fields.pop("experimental_corrupt_check_time", None)) is not None:
        fields.setdefault("corrupt_check_time", seconds)
    if fields.pop("experimental_initial_corrupt_check", False):
        fields["feature_gates"] = fields.get("feature_gates", frozenset()) | {INITIAL_CORRUPT_CHECK}


def _refuse_unless_default(flag: Flag, text: str) -> None:
    if text == "" or flag.read(text) == flag.parse(flag.default):
        return
    raise ConfigError(flag.name, text, "is not supported yet; leave it out")


def _retention(text: str, mode: str) -> float:
    """Seconds or revisions, as etcd reads them: a bare number is hours in mode periodic."""
    flag = FLAGS["auto-compaction-retention"]
    if text.strip().isdecimal():
        return int(text) * (HOUR if mode == "periodic" else 1)
    if mode == "revision":
        raise ConfigError(flag.name, text, "is a number of revisions in --auto-compaction-mode=revision")
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(flag.name, text, str(error)) from error
