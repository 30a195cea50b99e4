"""The font that characters are compared in: DejaVu Sans, which matplotlib carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from attacks.resources.base import Place, Resource


class FontFile(Resource):
    """The file in the installed matplotlib, found without importing it."""

    name = "dejavu-sans"
    label = "matplotlib"

    @property
    def expected(self) -> str:
        """See ``Resource``."""
        return "the font DejaVu Sans in the package matplotlib"

    @property
    def command(self) -> str:
        """See ``Resource``."""
        return "pip install matplotlib"

    def is_available(self, data_dir: str | Path | None) -> bool:
        """See ``Resource``."""
        return self.locate(data_dir) is not None

    def locate(self, data_dir: str | Path | None) -> Place | None:
        """See ``Resource``. Writes nothing."""
        spec = importlib.util.find_spec("matplotlib")
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            font = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
            if font.is_file():
                return font, "package"
        return None
