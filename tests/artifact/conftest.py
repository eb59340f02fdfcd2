"""What the tests of artifacts can use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # adapted_models.py: tiny models, adapted and saved
