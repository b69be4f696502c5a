"""The public names of the library, and the modules that export them."""

from __future__ import annotations

import aioencrypt
from tools import api_page

MODULES = (aioencrypt, *api_page.MODULES)
NAMES: dict[str, object] = {name: getattr(module, name) for module in MODULES for name in module.__all__}
