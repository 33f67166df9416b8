"""Image networks, one file per family.

Importing this package imports all of its files, which registers the networks.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
