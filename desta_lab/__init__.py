"""DeSTA Lab: train one small connector on one task, and watch tasks that were never trained emerge.

The names a notebook uses are loaded when they are first touched, so that `import desta_lab` takes
milliseconds, not the seconds that torch and transformers take.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# public name -> the module that defines it
_HOME: dict[str, str] = {
    "AskPanel": "desta_lab.views.panels",
    "AudioLLM": "desta_lab.model.audio_llm",
    "CheckpointPanel": "desta_lab.views.panels",
    "Clip": "desta_lab.clips",
    "Corpus": "desta_lab.clips",
    "Experiment": "desta_lab.experiments.experiment",
    "Inside": "desta_lab.experiments.inside",
    "FeaturePanel": "desta_lab.views.panels",
    "ListenPanel": "desta_lab.views.panels",
    "MapPanel": "desta_lab.views.panels",
    "Sweep": "desta_lab.experiments.sweep",
    "describe": "desta_lab.world.describe",
    "evaluate": "desta_lab.evaluation.evaluate",
    "get_preset": "desta_lab.model.presets",
    "plot_clips": "desta_lab.views.clip_figures",
    "progress_reporter": "desta_lab.views.progress",
    "read_audio": "desta_lab.audio",
    "run_quickstart": "desta_lab.experiments.quickstart",
    "setup": "desta_lab.course.setup",
    "show_players": "desta_lab.views.panel_base",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"module 'desta_lab' has no attribute {name!r}; it offers {', '.join(sorted(_HOME))}."
        )
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
