"""`python -m workflow_core.cli` is the command `workflow`."""

from __future__ import annotations

import sys

from workflow_core.cli import main

sys.exit(main())
