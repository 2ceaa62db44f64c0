"""SimCLR as a scikit-learn transformer."""

from sklearn_simclr._classifier import SimCLRClassifier
from sklearn_simclr._transformer import SimCLRTransformer

__all__ = ["SimCLRClassifier", "SimCLRTransformer"]
__version__ = "0.2.0"
