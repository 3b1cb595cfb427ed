"""Telling transformers' Auto classes of optlayers' models, without importing either.

`import optlayers` must stay light, and yet be enough for `AutoModelForCausalLM.from_pretrained` to
open a Llamba or a hybrid without `trust_remote_code`, whichever is imported first. So transformers
is told of a stand-in for each config class, which imports the real one, and with it torch, when a
checkpoint asks for it. This happens at once where transformers' Auto classes are loaded, and else
when they have been: a finder in front of `sys.meta_path` then runs `register` after the one module
that defines `AutoConfig`. It imports nothing and raises nothing there, so that neither import can
break, wait for or change the other; a reload of that module registers anew.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

AUTO = "transformers.models.auto.configuration_auto"
OWN = "optlayers_hybrid"
CONFIGS = {"llamba": "LlambaConfig", OWN: "HybridConfig"}

logger = logging.getLogger(__name__)


def install() -> None:
    """Register now or once transformers' Auto classes are loaded; a second call changes nothing."""
    if not any(_name(type(finder)) == _name(AutoFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AutoFinder())
    if AUTO in sys.modules:
        try:
            # Waits where another thread is in the midst of importing it.
            register(importlib.import_module(AUTO))
        except Exception as error:
            logger.debug("%s could not be imported: %s", AUTO, error)


def register(auto: ModuleType) -> None:
    """Tell `AutoConfig` of the stand-ins; auto: the module that defines it. Raises nothing.

    The real classes replace the stand-ins when `optlayers.models` is imported, which tells
    `AutoModelForCausalLM` too. A model type that another package has told of stays its own.
    """
    try:
        if OWN in auto.CONFIG_MAPPING:
            return  # it was told before
        for model_type, name in CONFIGS.items():
            if model_type not in auto.CONFIG_MAPPING:
                auto.AutoConfig.register(model_type, _StandIn(name, (), {}))
        _read_old_files(auto.AutoConfig)
    except Exception as error:
        logger.debug("optlayers' models are unknown to AutoConfig: %s", error)


class _StandIn(type):
    """A class that is, but for its names, another one of `optlayers.models`, imported when used."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _real(cls.__name__)(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(cls.__name__), name)


def _real(name: str) -> Any:
    return getattr(importlib.import_module("optlayers.models"), name)


def _read_old_files(auto_config: Any) -> None:
    """Let `AutoConfig` open what it refuses for want of a model type, if that is a Llamba.

    Published files may lack it. What it opens by itself is left to it.
    """
    plain = auto_config.__dict__["from_pretrained"].__func__

    def from_pretrained(cls: type, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        try:
            return plain(cls, pretrained_model_name_or_path, **kwargs)
        except ValueError:
            config = _old_config(pretrained_model_name_or_path, kwargs)
            if config is None:
                raise
            return config

    made: Any = functools.update_wrapper(from_pretrained, plain)
    auto_config.from_pretrained = classmethod(made)


def _old_config(where: Any, how: dict[str, Any]) -> Any:
    """The config of a Llamba whose file names no model type; None for all else."""
    how = {k: v for k, v in how.items() if k not in ("trust_remote_code", "code_revision")}
    try:
        data, _ = importlib.import_module("transformers").PreTrainedConfig.get_config_dict(
            where, **how
        )
        if "model_type" in data:
            return None
        families = importlib.import_module("optlayers.models.families")
        if families.model_type_of(data) != "llamba":
            return None
    except Exception as error:
        logger.debug("%s: whether it is a Llamba is unknown: %s", where, error)
        return None
    return _real("LlambaConfig").from_pretrained(where, **how)


class AutoFinder(MetaPathFinder):
    """Finds one module as the finders after it do, and has `register` run after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of `AUTO` with a loader that registers; None for every other module."""
        if fullname != AUTO or self not in sys.meta_path:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _ThenRegister(spec.loader)
                found: ModuleSpec = spec
                return found
        return None


class _ThenRegister(Loader):
    """A module's own loader, but for what comes after; the module keeps no trace of it."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader makes it."""
        made: ModuleType | None = self.loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then register."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _name(kind: type) -> tuple[str, str]:
    """Tells classes apart that a reload of this module has made anew."""
    return kind.__module__, kind.__qualname__
