"""Makes the shared tools of this folder importable by name, also from subprocesses' point of view."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
