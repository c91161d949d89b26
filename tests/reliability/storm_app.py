"""The storm's workflows as an app of the command line: ``workflow worker --app tests.reliability.storm_app:engine``.

``STORM_DIRECTORY`` is where its witness lies, and ``STORM_SETTINGS`` are settings of the engine, as JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.reliability.storm_workflows import make_engine

engine = make_engine(Path(os.environ["STORM_DIRECTORY"]), **json.loads(os.environ["STORM_SETTINGS"]))
