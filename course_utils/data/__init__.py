"""Data of the course: bundled, downloaded on request or simulated, and splits without twins."""

from course_utils.data.digits import Mnist, load_mnist
from course_utils.data.files import DATA_DIR, SOURCES, Source, cache_dir, locate, sha256
from course_utils.data.moons import TwoMoons, make_two_moons, two_moons_log_prob
from course_utils.data.splits import Split, duplicate_groups, split_indices
from course_utils.data.wine import WINE_FEATURES, WineQuality, load_wine_quality

__all__ = [
    "DATA_DIR",
    "SOURCES",
    "WINE_FEATURES",
    "Mnist",
    "Source",
    "Split",
    "TwoMoons",
    "WineQuality",
    "cache_dir",
    "duplicate_groups",
    "load_mnist",
    "load_wine_quality",
    "locate",
    "make_two_moons",
    "sha256",
    "split_indices",
    "two_moons_log_prob",
]
