"""SimCLR as a scikit-learn transformer."""

from sklearn_simclr._classifier import SimCLRClassifier
from sklearn_simclr._transformer import SimCLRTransformer
from sklearn_simclr._version import __version__

__all__ = ["SimCLRClassifier", "SimCLRTransformer", "__version__"]
