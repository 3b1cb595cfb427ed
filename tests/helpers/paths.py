"""Where things lie in the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "studies" / "demo"
DEMO_TASKS = DEMO / "tasks"
LANDSCAPE = DEMO / "landscape.npz"
