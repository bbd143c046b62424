"""What the package's page shows: the README with links that lead somewhere from there.

Where the package is built by a workflow, the environment says which repository that is; links and pictures are made
absolute and the project's addresses are given. Elsewhere no address is known: pictures go, links keep their text.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?://)([^)\s]+)\)\n*")
LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)([^)\s]+)\)")


class CustomMetadataHook(MetadataHookInterface):
    """Fills in `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = repository_of(os.environ)
        ref = os.environ.get("GITHUB_REF_NAME", "HEAD")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(readme, repository, ref)}
        metadata["urls"] = addresses(repository)


def repository_of(environment: Any) -> str | None:
    """Address of the repository, if the environment knows it."""
    server, name = environment.get("GITHUB_SERVER_URL"), environment.get("GITHUB_REPOSITORY")
    return environment.get("MODULA_OPTAX_REPOSITORY") or (f"{server}/{name}" if server and name else None)


def addresses(repository: str | None) -> dict[str, str]:
    """Addresses of the project, by what is there."""
    if repository is None:
        return {}
    parts = {
        "Source": "",
        "Issues": "/issues",
        "Changelog": "/blob/HEAD/CHANGELOG.md",
        "Documentation": "/tree/HEAD/docs",
    }
    return {name: repository + part for name, part in parts.items()}


def absolute(readme: str, repository: str | None, ref: str) -> str:
    """The README with absolute links and pictures, or without them where there is no address."""
    readme = re.sub(r"<!--.*?-->\n*", "", readme, flags=re.DOTALL)
    if repository is None:
        return LINK.sub(r"\1", PICTURE.sub("", readme))
    readme = PICTURE.sub(rf"![\1]({repository}/raw/{ref}/\2)\n\n", readme)
    return LINK.sub(rf"[\1]({repository}/blob/{ref}/\2)", readme)
