"""``config.json``: a workflow's environment, variables and secrets, resolved when they are used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import pydantic
import pydantic_core
from pydantic import Field

from workflow_core.arguments import named_workflow
from workflow_core.errors import ConfigurationError, MissingConfigurationError, ValidationError
from workflow_core.models import Model

if TYPE_CHECKING:
    from pathlib import Path

    from workflow_core.database.layout import RuntimeLayout
    from workflow_core.secrets import Secrets

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Configurations", "ContextConfig", "WorkflowConfig"]

_REFERENCE: Final = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_NOT_A_REFERENCE: Final = (
    'a secret must be written as "env:NAME", where NAME is the environment variable that holds it, never as the value '
    "itself"
)
_SecretName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")]
_VariableName = Annotated[str, Field(min_length=1)]


class WorkflowConfig(Model):
    """What ``config.json`` holds.

    Attributes:
        environment: What the workflow runs in, such as ``"production"``; a name of your own choice.
        variables: Texts by name.
        secrets: For each secret ``env:NAME``: the environment variable to read it from.
    """

    environment: str = Field(default="development", min_length=1)
    variables: dict[_VariableName, str] = Field(default_factory=dict)
    secrets: dict[_SecretName, str] = Field(default_factory=dict)

    def __init__(self, /, **data: Any) -> None:  # noqa: ANN401 - pydantic's own signature
        try:
            super(Model, self).__init__(**data)
        except pydantic.ValidationError as error:
            raise ValidationError.from_pydantic("WorkflowConfig", error, with_input=False) from None

    @pydantic.field_validator("secrets")
    @classmethod
    def _references(cls, secrets: dict[str, str]) -> dict[str, str]:
        wrong = [name for name, value in secrets.items() if not _REFERENCE.fullmatch(value)]
        if wrong:
            raise pydantic_core.PydanticCustomError(
                "literal_secret", "{names}: {reason}", {"names": ", ".join(wrong), "reason": _NOT_A_REFERENCE}
            )
        return secrets


@dataclass(frozen=True, slots=True)
class _Values:
    """A configuration in force: that of the file, with what `configure` changed."""

    environment: str
    variables: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)


class Configurations:
    """The configurations of an engine's workflows.

    Args:
        layout: Where the files lie; ``None`` for a store without a directory, whose workflows have the defaults.
        secrets: Is told of each secret that is resolved.
    """

    def __init__(self, layout: RuntimeLayout | None, secrets: Secrets) -> None:
        self._layout = layout
        self._secrets = secrets
        self._changes: dict[str, _Values] = {}
        self._read: dict[str, tuple[tuple[int, ...], WorkflowConfig]] = {}
        self._prepared: set[str] = set()

    def configure(
        self,
        workflow_name: str,
        environment: str | None,
        variables: Mapping[str, str] | None,
        secrets: Mapping[str, str] | None,
    ) -> None:
        """Change a configuration in memory; see `workflow_core.WorkflowEngine.configure`."""
        named_workflow(workflow_name)
        names = dict.fromkeys(secrets, "env:NAME") if isinstance(secrets, Mapping) else secrets
        given = {"environment": environment, "variables": variables, "secrets": names}
        WorkflowConfig(**{part: value for part, value in given.items() if value is not None})
        if secrets is not None and not all(isinstance(value, str) for value in secrets.values()):
            raise ValidationError(f'Workflow "{workflow_name}": the values of secrets must be strings')
        before = self._changes.get(workflow_name, _Values("", {}, {}))
        self._changes[workflow_name] = replace(
            before,
            environment=environment or before.environment,
            variables={**before.variables, **(variables or {})},
            secrets={**before.secrets, **(secrets or {})},
        )
        self._prepared.discard(workflow_name)

    def succeed(self, other: Configurations) -> None:
        """Take over what was configured in memory in another engine; later changes are those of one alone."""
        self._changes = dict(other._changes)
        self._prepared.clear()

    def prepare(self, workflow_name: str) -> None:
        """Get to know a workflow's secrets before anything of it is stored, whether it will use them or not."""
        if workflow_name in self._prepared:
            return
        self._prepared.add(workflow_name)
        try:
            secrets = self.values(workflow_name).secrets
        except ConfigurationError:
            return  # whoever uses the configuration is told
        for name, written in secrets.items():
            value = _resolved(written)
            if value:
                self._secrets.learn(name, value)

    def where(self, workflow_name: str) -> str:
        """Tell where a workflow is configured, for people to read."""
        if self._layout is None:
            return f'the configuration of workflow "{workflow_name}" in memory (configure())'
        return str(self._layout.config(workflow_name))

    def values(self, workflow_name: str) -> _Values:
        """Return what is in force now.

        Raises:
            ConfigurationError: The file is wrong.
        """
        config = (
            _DEFAULT if self._layout is None else self._from_file(workflow_name, self._layout.config(workflow_name))
        )
        changes = self._changes.get(workflow_name)
        if changes is None:
            return _Values(config.environment, config.variables, config.secrets)
        return _Values(
            changes.environment or config.environment,
            {**config.variables, **changes.variables},
            {**config.secrets, **changes.secrets},
        )

    def secret(self, workflow_name: str, name: str) -> str:
        """Resolve a secret.

        Raises:
            ConfigurationError: It is not configured, or its environment variable is not set.
        """
        written = self.values(workflow_name).secrets.get(name)
        if written is None:
            raise self.missing(workflow_name, "secret", name, f'add "{name}": "env:NAME" to "secrets" there')
        value = _resolved(written)
        if not value:
            raise ConfigurationError(
                f'Workflow "{workflow_name}": the secret {name} is read from the environment variable '
                f"{written.removeprefix('env:')}, which is not set, or empty; set it for this process"
            )
        return self._secrets.learn(name, value)

    def missing(self, workflow_name: str, kind: str, name: str, advice: str) -> MissingConfigurationError:
        """Return the error of a name that is not configured."""
        return MissingConfigurationError(
            f'Workflow "{workflow_name}" has no {kind} {name!r:.200} in {self.where(workflow_name)}; {advice}'
        )

    def _from_file(self, workflow_name: str, path: Path) -> WorkflowConfig:
        try:
            found = path.stat()
            version = (found.st_mtime_ns, found.st_size, found.st_ino)
            read = self._read.get(workflow_name)
            if read is None or read[0] != version:
                read = self._read[workflow_name] = version, _parsed(path)
        except FileNotFoundError:
            return _DEFAULT
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot read this file: {error.strerror}") from error
        return read[1]


_DEFAULT = WorkflowConfig()


def _parsed(path: Path) -> WorkflowConfig:
    try:
        data = pydantic_core.from_json(path.read_bytes())
    except ValueError as error:
        raise ConfigurationError(f"{path}: this is not JSON: {error}; correct the file") from None
    if not isinstance(data, dict):
        raise ConfigurationError(
            f'{path}: the file must hold an object with "environment", "variables" and "secrets"; correct the file'
        )
    try:
        return WorkflowConfig(**data)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors)
        raise ConfigurationError(f"{path}: {wrong}; correct the file") from None


def _resolved(written: str) -> str:
    reference = _REFERENCE.fullmatch(written)
    return written if reference is None else os.environ.get(reference[1], "")


class ContextConfig:
    """A workflow's configuration, as its handler sees it: read when it is used.

    A change of ``config.json`` or of an environment variable is seen at the next use, and is not recorded: read what
    decides about the course of a workflow in a step, so that a replay finds the same.
    """

    __slots__ = ("_configurations", "_workflow_name")

    def __init__(self, configurations: Configurations, workflow_name: str) -> None:
        self._configurations = configurations
        self._workflow_name = workflow_name

    def __repr__(self) -> str:
        return f"<configuration of {self._workflow_name} in {self._configurations.where(self._workflow_name)}>"

    @property
    def environment(self) -> str:
        """What the workflow runs in, such as ``"production"``.

        Raises:
            ConfigurationError: ``config.json`` is wrong.
        """
        return self._configurations.values(self._workflow_name).environment

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables by name; a name that is not there is a `MissingConfigurationError`."""
        return _Variables(self._configurations, self._workflow_name)

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets by name, read from the environment at each use; they never show when this is printed."""
        return _SecretValues(self._configurations, self._workflow_name)


class _Variables(Mapping[str, str]):
    _kind = "variable"

    def __init__(self, configurations: Configurations, workflow_name: str) -> None:
        self._configurations = configurations
        self._workflow_name = workflow_name

    def _names(self) -> Mapping[str, str]:
        return self._configurations.values(self._workflow_name).variables

    def __getitem__(self, name: str) -> str:
        value = self._names().get(name)
        if value is None:
            raise self._configurations.missing(self._workflow_name, "variable", name, 'add it to "variables" there')
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        return f"<{self._kind}s of {self._workflow_name}: {', '.join(self) or 'none'}>"


class _SecretValues(_Variables):
    _kind = "secret"

    def _names(self) -> Mapping[str, str]:
        return self._configurations.values(self._workflow_name).secrets

    def __getitem__(self, name: str) -> str:
        return self._configurations.secret(self._workflow_name, name)
